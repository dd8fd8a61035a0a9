"""What counts as rounding, as equal, and as a whole number: one definition each, for all of
popgd.
"""

from collections.abc import Sequence
from operator import index

import numpy as np
from jaxtyping import Float

#: Unit roundoff of float64: a rounded result is off by this share of itself at most.
UNIT = 2.0**-53
#: Eigenvalues no further than this below the largest of their group, relative to it, count as one
#: multiple eigenvalue.
EQUAL_RTOL = 1e-9
#: Gaps within this factor of EQUAL_RTOL, on either side, are reported: rounding of the input may
#: decide them.
DOUBTFUL = 10.0


def whole(least: int = 1, **values) -> list[int]:
    """The values as Python's integers, which do not overflow; ValueError if one is not a whole
    number >= least.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not hasattr(value, "__index__") or index(value) < least:
            raise ValueError(
                f"got {name} = {value!r}, wanted a whole number >= {least}: give an integer "
                "(10**7, not 1e7)"
            )
    return [index(value) for value in values.values()]


def multiplicities(lam: Sequence[float] | Float[np.ndarray, " d"]) -> list[int]:
    """How many of the eigenvalues, given descending, belong to each distinct one. The first number
    is r.
    """
    sizes, largest = [], 0.0
    for value in np.asarray(lam, dtype=np.float64).tolist():
        if sizes and largest - value <= EQUAL_RTOL * largest:
            sizes[-1] += 1
        else:
            sizes.append(1)
            largest = value
    return sizes


def doubtful_gap(lam: Sequence[float] | Float[np.ndarray, " d"]) -> str:
    """In words, whether the multiplicity of the largest of the descending eigenvalues hangs on
    EQUAL_RTOL; empty if not.
    """
    lam = np.asarray(lam, dtype=np.float64)
    gaps = (lam[0] - lam[1:]) / lam[0]
    near = gaps[(gaps >= EQUAL_RTOL / DOUBTFUL) & (gaps <= EQUAL_RTOL * DOUBTFUL)]
    if not near.size:
        return ""
    return (
        f"an eigenvalue lies {near[0]:.3g} lambda_1 below lambda_1, within a factor of "
        f"{DOUBTFUL:g} of "
        f"{EQUAL_RTOL:g}, below which they count as equal: the multiplicity r = "
        f"{multiplicities(lam)[0]} hangs on that"
    )
