"""Theorem 4.1, looped with layer normalisation: one Laplace integral each."""

from math import log

import jax.numpy as jnp
from jaxtyping import Array, Float

from popgd.papers.power_method.quadrature.spectrum import COND, Spectrum, needs_gap
from popgd.papers.power_method.quadrature.trapezoid import (
    Bounded,
    Logistic,
    integral,
    negative,
    node_count,
)
from popgd.problem.numeric import UNIT


def _log_rho(lam, u, c, L: int):
    """log ((1 + c lam_i)/(1 + c lam_1))^{2L} = 2L log((u + c lam_i)/(u + c lam_1)), (u, c) = (1, c)
    or (0, 1).
    """
    return 2.0 * L * jnp.log((u + c * lam) / (u + c * lam[0]))


def _looped(
    spec: Spectrum, u, c, L: int, amplitude, leading: int, log_scale, cond: float
) -> Bounded:
    """e^{log_scale} int sigma_1^leading (sum_{g>1} (k_g/2) sigma_g coefficient_g) Phi ds, sigma_g =
    rho_g e^s y_g.

    `amplitude(tail, terms)` is the bracket with (k_g/2) sigma_g replaced by tail_g, the same
    without rho_2 e^s.
    """
    b = _log_rho(spec.lam, u, c, L)
    a = (spec.mult / 2.0).at[0].add(leading)
    degree = 1 + leading

    def bracket(s, terms: Logistic):
        tail = (spec.mult / 2.0 * jnp.exp(b - b[1]) * terms.y)[:, 1:]
        return amplitude(tail, terms)

    m = spec.lam.size
    nodes = node_count(degree, m / 2.0, 2.0 * L * log(cond))
    return integral(
        float(degree),
        a,
        b,
        bracket,
        nodes=nodes,
        left=float(degree),
        degree=1,
        log_scale=b[1] + log_scale,
        # 5 roundings in the quotient of rho and 2 units of the two eigenvalues, 2L times
        b_error=2.0 * L * UNIT * (7.0 + jnp.abs(b[-1]) / L),
    )


def _linear(weights, slips):
    def amplitude(tail, terms):
        value = tail @ weights
        return value, value, tail @ slips

    return amplitude


def _looped_loss(spec, u, c, L, cond):
    needs_gap(spec)
    one = jnp.ones(spec.lam.size - 1)
    return _looped(spec, u, c, L, _linear(one, 0.0 * one), 0, 0.0, cond)


def _looped_rate(spec, u, c, L, cond):
    """2L E[p_1 sum_{g>1} p_g (lam_1 - lam_g)/((u + c lam_g)(u + c lam_1))], written with p_1 =
    sum_{j<=r} p_j.
    """
    needs_gap(spec)
    lam, r = spec.lam, spec.mult[0]
    gap = (lam[0] - lam[1:]) / (u + c * lam[1:])
    slip = (lam[0] + lam[1:]) / (
        u + c * lam[1:]
    ) + 2.0 * gap  # of the difference, of both denominators
    scale = jnp.log(L * r) - jnp.log(u + c * lam[0])
    return _looped(spec, u, c, L, _linear(gap, slip), 1, scale, cond)


def looped_loss(spec: Spectrum, c: Float[Array, ""], L: int, cond: float = COND) -> Bounded:
    """Loss on the manifold: l(c) = E[sum_{i>r} p_i], p_i = rho_i w_i^2 / sum_j rho_j w_j^2.

    Source: arXiv 2606.00605, Theorem 4.1.
    """
    return _looped_loss(spec, 1.0, c, L, cond)


def looped_slope(spec: Spectrum, c: Float[Array, ""], L: int, cond: float = COND) -> Bounded:
    """Its derivative: l'(c) = 2L E[sum_{j<=r<i} p_i p_j (lam_i - lam_1)/((1 + c lam_i)(1 + c
    lam_1))] < 0.

    Source: arXiv 2606.00605, Theorem 4.1.
    """
    return negative(_looped_rate(spec, 1.0, c, L, cond))


def looped_limit(spec: Spectrum, L: int, cond: float = COND) -> Bounded:
    """l_inf = lim l(c): the loss of the L-step power method, p_i proportional to lam_i^{2L} w_i^2.

    Source: arXiv 2606.00605, Theorem 4.1.
    """
    return _looped_loss(spec, 0.0, 1.0, L, cond)


def looped_kappa(spec: Spectrum, L: int, cond: float = COND) -> Bounded:
    """kappa = lim -c^2 l'(c) = 2L E[(1 - pi) sum_{i>r} p_i (1/lam_i - 1/lam_1)].

    Source: arXiv 2606.00605, Theorem 4.1.
    """
    return _looped_rate(spec, 0.0, 1.0, L, cond)


def looped_correction(spec: Spectrum, L: int, cond: float = COND) -> Bounded:
    """K2 in -c^2 l'(c) = kappa - K2/c + O(1/c^2); either sign.

        K2 = 2L E[ p_1 { sum_g p_g b_g + 4L (sum_g p_g a_g)^2 - 2L sum_g p_g a_g^2 } ],
        a_g = 1/lam_g - 1/lam_1,   b_g = 1/lam_g^2 - 1/lam_1^2,   p_1 = sum_{j<=r} p_j,   all at c =
                                   infinity.

    Derivation: with u = 1/c, -c^2 l' = dl/du = F(u) = 2L E[p_1 sum_g p_g a_g(u)], a_g(u) =
    1/(lam_g+u) - 1/(lam_1+u), because d log rho_g/du = 2L a_g. Then dp_g/du = 2L p_g (a_g - abar),
    da_g/du = -b_g and K2 = -F'(0). The moments of p turn the bracket into (r/2) sigma_1 sum_g
    (k_g/2) sigma_g {b_g + 2L a_g (sum_h (k_h/2) sigma_h a_h - a_g y_g)}. Source: derived.
    """
    needs_gap(spec)
    lam, r = spec.lam, spec.mult[0]
    half = spec.mult[1:] / 2.0
    a = (lam[0] - lam[1:]) / (lam[1:] * lam[0])
    b = a * (1.0 / lam[1:] + 1.0 / lam[0])
    a_slip = 1.0 / lam[1:] + 1.0 / lam[0]
    b_slip = 2.0 / lam[1:] ** 2 + 2.0 / lam[0] ** 2

    def amplitude(tail, terms):
        plus = tail @ b + 2.0 * L * (tail @ a) * (terms.sigma[:, 1:] @ (half * a))
        minus = 2.0 * L * (tail * terms.y[:, 1:]) @ a**2
        sigma = terms.sigma[:, 1:]
        crossed = (tail @ a_slip) * (sigma @ (half * a)) + (tail @ a) * (sigma @ (half * a_slip))
        slip = tail @ b_slip + 2.0 * L * (crossed + 2.0 * (tail * terms.y[:, 1:]) @ (a * a_slip))
        return plus - minus, plus + minus, slip

    return _looped(spec, 0.0, 1.0, L, amplitude, 1, jnp.log(L * r), cond)
