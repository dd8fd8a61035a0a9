"""Gradient descent in context: verdicts, reference values, mutants, bad input. Small runs, shared;
the longest are slow.
"""

import dataclasses
import json
from fractions import Fraction
from functools import cache
from math import prod
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from mutant import YIELDS, refuted, sizes
from mutants_in_context import IN_CONTEXT, STANDING, values
from runs import both, report, study, verdicts

from popgd import check
from popgd.descent.memory import FORGETFUL
from popgd.papers import in_context as gatmiry
from popgd.papers.in_context import (
    descents,
    flow,
    integrator,
    large_n,
    minimiser,
    prompts,
    saddle,
    shifted,
    slopes,
    wishart,
)
from popgd.papers.in_context.common import Study, sampled_law
from popgd.papers.in_context.model import InContext, SquaredError
from popgd.papers.in_context.wishart_loss import flow_loss_infinite
from popgd.papers.power_method.data import UniformSphere
from popgd.papers.power_method.slopes import Slopes
from popgd.runs.command import main
from popgd.theorem.registry import theorems
from popgd.theorem.report import resolve, restore
from popgd.theorem.verdict import Outcome

NAMES = [theorem.name for theorem in gatmiry.THEOREMS]
FLOWS = ("gatmiry.flow", "gatmiry.flow-transcribed")
#: Those whose measurement takes long, and what stands for it in the default suite: diffrax compiles
#: slowly, and there are many Monte Carlo descents.
LONG = ("gatmiry.minimiser", *FLOWS)
#: Exact numbers of section 4 are known to the last digit.
LAST_DIGIT = 1e-15


def listed(names):
    return [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in names]


def outcomes(found):
    return {claim.id: claim.outcome for claim in both(found)}


@pytest.mark.parametrize("name", listed(NAMES))
def test_verdicts(name):
    """All that is derived is supported, and of the transcribed statements all but four."""
    found = report(name)
    wrong = {claim.id for claim in found.claims if claim.outcome is not Outcome.SUPPORTED}
    assert wrong == STANDING & set(outcomes(found)), [
        (claim.id, claim.reason) for claim in found.claims if claim.id in wrong
    ]
    assert all(claim.outcome is Outcome.REFUTED for claim in found.claims if claim.id in wrong)
    assert found.outcome is (Outcome.REFUTED if wrong else Outcome.SUPPORTED)
    json.dumps(found.to_json(), allow_nan=False)
    assert all(np.isfinite(x.value) and x.error >= 0 for x in found.quantities.values())
    assert {"a_star", "loss_min", "h_tr", "h_sym", "h_asym"} <= set(found.quantities)


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(m, id=f"{m.theorem}: {m.name}", marks=[pytest.mark.slow] if m.slow else [])
        for m in IN_CONTEXT
    ],
)
def test_mutant(mutant):
    quick = {"gatmiry.minimiser": descended, "gatmiry.flow": solved}
    whole = (
        quick[mutant.theorem]()
        if mutant.theorem in quick and not mutant.slow
        else study(mutant.theorem)
    )
    found = refuted(mutant, whole)
    assert bool(set(mutant.claims) & found) != bool(mutant.survives) and (
        mutant.survives or set(mutant.claims) <= found
    )


def test_every_claim_has_a_mutant_in_the_default_suite():
    claims = {claim.id for name in NAMES if name not in LONG for claim in both(report(name))}
    claims |= {e.id for function in gatmiry.THEOREMS[0].claims for e in function(descended())}
    claims |= {"flow-loss", "time-to-xi", "time-to-xi-transcribed"}
    killed = {
        claim
        for mutant in IN_CONTEXT
        if not (mutant.survives or mutant.slow)
        for claim in mutant.claims
    }
    assert claims <= set(YIELDS)
    assert claims == killed | STANDING


def slopes_of(setting):
    """Slopes of the loss at multiples of I as the exact moments have them, with errors."""
    n, d, L = setting.law.n, setting.law.d, setting.L
    a = np.array(slopes.AT) * wishart.a_star(n, d, L)
    value = np.array([slopes.slope_on_the_line(n, d, L, Fraction(float(x))) for x in a])
    zero, many = np.zeros(a.size), np.full(a.size, 1e6)
    found = Slopes(zero, a, value, 1e-4 * abs(value), zero, zero, many, many)
    return {f"slopes/{name}": x for name, x in found._asdict().items()}


