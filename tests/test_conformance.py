"""`python -m popgd.conformance`: each promise can be seen broken, and popgd's theorems keep all."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import your_own_problem
from mutant import sizes
from mutants_exact import EXACT
from mutants_in_context import IN_CONTEXT
from mutants_inference import INFERENCE
from mutants_layers import LAYERS
from mutants_sampled import SAMPLED
from mutants_vocabulary import VOCABULARY
from test_stability import MUTANTS as BESIDE

from popgd import Option, Problem, about, claims, symmetry
from popgd.claims.evidence import estimated, known
from popgd.runs.conformance import PROMISES, conforms, main
from popgd.theorem.registry import theorems

ROOT = Path(your_own_problem.__file__).parent
QUICK = tuple(name for name in PROMISES if name != "killed and resumed")


def theorem(name, claim, **rest):
    """A theorem that keeps all promises but what is given, about a number that halves."""
    loss = lambda w, x: (w["w"] - 1.0) ** 2 / 4 + 0.0 * x
    start = {"w": jnp.array(3.0)}
    made = Problem(start, loss, lambda key: jax.random.normal(key),
                   exact=lambda w: (w["w"] - 1.0) ** 2 / 4,
                   symmetries=rest.pop("symmetries", []))  # fmt: skip
    given = {"source": "arXiv 0000.00000", "statement": "It converges.", "eta": 0.5, "steps": 300}
    of = (lambda shift: made) if "options" in rest else made
    return about(of, name, claims=[claim], **{**given, **rest})


def broken(made, promise, **values):
    (point,) = conforms(made, promises=[promise], **values)
    assert not point.holds
    return point.found


LIMIT = claims.converges("w", 1.0, "w")


def test_what_keeps_all_promises():
    false = theorem("own.false", claims.converges("w", 1.1, "w"))
    found = conforms(theorem("own.kept", LIMIT), {"converges-w": false}, promises=QUICK)
    assert [point.name for point in found if not point.holds] == []


def test_nothing_is_said():
    assert "source= is empty" in broken(theorem("own.told", LIMIT, source=" "), "told")


def test_a_symmetry_that_does_not_hold():
    turned = symmetry.signs("sign", 1, lambda s, w: {"w": s[0] * w["w"]})
    made = theorem("own.turned", LIMIT, symmetries=[turned])
    assert "sign" in broken(made, "symmetries")


def test_settings_that_are_shown_as_something_else():
    reader = lambda given: float(given) + isinstance(given, str)
    further = Option(1.0, reader, "one more where it is typed")
    made = theorem("own.typed", LIMIT, options={"shift": further})
    assert "shift=5 is typed as it is shown, and read as something else" in broken(
        made, "settings", shift=5
    )


def test_a_sample_that_is_not_declared():
    def claim(measured):
        yield estimated("drawn", "a mean", "here", measured=0.0, error=1e-3, resolution=0.1,
                        reason="samples")  # fmt: skip

    assert "name it in the theorem's sampled=" in broken(theorem("own.drawn", claim), "sampled ids")


def test_a_claim_that_cannot_be_refuted():
    def claim(measured):
        yield known("blind", "anything", "here", measured=np.nan, resolution=1.0, reason="none")

    assert "INCONCLUSIVE for a wrong" in broken(theorem("own.blind", claim), "wrong predictions")


@pytest.mark.parametrize(
    ("mutants", "said"),
    [
        ({}, "has none"),
        ({"converges-w": " "}, "a Theorem or a text was wanted"),
        ({"converges-w": theorem("own.true", LIMIT)}, "comes out SUPPORTED in its mutant"),
        ({"other": "why", "converges-w": "why"}, "no claim is called that"),
    ],
)
def test_mutants(mutants, said):
    (point,) = conforms(theorem("own.mutated", LIMIT), mutants, promises=["mutants"])
    assert not point.holds and said in point.found


FILE = '''"""A number that halves."""

import jax
import jax.numpy as jnp

from popgd import Problem, about, claims
from popgd.claims.evidence import known


def made(name, to, claim=None):
    loss = lambda w, x: (w["w"] - 1.0) ** 2 / 4 + 0.0 * x
    problem = Problem({{"w": jnp.array(3.0)}}, loss, lambda key: jax.random.normal(key),
                      exact=lambda w: (w["w"] - 1.0) ** 2 / 4)
    limit = claims.converges("w", to, "w")
    return about(problem, name, statement="It converges.", source="here", eta=0.5, steps=300,
                 claims=[limit, *([claim] if claim else [])])


def clock(measured):
    import time
    yield known("clock", "it is late", "here", measured=time.time(), resolution=1e99, reason="no")


THEOREM = made("own.halves", 1.0, {claim})
MUTANTS = {{"converges-w": made("own.false", 1.1), "clock": "a clock is always right"}}
'''


@pytest.mark.slow
def test_a_file_by_the_command(tmp_path, capsys):
    file = tmp_path / "halves.py"
    file.write_text(FILE.format(claim="None").replace(', "clock": "a clock is always right"', ""))
    assert main([str(file)]) == 0, capsys.readouterr()
    assert capsys.readouterr().out.count("holds") == len(PROMISES)
    file.write_text(FILE.format(claim="clock"))
    assert main([str(file)]) == 1
    assert "report.json is another one after a kill" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["theorem=9.9"], "unknown theorem 9.9"),
        (["4.1", "L"], "settings are NAME=VALUE"),
        (["4.1", "width=3"], "unknown setting width"),
    ],
)
def test_bad_input_is_one_line(capsys, words, said):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


#: What has a mutant in the lists that the mutation table is made of.
PLANTED = {
    id
    for mutant in (*EXACT, *IN_CONTEXT, *INFERENCE, *LAYERS, *SAMPLED, *VOCABULARY)
    if not mutant.survives
    for id in mutant.claims
}
PLANTED |= set().union(*(claims for *_, claims in BESIDE.values()))
#: Claims of the vocabulary have theirs in toys of the same kind.
KINDS = {id.partition("-")[0] for mutant in VOCABULARY for id in mutant.claims}


#: Claims by `agrees`, whose mutants have names of their own: end-line, end-off.
AGREES = {"plateau", "saddle", "half-rise"}


class Table(dict):
    """The lists of mutants as the MUTANTS of a file."""

    def get(self, id, default=None):
        name = id.split("@")[0]
        there = name in PLANTED | AGREES or name.partition("-")[0] in KINDS
        return "in the mutation table" if there else default


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(theorems()))
def test_popgds_own_theorems(name):
    # Of so few samples as the others take one claim could not tell
    more = {"samples": 2**17} if name == "4.3.stability" else {}
    found = conforms(name, Table(), promises=QUICK, **{**sizes(name), **more})
    assert [point for point in found if not point.holds] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(theorems()))
def test_popgds_own_theorems_go_on_after_a_kill(name):
    (point,) = conforms(name, promises=["killed and resumed"], **sizes(name))
    assert point.holds, point.found
