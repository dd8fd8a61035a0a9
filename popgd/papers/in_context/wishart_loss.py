"""The population loss of a looped linear transformer for every symmetric A, as an exact polynomial.

    l(A) = E ||(I - S A)^L||_F^2 = sum_t c_t prod_k q_{t_k},   q_k = tr E^k,   E = a* I - A

The notation is that of `wishart`. The coefficients c_t are Fractions from Gaussian integration by
parts on words of W and A (p_k = tr A^k on the way); `loss` and what is built on it computes in
float64 and is JAX's to differentiate, compile and map.

Source: arXiv 2410.08292, sections 2 and 3; every formula is derived.
"""

import sys
from collections import Counter, defaultdict
from fractions import Fraction
from functools import cache
from math import comb, prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from popgd.papers.in_context.wishart import a_star, rational, rounded
from popgd.papers.in_context.wishart_words import Terms, mean_of_words, reverse
from popgd.problem.numeric import whole

LARGEST_L = 6  # 1 s for L = 5, 15 s and 300 MB for L = 6, fifteen times that for each further loop
SYMMETRIC = 1e-9  # relative: the rounding of a million steps of descent stays below
UNIT = sys.float_info.epsilon / 2


@cache
def _in_power_sums(L: int) -> Terms:
    """E ||(I - S A)^L||_F^2 = sum_ij C(L,i) C(L,j) (-n)^{-i-j} E tr (WA)^i (AW)^j in n and p_k, p_0
    = d.
    """

    mean = mean_of_words(reverse)
    total: Terms = Counter({(0, (0,)): 1})
    for i in range(1, L + 1):
        for j in range(i + 1):  # (j, i) is the transpose of (i, j)
            word = (1,) * (i - 1) + (2,) + (1,) * (j - 1) + (0,) if j else (1,) * i
            times = (-1) ** (i + j) * comb(L, i) * comb(L, j) * (1 if i == j else 2)
            for (e, parts), factor in mean((word,)).items():
                total[e - i - j, parts] += times * factor
    return total


def exact_polynomial(
    n: int, d: int, L: int, centre: Fraction | float = 1
) -> dict[tuple[int, ...], Fraction]:
    """The loss in the power sums of E = centre I - A: {(k_1 <= ... <= k_r): factor of q_k_1 ...
    q_k_r}.

        L = 1, centre = 1:   l = q_2 + ((d+1)/n) (d - 2 q_1 + q_2)

    3, 11, 29, 66, 138, 271 terms for L = 1, ..., 6. The first call for an L takes the time, any n
    and d after it are quick. Raises ValueError for n, d, L that are no whole numbers >= 1, for L >
    6 and for a centre that is not finite. Source: derived (Gaussian integration by parts).
    """
    n, d, L = whole(n=n, d=d, L=L)
    if L > LARGEST_L:
        raise ValueError(
            f"got L = {L}, wanted at most {LARGEST_L} (time and memory): take fewer loops, or "
            "`isotropic_loss`"
        )
    centre = rational(centre)

    @cache
    def product(parts: tuple[int, ...]) -> Counter[tuple[int, ...]]:
        """p_k_1 ... p_k_r about 1, where p_k = sum_j C(k, j) (-1)^j q_j and q_0 = d."""
        if not parts:
            return Counter({(): 1})
        total: Counter[tuple[int, ...]] = Counter()
        for j in range(parts[-1] + 1):
            factor = (-1) ** j * comb(parts[-1], j) * (1 if j else d)
            for powers, value in product(parts[:-1]).items():
                total[tuple(sorted((*powers, j))) if j else powers] += factor * value
        return total

    in_p, in_q = defaultdict(Fraction), defaultdict(Fraction)
    for (e, parts), factor in _in_power_sums(L).items():
        in_p[parts] += factor * Fraction(n) ** e
    for parts, factor in in_p.items():
        for powers, value in product(parts).items():  # A = centre (I - E/centre)
            in_q[powers] += factor * value * centre ** (sum(parts) - sum(powers))
    return dict(in_q)


class Polynomial(NamedTuple):
    """l(A) = sum_t coefficients[t] prod_k q[parts[t, k]],  q_k = tr (centre - A)^k,  1 in place of
    q_0.

    A pytree: one compiled program serves every n of the same d and L, and several n are stacked for
    `vmap`.
    """

    coefficients: Float[Array, " terms"]
    parts: Int[Array, "terms degree"]
    centre: Float[Array, "d d"]  # a* I, whose shape says what d is


