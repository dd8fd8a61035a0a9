"""`judge_path`: claims about a path that another program recorded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from popgd.claims.evidence import Evidence
from popgd.claims.measured import Measured
from popgd.claims.recorded import Recorded, Unrecorded, recorded
from popgd.problem.errors import SettingError
from popgd.theorem.settings import TABLE
from popgd.theorem.verdict import Claim, Outcome, Verdicts, overall


@dataclass(frozen=True)
class Judged:
    """What `judge_path` found: the outcome, the judged claims, what no claim about the record can
    know, and the record.
    """

    outcome: Outcome
    claims: tuple[Claim, ...]
    unknown: tuple[str, ...]
    recorded: Recorded

    def to_json(self) -> dict[str, Any]:
        """The same as plain data, without the record."""
        return {
            "outcome": str(self.outcome),
            "claims": [{**claim.__dict__, "outcome": str(claim.outcome)} for claim in self.claims],
            "unknown": list(self.unknown),
        }


def judge_path(
    path: Any,
    claims: Sequence[Callable[[Measured], Any]],
    *,
    exact: bool = False,
    false_alarm: float = TABLE["false_alarm"].default,
) -> Judged:
    """Judge weights that another program recorded.

    path         an .npz file of `step` and leaves, or a mapping of such arrays, as in
                 `popgd.claims.recorded`; a list of them, one a seed
    claims       of `popgd.claims`, or functions from what was measured to `Evidence`
    exact        every step had the population gradient: full batch, or a closed form
    false_alarm  the probability that true claims are refuted, for all together

    Of one run that is not exact nothing is SUPPORTED or REFUTED, as its noise is unknown; of
    several the spread is the error. A claim that needs more than weights (the loss, another start,
    what one step adds) is INCONCLUSIVE. Raises SettingError for a record that cannot be used.
    """
    if not claims:
        raise SettingError("no claim: give at least one of popgd.claims")
    record = recorded(path, exact)
    evidence = [e for i, claim in enumerate(claims) for e in _evidence(claim, record, i)]
    verdicts = Verdicts(false_alarm, (e.id for e in evidence if e.statistical), lambda claim: None)
    for e in evidence:
        verdicts.hear(e)
    verdicts.close()
    return Judged(overall(verdicts.claims), tuple(verdicts.claims), record.unknown, record)


def _evidence(claim: Any, record: Recorded, number: int) -> Iterator[Evidence]:
    try:
        found, why = list(claim(record)), "it says nothing of recorded weights: judge a Problem"
    except Unrecorded as error:
        found, why = [], str(error)
    name = getattr(claim, "__qualname__", type(claim).__name__).split(".")[0]
    nothing = Evidence(
        f"{name}-{number}", "needs more than weights", "", np.nan, np.nan, np.nan, 0.0, 0.0,
        "", excuse=why, statistical=False,
    )  # fmt: skip
    for e in found or [nothing]:
        if record.unfinished:
            yield replace(e, error=np.nan, excuse=record.unfinished)
        elif e.statistical:
            yield replace(e, reason=f"standard error of {len(record.weights)} seeds; {e.reason}")
        else:
            yield e