@cache
def descended():
    """The study of gatmiry.minimiser with Monte Carlo left out: in its place the exact numbers,
    with errors.
    """
    setting = resolve({"theorem": "gatmiry.minimiser", **sizes("gatmiry.minimiser")})
    objective = gatmiry.THEOREMS[0].objective(setting, "")
    ends = np.broadcast_to([0.3, 0.4], (2, descents.REPLICAS, 2)) + 1e-4 * np.random.default_rng(
        0
    ).normal(size=(2, 16, 2))
    sampled = descents.Sampled(
        np.tile([1.0, 0.01, 1.0], (3, 1)),
        np.multiply.outer(np.ones(3), np.multiply.outer([1.0, 0.01, 1.0], np.ones((2, 2)))),
        np.zeros(3),
        np.zeros((3, setting.law.d**2 + setting.law.d + 1)),
        *descents.samplewise(setting, objective, setting.law),
        ends,
        np.array([0.3, 0.4]),
    )
    exact = descents.descend(setting, setting.law, lambda *_: None)
    parts = {"exact": exact._asdict(), "sampled": sampled._asdict()}
    arrays = {
        f"{part}/{name}": np.asarray(x)
        for part, found in parts.items()
        for name, x in found.items()
    }
    return Study(setting, objective, arrays | slopes_of(setting), lambda study, title: {})


def test_exact_claims_about_the_minimiser():
    """Two routes to what needs no sampling: the rest of `test_verdicts` for gatmiry.minimiser,
    which is slow.
    """
    found = verdicts(
        [e for function in gatmiry.THEOREMS[0].claims for e in function(descended())], 1e-6
    )
    assert {c.id: c.reason for c in found if c.outcome is not Outcome.SUPPORTED} == {}


@pytest.mark.parametrize("eta", [1e-12, 1e-300])
def test_tiny_steps_refute_nothing(eta):
    """A descent that has hardly begun has not ended: it stands still to the eye."""
    whole = descended()
    setting = dataclasses.replace(whole.setting, eta=eta, steps=1000)
    step, A, u = (whole.values[f"exact/{name}"] for name in ("step", "A", "u"))
    start = {
        "exact_step": np.array([750, 1000]),
        "exact_A": np.zeros_like(A[:2]),
        "exact_u": np.full_like(u[:2], 0.5),
    }
    claims = verdicts(
        [*minimiser.arrival(dataclasses.replace(values(whole, **start), setting=setting))], 1e-6
    )
    assert {(c.outcome, c.reason.split()[0]) for c in claims} == {(Outcome.INCONCLUSIVE, "still")}
    stuck = values(whole, **{**start, "exact_step": step[-2:]})
    assert {c.outcome for c in verdicts([*minimiser.arrival(stuck)], 1e-6)} == {Outcome.REFUTED}


@pytest.mark.slow
@pytest.mark.parametrize("size", [{"d": 5, "n": 6, "L": 5}, {"d": 1, "n": 1, "L": 6}])
def test_rare_prompts_refute_nothing(size):
    """Few examples, many loops: the sampled mean is far below the exact one, and its standard error
    does not show it.
    """
    found = outcomes(check("gatmiry.ood", **size))
    assert found["engines-agree-shifted"] is Outcome.INCONCLUSIVE
    assert Outcome.REFUTED not in found.values()


# --- transcribed statements: refuted for a reason


def solved(exponent=None):
    """The flow of gatmiry.flow without integrating it: its solution, or with a loss like
    t^-1/exponent.
    """
    setting = resolve({"theorem": "gatmiry.flow", **sizes("gatmiry.flow")})
    few = dataclasses.replace(setting, law=sampled_law(setting.law))
    t = np.concatenate([[0.0], np.geomspace(1e-3, 1e6, flow.TIMES - 1)])
    loss = np.asarray(
        flow_loss_infinite(jnp.asarray(setting.law.covariance), setting.L, jnp.asarray(t))
    )
    loss = loss if exponent is None else 2 * (1 + t) ** (-1 / exponent)
    arrays = {
        "flow/t": t,
        "flow/loss": loss,
        "flow/more": loss,
        "flow/coarse": loss,
        **slopes_of(few),
    }
    return Study(
        setting, gatmiry.THEOREMS[3].objective(setting, ""), arrays, lambda study, title: {}
    )