def polynomial(n: int, d: int, L: int) -> Polynomial:
    """The loss as float64 arrays about a*, where its constant is the least loss and its slope is 0.

    About I, the limit of a* for large n, the terms cancel for small n: sum |terms| is 2 10^3 times
    the loss at A = 0 for (n, d, L) = (20, 5, 4) and 4 10^4 times for (20, 5, 5); about a* it is 40
    and 180 times, and once at a* I. Raises ValueError as `exact_polynomial`, for coefficients
    outside the range of float64 and where float64 is off. Source: derived.
    """
    if jnp.zeros(()).dtype != jnp.float64:
        raise ValueError(
            'float32 is on, float64 is needed: call jax.config.update("jax_enable_x64", True)'
        )
    centre = a_star(n, d, L)
    terms = exact_polynomial(n, d, L, centre)
    coefficients = [
        rounded(factor, f"a coefficient at n = {n}, d = {d}, L = {L}") for factor in terms.values()
    ]
    parts = [powers + (0,) * (2 * L - len(powers)) for powers in terms]
    return Polynomial(jnp.asarray(coefficients), jnp.asarray(parts), centre * jnp.eye(d))


def _check(polynomial: Polynomial, A: Array) -> None:
    d = len(polynomial.centre)
    if A.shape not in ((d,), (d, d)) or A.dtype != jnp.float64:
        raise ValueError(
            f"got A of shape {A.shape} and type {A.dtype}, wanted float64, ({d}, {d}) or its "
            f"({d},) eigenvalues"
        )
    if A.ndim == 2 and not isinstance(A, Tracer) and abs(A - A.T).max() > SYMMETRIC * abs(A).max():
        raise ValueError(
            "got A that is not symmetric, wanted A = A^T: for others the polynomial is not the loss"
        )


