"""A conjecture: a line of code that makes a claim, and what it was read off."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from popgd.claims.measured import Measured
from popgd.explore import words
from popgd.problem.errors import SettingError
from popgd.theorem.verdict import Outcome, judge

#: Each line is judged on the path that it was read off before it is printed, at this rate.
FALSE_ALARM = 1e-6


@dataclass(frozen=True)
class Conjecture:
    """One claim that could be made.

    line      code that makes the claim: `claims.…(…)`, w the weights, `exact` the exact loss
    says      the same in words
    value     the number that was estimated, and `error`: its standard error where it was sampled,
              else an estimate of the error of the extrapolation; NaN where there is no number
    why       what it rests on
    flow      holds of gradient flow alone; descent moves it a little
    """

    line: str
    says: str
    value: float = np.nan
    error: float = np.nan
    why: str = ""
    flow: bool = False


def holds(line: str, measured: Measured) -> bool:
    """Whether every part of the claim comes out SUPPORTED on this path. A line that cannot be
    judged on it does not.
    """
    try:
        with np.errstate(all="ignore"):  # distances of 0 from a limit
            found = [judge(e, FALSE_ALARM) for e in words.claim(line, measured.problem)(measured)]
    except SettingError:
        return False
    return bool(found) and all(c.outcome is Outcome.SUPPORTED for c in found)


def kept(found: Iterator[Conjecture], measured: Measured) -> list[Conjecture]:
    """Those that hold on the path that they were read off."""
    return [c for c in found if holds(c.line, measured)]


def _quoted(name: str) -> str:
    """A name in code."""
    return '"' + name.replace('"', "'") + '"'


def line(kind: str, of: str, name: str, **values: Any) -> str:
    """The code of a claim about a read-out that is itself given as code; values are code too."""
    words_ = [f"lambda w: {of}", *(f"{key}={value}" for key, value in values.items())]
    return f"claims.{kind}({', '.join(words_)}, name={_quoted(name)})"
