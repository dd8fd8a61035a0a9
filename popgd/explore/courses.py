"""Where a read-out goes: a limit, a power of t, a logarithm, or nothing that can be told.

A power has two routes, which must agree: differences of log x from record to record, and t dx/x
from the increments. A logarithm is t dx -> A, and is never called a power.
"""

from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from popgd.claims.growth import CONSTANT, EXPONENT, Limit, exponent_of, extrapolate, late_records
from popgd.claims.limits import LIMIT, to_come
from popgd.claims.measured import Reading
from popgd.explore import words

#: A number counts as not 0 beyond so many of its errors.
SEEN = 10.0
#: What moves less than this share of the largest read-out is rounding of a sum.
STILL = 1e-12

Kind = Literal["still", "limit", "towards", "power", "logarithm", "unknown"]


class Course(NamedTuple):
    """Where a read-out goes: a limit `value`; an exponent `value`, whose other route gives
    `other`; the A of A log t. `constant` is that of the increments of |x|^(1/p), NaN where that is
    not known.
    """

    kind: Kind
    value: float
    error: float
    other: float = np.nan
    constant: float = np.nan


UNKNOWN = Course("unknown", np.nan, np.nan)


def course(reading: Reading, step: Float[np.ndarray, " records"], scale: float) -> Course:
    """Of one number x at the records; `step` is what a step adds to it, of a flow dx/dt; `scale`
    the size of the largest of its like.
    """
    x, e = reading.value, reading.error
    if not np.all(np.isfinite(x)):  # beyond float64
        return UNKNOWN
    moved = float(np.max(abs(x - x[0])))
    if moved <= max(4 * float(np.max(e)), STILL * scale):
        return Course("still", float(x[-1]), float(e[-1]))
    falls = power(reading, step)
    way = max(abs(float(x[-1])), moved)
    rest = float(to_come(reading))
    if falls.kind == "power":
        return falls
    if rest <= LIMIT * way:
        return Course("limit", float(x[-1]), rest + float(e[-1]))
    found = logarithm(reading, step)
    return found if found.kind != "unknown" else towards(reading, way)


def towards(reading: Reading, way: float) -> Course:
    """A limit that is not reached yet, extrapolated as one that is neared like a power of t."""
    late = late_records(reading)
    found, excuse = extrapolate(reading.value[late], reading.error[late])
    if excuse or not found.error <= CONSTANT * way:
        return UNKNOWN
    return Course("towards", found.value, found.error)


def power(reading: Reading, step: Float[np.ndarray, " records"]) -> Course:
    """K t^p with p from the records and from the increments."""
    late = late_records(reading)
    t, x, e = reading.t[late], abs(reading.value[late]), reading.error[late]
    first = exponent_of(t, x, e)
    with np.errstate(all="ignore"):
        local = t * step[late] * np.sign(reading.value[late]) / x
        second = extrapolate(local, abs(local) * e / x)
    both = _same(first, second)
    if both is None:
        return UNKNOWN
    (p, error), other = both
    if not (error <= EXPONENT * abs(p) and abs(p) > SEEN * error):
        return UNKNOWN
    written = words.exponent(p, error)
    constant = _constant(x, e, step[late], float(Fraction(written)))
    if "/" in written and not np.isfinite(constant):
        return UNKNOWN
    return Course("power", p, error, other, constant)


def _same(first: Limit, second: Limit) -> tuple[tuple[float, float], float] | None:
    """The one of two routes that is known better, with an error that holds their gap, and the
    other; None where they do not agree, or one of them leads nowhere.
    """
    (one, no_one), (two, no_two) = first, second
    gap = abs(one.value - two.value)
    if no_one or no_two or not gap <= 2 * (one.error + two.error) + 1e-9:
        return None
    better, other = sorted((one, two), key=lambda number: number.error)
    return (better.value, max(better.error, gap)), other.value


def _constant(x: np.ndarray, e: np.ndarray, step: np.ndarray, p: float) -> float:
    """The limit of the increments of x^(1/p): a logarithm beside the power has none."""
    with np.errstate(all="ignore"):
        rate = abs(step) * x ** (1 / p - 1) / p
        found, excuse = extrapolate(rate, abs(rate) * abs(1 / p - 1) * e / x)
    seen = not excuse and found.error <= CONSTANT * abs(found.value)
    return found.value if seen else np.nan


def logarithm(reading: Reading, step: Float[np.ndarray, " records"]) -> Course:
    """A log t, from t dx -> A; its other route is the difference of x over that of log t."""
    late = late_records(reading)
    t, x, e = reading.t[late], reading.value[late], reading.error[late]
    if len(late) < 3:
        return UNKNOWN
    with np.errstate(all="ignore"):
        first = extrapolate(t * step[late], abs(t * step[late]) * e / abs(x))
        second = extrapolate(np.diff(x) / np.diff(np.log(t)), (e[1:] + e[:-1]) / np.diff(np.log(t)))
    both = _same(first, second)
    if both is None:
        return UNKNOWN
    (A, error), other = both
    if not (abs(A) > SEEN * error and error <= EXPONENT * abs(A)):
        return UNKNOWN
    return Course("logarithm", A, error, other)