def _power_sums(polynomial: Polynomial, A: Array) -> Array:
    """q_1, ..., q_2L by repeated multiplication, the even ones as sums of squares."""
    # Only the symmetric part: else rounding errors find directions in which the polynomial is not
    # bounded below.
    E = jnp.diagonal(polynomial.centre) - A if A.ndim == 1 else polynomial.centre - (A + A.T) / 2
    powers = [E]
    for _ in range(polynomial.parts.shape[1] // 2 - 1):
        powers.append(powers[-1] * E if A.ndim == 1 else powers[-1] @ E)
    first = E.sum() if A.ndim == 1 else jnp.trace(E)
    return jnp.stack(
        [first]
        + [jnp.sum(left * right) for k, left in enumerate(powers) for right in powers[k : k + 2]]
    )


def _evaluated(coefficients: Array, parts: Array, q: Array) -> Array:
    return coefficients @ prod(jnp.concatenate([jnp.ones(1), q])[parts].T)


def loss(polynomial: Polynomial, A: Float[Array, "d d"] | Float[Array, " d"]) -> Float[Array, ""]:
    """l(A) = E ||(I - S A)^L||_F^2 for a symmetric A, or for the eigenvalues of one.

    By O(d) equivariance its gradient is symmetric and diagonal in the eigenbasis of A: the
    eigenvalues are a system of their own under descent. Raises ValueError for another shape, for
    float32 and for an A that is not symmetric; inside jit, grad and vmap the last cannot be seen,
    and only the symmetric part counts. Not to be trusted beyond `rounding`. Source: arXiv
    2410.08292, section 2; derived.
    """
    _check(polynomial, A)
    return _evaluated(polynomial.coefficients, polynomial.parts, _power_sums(polynomial, A))


def gradient(
    polynomial: Polynomial, A: Float[Array, "d d"] | Float[Array, " d"]
) -> Float[Array, "..."]:
    """The gradient of `loss`: a symmetric matrix, or for eigenvalues those of the gradient.

    L = 1: 2 ((n+d+1)/n A - I). Not to be trusted beyond some units of the same sum with |terms|;
    raises as `loss`. Source: derived (automatic differentiation).
    """
    _check(polynomial, A)
    return jax.grad(loss, argnums=1)(polynomial, A)


def rounding(
    polynomial: Polynomial, A: Float[Array, "d d"] | Float[Array, " d"]
) -> Float[Array, ""]:
    """A bound on the rounding error of `loss`: a number of units of sum_t |c_t| prod_k |q|.

    Relative to the loss at A = 0: 5e-14 for (n, d, L) = (50, 5, 3), 2e-12 for (50, 20, 4), 2e-11
    for (50, 20, 5); at a* I a few 1e-14. Not a worst case over all orders of summation; five times
    the largest error in the tests. Raises as `loss`. Source: derived; |q_k| <= sqrt(q_{k-1}
    q_{k+1}) for odd k.
    """
    _check(polynomial, A)
    d = len(polynomial.centre)
    even = jnp.concatenate([jnp.full(1, float(d)), _power_sums(polynomial, A)[1::2]])
    sizes = jnp.stack([jnp.sqrt(even[:-1] * even[1:]), even[1:]], axis=1).ravel()
    units = len(polynomial.coefficients) + sizes.size * (d + 2)
    return units * UNIT * _evaluated(abs(polynomial.coefficients), polynomial.parts, sizes)


def square_root(Sigma: Float[np.ndarray, "d d"]) -> Float[Array, "d d"]:
    """Sigma^{1/2}, symmetric. Raises ValueError for a Sigma that is not symmetric positive definite
    to rounding.
    """
    if not (
        np.isfinite(Sigma).all() and abs(Sigma - Sigma.T).max() <= SYMMETRIC * abs(Sigma).max()
    ):
        raise ValueError(
            "got Sigma that is not finite and symmetric, wanted a covariance: take (Sigma + "
            "Sigma^T)/2"
        )
    lam, R = np.linalg.eigh(Sigma)
    least = len(lam) * 2 * UNIT
    if lam[0] <= 0:
        raise ValueError(
            f"got Sigma with eigenvalues {lam[0]:.3g} to {lam[-1]:.3g}, wanted all > 0: take a "
            "covariance of full rank"
        )
    if lam[0] <= least * lam[-1]:
        told = (
            f"got Sigma with eigenvalues {lam[0]:.3g} to {lam[-1]:.3g}, wanted a ratio above "
            f"{least:.2g}"
        )
        raise ValueError(
            f"{told}, as float64 tells a smaller one from 0 no more: drop the smallest, or the "
            "largest"
        )
    return jnp.asarray((R * np.sqrt(lam)) @ R.T)


def loss_with_covariance(
    polynomial: Polynomial, A: Float[Array, "d d"], root: Float[Array, "d d"]
) -> Float[Array, ""]:
    """The loss in the coordinates of the inputs x ~ N(0, Sigma) with w ~ N(0, Sigma^{-1}), root =
    Sigma^{1/2}.

        L(A, u = 0) = l(Sigma^{1/2} A Sigma^{1/2}),   grad_A = Sigma^{1/2} grad l Sigma^{1/2}

    With another Sigma than in training it is the loss out of distribution: at A = a*
    Sigma_train^{-1} it is l(diag(a* mu)), mu the eigenvalues of Sigma_train^{-1} Sigma. Raises as
    `loss`. Source: arXiv 2410.08292, section 2; derived.
    """
    return loss(polynomial, root @ A @ root)


def loss_infinite(mu: Float[Array, " d"], L: int) -> Float[Array, ""]:
    """The loss for n = infinity, where S = I, at an A with eigenvalues mu: sum_i (1 - mu_i)^{2L}.

    It goes to 0 in L if and only if all mu are in (0, 2). Good to 4L 2^-53 of itself. Raises
    ValueError for L < 1. Source: derived.
    """
    [L] = whole(L=L)
    return jnp.sum((1 - mu) ** (2 * L))


def flow_loss_infinite(
    lam: Float[Array, " d"], L: int, t: Float[Array, "*times"]
) -> Float[Array, "*times"]:
    """The loss at time t of gradient flow from A = 0 in the coordinates of the inputs, lam =
    eig(Sigma), n = infinity.

        l(t) = sum_i (1 + 4L(L-1) lam_i^2 t)^{-L/(L-1)},   L = 1: sum_i exp(-4 lam_i^2 t)

    Good to (8 + 8 log(1 + L^2 x)) 2^-53 of itself, x = 4 lam^2 t, for L = 1 to (8 + 4x) 2^-53; NaN
    for t < 0. Not to be trusted for finite n where it comes near `least_loss`. Raises ValueError
    for L < 1. Source: derived.
    """
    [L] = whole(L=L)
    x = 4 * lam**2 * jnp.where(t < 0, jnp.nan, t)[..., None]
    return jnp.sum(jnp.exp(-x) if L == 1 else (1 + L * (L - 1) * x) ** (-L / (L - 1)), axis=-1)
