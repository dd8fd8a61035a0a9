"""The rule that decides: its quantiles, its outcomes, its error rates."""

import dataclasses
from statistics import NormalDist

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popgd.claims.evidence import Evidence
from popgd.theorem.verdict import (
    POWER,
    Claim,
    Outcome,
    Verdicts,
    judge,
    not_applicable,
    overall,
    unchecked,
    z_score,
)

QUANTILE = 1e-12  # worst seen 2e-16 relative
NULL_SEEDS, POWER_SEEDS = 2000, 2000
FALSE_ALARM = (
    1e-6  # of each test of a rate below: binomial counts must lie within this two-sided interval
)
WIDE = NormalDist().inv_cdf(1 - FALSE_ALARM / 2)

finite = st.floats(-1e6, 1e6)
positive = st.floats(1e-9, 1e6)


def evidence(**changes):
    base = {
        "id": "x",
        "statement": "x is 1",
        "source": "here",
        "predicted": 1.0,
        "measured": 1.0,
        "error": 0.01,
        "allowance": 0.0,
        "resolution": 0.5,
        "reason": "sampling",
    }
    return Evidence(**{**base, **changes})


def verdict(false_alarm=1e-6, **changes) -> Claim:
    return judge(evidence(**changes), false_alarm)


@pytest.mark.parametrize("tail", [1e-3, 1e-6, 1e-9, 1e-12])
def test_quantile(tail):
    with mpmath.workdps(40):
        exact = mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * mpmath.mpf(tail))
    assert abs(z_score(tail) / float(exact) - 1) < QUANTILE


def test_quantile_is_not_that_of_a_student_or_of_the_other_tail():
    assert z_score(0.025) == pytest.approx(1.959963984540054, rel=1e-14, abs=0)
    assert z_score(0.975) == pytest.approx(-1.959963984540054, rel=1e-14, abs=0)


# --- outcomes


def test_each_outcome():
    assert verdict().outcome is Outcome.SUPPORTED
    assert verdict(measured=1.2).outcome is Outcome.REFUTED
    assert verdict(error=0.2).outcome is Outcome.INCONCLUSIVE
    assert (
        verdict(measured=100.0, error=0.2).outcome is Outcome.INCONCLUSIVE
    )  # blind, whatever it saw


@pytest.mark.parametrize(
    ("sense", "above", "below"),
    [
        ("equal", Outcome.REFUTED, Outcome.REFUTED),
        ("at least", Outcome.SUPPORTED, Outcome.REFUTED),
        ("at most", Outcome.REFUTED, Outcome.SUPPORTED),
    ],
)
def test_senses(sense, above, below):
    assert verdict(sense=sense, measured=1.3).outcome is above
    assert verdict(sense=sense, measured=0.7).outcome is below


def test_deterministic_error_is_a_bound_and_is_taken_once():
    claim = verdict(statistical=False, error=0.1, allowance=0.05, measured=1.149)
    assert claim.outcome is Outcome.SUPPORTED
    assert (
        verdict(statistical=False, error=0.1, allowance=0.05, measured=1.151).outcome
        is Outcome.REFUTED
    )
    assert claim.detectable == pytest.approx(0.25, rel=1e-6, abs=0)


def test_an_exact_claim_refutes_the_least_difference():
    exact = {
        "predicted": 0.0,
        "error": 0.0,
        "resolution": np.finfo(float).tiny,
        "statistical": False,
    }
    assert verdict(measured=0.0, **exact).outcome is Outcome.SUPPORTED
    assert verdict(measured=5e-324, **exact).outcome is Outcome.REFUTED


def test_an_excuse_is_inconclusive_and_tells_why():
    claim = verdict(measured=9.0, excuse="outside the range")
    assert (claim.outcome, claim.reason) == (Outcome.INCONCLUSIVE, "outside the range")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["measured", "error", "allowance"])
def test_a_number_that_is_not_finite_is_inconclusive_and_shown_as_none(where, bad):
    claim = verdict(**{where: bad})
    assert claim.outcome is Outcome.INCONCLUSIVE
    assert "finite" in claim.reason
    assert getattr(claim, where) is None


