"""What a claim hands to the verdict: numbers with their errors, and nothing decided."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Evidence:
    """What was measured for one claim, before anything is decided.

    measured, error, allowance and resolution are numbers, or arrays of one shape for a claim that
    holds entry by entry: it is judged at its worst entry, and INCONCLUSIVE without any. error is a
    standard error if `statistical`, else a bound. sense says what is claimed of the measured value:
    equal to the prediction, at least or at most that. skewness, of the mean, and few degrees of
    freedom of the error make gaps likelier than the normal law says; 0 and inf where they do not
    matter. `excuse` is why nothing can be concluded here (outside the asymptotic range, a descent
    that broke off), or empty. self_check says what of popgd itself is examined, where it is no
    claim of the theorem's: the slope of the loss, on which all else rests, by two engines; their
    gradients and descents; the reduced dynamics; rounding. drawn is the setting (name, value) with
    whose root the error falls: a claim that is INCONCLUSIVE says which value would settle it.
    """

    id: str
    statement: str
    source: str
    predicted: float
    measured: Any
    error: Any
    allowance: Any
    resolution: Any
    reason: str
    origin: Literal["paper", "derived"] = "paper"
    sense: Literal["equal", "at least", "at most"] = "equal"
    statistical: bool = True
    excuse: str = ""
    skewness: Any = 0.0
    degrees: float = np.inf
    self_check: Literal["", "slope", "engines", "dynamics", "rounding"] = ""
    drawn: tuple[str, int] = ("", 0)


def known(id: str, statement: str, source: str, **rest: Any) -> Evidence:
    """Of a number that is known but for a bound, `error`, by default exactly. The rest are fields
    of `Evidence`; predicted and allowance are 0 by default.
    """
    return _of(id, statement, source, {"error": 0.0, **rest}, statistical=False)


def estimated(id: str, statement: str, source: str, **rest: Any) -> Evidence:
    """Of an estimated number, whose standard error is `error`. The rest are fields of `Evidence`;
    predicted and allowance are 0 by default.
    """
    return _of(id, statement, source, rest, statistical=True)


def _of(id: str, statement: str, source: str, rest: dict[str, Any], statistical: bool) -> Evidence:
    """What is derived says so in its source."""
    origin = "derived" if source.startswith("derived") else "paper"
    by_default = {"predicted": 0.0, "allowance": 0.0, "origin": origin}
    return Evidence(id, statement, source, **{**by_default, **rest}, statistical=statistical)
