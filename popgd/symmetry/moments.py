"""A test that may refute the declared invariance of a data law: moments of samples and of moved
ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from popgd.symmetry import _algebra
from popgd.symmetry.actions import LINEAR, Draw, Symmetry

#: Up to so many numbers in a sample every product of two is averaged, else those of so many random
#: directions.
PRODUCTS = 40
#: Samples in memory at once.
BLOCK = 64


class Moments(NamedTuple):
    """Means of f(g x) - f(x) and their standard errors: f an entry of the sample, its square or
    cube, or a product of two.
    """

    names: tuple[str, ...]
    difference: Float[np.ndarray, " f"]
    error: Float[np.ndarray, " f"]

    @property
    def sigmas(self) -> Float[np.ndarray, " f"]:
        """Differences over their standard errors; 0 where both are 0."""
        apart = np.where(self.error > 0, self.error, np.finfo(float).tiny)
        return np.abs(self.difference) / apart

    @property
    def worst(self) -> int:
        """The number of the moment that is the most standard errors off."""
        return int(np.argmax(self.sigmas))


def moments(
    symmetry: Symmetry,
    law_sample: Draw,
    key: PRNGKeyArray,
    samples: int = 4096,
    seen: Callable[[Any], Any] = lambda x: x,
) -> Moments:
    """Whether the law of x and that of g x differ in a first or second moment, or in a third of one
    entry.

    Each of the samples is moved by a random g of its own; an invariant law has all differences 0 in
    the mean. `seen` is what the loss sees of a sample, where the law of the whole is not invariant:
    an eigenvector v comes with some sign, seen is v v^T. Do not trust standard errors of heavy
    tails, nor the silence of the test about other moments.
    """
    like = jax.eval_shape(lambda k: seen(law_sample(k)), key)
    names = _algebra.names(like)
    D = len(names)
    turn, of_draws = jax.random.split(key)
    directions = np.eye(D) if D <= PRODUCTS else _orthonormal(turn, D)
    labels = names if D <= PRODUCTS else tuple(f"direction {i}" for i in range(PRODUCTS))
    i, j = np.triu_indices(len(labels))

    def features(x: Any) -> Array:
        flat = ravel_pytree(x)[0].astype(jnp.float64)
        along = directions @ flat
        return jnp.concatenate([flat, flat**2, flat**3, along[i] * along[j]])

    def one(k: PRNGKeyArray) -> Array:
        of_sample, of_g = jax.random.split(k)
        x = law_sample(of_sample)
        before = features(seen(x))
        moved = features(seen(symmetry.sample(symmetry.draw(of_g), x))) - before
        # the rounding of a moment that g does not change has a mean, and no scatter to speak of
        return jnp.where(jnp.abs(moved) <= LINEAR * jnp.abs(before), 0, moved)

    every = np.asarray(
        jax.jit(lambda ks: jax.lax.map(one, ks, batch_size=BLOCK))(
            jax.random.split(of_draws, samples)
        )
    )
    said = (
        *names,
        *(f"{n}^2" for n in names),  # a change of one entry would hardly show in many directions
        *(f"{n}^3" for n in names),
        *(f"{labels[a]} {labels[b]}" for a, b in zip(i, j, strict=True)),
    )
    return Moments(said, every.mean(0), every.std(0, ddof=1) / samples**0.5)


def _orthonormal(key: PRNGKeyArray, D: int) -> np.ndarray:
    """PRODUCTS random orthonormal rows."""
    return np.linalg.qr(_algebra.gaussian(key, D, PRODUCTS))[0].T
