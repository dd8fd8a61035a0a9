"""The settings that the theorems of this paper declare."""

from typing import Any

from popgd.theorem.readers import number, numbers, whole
from popgd.theorem.settings import Option


def _numbers_or_matrix(value: Any) -> tuple:
    """Positive numbers, or from Python the rows of a matrix."""
    rows = [] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    if any(hasattr(row, "__iter__") for row in rows):
        return tuple(tuple(number(x) for x in row) for row in rows)
    return numbers(rows or value)


#: Those that make the law.
LAW = {
    "d": Option(None, whole(1), "data dimension"),
    "n": Option(50, whole(1), "number of examples in a prompt"),
    "covariance": Option(
        None,
        _numbers_or_matrix,
        "eigenvalues of the covariance Sigma of the inputs; from Python a matrix too",
    ),
}
LOOPS = {"L": Option(2, whole(1), "number of loops")}
SHIFT = {
    "shift": Option(
        None,
        numbers,
        "eigenvalues of Sigma^-1 Sigma_test where the test law is another (default 0.6 to 1.4)",
    )
}
