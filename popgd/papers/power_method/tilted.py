"""The slope l'(c) of the population loss on {P21 = a I, Q12 = b I}, by queries drawn where it is
made.

With many loops, or at large c, the loss of a layer with LN is made by rare queries that are nearly
orthogonal to the leading subspace of S: a sample of uniform ones misses them, and looks precise.
Here a query in the eigenbasis of S is drawn from a mixture of angular central Gaussian laws,

    q ~ D g/||D g||,   g normal,   D diagonal,
    density over that of the uniform law:  prod D_i^-1 (sum q_i^2/D_i^2)^(-d/2)    (Tyler 1987).

LEADING of them have D = delta on the r leading coordinates and 1 on the others, delta = 1, ...,
delta_min in equal ratios: delta_min is where the loops, or the target, take a query halfway to the
leading subspace. SPECTRAL more, for the target Sq/|Sq|, have D_i = (lam_d/lam_i)^s: Sq is short
where q has next to nothing of all but the last eigenvectors. One law is the uniform one, so weights
are at most their number.

Valid at points of the manifold, for spectra whose r leading eigenvalues are equal and for losses
that do not change under (S, q, V) -> (O S O^T, O q, O V). It shares `model.power_loop` with the
structured statistic, and nothing with the quadrature that it examines.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from popgd.papers.power_method.data import Orbit
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import OfOutput
from popgd.papers.power_method.structured import AlongActive
from popgd.problem.normal import normal
from popgd.problem.pytree import registered

#: Laws of either kind. At ratios of 1e18 the deltas are 100 times apart, and the spread is thrice
#: the mean.
LEADING, SPECTRAL = 9, 3
#: Squares of smaller deltas, over d and r, leave float64.
SMALLEST = 1e-100


class Weighted(NamedTuple):
    """A query as an orbit of one, in the eigenbasis of S, and the density of the uniform law over
    its own.
    """

    orbit: Orbit
    weight: Float[Array, ""]


class Slope(NamedTuple):
    """A sample of l'(c), its square and cube: the last two say how far the error of the mean can be
    trusted.
    """

    value: Float[Array, ""]
    square: Float[Array, ""]
    cube: Float[Array, ""]


@registered(["spectra", "c"], ["r", "L", "spectral"])
@dataclass(frozen=True, eq=False)
class Tilted:
    """One of K spectra, each as likely, and a query drawn for L loops at c, and for the target
    Sq/|Sq| if `spectral`.
    """

    spectra: Float[Array, "K d"]
    c: Float[Array, ""]
    r: int
    L: int
    spectral: bool = False

    @property
    def d(self) -> int:
        return self.spectra.shape[1]

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Weighted:
        of_row, of_law, of_query = jax.random.split(key, 3)
        lam = self.spectra[jax.random.randint(of_row, (), 0, len(self.spectra))].astype(dtype)
        logs = self.log_scales(lam)
        chosen = logs[jax.random.randint(of_law, (), 0, len(logs))]
        g = jnp.exp(chosen) * normal(of_query, (self.d,), dtype)
        q = g / jnp.linalg.norm(g)
        density = -jnp.sum(logs, axis=1) - self.d / 2 * jnp.log(
            jnp.sum((q * jnp.exp(-logs)) ** 2, axis=1)
        )
        weight = len(logs) / jnp.sum(jnp.exp(density))
        return Weighted(Orbit(lam, q[:, None], jnp.eye(self.d, self.r, dtype=dtype)), weight)

    def log_scales(self, lam: Float[Array, " d"]) -> Float[Array, "laws d"]:
        """log D of every law in the mixture."""
        # A single eigenvalue has no others: its queries are uniform
        lowest = least(lam, self.r, self.c, self.L) if self.r < self.d else jnp.ones((), lam.dtype)
        shares = jnp.arange(LEADING) / (LEADING - 1)
        logs = jnp.log(lowest) * shares[:, None] * (jnp.arange(self.d) < self.r)
        if not self.spectral:
            return logs
        last = jnp.clip(lam, SMALLEST * lam[0])
        powers = jnp.arange(1, SPECTRAL + 1) / SPECTRAL
        return jnp.concatenate([logs, powers[:, None] * jnp.log(last[-1] / last)])


def least(lam: Float[Array, " d"], r: int, c: Float[Array, ""], L: int) -> Float[Array, ""]:
    """delta_min: the smaller of ((1 + c lam_(r+1))/(1 + c lam_1))^L and lam_(r+1)/lam_1, the
    target's.
    """
    after = jnp.maximum(lam[min(r, len(lam) - 1)], 0.0)
    return jnp.clip(
        jnp.minimum(((1 + c * after) / (1 + c * lam[0])) ** L, after / lam[0]), SMALLEST, 1.0
    )


@dataclass(frozen=True)
class SlopeOf:
    """The statistic: the slope of one query's loss in c, times its weight."""

    objective: OfOutput

    def __call__(self, weights: Weights, sample: Weighted) -> Slope:
        d = sample.orbit.S.shape[0]
        c = weights.P[d, 0] * weights.Q[0, d]
        at = lambda c: AlongActive(self.objective).loss(
            jnp.stack([c, jnp.ones_like(c)]), sample.orbit
        )
        slope = jax.grad(at)(c) * sample.weight
        return Slope(slope, slope**2, slope**3)
