"""`explore`: what it must find, near misses that it must not claim, and bad input.

Models and what is true of them: experiments/validation/planted.py, whose error rate is measured by
experiments/validation/explore.py.
"""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import MODELS
from stated import judged, outcomes

import popgd
from popgd.claims.measured import Reading
from popgd.descent.recursion import log_grid
from popgd.explore import courses, words
from popgd.explore.invariants import forms
from popgd.papers import committee, linear_network
from popgd.problem.number import Number
from popgd.runs.command import main

EXPONENT = 1e-3  # found to 1e-5 and better; the next fraction is 0.04 away


def explored(model, **how):
    return popgd.explore(MODELS[model].problem(), **how)


def estimates(found, kind):
    """The conjectures of one kind: their numbers, by name."""
    of = {}
    for each in found.conjectures:
        if each.line.startswith(f"claims.{kind}("):
            of[each.line.rpartition('name="')[2].removesuffix('")')] = each.value
    return of


# --- words


def leaf(shape):
    return words.Leaf("w.P", "P", shape, 0)


@pytest.mark.parametrize(
    "mask, code",
    [
        (np.ones((2, 3), bool), ["w.P"]),
        (~np.eye(3, 4, dtype=bool), ["w.P[~np.eye(3, 4, dtype=bool)]"]),
        (np.arange(6).reshape(2, 3) >= 3, ["w.P[1, :]"]),
        (np.array([[1, 1, 0], [1, 1, 0]], bool), ["w.P[:, :2]"]),
        (np.zeros((2, 2), bool), []),
    ],
)
def test_a_pattern_of_entries_is_the_code_that_reads_it(mask, code):
    found = list(words.patterns(leaf(mask.shape), mask.ravel()))
    assert [of for of, _ in found] == code


def test_every_pattern_reads_just_its_entries():
    draw = np.random.default_rng(0)
    for _ in range(50):
        mask = draw.random((3, 4)) < 0.5
        entries = {"P": jnp.arange(12.0).reshape(3, 4)}
        read = [
            float(x)
            for of, _ in words.patterns(words.Leaf("w['P']", "P", (3, 4), 0), mask.ravel())
            for x in np.ravel(words.read(of)(entries))
        ]
        assert sorted(read) == list(np.flatnonzero(mask))


@pytest.mark.parametrize(
    "value, error, said",
    [
        (0.5 + 1e-6, 1e-5, "1/2"),
        (1 / 3, 1e-9, "1/3"),
        (-2 / 3, 1e-6, "-2/3"),
        (2.0, 1e-6, "2"),
        (0.51, 1e-6, "0.51"),
        (0.5001, 1e-5, "0.5001"),  # next to 1/2, beyond its error
        (0.5, 0.01, "0.5"),  # some fraction is always that near
    ],
)
def test_an_exponent_is_a_fraction_only_where_its_error_singles_it_out(value, error, said):
    assert words.exponent(value, error) == said


def test_forms_are_the_matrices_of_their_code():
    weights = {"A": jnp.zeros((2, 3)), "b": jnp.zeros(3), "c": jnp.zeros(())}
    flat, tree = jax.flatten_util.ravel_pytree(weights)
    w = np.random.default_rng(0).normal(size=flat.size)
    for same in forms(weights):
        for of, _, matrices in same:
            wanted = np.ravel(words.read(of)(tree(jnp.asarray(w))))
            assert np.einsum("cij,i,j->c", matrices, w, w) == pytest.approx(wanted, abs=1e-12)


# --- courses, of closed forms


def goes(x, dx):
    t = log_grid(10**10, 8).astype(float)
    value = x(t)
    reading = Reading(t, Number(value, 1e-15 * abs(value)))
    return courses.course(reading, dx(t), float(np.max(abs(value))))


