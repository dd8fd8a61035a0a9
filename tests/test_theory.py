"""Every theorem in the list: complete, supported as it stands, refuted when misquoted, not
applicable where it says nothing.
"""

import dataclasses
import inspect
import json

import numpy as np
import pytest
from runs import HASTY, hasty, report, verdicts
from runs import study as measured

from popgd import check, claims
from popgd.claims import examined
from popgd.papers.power_method import slopes
from popgd.papers.power_method import theorems as power_method
from popgd.papers.power_method.curve import Linear
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.objectives import PowerIteration
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.training import convergence, growth, manifold, raw
from popgd.papers.power_method.training.noise import damped_noise
from popgd.theorem.base import Setting
from popgd.theorem.registry import theorems
from popgd.theorem.report import check_setting, resolve
from popgd.theorem.verdict import Outcome

#: The theorems of the first paper; tests/test_gatmiry.py has the second.
NAMES = [theorem.name for theorem in power_method.THEOREMS]
#: What `quantities` must agree with: 30-digit values and closed forms for the spectrum (3, 2, 1).
QUANTITY = 1e-9


def refuted(found):
    return {claim.id for claim in found.claims if claim.outcome is Outcome.REFUTED}


# --- the list


def made_by(claim):
    """The function of the vocabulary that made a claim."""
    return getattr(claims, claim.__qualname__.partition(".")[0], None)


def missing_steps(theorem):
    """What is still to be done before a theorem can be judged, in words."""
    for name in ("name", "title", "statement", "source"):
        if not getattr(theorem, name).strip():
            yield f"give it a {name}"
    for name in ("objective", "step_size", "hypotheses", "study", "quantities"):
        if not callable(getattr(theorem, name)):
            yield f"{name} must be a function"
    if not theorem.claims:
        yield "list its claims"
    for claim in theorem.claims:
        if not callable(claim):
            yield f"claim {claim!r} must be a function from a Study to evidence"
        elif not inspect.getdoc(claim) and not inspect.getdoc(made_by(claim)):
            yield f"claim {claim.__name__} has no docstring"


def missing_results(theorem):
    """What a small run of it lacks."""
    found = report(theorem.name)
    ids = [claim.id for claim in found.claims]
    if len(ids) != len(set(ids)):
        yield f"claims must have different ids, got {sorted(ids)}"
    for suffix, study in found.studies.items():
        for claim in theorem.claims:
            # What every problem brings along says nothing where there is nothing to say
            if claim not in (examined.slope_agrees, examined.plane_holds) and not list(
                claim(study)
            ):
                yield f"claim {claim.__name__} yields no evidence{suffix}"
    for claim in found.claims:
        for name in ("statement", "source", "reason"):
            if not getattr(claim, name).strip():
                yield f"claim {claim.id} has no {name}"
        if claim.resolution is None or claim.detectable is None:
            yield f"claim {claim.id} must state its resolution and what it could detect"
    if not found.quantities:
        yield "name its quantities"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in NAMES else [pytest.mark.slow]) for n in theorems()]
)
def test_theorem_is_complete(name):
    assert theorems()[name].name == name
    missing = [*missing_steps(theorems()[name])] or [*missing_results(theorems()[name])]
    assert not missing, f"Theorem {name} is half added: " + "; ".join(missing)


@pytest.mark.parametrize(
    "change", [{"source": " "}, {"claims": ()}, {"title": ""}, {"claims": (lambda study: [],)}]
)
def test_a_half_added_theorem_is_told_what_is_missing(change):
    half = dataclasses.replace(theorems()["4.3"], **change)
    assert [*missing_steps(half)]


# --- verdicts


@pytest.mark.parametrize("name", NAMES)
def test_supported(name):
    found = report(name)
    assert {
        c.id: (str(c.outcome), c.reason) for c in found.claims if c.outcome is not Outcome.SUPPORTED
    } == {}
    assert found.outcome is Outcome.SUPPORTED
    assert set(found.studies) == ({"@" + t for t in theorems()[name].targets} or {""})


