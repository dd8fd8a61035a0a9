"""Data to run a trained layer on: laws that are not rotation-invariant, on purpose, and a matrix of
one's own.

All that Theorems 4.6 and 4.7 ask of X is unit columns (Assumption 4.4). Source: arXiv 2606.00605,
Section 4.3.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from popgd.papers.power_method.data import UNIT_ATOL
from popgd.papers.power_method.looping import table
from popgd.problem.errors import SettingError
from popgd.problem.law import sphere
from popgd.theorem.readers import named

#: The relative gap of the nearly repeated law: a thousand times what counts as equal, and far below
#: what training closes.
NEAR = 1e-6
#: Variance along the spike of the spiked law relative to the other directions, which differ among
#: themselves.
SPIKE = 20.0
#: Centres of the clustered law, their shares, and the size of the noise around them.
SHARES, SCATTER = (0.5, 0.3, 0.2), 0.2
#: Share of the columns that the repeated laws have in the leading plane: beyond 2/3 it leads in
#: three dimensions too.
IN_PLANE = 0.8


class TestLaw(NamedTuple):
    """A law of X with n unit columns in R^d: sample(key, d, n), in words, and the least d it makes
    sense in.
    """

    sample: Callable[[PRNGKeyArray, int, int], np.ndarray]
    words: str
    least_d: int = 2


def _fixed_basis(d: int) -> Float[np.ndarray, "d d"]:
    """The orthonormal cosine basis (DCT-II), column j of frequency j: directions that no law here
    is invariant under.
    """
    j, i = np.meshgrid(np.arange(d), np.arange(d))
    basis = np.cos(math.pi * (i + 0.5) * j / d) * math.sqrt(2 / d)
    basis[:, 0] /= math.sqrt(2)
    return basis


def _gaussian(key: PRNGKeyArray, *shape: int) -> np.ndarray:
    return np.asarray(jax.random.normal(key, shape, jnp.float64))


def _unit(columns: np.ndarray) -> Float[np.ndarray, "d n"]:
    return np.asarray(sphere(jnp.asarray(columns)))


def spiked(key: PRNGKeyArray, d: int, n: int) -> Float[np.ndarray, "d n"]:
    """Normalised Gaussians with variances 1, 1/2, ..., 1/d in the cosine basis, and SPIKE times 1
    on the first.
    """
    variance = 1 / np.arange(1, d + 1)
    variance[0] = SPIKE
    return _unit(_fixed_basis(d) @ (np.sqrt(variance)[:, None] * _gaussian(key, d, n)))


def clustered(key: PRNGKeyArray, d: int, n: int) -> Float[np.ndarray, "d n"]:
    """Columns around a few fixed directions, in unequal shares."""
    which = np.searchsorted(np.cumsum(SHARES)[:-1], (np.arange(n) + 0.5) / n) % d
    return _unit(_fixed_basis(d)[:, which] + SCATTER * _gaussian(key, d, n))


def heavy_tailed(key: PRNGKeyArray, d: int, n: int) -> Float[np.ndarray, "d n"]:
    """Normalised vectors of independent Cauchy entries: most columns lie close to one coordinate
    axis.
    """
    return _unit(np.asarray(jax.random.cauchy(key, (d, n), jnp.float64)))


def _nearly_repeated(key: PRNGKeyArray, d: int, n: int) -> Float[np.ndarray, "d n"]:
    """lam_2 = (1 - NEAR) lam_1, or a little less: a regular polygon in a plane, squeezed by NEAR,
    and columns beside it.
    """
    return _polygon(key, d, n, NEAR)


def repeated(key: PRNGKeyArray, d: int, n: int) -> Float[np.ndarray, "d n"]:
    """lam_1 = lam_2 exactly: a regular polygon in a plane, and columns across it."""
    return _polygon(key, d, n, 0.0)


def _polygon(key: PRNGKeyArray, d: int, n: int, squeeze: float) -> Float[np.ndarray, "d n"]:
    """m columns of squared length sums (1 +- squeeze/2) m/2 on two directions of the cosine basis,
    the rest across them.

    2 cos^2 and 2 sin^2 summed over m >= 3 equally spaced angles are m both. To split the sum
    unequally every angle moves by -squeeze/4 sin(2 angle), which keeps unit columns; to first order
    in squeeze the sums are m/2 (1 +- squeeze/2).
    """
    m = max(3, round(IN_PLANE * n))
    angle = 2 * math.pi * (np.arange(m) + 0.25) / m
    angle -= squeeze / 2 * np.sin(2 * angle)
    X = np.zeros((d, n))
    X[:2, :m] = np.cos(angle), np.sin(angle)
    if d > 2 and n > m:
        X[2:, m:] = _unit(_gaussian(key, d - 2, n - m))
    elif n > m:
        X[0, m:] = 1.0
    return _unit(_fixed_basis(d) @ X)


def axes(key: PRNGKeyArray, d: int, n: int) -> Float[np.ndarray, "d n"]:
    """The coordinate axes, the first three times as often as each of the others, the last ones
    oftener where n is no multiple: lam_2 is a multiple eigenvalue. The key is not needed.
    """
    first = max(1, 3 * n // (d + 2))
    rest = 1 + (np.arange(n - first) % (d - 1))
    return np.eye(d)[:, np.concatenate([np.zeros(first, dtype=int), np.sort(rest)])]


def _rank_deficient(key: PRNGKeyArray, d: int, n: int) -> Float[np.ndarray, "d n"]:
    """Columns in a fixed subspace of half the dimension (rounded up, below d), spiked there: lam_d
    = 0.
    """
    rank = min((d + 1) // 2, d - 1)
    return _unit(_fixed_basis(d)[:, :rank] @ spiked(key, rank, n))


TEST_LAWS: dict[str, TestLaw] = {
    "spiked": TestLaw(spiked, "spiked covariance"),
    "clustered": TestLaw(clustered, "columns in clusters"),
    "heavy": TestLaw(heavy_tailed, "heavy-tailed directions"),
    "axes": TestLaw(axes, "repeated coordinate axes, lam_2 multiple"),
    "near": TestLaw(_nearly_repeated, f"lam_2 = (1 - {NEAR:g}) lam_1"),
    "repeated": TestLaw(repeated, "lam_1 = lam_2", least_d=3),
    "deficient": TestLaw(_rank_deficient, "rank below d"),
}


class Loaded(NamedTuple):
    """A matrix from a file, with a word on what was done to it."""

    X: Float[np.ndarray, "d n"]
    words: str


def load(path: Path, normalise: bool = False) -> Loaded:
    """The data matrix in a .npy or .csv file, one column a data point, checked and, if told, with
    columns made unit.

    Raises SettingError (one line): no such file, no numbers, not two-dimensional, entries that are
    not finite, zero columns, columns that are not unit vectors unless `normalise`.
    """
    X, left_out = table.read(path, "data")
    if X.ndim != 2 or X.size == 0:
        raise SettingError(
            f"data={path} has shape {X.shape}: a matrix (d, n) was wanted, one column a data point"
        )
    d, n = X.shape
    bad = np.flatnonzero(~np.isfinite(X).all(axis=0))
    if bad.size:
        raise SettingError(f"data={path}: {_columns(bad)} not finite; leave out what is missing")
    largest = np.max(abs(X), axis=0)
    if np.any(largest == 0):
        raise SettingError(
            f"data={path}: {_columns(np.flatnonzero(largest == 0))} zero and has no direction; "
            "leave it out"
        )
    norms = largest * np.linalg.norm(
        X / largest, axis=0
    )  # squares of tiny or huge entries would leave float64
    words = f"data={path.name}, {d} x {n}" + (
        f" without {' and '.join(left_out)}" if left_out else ""
    )
    if n < d:
        words += ", fewer points than dimensions (one column is a point: is it transposed?)"
    if normalise:
        return Loaded(
            X / largest / (norms / largest),
            f"{words}, columns normalised (norms were {norms.min():.4g} to {norms.max():.4g})",
        )
    worst = int(np.argmax(abs(norms - 1)))
    if abs(norms[worst] - 1) > UNIT_ATOL:
        raise SettingError(
            f"data={path}: column {worst} has norm {norms[worst]:.6g}, not 1; add normalise=true "
            "to divide each by its norm"
        )
    return Loaded(X, words)


def load_query(path: Path, d: int) -> Float[np.ndarray, " d"]:
    """A query from a .npy or .csv file, of any length but 0; it is normalised. Raises SettingError
    (one line).
    """
    q = np.atleast_1d(table.read(path, "query").array.squeeze())
    if q.shape != (d,) or not np.all(np.isfinite(q)) or not np.any(q):
        raise SettingError(
            f"query={path} has shape {q.shape}: a finite vector, not zero, with d={d} entries was "
            "wanted"
        )
    q = q / np.max(abs(q))
    return q / np.linalg.norm(q)


def path_of(name: str) -> Path:
    """The file of a setting of the form PATH#CHECKSUM."""
    return Path(named(name)[0])


def _columns(which: np.ndarray) -> str:
    if which.size == 1:
        return f"column {which[0]} is"
    shown = ", ".join(map(str, which[:5])) + (", ..." if which.size > 5 else "")
    return f"{which.size} columns ({shown}) are"
