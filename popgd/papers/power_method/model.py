"""The looped linear transformer: pure functions of the weights (P, Q) on one sample.

Shapes: D = 2d rows, N = n + 1 tokens. Source: arXiv 2606.00605, Section 3.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

#: Loops unrolled into one piece of compiled code: more is faster to run and slower to compile.
UNROLL = 4


class Weights(NamedTuple):
    """P is the merged projection-value matrix, Q the merged key-query matrix. Valid for finite
    entries; not checked.
    """

    P: Float[Array, "D D"]
    Q: Float[Array, "D D"]


def shapes(d: int, n: int) -> tuple[Weights, jax.ShapeDtypeStruct]:
    """The shapes of the weights and of X in float64, for what asks how much memory they take."""
    square, X = (jax.ShapeDtypeStruct(shape, np.float64) for shape in ((2 * d, 2 * d), (d, n)))
    return Weights(square, square), X  # pyright: ignore


class Blocks(NamedTuple):
    """The four d x d blocks of P or of Q. Valid for any numbers."""

    b11: Float[Array | np.ndarray, "d d"]
    b12: Float[Array | np.ndarray, "d d"]
    b21: Float[Array | np.ndarray, "d d"]
    b22: Float[Array | np.ndarray, "d d"]


def blocks(M: Float[Array | np.ndarray, "D D"]) -> Blocks:
    """The blocks of a D x D matrix. Valid for any numbers and even D = 2d; not checked."""
    d = M.shape[0] // 2
    return Blocks(M[:d, :d], M[:d, d:], M[d:, :d], M[d:, d:])


@jax.jit
def active_weights(A: Float[Array, "d d"], B: Float[Array, "d d"]) -> Weights:
    """The weights with P21 = A, Q12 = B and the six inactive blocks exactly 0. Valid for any
    numbers and A, B of one shape.
    """
    zero = jnp.zeros_like(A)
    return Weights(jnp.block([[zero, zero], [A, zero]]), jnp.block([[zero, B], [zero, zero]]))


@partial(jax.jit, static_argnames="d")
def embed(a: Float[Array, ""], b: Float[Array, ""], d: int) -> Weights:
    """The point (a, b) of the invariant manifold: P21 = a I, Q12 = b I, all other blocks 0. Valid
    for finite a, b and d >= 1.
    """
    eye = jnp.eye(d, dtype=jnp.result_type(a))
    return active_weights(a * eye, b * eye)


@dataclass(frozen=True)
class Active:
    """The invariant manifold {P21 = a I, Q12 = b I, all other blocks 0}; its coordinates are (a,
    b).

    Valid for d >= 1 and weights of 2d rows whose traces do not overflow; not checked.
    Source: arXiv 2606.00605, Section 4.
    """

    d: int

    @partial(jax.jit, static_argnames="self")
    def coordinates(self, weights: Weights) -> Float[Array, "2"]:
        """a = tr(P21)/d, b = tr(Q12)/d."""
        return (
            jnp.stack([jnp.trace(blocks(weights.P).b21), jnp.trace(blocks(weights.Q).b12)]) / self.d
        )

    def embed(self, coordinates: Float[Array, "2"]) -> Weights:
        a, b = coordinates
        return embed(a, b, self.d)

    @partial(jax.jit, static_argnames="self")
    def inactive(self, weights: Weights) -> Float[Array, ""]:
        """The largest absolute entry of the six inactive blocks."""
        P, Q = blocks(weights.P), blocks(weights.Q)
        return jnp.max(jnp.abs(jnp.stack([P.b11, P.b12, P.b22, Q.b11, Q.b21, Q.b22])))

    def deviations(self, gradient: Weights) -> Float[Array, "2 d"]:
        """The diagonals of the P21 and the Q12 gradient, less their means: 0 in the mean by Schur's
        lemma.
        """
        diagonal = jnp.stack(
            [jnp.diagonal(blocks(gradient.P).b21), jnp.diagonal(blocks(gradient.Q).b12)]
        )
        return diagonal - self.coordinates(gradient)[:, None]


def tokens(X: Float[Array, "d n"], q: Float[Array, " d"]) -> Float[Array, "D N"]:
    """Z = [[X, 0], [0, q]]: data tokens (x_i; 0), then the query token (0; q). Valid for any
    numbers and n >= 0.
    """
    zeros = jnp.zeros_like(X)
    data = jnp.concatenate([X, zeros])
    query = jnp.concatenate([jnp.zeros_like(q), q])
    return jnp.concatenate([data, query[:, None]], axis=1)


def layer_norm(Z: Float[Array, "D N"]) -> Float[Array, "D N"]:
    """Column-wise LN(Z)[:, i] = Z[:, i] / ||Z[:, i]||: no centring, no epsilon.

    Valid for norms whose squares are normal numbers, 2e-154 to 1e154, in float32 2e-19 to 1e19;
    beyond it, as for a zero column, it is NaN, and so are its derivatives.
    """
    square = jnp.sum(Z * Z, axis=0, keepdims=True)
    # Z/inf = 0 would look like an output, and so would Z over the few digits of a subnormal square
    normal = (square >= jnp.finfo(Z.dtype).tiny) & (square < jnp.inf)
    return Z / jnp.where(normal, jnp.sqrt(square), jnp.nan)


@jax.custom_jvp
@jax.default_matmul_precision("highest")
def _gram(Z: Float[Array, "D N"]) -> Float[Array, "D D"]:
    """Z Z^T. Its derivative is T + T^T with T = dZ Z^T: one product, where that of `@` takes two,
    forwards and backwards.
    """
    return Z @ Z.T


@_gram.defjvp
@jax.default_matmul_precision("highest")
def _gram_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (Z,), (dZ,) = primals, tangents
    T = dZ @ Z.T
    return _gram(Z), T + T.T


def _counted(Z: Float[Array, "D N"], copies: Float[Array, " n"] | None) -> Float[Array, "D N"]:
    """Y with Y Y^T = Z Z^T if each data token stood there so many times; None: once."""
    return Z if copies is None else Z * jnp.sqrt(jnp.append(copies, 1).astype(Z.dtype))


@jax.default_matmul_precision("highest")
def attention(
    weights: Weights, Z: Float[Array, "D N"], copies: Float[Array, " n"] | None = None
) -> Float[Array, "D N"]:
    """Linear attention P Z Z^T Q Z. Z Z^T is never divided by n.

    Products have all digits of their format: by default some devices multiply float32 with those of
    a shorter one. Valid while no product over- or underflows; beyond it inf, NaN or 0.
    """
    return (weights.P @ _gram(_counted(Z, copies)) @ weights.Q) @ Z


@jax.default_matmul_precision("highest")
def attention_of_query(
    weights: Weights, Z: Float[Array, "D N"], copies: Float[Array, " n"] | None = None
) -> Float[Array, " D"]:
    """The last column of `attention`, by four matrix-vector products. Valid where `attention`
    is.
    """
    Y = _counted(Z, copies)
    return weights.P @ (Y @ (Y.T @ (weights.Q @ Z[:, -1])))


def layer(
    weights: Weights,
    Z: Float[Array, "D N"],
    normalise: bool = True,
    copies: Float[Array, " n"] | None = None,
) -> Float[Array, "D N"]:
    """Z <- LN(Z + P Z Z^T Q Z), or the same without LN. Valid where `attention` and `layer_norm`
    are.
    """
    Z = Z + attention(weights, Z, copies)
    return layer_norm(Z) if normalise else Z


def looped(
    weights: Weights,
    X: Float[Array, "d n"],
    q: Float[Array, " d"],
    L: int = 1,
    normalise: bool = True,
    copies: Float[Array, " n"] | None = None,
) -> Float[Array, " d"]:
    """The output f(X, q; P, Q) of the same layer applied L times: the last d rows of the last
    column; q itself for L = 0.

    With `copies` column i of X stands that many times in the data: equal tokens stay equal.
    Of the last layer only the query is computed, 1/D of the work: nobody looks at its other tokens.
    Valid where `layer` is at every loop; without LN numbers may grow like a cube at each. Raises
    ValueError for L < 0, TypeError for an L that is no whole number.
    """
    if L == 0:
        return q
    once = lambda Z, _: (layer(weights, Z, normalise, copies), None)
    Z, _ = jax.lax.scan(once, tokens(X, q), length=L - 1, unroll=max(1, min(L - 1, UNROLL)))
    z = Z[:, -1] + attention_of_query(weights, Z, copies)
    return (layer_norm(z[:, None])[:, 0] if normalise else z)[X.shape[0] :]


@jax.default_matmul_precision("highest")
def times(
    S: Float[Array, "d d"] | Float[Array, " d"], Q: Float[Array, "d m"]
) -> Float[Array, "d m"]:
    """S Q, where a vector S stands for the diagonal matrix of its entries."""
    return S[:, None] * Q if S.ndim == 1 else S @ Q


def power_loop(
    c: Float[Array, ""],
    S: Float[Array, "d d"] | Float[Array, " d"],
    Q: Float[Array, "d m"],
    L: int = 1,
    normalise: bool = True,
) -> Float[Array, "d m"]:
    """The outputs of `looped` at a point (a, b) of `Active` with c = ab, one query a column: q <-
    N(q + c S q), L times, N = identity without LN. A vector S stands for a diagonal matrix.

    Up to rounding the same, at 1/(8d) of the work or less. Valid where `looped` is, for L >= 1.
    Source: arXiv 2606.00605, Lemma A.1.
    """

    def loop(Q: Array, _: None) -> tuple[Array, None]:
        Q = Q + c * times(S, Q)
        return (layer_norm(Q) if normalise else Q), None

    return jax.lax.scan(loop, Q, length=L, unroll=min(L, UNROLL))[0]
