"""The weights (P, Q), and what the core asks of an invariant set of them. No architecture is known
here.
"""

from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


class Weights(NamedTuple):
    """P is the merged projection-value matrix, Q the merged key-query matrix. Valid for finite
    entries; not checked.
    """

    P: Float[Array, "D D"]
    Q: Float[Array, "D D"]


@runtime_checkable
class Manifold(Protocol):
    """A plane of weights that population gradient descent does not leave, or that training is kept
    to. A hashable object.

    `coordinates` is linear and `embed` affine, with coordinates(embed(x) - embed(0)) = x, and
    embed(coordinates(w)) is the point of the plane next to w. So a step takes eta
    coordinates(gradient) off the coordinates. Valid for finite entries; NaN and inf pass through.
    """

    def coordinates(self, weights: Weights) -> Float[Array, " k"]: ...
    def embed(self, coordinates: Float[Array, " k"]) -> Weights: ...
    def inactive(self, weights: Weights) -> Float[Array, ""]:
        """How far, at most, an entry is from what every point of the plane has there."""
        ...

    def deviations(self, gradient: Weights) -> PyTree[Float[Array, "..."]]:
        """Combinations of a gradient's entries that vanish in the mean on the plane, and need
        standard errors of their own.
        """
        ...


@partial(jax.jit, static_argnames="manifold")
def project(manifold: Manifold, weights: Weights) -> Weights:
    """The point of the manifold next to the weights. Valid for finite weights; NaN and inf pass
    through.
    """
    return manifold.embed(manifold.coordinates(weights))


def along(manifold: Manifold, gradient: Weights) -> Weights:
    """The part of a gradient along the manifold.

    Unbiased for a Monte Carlo gradient taken on the manifold, where the population gradient has no
    other part. Valid for finite gradients; NaN and inf pass through.
    """
    return lift(manifold, manifold.coordinates(gradient))


def lift(manifold: Manifold, slope: Float[Array, " k"]) -> Weights:
    """The gradient along the manifold whose coordinates are `slope`. Valid for finite numbers; NaN
    and inf pass through.
    """
    return jax.tree.map(jnp.subtract, manifold.embed(slope), manifold.embed(jnp.zeros_like(slope)))


@partial(jax.jit, static_argnames="manifold")
def distance(manifold: Manifold, weights: Weights) -> Float[Array, ""]:
    """The Frobenius distance of (P, Q) from the manifold.

    Valid for 0 and for 2e-154 to 1e154, in float32 2e-19 to 1e19: beyond, the squares underflow to
    0 or overflow to inf.
    """
    gap = jax.tree.map(jnp.subtract, weights, project(manifold, weights))
    return jnp.sqrt(sum(jnp.sum(g * g) for g in gap))
