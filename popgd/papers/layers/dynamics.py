"""A transformer layer without its feed-forward part, as a map of its tokens.

X (n, D) holds one token in each row; F = W_O W_V (D, D), or (heads, D, D), acts on columns; P (n,
n), or (heads, n, n), is row-stochastic. With A = sum_h P_h X F_h^T what attention adds:

    post   x_i <- N(x_i + A_i)      BERT, ALBERT
    none   x_i <- N(A_i)            the power step alone
    pre    x_i <- x_i + (A of N(X))_i      GPT-2, GPT-Neo
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PAPER = "arXiv 2605.25619"
Tokens = Float[Array, "n D"]
Norm = Callable[[Tokens], Tokens]
Weights = Float[Array, "n n"]
Attention = Callable[[Tokens], Float[Array, "*heads n n"]]
RESIDUALS = ("post", "none", "pre")


def unit(X: Tokens) -> Tokens:
    """Each token over its length."""
    return X / jnp.linalg.norm(X, axis=-1, keepdims=True)


def layer_norm(
    X: Tokens, gain: Any = 1.0, shift: Any = 0.0, eps: float = 0.0, centred: bool = True
) -> Tokens:
    """LayerNorm; without centring RMSNorm. With gain 1 and shift 0 it is sqrt(D) `unit`, of what is
    left of X in the hyperplane 1.x = 0 if centred.
    """
    X = X - jnp.mean(X, axis=-1, keepdims=True) if centred else X
    return X / jnp.sqrt(jnp.mean(X**2, axis=-1, keepdims=True) + eps) * gain + shift


NORMS: dict[str, Norm] = {
    "l2": unit,
    "layernorm": layer_norm,
    "rms": partial(layer_norm, centred=False),
}


def identity(X: Tokens) -> Weights:
    """Every token attends to itself."""
    return jnp.eye(len(X), dtype=X.dtype)


def uniform(X: Tokens) -> Weights:
    """Every token attends to all alike."""
    return jnp.full((len(X), len(X)), 1 / len(X), dtype=X.dtype)


def causal(X: Tokens) -> Weights:
    """Token i attends alike to the tokens up to itself."""
    return jnp.tril(jnp.ones((len(X), len(X)), X.dtype)) / jnp.arange(1, len(X) + 1)[:, None]


def softmax(M: Float[Array, "*heads D D"], masked: bool = False) -> Attention:
    """Attention by the scores x_i^T M x_j, M = W_Q^T W_K/sqrt(d_head); up to oneself if masked."""

    def attend(X: Tokens) -> Any:
        scores = jnp.einsum("id,...de,je->...ij", X, M, X)
        seen = jnp.tril(jnp.ones((len(X), len(X)), bool)) if masked else True
        return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)

    return attend


FIXED: dict[str, Attention] = {"identity": identity, "uniform": uniform, "causal": causal}


def _mixed(X: Tokens, F: Any, P: Any) -> Tokens:
    """What attention adds, summed over heads if there are any."""
    return jnp.einsum("...ij,jd,...ed->ie", P, X, F)


def layer(X: Tokens, F: Any, P: Any, residual: str = "post", norm: Norm = unit) -> Tokens:
    """One layer with the attention P; of a pre-norm layer P attends to the normalised tokens."""
    if residual == "pre":
        return X + _mixed(norm(X), F, P)
    return norm(_mixed(X, F, P) + (X if residual == "post" else 0))


def stack(X: Tokens, F: Any, attend: Attention, L: int, step: Callable[..., Tokens]) -> Any:
    """The tokens after 0, ..., L layers of shared F, (L + 1, n, D)."""

    def go(X: Tokens, _: None) -> tuple[Tokens, Tokens]:
        new = step(X, F, attend(X))
        return new, new

    return jnp.concatenate([X[None], jax.lax.scan(go, X, None, length=L)[1]])


def tangent(X: Tokens, v: Float[Array, " D"]) -> Float[Array, " n"]:
    """tan of the angle between each token and the unit vector v; negative on the side of -v."""
    along = X @ v
    return jnp.linalg.norm(X - along[:, None] * v, axis=1) / along
