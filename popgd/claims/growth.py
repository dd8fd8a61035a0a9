"""Claims about growth without known constants: grows, increments_converge, time_to.

Sequences over a log grid are extrapolated by Aitken's rule, which is right for v + k t^-theta with
any theta > 0. A logarithm looks like a very small theta: it is told by 1/(1 - rho), rho the factor
by which successive differences fall, which rises with log t instead of staying; then nothing is
concluded.
"""

from collections.abc import Callable, Iterator
from math import log
from typing import Any, cast

import numpy as np

from popgd.claims.evidence import Evidence
from popgd.claims.limits import MORE, RATE, Claim, _evidence, _source, unread
from popgd.claims.measured import Measured, Reading, ReadOut, called, increments, read_out
from popgd.problem.errors import SettingError
from popgd.problem.number import Number

#: Records, eight a decade, from one point of an extrapolation to the next, and back to the earlier
#: one whose rho it is compared with: t/17.8.
STRIDE, BACK = 3, 10
#: Differences must fall by a factor of less than this, and its 1/(1 - rho) rise by less than RISE a
#: doubling.
GEOMETRIC, RISE = 0.9, 0.1
#: An exponent that is off by this share must be seen.
EXPONENT = 0.02
#: To which a constant or an increment must be known.
CONSTANT = 1e-3
#: Records before this are no asymptotics.
EARLIEST = 1e2


#: A limit, and why it means nothing, or empty.
Limit = tuple[Number, str]
UNKNOWN = Number(np.nan, np.nan)


def extrapolate(v: np.ndarray, e: np.ndarray) -> Limit:
    """The limit of a sequence over a log grid with errors e, from its last values."""
    if len(v) < 2 * STRIDE + BACK + 2 or not np.all(np.isfinite(v[-2 * STRIDE - BACK - 1 :])):
        return UNKNOWN, f"too few records: {MORE}"
    at = lambda k: v[[k - 2 * STRIDE, k - STRIDE, k]]
    last = len(v) - 1
    noise = float(np.max(e[last - 2 * STRIDE - BACK :]))
    a, b, c = at(last)
    if abs(c - b) <= 4 * noise and abs(b - a) <= 4 * noise:
        return Number(float(c), noise + abs(c - a)), ""
    now, rho = _aitken(a, b, c)
    if not 0 < rho < GEOMETRIC:
        why = f"not yet near a limit (differences fall by {rho:.3g}): {MORE}"
        return Number(float(c), np.nan), why
    _, early = _aitken(*at(last - BACK))
    doublings = BACK / 8 * log(10, 2)
    rise = (1 / (1 - rho) - 1 / (1 - early)) / doublings if early < 1 else np.inf
    if abs(rise) > RISE:
        return Number(now, np.nan), "a logarithm, or small powers of t, would look like this"
    before, _ = _aitken(*at(last - 2))
    amplified = noise * (1 + 2 / (1 - rho)) ** 2
    return Number(now, max(abs(now - c) / 2, abs(now - before)) + amplified), ""


def _aitken(a: float, b: float, c: float) -> tuple[float, float]:
    with np.errstate(all="ignore"):
        return float(c - (c - b) ** 2 / (c - 2 * b + a)), float(np.divide(c - b, b - a))


def late_records(reading: Reading) -> np.ndarray:
    """Records on the even log grid: not the last one if it was put in between."""
    t = reading.t
    late = np.flatnonzero(t >= EARLIEST * max(t[1], 1e-300) if t[1] < 1 else t >= EARLIEST)
    if len(late) > 2 and t[late[-1]] / t[late[-2]] < 0.9 * t[late[-2]] / t[late[-3]]:
        late = late[:-1]
    return late


def exponent_of(t: np.ndarray, x: np.ndarray, e: np.ndarray) -> Limit:
    """p where x grows like K t^p, from values x > 0 over a log grid with errors e."""
    with np.errstate(all="ignore"):
        span = np.log(t[STRIDE:] / t[:-STRIDE])
        p = np.log(x[STRIDE:] / x[:-STRIDE]) / span
        noise = (e[STRIDE:] / x[STRIDE:] + e[:-STRIDE] / x[:-STRIDE]) / span
    return extrapolate(p, noise)


def _scalar(reading: Reading, of: ReadOut) -> Reading:
    """The same. Raises SettingError unless the read-out is one number."""
    if (shape := reading.value.shape[1:]) != ():
        raise SettingError(
            f"{called(of)} has shape {shape}: growth is of one number, as of lambda w: w['a'][0]"
        )
    return reading


def grows(
    of: ReadOut, like: float, constant: float | None = None, name: str = "", source: str = ""
) -> Claim:
    """A scalar read-out grows like K t^like with a correction that falls like a power of t; with
    `constant`, K is that.

    INCONCLUSIVE where the exponent is not near its limit, or a logarithm cannot be excluded.
    """

    def claim(measured: Measured) -> Iterator[Evidence]:
        reading = _scalar(measured.read(of).thinned(), of)
        late = late_records(reading)
        t, x, e = reading.t[late], abs(reading.value[late]), reading.error[late]
        found = exponent_of(t, x, e)
        word = name or called(of)
        yield _judged(
            measured,
            reading,
            f"exponent-{word}",
            f"{word} grows like t^p: p",
            like,
            found,
            EXPONENT * abs(like),
            source,
        )
        if constant is not None:
            with np.errstate(all="ignore"):
                scale = constant * t**like
                ratio = extrapolate(x / scale, e / abs(scale))
            yield _judged(
                measured,
                reading,
                f"constant-{word}",
                f"{word}/t^p over its constant",
                1.0,
                ratio,
                CONSTANT,
                source,
            )

    return claim


