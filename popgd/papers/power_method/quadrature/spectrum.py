"""The spectrum of S = X X^T as distinct eigenvalues with multiplicities."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array as Concrete
from jax.core import Tracer
from jaxtyping import Array, Float

from popgd.problem.numeric import multiplicities

SMALLEST, LARGEST = 1e-70, 1e70  # eigenvalues whose fourth powers float64 holds
COND = 1e6  # default of `cond`: the condition number up to which the integrals are laid out


class _Fields(NamedTuple):
    lam: Float[Array, "*batch m"]
    mult: Float[Array, "*batch m"]


class Spectrum(_Fields):
    """Distinct positive eigenvalues, descending, and their multiplicities; r = mult[0].

    Raises ValueError for numbers that are no such thing; inside jit and vmap, where they are not
    known yet, nothing is checked. `Spectrum.of` takes eigenvalues in any order, equal ones too.
    """

    __slots__ = ()

    def __new__(cls, lam, mult):
        if isinstance(lam, list | tuple):
            lam, mult = jnp.asarray(lam, dtype=float), jnp.asarray(mult, dtype=float)
        known = (
            isinstance(x, np.ndarray | Concrete) and not isinstance(x, Tracer) for x in (lam, mult)
        )
        if all(known):
            _check(np.asarray(lam), np.asarray(mult))
        return super().__new__(cls, lam, mult)

    @classmethod
    def of(cls, eigenvalues) -> "Spectrum":
        """Sort the eigenvalues and merge those that `numeric.multiplicities` counts as equal, by
        their mean.

        Raises ValueError unless there are at least two, all between 1e-70 and 1e70. Outside jit
        only. Merging moves any sphere expectation by the order of EQUAL_RTOL^2, as all are
        symmetric functions of the merged.
        """
        values = np.sort(np.asarray(eigenvalues, dtype=np.float64).ravel())[::-1]
        if values.size < 2:
            raise ValueError(
                f"got {values.size} eigenvalues, wanted at least 2: give all d eigenvalues of S"
            )
        _check_range(values)
        sizes = np.array(multiplicities(values))
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        lam = np.array([np.mean(values[i : i + k]) for i, k in zip(starts, sizes, strict=True)])
        return cls(jnp.asarray(lam), jnp.asarray(sizes.astype(float)))


def _check(lam: np.ndarray, mult: np.ndarray) -> None:
    if lam.ndim < 1 or lam.shape[-1] < 1 or mult.shape not in (lam.shape, lam.shape[-1:]):
        raise ValueError(
            f"got lam of shape {lam.shape} and mult of shape {mult.shape}, wanted (..., m) and "
            "one multiplicity "
            "for each distinct eigenvalue: Spectrum.of takes plain eigenvalues"
        )
    if not ((np.diff(lam, axis=-1) < 0).all() and (lam > 0).all()):
        raise ValueError(
            "got eigenvalues that do not descend or are not positive, wanted lam_1 > ... > lam_m "
            "> 0: sort them, "
            "and merge equal ones, as Spectrum.of does"
        )
    _check_range(lam)
    if not (np.isfinite(mult).all() and (mult >= 1).all()):
        raise ValueError(
            f"got multiplicities {mult}, wanted numbers >= 1: one for each distinct eigenvalue"
        )


def _check_range(lam: np.ndarray) -> None:
    wrong = lam[~((lam >= SMALLEST) & (lam <= LARGEST))]
    if wrong.size:
        raise ValueError(
            f"got eigenvalue {wrong.ravel()[-1]:g}, wanted finite positive ones (1e-70 to 1e70): "
            "S must have full rank, or be scaled"
        )


def needs_gap(spec: Spectrum) -> None:
    if spec.lam.shape[-1] < 2:
        raise ValueError(
            "got one distinct eigenvalue, wanted r < d: every direction is leading and the loss "
            "is 0"
        )
