"""Sampled gradients at points of a path: they examine the exact loss, and see what is off the
plane.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from popgd.claims import sampling
from popgd.claims.evidence import Evidence, estimated
from popgd.claims.measured import Dynamics, Measured
from popgd.descent import gradient
from popgd.descent.memory import Memory
from popgd.problem.law import Finite

#: A gap of this share of the slope must be seen; and this many standard errors are seen as one.
RESOLUTION, SEEN = 0.05, 9.0
#: What is off the plane must be seen from this share of the slope on.
OFF = 0.1
#: And no more samples are drawn for that alone.
OFF_MOST = 2**25
#: Samples at once: small models are fastest so (measured 64: 12 us a sample, 256: 7, 4096: 8).
CHUNK = 256
#: Points of the path: the first record, one after this share of the movement, and the last; and
#: the steepest.
POINTS = (0.0, 0.5, 1.0)


class Sampled(NamedTuple):
    """One sample's gradient: in the plane's coordinates, their squares and cubes, and off the
    plane.
    """

    along: Float[Array, " k"]
    square: Float[Array, " k"]
    cube: Float[Array, " k"]
    off: Float[Array, " n"]


@dataclass(frozen=True)
class _Statistic:
    dynamics: Dynamics

    def __call__(self, weights: Any, sample: Any) -> Sampled:
        problem, plane = self.dynamics.problem, self.dynamics.plane
        grad = jax.grad(problem.loss)(weights, sample)
        if problem.tangent is not None:
            grad = problem.tangent(weights, grad)
        along = plane.coordinates(grad)
        off = ravel_pytree(plane.deviations(grad))[0]
        return Sampled(along, along**2, along**3, off)


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Law:
    """The problem's law for `gradient.population_average`."""

    problem: Any
    n: int = 1

    def sample(self, key: Array, dtype: Any) -> Any:
        return self.problem.sample(key, dtype)


def examine(dynamics: Dynamics, setting: Any, xs: np.ndarray, memory: Memory) -> dict[str, Any]:
    """The sampled gradient at each of the points xs (points, k), as many samples as that takes."""
    law, scale = _Law(dynamics.problem), max(_size(dynamics, x) for x in xs)
    statistic = _Statistic(dynamics)
    rows: dict[str, list] = {
        name: [] for name in (*Sampled._fields, "stderr", "off_stderr", "samples", "wanted")
    }
    for number, x in enumerate(xs):

        def draw(stage: int, samples: int, number: int = number, x: Any = x) -> gradient.Estimate:
            return gradient.population_average(
                statistic,
                dynamics.plane.embed(jnp.asarray(x)),
                cast(Any, law),
                setting.key(21, number, stage),
                samples,
                CHUNK,
            )

        (mean, stderr, samples), asked = sampling.two_stages(
            draw,
            partial(_wanted, scale=scale),
            setting.samples,
            Sampled(0, 0, 0, 0),  # pyright: ignore
            memory.part(f"gradient {number}"),
            f"the gradient at point {number} of the path",
        )
        kept = [*mean, stderr.along, stderr.off, float(samples), asked]
        for name, value in zip(rows, kept, strict=True):
            rows[name].append(np.asarray(value))
    return {"x": xs, **{name: np.stack(values) for name, values in rows.items()}}


def _size(dynamics: Dynamics, x: Any) -> float:
    """The largest entry of the exact slope; 0 where there is no exact loss."""
    if dynamics.problem.exact is None:
        return 0.0
    return float(jnp.max(jnp.abs(dynamics.slope(jnp.asarray(x)))))


def _wanted(found: gradient.Estimate, scale: float) -> float:
    """Samples that make a gap of RESOLUTION of the scale seen; more, up to OFF_MOST, for a part of
    OFF of it off the plane.
    """
    mean, stderr, samples = found
    scale = scale or float(np.max(np.abs(mean.along)))
    with np.errstate(all="ignore"):
        along = SEEN * float(np.max(stderr.along)) / (RESOLUTION * scale)
        off = SEEN * float(np.max(stderr.off, initial=0.0)) / (OFF * scale)
        wanted, beside = (float(samples) * share**2 for share in (along, off))
    return max(wanted, min(beside, OFF_MOST))


def points_of(x: Float[np.ndarray, "records k"], moves: Any = None) -> np.ndarray:
    """Records of the path at POINTS of all of its movement, and that of the largest of `moves`,
    where the slope that gaps are compared with is steepest.
    """
    moved = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(x, axis=0), axis=1))])
    share = moved / moved[-1] if moved[-1] > 0 else moved
    found = [int(np.searchsorted(share, point)) for point in POINTS]
    steepest = [] if moves is None else [int(np.argmax(np.max(abs(moves), axis=1)))]
    return np.unique(found + steepest)


def slope_agrees(measured: Measured) -> Iterator[Evidence]:
    """engines-agree-slope: sampled gradients in the plane are those of the exact loss."""
    if measured.problem.exact is None:
        return
    checks, slope = measured.checks, measured.dynamics.slope
    exact = np.stack([np.asarray(slope(jnp.asarray(x))) for x in checks["x"]])
    scale = np.max(abs(exact))
    with np.errstate(all="ignore"):
        gap, error = (checks["along"] - exact) / scale, checks["stderr"] / scale
    x, square, cube, of_x = (checks[name] for name in ("along", "square", "cube", "stderr"))
    skewed = abs(gradient.skewness_of(x, square, cube, of_x, checks["samples"][:, None]))
    yield estimated(
        "engines-agree-slope",
        "The gradient of the exact loss, sampled, is that of automatic differentiation: gap",
        "derived: the gradient of a mean is the mean of gradients",
        measured=gap.ravel(),
        error=error.ravel(),
        skewness=skewed.ravel(),
        allowance=1e-9,
        resolution=RESOLUTION,
        reason=f"sampling error of {checks['samples'].max():.2g} samples; rounding",
        excuse=_blind(checks),
        self_check="slope",
    )


def _blind(checks: Any) -> str:
    short = checks["wanted"] > checks["samples"]
    if short.any():
        wanted = checks["wanted"].max()
        return f"{wanted:.2g} samples would settle it, {sampling.too_many(wanted)}"
    return ""


def scale_of(measured: Measured) -> float:
    """What gaps of gradients are relative to: the largest slope at the points."""
    return float(np.max(abs(measured.checks["along"])))


def plane_holds(measured: Measured) -> Iterator[Evidence]:
    """plane-holds: nothing of the population gradient points off the plane."""
    checks = measured.checks
    if measured.plane.k == checks["off"].shape[1] or not np.any(
        abs(checks["off"]) + checks["off_stderr"]
    ):
        return  # all weights, or 0 sample by sample
    scale, all_rows = scale_of(measured), isinstance(measured.problem.law, Finite)
    off, error = checks["off"], checks["off_stderr"]
    # Rounding is that of a mean of what single samples have off the plane.
    single = max(scale, float(np.max(error * np.sqrt(checks["samples"])[:, None])))
    if all_rows:
        off = np.stack([measured.dynamics.off(jnp.asarray(x)) for x in checks["x"]])
        error = np.zeros_like(off)
    yield Evidence(
        "plane-holds",
        "The population gradient has no part off the plane: largest entry over the slope",
        "derived: declared symmetries, or the plane that was given",
        predicted=0.0,
        measured=(off / scale).ravel(),
        error=(error / scale).ravel(),
        allowance=1e-12 * (single / scale if all_rows else 1.0),
        resolution=OFF,
        reason="rounding of the mean over all rows" if all_rows else "sampling error; rounding",
        origin="derived",
        statistical=not all_rows,
        self_check="dynamics",
    )
