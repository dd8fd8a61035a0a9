"""What a u that is not 0 adds to the population loss of a looped linear transformer, exactly.

    L(A, u) = l(A) + u^T H(A) u,   u^T H(A) u = E ||(I - (I - S A)^L)^T u||^2   in whitened
                                   coordinates

for every symmetric A and every u: at a diagonal A reflections make H(A) diagonal, so that uu^T
counts through its diagonal, which commutes with A, and u^T A^k u are all it takes. H(A) is positive
semidefinite, and positive unless A is singular.

Source: arXiv 2410.08292, sections 2 and 3; derived.
"""

from collections import Counter, defaultdict
from fractions import Fraction
from functools import cache
from math import comb, prod
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from popgd.papers.in_context.wishart import rounded
from popgd.papers.in_context.wishart_loss import LARGEST_L
from popgd.papers.in_context.wishart_words import Terms, mean_of_words, reverse
from popgd.problem.numeric import whole

#: The letter of uu^T A^k is the integer k + BIAS.
BIAS = 64


@cache
def _in_power_sums(L: int) -> Terms:
    """sum_{i,j >= 1} C(L,i) C(L,j) (-n)^{-i-j} E tr uu^T (WA)^i (AW)^j."""
    mean = mean_of_words(reverse)
    total: Terms = Counter()
    for i in range(1, L + 1):
        for j in range(1, i + 1):  # (j, i) is the transpose of (i, j)
            word = (1,) * (i - 1) + (2,) + (1,) * (j - 1) + (BIAS,)
            times = (-1) ** (i + j) * comb(L, i) * comb(L, j) * (1 if i == j else 2)
            for (e, parts), factor in mean((word,)).items():
                total[e - i - j, parts] += times * factor
    return total


class BiasForm(NamedTuple):
    """u^T H(A) u = sum_t coefficients[t] prod_k p[parts[t, k]]: p_k = tr A^k, and u^T A^k u from
    half of the table on.
    """

    coefficients: Float[Array, " terms"]
    parts: Int[Array, "terms degree"]


def bias_form(n: int, d: int, L: int) -> BiasForm:
    """The form as float64 arrays. Raises ValueError for n, d, L that are no whole numbers >= 1 and
    for L > 6.

    Source: derived (Gaussian integration by parts).
    """
    n, d, L = whole(n=n, d=d, L=L)
    if L > LARGEST_L:
        raise ValueError(
            f"got L = {L}, wanted at most {LARGEST_L} (time and memory): take fewer loops"
        )
    total = defaultdict(Fraction)
    for (e, parts), factor in _in_power_sums(L).items():
        total[tuple(k - BIAS + 2 * L + 1 if k >= BIAS else k for k in parts)] += (
            factor * Fraction(n) ** e
        )
    coefficients = [
        rounded(factor, f"the bias term at n = {n}, d = {d}, L = {L}") for factor in total.values()
    ]
    width = max(map(len, total))
    parts = [powers + (4 * L + 2,) * (width - len(powers)) for powers in total]
    return BiasForm(jnp.asarray(coefficients), jnp.asarray(parts))


def bias_loss(
    form: BiasForm, L: int, a: Float[Array, " d"], u: Float[Array, " d"]
) -> Float[Array, ""]:
    """u^T H(A) u for A = diag(a).

    Not to be trusted to more than 1e-16 sum_t |terms|: the powers of A cancel where H u is small.
    Raises nothing. Source: derived.
    """
    powers = [jnp.ones_like(a)]
    for _ in range(2 * L):
        powers.append(powers[-1] * a)
    p = jnp.stack([jnp.sum(x) for x in powers] + [u @ (x * u) for x in powers] + [jnp.ones(())])
    return form.coefficients @ prod(p[form.parts].T)
