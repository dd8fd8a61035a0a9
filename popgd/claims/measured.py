"""What is measured of a problem: its path, exactly, and sampled gradients that examine it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from popgd.claims.evidence import Evidence
from popgd.descent import exact, gradient
from popgd.descent.exact import Path
from popgd.descent.replicas import Replicas
from popgd.descent.memory import Memory
from popgd.problem.errors import SettingError
from popgd.problem.numeric import UNIT
from popgd.problem.problem import Problem

#: A name of a leaf of the weights, or a function of them.
ReadOut = str | Callable[[Any], Any]
#: Random directions in which the last place of the weights is moved to see what rounding does.
NUDGES = 8


@dataclass(frozen=True)
class Dynamics:
    """The problem's population descent, or its flow, in the coordinates of a plane."""

    problem: Problem
    plane: Any
    eta: float
    flow: bool

    @partial(jax.jit, static_argnames="self")
    def slope(self, x: Float[Array, " k"]) -> Float[Array, " k"]:
        """The gradient of the exact loss in the coordinates: (J^T J)^-1 of that of x."""
        grad = jax.grad(lambda w: self.problem.exact_of(w)[0])(self.plane.embed(x))
        if self.problem.tangent is not None:
            grad = self.problem.tangent(self.plane.embed(x), grad)
        return self.plane.coordinates(grad)

    def move(self, x: Float[Array, " k"]) -> Float[Array, " k"]:
        """What a step adds; of a flow, dx/dt."""
        if self.flow:
            return -self.slope(x)
        moved = -self.eta * self.slope(x)
        if self.problem.retraction is None:
            return moved
        weights = self.problem.retraction(self.plane.embed(x + moved))
        origin = self.plane.embed(jnp.zeros_like(x))
        return self.plane.coordinates(jax.tree.map(jnp.subtract, weights, origin)) - x

    def run(self, start: Any, steps: int, key: Array, progress: Any = None) -> Path:
        """The path from a start on the plane, `steps` steps, or times up to eta steps, long."""
        origin = self.plane.embed(jnp.zeros(self.plane.k))
        x = np.asarray(self.plane.coordinates(jax.tree.map(jnp.subtract, start, origin)))
        if not self.flow:
            return exact.descend(self.move, x, steps, key, progress=progress)
        times = self.eta * exact.log_grid(steps, 8).astype(float)
        return exact.flow(self.move, x, times, key)


@dataclass(frozen=True)
class Reading:
    """A read-out at the recorded times, with its error: a bound or an estimate of rounding along an
    exact path, a standard error with `degrees` of freedom along a sampled one.
    """

    t: Float[np.ndarray, " records"]
    value: np.ndarray
    error: np.ndarray
    degrees: float = np.inf
    statistical: bool = False


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
    runs: dict[Any, Path] = field(default_factory=dict)

    @property
    def problem(self) -> Problem:
        return self.dynamics.problem

    @property
    def plane(self) -> Any:
        return self.dynamics.plane

    @property
    def unfinished(self) -> str:
        """Why the path ends before its time, or empty."""
        if self.path is None or not self.path.why:
            return ""
        return f"the path ends at {self.path.stopped:.3g}: {self.path.why}"

    def read(self, of: ReadOut) -> Reading:
        """A read-out of the weights along the path."""
        reads = read_out(self.problem, of)
        if self.path is not None:
            value, error = _along(self.dynamics, reads, self.path)
            return Reading(self.path.t, value, error)
        assert self.replicas is not None
        at = lambda x: jnp.asarray(reads(self.plane.embed(x)), dtype=float)
        x = jnp.asarray(self.replicas.x)
        seen = np.asarray(jax.jit(jax.vmap(jax.vmap(jax.vmap(at))))(x))
        count = seen.shape[1]
        mean, spread = seen.mean(axis=1), seen.std(axis=1, ddof=1) / np.sqrt(count)
        error = np.sqrt(4 * spread[1] ** 2 + spread[0] ** 2)
        return Reading(self.replicas.step, 2 * mean[1] - mean[0], error, count - 1.0, True)

    def loss(self) -> Reading:
        """The exact population loss along the path."""
        assert self.path is not None
        found = self.read(lambda w: self.problem.exact_of(w)[0])
        bound = self.read(lambda w: self.problem.exact_of(w)[1])
        return Reading(found.t, found.value, found.error + abs(bound.value))

    def started(self, start: Any, steps: int) -> Path:
        """The path from another start."""
        name = (ravel_pytree(start)[0].tobytes(), steps)
        if name not in self.runs:
            self.runs[name] = self.dynamics.run(start, steps, self.setting.key(23))
        return self.runs[name]

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


def read_out(problem: Problem, of: ReadOut) -> Callable[[Any], Any]:
    """A function of the weights; by name, a leaf. Raises SettingError for a name of none."""
    if callable(of):
        return of
    named = {_name(path): i for i, (path, _) in enumerate(_leaves(problem.start))}
    if of not in named:
        raise SettingError(f"{of!r} names no array of the weights: one of {', '.join(named)}")
    return lambda weights: jax.tree.leaves(weights)[named[of]]


def _leaves(tree: Any) -> list[tuple]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def called(of: ReadOut) -> str:
    """A word for a read-out, for ids."""
    return of if isinstance(of, str) else getattr(of, "__name__", "value").replace("<lambda>", "value")


def _along(dynamics: Dynamics, reads: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values at the records, and what the path's errors and rounding make of them, to first order."""
    at = lambda x: jnp.asarray(reads(dynamics.plane.embed(x)), dtype=float)
    jac = jax.jacfwd(at)

    def one(x: Array, error: Array, key: Array) -> tuple[Array, Array]:
        value = at(x)
        nudges = jax.random.uniform(key, (NUDGES, x.size), minval=-1.0, maxval=1.0)
        moved = jax.vmap(at)(x * (1 + UNIT * nudges))
        rounding = jnp.max(jnp.abs(moved - value), axis=0) + UNIT * jnp.abs(value)
        return value, jnp.abs(jac(x)) @ error + rounding

    keys = jax.random.split(jax.random.key(0), len(path.t))
    value, error = jax.jit(jax.vmap(one))(jnp.asarray(path.x), jnp.asarray(path.error), keys)
    return np.asarray(value), np.asarray(error)


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
