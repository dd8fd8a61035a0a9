"""Chebyshev series: fitted by numpy.polynomial, summed in compiled loops by Clenshaw's rule."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.polynomial import chebyshev


def points(degree: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
    """First-kind nodes on [-1, 1] and the matrix from values there to Chebyshev coefficients,
    n = degree + 1.
    """
    nodes = chebyshev.chebpts1(degree + 1)
    transform = 2.0 / (degree + 1) * chebyshev.chebvander(nodes, degree).T
    transform[0] /= 2.0
    return nodes, transform


def clenshaw(term: Callable[[int], Any], terms: int, x: Float[Array, "*batch"]) -> Array:
    """sum_n term(n) T_n(x), in multiply-adds only (cos(n arccos x) is ten times slower in a scalar
    loop). A term may be any array that x broadcasts with.
    """
    last, before = jnp.zeros_like(x), jnp.zeros_like(x)
    for n in range(terms - 1, 0, -1):
        last, before = term(n) + 2.0 * x * last - before, last
    return term(0) + x * last - before