@pytest.mark.parametrize(
    "x, dx, kind, value",
    [
        (lambda t: (1 + t) ** 0.5, lambda t: (1 + t) ** -0.5 / 2, "power", 0.5),
        (lambda t: (1 + t) ** (1 / 3), lambda t: (1 + t) ** (-2 / 3) / 3, "power", 1 / 3),
        (lambda t: (1 + t) ** -0.5, lambda t: -((1 + t) ** -1.5) / 2, "power", -0.5),
        (lambda t: np.log(2 + t), lambda t: 1 / (2 + t), "logarithm", 1.0),
        (lambda t: 2 - np.exp(-t), lambda t: np.exp(-t), "limit", 2.0),
        (lambda t: 2 - (1 + t) ** -0.4, lambda t: 0.4 * (1 + t) ** -1.4, "towards", 2.0),
    ],
)
def test_courses_of_closed_forms(x, dx, kind, value):
    found = goes(x, dx)
    assert found.kind == kind and abs(found.value - value) <= max(found.error, 1e-9)


@pytest.mark.parametrize(
    "x, dx",
    [
        (
            lambda t: (2 + t) ** 0.5 * np.log(2 + t),
            lambda t: (2 + t) ** -0.5 * (1 + np.log(2 + t) / 2),
        ),
        (lambda t: np.log(3 + t) ** 0.5, lambda t: 1 / (2 * (3 + t) * np.log(3 + t) ** 0.5)),
        (lambda t: 2 - 1 / np.log(3 + t), lambda t: 1 / ((3 + t) * np.log(3 + t) ** 2)),
        (
            lambda t: (1 + t) ** 0.5 + (1 + t) ** 0.48,
            lambda t: (1 + t) ** -0.5 / 2 + 0.48 * (1 + t) ** -0.52,
        ),
    ],
)
def test_logarithms_and_close_powers_are_not_told(x, dx):
    assert goes(x, dx).kind == "unknown"


# --- small models


def test_a_power_and_its_increments():
    found = explored("w like t^1/2", steps=10**8)
    assert estimates(found, "grows")["w"] == pytest.approx(0.5, abs=EXPONENT)
    # w^2 grows by 2 in a unit of time
    assert estimates(found, "increments_converge")["w"] == pytest.approx(2.0, abs=1e-3)
    assert repr(found).startswith("Exploration(") and "\n" not in repr(found)
    assert "claims.grows(lambda w: w['w'], like=1/2" in str(found)
    assert found._repr_html_().startswith("<pre>")


def test_a_logarithm_is_no_power():
    found = explored("w like log t", steps=10**8)
    assert "w" not in estimates(found, "grows")
    (w,) = [r for r in found.courses.every if r.name == "w"]
    assert w.course.kind == "logarithm" and w.course.value == pytest.approx(1.0, abs=1e-3)


def test_where_there_is_nothing_it_says_so():
    for model in ("noise alone", "no weight matters"):
        found = explored(model)
        assert found.nothing and "nothing was found that could be claimed" in str(found)


def test_a_broken_symmetry_is_told_and_claims_nothing():
    for model in ("a mirror, broken in the loss", "a mirror, broken in the law"):
        found = explored(model, steps=10**4)
        assert "s" not in estimates(found, "stays_zero")
        told = [t for t in found.structure.tested if not t.holds] or found.structure.notes
        assert told


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    ["two linear layers", "a saddle across a mirror", "a^2 b to 1", "a multiple of I",
     "a plateau at a saddle", "two layers, nearly linear", "nearly a multiple of I"],
)  # fmt: skip
def test_planted(model):
    import explore as validation

    row = validation.examined(MODELS[model])
    assert not row["missed"] and not row["false"]


@pytest.mark.slow
def test_lines_are_supported_when_they_are_pasted():
    """On other samples, in a theorem: of the flow, with the step size and steps of the search."""
    problem = MODELS["zero by a mirror"].problem()
    found = popgd.explore(problem, eta=0.1, steps=10**4)
    lines = [words.claim(line, problem) for line in found.lines]
    report = judged(problem, *lines, eta=0.1, flow=True, steps=10**4)
    assert set(outcomes(report).values()) == {"SUPPORTED"} and len(lines) >= 4


@pytest.mark.slow
def test_the_linear_network_balances_its_layers():
    found = popgd.explore(linear_network.problem((3.0, 2.0, 1.0), 4, 0.001))
    assert [q.name for q in found.conserved] == ["W1 W1^T - W2^T W2"]
    assert {"W1 off-diagonal", "W2 off-diagonal"} <= estimates(found, "stays_zero").keys()
    assert estimates(found, "at_rate")["W1"] == pytest.approx(2.0, abs=1e-6)


