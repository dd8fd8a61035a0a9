"""A number with its error: one type for all of popgd."""

from typing import Any, NamedTuple

import numpy as np


class Number(NamedTuple):
    """A number, or an array of numbers, with its error.

    value
    bound     what it can be off by without any sampling: truncation, rounding
    stderr    its standard error over what is sampled
    skewness  of that mean: 0 where gaps are as likely as the normal law says
    degrees   of freedom of the standard error; infinite where they do not matter
    """

    value: Any
    bound: Any = 0.0
    stderr: Any = 0.0
    skewness: Any = 0.0
    degrees: float = np.inf

    def __str__(self) -> str:
        return f"{self.value} +- {np.array2string(np.asarray(self.error), precision=2)}"

    @property
    def error(self) -> Any:
        """Bound and standard error added up."""
        return self.bound + self.stderr

    def moved(self, off: Any) -> "Number":
        """The number of a place that is known but for what moves it by `off`."""
        return self._replace(bound=self.bound + off)

    def over(self, scale: Any) -> "Number":
        """The number over one that is known, not 0."""
        size = abs(scale)
        return Number(
            self.value / scale,
            self.bound / size,
            self.stderr / size,
            self.skewness * np.sign(scale),
            self.degrees,
        )

    def plain(self) -> "Number":
        """One number, as Python's."""
        return Number(*(float(np.squeeze(x)) for x in self))

    def at(self, index: Any) -> "Number":
        """The numbers at an index of the arrays."""
        fields = (self.value, self.bound, self.stderr, self.skewness)
        picked = (x[index] if np.ndim(x) else x for x in fields)
        return Number(*picked, degrees=self.degrees)