def test_quantities_are_the_closed_forms():
    """4.2 with spectrum (3, 2, 1): A = 14/3, c* = 1 - 2/A, L* = 1 - 4/A. 4.1 with L = 2 at
    infinity: below the start 2/3.
    """
    values = report("4.2").quantities
    assert values["c_star_unnormalised"][0] == pytest.approx(4 / 7, rel=QUANTITY, abs=0)
    assert values["loss_min_unnormalised"][0] == pytest.approx(1 / 7, rel=QUANTITY, abs=0)
    growing = report("4.1").quantities
    assert 0 < growing["loss_limit"][0] < 2 / 3
    assert growing["exponent_c"][0] == pytest.approx(1 / 2, abs=1e-6)
    assert report("4.3").quantities["exponent_c"][0] == pytest.approx(1 / 3, abs=1e-5)
    for theorem in NAMES:
        assert all(
            np.isfinite(x.value) and x.error >= 0 for x in report(theorem).quantities.values()
        )


def test_step_rate_of_the_constants():
    """increment_limit = 2 p eta K/d, from the reported constants."""
    for theorem, p, constant in (("4.1", 2, "kappa"), ("4.3", 3, "C1")):
        found = report(theorem)
        wanted = 2 * p * found.setting.eta * found.quantities[constant][0] / 3
        assert found.quantities["increment_limit"][0] == pytest.approx(wanted, rel=1e-14, abs=0)


@pytest.mark.parametrize(
    ("theorem", "exponent"),
    [
        ("4.1", "1/3"),
        pytest.param("4.3", "1/2", marks=pytest.mark.slow),
        pytest.param("4.1", 0.499, marks=pytest.mark.slow),
        ("4.3", 0.334),
    ],
)
def test_a_wrong_exponent_is_refuted(theorem, exponent):
    found = hasty(theorem, claim_exponent=exponent)
    assert found.outcome is Outcome.REFUTED
    assert {"exponent-c", "exponent-a", "exponent-b", "increment-constant"} <= refuted(found)


def test_the_right_exponent_spelt_out_is_not():
    assert refuted(hasty("4.1", claim_exponent="1/2")) == set()


def test_the_report_is_plain_json():
    content = json.loads(json.dumps(report("4.2").to_json(), allow_nan=False))
    assert content["theorem"] == "4.2" and content["outcome"] == "SUPPORTED"
    assert len(content["claims"]) == len(report("4.2").claims)


# --- noise


def test_noise_of_a_mean_over_the_last_records_where_descent_damps_it():
    """Against the sum over kicks: x_t = sum_j (1 - rate)^(t - 1 - j) kick, averaged over the
    records 10, 13 and 40.
    """
    step = np.array([0, 1, 2, 4, 7, 10, 13, 40])
    rate, kick, late = 0.2, 0.3, 3
    weights = [
        sum((1 - rate) ** (t - 1 - j) for t in step[-late:] if j < t) / late for j in range(40)
    ]
    found = damped_noise(np.full(8, kick), np.full(8, rate), step, late)
    assert found == pytest.approx(kick * np.sqrt(np.sum(np.square(weights))), rel=1e-12, abs=0)


# --- the order of work


class First(Exception):
    """The first claim that is told."""


def test_a_misquoted_exponent_is_refuted_before_anything_is_sampled():
    setting = resolve({"theorem": "4.3", **HASTY, "claim.exponent": "1/2"})
    work = []

    def told(claim):
        raise First(claim)

    with pytest.raises(First) as first:
        check_setting(setting, lambda name, *_: work.append(name), told=told)
    claim = first.value.args[0]
    assert (claim.id, claim.outcome) == ("exponent-c", Outcome.REFUTED)
    assert set(work) == {"interpolating the slope", "exact descent"}


def test_what_is_told_is_what_the_report_holds():
    heard = []
    setting = resolve({"theorem": "4.2", **HASTY})
    found = check_setting(setting, told=heard.append)
    by_name = lambda claims: sorted(claims, key=lambda claim: claim.id)
    assert by_name(heard) == by_name([*found.claims, *found.self_checks])


# --- where sampling can tell nothing


def judged(evidence):
    return {claim.id: claim for claim in verdicts(list(evidence), 1e-6)}


