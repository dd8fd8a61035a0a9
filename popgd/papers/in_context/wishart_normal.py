"""The population loss of a looped linear transformer for every normal A (A A^T = A^T A), as an
exact polynomial.

    l(A) = E ||(I - S A)^L||_F^2 = sum_t c_t prod q_{jk},   q_{jk} = tr E^j (E^T)^k,   E = a* I - A

The notation is that of `wishart`. A normal A is a rotation of blocks alpha I + beta J, J = [[0,
-1], [1, 0]], and one more alpha for odd d. By O(d) equivariance the gradient at such an A has the
same blocks: descent on (alpha, beta) is descent on all of A. With beta = 0 it is that of
`wishart_loss`; beta is what symmetric matrices do not have.

Source: arXiv 2410.08292, section 2; derived.
"""

from collections import Counter, defaultdict
from fractions import Fraction
from functools import cache
from math import comb, prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from popgd.papers.in_context.wishart import a_star, rounded
from popgd.papers.in_context.wishart_words import Terms, Word, mean_of_words
from popgd.problem.numeric import whole

#: 0.1 s for L = 3, 3 s for L = 4; the next takes minutes.
LARGEST_L = 4
#: The letter A^g (A^T)^h is the integer g + TRANSPOSED h; g and h stay below it.
TRANSPOSED = 64


def turned(word: Word) -> Word:
    """The transpose: the other way round, A and A^T exchanged."""
    return tuple(letter // TRANSPOSED + letter % TRANSPOSED * TRANSPOSED for letter in word[::-1])


@cache
def _in_traces(L: int) -> Terms:
    """E ||(I - S A)^L||_F^2 = sum_ij C(L,i) C(L,j) (-n)^{-i-j} E tr (WA)^i (A^T W)^j."""
    mean = mean_of_words(turned)
    total: Terms = Counter({(0, (0,)): 1})
    for i in range(1, L + 1):
        for j in range(i + 1):  # (j, i) is the transpose of (i, j)
            word = (
                (1,) * (i - 1) + (1 + TRANSPOSED,) + (TRANSPOSED,) * (j - 1) + (0,)
                if j
                else (1,) * i
            )
            times = (-1) ** (i + j) * comb(L, i) * comb(L, j) * (1 if i == j else 2)
            for (e, parts), factor in mean((word,)).items():
                total[e - i - j, parts] += times * factor
    return total


def exact_polynomial(
    n: int, d: int, L: int, centre: Fraction
) -> dict[tuple[tuple[int, int], ...], Fraction]:
    """The loss in the traces of E = centre I - A: {((j_1, k_1), ...): factor of q_{j_1 k_1} ...}, j
    >= k as q_jk = q_kj.

    Raises ValueError for n, d, L that are no whole numbers >= 1 and for L > 4.
    Source: derived (Gaussian integration by parts).
    """
    n, d, L = whole(n=n, d=d, L=L)
    if L > LARGEST_L:
        raise ValueError(
            f"got L = {L}, wanted at most {LARGEST_L} over all matrices (time and memory): take "
            "fewer loops"
        )

    @cache
    def product(parts: tuple[int, ...]) -> Counter[tuple[tuple[int, int], ...]]:
        """A product of tr A^g (A^T)^h about 1, where A = I - E."""
        if not parts:
            return Counter({(): 1})
        h, g = divmod(parts[-1], TRANSPOSED)
        total: Counter[tuple[tuple[int, int], ...]] = Counter()
        for j in range(g + 1):
            for k in range(h + 1):
                factor = (-1) ** (j + k) * comb(g, j) * comb(h, k) * (1 if j + k else d)
                for powers, value in product(parts[:-1]).items():
                    more = (*powers, (max(j, k), min(j, k))) if j + k else powers
                    total[tuple(sorted(more))] += factor * value
        return total

    in_p, in_q = defaultdict(Fraction), defaultdict(Fraction)
    for (e, parts), factor in _in_traces(L).items():
        in_p[parts] += factor * Fraction(n) ** e
    for parts, factor in in_p.items():
        degree = sum(sum(divmod(part, TRANSPOSED)) for part in parts)
        for powers, value in product(parts).items():  # A = centre (I - E/centre)
            in_q[powers] += factor * value * centre ** (degree - sum(map(sum, powers)))
    return {powers: value for powers, value in in_q.items() if value}


class NormalPolynomial(NamedTuple):
    """l as a function of the blocks: a pytree that `loss` evaluates. sizes: 2 for each block, and 1
    for odd d.
    """

    coefficients: Float[Array, " terms"]
    parts: Int[Array, "terms degree"]  # of the flattened table of q_jk with 1 at (0, 0)
    centre: Float[Array, ""]
    sizes: Float[Array, " m"]


def polynomial(n: int, d: int, L: int) -> NormalPolynomial:
    """The loss as float64 arrays about a*, where it does not cancel. Raises ValueError as
    `exact_polynomial`.
    """
    centre = a_star(n, d, L)
    terms = exact_polynomial(n, d, L, Fraction(centre))
    coefficients = [
        rounded(factor, f"a coefficient at n = {n}, d = {d}, L = {L}") for factor in terms.values()
    ]
    flat = [[j * (2 * L + 1) + k for j, k in powers] for powers in terms]
    parts = [row + [0] * (2 * L - len(row)) for row in flat]
    sizes = [2.0] * (d // 2) + [1.0] * (d % 2)
    return NormalPolynomial(*map(jnp.asarray, (coefficients, parts, centre, sizes)))


def loss(polynomial: NormalPolynomial, blocks: Float[Array, "2 m"]) -> Float[Array, ""]:
    """l(A) for the blocks (alpha, beta) of a normal A; the last beta must be 0 for odd d.

    Not to be trusted beyond 20 units of 2^-53 sum_t |c_t| prod |q|, three times the most that was
    seen; about a* that is the loss itself. Source: derived.
    """
    degree = polynomial.parts.shape[1]
    x, y = polynomial.centre - blocks[0], -blocks[1]
    square = x * x + y * y
    real, imaginary = [jnp.ones_like(x)], [jnp.zeros_like(x)]  # of (x + i y)^k
    for _ in range(degree):
        real.append(real[-1] * x - imaginary[-1] * y)
        imaginary.append(real[-2] * y + imaginary[-1] * x)
    table = [[jnp.ones(())] * (degree + 1) for _ in range(degree + 1)]
    for j in range(1, degree + 1):
        for k in range(min(j, degree - j) + 1):
            table[j][k] = polynomial.sizes @ (
                prod([square] * k, start=jnp.ones_like(x)) * real[j - k]
            )
    q = jnp.stack([jnp.stack(row) for row in table]).ravel()
    return polynomial.coefficients @ prod(q[polynomial.parts].T)


def gradient(polynomial: NormalPolynomial, blocks: Float[Array, "2 m"]) -> Float[Array, "2 m"]:
    """The blocks of the gradient over all matrices: I and J of a block have the square norm 2, the
    single entry 1.

    For odd d the last beta has no direction, and its gradient is 0. Good to some units of the sum
    of its |terms|. Source: derived.
    """
    slope = jax.grad(loss, argnums=1)(polynomial, blocks) / polynomial.sizes
    return slope.at[1].multiply(polynomial.sizes > 1)