@pytest.mark.slow
def test_the_committee_waits_at_a_saddle():
    found = popgd.explore(committee.problem(2, 4, 0.001))
    loss = 2 / np.pi * (np.pi / 6 - 2 * np.arcsin(1 / 4))
    assert [f for f in found.fixed if f.falling and abs(f.loss - loss) < 1e-9]
    equal = popgd.explore(committee.problem(2, 4, 0.001, equal=True))
    assert equal.saddle and not any(f.falling for f in equal.fixed)


@pytest.mark.slow
@pytest.mark.parametrize("which, p", [("DISTANCE", 1 / 2), ("ITERATION", 1 / 3)])
def test_the_papers_own_theorems(which, p):
    """4.1: blocks that stay 0 or multiples of I, c = a b like t^1/2 (4.3: t^1/3), a saddle."""
    import power_method_problem as paper

    objective = {
        "DISTANCE": paper.SubspaceDistance(1), "ITERATION": paper.PowerIteration("normalised")
    }[which]  # fmt: skip
    found = popgd.explore(paper.problem(objective, paper.SPECTRUM))
    assert set(estimates(found, "multiple_of_identity")) == {"P[3:,:3]", "Q[:3,3:]"}
    assert {"P[:3,:]", "P[3:,3:]"} <= set(estimates(found, "stays_zero"))
    assert estimates(found, "grows")["P[3,0] Q[0,3]"] == pytest.approx(p, abs=EXPONENT)
    assert found.saddle


# --- bad input: one clear line


def test_what_is_no_problem_is_one_line():
    # As where nothing checks types
    unchecked = getattr(popgd.explore, "__wrapped__", popgd.explore)
    with pytest.raises(ValueError, match="explore takes a Problem, got int") as caught:
        unchecked(3)
    assert "\n" not in str(caught.value)
    problem = MODELS["a line"].problem()
    for how, said in (
        ({"eta": -1.0}, "eta=-1"),
        ({"steps": 0}, "steps=0"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(ValueError, match=said):
            unchecked(problem, **how)


SEVERAL = """
import jax
import jax.numpy as jnp
from popgd import Problem

loss = lambda w, x: (w - 1) ** 2 / 2
first = Problem(jnp.array(0.5), loss, jax.random.normal, exact=lambda w: loss(w, 0))
second = Problem(jnp.array(0.7), loss, jax.random.normal, exact=lambda w: loss(w, 0))
"""


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["theorem=several.py"], "holds several problems (first, second): name one"),
        (["theorem=4.1"], "Theorem 4.1 is not about a Problem"),
        (["resume=runs/x"], "resume=runs/x: explore=true judges nothing"),
        (["theorem=several.py", "-m"], "-m: explore=true judges nothing"),
        (["theorem=several.py:first", "batch=3"], "a Problem takes eta, steps, seed, samples"),
        ([], "no theorem was given"),
    ],
)
def test_words_that_do_not_go_with_it_are_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "several.py").write_text(SEVERAL)
    assert main([*arguments, "explore=true"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_the_command_line_prints_lines_that_are_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "several.py").write_text(SEVERAL)
    assert main(["theorem=several.py:second", "explore=true", "eta=0.1", "steps=1e4"]) == 0
    out = capsys.readouterr().out
    lines = [x.strip().rstrip(",") for x in out.splitlines() if x.strip().startswith("claims.")]
    assert any("claims.converges(lambda w: w, to=np.array(1.0)" in x for x in lines)
    for line in lines:
        ast.parse(line)
    (stored,) = tmp_path.glob("runs/explore-several.py-second-*")
    assert {file.name for file in stored.iterdir()} >= {"exploration.txt", "loss.png"}


def test_a_line_that_does_not_hold_is_not_told():
    """A limit that is a little off, on the path that it was read off."""
    from popgd.explore import conjecture, measuring, structure

    problem = MODELS["a line"].problem()
    found = structure.examine(problem, jax.random.key(0), 256)
    horizon = measuring.Horizon(0.1, 10**4, True, 0, 256)
    path = measuring.measured(problem, found, horizon, lambda *told: None)
    for to, held in (("2.0", True), ("2.001", False)):
        code = f"claims.converges(lambda w: w['w'], to=np.array({to}), name=\"w\")"
        assert conjecture.holds(code, path) == held
