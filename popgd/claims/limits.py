"""Claims about where a path goes: converges, at_rate, loss_limit, monotone, follows, conserved,
agrees.

Each is a function that makes a claim: from what was measured to evidence. Where the path has not
got there the evidence says INCONCLUSIVE, and what would help.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from popgd.claims.evidence import Evidence
from popgd.claims.measured import Measured, Reading, ReadOut, called
from popgd.problem.number import Number

#: A limit must be told from one that is off by this share, or by this share of the way from the
#: start.
LIMIT = 1e-6
#: Movements over doublings of t that fall by less than this factor are no sign of a limit.
FALLING = 0.9
#: What a sampled path must resolve, as a share of its scale.
SAMPLED = 0.05
#: A rate that is off by 1 % must be seen: claims that are 2 % wrong are not supported.
RATE = 0.01
#: A path that has come this much nearer to its limit shows a rate.
DECADES = 1e3
#: A curve must be followed to this share of its range; a conserved quantity kept to this share of
#: its terms.
CURVE, KEPT = 1e-6, 1e-9
MORE = "more steps would settle it"

Claim = Callable[[Measured], Iterator[Evidence]]


def _source(source: str) -> dict[str, Any]:
    return {"source": source or "the theorem's statement", "origin": "paper"}


def _evidence(study: Measured, reading: Reading, **rest: Any) -> Evidence:
    """With the kind of error that the reading has, and the excuse of a path that broke off."""
    excuse = study.unfinished or rest.pop("excuse", "")
    rest.pop("excuse", None)
    return Evidence(
        excuse=excuse, statistical=reading.statistical, degrees=reading.number.degrees, **rest
    )


def unread(measured: Measured, id: str, statement: str, source: str) -> Evidence:
    """Of a claim that cannot be read off this measurement."""
    nothing: Any = dict.fromkeys(
        ("predicted", "measured", "error", "allowance", "resolution"), np.nan
    )
    return Evidence(
        id,
        statement,
        reason="",
        statistical=False,
        excuse=measured.without_exact,
        **nothing,
        **_source(source),
    )


def to_come(reading: Reading) -> np.ndarray:
    """What is left to come after the last record, from the fall of the last two movements, each
    over a doubling of t; infinite where they do not fall, 0 at rest.
    """
    t = reading.t
    k, j, i = (int(np.argmin(abs(t - t[-1] / share))) for share in (1, 2, 4))
    if not i < j < k:
        return np.full_like(reading.value[-1], np.inf)
    before, last = reading.value[j] - reading.value[i], reading.value[k] - reading.value[j]
    noise = reading.error[k] + reading.error[j]
    with np.errstate(all="ignore"):
        ratio = abs(last) / abs(before)
        rest = np.where(ratio < FALLING, abs(last) * ratio / (1 - ratio), np.inf)
    return np.where(abs(last) <= 4 * noise, 0.0, rest)


def converges(of: ReadOut, to: Any, name: str = "", source: str = "") -> Claim:
    """The read-out converges to `to`, a number or an array of its shape (or a function of what was
    measured that returns it).

    INCONCLUSIVE while more than LIMIT of the way from the start is left to come. What starts at a
    limit of 0 and comes back to it is measured by the farthest that it went, and an entry that is 0
    all along by the other entries.
    """

    def claim(measured: Measured) -> Iterator[Evidence]:
        reading = measured.read(of)
        limit = np.asarray(to(measured) if callable(to) else to, dtype=float)
        last, way = reading.value[-1], abs(limit - reading.value[0])
        size, farthest = np.maximum(abs(limit), way), np.max(abs(reading.value - limit), axis=0)
        scale = np.where(size > 0, size, farthest)
        scale = np.where(scale > 0, scale, np.max(scale, initial=0.0)) + np.finfo(float).tiny
        rest = to_come(reading)
        excuse = ""
        if not np.all(rest <= LIMIT * scale):
            excuse = f"{np.max(rest / scale):.2g} of the way is left to come: {MORE}"
        yield _evidence(
            measured,
            reading,
            id=f"converges-{name or called(of)}",
            statement=f"{name or called(of)} converges to its limit: gap over the way from the "
            "start",
            predicted=0.0,
            measured=((last - limit) / scale).ravel(),
            error=(reading.error[-1] / scale).ravel(),
            allowance=np.ravel(rest / scale),
            resolution=LIMIT if not reading.statistical else SAMPLED,
            reason="what is left to come; rounding along the path",
            excuse=excuse,
            **_source(source),
        )

    return claim


def loss_limit(value: Any, name: str = "loss", source: str = "") -> Claim:
    """The exact population loss converges to `value`."""

    def claim(measured: Measured) -> Iterator[Evidence]:
        if measured.without_exact:
            yield unread(measured, f"converges-{name}", f"{name} converges to its limit", source)
            return
        exact = lambda w: measured.problem.exact_of(w)[0]
        yield from converges(exact, value, name, source)(measured)

    return claim


def at_rate(
    of: ReadOut,
    to: Any,
    rate: float | Callable[[Measured], float],
    name: str = "",
    source: str = "",
) -> Claim:
    """The distance of the read-out to `to` falls like exp(-rate t) in the end, t in steps; of a
    flow in time. For a limit that is known to all digits.
    """

    def claim(measured: Measured) -> Iterator[Evidence]:
        reading = measured.read(of).thinned()
        limit = np.asarray(to(measured) if callable(to) else to, dtype=float)
        wanted = rate(measured) if callable(rate) else rate
        gap = reading.value - limit
        axes = tuple(range(1, gap.ndim))
        away = np.sqrt(np.sum(gap**2, axis=axes))
        error = np.sqrt(np.sum(reading.error**2, axis=axes)) + np.finfo(float).eps * np.max(
            abs(limit)
        )
        with np.errstate(all="ignore"):
            good = np.flatnonzero((error < 0.1 * RATE * away) & (away > 0))
        found, off, drift, excuse = np.nan, np.nan, 0.0, ""
        if len(good) < 4 or away[good[0]] < DECADES * away[good[-1]]:
            excuse = f"the distance to the limit falls by less than {DECADES:g}: {MORE}"
        else:
            k, (i, j) = good[-1], (good[-2], good[-3])
            log, t = np.log(away), reading.t
            slope = lambda a, b: (log[a] - log[b]) / (t[b] - t[a])
            found, drift = slope(i, k), abs(slope(i, k) - slope(j, i))
            off = (error[k] / away[k] + error[i] / away[i]) / (t[k] - t[i])
        yield _evidence(
            measured,
            reading,
            id=f"rate-{name or called(of)}",
            statement=f"{name or called(of)} comes to its limit at the rate: ratio",
            predicted=1.0,
            measured=found / wanted,
            error=off / abs(wanted),
            allowance=drift / abs(wanted),
            resolution=RATE,
            reason="its change from record to record; rounding",
            excuse=excuse,
            **_source(source),
        )

    return claim


def monotone(of: ReadOut, falls: bool = False, name: str = "", source: str = "") -> Claim:
    """The read-out rises, or falls, from record to record."""

    def claim(measured: Measured) -> Iterator[Evidence]:
        reading = measured.read(of)
        change = np.diff(reading.value, axis=0) * (-1 if falls else 1)
        error = reading.error[1:] + reading.error[:-1]
        scale = np.max(abs(reading.value - reading.value[0])) or 1.0
        moves = abs(change) > 4 * error
        excuse = "" if moves.any() else f"nothing moves beyond its error: {MORE}"
        yield _evidence(
            measured,
            reading,
            id=f"monotone-{name or called(of)}",
            statement=f"{name or called(of)} {'falls' if falls else 'rises'}: least change over "
            "all",
            predicted=0.0,
            sense="at least",
            measured=(change / scale).ravel(),
            error=(error / scale).ravel(),
            allowance=0.0,
            resolution=LIMIT if not reading.statistical else SAMPLED,
            reason="rounding along the path",
            excuse=excuse,
            **_source(source),
        )

    return claim


def follows(
    of: ReadOut, curve: Callable[[Measured, float], Any], name: str = "", source: str = ""
) -> Claim:
    """The read-out is curve(measured, t) at every record, t in steps; of a flow in time."""

    def claim(measured: Measured) -> Iterator[Evidence]:
        reading = measured.read(of)
        wanted = np.stack([np.asarray(curve(measured, float(t)), dtype=float) for t in reading.t])
        scale = np.max(abs(wanted), axis=0) + np.finfo(float).tiny
        moved = np.max(abs(wanted - wanted[0]), axis=0) / scale
        excuse = "" if np.all(moved > 100 * CURVE) else f"the curve does not move yet: {MORE}"
        yield _evidence(
            measured,
            reading,
            id=f"follows-{name or called(of)}",
            statement=f"{name or called(of)} follows its curve: gap over the curve's size",
            predicted=0.0,
            measured=((reading.value - wanted) / scale).ravel(),
            error=(reading.error / scale).ravel(),
            allowance=8 * np.finfo(float).eps,
            resolution=CURVE if not reading.statistical else SAMPLED,
            reason="the integrator; rounding of the curve",
            excuse=excuse,
            **_source(source),
        )

    return claim


def conserved(of: ReadOut, scale: ReadOut | None = None, name: str = "", source: str = "") -> Claim:
    """The read-out keeps its value along the path, to KEPT of `scale`: a read-out that is as large
    as its terms, by default the squared norm of the weights.

    Gradient descent moves what flow conserves by O(eta^2) a step: say flow=True where the theorem
    is about flow.
    """

    def claim(measured: Measured) -> Iterator[Evidence]:
        reading = measured.read(of)
        size = measured.read(scale or _square_norm).value
        largest = np.max(abs(size))
        gap = reading.value - reading.value[0]
        weights = measured.read(flat).value
        moved = np.max(abs(weights - weights[0])) / (np.max(abs(weights)) or 1.0)
        excuse = "" if moved > 1e-3 else f"the weights do not move yet: {MORE}"
        yield _evidence(
            measured,
            reading,
            id=f"conserved-{name or called(of)}",
            statement=f"{name or called(of)} keeps its value: change over the size of its terms",
            predicted=0.0,
            measured=(gap / largest).ravel(),
            error=(reading.error / largest).ravel(),
            allowance=0.0,
            resolution=KEPT if not reading.statistical else SAMPLED,
            reason="the integrator; rounding",
            excuse=excuse,
            **_source(source),
        )

    return claim


def flat(weights: Any) -> Any:
    """All entries of the weights in a row."""
    return ravel_pytree(weights)[0]


def _square_norm(weights: Any) -> Any:
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(weights))


def _number(to: Any, measured: Measured) -> float:
    value: Any = to(measured) if callable(to) else to
    return float(value)


def agrees(
    name: str,
    statement: str,
    of: Callable[[Measured], Number | tuple[Any, Any]],
    to: Any,
    resolution: float,
    source: str = "",
    sense: Literal["equal", "at least", "at most"] = "equal",
) -> Claim:
    """A number of one's own: of(measured) returns a `Number`, or (value, error), and `to` is what
    is predicted.
    """

    def claim(measured: Measured) -> Iterator[Evidence]:
        found = Number(*of(measured))
        yield Evidence(
            name,
            statement,
            predicted=_number(to, measured),
            measured=found.value,
            error=found.error,
            allowance=0.0,
            resolution=resolution,
            reason="as stated",
            sense=sense,
            statistical=False,
            excuse=measured.unfinished,
            **_source(source),
        )

    return claim
