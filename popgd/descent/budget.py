"""Seconds that second stages of sampling may take. Time decides only whether one begins: what is
estimated never depends on it.
"""

from typing import NamedTuple

import numpy as np

from popgd.descent import processes


class Cut(NamedTuple):
    """What was not begun: how many samples it is, and some how many seconds they take here."""

    what: str
    samples: float
    seconds: float


class Budget:
    """`seconds` for all second stages of a run together; `cut` lists those that did not fit."""

    def __init__(self, seconds: float = np.inf) -> None:
        self.left = seconds
        self.cut: list[Cut] = []

    def allows(self, what: str, samples: float, seconds: float) -> bool:
        """Whether work that takes some so many seconds may begin: the first process decides, for
        all. If not it is `cut`.
        """
        fits = processes.from_first(b"1" if seconds <= self.left else b"0") == b"1"
        if not fits:
            self.cut.append(Cut(what, samples, seconds))
        return fits

    def spend(self, seconds: float) -> None:
        self.left -= seconds
