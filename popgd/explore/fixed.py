"""Fixed points on the plane: where a path rests in between, and where it ends."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from popgd.claims.measured import Dynamics, Measured
from popgd.explore.courses import Course

#: A record is near a fixed point where the slope is below this share of the largest before and of
#: the largest after.
DIP = 0.05
#: Newton steps to it; they must end with a slope below ROOT of the largest on the path, no farther
#: from the record than FAR of the path's extent.
NEWTON, ROOT, FAR = 30, 1e-10, 0.3
#: Curvatures below this share of the largest are 0: rounding and Newton leave 1e-12.
FLAT = 1e-7
#: Fixed points closer than this, relative to the extent, are one.
SAME = 1e-6
#: The loss is that of the fixed point up to this share of what it falls in all.
DWELLS = 0.01
#: Width of the difference that is the other route to a curvature, and what it may be off by.
WIDTH, ROUTES = 1e-4, 1e-3


class Fixed(NamedTuple):
    """A fixed point of the descent on the plane: when the path is near it, from its first to its
    last record; the loss there; curvatures along the plane, in rising order.
    """

    x: Float[np.ndarray, " k"]
    first: float
    last: float
    loss: float
    curvatures: Float[np.ndarray, " k"]
    end: bool

    @property
    def falling(self) -> int:
        """How many directions the loss falls along."""
        return int(np.sum(self.curvatures < -FLAT * np.max(abs(self.curvatures))))

    @property
    def flat(self) -> int:
        return int(np.sum(abs(self.curvatures) <= FLAT * np.max(abs(self.curvatures))))

    def describe(self) -> str:
        """One line: saddle or minimum on the plane, and the lowest curvature."""
        where = "the end" if self.end else f"t = {self.first:.3g} to {self.last:.3g}"
        low, k = self.curvatures[0], len(self.x)
        if self.falling:
            kind = f"a saddle on the plane: lowest curvature {low:.6g}, {self.falling} of {k} fall"
        elif self.flat:
            kind = f"no saddle on the plane: {self.flat} of {k} directions are flat, none falls"
        else:
            kind = f"a minimum on the plane: lowest curvature {low:.6g}"
        return f"{where}: loss {self.loss:.10g}, {kind}"


def points(measured: Measured, courses: list[Course]) -> list[Fixed]:
    """The fixed points that the exact path comes near to, in its order."""
    path, dynamics = measured.path, measured.dynamics
    if path is None or len(path.t) < 2:
        return []
    slopes = np.asarray(jax.jit(jax.vmap(dynamics.slope))(jnp.asarray(path.x)))
    size = np.linalg.norm(slopes, axis=1)
    loss = measured.loss().value
    if not np.all(np.isfinite(loss)):
        return []
    extent = float(np.max(np.linalg.norm(path.x - path.x[0], axis=1)))
    found: list[Fixed] = []
    for k in _dips(size):
        x = _root(dynamics, path.x[k], float(size.max()), FAR * extent)
        if x is None or any(np.linalg.norm(x - f.x) <= SAME * extent for f in found):
            continue
        found += _fixed(measured, x, loss, end=False)
    ends = all(c.kind in ("still", "limit") for c in courses)
    if ends and extent > 0:
        last = _fixed(measured, path.x[-1], loss, end=True)
        found = [f for f in found if np.linalg.norm(f.x - path.x[-1]) > SAME * extent] + last
    return found


def _dips(size: Float[np.ndarray, " records"]) -> list[int]:
    """Records at which the slope is at its least, between larger ones."""
    found = []
    for k in range(len(size) - 1):
        before = np.max(size[:k], initial=0.0) if k else np.inf
        least = size[k] <= np.min(size[max(k - 1, 0) : k + 2])
        if least and 0 < size[k] <= DIP * min(before, np.max(size[k + 1 :])):
            found.append(k)
    return found


def _root(
    dynamics: Dynamics, x: Float[np.ndarray, " k"], largest: float, far: float
) -> Float[np.ndarray, " k"] | None:
    """The fixed point next to x by Newton's steps, along flat directions none; None if there is
    none near.
    """
    jacobian = jax.jit(jax.jacfwd(dynamics.slope))
    at = np.asarray(x)
    for _ in range(NEWTON):
        step = np.linalg.pinv(np.asarray(jacobian(jnp.asarray(at))), rcond=FLAT)
        at = at - step @ np.asarray(dynamics.slope(jnp.asarray(at)))
        if not np.all(np.isfinite(at)) or np.linalg.norm(at - x) > far:
            return None
        if np.max(abs(np.asarray(dynamics.slope(jnp.asarray(at))))) <= ROOT * largest:
            return at
    return None


def _fixed(
    measured: Measured, x: Float[np.ndarray, " k"], loss: Float[np.ndarray, " r"], end: bool
) -> list[Fixed]:
    """The fixed point at x, if both routes agree on its lowest curvature."""
    dynamics, path = measured.dynamics, measured.path
    assert path is not None
    matrix = np.asarray(jax.jacfwd(dynamics.slope)(jnp.asarray(x)))
    values, vectors = (np.asarray(part) for part in np.linalg.eig(matrix))
    values, vectors = np.real(values), np.real(vectors)
    low = int(np.argmin(values))
    along = vectors[:, low]
    other = _difference(dynamics, jnp.asarray(x), jnp.asarray(along))
    largest = float(np.max(abs(values)))
    if not abs(other - values[low]) <= ROUTES * max(abs(other), FLAT / ROUTES * largest):
        return []
    here = float(measured.problem.exact_of(measured.plane.embed(jnp.asarray(x)))[0])
    fall = float(np.max(loss) - np.min(loss))
    near = np.flatnonzero(abs(loss - here) <= DWELLS * fall)
    first, last = (path.t[near[0]], path.t[near[-1]]) if near.size else (np.nan, np.nan)
    return [Fixed(x, float(first), float(last), here, np.sort(values), end)]


def _difference(dynamics: Dynamics, x: Array, v: Array) -> float:
    """The curvature along v from two slopes."""
    h = WIDTH * max(1.0, float(jnp.linalg.norm(x))) / jnp.linalg.norm(v)
    change = (dynamics.slope(x + h * v) - dynamics.slope(x - h * v)) / (2 * h)
    return float(change @ v / (v @ v))
