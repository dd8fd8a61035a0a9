"""The spectrum of S = X X^T as distinct eigenvalues with multiplicities."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SMALLEST, LARGEST = 1e-70, 1e70  # eigenvalues whose fourth powers float64 holds
COND = 1e6  # default of `cond`: the condition number up to which the integrals are laid out


class Spectrum(NamedTuple):
    """Distinct positive eigenvalues, descending, and their multiplicities; r = mult[0]."""

    lam: Float[Array, "*batch m"]
    mult: Float[Array, "*batch m"]

    @classmethod
    def of(cls, eigenvalues, rtol: float = 1e-9) -> "Spectrum":
        """Sort the eigenvalues and merge those relatively equal to within rtol of the largest of their group.

        Raises ValueError unless there are at least two, all between 1e-70 and 1e70. Outside jit only. Merging by their
        mean moves any sphere expectation by the order of rtol^2, as all are symmetric functions of the merged.
        """
        values = np.sort(np.asarray(eigenvalues, dtype=np.float64).ravel())[::-1]
        if values.size < 2:
            raise ValueError(f"got {values.size} eigenvalues, wanted at least 2: give all d eigenvalues of S")
        wrong = values[~((values >= SMALLEST) & (values <= LARGEST))]
        if wrong.size:
            raise ValueError(f"got eigenvalue {wrong[-1]:g}, wanted finite positive ones (1e-70 to 1e70): S must have full rank")
        groups: list[list[float]] = []
        for value in values:
            if groups and groups[-1][0] - value <= rtol * groups[-1][0]:
                groups[-1].append(value)
            else:
                groups.append([value])
        lam = np.array([np.mean(group) for group in groups])
        return cls(jnp.asarray(lam), jnp.asarray([float(len(group)) for group in groups]))


def needs_gap(spec: Spectrum) -> None:
    if spec.lam.shape[-1] < 2:
        raise ValueError("got one distinct eigenvalue, wanted r < d: every direction is leading and the loss is 0")