def test_exponents_of_the_flow():
    """L = 2: 1/2 as derived, not 1/3 as transcribed; with a loss that falls like t^-3 the other way
    round.
    """
    for exponent, right, wrong in (
        (None, flow.derived_time, flow.transcribed_time),
        (1 / 3, flow.transcribed_time, flow.derived_time),
    ):
        assert [c.outcome for c in verdicts([*right(solved(exponent))], 1e-6)] == [
            Outcome.SUPPORTED
        ]
        assert [c.outcome for c in verdicts([*wrong(solved(exponent))], 1e-6)] == [Outcome.REFUTED]
    assert [c.outcome for c in verdicts([*flow.flow(solved())], 1e-6)] == [Outcome.SUPPORTED]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "L", "supported"), [(14, 2, True), (15, 2, False)])
def test_a_saddle_from_fifteen_examples_on(n, L, supported):
    """d = 2: the antisymmetric curvature turns negative at n = 15 for two loops, and not before."""
    found = outcomes(check("gatmiry.minimiser-all", d=2, n=n, L=L))
    assert (found["no-descent-direction"] is Outcome.SUPPORTED) == supported
    assert found["antisymmetric-growth"] is not Outcome.REFUTED


def test_the_mean_is_not_judged_where_it_has_not_risen_yet():
    found = study("gatmiry.loops-mean")
    falling = values(found, mean=np.geomspace(1.0, 1e-9, 50))
    assert [c.outcome for c in verdicts([*gatmiry.prompts.mean_error(falling)], 1e-6)] == [
        Outcome.INCONCLUSIVE
    ]


# --- numbers


def test_row_11_of_the_paper_s_table():
    """d = 4, n = 100, L = 2, eta = 0.5 from a* I + 1e-4 K: growth 1.014235 a step, to 0.990300 of
    the loss.
    """
    values = study("gatmiry.minimiser-all").values
    growth = np.linalg.norm(values["escape/blocks"][1, 1]) / np.linalg.norm(
        values["escape/blocks"][0, 1]
    )
    assert growth == pytest.approx(1.014235, abs=5e-7)
    assert values["escape/ratio"][-1] == pytest.approx(0.990300, abs=5e-7)


@pytest.mark.slow
def test_reference_descent():
    """d = 5, n = 50, L = 3, eta = 0.02 with the default covariance: ten digits of the loss at steps
    10, ..., and its end.
    """
    found = check("gatmiry.minimiser", L=3, eta=0.02, samples=64, sampled_steps=16, batch=8)
    values = found.studies[""].values
    for step, wanted in ((10, 0.6947791961), (100, 0.09610652229), (1000, 0.03453689135)):
        assert values["exact/loss"][list(values["exact/step"]).index(step)] == pytest.approx(
            wanted, rel=2e-10, abs=0
        )
    numbers = found.quantities
    assert numbers["loss_final"][0] == pytest.approx(0.03413262592086276, rel=1e-13, abs=0)
    for name, wanted in (("a_star", 0.8637515118477838), ("loss_min", 0.03413262592086276)):
        assert numbers[name][0] == pytest.approx(wanted, rel=LAST_DIGIT, abs=0)
    for name, wanted in (("h_tr", 0.679627), ("h_sym", 0.388008), ("h_asym", -0.023518)):
        assert numbers[name][0] == pytest.approx(wanted, abs=5e-7)


def test_gaussian_traces():
    for d in (1, 2, 7):
        wanted = (d * d + d, 2 * d**3 + 5 * d**2 + 5 * d, 5 * d**4 + 22 * d**3 + 52 * d**2 + 41 * d)
        assert tuple(large_n.gaussian_trace(d, k) for k in (2, 4, 6)) == wanted
        assert large_n.gaussian_trace(d, 3) == 0


@pytest.mark.parametrize("name", ["gatmiry.dominance", "gatmiry.loops"])
@pytest.mark.parametrize(
    "size", [{"d": 1, "n": 1, "L": 1}, {"d": 3, "n": 2, "L": 2}, {"d": 2, "n": 10**14, "L": 3}]
)
@pytest.mark.slow
def test_any_size(name, size):
    """No claim that is derived is refuted, whatever d, n and L are."""
    found = check(name, assume="ignore", **size)
    assert Outcome.REFUTED not in [
        c.outcome for c in found.claims if c.origin == "derived" and c.id != "median-vanishes"
    ]


# --- the edges of float64


def measured(name, **settings):
    """The study of a theorem at a setting, without judging it."""
    setting = resolve({"theorem": name, **settings})
    theorem = theorems()[name]
    return theorem.study(setting, theorem.objective(setting, ""), lambda *_: None, FORGETFUL)


