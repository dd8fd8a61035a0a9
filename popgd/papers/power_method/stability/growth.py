"""Growth of a small perturbation of all entries, sector by sector: fresh samples against the
product of reduced maps.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from popgd.descent import gradient
from popgd.descent.recursion import log_grid
from popgd.papers.power_method.kronecker import Path
from popgd.papers.power_method.stability import tangent
from popgd.papers.power_method.stability.hessian import eigh
from popgd.papers.power_method.training.study import start_of
from popgd.theorem.base import Setting

#: A claim follows growth until a sector reaches a factor of 30, for so many steps at most: the
#: spread of products of random maps grows with their number, soon a few of them make the mean, and
#: noise of what grows fastest hides the others.
DECADES, STEPS = 1.5, 500
#: Growth of a sector must be known to less than half of its logarithm, what a forgotten factor 1/2
#: makes of it, or where that is small to a tenth of an e-fold.
RESOLUTION, FLOOR = 0.4, 0.1
#: Where the standard error of the prediction is at most this share of the resolution, that of the
#: fresh samples may be as large: 1/(sqrt(2) x 10.3), 10.3 standard errors being a gap that is seen.
KNOWN = 0.068
#: Independent tangent maps of full matrices, and the fresh samples of each step of one.
RUNS, BATCH = 32, 16
#: A set of the series has this share of the samples of a Hessian: all of them as many.
SHARE = 32


class Growth(NamedTuple):
    """The component along its start of a perturbation x (x) M, over its start, at the recorded
    steps.

    vectors are the starts x. predicted, for each set
    of sampled series, mean for their mean, shorter for that without its last two coefficients;
    measured for each run. sharpest is the largest eigenvalue of eta times the mean Hessian that was
    passed: beyond 2 a step overshoots. overshoot is the logarithm of what the sharpest direction
    grows by at the steps that do.
    """

    step: Int[np.ndarray, " records"]
    vectors: Float[np.ndarray, "3 8"]
    predicted: Float[np.ndarray, "records sets 3"]
    mean: Float[np.ndarray, "records 3"]
    shorter: Float[np.ndarray, "records 3"]
    measured: Float[np.ndarray, "records runs 3"]
    sharpest: float
    overshoot: float

    def resolution(self) -> Float[np.ndarray, "records 3"]:
        """To what the logarithm of growth must be known."""
        return np.maximum(RESOLUTION * abs(np.log(abs(self.mean))), FLOOR)

    def horizon(self) -> int:
        """The last record, none having grown by more than DECADES, at which growth by an e-fold is
        known in every sector; or, if there is none, the last of those.

        It is chosen by the prediction alone, whose error grows with the number of steps.
        """
        beyond = np.any(abs(self.mean) > 10**DECADES, axis=1)
        end = max(1, int(np.argmax(beyond))) if np.any(beyond) else len(self.mean)
        sets = self.predicted / self.mean[:, None]
        known = sets.std(axis=1, ddof=1) / sets.shape[1] ** 0.5 <= KNOWN * self.resolution()
        known = np.all(known, axis=1)[:end] & np.any(abs(np.log(abs(self.mean))) >= 1, axis=1)[:end]
        return int(np.flatnonzero(known)[-1]) if known.any() else end - 1


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
    """Measure and predict along the descent on the manifold with the slope c -> l'(c), until a
    sector has grown by `decades`, for `steps` steps at most.
    """
    law, first = setting.law, setting["init"] == "P21"
    last = base.step <= steps
    top = 1.1 * float((base.theta[:, 2] * base.theta[:, 5])[last].max())
    lam = law.n / law.d * 2
    series = tangent.series(
        objective, law, lam, top, setting.key(12), max(2, setting.samples // SHARE), first
    )
    start = jnp.asarray(start_of(setting))
    grid = log_grid(steps, 16)[1:]

    def predicted(some: tangent.Series) -> np.ndarray:
        x = tangent.predicted(
            some, slope, start, setting.eta, law.d, jnp.asarray(vectors), jnp.asarray(grid), first
        )
        return np.einsum("rksi,si->rks", np.asarray(x), vectors)

    mean = predicted(series.mean())[:, 0]
    enough = np.flatnonzero((abs(mean) > 10**decades).any(axis=1))
    grid = grid[: enough[0] + 1] if len(enough) else grid
    found_x = tangent.sampled(
        objective,
        law,
        slope,
        start,
        setting.eta,
        jnp.asarray(vectors),
        jnp.asarray(grid),
        setting.key(13),
        BATCH,
        RUNS,
    )
    measured = np.einsum("rksi,si->rks", np.asarray(found_x), vectors)
    kept = slice(len(grid))
    passed = base.step <= grid[-1]
    sharp = setting.eta * _sharpness(series, base.theta[passed], first)
    # Beyond 2 the factor of a step is 1 - sharp < -1
    overshoot = np.log(np.maximum(sharp - 1, 1))[:-1] @ np.diff(base.step[passed])
    return Growth(
        grid,
        vectors,
        predicted(series)[kept],
        mean[kept],
        predicted(series.mean().shorter())[kept, 0],
        measured,
        float(sharp.max()),
        float(overshoot),
    )


def _sharpness(
    series: tangent.Series, theta: Float[np.ndarray, "points 8"], first: bool
) -> Float[np.ndarray, " points"]:
    """The largest curvature of the mean Hessian in any sector at points of the manifold, 0 where
    the series does not reach.
    """
    largest = []
    for a, b in theta[:, [2, 5]]:
        D = np.asarray(tangent.scales(jnp.asarray(a), jnp.asarray(b), first))
        H = D[:, None] * np.asarray(series.mean()(jnp.asarray(a * b)))[0] * D
        largest.append(max(eigh(sector)[0][-1] for sector in H))
    return np.nan_to_num(np.array(largest), nan=0.0)
