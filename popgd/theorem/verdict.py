"""From evidence to verdicts: the only place that decides.

Every claim is a gap (measured minus predicted) with a standard error and an allowance, judged by
one rule:

    threshold  = allowance + x * error,   x = z + skewness (2 z^2 + 1)/6,   z = z(false alarm)
    detectable = threshold + z(0.99) * error      the gap that would be caught with probability 0.99
    INCONCLUSIVE if detectable > resolution, else REFUTED if gap > threshold, else SUPPORTED.

The false-alarm rate is that of the whole report. It is split before anything is drawn, evenly over
all statistical claims that may come out (`Verdicts`), so that each is judged, finally, as soon as
its own evidence is there; a claim's share is split over the entries it is made of (Bonferroni).
Normal approximation, or its second order where a claim states the skewness of its mean: that of one
sample over the root of their number (Hall 1983, for studentised means), and Student's t where it
states the degrees of freedom of its error.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import NormalDist
from typing import Any

import numpy as np

from popgd.claims.evidence import Evidence

#: A gap of the size called detectable is caught with this probability.
POWER = 0.99
#: How the id of every check of the slope of the loss begins.
SLOPE = "engines-agree-slope"


class Outcome(StrEnum):
    """What is said of a claim, and of a whole report."""

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


def judge(e: Evidence, false_alarm: float) -> Claim:
    """Judge the evidence of one claim, whose share of the false-alarm rate is this."""
    numbers_of = (e.measured, e.error, e.allowance, e.resolution)
    if not np.size(e.measured):  # what else comes entry by entry is as empty
        e = replace(e, skewness=0.0, excuse=e.excuse or f"nothing could be measured; {e.reason}")
        numbers_of = (np.nan,) * 4
    measured, error, allowance, resolution = (
        np.asarray(x, dtype=np.float64).ravel() for x in np.broadcast_arrays(*numbers_of)
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
        with np.errstate(all="ignore"):
            share = np.max((detectable - allowance) / (resolution - allowance))
        reason += _more(e, float(share))
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


def _more(e: Evidence, share: float) -> str:
    """What would make the error smaller by this factor, and so settle a claim; "" if nothing."""
    name, value = e.drawn
    if not name or not 1 < share < np.inf:
        return ""
    wanted = float(f"{value * share**2 * 1.05:.2g}")
    return f"; {name}={wanted:.0f} would settle it, {wanted / value:.2g} times as many"


def _finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def not_applicable(claim: Claim, reason: str) -> Claim:
    return replace(claim, outcome=Outcome.NOT_APPLICABLE, reason=reason)


def unchecked(claim: Claim, checks: Sequence[Claim]) -> Claim:
    """The same, but INCONCLUSIVE if it is SUPPORTED and the slope of its target's loss is not known
    by two engines.

    checks are those of slopes; the target is what follows "@" in an id.
    """
    blind = [
        c for c in checks if c.outcome is Outcome.INCONCLUSIVE and _same_target(c.id, claim.id)
    ]
    if claim.self_check or claim.outcome is not Outcome.SUPPORTED or not blind:
        return claim
    reason = f"unchecked: {blind[-1].id} could not tell ({blind[-1].reason})"
    return replace(claim, outcome=Outcome.INCONCLUSIVE, reason=reason)


def _same_target(one: str, other: str) -> bool:
    """Whether two ids are of claims about the same target."""
    return one.partition("@")[2] == other.partition("@")[2]


class Verdicts:
    """Claims judged one by one, each finally: `told` hears of each once, and it never changes.

    ids are those of all evidence that may rest on sampling: each has the same share of
    `false_alarm`. One share more is a reserve, of which a statistical claim with any other id has
    half of what is left. So all that can come out refutes a true theorem with probability
    `false_alarm` at most. A claim that may be `unchecked` waits for all checks of its target's
    slope among the ids, or for `close`. `amended` is what becomes of a claim because of what was
    known before.
    """

    def __init__(
        self,
        false_alarm: float,
        ids: Iterable[str],
        told: Callable[[Claim], None],
        amended: Callable[[Claim], Claim] = lambda claim: claim,
    ) -> None:
        self._to_come = set(ids)
        self._share = self._reserve = false_alarm / (len(self._to_come) + 1)
        self._told, self._amended = told, amended
        self._waiting: list[Claim] = []
        self._checks: list[Claim] = []
        self._order: list[str] = []
        self._final: dict[str, Claim] = {}

    def hear(self, e: Evidence) -> None:
        """Judge the evidence of a claim. Raises ValueError if one with its id has been judged, or
        claims that rest on this check of a slope.
        """
        if e.id in self._order:
            raise ValueError(f"two claims have the id {e.id}: give them names of their own")
        claim = judge(e, self.share_of(e))
        self._order.append(e.id)
        if claim.self_check == "slope":
            if any(self._rests_on(c, claim) for c in self._final.values()):
                raise ValueError(
                    f"{e.id} is a check of the slope, and claims that rest on it are judged: let "
                    f"its id begin with {SLOPE}, and name it in the theorem's `sampled`"
                )
            self._checks.append(claim)
        self._waiting.append(claim)
        self._settle(lambda claim: self._waits(claim))

    def close(self) -> None:
        """There is no more evidence: judge what still waits."""
        self._settle(lambda claim: False)

    @property
    def claims(self) -> list[Claim]:
        """Those that were told, in the order of their evidence."""
        return [self._final[id] for id in self._order if id in self._final]

    def share_of(self, e: Evidence) -> float:
        """The false-alarm rate of a claim. It is then spent."""
        if e.statistical and e.id not in self._to_come:
            self._reserve /= 2
            return self._reserve
        self._to_come.discard(e.id)
        return self._share

    @staticmethod
    def _rests_on(claim: Claim, check: Claim) -> bool:
        supported = claim.outcome is Outcome.SUPPORTED and not claim.self_check
        return supported and _same_target(claim.id, check.id)

    def _waits(self, claim: Claim) -> bool:
        awaited = (
            id for id in self._to_come if id.startswith(SLOPE) and _same_target(id, claim.id)
        )
        return not claim.self_check and claim.outcome is Outcome.SUPPORTED and any(awaited)

    def _settle(self, waits: Callable[[Claim], bool]) -> None:
        settled = [claim for claim in self._waiting if not waits(claim)]
        self._waiting = [claim for claim in self._waiting if waits(claim)]
        for claim in settled:
            self._final[claim.id] = self._amended(unchecked(claim, self._checks))
            self._told(self._final[claim.id])


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
