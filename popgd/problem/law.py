"""What popgd needs of a data law and of a loss; the law of a finite data set; and Gaussian arrays
made into common ones: spheres, rotations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from popgd.problem.errors import SettingError


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


class Finite:
    """The law of a finite data set: each of its rows with the same probability.

    Finite(X) draws rows of an array or a pytree of arrays with one first axis, Finite(X, y) pairs
    of them. Full-batch descent is its population descent, so that a `Problem` with it needs no
    `exact`. Floats are taken in the format that is asked for, all else (labels, indices) as it is.
    Known by its identity: make it once; the rows are constants of every compiled program. Raises
    SettingError for no arrays, for arrays of different lengths, and for floats that are not finite.
    """

    def __init__(self, *rows: PyTree) -> None:
        self.rows = jax.tree.map(np.asarray, rows if len(rows) > 1 else rows[0] if rows else ())
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(self.rows)]
        lengths = {shape[0] if shape else 0 for shape in shapes}
        if len(lengths) != 1 or lengths == {0}:
            raise SettingError(
                f"a data set of arrays of shapes {shapes}: wanted one first axis, the rows"
            )
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.rows):
            if leaf.dtype.kind == "f" and not np.all(np.isfinite(leaf)):
                name = jax.tree_util.keystr(path) or "it"
                raise SettingError(f"a data set in which {name} is not finite: leave such rows out")
        (self.count,) = lengths

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Any:
        i = jax.random.randint(key, (), 0, self.count)
        return jax.tree.map(lambda leaf: leaf[i], self.all(dtype))

    def all(self, dtype: jnp.dtype) -> Any:
        """Every row, along the first axis."""
        cast = lambda leaf: leaf.astype(dtype) if leaf.dtype.kind == "f" else leaf
        return jax.tree.map(lambda leaf: jnp.asarray(cast(leaf)), self.rows)

    def mean(self, loss: Callable[[Any, Any], Any], weights: PyTree) -> Float[Array, ""]:
        """The mean of loss(weights, row) over all rows, in float64."""
        return jnp.mean(jax.vmap(lambda row: loss(weights, row))(self.all(jnp.dtype("float64"))))


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
