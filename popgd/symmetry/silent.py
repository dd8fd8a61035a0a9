"""Why a weight stays zero, the strongest reason first.

silent       its sample gradient is 0 at every theta and x: it never reaches the output
symmetry     it is 0 on the whole of Fix(G)
structural   its sample gradient is exactly 0 for every x where it and its like are 0
expectation  its gradient is 0 in the mean there: a statistical claim, with its smallest visible gap
moves        none of these

A silent weight stays what it is; one of the others stays 0 if it starts there.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, PRNGKeyArray, PyTree

from popgd.symmetry import _algebra
from popgd.symmetry.actions import Draw, Loss
from popgd.symmetry.gradients import BLOCK, Means, in_coordinates, of_samples
from popgd.symmetry.plane import FIXED, Plane, whole

#: Random (weights, sample) at which a gradient is tried for exact zeros.
TRIALS = BLOCK
#: Points at which a mean gradient is estimated.
POINTS = 3
#: Standard errors beyond which a mean is not 0: by chance with probability 2e-9 for each number.
SIGMAS = 6.0
#: A gap of so many standard errors is beyond SIGMAS with probability 0.99.
VISIBLE = SIGMAS + 2.326

REASONS = ("silent", "symmetry", "structural", "expectation", "moves")


class Zeros(NamedTuple):
    """For each entry of the weights a reason, one of REASONS; for those of `expectation` the mean
    gradient farthest from 0, in standard errors, its standard error, and the smallest gap that
    would have been caught with probability 0.99, else 0.
    """

    entries: tuple[str, ...]
    why: tuple[str, ...]
    mean: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    gap: Float[np.ndarray, " n"]

    def of(self, reason: str) -> tuple[str, ...]:
        """The entries that have this reason."""
        return tuple(e for e, why in zip(self.entries, self.why, strict=True) if why == reason)

    def describe(self) -> str:
        """One line for each reason: how many entries, and which."""
        lines = []
        for reason in REASONS:
            if entries := self.of(reason):
                more = ", ..." if len(entries) > 8 else ""
                lines.append(f"{reason}: {len(entries)} ({', '.join(entries[:8])}{more})")
        return "\n".join(lines)


def why_zero(
    loss: Loss,
    law_sample: Draw,
    plane: Plane,
    start: PyTree,
    key: PRNGKeyArray,
    samples: int = 4096,
) -> Zeros:
    """The reason why each entry of the weights stays zero, from a start and a plane of symmetry.

    Coordinates that are 0 at the start stay 0 together: all are supposed to, those with a gradient
    are left out, and so on until none is. Gradients are taken at the start plus standard normal
    numbers along what is left. From a start off the plane nothing is by symmetry. Exact zeros are
    those of TRIALS random points; trust no zero that a branch of the loss hides from them.
    SettingError where a gradient is not finite.
    """
    start = _algebra.float64(start, "the start")
    flat = np.asarray(ravel_pytree(start)[0])
    plane = plane if plane.off(start)[0] <= FIXED else whole(start)
    anywhere, on_plane, in_mean = jax.random.split(key, 3)
    everywhere = flat + _algebra.gaussian(anywhere, TRIALS, flat.size)
    silent = ~np.any(of_samples(loss, law_sample, start, everywhere, anywhere) != 0, axis=0)
    # the entry that a coordinate is named after: `coordinates` would round a 0 away
    x = (flat - plane.origin)[[plane.entries.index(name) for name in plane.names]]
    structural = x == 0
    while True:
        points = x + ~structural * _algebra.gaussian(on_plane, TRIALS, plane.k)
        weights = plane.origin + points @ plane.directions
        reached = np.any(of_samples(loss, law_sample, start, weights, on_plane) != 0, axis=0)
        moving = np.any(plane.directions[:, reached] != 0, axis=1)
        if not np.any(structural & moving):
            break
        structural &= ~moving
    zero, means = _in_mean(loss, law_sample, plane, x, structural, in_mean, samples)
    return _zeros(plane, silent, structural, zero, means)


def _in_mean(
    loss: Loss,
    law_sample: Draw,
    plane: Plane,
    x: Float[np.ndarray, " k"],
    structural: Bool[np.ndarray, " k"],
    key: PRNGKeyArray,
    samples: int,
) -> tuple[Bool[np.ndarray, " k"], Means]:
    """Which other coordinates that start at 0 have no gradient in the mean, and the mean gradients
    that are the most standard errors off at POINTS random points.
    """
    zero = (x == 0) & ~structural
    while True:
        found = []
        for k in jax.random.split(key, POINTS):
            free = ~(structural | zero)
            point = x + free * _algebra.gaussian(k, plane.k)
            found.append(in_coordinates(loss, law_sample, plane, point, k, samples))
        worst = np.argmax([means.sigmas for means in found], axis=0)[None]
        pick = lambda parts, i=worst: np.take_along_axis(np.array(parts), i, axis=0)[0]
        means = Means(plane.names, pick([m.mean for m in found]), pick([m.error for m in found]))
        moving = zero & (means.sigmas > SIGMAS)
        if not np.any(moving):
            return zero, means
        zero, key = zero & ~moving, jax.random.fold_in(key, 0)


def _zeros(
    plane: Plane,
    silent: Bool[np.ndarray, " n"],
    structural: Bool[np.ndarray, " k"],
    zero: Bool[np.ndarray, " k"],
    means: Means,
) -> Zeros:
    """The reason of each entry: the weakest of those of its coordinates."""
    on = plane.directions != 0
    free = lambda left: np.any(on[left], axis=0)
    why = np.full(len(plane.entries), "symmetry", dtype=object)
    why[free(structural)] = "structural"
    why[free(zero)] = "expectation"
    why[free(~structural & ~zero)] = "moves"
    why[silent] = "silent"
    mean, error = np.zeros((2, len(why)))
    for i in np.flatnonzero(why == "expectation"):
        c = max(np.flatnonzero(on[:, i]), key=lambda c: means.sigmas[c])
        mean[i], error[i] = means.mean[c], means.error[c]
    return Zeros(plane.entries, tuple(why.tolist()), mean, error, VISIBLE * error)
