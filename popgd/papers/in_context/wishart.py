"""The population loss of a looped linear transformer on the line A = a I, exact for every n, d and
L.

    l(A) = E ||(I - S A)^L||_F^2,   S = W/n,   W = X X^T,   X (d, n) standard normal

    d, n, L    features, examples in the context, loops
    S          covariance of the whitened context: Wishart(n, I)/n
    A, u       the trained weights in whitened coordinates; u = 0 is optimal, and the loss is then
               l(A)
    a, a*      A = a I; the a of the least loss
    m_k        E tr S^k / d

Everything is a rational number from integers that Gaussian integration by parts gives, and is
rounded once, at the end: n = 10**14 costs no more than n = 10. `wishart_loss` has l(A) for every
symmetric A.

All functions raise ValueError for n, d or L that is not a whole number >= 1, for 2L > 100 and for
results outside the range of float64.

Source: arXiv 2410.08292, sections 2 and 3; every formula is derived.
"""

import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import cache, lru_cache
from math import comb
from typing import NamedTuple

from popgd.problem.numeric import whole

LARGEST_K = 100  # moments: 3 s and 100 MB, three times that for each further 20


def rational(a: Fraction | float) -> Fraction:
    """a itself: a float is a rational number. ValueError if it is not finite."""
    try:
        return Fraction(a)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"got a = {a!r}, wanted a finite number: give a float or a Fraction"
        ) from None


def rounded(x: Fraction, what: str) -> float:
    """The float64 next to x; ValueError if x, called `what`, is outside their range."""
    try:
        value = float(x)
    except OverflowError:
        value = float("inf")
    if x and not sys.float_info.min <= abs(value) <= sys.float_info.max:
        raise ValueError(
            f"got {what} outside the range of float64, wanted 1e-307 to 1e308: take a smaller L, "
            "d or n"
        )
    return value


@lru_cache(maxsize=8)
def _mean_of_traces(n: int, d: int) -> Callable[[tuple[int, ...]], int]:
    """(k_1 <= ... <= k_r) -> E[tr W^k_1 ... tr W^k_r].

    E[tr W^k R] = (n+k-1) E[tr W^{k-1} R] + sum_{l=0}^{k-2} E[tr W^{l+1} tr W^{k-2-l} R]
                  + sum_{m in R} 2m E[tr W^{k+m-1} R/tr W^m]
    """

    @cache
    def mean(powers: tuple[int, ...]) -> int:
        if not powers:
            return 1
        k, rest = (
            powers[0],
            powers[1:],
        )  # the smallest first: by far the fewest different products on the way
        if k == 0:
            return d * mean(rest)
        terms: Counter[tuple[int, ...]] = Counter({(*rest, k - 1): n + k - 1})
        terms.update((*rest, l + 1, k - 2 - l) for l in range(k - 1))
        for i, m in enumerate(rest):
            terms[(*rest[:i], *rest[i + 1 :], k + m - 1)] += 2 * m
        return sum(factor * mean(tuple(sorted(term))) for term, factor in terms.items())

    return mean


def moments(n: int, d: int, K: int) -> tuple[Fraction, ...]:
    """The moments m_k of the Wishart matrix for k = 0, ..., K, exact.

        m_k = E tr S^k / d:   m_0 = m_1 = 1,   m_2 = (n+d+1)/n,   m_3 = (n^2 + 3n(d+1) + d^2 + 3d +
                              4)/n^2

    Raises ValueError for K < 0 and K > 100.
    Source: derived (Gaussian integration by parts).
    """
    n, d = whole(n=n, d=d)
    [K] = whole(least=0, K=K)
    if K > LARGEST_K:
        raise ValueError(
            f"got moments up to {K}, wanted at most {LARGEST_K} (2L for L loops): take fewer loops"
        )
    mean = _mean_of_traces(n, d)
    return tuple(Fraction(mean((k,)), d * n**k) for k in range(K + 1))


def _on_the_line(n: int, d: int, L: int, a: Fraction) -> Fraction:
    return d * sum(
        (comb(2 * L, j) * (-a) ** j * m for j, m in enumerate(moments(n, d, 2 * L))), Fraction(0)
    )


