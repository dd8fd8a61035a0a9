"""What a path says: where the coordinates, their products and the loss go."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from popgd.claims.growth import CONSTANT, exponent_of, late_records
from popgd.claims.limits import RATE
from popgd.claims.measured import Measured, Reading, increments
from popgd.explore import words
from popgd.explore.conjecture import Conjecture, line
from popgd.explore.courses import Course, course
from popgd.explore.words import Leaf

#: Coordinates and products that are read at most.
MOST = 24
#: Read-outs of which it is said that they rise or fall.
MONOTONE = 6
#: Entries of a limit that is written out.
WRITTEN = 16
#: Rounding of what a step takes from the loss, relative to it.
FALL_ROUNDING = 1e-14
#: A limit counts as a whole number where it is one up to its error and this share of its way.
WHOLE = 1e-12


class ReadOut(NamedTuple):
    """A number that is read off the weights: code, name, and where it goes."""

    of: str
    name: str
    course: Course


@dataclass(frozen=True)
class Courses:
    """Where the read-outs and the exact loss go; `loss_power` is q where the loss falls to its
    limit like t^-q, (value, error), NaN where it does not or that is not known. `rates` are those
    of the leaves that come to rest exponentially: code, limit in code, rate, error.
    """

    every: tuple[ReadOut, ...]
    loss: Course | None
    loss_power: tuple[float, float]
    rates: tuple[tuple[str, str, str, float, float], ...]


#: Of what does not descend, or by samples alone.
NOTHING = Courses((), None, (np.nan, np.nan), ())


def read(measured: Measured, pairs: Sequence[tuple[int, int]]) -> Courses:
    """All of it, of an exact path; of sampled descents nothing."""
    if measured.path is None:
        return NOTHING
    plane = measured.plane
    code = [words.entry(measured.start, plane.entries.index(name)) for name in plane.names]
    singles = [(code[i], plane.names[i]) for i in range(min(plane.k, MOST))]
    products = [
        (f"{code[i]} * {code[j]}", f"{plane.names[i]} {plane.names[j]}") for i, j in pairs[:MOST]
    ]
    reads = [words.read(of) for of, _ in (*singles, *products)]
    together = lambda w: jnp.stack([jnp.asarray(read(w)) for read in reads])
    reading, steps = measured.read(together), increments(measured, together)[0]
    scale = float(np.max(abs(reading.value)))
    found = [
        ReadOut(of, name, course(_column(reading, i), steps[:, i], scale))
        for i, (of, name) in enumerate((*singles, *products))
    ]
    exact = words.exact_loss(measured.problem)
    loss, falls = measured.loss(), increments(measured, exact)[0]
    whole = course(loss, falls, float(np.max(abs(loss.value))))
    return Courses(tuple(found), whole, _loss_power(loss, falls), tuple(_rates(measured, found)))


def _column(reading: Reading, i: int) -> Reading:
    return replace(reading, number=reading.number.at((slice(None), i)))


def _loss_power(loss: Reading, falls: Float[np.ndarray, " records"]) -> tuple[float, float]:
    """q of a loss whose increments fall like t^(-q - 1)."""
    late = late_records(loss)
    with np.errstate(all="ignore"):
        size = abs(falls[late])
        noise = FALL_ROUNDING * size
        found, excuse = exponent_of(loss.t[late], size, noise)
    q = -1 - found.value
    good = not excuse and q > 10 * found.error and found.error < CONSTANT
    return (q, found.error) if good else (np.nan, np.nan)


def _rates(measured: Measured, found: Sequence[ReadOut]) -> Iterator[tuple]:
    """Leaves, or their moving coordinates, that come to rest, at a rate that the curvature at the
    limit has too.
    """
    if any(r.course.kind not in ("still", "limit") for r in found):
        return
    dynamics, path = measured.dynamics, measured.path
    assert path is not None
    end = jnp.asarray(path.x[-1])
    slopes = np.linalg.eigvals(np.asarray(jax.jacfwd(dynamics.move)(end)))
    with np.errstate(all="ignore"):
        # a mode is multiplied by exp(slope t), of a descent by 1 + slope a step
        known = -slopes.real if dynamics.flow else -np.log(abs(1 + slopes))
    for of, name, limit in _limits(measured, found):
        for to in (limit, words.numbers(np.asarray(words.read(of)(measured.plane.embed(end))))):
            made = words.claim(line("at_rate", of, name, to=f"np.array({to})", rate="1.0"),
                               measured.problem)  # fmt: skip
            with np.errstate(all="ignore"):  # a distance of 0 from the last record
                (evidence,) = made(measured)
            rate, error = float(evidence.measured), float(evidence.error + evidence.allowance)
            near = known[np.argmin(abs(known - rate))] if not evidence.excuse else np.nan
            if abs(near - rate) <= RATE * rate:
                yield of, name, to, float(near), error
                break


def _limits(measured: Measured, found: Sequence[ReadOut]) -> Iterator[tuple[str, str, str]]:
    """Code, name and limit, in code, of every leaf of which all that moves has a limit; where it is
    too large to be written out, of the coordinates.
    """
    assert measured.path is not None
    going = {r.of: r.course for r in found}
    last = measured.plane.embed(jnp.asarray(measured.path.x[-1]))
    for leaf in words.leaves(measured.start):
        moves = [leaf.entry(i) for i in range(leaf.size)]
        moves = [of for of in moves if of in going and going[of].kind != "still"]
        if not moves or any(going[of].kind != "limit" for of in moves):
            continue
        error = max(going[of].error for of in moves)
        if leaf.size <= WRITTEN:
            value = np.asarray(words.read(leaf.code)(last))
            yield leaf.code, leaf.name, words.numbers(rounded(value, error))
            continue
        for of in moves[:WRITTEN]:
            value = float(rounded(np.array(going[of].value), error))
            yield of, _short(leaf, of), words.number(value)


def _short(leaf: Leaf, of: str) -> str:
    return leaf.name + of.removeprefix(leaf.code).replace(" ", "")


def rounded(value: Float[np.ndarray, "..."], error: float) -> Float[np.ndarray, "..."]:
    """The same, with whole numbers where its error leaves them."""
    near, scale = np.round(value), float(np.max(abs(value), initial=0.0))
    return np.where(abs(value - near) <= error + WHOLE * scale, near + 0.0, value)


def _monotone(each: ReadOut, measured: Measured) -> Iterator[Conjecture]:
    """A line for a read-out that goes somewhere, in the direction in which it went."""
    if each.course.kind not in ("limit", "power", "logarithm"):
        return
    assert measured.path is not None
    first, last = (
        float(words.read(each.of)(measured.plane.embed(jnp.asarray(x))))
        for x in (measured.path.x[0], measured.path.x[-1])
    )
    falls = {"falls": "True"} if last < first else {}
    says = f"{each.name} {'falls' if falls else 'rises'} all along"
    yield Conjecture(line("monotone", each.of, each.name, **falls), says, why="from the records")


def conjectures(measured: Measured, found: Courses) -> Iterator[Conjecture]:
    """Lines for limits, rates, growth and the loss."""
    for of, name, limit in _limits(measured, found.every):
        error = max(r.course.error for r in found.every if r.course.kind == "limit")
        value = float(limit) if not limit.startswith("[") else np.nan
        yield Conjecture(line("converges", of, name, to=f"np.array({limit})"),
                         f"{name} converges", value, error, "what is left to come")  # fmt: skip
    for of, name, goes in (r for r in found.every if "*" in r.of and r.course.kind == "limit"):
        to = words.number(float(rounded(np.array(goes.value), goes.error)))
        yield Conjecture(line("converges", of, name, to=to), f"{name} converges", goes.value,
                         goes.error, "what is left to come")  # fmt: skip
    for of, name, to, rate, error in found.rates:
        code = line("at_rate", of, name, to=f"np.array({to})", rate=words.number(rate))
        yield Conjecture(code, f"{name} comes to its limit like exp(-rate t)", rate, error,
                         "curvature at the limit, and the path")  # fmt: skip
    for each in found.every:
        yield from _growth(each)
    for each in found.every[:MONOTONE]:
        yield from _monotone(each, measured)
    yield from _of_loss(found, measured.dynamics.flow)


def _growth(each: ReadOut) -> Iterator[Conjecture]:
    """K t^p: its exponent, and the increments of its 1/p-th power."""
    of, name, found = each
    if found.kind != "power":
        return
    p = words.exponent(found.value, found.error)
    why = f"from the records; {found.other:.8g} from the increments"
    yield Conjecture(line("grows", of, name, like=p), f"{name} grows like t^{p}", found.value,
                     found.error, why)  # fmt: skip
    if np.isfinite(found.constant) and p.startswith("1/"):
        code = line("increments_converge", of, name, power=p[2:], to=words.number(found.constant))
        whole = f"({name})" if " " in name else name
        yield Conjecture(code, f"{whole}^{p[2:]} grows by this much in a unit of time",
                         found.constant, CONSTANT * abs(found.constant),
                         "extrapolated increments")  # fmt: skip


def _of_loss(found: Courses, flow: bool) -> Iterator[Conjecture]:
    loss = found.loss
    if loss is None or loss.kind == "still":
        return
    if not flow:  # along a gradient flow every loss falls
        yield Conjecture('claims.monotone(exact, falls=True, name="loss")', "the loss falls")
    if loss.kind == "limit":
        value = float(rounded(np.array(loss.value), loss.error))
        yield Conjecture(f"claims.loss_limit({words.number(value)})", "the loss has this limit",
                         loss.value, loss.error, "what is left to come")  # fmt: skip
    elif loss.kind == "power" and loss.value < 0:
        p = words.exponent(loss.value, loss.error)
        why = f"from the records; {loss.other:.8g} from the increments"
        yield Conjecture("claims.loss_limit(0.0)", "the loss falls to 0")
        code = f'claims.grows(exact, like={p}, name="loss")'
        yield Conjecture(code, f"the loss falls like t^{p}", loss.value, loss.error, why)