@pytest.mark.parametrize("statistical", [True, False])
def test_no_entry_at_all_is_inconclusive(statistical):
    """As where every gradient is within rounding of its terms: errors and resolutions entry by
    entry are then empty too.
    """
    none = np.zeros(0)
    claim = verdict(
        measured=none,
        error=none,
        allowance=none,
        resolution=none,
        skewness=none,
        statistical=statistical,
    )
    assert claim.outcome is Outcome.INCONCLUSIVE and claim.reason.startswith(
        "nothing could be measured"
    )
    assert (claim.measured, claim.error, claim.detectable) == (None, None, None)
    assert verdict(measured=none, resolution=none, excuse="broken off").reason == "broken off"


def test_the_worst_entry_is_shown():
    claim = verdict(measured=np.array([1.0, 1.03, 0.99]))
    assert (claim.outcome, claim.measured) == (Outcome.SUPPORTED, 1.03)
    claim = verdict(measured=np.array([1.2, 1.4, 1.0]))
    assert (claim.outcome, claim.measured) == (Outcome.REFUTED, 1.4)
    # Not the one that is exact by structure, however small its threshold.
    claim = verdict(measured=np.array([1.0, 1.01, 1.005]), error=np.array([0.0, 0.01, 0.01]))
    assert (claim.outcome, claim.measured) == (Outcome.SUPPORTED, 1.01)


def test_a_refuted_entry_wins_over_a_blind_one_and_a_blind_one_over_a_good_one():
    claim = verdict(measured=np.array([1.0, 1.4, 1.0]), error=np.array([9.0, 0.01, 0.01]))
    assert (claim.outcome, claim.measured) == (Outcome.REFUTED, 1.4)
    claim = verdict(measured=np.array([1.03, 1.0, 1.0]), error=np.array([0.01, 0.01, 9.0]))
    assert (claim.outcome, claim.error) == (Outcome.INCONCLUSIVE, 9.0)
    claim = verdict(measured=np.array([np.nan, 1.4]))
    assert (claim.outcome, claim.measured) == (Outcome.REFUTED, 1.4)