@pytest.mark.slow
def test_nearly_singular_covariances_refute_nothing():
    """Condition number 3e9: mu is known to 1e-6; an allowance without the condition number refuted
    what is derived.
    """
    found = measured("gatmiry.ood", covariance=[[2, 1], [1, 0.5 + 1e-9]], L=2, samples=64)
    claim, *_ = verdicts([*shifted.ood(found)], 1e-6)
    assert claim.id == "shifted-loss" and claim.outcome is not Outcome.REFUTED
    assert abs(claim.measured - 1) < claim.allowance
    assert shifted.rounding(found) > 1e-7 > 1e-12 > shifted.rounding(study("gatmiry.ood")) > 1e-16


@pytest.mark.parametrize("d", [20, pytest.param(120, marks=pytest.mark.slow)])
def test_all_prompts_that_contract_have_contracted(d):
    """n = d + 1: their share is that of prompts of the law itself whose a* S stays below 2. After
    10^6 loops it is .16 less at d = 120, and at d = 260 below a half.
    """
    setting = resolve({"theorem": "gatmiry.loops", "d": d, "n": d + 1, "L": 1})
    found = prompts.loops_study(setting, SquaredError(1), lambda *_: None, FORGETFUL)
    (claim,) = prompts.loops(found)
    X, count = np.random.default_rng(7).normal(size=(1500, d, d + 1)), prompts.PROMPTS
    top = np.linalg.eigvalsh(X @ X.transpose(0, 2, 1) / (d + 1))[:, -1]
    share = float(np.mean(prompts.wishart.a_star(d + 1, d, 1) * top < 2))
    spread = (share * (1 - share) * (1 / len(top) + 1 / count)) ** 0.5
    assert abs(claim.measured - share) < 4 * spread < 0.05


@pytest.mark.parametrize(
    ("d", "n", "known"),
    [pytest.param(1, 10**3, False, marks=pytest.mark.slow), (2, 10**14, False), (2, 20, True)],
)
def test_best_loops_are_told_only_where_the_search_saw_them(d, n, known):
    """d = 1, n = 1000: the best number of loops is 126, beyond the exact moments; n = 1e14: float64
    ends first.
    """
    mean = np.array(prompts.mean_errors(n, d, prompts.wishart.a_star(n, d, 1)))
    found = prompts.loops_quantities(values(study("gatmiry.loops-mean"), mean=mean))
    assert set(found) == ({"best_loops", "mean_error_least"} if known else set())
    if known:
        T = int(found["best_loops"][0])
        assert mean[T - 2] > mean[T - 1] < mean[T]
    claim, *_ = verdicts(
        [*prompts.mean_error(values(study("gatmiry.loops-mean"), mean=mean))], 1e-6
    )
    assert known or "its least is not known" in claim.reason


def test_a_descent_of_one_record_has_not_ended():
    whole = descended()
    short = {
        f"exact_{name}": whole.values[f"exact/{name}"][:1]
        for name in ("step", "A", "eigenvalues", "loss", "loss_error")
    }
    one = values(
        whole, **short, exact_u=np.full_like(whole.values["exact/u"][:1], 0.5), exact_diverged_at=1
    )
    assert {c.reason for c in verdicts([*minimiser.arrival(one)], 1e-6)} == {
        "the exact descent left the finite numbers before step 1: take a smaller eta"
    }
    assert minimiser.moving(np.ones((1, 1)), 10.0) and not minimiser.moving(np.ones((2, 1)), 10.0)


def test_catalan_numbers_outside_float64_are_not_verdicts():
    """From about L = 39 on the losses at d = 1e6, n = 1e14 are below 1e-307; here sooner."""
    ratio, lost = prompts.looped_over_unlooped(10**160, 1, 2)
    assert np.isnan(ratio) and "outside the range of float64" in lost
    assert prompts.looped_over_unlooped(10**14, 10**6, 3)[1] == ""


def test_a_shift_that_float64_does_not_hold_is_one_line():
    with pytest.raises(ValueError, match=r"shift=\[1e\+50, 1.0\]") as caught:
        measured("gatmiry.ood", d=2, shift=[1e50, 1.0], L=3)
    assert "\n" not in str(caught.value)


