"""Gradients of single samples, at many weights and in the mean."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from popgd.problem.errors import SettingError
from popgd.problem.pytree import classes
from popgd.symmetry.actions import Draw, Loss
from popgd.symmetry.plane import Plane

#: Samples in memory, and compiled, at once.
BLOCK = 64
#: A combination of a gradient's entries below this share of the largest of them is rounding, which
#: has a mean and hardly a scatter: it counts as 0. Measured 1e-16 to 2e-15.
ROUNDING = 1e-13


@partial(jax.jit, static_argnames=("loss", "law_sample", "known"))
def _block(
    loss: Loss,
    law_sample: Draw,
    like: PyTree,
    flat: Float[Array, "b n"],
    keys: Any,
    known: tuple[Any, ...],
) -> Float[Array, "b n"]:
    """The gradient of one sample at each of these weights, whose classes are `known`."""
    tree = ravel_pytree(like)[1]
    one = lambda w, key: ravel_pytree(jax.grad(loss)(tree(w), law_sample(key)))[0]
    return jax.vmap(one)(flat, keys)


def of_samples(
    loss: Loss, law_sample: Draw, like: PyTree, flat: Float[np.ndarray, "r n"], key: PRNGKeyArray
) -> Float[np.ndarray, "r n"]:
    """The gradient of a sample of its own at each of these weights, flat as `ravel_pytree(like)`.

    SettingError where one is not finite.
    """
    rows, n = flat.shape
    padded = np.concatenate([flat, np.broadcast_to(flat[-1], (-rows % BLOCK, n))])
    keys = jax.random.split(key, len(padded))
    known = classes(like)
    out = [
        np.asarray(
            _block(loss, law_sample, like, padded[i : i + BLOCK], keys[i : i + BLOCK], known)
        )
        for i in range(0, len(padded), BLOCK)
    ]
    found = np.concatenate(out)[:rows]
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if bad.size:
        raise SettingError(
            f"the gradient of {bad.size} of {rows} samples is not finite at weights of size "
            f"{np.abs(flat[bad[0]]).max():.3g}: give a start beside which the loss has a gradient"
        )
    return found


class Means(NamedTuple):
    """Mean gradients and their standard errors, by name."""

    names: tuple[str, ...]
    mean: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]

    @property
    def sigmas(self) -> Float[np.ndarray, " n"]:
        """|mean| in standard errors; 0 where both are 0."""
        return np.abs(self.mean) / np.where(self.error > 0, self.error, np.finfo(float).tiny)

    @classmethod
    def of(
        cls,
        names: tuple[str, ...],
        gradients: Float[np.ndarray, "r any"],
        made: Float[np.ndarray, "r n"],
    ) -> "Means":
        """Of combinations `made` of these gradients' entries, one row a sample."""
        size = np.abs(gradients).max(axis=1, keepdims=True)
        made = np.where(np.abs(made) <= ROUNDING * size, 0, made)
        return cls(names, made.mean(axis=0), made.std(axis=0, ddof=1) / len(made) ** 0.5)


def in_coordinates(
    loss: Loss,
    law_sample: Draw,
    plane: Plane,
    point: Float[np.ndarray, " k"],
    key: PRNGKeyArray,
    samples: int = 4096,
) -> Means:
    """The mean gradient along the plane at a point of it, by coordinate."""
    gradients = _at(loss, law_sample, plane, point, key, samples)
    return Means.of(plane.names, gradients, gradients @ plane.dual.T)


def off_plane(
    loss: Loss,
    law_sample: Draw,
    plane: Plane,
    point: Float[np.ndarray, " k"],
    key: PRNGKeyArray,
    samples: int = 4096,
) -> Means:
    """The mean gradient off the plane at a point of it, by entry: all 0 but for their standard
    errors, if the declared symmetry is one of the law too. Heavy tails make these errors too small.
    """
    gradients = _at(loss, law_sample, plane, point, key, samples)
    along = (gradients @ plane.dual.T) @ plane.directions
    return Means.of(plane.entries, gradients, gradients - along)


def _at(
    loss: Loss,
    law_sample: Draw,
    plane: Plane,
    point: Float[np.ndarray, " k"],
    key: PRNGKeyArray,
    samples: int,
) -> Float[np.ndarray, "r n"]:
    """Gradients of so many samples at a point of the plane."""
    like = plane.embed(jnp.asarray(point))
    flat = np.broadcast_to(ravel_pytree(like)[0], (samples, len(plane.entries)))
    return of_samples(loss, law_sample, like, flat, key)
