"""Vectors and matrices averaged over a group, without a matrix of it: (1 + rho)/2 with one random g
after another.

Each uniformly random g halves, in the mean, the square of what is not invariant.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from popgd.problem.errors import SettingError
from popgd.symmetry.actions import Symmetry, rows

#: Random elements of each group between two looks, and looks, until an average must be one: 2^-64
#: of the square is left after the first, of uniformly random elements.
TURNS, LOOKS = 64, 32
#: An average changes no more by a random element, relative to its size or that of what it is made
#: of: measured 3e-15.
SETTLED = 1e-11


def averaged(
    symmetries: Sequence[Symmetry],
    start: PyTree,
    A: Float[np.ndarray, "r n"],
    key: PRNGKeyArray,
    matrix: bool = False,
) -> Float[np.ndarray, "r n"]:
    """The rows of A, weights flat as `ravel_pytree(start)`, averaged over the group; or, where A is
    a square matrix, rho A rho^T averaged.

    SettingError where that does not settle.
    """
    size = float(np.abs(A).max())
    for look in range(LOOKS):
        keys = jax.random.split(jax.random.fold_in(key, look), TURNS)
        A, change = _turned(tuple(symmetries), start, jnp.asarray(A), keys, matrix)
        if float(change) <= SETTLED * size:
            return np.asarray(A)
    raise SettingError(
        f"an average over {TURNS * LOOKS} elements of each group still changes by "
        f"{float(change) / size:.2g} of its size: draw(key) must give random elements, and an "
        "orthogonal linear action"
    )


@partial(jax.jit, static_argnames=("symmetries", "matrix"))
def _turned(
    symmetries: tuple[Symmetry, ...],
    start: PyTree,
    A: Float[Array, "r n"],
    keys: Any,
    matrix: bool,
) -> tuple[Float[Array, "r n"], Float[Array, ""]]:
    """A averaged over one random element of each group for every key, and its largest change in the
    last eighth of them.
    """

    def turn(A: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        before = A
        for number, symmetry in enumerate(symmetries):
            g = symmetry.draw(jax.random.fold_in(key, number))
            turned = rows(symmetry, start, g, A)
            A = (A + (rows(symmetry, start, g, turned.T) if matrix else turned)) / 2
        return A, jnp.max(jnp.abs(A - before))

    A, changes = jax.lax.scan(turn, A, keys)
    return A, jnp.max(changes[-(TURNS // 8) :])
