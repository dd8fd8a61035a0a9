"""The slope l'(c) of the population loss on {P21 = a I, Q12 = b I}, by queries drawn where it is made.

With many loops, or at large c, the loss of a layer with LN is made by rare queries that are nearly
orthogonal to the leading subspace of S: a sample of uniform ones misses them, and looks precise. Here a
query in the eigenbasis of S is drawn from a mixture of MIXED angular central Gaussian laws,

    q ~ D g/||D g||,   g normal,   D = delta on the r leading coordinates, 1 on the others,
    density over that of the uniform law:  delta^-r (|q_lead|^2/delta^2 + |q_rest|^2)^(-d/2)    (Tyler 1987),

with delta = 1, ..., delta_min in equal ratios. delta_min is where the loops, or the target, take a query
halfway to the leading subspace. One law is the uniform one, so weights are at most MIXED.

Valid at points of the manifold, for spectra whose r leading eigenvalues are equal and for losses that do
not change under (S, q, V) -> (O S O^T, O q, O V). It shares `model.power_loop` with the structured
statistic, and nothing with the quadrature that it examines.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from popgd.data import Hypothesis, Orbit
from popgd.normal import normal
from popgd.objectives import OfOutput
from popgd.structured import AlongActive
from popgd.weights import Weights

#: Laws in the mixture. At ratios of 1e18 their deltas are 100 times apart, and the spread is thrice the mean.
MIXED = 9
#: Squares of smaller deltas, over d and r, leave float64.
SMALLEST = 1e-100


class Inner:
    """A law that popgd draws from for an end of its own: no theorem is about it."""

    def hypotheses(self) -> list[Hypothesis]:
        return []

    def describe(self) -> dict[str, object]:
        return {}


class Weighted(NamedTuple):
    """A query as an orbit of one, in the eigenbasis of S, and the density of the uniform law over its own."""

    orbit: Orbit
    weight: Float[Array, ""]


class Slope(NamedTuple):
    """A sample of l'(c), its square and cube: the last two say how far the error of the mean can be trusted."""

    value: Float[Array, ""]
    square: Float[Array, ""]
    cube: Float[Array, ""]


@partial(jax.tree_util.register_dataclass, data_fields=["spectra", "c"], meta_fields=["r", "L"])
@dataclass(frozen=True, eq=False)
class Tilted(Inner):
    """One of K spectra, each as likely, and a query drawn for L loops at c."""

    spectra: Float[Array, "K d"]
    c: Float[Array, ""]
    r: int
    L: int

    @property
    def d(self) -> int:
        return self.spectra.shape[1]

    @property
    def n(self) -> int:
        return 1

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Weighted:
        of_row, of_law, of_query = jax.random.split(key, 3)
        lam = self.spectra[jax.random.randint(of_row, (), 0, len(self.spectra))].astype(dtype)
        leading = jnp.arange(self.d) < self.r
        # A single eigenvalue has no others: its queries are uniform
        lowest = jnp.where(self.r < self.d, least(lam, self.r, self.c, self.L), 1.0)
        deltas = lowest ** (jnp.arange(MIXED) / (MIXED - 1))
        delta = deltas[jax.random.randint(of_law, (), 0, MIXED)]
        g = jnp.where(leading, delta, 1.0) * normal(of_query, (self.d,), dtype)
        q = g / jnp.linalg.norm(g)
        lead, rest = jnp.sum(jnp.where(leading, q, 0.0) ** 2), jnp.sum(jnp.where(leading, 0.0, q) ** 2)
        log_density = -self.r * jnp.log(deltas) - self.d / 2 * jnp.log(lead / deltas**2 + rest)
        weight = MIXED / jnp.sum(jnp.exp(log_density))
        return Weighted(Orbit(lam, q[:, None], jnp.eye(self.d, self.r, dtype=dtype)), weight)


def least(lam: Float[Array, " d"], r: int, c: Float[Array, ""], L: int) -> Float[Array, ""]:
    """delta_min: the smaller of ((1 + c lam_(r+1))/(1 + c lam_1))^L and lam_(r+1)/lam_1, the target's."""
    after = jnp.maximum(lam[min(r, len(lam) - 1)], 0.0)
    return jnp.clip(jnp.minimum(((1 + c * after) / (1 + c * lam[0])) ** L, after / lam[0]), SMALLEST, 1.0)


@dataclass(frozen=True)
class SlopeOf:
    """The statistic: the slope of one query's loss in c, times its weight."""

    objective: OfOutput

    def __call__(self, weights: Weights, sample: Weighted) -> Slope:
        d = sample.orbit.S.shape[0]
        c = weights.P[d, 0] * weights.Q[0, d]
        at = lambda c: AlongActive(self.objective).loss(jnp.stack([c, jnp.ones_like(c)]), sample.orbit)
        slope = jax.grad(at)(c) * sample.weight
        return Slope(slope, slope**2, slope**3)
