"""Linear regression in context: data law, looped linear attention and squared loss, as pure
functions on one prompt.

    d, n, L      features, examples in the context, loops;   D = d + 1 rows, N = n + 1 tokens
    X, x_q, w    inputs and query ~ N(0, Sigma), task ~ N(0, Sigma^{-1});   y = X^T w, no noise
    A, u         what is trained: Q = [[A, 0], [0, 0]], P = [[0, 0], [u^T, 1]]

Source: arXiv 2410.08292, Section 2; 1/n and signs as in arXiv 2306.00297.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from popgd.papers.in_context.wishart_loss import square_root
from popgd.papers.power_method.model import UNROLL, Weights
from popgd.problem.law import Hypothesis
from popgd.problem.numeric import whole
from popgd.problem.pytree import registered


class Prompt(NamedTuple):
    """One draw: inputs X, the task w, the labels y = X^T w and the query x_q."""

    X: Float[Array, "d n"]
    w: Float[Array, " d"]
    y: Float[Array, " n"]
    x_q: Float[Array, " d"]


@registered(["root", "inverse_root"], ["n", "covariance"])
@dataclass(frozen=True, eq=False)
class InContext:
    """x ~ N(0, Sigma) for n examples and the query, w ~ N(0, Sigma^{-1}): w . x has the same law
    for every Sigma.

    Build it with `InContext.gaussian`. n need not fit into memory unless it is sampled from.
    """

    n: int
    covariance: tuple
    root: Float[Array, "d d"]
    inverse_root: Float[Array, "d d"]

    @classmethod
    def gaussian(
        cls, d: int, n: int, covariance: Sequence | Float[np.ndarray, "..."] | None = None
    ) -> "InContext":
        """Sigma is I, diagonal with these d eigenvalues, or this (d, d) matrix.

        Raises ValueError unless d and n are whole numbers >= 1 and Sigma is symmetric positive
        definite.
        """
        d, n = whole(d=d, n=n)
        given = np.ones(d) if covariance is None else np.asarray(covariance, dtype=np.float64)
        if given.shape not in ((d,), (d, d)):
            raise ValueError(
                f"got a covariance of shape {given.shape}, wanted {d} eigenvalues or a ({d}, {d}) "
                "matrix: change d"
            )
        root = square_root(np.diag(given) if given.ndim == 1 else given)
        rows: Any = given.tolist()
        exact = tuple(rows) if given.ndim == 1 else tuple(tuple(row) for row in rows)
        return cls(n, exact, root, jnp.asarray(np.linalg.inv(root)))

    @property
    def d(self) -> int:
        return self.root.shape[0]

    @property
    def Sigma(self) -> Float[np.ndarray, "d d"]:
        given = np.asarray(self.covariance)
        return np.diag(given) if given.ndim == 1 else given

    def with_examples(self, n: int) -> "InContext":
        """The same law with another number of examples."""
        return InContext(n, self.covariance, self.root, self.inverse_root)

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Prompt:
        G = jax.random.normal(key, (self.d, self.n + 2), dtype)
        x = self.root.astype(dtype) @ G[:, :-1]
        w = self.inverse_root.astype(dtype) @ G[:, -1]
        return Prompt(x[:, :-1], w, x[:, :-1].T @ w, x[:, -1])

    def hypotheses(self) -> list[Hypothesis]:
        return [
            Hypothesis(
                "Gaussian data", True, "x ~ N(0, Sigma) and w ~ N(0, Sigma^{-1}) by construction"
            )
        ]

    def describe(self) -> dict[str, object]:
        rows = [list(row) if isinstance(row, tuple) else row for row in self.covariance]
        return {"d": self.d, "n": self.n, "covariance": rows}


def tokens(prompt: Prompt) -> Float[Array, "D N"]:
    """Z_0 = [[X, x_q], [y^T, 0]]: the label of the query is the 0 that the loops fill in."""
    inputs = jnp.concatenate([prompt.X, prompt.x_q[:, None]], axis=1)
    return jnp.concatenate([inputs, jnp.append(prompt.y, 0.0).astype(inputs.dtype)[None]])


def layer(weights: Weights, Z: Float[Array, "D N"]) -> Float[Array, "D N"]:
    """Z <- Z - (1/n) P Z M Z^T Q Z: linear attention, M = diag(1, ..., 1, 0) as the query is not a
    key.
    """
    keys = Z[:, :-1]
    return Z - (weights.P @ (keys @ keys.T) @ weights.Q) @ Z / keys.shape[1]


def looped(weights: Weights, prompt: Prompt, L: int) -> Float[Array, ""]:
    """The prediction TF_L = -[Z_L]_{d+1, n+1} of the same layer applied L times.

    Where P and Q are `embed(A, u)` it is (w + u)^T (I - (I - S A)^L) x_q, S = X X^T/n: with u = 0
    that is L steps of gradient descent from 0 on the least squares of the context, preconditioned
    by A^T. Source: arXiv 2410.08292, Section 2; the reduction is derived.
    """
    Z, _ = jax.lax.scan(
        lambda Z, _: (layer(weights, Z), None), tokens(prompt), length=L, unroll=min(L, UNROLL)
    )
    return -Z[-1, -1]


def reduced(
    A: Float[Array, "d d"], u: Float[Array, " d"], prompt: Prompt, L: int
) -> Float[Array, ""]:
    """The same without the transformer: (w + u)^T (x_q - g), g = (I - S A)^L x_q."""

    def step(g: Float[Array, " d"], _: None) -> tuple[Float[Array, " d"], None]:
        return g - prompt.X @ (prompt.X.T @ (A @ g)) / prompt.X.shape[1], None

    g, _ = jax.lax.scan(step, prompt.x_q, length=L, unroll=min(L, UNROLL))
    return (prompt.w + u) @ (prompt.x_q - g)


def embed(A: Float[Array, "d d"], u: Float[Array, " d"]) -> Weights:
    """Q = [[A, 0], [0, 0]] and P = [[0, 0], [u^T, 1]]."""
    d = A.shape[0]
    Q = jnp.zeros((d + 1, d + 1), A.dtype).at[:d, :d].set(A)
    P = jnp.zeros((d + 1, d + 1), A.dtype).at[d, :d].set(u).at[d, d].set(1.0)
    return Weights(P, Q)


@dataclass(frozen=True)
class Support:
    """What the paper trains: {embed(A, u)}; the coordinates are the d^2 entries of A and the d of
    u.

    Descent along it is descent on A and u, all else frozen. Departs: it is no invariant set of
    descent on all of (P, Q). At u = 0 the law of w is even, so the gradients of P12, P21, Q12 and
    Q21 are 0; but that of P22 is <A, grad_A>, and for L >= 2 those of P11 and Q22 are not 0 either.
    Without the projection descent leaves the support.
    """

    d: int

    def coordinates(self, weights: Weights) -> Float[Array, " k"]:
        return jnp.concatenate([weights.Q[: self.d, : self.d].ravel(), weights.P[self.d, : self.d]])

    def embed(self, coordinates: Float[Array, " k"]) -> Weights:
        return embed(coordinates[: -self.d].reshape(self.d, self.d), coordinates[-self.d :])

    def inactive(self, weights: Weights) -> Float[Array, ""]:
        gap = jax.tree.map(jnp.subtract, weights, self.embed(self.coordinates(weights)))
        return jnp.maximum(jnp.max(jnp.abs(gap.P)), jnp.max(jnp.abs(gap.Q)))

    def deviations(self, gradient: Weights) -> Float[Array, "3 d"]:
        """The gradients of P12, Q12 and Q21: 0 in the mean at u = 0."""
        d = self.d
        return jnp.stack([gradient.P[:d, d], gradient.Q[:d, d], gradient.Q[d, :d]])


@dataclass(frozen=True)
class SquaredError:
    """(TF_L - w . x_q)^2 on one prompt. Raises ValueError unless L >= 1."""

    L: int

    def __post_init__(self) -> None:
        whole(L=self.L)

    def __call__(self, weights: Weights, sample: Prompt) -> Float[Array, ""]:
        return (looped(weights, sample, self.L) - sample.w @ sample.x_q) ** 2
