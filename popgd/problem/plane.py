"""What the core asks of an invariant set of weights. No architecture is known here."""

from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


@runtime_checkable
class Plane(Protocol):
    """A plane of weights that population gradient descent does not leave, or that training is kept
    to. A hashable object.

    `coordinates` is linear and `embed` affine, with coordinates(embed(x) - embed(0)) = x, and
    embed(coordinates(w)) is the point of the plane next to w. So a step takes eta
    coordinates(gradient) off the coordinates. Valid for finite entries; NaN and inf pass through.
    """

    def coordinates(self, weights: PyTree) -> Float[Array, " k"]: ...
    def embed(self, coordinates: Float[Array, " k"]) -> PyTree: ...
    def inactive(self, weights: PyTree) -> Float[Array, ""]:
        """How far, at most, an entry is from what every point of the plane has there."""
        ...

    def deviations(self, gradient: PyTree) -> PyTree[Float[Array, "..."]]:
        """Combinations of a gradient's entries that vanish in the mean on the plane, and need
        standard errors of their own.
        """
        ...


@partial(jax.jit, static_argnames="plane")
def project(plane: Plane, weights: PyTree) -> PyTree:
    """The point of the plane next to the weights. Valid for finite weights; NaN and inf pass
    through.
    """
    return plane.embed(plane.coordinates(weights))


def along(plane: Plane, gradient: PyTree) -> PyTree:
    """The part of a gradient along the plane.

    Unbiased for a Monte Carlo gradient taken on the plane, where the population gradient has no
    other part. Valid for finite gradients; NaN and inf pass through.
    """
    return lift(plane, plane.coordinates(gradient))


def lift(plane: Plane, slope: Float[Array, " k"]) -> PyTree:
    """The gradient along the plane whose coordinates are `slope`. Valid for finite numbers; NaN
    and inf pass through.
    """
    return jax.tree.map(jnp.subtract, plane.embed(slope), plane.embed(jnp.zeros_like(slope)))


@partial(jax.jit, static_argnames="plane")
def distance(plane: Plane, weights: PyTree) -> Float[Array, ""]:
    """The Frobenius distance of the weights from the plane, all arrays together.

    Valid for 0 and for 2e-154 to 1e154, in float32 2e-19 to 1e19: beyond, the squares underflow to
    0 or overflow to inf.
    """
    gap = jax.tree.map(jnp.subtract, weights, project(plane, weights))
    return jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gap)))
