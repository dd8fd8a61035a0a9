"""Sectors of a symmetric matrix that commutes with a group: few numbers for each irreducible part.

At a point of Fix(G) the population Hessian commutes with rho. The weights split into irreducible
subspaces; where m of them are equivalent to one W of real type, the Hessian on their sum is
H (x) 1_W: m x m numbers instead of (m dim W)^2.

A random symmetric matrix, averaged over the group, has irreducible eigenspaces; a second one maps
equivalent ones on each other. Casimir operators would not do: conjugation by O(2) has Casimir 0
twice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray, PyTree

from popgd.problem.errors import SettingError, TooLarge
from popgd.symmetry import _algebra
from popgd.symmetry.actions import Symmetry
from popgd.symmetry.averages import averaged

#: Eigenvalues of a random average closer than this, relative to the largest, are one: those of
#: one irreducible subspace are within 1e-14. The best of so many averages is used, as those of two
#: subspaces are this close by chance in one of 1e5.
APART, TRIES = 1e-8, 4
#: Two subspaces are equivalent where the second average maps more than this share of its size.
MAPS = 1e-6
#: Rounding of what a matrix has outside its sectors, relative to its size: measured 1e-14.
OUTSIDE = 1e-10
#: More weights than this take minutes.
DENSE = 1000
#: The probability that a matrix that commutes is refused, of all of its entries together.
FALSE_ALARM = 1e-6


class Sector(NamedTuple):
    """m equivalent irreducible subspaces of dimension w: `basis[:, a, i]`, orthonormal, where the
    group acts on i alone.
    """

    basis: Float[np.ndarray, "n m w"]

    @property
    def multiplicity(self) -> int:
        return self.basis.shape[1]

    @property
    def dimension(self) -> int:
        return self.basis.shape[2]

    def of(self, matrix: Float[np.ndarray, "*many n n"]) -> Float[np.ndarray, "*many m m"]:
        """H with matrix = H (x) 1_W on this sector; linear, so that a mean of H is the H of a
        mean. Not checked: see `reduce`.
        """
        mapped = np.einsum("...xy,ybi->...xbi", matrix, self.basis)
        return np.einsum("xai,...xbi->...ab", self.basis, mapped) / self.dimension

    def whole(self, H: Float[np.ndarray, "*many m m"]) -> Float[np.ndarray, "*many n n"]:
        """H (x) 1_W as a matrix on all weights."""
        return np.einsum("xai,...ab,ybi->...xy", self.basis, H, self.basis, optimize=True)


class Reduced(NamedTuple):
    """A matrix on one sector, with standard errors (0 of an exact one)."""

    sector: Sector
    H: Float[np.ndarray, "m m"]
    error: Float[np.ndarray, "m m"]


def sectors(symmetries: Sequence[Symmetry], start: PyTree, key: PRNGKeyArray) -> tuple[Sector, ...]:
    """The sectors of the group that the symmetries generate on pytrees like `start`, the smallest
    subspaces first.

    Of real type where m > 1: a third average must lie in the space of dimension sum m (m + 1)/2
    that the sectors leave, which is the whole commutant then, with probability 1. SettingError
    where it does not (complex or quaternionic type), and where averages do not settle; TooLarge
    beyond DENSE weights.
    """
    start = _algebra.float64(start, "the start")
    if not symmetries:
        raise SettingError("no symmetry was given: name one")
    if (n := len(_algebra.names(start))) > DENSE:
        raise TooLarge(f"{n} weights, where sectors of up to {DENSE} are computed")
    second, third, *others = (
        commuting(symmetries, start, k) for k in jax.random.split(key, 2 + TRIES)
    )
    first = max(map(_eigenspaces, others), key=lambda found: found[1])[0]
    found = _matched(first, second)
    outside = third - sum(s.whole(s.of(third)) for s in found)
    if not np.abs(outside).max() <= OUTSIDE * np.abs(third).max():
        expected = sum(s.multiplicity * (s.multiplicity + 1) // 2 for s in found)
        raise SettingError(
            f"a commuting matrix is off the {expected} numbers that its sectors leave by "
            f"{np.abs(outside).max():.2g}: some sector is of complex or quaternionic type, and "
            "only real types are handled; declare further symmetries, reflections say"
        )
    return tuple(sorted(found, key=lambda s: (s.dimension, s.multiplicity)))


def reduce(found: Sequence[Sector], batches: Float[np.ndarray, "r n n"]) -> tuple[Reduced, ...]:
    """The blocks H of a symmetric matrix, and their standard errors from r independent estimates of
    it, r = 1 for an exact one.

    SettingError where it does not commute with the group within its error, entry by entry, a
    mistake with probability FALSE_ALARM for normal estimates; r = 2 sees next to nothing, 16 do.
    """
    r, n, _ = batches.shape
    blocks = [sector.of(batches) for sector in found]
    outside = batches - sum(s.whole(H) for s, H in zip(found, blocks, strict=True))
    size = OUTSIDE * np.abs(batches).max()
    error = lambda parts: parts.std(axis=0, ddof=1) / r**0.5 if r > 1 else 0 * parts[0]
    from scipy.special import stdtrit  # slow to import

    quantile = float(stdtrit(r - 1, 1 - FALSE_ALARM / (2 * n * n))) if r > 1 else 0.0
    excess = np.abs(outside.mean(axis=0)) - quantile * error(outside) - size
    if not np.all(excess <= 0):
        i, j = np.unravel_index(int(np.argmax(excess)), (n, n))
        raise SettingError(
            f"the matrix does not commute with the group: entry ({i}, {j}) is off by "
            f"{outside.mean(axis=0)[i, j]:.3g}, with standard error {error(outside)[i, j]:.2g}"
        )
    return tuple(Reduced(s, H.mean(axis=0), error(H)) for s, H in zip(found, blocks, strict=True))


def commuting(
    symmetries: Sequence[Symmetry], start: PyTree, key: PRNGKeyArray
) -> Float[np.ndarray, "n n"]:
    """A random symmetric matrix that commutes with rho. Raises as `averages.averaged`."""
    n = len(_algebra.names(start))
    of_matrix, of_draws = jax.random.split(key)
    G = _algebra.gaussian(of_matrix, n, n)
    A = averaged(symmetries, start, G + G.T, of_draws, matrix=True)
    return (A + A.T) / 2


def _eigenspaces(
    A: Float[np.ndarray, "n n"],
) -> tuple[list[Float[np.ndarray, "n _"]], float]:
    """Orthonormal bases of the eigenspaces, and how far apart the nearest two eigenvalues are,
    relative to the largest: the less, the more rounding in the bases.
    """
    lam, vectors = np.linalg.eigh(A)
    steps = np.diff(lam) / np.abs(lam).max()
    cuts = np.flatnonzero(steps > APART) + 1
    return np.split(vectors, cuts, axis=1), float(steps[cuts - 1].min(initial=1.0))


def _matched(spaces: list[Float[np.ndarray, "n _"]], B: Float[np.ndarray, "n n"]) -> list[Sector]:
    """Equivalent eigenspaces together, in bases in which B maps one on a multiple of the other."""
    classes: list[list[np.ndarray]] = []
    for E in spaces:
        for known in classes:
            T = known[0].T @ B @ E
            if np.abs(T).max() > MAPS * np.abs(B).max():
                if T.shape[0] != T.shape[1]:
                    raise SettingError(
                        f"eigenspaces of dimensions {T.shape[0]} and {T.shape[1]} are mapped on "
                        "each other, so one is not irreducible: give another key"
                    )
                # T is a multiple of an orthogonal matrix, up to rounding
                known.append(E @ (T.T / np.linalg.norm(T, 2)))
                break
        else:
            classes.append([E])
    return [Sector(np.stack(known, axis=1)) for known in classes]
