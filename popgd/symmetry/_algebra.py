"""Null spaces whose rank is clear, bases that can be read, and pytrees as vectors with names."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray, PyTree

from popgd.problem.errors import SettingError
from popgd.problem.numeric import UNIT

#: Singular values below this share of the largest are zero up to rounding: measured 1e-18 to 4e-15.
ROUNDING = 1e-11
#: Singular values above this share of the largest are not zero. None may lie between the two.
CLEAR = 1e-7
#: Entries of an echelon basis this close to a whole number are that number: rounding of a null
#: space is 1e-14, and a plane is to have exact zeros.
SNAP = 1e-9
#: A column of an orthonormal basis that is shorter than this, beside the pivots before it, has no
#: pivot.
PIVOT = 1e-6


class Space(NamedTuple):
    """An orthonormal basis, in rows, and the gap: the least singular value that is not zero over
    the largest that is, or over one rounding where that is less.
    """

    basis: Float[np.ndarray, "k n"]
    gap: float


def null_space(A: Float[np.ndarray, "rows n"], what: str, scale: float = 0.0) -> Space:
    """The vectors v with A v = 0.

    Singular values are compared with the largest, or with `scale` where that is more. SettingError,
    which begins with `what`, for numbers that are not finite and for singular values without a gap.
    """
    rows, n = A.shape
    A = np.concatenate([A, np.zeros((max(n - rows, 0), n))])
    rank, gap, V = _decomposed(A, what, scale)
    return Space(V[rank:], gap)


def row_space(A: Float[np.ndarray, "rows n"], what: str, scale: float = 0.0) -> Space:
    """The span of the rows. Compares and raises as `null_space`."""
    rank, gap, V = _decomposed(A, what, scale)
    return Space(V[:rank], gap)


def _decomposed(
    A: Float[np.ndarray, "rows n"], what: str, scale: float
) -> tuple[int, float, Float[np.ndarray, "right n"]]:
    """The rank of A, the gap, and its right singular vectors: n of them unless A has fewer
    rows."""
    if not np.all(np.isfinite(A)):
        raise SettingError(f"{what}: some numbers are not finite, give weights near which they are")
    rows, n = A.shape
    tall = np.linalg.qr(A, mode="r") if rows > n else A
    _, s, V = np.linalg.svd(tall, full_matrices=False)
    scale = max(scale, float(s.max(initial=0.0)))
    rank = int(np.sum(s > ROUNDING * scale))
    kept = s[rank - 1] if rank else scale
    dropped = max(s[rank] if rank < s.size else 0.0, UNIT * scale)
    if kept < CLEAR * scale:
        raise SettingError(
            f"{what}: no gap in the singular values, which fall to {kept / scale:.2g} and "
            f"{dropped / scale:.2g} of the largest; a clear rank has none from {ROUNDING:g} to "
            f"{CLEAR:g}"
        )
    return rank, float(kept / dropped) if scale else np.inf, V


def echelon(
    basis: Float[np.ndarray, "k n"],
) -> tuple[Float[np.ndarray, "k n"], tuple[int, ...]]:
    """The reduced echelon form of an orthonormal basis and its pivots, the first columns that are
    independent of those before; whole numbers are exact.
    """
    left, pivots = basis.copy(), []
    for j in range(basis.shape[1]):
        size = np.linalg.norm(left[:, j])
        if len(pivots) == len(basis):
            break
        if size > PIVOT:
            pivots.append(j)
            u = left[:, j] / size
            left -= np.outer(u, u @ left)
    rows = np.linalg.solve(basis[:, pivots], basis) if pivots else basis
    near = np.round(rows)
    # adding 0 makes -0 a 0
    return np.where(np.abs(rows - near) < SNAP, near, rows) + 0.0, tuple(pivots)


def names(tree: PyTree) -> tuple[str, ...]:
    """A name for each entry of a pytree, in the order of `ravel_pytree`: leaf and index, as in
    P[0,1]; a scalar leaf has its own name alone.
    """
    out: list[str] = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = ".".join(_part(key) for key in path) or "w"
        for index in np.ndindex(np.shape(leaf)):
            out.append(name + (f"[{','.join(map(str, index))}]" if index else ""))
    return tuple(out)


def _part(key: Any) -> str:
    """One step of a path into a pytree: a field, a key or a position."""
    for field in ("name", "key", "idx"):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)


def float64(tree: PyTree, what: str) -> PyTree:
    """The pytree with JAX arrays for leaves; SettingError unless all are float64 and finite."""
    tree = jax.tree.map(jnp.asarray, tree)
    for leaf in jax.tree.leaves(tree):
        if leaf.dtype != jnp.float64:
            raise SettingError(
                f"{what} has a leaf of {leaf.dtype}, wanted float64: give float64 arrays, with "
                "jax_enable_x64 on"
            )
        if not np.isfinite(np.asarray(leaf)).all():
            raise SettingError(f"{what} has an entry that is not finite: give finite numbers")
    return tree


def gaussian(key: PRNGKeyArray, *shape: int) -> Float[np.ndarray, "..."]:
    """Independent standard normal numbers, by NumPy: nothing is compiled for a shape."""
    words = np.asarray(jax.random.key_data(key)).ravel()
    return np.random.default_rng(words.tolist()).normal(size=shape)


def is_float(x: Any) -> bool:
    """Whether these are real floating-point numbers."""
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.floating))
