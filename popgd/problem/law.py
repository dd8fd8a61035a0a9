"""What popgd needs of a data law and of a loss, and Gaussian arrays made into common ones: spheres,
rotations.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


class Hypothesis(NamedTuple):
    """One assumption of a theorem, whether it holds here, and why. A soft one only excuses what
    fails.
    """

    name: str
    holds: bool
    reason: str
    soft: bool = False


@runtime_checkable
class Law(Protocol):
    """A data law: whatever sample an objective understands, any pytree of arrays whose shapes and
    formats are those of every key.

    Its floats are in the format `dtype`. An object whose class is a pytree is an argument of the
    compiled programs, any other a constant of them: `given.as_law`. A theorem's law also has
    hypotheses() and describe(), the settings that make it.
    """

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Any: ...


@runtime_checkable
class Objective(Protocol):
    """A hashable object: the loss of weights on one sample of a law, one float. NaN or inf for
    weights of which it has no finite loss.
    """

    def __call__(self, weights: PyTree, sample: Any) -> Float[Array, ""]: ...


def sphere(G: Float[Array, "d n"]) -> Float[Array, "d n"]:
    """Columns uniform on the unit sphere of R^d, from a Gaussian matrix."""
    return G / jnp.linalg.norm(G, axis=0)


def haar(G: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """A Haar-distributed orthogonal matrix from a Gaussian one, by d Householder reflections.

    H_k turns row k of G, from the diagonal on, to the axis e_k; O = H_1 ... H_d D, where the signs
    D make its first column, and those of the smaller problems inside, uniform (Stewart 1980, SIAM
    J. Numer. Anal. 17, 403). No LAPACK: see `gradient.LINEAR_ALGEBRA`.
    """
    d = G.shape[0]
    rows = jnp.triu(G)
    first, norm = jnp.diagonal(rows), jnp.sqrt(jnp.sum(rows * rows, axis=1))
    sign = jnp.where(first < 0, -1, 1).astype(G.dtype)
    v = rows + jnp.diag(sign * norm)
    scaled = v / (norm * (norm + jnp.abs(first)))[:, None]

    def reflect(i: Array, O: Array) -> Array:
        k = d - 1 - i
        return O - scaled[k][:, None] * (v[k] @ O)

    return jax.lax.fori_loop(0, d, reflect, jnp.diag(-sign))


#: Squarings that tell eigenvalues apart down to a relative gap of 2^-60: closer ones are equal in
#: float64.
SQUARINGS = 60


def leading(S: Float[Array, "d d"]) -> Float[Array, "d 1"]:
    """The leading unit eigenvector of a symmetric positive semidefinite S, by squaring S until it
    has rank one.

    With p_i the eigenvalues over their sum, a squaring makes p_i into p_i^2/sum p_j^2; 1 - sum
    p_i^2 is twice the weight that is left beside the largest, and the last squaring takes that
    below rounding. S v = lam_1 v to a few roundings of lam_1 whatever the gap (measured 1e-15, d =
    2 to 100), as with `eigh`. No LAPACK: see `gradient.LINEAR_ALGEBRA`. S = 0 gives NaN.
    """
    left = jnp.sqrt(jnp.finfo(S.dtype).eps)

    def square(state: tuple[Array, Array]) -> tuple[Array, Array]:
        k, M = state
        M = M @ M
        return k + 1, M / jnp.trace(M)

    apart = lambda state: (state[0] < SQUARINGS) & (1 - jnp.sum(state[1] ** 2) > left)
    _, M = square(jax.lax.while_loop(apart, square, (jnp.zeros((), int), S / jnp.trace(S))))
    v = M[:, jnp.argmax(jnp.diagonal(M))]
    return (v / jnp.linalg.norm(v))[:, None]