def test_a_flow_that_stands_still_supports_nothing():
    """Nothing moves, as predicted, up to the last time: any solution would do. One that moves is
    not excused.
    """
    setting = resolve({"theorem": "gatmiry.flow", "covariance": [1e-40, 1e-45], "L": 3})
    ones = np.full(flow.TIMES, 2.0)
    t = np.concatenate([[0.0], np.geomspace(1e-1, 1e8, flow.TIMES - 1)])
    arrays = {"flow/t": t, "flow/loss": ones, "flow/more": ones, "flow/coarse": ones}
    still = dataclasses.replace(solved(), setting=setting, values=arrays)
    claim, *_ = verdicts([*flow.flow(still)], 1e-6)
    assert claim.outcome is Outcome.INCONCLUSIVE and "does not fall" in claim.reason
    assert [c.outcome for c in verdicts([*flow.derived_time(still)], 1e-6)] == [
        Outcome.INCONCLUSIVE
    ]
    stuck = values(solved(), **{f"flow_{name}": ones for name in ("loss", "more", "coarse")})
    assert [c.outcome for c in verdicts([*flow.flow(stuck)], 1e-6)] == [Outcome.REFUTED]


def test_a_flow_that_is_not_solved_is_not_verdicts():
    lost = values(solved(), flow_loss=np.full(flow.TIMES, np.nan))
    claims = verdicts(
        [*flow.flow(lost), *flow.derived_time(lost), *flow.transcribed_time(lost)], 1e-6
    )
    assert {(c.outcome, c.reason.split(":")[0]) for c in claims} == {
        (Outcome.INCONCLUSIVE, "the integrator takes more than 100,000 steps")
    }


@pytest.mark.slow
@pytest.mark.parametrize(("lam", "n", "L"), [((0.7, 1.5), 10**9, 2), ((1.0, 3.0), 10**14, 3)])
def test_errors_of_the_flow(lam, n, L):
    """The error that is told covers what a hundred times finer a tolerance changes, and is not a
    thousand times that.
    """
    lam = jnp.asarray(lam)
    times = jnp.array([0.0, 0.1, flow.horizon(n, lam, L)])
    loss, coarse, fine = (
        integrator.integrate(n, lam, L, times, tol) for tol in (1e-10, 1e-9, 1e-12)
    )
    arrays = {"flow/loss": np.asarray(loss), "flow/coarse": np.asarray(coarse)}
    value, error = flow.final_loss(dataclasses.replace(solved(), values=arrays))[:2]
    assert abs(value - float(fine[-1])) < error < 1e-7 * value


@pytest.mark.slow
def test_a_flow_of_condition_number_1e10():
    """In log(1 + t) it took more than 10^6 steps."""
    lam = jnp.array([1e-5, 1e5])
    times = jnp.array([0.0, 1e-9, 1e-3, 0.6])
    found = integrator.integrate(10**14, lam, 2, times)
    assert np.abs(found / flow_loss_infinite(lam, 2, times) - 1).max() < 1e-9


@pytest.mark.slow
def test_the_integrator_stops(monkeypatch):
    monkeypatch.setattr(integrator, "MOST_STEPS", 20)
    lam = jnp.array([0.7, 1.5])
    assert np.isnan(integrator.integrate(10**9, lam, 2, jnp.array([0.0, 1.0, 1e4]))).all()


def test_errors_of_the_escape():
    """The loss at the last record, against the same polynomial in rational numbers; a last step off
    by 1e-14 is seen.
    """
    whole = study("gatmiry.minimiser-all")
    value, error = saddle.final_loss(whole)[:2]
    n, d, L = whole.sizes
    centre = Fraction(saddle.normal.a_star(n, d, L))
    blocks = [[Fraction(float(x)) for x in row] for row in whole.values["escape/blocks"][-1]]
    eigenvalues = [(centre - x, -y) for x, y in zip(*blocks, strict=True)]

    def trace(j, k):
        """2 sum Re z^j conj(z)^k, every block once."""
        total = Fraction(0)
        for x, y in eigenvalues:
            re, im = Fraction(1), Fraction(0)
            for sign in (1,) * j + (-1,) * k:
                re, im = re * x - sign * im * y, sign * re * y + im * x
            total += 2 * re
        return total

    terms = saddle.normal.exact_polynomial(n, d, L, centre)
    wanted = sum(factor * prod(trace(*t) for t in powers) for powers, factor in terms.items())
    assert abs(Fraction(value) - wanted) < error < 1e-13 * value
    assert abs(Fraction(value * (1 + 1e-12)) - wanted) > error


# --- settings


