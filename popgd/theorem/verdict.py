"""From evidence to verdicts: the only place that decides.

Every claim is a gap (measured minus predicted) with a standard error and an allowance, judged by
one rule:

    threshold  = allowance + x * error,   x = z + skewness (2 z^2 + 1)/6,   z = z(false alarm)
    detectable = threshold + z(0.99) * error      the gap that would be caught with probability 0.99
    INCONCLUSIVE if detectable > resolution, else REFUTED if gap > threshold, else SUPPORTED.

The false-alarm rate is that of the whole report: it is split evenly over the statistical claims,
and over the entries of a claim that is made of many (Bonferroni). Normal approximation, or its
second order where a claim states the skewness of its mean: that of one sample over the root of
their number (Hall 1983, for studentised means), and Student's t where it states the degrees of
freedom of its error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import NormalDist
from typing import Any

import numpy as np

from popgd.claims.evidence import Evidence

#: A gap of the size called detectable is caught with this probability.
POWER = 0.99


class Outcome(StrEnum):
    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_APPLICABLE = "NOT APPLICABLE"
    NOT_TRUSTED = "NOT TRUSTED"  # of a report alone


@dataclass(frozen=True)
class Claim:
    """A judged claim, or self-check; numbers are those of its worst entry. None where there is no
    finite number to tell.
    """

    id: str
    statement: str
    source: str
    origin: str
    predicted: float | None
    measured: float | None
    error: float | None
    allowance: float | None
    resolution: float | None
    detectable: float | None
    outcome: Outcome
    reason: str
    self_check: str = ""


def z_score(tail: float) -> float:
    """The standard normal quantile that is exceeded with probability `tail`, accurate for tiny
    tails.

    Valid for 0 < tail < 1; ValueError otherwise.
    """
    return -NormalDist().inv_cdf(tail)


def student(z: Any, degrees: float) -> Any:
    """The quantile of Student's t that has the tail of the normal quantile z.

    Above it by at most 1.5 % down to tails of 1e-12 from 15 degrees of freedom on; infinite for
    fewer than 2. Source: Gaver, Kafadar, American Statistician 38 (1984) 308.
    """
    if degrees == np.inf:
        return z
    if degrees < 2:
        return np.inf
    return np.sqrt(degrees * np.expm1(z * z * (degrees - 1.5) / (degrees - 1) ** 2))


def judge(evidence: Sequence[Evidence], false_alarm: float) -> list[Claim]:
    """Judge all evidence of one report, at this false-alarm rate for the whole."""
    share = false_alarm / max(1, sum(e.statistical for e in evidence))
    return [_judge_one(e, share) for e in evidence]


def _judge_one(e: Evidence, false_alarm: float) -> Claim:
    measured, error, allowance, resolution = (
        np.asarray(x, dtype=np.float64).ravel()
        for x in np.broadcast_arrays(
            e.measured if np.size(e.measured) else np.nan, e.error, e.allowance, e.resolution
        )
    )
    gap = measured - e.predicted
    gap = {"equal": abs(gap), "at least": -gap, "at most": gap}[e.sense]
    sides = 2 if e.sense == "equal" else 1
    z = z_score(false_alarm / sides / measured.size) if e.statistical else 1.0
    power = z_score(1 - POWER) if e.statistical else 1.0
    if e.statistical:
        z = student(z, e.degrees) + np.maximum(np.ravel(e.skewness), 0.0) * (2 * z * z + 1) / 6
        power = student(power, e.degrees)
    threshold = allowance + z * error
    detectable = threshold + power * error
    finite = np.isfinite(gap) & np.isfinite(detectable) & (error >= 0)
    blind = ~finite | ~(detectable <= resolution)  # a resolution that is NaN sees nothing
    refuted = ~blind & (gap > threshold)
    # The entry shown: the one furthest over its threshold, as a multiple of it, if one that can see
    # is over it, else a blind one, else the closest.
    with np.errstate(all="ignore"):
        share = np.nan_to_num(gap / threshold, nan=0.0, posinf=np.inf, neginf=-np.inf)
    worst = int(np.argmax(np.where(blind, -np.inf if refuted.any() else np.inf, share)))
    reason = e.reason
    if e.excuse:
        outcome, reason = Outcome.INCONCLUSIVE, e.excuse
    elif refuted.any():
        outcome = Outcome.REFUTED
    elif blind.any():
        outcome = Outcome.INCONCLUSIVE
        reason = reason if finite.all() else "not a finite number; " + reason
    else:
        outcome = Outcome.SUPPORTED
    shown = {
        "measured": measured,
        "error": error,
        "allowance": allowance,
        "resolution": resolution,
        "detectable": detectable,
    }
    numbers = {name: _finite(float(values[worst])) for name, values in shown.items()}
    return Claim(
        e.id,
        e.statement,
        e.source,
        e.origin,
        _finite(e.predicted),
        outcome=outcome,
        reason=reason,
        self_check=e.self_check,
        **numbers,
    )


def _finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def not_applicable(claim: Claim, reason: str) -> Claim:
    return replace(claim, outcome=Outcome.NOT_APPLICABLE, reason=reason)


def unchecked(judged: Sequence[Claim]) -> list[Claim]:
    """The same with every SUPPORTED claim INCONCLUSIVE for whose target the slope of the loss is
    not known by two engines.

    The target is what follows "@" in an id.
    """
    blind = {
        target_of(c): c
        for c in judged
        if c.self_check == "slope" and c.outcome is Outcome.INCONCLUSIVE
    }

    def one(claim: Claim) -> Claim:
        check = blind.get(target_of(claim))
        if claim.self_check or claim.outcome is not Outcome.SUPPORTED or check is None:
            return claim
        reason = f"unchecked: {check.id} could not tell ({check.reason})"
        return replace(claim, outcome=Outcome.INCONCLUSIVE, reason=reason)

    return [one(claim) for claim in judged]


def target_of(claim: Claim) -> str:
    return claim.id.partition("@")[2]


def overall(judged: Sequence[Claim]) -> Outcome:
    """NOT TRUSTED if a self-check is REFUTED; else REFUTED if any claim is, else INCONCLUSIVE if
    any is, else NOT APPLICABLE if any claim or self-check is, else SUPPORTED.

    INCONCLUSIVE without any claim. A self-check that is INCONCLUSIVE does not count: what rests on
    it is `unchecked`.
    """
    if any(c.self_check and c.outcome is Outcome.REFUTED for c in judged):
        return Outcome.NOT_TRUSTED
    outcomes = [c.outcome for c in judged if not c.self_check]
    for outcome in (Outcome.REFUTED, Outcome.INCONCLUSIVE):
        if outcome in outcomes:
            return outcome
    if any(c.outcome is Outcome.NOT_APPLICABLE for c in judged):
        return Outcome.NOT_APPLICABLE
    return Outcome.SUPPORTED if outcomes else Outcome.INCONCLUSIVE
