"""Data laws: how (X, q) is drawn, which spectrum S = X X^T has, and which of (A1)-(A3) holds.

Source: arXiv 2606.00605, Assumption 3.2 and Example 3.3. S is never divided by n, so tr S = n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from popgd.problem.law import Hypothesis, Law, haar, leading, sphere
from popgd.problem.normal import normal
from popgd.problem.numeric import EQUAL_RTOL, UNIT, doubtful_gap, multiplicities, whole
from popgd.problem.pytree import registered

#: A column counts as a unit vector if its norm is within this of 1 (a few roundings of a float64
#: norm).
UNIT_ATOL = 1e-12
#: Columns per dimension beyond which equal ones are counted, not written out.
MANY = 64
#: Matrices in memory at once where only their eigenvalues are wanted.
BLOCK = 256


class Sample(NamedTuple):
    """One draw: data X with unit columns, the query q, and V whose columns span the principal
    subspace of S.

    V is data: objectives must not differentiate through the eigenvectors it came from. `copies`
    says how often each column stands in the data, once where it is None: equal tokens stay equal in
    every layer, so that one of them, counted so often, does for all.
    """

    X: Float[Array, "d n"]
    q: Float[Array, " d"]
    V: Float[Array, "d r"]
    copies: Float[Array, " n"] | None = None

    @property
    def root(self) -> Float[Array, "d n"]:
        """A matrix R with S = R R^T: X, each column times the root of its copies."""
        return self.X if self.copies is None else self.X * jnp.sqrt(self.copies)

    @property
    @jax.default_matmul_precision("highest")
    def Sq(self) -> Float[Array, " d"]:
        """S q."""
        return self.root @ (self.root.T @ self.q)


@runtime_checkable
class UnitColumns(Law, Protocol):
    """A law of X with unit columns, rotation invariant; r is the multiplicity of the largest
    eigenvalue of S.
    """

    @property
    def d(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def r(self) -> int: ...
    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Sample: ...
    def eigenvalues(
        self, key: PRNGKeyArray, count: int
    ) -> Float[Array | np.ndarray, "count d"]: ...
    def mean_square_norm(self) -> float: ...
    def hypotheses(self) -> list[Hypothesis]: ...
    def describe(self) -> dict[str, object]:
        """The settings that make this law."""
        ...


class Orbit(NamedTuple):
    """One draw of S with many queries, the columns of Q, whose mean loss has less noise than that
    of one query.

    Each column with S and V has the law of a sample in some orthonormal basis: where that is the
    eigenbasis of S, S is the vector of its eigenvalues.
    """

    S: Float[Array, "d d"] | Float[Array, " d"]
    Q: Float[Array, "d m"]
    V: Float[Array, "d r"]


@runtime_checkable
class WithOrbits(UnitColumns, Protocol):
    """A law that can draw S with many queries; for losses that do not change under (S, q, V) -> (O
    S O^T, O q, O V).
    """

    def orbit(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Orbit:
        """The law of each query with S is that of `sample` up to a rotation; the draws of one key
        are others.
        """
        ...


@jax.tree_util.register_static
@dataclass(frozen=True)
class UniformSphere:
    """Task 1: the n columns of X are independent and uniform on the sphere of R^d; r = 1 almost
    surely.

    Raises ValueError unless d and n are positive integers.
    """

    d: int
    n: int

    def __post_init__(self) -> None:
        whole(d=self.d, n=self.n)

    @property
    def r(self) -> int:
        return 1

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Sample:
        columns = sphere(normal(key, (self.d, self.n + 1), dtype))
        X, q = columns[:, :-1], columns[:, -1]
        return Sample(X, q, leading(X @ X.T))

    def orbit(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Orbit:
        """The queries are the standard basis: by (A2) any fixed one will do, and their squares sum
        to I.
        """
        X = sphere(normal(key, (self.d, self.n), dtype))
        S = X @ X.T
        return Orbit(S, jnp.eye(self.d, dtype=dtype), leading(S))

    @partial(jax.jit, static_argnames=("self",))
    def _matrices(self, keys: Any) -> Float[Array, "count d d"]:
        one = lambda key: self.orbit(key, jnp.dtype("float64")).S
        return jax.lax.map(one, keys, batch_size=BLOCK)

    def eigenvalues(self, key: PRNGKeyArray, count: int) -> Float[np.ndarray, "count d"]:
        """The spectra of `count` sampled S, each descending, good to some n 1e-16 absolutely; for n
        < d the least are 0 to that, or below.
        """
        keys = jax.random.split(key, count)
        blocks = (keys[i : i + BLOCK] for i in range(0, count, BLOCK))
        return np.concatenate(
            [np.linalg.eigvalsh(self._matrices(block))[:, ::-1] for block in blocks]
        )

    def mean_square_norm(self) -> float:
        """A = E||Sq||^2 = n/d + n(n - 1)/d^2."""
        return self.n / self.d + self.n * (self.n - 1) / self.d**2

    def hypotheses(self) -> list[Hypothesis]:
        holds = self.n >= self.d + 2
        reason = f"E[1/lambda_d] < infinity needs n >= d + 2; here n = {self.n}, d = {self.d}"
        return [
            Hypothesis("(A1)", True, "every column is a unit vector by construction"),
            Hypothesis("(A2)", True, "uniform columns: O X has the law of X"),
            Hypothesis("(A3)", holds, reason),
        ]

    def describe(self) -> dict[str, object]:
        return {"law": "uniform", "d": self.d, "n": self.n}


@registered(["U", "V", "copies"], ["spectrum"])
@dataclass(frozen=True, eq=False)
class Rotated:
    """Task 2 / Example 3.3: X = O U with O Haar-orthogonal and U a fixed matrix with unit columns.

    Build it with `Rotated.matrix(U)` or `Rotated.with_spectrum(...)`. Where there are many more
    columns than dimensions U has the distinct ones, and `copies` says how often each stands.
    """

    U: Float[Array, "d m"]
    V: Float[Array, "d r"]
    spectrum: tuple[float, ...]
    copies: Float[Array, " m"] | None = None

    @classmethod
    def matrix(
        cls,
        U: Float[np.ndarray, "d m"],
        spectrum: Sequence[float] | None = None,
        copies: Float[np.ndarray, " m"] | None = None,
    ) -> "Rotated":
        """Raises ValueError unless U is a finite (d, n) array whose columns have norm 1, with that
        `spectrum` if one is given.
        """
        U = np.asarray(U, dtype=np.float64)
        if U.ndim != 2 or U.size == 0 or not np.all(np.isfinite(U)):
            raise ValueError(
                "a fixed matrix must be a finite, non-empty (d, n) array, not one of shape "
                f"{U.shape}"
            )
        norms = np.linalg.norm(U, axis=0)
        worst = int(np.argmax(abs(norms - 1)))
        if abs(norms[worst] - 1) > UNIT_ATOL:
            raise ValueError(
                f"column {worst} of the matrix has norm {norms[worst]:.6g}: divide each column by "
                "its norm"
            )
        counts = np.ones(U.shape[1]) if copies is None else copies
        lam, vectors = np.linalg.eigh((U * counts) @ U.T)
        lam = np.maximum(lam[::-1], 0.0)
        if spectrum is not None:
            given = np.sort(np.asarray(spectrum, dtype=np.float64))[::-1]
            if given.shape != lam.shape or np.any(abs(given - lam) > UNIT_ATOL * counts.sum()):
                raise ValueError(
                    f"the matrix has the spectrum {lam}, not {given}: leave out spectrum"
                )
            lam = given  # without eigh's rounding
        r = multiplicities(lam)[0]
        counted = None if copies is None else jnp.asarray(copies)
        return cls(
            jnp.asarray(U), jnp.asarray(vectors[:, ::-1][:, :r]), tuple(lam.tolist()), counted
        )

    @classmethod
    def with_spectrum(cls, spectrum: Sequence[float]) -> "Rotated":
        """S has these eigenvalues: basis vector e_j repeated lambda_j times if all are integers,
        else a frame.

        For more than MANY d columns most are copies of the basis vectors, and counted.
        A sum that is off an integer by rounding, at most 1e-9 n, is mended by scaling all of them.
        Raises ValueError unless the eigenvalues are positive with an integer sum n >= d.
        """
        lam = np.sort(np.asarray(list(spectrum), dtype=np.float64))[::-1]
        shown = "[" + ",".join(f"{x:g}" for x in lam) + "]"
        if lam.size == 0 or not np.all(np.isfinite(lam)) or np.any(lam <= 0):
            raise ValueError(f"spectrum={shown}: every eigenvalue must be positive and finite")
        if lam.sum() > 2**53:
            raise ValueError(
                f"spectrum={shown} sums to more than 2^53: no float64 tells such n apart, scale "
                "the spectrum"
            )
        n = round(float(lam.sum()))
        if abs(lam.sum() - n) > 1e-9 * n:
            raise ValueError(
                f"spectrum={shown} sums to {lam.sum():.10g}: tr S = n must be an integer, scale "
                "the spectrum"
            )
        if n < lam.size:
            raise ValueError(
                f"spectrum={shown} sums to n={n} < d={lam.size}: tr S = n >= d is needed, scale "
                "the spectrum"
            )
        whole_numbers = bool(np.all(lam == np.round(lam)))
        # No more than rounding of the sum is left after scaling: stored, it is read as the same
        off = abs(lam.sum() - n) > (lam.size + 4) * UNIT * n
        lam = lam * (n / lam.sum()) if off and not whole_numbers else lam
        if n > MANY * lam.size:
            U, copies = _counted_frame(lam)
            return cls.matrix(U, lam.tolist(), copies)
        U = (
            np.repeat(np.eye(lam.size), lam.astype(int), axis=1)
            if whole_numbers
            else unit_frame(lam, n)
        )
        return cls.matrix(U, lam.tolist())

    @property
    def d(self) -> int:
        return self.U.shape[0]

    @property
    def n(self) -> int:
        return self.U.shape[1] if self.copies is None else round(sum(self.spectrum))

    @property
    def columns(self) -> int:
        """Distinct columns of X, those of a sample."""
        return self.U.shape[1]

    @property
    def r(self) -> int:
        return self.V.shape[1]

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Sample:
        G = normal(key, (self.d, self.d + 1), dtype)
        O, q = haar(G[:, :-1]), sphere(G[:, -1:])[:, 0]
        copies = None if self.copies is None else jnp.asarray(self.copies, dtype)
        return Sample(O @ jnp.asarray(self.U, dtype), q, O @ jnp.asarray(self.V, dtype), copies)

    def orbit(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Orbit:
        """In the eigenbasis of S; the queries are the cyclic shifts of one, whose squares sum to
        I.
        """
        q = sphere(normal(key, (self.d, 1), dtype))[:, 0]
        i = jnp.arange(self.d)
        lam = jnp.asarray(self.spectrum).astype(dtype)
        return Orbit(lam, q[(i[:, None] + i) % self.d], jnp.eye(self.d, self.r, dtype=dtype))

    def eigenvalues(self, key: PRNGKeyArray, count: int) -> Float[Array, "1 d"]:
        """The one spectrum that every sample has; the key and the count are not needed."""
        return jnp.asarray([self.spectrum])

    def mean_square_norm(self) -> float:
        """A = E||Sq||^2 = tr(S^2)/d."""
        return float(sum(x * x for x in self.spectrum)) / self.d

    def hypotheses(self) -> list[Hypothesis]:
        lowest, doubt = self.spectrum[-1], doubtful_gap(self.spectrum)
        gap = [Hypothesis("clear multiplicity", False, doubt, soft=True)] if doubt else []
        return [
            Hypothesis("(A1)", True, "every column is a unit vector, checked at construction"),
            Hypothesis("(A2)", True, "Haar rotation: O X has the law of X"),
            Hypothesis(
                "(A3)",
                lowest > EQUAL_RTOL * self.spectrum[0],
                f"lambda_d = {lowest:.6g} in every sample",
            ),
            *gap,
        ]

    def describe(self) -> dict[str, object]:
        return {"law": "rotated", "d": self.d, "n": self.n, "spectrum": list(self.spectrum)}


def _counted_frame(
    lam: Float[np.ndarray, " d"],
) -> tuple[Float[np.ndarray, "d m"], Float[np.ndarray, " m"]]:
    """Few unit columns u_k and their numbers n_k with sum_k n_k u_k u_k^T = diag(lam), for an
    integer sum(lam) >= d.

    Basis vectors take all of each eigenvalue but 1 to 2 of it, as long as d columns are left; a
    frame does the rest.
    """
    kept = np.maximum(np.floor(lam) - 1, 0.0)
    for j in np.argsort(-kept):
        short = lam.size - round(float((lam - kept).sum()))
        kept[j] -= min(max(short, 0), kept[j])
    F = unit_frame(lam - kept, round(float((lam - kept).sum())))
    return np.concatenate([np.eye(lam.size)[:, kept > 0], F], axis=1), np.concatenate(
        [kept[kept > 0], np.ones(F.shape[1])]
    )


def unit_frame(lam: Float[np.ndarray, " d"], n: int) -> Float[np.ndarray, "d n"]:
    """A d x n matrix F with unit columns and F F^T = diag(lam), for sum(lam) = n >= d (Schur-Horn).

    Start from [diag(sqrt(lam)), 0]; a plane rotation of a column that is too long with one that is
    too short makes one of them a unit vector and leaves F F^T as it is, so n - 1 rotations do.
    """
    F = np.zeros((lam.size, n))
    F[np.arange(lam.size), np.arange(lam.size)] = np.sqrt(lam)
    todo = list(range(n))
    while len(todo) > 1:
        squares = np.einsum("ij,ij->j", F[:, todo], F[:, todo])
        i, j = todo[int(np.argmin(squares))], todo[int(np.argmax(squares))]
        x, y, inner = F[:, i] @ F[:, i], F[:, j] @ F[:, j], F[:, i] @ F[:, j]
        if (
            x < 1 < y
        ):  # (s + t l)/sqrt(1 + t^2) is a unit vector iff (y - 1) t^2 + 2 inner t + (x - 1) = 0
            t = (1 - x) / (inner + np.sqrt(inner * inner + (y - 1) * (1 - x)))
            short, long = F[:, i].copy(), F[:, j].copy()
            F[:, i], F[:, j] = (
                (short + t * long) / np.hypot(1, t),
                (long - t * short) / np.hypot(1, t),
            )
        todo.remove(i)
    return F / np.linalg.norm(F, axis=0)