def test_the_shared_runs_are_not_blind():
    for theorem in NAMES:
        for found in report(theorem).studies.values():
            assert [manifold.blind(found, run) for run in (None, found.projected, found.raw)] == [
                ""
            ] * 3


def test_heavy_tails_conclude_nothing():
    """A second moment that is known to no better than 30 %."""
    found = measured("4.3")
    last, heavy = found.points[-1], {}
    for name in ("estimate", "along"):
        mean, stderr, samples = getattr(last, name)
        heavy[name] = type(last.along)(mean, stderr._replace(square=0.3 * mean.square), samples)
    points = (*found.points[:-1], last._replace(**heavy))
    slopes = found.slopes._replace(spread=np.array([0.0, 0.3, 0.0, 0.0])[: found.slopes.c.size])
    found = dataclasses.replace(found, points=points, slopes=slopes)
    reading = (
        manifold.negative_slope,
        manifold.known_slope,
        manifold.cross_examination,
        raw.agreement,
    )
    claims = judged([e for claim in reading for e in claim(found)])
    assert claims.pop("engines-agree-samples").outcome is Outcome.SUPPORTED  # sample by sample
    assert {claim.outcome for claim in claims.values()} == {Outcome.INCONCLUSIVE}
    assert all(claim.reason.startswith("heavy tails: at c = ") for claim in claims.values())


def test_a_slope_that_is_two_percent_off_is_refuted(to_a_percent):
    found = measured("4.1")
    known, draw = found.exact.curve, found.slopes
    # The shared study is to a tenth: its errors and resolution for a percent, as of a hundred times
    # the samples
    fine = draw._replace(
        stderr=draw.stderr / 10,
        skewness=0 * draw.skewness,
        value=np.asarray(known.slope(draw.c).value),
    )
    outcome = lambda s: verdicts([slopes.agree_with(known, s, 1024)], 1e-6)[0].outcome
    assert outcome(fine) is Outcome.SUPPORTED
    assert outcome(fine._replace(value=1.02 * fine.value)) is Outcome.REFUTED
    assert verdicts([slopes.agree_with(known, fine, 2)], 1e-6)[0].outcome is Outcome.INCONCLUSIVE


def test_a_step_size_at_which_noise_is_never_forgotten_concludes_nothing_about_descents():
    """The first steps make |a^2 - b^2| several times what it was: only what holds at exact points
    is judged.
    """
    found = measured("4.3")
    short = found.exact.short
    grown = dataclasses.replace(
        found.exact, short=short._replace(Delta=short.Delta * np.where(short.step > 1, 4.0, 1.0))
    )
    found = dataclasses.replace(found, exact=grown)
    one_each = raw.pilot(found)
    claims = judged([*manifold.known_slope(found), *manifold.cross_examination(found), one_each])
    assert claims["engines-agree-slope"].outcome is Outcome.SUPPORTED
    for name in ("engines-agree-descent", "engines-agree-raw"):
        assert claims[name].outcome is Outcome.INCONCLUSIVE
        assert claims[name].reason.startswith("large-step regime")


# --- where a theorem does not apply


@pytest.mark.parametrize("theorem", NAMES)
def test_too_few_columns(theorem):
    found = check(theorem, law="uniform", d=5, n=6)
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert (
        found.reason == "(A3) fails: E[1/lambda_d] < infinity needs n >= d + 2; here n = 6, d = 5"
    )
    assert found.claims == ()


@pytest.mark.parametrize("theorem", NAMES)
def test_no_gap(theorem):
    found = check(theorem, spectrum=[2, 2])
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "r < d fails" in found.reason


def test_another_optimiser_is_not_gradient_descent():
    found = check("4.1", optimiser="adam")
    assert (found.outcome, found.reason) == (
        Outcome.NOT_APPLICABLE,
        "gradient descent fails: the optimiser is adam, not plain sgd",
    )


def test_a_failing_hypothesis_can_be_ignored():
    """The claims are judged all the same, and the report says what was ignored."""
    found = hasty("4.2", target="unnormalised", optimiser="momentum", assume="ignore")
    assert found.claims and found.outcome is not Outcome.NOT_APPLICABLE
    assert (
        "gradient descent fails and is ignored: the optimiser is momentum, not plain sgd"
        in found.reason
    )


