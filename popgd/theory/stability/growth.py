"""Growth of a small perturbation of all entries, sector by sector: fresh samples against the product of reduced maps."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from popgd import gradient, tangent
from popgd.hessian import eigh
from popgd.kronecker import Path
from popgd.recursion import log_grid
from popgd.theory.base import Setting
from popgd.theory.study import start_of

#: A claim follows growth until it has reached three decades, for so many steps at most: the spread of products of random maps
#: grows with their number, and soon a few of them make the mean.
DECADES, STEPS = 3.0, 500
#: Independent tangent maps of full matrices, and the fresh samples of each step of one.
RUNS, BATCH = 32, 8
#: Of the samples of a Hessian, those of a set of the series.
SHARE = 64


class Growth(NamedTuple):
    """The component along its start of a perturbation x (x) M, over its start, at the recorded steps.

    vectors are the starts x. predicted, for each set
    of sampled series, mean for their mean, shorter for that without its last two coefficients; measured for each run.
    sharpest is the largest eigenvalue of eta times the mean Hessian that was passed: beyond 2 a step overshoots.
    """

    step: Int[np.ndarray, " records"]
    vectors: Float[np.ndarray, "3 8"]
    predicted: Float[np.ndarray, "records sets 3"]
    mean: Float[np.ndarray, "records 3"]
    shorter: Float[np.ndarray, "records 3"]
    measured: Float[np.ndarray, "records runs 3"]
    sharpest: float


def lowest(found: gradient.Estimate, blocks: Sequence[int]) -> Float[np.ndarray, "3 8"]:
    """The eigenvector of the lowest eigenvalue among some blocks, in each sector."""
    vectors = np.zeros((3, 8))
    for vector, matrix in zip(vectors, np.asarray(found.mean), strict=True):
        vector[list(blocks)] = eigh(matrix[np.ix_(blocks, blocks)])[1][:, 0]
    return vectors


def sector_growth(
    setting: Setting,
    objective: Any,
    slope: Any,
    base: Path,
    vectors: Float[np.ndarray, "3 8"],
    steps: int,
    decades: float = DECADES,
) -> Growth:
    """Measure and predict along the descent on the manifold with the slope c -> l'(c), until a sector has grown by `decades`, for
    `steps` steps at most."""
    law, first = setting.law, setting["init"] == "P21"
    last = base.step <= steps
    top = 1.1 * float((base.theta[:, 2] * base.theta[:, 5])[last].max())
    lam = law.n / law.d * 2
    series = tangent.series(objective, law, lam, top, setting.key(12), max(2, setting.samples // SHARE), first)
    start = jnp.asarray(start_of(setting))
    grid = log_grid(steps, 16)[1:]

    def predicted(some: tangent.Series) -> np.ndarray:
        x = tangent.predicted(some, slope, start, setting.eta, law.d, jnp.asarray(vectors), jnp.asarray(grid), first)
        return np.einsum("rksi,si->rks", np.asarray(x), vectors)

    mean = predicted(series.mean())[:, 0]
    enough = np.flatnonzero((abs(mean) > 10**decades).any(axis=1))
    grid = grid[: enough[0] + 1] if len(enough) else grid
    found_x = tangent.sampled(
        objective, law, slope, start, setting.eta, jnp.asarray(vectors), jnp.asarray(grid), setting.key(13), BATCH, RUNS
    )
    measured = np.einsum("rksi,si->rks", np.asarray(found_x), vectors)
    kept = slice(len(grid))
    points = base.theta[base.step <= grid[-1]]
    return Growth(grid, vectors, predicted(series)[kept], mean[kept], predicted(series.mean().shorter())[kept, 0], measured,
                  setting.eta * sharpness(series, points, first))  # fmt: skip


def sharpness(series: tangent.Series, theta: Float[np.ndarray, "points 8"], first: bool) -> float:
    """The largest curvature of the mean Hessian in any sector at those points of the manifold that the series reaches."""
    largest = 0.0
    for a, b in theta[:, [2, 5]]:
        D = np.asarray(tangent.scales(jnp.asarray(a), jnp.asarray(b), first))
        H = D[:, None] * np.asarray(series.mean()(jnp.asarray(a * b)))[0] * D
        largest = np.nanmax([largest, *(eigh(sector)[0][-1] for sector in H)])
    return float(largest)