def test_the_rate_is_split_over_entries():
    def threshold(entries):
        """The gap at which one of `entries` entries turns a claim."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            measured = np.append(np.ones(entries - 1), 1 + middle)
            refuted = verdict(1e-3, measured=measured, resolution=2.0).outcome is Outcome.REFUTED
            low, high = (low, middle) if refuted else (middle, high)
        return high

    for entries in (1, 7):
        assert threshold(entries) == pytest.approx(
            0.01 * z_score(1e-3 / 2 / entries), rel=1e-9, abs=0
        )


def test_not_applicable_and_overall():
    claim = not_applicable(verdict(), "r = d")
    assert (claim.outcome, claim.reason, claim.measured) == (Outcome.NOT_APPLICABLE, "r = d", 1.0)


S, R, I, N = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE, Outcome.NOT_APPLICABLE


def judged(*claims, **checks):
    every = [("x", outcome, "") for outcome in claims] + [
        ("y", outcome, kind) for kind, outcome in checks.items()
    ]
    return [
        dataclasses.replace(verdict(), id=id, outcome=outcome, self_check=kind)
        for id, outcome, kind in every
    ]


@pytest.mark.parametrize(
    ("claims", "checks", "outcome"),
    [
        ((S, I, R), {}, R),
        ((S, I, N), {}, I),
        ((S, N), {}, N),
        ((S, S), {}, S),
        ((), {"slope": S}, I),
        ((S, S), {"engines": I}, S),
        ((S, S), {"slope": S, "engines": N}, N),
        ((S, S), {"slope": R}, Outcome.NOT_TRUSTED),
        ((S, R), {"rounding": R}, Outcome.NOT_TRUSTED),
    ],
)
def test_overall(claims, checks, outcome):
    assert overall(judged(*claims, **checks)) is outcome


def test_no_claim_is_supported_by_an_engine_that_nothing_has_examined():
    claims = judged(S, R, I, slope=I, engines=S)
    found = [unchecked(claim, claims[3:4]) for claim in claims]
    assert [claim.outcome for claim in found] == [I, R, I, I, S]
    assert found[0].reason.startswith("unchecked: y could not tell")
    (claim, good) = judged(S, slope=S)
    assert unchecked(claim, [good]) == claim


def test_only_the_engine_of_its_own_target_matters():
    (claim, check) = judged(S, slope=I)
    check = dataclasses.replace(check, id="y@a")
    found = [unchecked(dataclasses.replace(claim, id=f"x@{at}"), [check]) for at in "ab"]
    assert [claim.outcome for claim in found] == [I, S]


# --- claims as they come


def told(every, ids, false_alarm=1e-6):
    """The claims of some evidence in the order in which they are told."""
    heard = []
    verdicts = Verdicts(false_alarm, ids, heard.append)
    for e in every:
        verdicts.hear(e)
    verdicts.close()
    assert sorted(c.id for c in heard) == sorted(c.id for c in verdicts.claims)
    return heard


def slope(id="engines-agree-slope", **changes):
    return evidence(id=id, self_check="slope", **changes)


def exact(id, **changes):
    return evidence(id=id, statistical=False, **changes)


@given(
    declared=st.lists(st.sampled_from("abcdefgh"), unique=True),
    come=st.lists(st.sampled_from("abcdefghij"), unique=True),
    sampled=st.lists(st.booleans(), min_size=10, max_size=10),
)
def test_all_that_can_come_out_has_the_false_alarm_rate_at_most(declared, come, sampled):
    verdicts = Verdicts(1e-3, declared, lambda claim: None)
    every = [evidence(id=id, statistical=yes) for id, yes in zip(come, sampled, strict=False)]
    shares = {e.id: verdicts.share_of(e) for e in every}
    spent = sum(shares[e.id] for e in every if e.statistical)
    assert 0 <= spent <= 1e-3 * (1 + 1e-12)
    # What is declared is judged the same whatever else comes, and when
    assert {shares[id] for id in come if id in declared} <= {1e-3 / (len(declared) + 1)}


def test_a_claim_is_told_as_soon_as_nothing_can_change_it():
    """What is REFUTED at once, what is SUPPORTED once the slope has been examined."""
    heard = []
    verdicts = Verdicts(1e-6, ["engines-agree-slope", "late"], lambda c: heard.append(c.id))
    for e in (exact("right"), exact("wrong", measured=2.0), exact("blind", error=9.0)):
        verdicts.hear(e)
    assert heard == ["wrong", "blind"]
    verdicts.hear(slope())
    assert heard == ["wrong", "blind", "right", "engines-agree-slope"]
    assert [c.id for c in verdicts.claims] == ["right", "wrong", "blind", "engines-agree-slope"]


def test_a_claim_waits_for_its_own_slope_alone():
    ids = [f"engines-agree-slope{end}" for end in ("-one@a", "-two@a", "@b")]
    heard = []
    verdicts = Verdicts(1e-6, ids, lambda c: heard.append((c.id, c.outcome)))
    for e in (exact("x@a"), slope(ids[0]), slope(ids[1], error=9.0), exact("x@b"), exact("x@c")):
        verdicts.hear(e)
    assert heard == [(ids[0], S), ("x@a", I), (ids[1], I), ("x@c", S)]
    verdicts.close()
    assert heard[-1] == ("x@b", S)


def test_a_check_that_comes_too_late_is_no_check():
    with pytest.raises(ValueError, match="name it in the theorem's `sampled`"):
        told([exact("x"), slope("slopes-agree", error=9.0)], [])
    with pytest.raises(ValueError, match="two claims have the id x"):
        told([exact("x"), exact("x")], [])


# --- error rates


def inside(count, trials, p):
    return abs(count - trials * p) <= WIDE * np.sqrt(trials * p * (1 - p)) + 1


@pytest.mark.parametrize("sense", ["equal", "at least", "at most"])
def test_false_alarms_come_at_the_stated_rate(sense):
    """A report of two one-number claims at level 5%: 2,000 reports of true claims, binomial
    interval at 1e-6.
    """
    noise = np.random.default_rng(1).normal(size=(NULL_SEEDS, 2)) * 0.01
    wrong = sum(
        any(
            c.outcome is Outcome.REFUTED
            for c in told(
                [
                    evidence(id=id, measured=1 + x, sense=sense)
                    for id, x in zip("ab", row, strict=True)
                ],
                "a",
                0.05,
            )
        )
        for row in noise
    )
    assert inside(wrong, NULL_SEEDS, 1 - (1 - 0.025) ** 2)


def test_false_alarms_of_skewed_means():
    """Means of 256 exponential samples, downwards: the normal law alone errs almost twice as often
    as stated at 1 %.
    """
    x = 1 - np.random.default_rng(5).exponential(size=(10 * NULL_SEEDS, 256))
    t = x.mean(axis=1) / (x.std(axis=1, ddof=1) / 16)

    def alarms(skewness):
        seen = verdict(0.01, error=1.0, resolution=9.0, sense="at most", skewness=skewness)
        return np.sum(t > seen.detectable - z_score(1 - POWER))

    assert inside(alarms(2 / 16), len(t), 0.01)
    assert not inside(alarms(0.0), len(t), 0.01)
    assert alarms(-2 / 16) == alarms(0.0)  # what makes gaps rarer is not counted on


def test_false_alarms_of_a_claim_with_many_entries():
    noise = np.random.default_rng(2).normal(size=(NULL_SEEDS, 20)) * 0.01
    wrong = sum(verdict(0.05, measured=1 + row).outcome is Outcome.REFUTED for row in noise)
    assert inside(wrong, NULL_SEEDS, 1 - (1 - 0.05 / 20) ** 20)


@pytest.mark.parametrize("sense", ["equal", "at least", "at most"])
@pytest.mark.parametrize("allowance", [0.0, 0.02])
def test_the_gap_called_detectable_is_caught_with_probability_099(sense, allowance):
    seen = verdict(sense=sense, allowance=allowance)
    noise = np.random.default_rng(3).normal(size=POWER_SEEDS) * seen.error
    truth = 1 + seen.detectable * (1 if sense == "at most" else -1)
    caught = sum(
        verdict(sense=sense, allowance=allowance, measured=truth + x).outcome is Outcome.REFUTED
        for x in noise
    )
    assert inside(caught, POWER_SEEDS, POWER)


def test_the_gap_called_detectable_is_caught_in_one_entry_of_many():
    entries = np.ones(20)
    entries[7] += verdict(measured=entries).detectable
    noise = np.random.default_rng(4).normal(size=POWER_SEEDS) * 0.01
    caught = sum(
        verdict(measured=entries + x * (np.arange(20) == 7)).outcome is Outcome.REFUTED
        for x in noise
    )
    assert inside(caught, POWER_SEEDS, POWER)


# --- properties


@settings(deadline=None, max_examples=200)
@given(
    measured=finite,
    error=positive,
    allowance=st.floats(0, 1e6),
    resolution=positive,
    sense=st.sampled_from(["equal", "at least", "at most"]),
    statistical=st.booleans(),
    factor=st.floats(1, 1e6),
)
def test_an_error_beyond_the_resolution_supports_nothing(
    measured, error, allowance, resolution, sense, statistical, factor
):
    claim = verdict(
        measured=measured,
        error=resolution * factor + error,
        allowance=allowance,
        resolution=resolution,
        sense=sense,
        statistical=statistical,
    )
    assert claim.outcome is Outcome.INCONCLUSIVE


@settings(deadline=None, max_examples=200)
@given(
    measured=st.lists(finite, min_size=1, max_size=6),
    error=positive,
    allowance=st.floats(0, 1e3),
    resolution=positive,
)
def test_supported_means_detectable_within_resolution_and_gap_within_threshold(
    measured, error, allowance, resolution
):
    claim = verdict(
        measured=np.array(measured), error=error, allowance=allowance, resolution=resolution
    )
    z = z_score(1e-6 / 2 / len(measured))
    if claim.outcome is Outcome.SUPPORTED:
        assert claim.detectable <= resolution
        assert np.max(np.abs(np.array(measured) - 1)) <= allowance + z * error
    if claim.outcome is Outcome.REFUTED:
        assert abs(claim.measured - 1) > allowance + z * error


@settings(deadline=None, max_examples=100)
@given(measured=st.lists(finite, min_size=2, max_size=6), order=st.randoms())
def test_the_order_of_entries_does_not_matter(measured, order):
    shuffled = list(measured)
    order.shuffle(shuffled)
    one, other = verdict(measured=np.array(measured)), verdict(measured=np.array(shuffled))
    assert one.outcome is other.outcome
    if one.measured is not None and other.measured is not None:
        # Of entries that are as far over up to rounding either may be shown
        assert abs(one.measured - 1) == pytest.approx(abs(other.measured - 1), rel=1e-12, abs=0)


def test_claim_and_evidence_are_plain_data():
    claim = verdict(measured=np.float64(1.0), error=np.float32(0.01))
    assert all(
        x is None or type(x) in (str, float, Outcome) for x in dataclasses.asdict(claim).values()
    )