def increments_converge(
    of: ReadOut, power: float, to: float | None = None, name: str = "", source: str = ""
) -> Claim:
    """of^power at t + 1 minus of^power at t converges, to `to` if that is given; of a flow the
    derivative.
    """

    def claim(measured: Measured) -> Iterator[Evidence]:
        if measured.without_exact:
            word = name or called(of)
            yield unread(measured, f"increments-{word}", f"increments of {word}^{power:g}", source)
            return
        reads = read_out(measured.start, of)
        reading, (steps, left) = (
            _scalar(measured.read(of), of),
            increments(measured, lambda w: reads(w) ** power),
        )
        late = late_records(reading)
        x, e = abs(reading.value[late]), reading.error[late]
        with np.errstate(all="ignore"):
            error = left[late] + abs(steps[late]) * (abs(power) + 2) * e / x
        found, excuse = extrapolate(steps[late], error)
        word, wanted = name or called(of), to if to is not None else found.value
        scale = abs(wanted) or 1.0
        found = Number(found.value / scale, found.error / scale), excuse
        yield _judged(
            measured,
            reading,
            f"increments-{word}",
            f"increments of {word}^{power:g}",
            wanted / scale,
            found,
            CONSTANT,
            source,
        )

    return claim


def _judged(
    measured: Measured,
    reading: Reading,
    id: str,
    statement: str,
    predicted: float,
    limit: Limit,
    resolution: float,
    source: str,
) -> Evidence:
    found, excuse = limit
    return _evidence(
        measured,
        reading,
        id=id,
        statement=statement,
        predicted=predicted,
        measured=found.value,
        error=found.error,
        allowance=0.0,
        resolution=resolution,
        reason="extrapolated: half of its correction, and its change",
        excuse=excuse,
        **_source(source),
    )


def time_to(
    of: ReadOut,
    level: float,
    starts: Callable[[float], Any],
    sizes: tuple[float, ...],
    like: float | None = None,
    rate: float | Callable[[Measured], float] | None = None,
    name: str = "",
    source: str = "",
) -> Claim:
    """The time at which the read-out first reaches `level` from starts(size), as the size falls:
    it grows like size^like, or like log(1/size)/rate. In steps; of a flow in time. At least five
    sizes, evenly in their logarithm, falling; starts on the plane that descent stays on.

    One of the two laws is never taken for the other: a power has no rate, nor a logarithm an
    exponent, and the claim is INCONCLUSIVE. So it is of log(1/size)^2. Raises ValueError for other
    sizes, and unless one of like and rate is given.
    """
    if len(sizes) < 5 or np.ptp(np.diff(np.log(sizes))) > 1e-6 or sizes[-1] > sizes[0]:
        raise ValueError(f"sizes={sizes}: five or more, falling, evenly in their logarithm")
    if (like is None) == (rate is None):
        raise ValueError(f"like={like}, rate={rate}: give the exponent of size, or the rate")

    def claim(measured: Measured) -> Iterator[Evidence]:
        word = name or called(of)
        if measured.without_exact:
            yield unread(measured, f"time-{word}", f"time of {word} to {level:g}", source)
            return
        times = [measured.hits(of, level, starts(s)) for s in sizes]
        T, e = (np.array(x) for x in zip(*((t.value, t.error) for t in times), strict=True))
        with np.errstate(all="ignore"):
            span = np.diff(np.log(sizes))
            if like is not None:
                local, noise = np.diff(np.log(T)) / span, (e[1:] / T[1:] + e[:-1] / T[:-1]) / span
                what, wanted, resolution = "exponent", like, EXPONENT * max(abs(like), 0.5)
            else:
                slope = float(rate(measured) if callable(rate) else cast(float, rate)) / span
                local, noise = -np.diff(T) * slope, (e[1:] + e[:-1]) * slope
                what, wanted, resolution = "rate times its growth with log(1/size)", 1.0, RATE
        yield _judged(
            measured,
            Reading(T, Number(T, e)),
            f"time-{word}",
            f"time of {word} to {level:g}: {what}",
            wanted,
            _of_few(local, abs(noise)),
            resolution,
            source,
        )

    return claim


def _of_few(p: np.ndarray, noise: np.ndarray) -> Limit:
    """The limit of a few local exponents or slopes: differences must fall from each to the next."""
    if not np.all(np.isfinite(p)):
        return UNKNOWN, f"not every start gets there: {MORE}"
    d = abs(np.diff(p))
    if d[-1] <= 4 * np.max(noise):
        return Number(float(p[-1]), float(np.max(noise) + d[-1])), ""
    if not np.all(d[-2:] < d[-3:-1] / 2):
        why = "no such law yet, or another one: smaller starts would tell"
        return Number(float(p[-1]), np.nan), why
    value, _ = _aitken(*p[-3:])
    return Number(value, abs(value - p[-1]) + 4 * float(np.max(noise))), ""
