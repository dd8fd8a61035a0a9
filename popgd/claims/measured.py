"""What is measured of a problem: its path, exactly, and sampled gradients that examine it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from popgd.descent import exact, replicas
from popgd.descent.exact import Path
from popgd.descent.replicas import Replicas
from popgd.problem.errors import SettingError
from popgd.problem.number import Number
from popgd.problem.numeric import UNIT
from popgd.problem.problem import Problem
from popgd.symmetry.silent import Zeros, why_zero

#: A name of a leaf of the weights, or a function of them.
ReadOut = str | Callable[[Any], Any]
#: Random directions in which the last places of the weights are moved to see what rounding does,
#: and by how many units at most: where terms cancel, of moves by one unit half show nothing.
NUDGES, UNITS = 16, 8.0
#: Steps of a descent through which a curve is laid, from the last one before a crossing on.
POINTS = 7
#: A start this far from the plane is not on it: rounding of a sum.
ON = 1e-12


@dataclass(frozen=True, eq=False)
class Dynamics:
    """The problem's population descent, or its flow, in the coordinates of a plane."""

    problem: Problem
    plane: Any
    eta: float
    flow: bool

    @partial(jax.jit, static_argnames="self")
    def slope(self, x: Float[Array, " k"]) -> Float[Array, " k"]:
        """The gradient of the exact loss in the coordinates: (J^T J)^-1 of that of x."""
        return self.plane.coordinates(self._gradient(x))

    @partial(jax.jit, static_argnames="self")
    def off(self, x: Float[Array, " k"]) -> Float[Array, " n"]:
        """The gradient of the exact loss off the plane, entry by entry."""
        return ravel_pytree(self.plane.deviations(self._gradient(x)))[0]

    def _gradient(self, x: Float[Array, " k"]) -> Any:
        grad = jax.grad(lambda w: self.problem.exact_of(w)[0])(self.plane.embed(x))
        tangent = self.problem.tangent
        return grad if tangent is None else tangent(self.plane.embed(x), grad)

    def move(self, x: Float[Array, " k"]) -> Float[Array, " k"]:
        """What a step adds; of a flow, dx/dt."""
        if self.flow:
            return -self.slope(x)
        moved = -self.eta * self.slope(x)
        if self.problem.retraction is None:
            return moved
        return self.plane.coordinates(self.problem.retraction(self.plane.embed(x + moved))) - x

    def run(self, start: Any, steps: int, key: Array, progress: Any = None, **end: Any) -> Path:
        """The path from a start on the plane, `steps` steps, or times up to eta steps, long, or to
        the first record that is `enough`.
        """
        x = np.asarray(self.plane.coordinates(start))
        if not self.flow:
            return exact.descend(self.move, x, steps, key, progress=progress, **end)
        times = self.eta * exact.log_grid(steps, 8).astype(float)
        return exact.flow(self.move, x, times, key, **end)

    def sampled(self, setting: Any, count: int, progress: Any) -> Replicas:
        """Descents of `count` replicas at the setting's batch and twice that."""
        problem, plane = self.problem, self.plane
        if self.flow:
            raise SettingError("flow of a problem without an exact loss: give exact=, or descend")

        def slope(x: Array, key: Array) -> Array:
            weights = plane.embed(x)
            grad = jax.grad(problem.loss)(weights, problem.sample(key))
            return plane.coordinates(problem.tangent(weights, grad) if problem.tangent else grad)

        back = problem.retraction
        retract = (lambda x: plane.coordinates(back(plane.embed(x)))) if back else lambda x: x
        x = np.asarray(plane.coordinates(problem.start))
        return replicas.descend(slope, x, self.eta, setting.sampled_steps, setting.batch, count,
                                setting.key(24), retract, progress)  # fmt: skip

    def crossing(self, reads: Any, level: float, path: Path, k: int) -> Number:
        """When a scalar read-out crosses the level between the records k - 1 and k, with the error
        of what is between two steps.
        """
        at = jax.jit(lambda x: reads(self.plane.embed(x)) - level)
        if not self.flow:
            return self._step_of(at, path.x[k - 1], float(path.t[k - 1]))
        from scipy.optimize import brentq  # slow to import

        solve = exact.integrator(self.move, float(path.t[1]))

        def gap(t: float) -> float:
            if t == path.t[k - 1]:
                return float(at(path.x[k - 1]))
            span = jnp.asarray([path.t[k - 1], t])
            return float(at(solve(jnp.asarray(path.x[k - 1])[None], span, exact.TOLERANCE)[0]))

        found: Any = brentq(gap, path.t[k - 1], path.t[k], xtol=1e-300, rtol=1e-12)  # pyright: ignore
        return Number(float(found))

    def _step_of(self, at: Any, x: Any, t: float) -> Number:
        """Of a descent: by the polynomial through the read-out's values at the last step before
        and the next ones, and by that of a lower degree, whose difference is the error.
        """
        side = jnp.sign(at(x))

        def step(state: tuple) -> tuple:
            count, x, _ = state
            return count + 1, x + self.move(x), x

        beyond = lambda state: at(state[1]) * side > 0
        begin = (jnp.zeros(()), jnp.asarray(x), jnp.asarray(x))
        count, x, before = jax.jit(lambda s: jax.lax.while_loop(beyond, step, s))(begin)
        along = lambda x, _: (x + self.move(x), at(x))
        values = np.asarray(jax.jit(lambda x: jax.lax.scan(along, x, None, POINTS)[1])(before))
        roots = [_root(values[: POINTS - fewer]) for fewer in (0, 1)]
        return Number(t + float(count) - 1 + roots[0], abs(roots[0] - roots[1]))