def test_a_soft_hypothesis_excuses_only_what_fails():
    """4.2 beyond the sufficient step size: what holds is still said, what fails is no
    refutation.
    """
    found = hasty("4.2", target="unnormalised", eta=20.0)
    outcomes = {claim.outcome for claim in found.claims}
    assert "small step: eta = 20 is beyond the sufficient bound" in found.reason
    assert Outcome.REFUTED not in outcomes and Outcome.SUPPORTED in outcomes
    assert found.outcome is Outcome.NOT_APPLICABLE


def test_a_curve_that_cannot_be_resolved_is_inconclusive(monkeypatch):
    monkeypatch.setattr(growth, "HARD", 1e-20)
    found = hasty("4.3")
    assert (found.outcome, found.claims) == (Outcome.INCONCLUSIVE, ())
    assert "exceeds 1e-20" in found.reason and "a less extreme spectrum" in found.reason


@pytest.mark.slow
def test_rounding_and_multiplicative_noise_refute_nothing():
    """Condition 10^8 and n = 1000: q + A S B q cancels, and with y = Sq the noise vanishes as
    descent converges.
    """
    for theorem in NAMES:
        found = hasty(theorem, spectrum=[999.99999, 0.00001], sampled_steps=50, batch=64)
        assert refuted(found) == set()


def test_settings_fill_in():
    setting = report("4.1").setting
    assert isinstance(setting, Setting) and isinstance(setting.law, Rotated)
    assert theorems()["4.1"].step_size(setting.law, 3) == pytest.approx(
        3 / (14 / 3), rel=1e-6, abs=0
    )
    assert report("4.2").studies["@normalised"].objective == PowerIteration(
        "normalised", layer_norm=False
    )
    assert setting.key(1, 2) == setting.key(1, 2) != setting.key(2, 1)


@pytest.mark.slow
def test_eigenvalues_that_are_nearly_equal_refute_nothing():
    """c* is 1e-8 there: the slope of y = Sq, which has no noise, is a difference of numbers that
    are so much larger.
    """
    found = hasty(
        "4.2", target="unnormalised", spectrum=[1.0001, 0.9999], sampled_steps=50, batch=64
    )
    assert refuted(found) == set()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [462143, 2, 9])
def test_noise_in_the_blocks_of_a_raw_descent_refutes_nothing(seed):
    """Large steps on eigenvalues that are close to each other: noise in the blocks moves c by a
    fifth, and by chance as much in both descents, so that their difference shows no bias.
    """
    spectrum = [13.5, 12.94, 10.38, 6.70, 6.48]
    found = check(
        "4.3",
        spectrum=spectrum,
        eta=0.11,
        samples=1024,
        sampled_steps=64,
        batch=64,
        steps=1000,
        seed=seed,
    )
    assert "engines-agree-raw" not in refuted(found)


@pytest.mark.slow
def test_what_sampled_spectra_do_to_a_descent_that_converges():
    """The delta method against sixteen sets of spectra; little at first, in the end what they do to
    c*.
    """
    setting = resolve({"theorem": "4.2", "law": "uniform", "d": 3, "n": 12})
    rows, steps = setting.law.eigenvalues(setting.key(5), 512), np.array([0, 1, 4, 16, 1000])
    whole, *parts = (
        Linear.of(Spectrum(x, np.ones(x.shape)), "normalised")
        for x in (rows, *np.split(np.asarray(rows), 16))
    )
    c, error = convergence.under(whole, setting, steps)
    each = np.array([convergence.under(part, setting, steps)[0] for part in parts])
    scatter = each.std(axis=0, ddof=1) / 4
    # Fifteen degrees of freedom: scatter is known to 18 %
    assert np.all(abs(scatter[1:] / error[1:] - 1) < 0.5) and np.all(
        abs(each.mean(axis=0) - c)[1:] < 3 * error[1:]
    )
    star = whole.c_star()
    assert c[0] == error[0] == 0 and error[1] < 0.2 * star.stderr
    assert c[-1] == pytest.approx(float(star.value), rel=1e-12, abs=0) and error[
        -1
    ] == pytest.approx(float(star.stderr), rel=1e-2, abs=0)
