"""The curvature of the population loss across the plane, by sectors: a saddle or a minimum?

    H = E[Hessian of the sample loss] on the directions off the plane,

by sampling, as an exact loss may be right on the plane alone. The direction of the lowest curvature
is chosen on one set of samples and its curvature estimated on another, as the lowest eigenvalue of
a noisy matrix is too low. With a constraint the Hessian is that of the loss after the retraction,
which is the one along the constraint at a fixed point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from popgd import symmetry
from popgd.descent import gradient
from popgd.explore.structure import Structure
from popgd.problem.errors import SettingError
from popgd.problem.problem import Problem
from popgd.symmetry import Sector
from popgd.symmetry.silent import SIGMAS, VISIBLE

#: Weights of which a Hessian is sampled: 150 take 22,500 numbers a sample.
WEIGHTS = 150
#: Independent estimates of it, whose spread is its error, and how many times as many samples the
#: curvature along one direction takes.
BATCHES, MORE = 16, 4
#: Samples in memory at once.
CHUNK = 16
#: Curvatures below this share of the largest in the plane or across are rounding.
FLAT = 1e-9
#: Entries of a direction that are named: shares above this of the largest, so many at most.
NAMED, ENTRIES = 0.3, 4


class Across(NamedTuple):
    """One sector across the plane: m copies of an irreducible subspace of `dimension`, the lowest
    curvature with its standard error, whether by the exact loss (no error), and its direction.
    """

    multiplicity: int
    dimension: int
    lowest: float
    error: float
    exact: bool
    direction: str
    scale: float

    @property
    def kind(self) -> str:
        """saddle, minimum, flat, or not told."""
        if abs(self.lowest) + VISIBLE * self.error <= FLAT * self.scale:
            return "flat"
        if abs(self.lowest) <= SIGMAS * self.error:
            return "not told"
        return "saddle" if self.lowest < 0 else "minimum"


@dataclass(frozen=True)
class _Hessian:
    """The Hessian of one sample, or what it is along directions (rows)."""

    problem: Problem
    directions: bytes = b""
    count: int = 0

    def __call__(self, weights: Any, sample: Any) -> Array:
        problem, (flat, tree) = self.problem, ravel_pytree(weights)
        back = problem.retraction or (lambda w: w)
        loss = lambda x: problem.loss(back(tree(x)), sample)
        if not self.count:
            return jax.hessian(loss)(flat)
        rows = jnp.asarray(np.frombuffer(self.directions).reshape(self.count, -1))
        along = lambda v: v @ jax.jvp(jax.grad(loss), (flat,), (v,))[1]
        # shard_map takes a tangent only where its point is
        return jax.vmap(along)(rows + 0.0 * flat)


def across(
    problem: Problem, found: Structure, x: Float[np.ndarray, " k"], key: PRNGKeyArray, samples: int
) -> tuple[list[Across], str]:
    """Every sector off the plane at the point x of it, and a note where that is not known."""
    plane = found.plane
    n = len(plane.entries)
    if plane.k == n:
        return [], ""
    if n > WEIGHTS:
        return [], f"not sampled: {n} weights, where up to {WEIGHTS} are"
    of_sectors, of_hessian, of_curvature = jax.random.split(key, 3)
    try:
        parts = _parts(problem, found, of_sectors)
        weights = plane.embed(jnp.asarray(x))
        batches = np.stack([
            np.asarray(_sampled(_Hessian(problem), weights, problem, k, samples // BATCHES).mean)
            for k in jax.random.split(of_hessian, BATCHES)
        ])  # fmt: skip
        reduced = symmetry.reduce(parts, batches)
        off = [r for r in reduced if not _on(r.sector, plane)]
        return _judged(problem, weights, off, batches, of_curvature, samples), ""
    except SettingError as error:
        return [], str(error)


def _sampled(statistic: Any, weights: Any, problem: Problem, key: Any, samples: int) -> Any:
    return gradient.population_average(statistic, weights, problem.law, key, samples, CHUNK)


def _parts(problem: Problem, found: Structure, key: PRNGKeyArray) -> Sequence[Sector]:
    """The sectors of the symmetries; of a plane that was given without them, it and the rest."""
    if found.symmetries and found.plane is found.fixed:
        return symmetry.sectors(found.symmetries, problem.start, key)
    Q = np.linalg.qr(found.plane.directions.T, mode="complete")[0]
    return [Sector(part[:, :, None]) for part in np.split(Q, [found.plane.k], axis=1)]


def _on(sector: Sector, plane: Any) -> bool:
    """Whether a sector lies in the plane."""
    along = plane.dual.T @ (plane.directions @ sector.basis[:, 0, 0])
    return bool(np.linalg.norm(along) > 0.5)


def _judged(
    problem: Problem,
    weights: Any,
    off: list[symmetry.Reduced],
    batches: Float[np.ndarray, "r n n"],
    key: PRNGKeyArray,
    samples: int,
) -> list[Across]:
    """The lowest curvature of each sector, on samples of its own."""
    if not off:
        return []
    exact = _exact(problem, weights, batches)
    scale = float(np.max(abs(batches.mean(axis=0))))
    # an exact loss that reads the plane alone is flat across it
    known = [exact is not None and np.max(abs(r.sector.of(exact))) > FLAT * scale for r in off]
    directions = []
    for (sector, H, _), by_exact in zip(off, known, strict=True):
        chosen = sector.of(exact) if exact is not None and by_exact else H
        directions.append(sector.basis[:, :, 0] @ np.linalg.eigh(chosen)[1][:, 0])
    rows = np.stack(directions)
    statistic = _Hessian(problem, rows.tobytes(), len(rows))
    mean, stderr, _ = _sampled(statistic, weights, problem, key, MORE * samples)
    found = []
    for i, (sector, _, _) in enumerate(off):
        value, error, by_exact = float(mean[i]), float(stderr[i]), False
        if exact is not None and known[i]:
            other = float(rows[i] @ exact @ rows[i])
            by_exact = abs(other - value) <= SIGMAS * error + FLAT * scale
            value, error = (other, 0.0) if by_exact else (value, error)
        found.append(Across(sector.multiplicity, sector.dimension, value, error, by_exact,
                            _said(rows[i], problem), scale))  # fmt: skip
    return found


def _exact(
    problem: Problem, weights: Any, batches: Float[np.ndarray, "r n n"]
) -> Float[np.ndarray, "n n"] | None:
    """The Hessian of the exact loss, if it is that of the samples off the plane too: no entry is
    off by more than 2 SIGMAS standard errors, which are those of few estimates. None without.
    """
    if problem.exact is None or problem.retraction is not None:
        return None
    flat, tree = ravel_pytree(weights)
    found = np.asarray(jax.jit(jax.hessian(lambda x: problem.exact_of(tree(x))[0]))(flat))
    mean, error = batches.mean(axis=0), batches.std(axis=0, ddof=1) / len(batches) ** 0.5
    rounding = FLAT * np.max(abs(mean))
    agrees = np.all(abs(found - mean) <= 2 * SIGMAS * error + rounding)
    return found if agrees and np.all(np.isfinite(found)) else None


def _said(v: Float[np.ndarray, " n"], problem: Problem) -> str:
    """A direction by its largest entries."""
    names = symmetry.whole(problem.start).entries
    order = [int(i) for i in np.argsort(-abs(v), kind="stable")]
    large = [i for i in order if abs(v[i]) >= NAMED * abs(v[order[0]])]
    shown = sorted(large[:ENTRIES])
    sign = 1 if v[shown[0]] > 0 else -1
    said = " ".join(f"{'+' if sign * v[i] > 0 else '-'} {names[i]}" for i in shown)
    return said.removeprefix("+ ") + (" ..." if len(large) > ENTRIES else "")