def _root(values: np.ndarray) -> float:
    """Where the polynomial through the values at 0, 1, ... is 0 between 0 and 1, where they change
    their sign.
    """
    from scipy.optimize import brentq  # slow to import

    rows = [values]
    while len(rows[-1]) > 1:
        rows.append(np.diff(rows[-1]))
    steps = np.arange(len(values))

    def at(s: float) -> float:
        factors = np.concatenate([[1.0], np.cumprod((s - steps[:-1]) / (steps[:-1] + 1.0))])
        return float(sum(row[0] * factor for row, factor in zip(rows, factors, strict=True)))

    return float(cast(float, brentq(at, 0.0, 1.0, xtol=1e-15)))


@dataclass(frozen=True)
class Reading:
    """A read-out at the recorded times: with a bound, or an estimate of rounding, along an exact
    path, with a standard error along a sampled one. `even` are the records on an even grid in
    log t, where others are closer.
    """

    t: Float[np.ndarray, " records"]
    number: Number
    even: np.ndarray | None = None

    @property
    def value(self) -> np.ndarray:
        return self.number.value

    @property
    def error(self) -> np.ndarray:
        return self.number.error

    @property
    def statistical(self) -> bool:
        return self.number.degrees < np.inf

    def thinned(self) -> "Reading":
        """The records on an even grid in log t, for what extrapolates from one to the next."""
        if (pick := self.even) is None:
            return self
        return replace(self, t=self.t[pick], number=self.number.at(pick))


@dataclass(frozen=True, eq=False)
class Measured:
    """All that is measured of a problem: what its claims read.

    path      the exact population descent or flow; None where the problem has no exact loss
    replicas  sampled descents, where it has none
    checks    sampled gradients at points of the path, as `examined` makes them
    """

    setting: Any
    dynamics: Dynamics
    path: Path | None
    replicas: Replicas | None
    checks: Mapping[str, np.ndarray]

    @property
    def problem(self) -> Problem:
        return self.dynamics.problem

    @property
    def plane(self) -> Any:
        return self.dynamics.plane

    @property
    def start(self) -> Any:
        return self.problem.start

    @cached_property
    def zeros(self) -> Zeros:
        """Why each entry of the weights stays zero, if it does. Raises as `symmetry.why_zero`."""
        problem, key = self.problem, self.setting.key(25)
        return why_zero(problem.loss, problem.sample, self.plane, problem.start, key)

    @property
    def unfinished(self) -> str:
        """Why the path ends before its time, or empty."""
        if self.path is None or not self.path.why:
            return ""
        return f"the path ends at {self.path.stopped:.3g}: {self.path.why}"

    @property
    def without_exact(self) -> str:
        """Why nothing can be said of the loss, of single steps and of other starts, or empty."""
        return "" if self.path is not None else "no exact population loss: give exact="

    def read(self, of: ReadOut) -> Reading:
        """A read-out of the weights along the path."""
        reads = read_out(self.start, of)
        if self.path is not None:
            return Reading(self.path.t, _along(self.dynamics, reads, self.path))
        assert self.replicas is not None
        seen = np.asarray(_of_replicas(self.plane, reads, jnp.asarray(self.replicas.x)))
        count = seen.shape[1]
        mean, spread = seen.mean(axis=1), seen.std(axis=1, ddof=1) / np.sqrt(count)
        error = np.sqrt(4 * spread[1] ** 2 + spread[0] ** 2)
        found = Number(2 * mean[1] - mean[0], stderr=error, degrees=count - 1.0)
        return Reading(self.replicas.step, found)

    def loss(self) -> Reading:
        """The exact population loss along the path."""
        return self._loss

    @cached_property
    def _loss(self) -> Reading:
        assert self.path is not None
        found = self.read(lambda w: self.problem.exact_of(w)[0])
        bound = self.read(lambda w: self.problem.exact_of(w)[1])
        return replace(found, number=found.number.moved(abs(bound.value)))

    def hits(self, of: ReadOut, level: float, start: Any) -> Number:
        """When the path from another start first reaches the level, as `crossing`. Raises
        SettingError for a start off the plane.
        """
        away, entry = self.plane.off(start)
        if away > ON:
            raise SettingError(
                f"a start is off the plane by {away:.3g} in {entry}: give starts on it, or a "
                "problem without the symmetry that they break"
            )
        reads = read_out(self.start, of)
        above = jax.jit(lambda x: reads(self.plane.embed(x)) > level)
        first = above(self.plane.coordinates(start))
        enough = lambda x: bool(jnp.all(above(jnp.asarray(x)) != first))
        run = self.dynamics.run(start, self.setting.steps, self.setting.key(23), enough=enough)
        return self.crossing(of, level, run)

    def crossing(self, of: ReadOut, level: float, path: Path) -> Number:
        """When a scalar read-out first crosses the level along a path, between two steps of a
        descent by the curve through the next ones, and the error of that; NaN where it does not.
        """
        value, error = _along(self.dynamics, read_out(self.start, of), path)[:2]
        if value.ndim > 1:
            raise SettingError(f"{called(of)} has shape {value.shape[1:]}: give one number")
        beyond = np.flatnonzero((value - level) * (value[0] - level) <= 0)
        if not beyond.size or beyond[0] == 0:
            return Number(np.nan, np.nan)
        k = int(beyond[0])
        found = self.dynamics.crossing(read_out(self.start, of), level, path, k)
        speed = abs(value[k] - value[k - 1]) / (path.t[k] - path.t[k - 1])
        off = float((error[k] + error[k - 1]) / speed)
        return found.moved(off + 1e-11 * found.value)

    def arrays(self) -> dict[str, np.ndarray]:
        kept = {f"check/{name}": value for name, value in self.checks.items()}
        if self.path is not None:
            named = {n: getattr(self.path, n) for n in ("t", "x", "error", "move")}
            return {**{f"path/{n}": v for n, v in named.items()}, **kept}
        assert self.replicas is not None
        return {"replicas/step": self.replicas.step, "replicas/x": self.replicas.x, **kept}

    def figures(self, title: str) -> dict[str, Any]:
        from popgd.claims import pictures

        return pictures.figures(self, title)