BAD = [
    ({"n": 0}, "n=0: an integer of at least 1 was wanted"),
    ({"d": 0}, "d=0: an integer of at least 1 was wanted"),
    ({"covariance": [1, -1]}, "a list of positive numbers"),
    ({"covariance": [[1.0, 2.0], [2.0, 1.0]]}, "wanted all > 0"),
    ({"covariance": [[1.0, 0.5], [0.0, 1.0]]}, "symmetric"),
    ({"d": 3, "covariance": [1, 2]}, "wanted 3 eigenvalues"),
    ({"L": 7}, "L=7: the loss over symmetric A is exact for at most 6 loops"),
    ({"theorem": "gatmiry.minimiser-all", "L": 5}, "is exact for at most 4 loops"),
    ({"theorem": "gatmiry.loops", "L": 51}, "is exact for at most 50 loops"),
    ({"n": 10**18, "d": 1, "L": 6, "theorem": "gatmiry.loops"}, None),
    ({"theorem": "gatmiry.loops", "n": 10**18, "L": 20}, "outside the range of float64"),
    ({"covariance": [1e-200, 2e-200]}, "rescale it"),
    ({"covariance": [1e200, 2e200]}, "rescale it"),
    ({"steps": 10**7}, "at most 1,000,000"),
    ({"d": 10**6}, "use less"),
    ({"theorem": "gatmiry.ood", "d": 2, "shift": [1, 2, 3]}, "d = 2 positive numbers were wanted"),
    ({"shift": [1, 2]}, "does not take shift"),
    ({"spectrum": [2, 1]}, "does not take spectrum"),
    ({"law": UniformSphere(2, 5)}, "an InContext object was wanted"),
]


@pytest.mark.parametrize(
    ("settings", "message"), BAD, ids=lambda x: "" if isinstance(x, dict) else str(x)
)
def test_bad_settings_are_one_line(settings, message):
    settings = {"theorem": "gatmiry.minimiser", **settings}
    if message is None:
        assert resolve(settings).law.n == settings["n"]
        return
    with pytest.raises(ValueError) as caught:
        setting = resolve(settings)
        theorem = next(t for t in gatmiry.THEOREMS if t.name == setting.theorem)
        theorem.study(setting, theorem.objective(setting, ""), lambda *_: None, FORGETFUL)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_laws_are_not_exchanged_between_papers():
    with pytest.raises(ValueError, match="a law of unit columns was wanted"):
        check("4.1", law=InContext.gaussian(2, 5))


def test_settings_are_restored():
    """A matrix of covariances goes to the stored settings and back."""
    matrix = [[2.0, 0.3], [0.3, 1.0]]
    for given in (
        {"covariance": matrix},
        {"d": 3},
        {},
        {"law": InContext.gaussian(2, 9, np.array(matrix))},
    ):
        setting = resolve({"theorem": "gatmiry.minimiser", **given})
        assert restore(json.loads(json.dumps(setting.describe()))).describe() == setting.describe()


def test_too_large_a_step_is_named():
    """The descents leave the finite numbers: no verdict about where they end, and the step is
    told.
    """
    setting = dataclasses.replace(descended().setting, eta=50.0)
    found = descents.descend(setting, setting.law, lambda *_: None)
    assert found.diverged_at > 0
    broken = values(descended(), **{f"exact_{k}": v for k, v in found._asdict().items()})
    claims = verdicts([*minimiser.arrival(broken)], 1e-6)
    assert {c.outcome for c in claims} == {Outcome.INCONCLUSIVE}
    assert all(
        "left the finite numbers before step" in c.reason and "smaller eta" in c.reason
        for c in claims
    )


def test_help_lists_papers_and_theorems(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    assert (
        shown.index("arXiv 2410.08292")
        < shown.index("gatmiry.ood")
        < shown.index("arXiv 2606.00605")
        < shown.index("4.1 ")
    )


# --- another theorem


def test_your_own_theorem(capsys, tmp_path):
    """The exercise of the README: a file that the command line judges like any other theorem."""
    file = Path(__file__).parents[1] / "experiments" / "your_own_theorem.py"
    assert file.read_text().count("\n") < 60
    out = tmp_path / "own"
    words = [f"theorem={file}", "d=2", "n=60", "a=0.5", "samples=8192", f"out={out}"]
    assert main(words) == 0
    assert "Theorem own.loss: SUPPORTED" in capsys.readouterr().out
    loss = json.loads((out / "report.json").read_text())["quantities"]["loss"]
    exact = 2 * (1 - 2 * 0.5 + 0.5**2 * (1 + 3 / 60))
    assert abs(loss["value"] - exact) < 6 * loss["error"] < exact