def isotropic_loss(n: int, d: int, L: int, a: Fraction | float) -> float:
    """The loss at A = a I after L loops, whatever number of loops the a was trained for.

        l(aI) = d E (1 - a s)^{2L} = d sum_j C(2L, j) (-a)^j m_j

    Not to be trusted as the error of a typical prompt: for large L the mean over the prompts is
    carried by the rare ones with a large eigenvalue of S, and grows where the median goes to 0.
    Raises ValueError for an a that is not finite. Source: derived from arXiv 2410.08292, section 2.
    """
    n, d, L = whole(n=n, d=d, L=L)
    return rounded(
        _on_the_line(n, d, L, rational(a)), f"the loss at n = {n}, d = {d}, L = {L} and this a"
    )


@lru_cache(maxsize=256)
def minimiser(n: int, d: int, L: int) -> Fraction:
    """a* with an error below 2^-127/(n d).

    Bisection, as l(aI) is convex, on (0, 1). The end is right: for Z = S - I integration by parts
    turns every E[tr Z^j tr Z^k ...] into such means of lower degree with factors >= 0, so E tr[S (I
    - S)^{2L-1}] < 0.
    """
    m = moments(n, d, 2 * L)
    bits = 128 + n.bit_length() + d.bit_length()
    low, high = 0, 1 << bits
    while high - low > 1:
        middle = (low + high) // 2
        a = Fraction(middle, 1 << bits)
        below = sum(comb(2 * L - 1, j) * (-a) ** j * m[j + 1] for j in range(2 * L)) > 0
        low, high = (middle, high) if below else (low, middle)
    return Fraction(low, 1 << bits)


def a_star(n: int, d: int, L: int) -> float:
    """The a of the least loss: a* Sigma^{-1} is the minimiser among the symmetric A.

        E[s (1 - a* s)^{2L-1}] = sum_j C(2L-1, j) (-a*)^j m_{j+1} = 0;   L = 1: a* = n/(n+d+1)

    Right to the last bit; 1 - a* ~ 1/n has what float64 leaves of it. That the minimiser is a
    multiple of the identity is proved for L = 1, and for L >= 2 known from numerical descent only;
    over all matrices it is a saddle for L >= 2 and large n (`hessian`). Source: arXiv 2410.08292,
    Theorem 3.2; derived.
    """
    n, d, L = whole(n=n, d=d, L=L)
    return rounded(minimiser(n, d, L), f"a* at n = {n}, d = {d}, L = {L}")


def least_loss(n: int, d: int, L: int) -> float:
    """l(a* I), the least loss among the symmetric A, right to the last bit; it falls like n^-L.

    Source: derived.
    """
    n, d, L = whole(n=n, d=d, L=L)
    return rounded(
        _on_the_line(n, d, L, minimiser(n, d, L)), f"the least loss at n = {n}, d = {d}, L = {L}"
    )


def deviation(n: int, d: int, L: int, a: Fraction | float) -> float:
    """Standard deviation of a single prompt's squared error at A = a I, over its mean.

        E (w^T R^L x)^4 = 3 E[(tr R^{2L})^2 + 2 tr R^{4L}],   R = I - a S,   w, x ~ N(0, I)

    Where it is large a few prompts carry the mean, and those that are sampled do not show it.
    Raises ValueError for 4L > 100. Source: derived (Isserlis).
    """
    n, d, L = whole(n=n, d=d, L=L)
    a, K = rational(a), 2 * L
    moments(n, d, 2 * K)  # refuses too large an L
    mean = _mean_of_traces(n, d)
    terms = [comb(K, i) * (-a / n) ** i for i in range(K + 1)]
    pairs = ((i, j) for i in range(K + 1) for j in range(K + 1))
    square = sum((terms[i] * terms[j] * mean(tuple(sorted((i, j)))) for i, j in pairs), Fraction(0))
    second = 3 * (square + 2 * _on_the_line(n, d, K, a))
    return (
        rounded(
            second / _on_the_line(n, d, L, a) ** 2 - 1, f"the variance at n = {n}, d = {d}, L = {L}"
        )
        ** 0.5
    )