def read_out(start: Any, of: ReadOut) -> Callable[[Any], Any]:
    """A function of the weights; by name, a leaf. Raises SettingError for a name of none."""
    if callable(of):
        return of
    named = {_name(path): i for i, (path, _) in enumerate(_leaves(start))}
    if of not in named:
        raise SettingError(f"{of!r} names no array of the weights: one of {', '.join(named)}")
    return lambda weights: jax.tree.leaves(weights)[named[of]]


def _leaves(tree: Any) -> list[tuple]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def called(of: ReadOut) -> str:
    """A word for a read-out, for ids."""
    return (
        of if isinstance(of, str) else getattr(of, "__name__", "value").replace("<lambda>", "value")
    )


def _along(dynamics: Dynamics, reads: Any, path: Path) -> Number:
    """Values at the records, with what the path's errors make of them, to first order, and
    rounding: by how much nearby values are off a plane.
    """
    keys = jax.random.split(jax.random.key(0), len(path.t))
    x, error = jnp.asarray(path.x), jnp.asarray(path.error)
    value, off = _with_errors(dynamics.plane, reads, x, error, keys)
    return Number(np.asarray(value), np.asarray(off))


@partial(jax.jit, static_argnames=("plane", "reads"))
def _of_replicas(plane: Any, reads: Any, x: Array) -> Array:
    """Values at both batches, of every replica, at every record."""
    at = lambda x: jnp.asarray(reads(plane.embed(x)), dtype=float)
    return jax.vmap(jax.vmap(jax.vmap(at)))(x)


@partial(jax.jit, static_argnames=("plane", "reads"))
def _with_errors(plane: Any, reads: Any, x: Array, error: Array, keys: Array) -> tuple:
    at = lambda x: jnp.asarray(reads(plane.embed(x)), dtype=float)

    def one(x: Array, error: Array, key: Array) -> tuple[Array, Array]:
        value, slopes = at(x), jax.jacfwd(at)(x)
        nudges = jax.random.uniform(key, (NUDGES, x.size), minval=-UNITS, maxval=UNITS)
        beside = x * (1 + UNIT * nudges)
        off = jax.vmap(at)(beside) - value - jnp.tensordot(beside - x, slopes, axes=(1, -1))
        rounding = jnp.max(jnp.abs(off), axis=0) + UNIT * jnp.abs(value)
        return value, jnp.abs(slopes) @ error + rounding

    return jax.vmap(one)(x, error, keys)


def increments(measured: Measured, of: Callable[[Any], Any]) -> tuple[np.ndarray, np.ndarray]:
    """of(x_{t+1}) - of(x_t) at the records without cancellation, to second order in the move; of a
    flow d of/dt; and what is left out, of third order.
    """
    assert measured.path is not None
    at = lambda x: jnp.asarray(of(measured.plane.embed(x)), dtype=float)
    order = 1 if measured.dynamics.flow else 3

    def one(x: Array, move: Array) -> Array:
        along = lambda s: at(x + s * move)
        terms, f = [], along
        for _ in range(order):
            f = (lambda g: lambda s: jax.jvp(g, (s,), (jnp.ones_like(s),))[1])(f)
            terms.append(f(jnp.zeros(())))
        return jnp.stack(terms)

    terms = np.asarray(jax.jit(jax.vmap(one))(measured.path.x, measured.path.move))
    if order == 1:
        return terms[:, 0], np.zeros_like(terms[:, 0])
    return terms[:, 0] + terms[:, 1] / 2, abs(terms[:, 2]) / 6