def unlooped(n: int, d: int, L: int) -> float:
    """The least loss of L steps of gradient descent whose L step sizes are free, instead of equal.

        min_c E ||prod_j (I - c_j S)||_F^2 = d/(e_0^T M^{-1} e_0),   M_jk = m_{j+k},   j, k = 0,
        ..., L

    The minimum over all polynomials of degree L with value 1 at 0: the best one has L real roots,
    so it is such a product. Source: derived; the looped loss is `least_loss`.
    """
    n, d, L = whole(n=n, d=d, L=L)
    m = moments(n, d, 2 * L)
    M = [[m[j + k] for k in range(L + 1)] for j in range(L + 1)]
    for pivot in range(L, 0, -1):  # what is left of M_00 is 1/(M^{-1})_00
        for row in M[:pivot]:
            factor = row[pivot] / M[pivot][pivot]
            row[:pivot] = [
                x - factor * y for x, y in zip(row[:pivot], M[pivot][:pivot], strict=True)
            ]
    return rounded(d * M[0][0], f"the unlooped loss at n = {n}, d = {d}, L = {L}")


class Hessian(NamedTuple):
    """d^2/de^2 of the loss at aI + eK, ||K||_F = 1, for K = I/sqrt(d), K symmetric of trace 0, K
    antisymmetric.
    """

    h_tr: float
    h_sym: float
    h_asym: float


def _split(n: int, d: int) -> Callable[[int, int], tuple[Fraction, ...]]:
    """(i, j) -> E tr(S^i K S^j K^T) for the three K of `Hessian`.

    E[(S^i)_ab (S^j)_ce] = x 1_ab 1_ce + y (1_ac 1_be + 1_ae 1_bc), with x and y from the two traces
    E tr S^{i+j} = x d + y d(d+1)   and   E[tr S^i tr S^j] = x d^2 + 2 y d.
    """
    mean = _mean_of_traces(n, d)

    @cache
    def split(i: int, j: int) -> tuple[Fraction, ...]:
        one, two = (Fraction(mean(tuple(sorted(k))), n ** (i + j)) for k in ((i + j,), (i, j)))
        y = (d * one - two) / (d * (d - 1) * (d + 2))
        x = one / d - y * (d + 1)
        return one / d, x + y, x - y

    return split


def hessian(n: int, d: int, L: int, a: Fraction | float) -> Hessian:
    """The three eigenvalues of the Hessian of E ||(I - S A)^L||_F^2 at A = a I over all matrices A.

        h(K) = 2 sum_{r=0}^{2L-2} (L - |L-1-r|) E tr(S^2 R^r K R^{2L-2-r} K^T)
             + 4 sum_{s=0}^{L-2} (s+1) E tr(S R^{L+s} K S R^{L-2-s} K),   R = I - a S

    A negative one is a direction in which descent leaves a I, growing by 1 - eta h a step. Raises
    ValueError for d = 1, where every K is a multiple of I, and for an a that is not finite. Source:
    derived.
    """
    n, L = whole(n=n, L=L)
    [d] = whole(least=2, d=d)
    a = rational(a)
    moments(n, d, 2 * L)  # refuses too large an L
    split = _split(n, d)

    def form(kind: int, i: int, r: int, j: int, s: int) -> Fraction:
        """E tr(S^i R^r K S^j R^s K^T)."""
        pairs = [(k, l) for k in range(r + 1) for l in range(s + 1)]
        return sum(
            (
                comb(r, k) * comb(s, l) * (-a) ** (k + l) * split(i + k, j + l)[kind]
                for k, l in pairs
            ),
            Fraction(0),
        )

    def number(kind: int, sign: int) -> float:  # K^T = sign K
        h = sum(
            (
                2 * (L - abs(L - 1 - r)) * form(kind, 2, r, 0, 2 * L - 2 - r)
                for r in range(2 * L - 1)
            ),
            Fraction(0),
        )
        h += sign * sum(4 * (s + 1) * form(kind, 1, L + s, 1, L - 2 - s) for s in range(L - 1))
        return rounded(h, f"the Hessian at n = {n}, d = {d}, L = {L}")

    return Hessian(number(0, 1), number(1, 1), number(2, -1))
