"""Theorem 4.3, one layer with layer normalisation."""

from math import log

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from popgd.papers.power_method.quadrature.rules import half_line_rule, inverse_three_halves_rule
from popgd.papers.power_method.quadrature.spectrum import COND, Spectrum
from popgd.papers.power_method.quadrature.trapezoid import (
    Bounded,
    from_value,
    integral,
    negative,
    node_count,
    times,
)
from popgd.problem.numeric import UNIT

#: Error of log beta in units: 18 of its roundings, 6 of an eigenvalue that is off by one.
LOG_BETA = 24.0


def _spread(spec: Spectrum, y):
    """u_g = (k_g/2) y_g, sum u, lam less its u-mean, V = sum_{g<h} (lam_g - lam_h)^2 u_g u_h, and
    the slip of V.

    Free of cancellation: seen from the eigenvalue of the largest u, the mean is no larger than the
    spread. From lam_1 a u_1 of 1e-24 leaves 1e-9 of the digits of V. dV/dlam_g = 2 u_g (sum u)
    (lam_g - mean).
    """
    u = spec.mult / 2.0 * y
    total = u.sum(1, keepdims=True)
    away = spec.lam - spec.lam[jnp.argmax(u, axis=1)][:, None]
    offset = away - (u * away).sum(1, keepdims=True) / total
    slip = total[:, 0] * (u * spec.lam * (2.0 * jnp.abs(offset) + UNIT * spec.lam)).sum(1)
    return u, total, offset, total[:, 0] * (u * offset**2).sum(1), slip


def _sine(spec: Spectrum, log_beta, log_range: float) -> Bounded:
    """E[G / (sum_i beta_i w_i^2)^2], G = sum_{i<j} (lam_i - lam_j)^2 w_i^2 w_j^2."""

    def amplitude(s, terms):
        *_, V, slip = _spread(spec, terms.y)
        return V, V, slip

    nodes = node_count(2.0, spec.lam.size / 2.0, log_range)
    a, error = spec.mult / 2.0, LOG_BETA * UNIT
    return integral(2.0, a, log_beta, amplitude, nodes=nodes, left=2.0, degree=2, b_error=error)


def layer_slope(spec: Spectrum, c: Float[Array, ""], cond: float = COND) -> Bounded:
    """l'(c) = -2 E[G/(||s|| ||v||^3)] < 0, s = Sq, v = q + cs.

    1/(||s|| ||v||^3) = ||s||^{-4} x^{-3/2}, x = ||v||^2/||s||^2 between (c + 1/lam_1)^2 and (c +
    1/lam_d)^2, and x^{-3/2} is a sum of squared poles in x: one Laplace integral each.
    Source: arXiv 2606.00605, Theorem 4.3.
    """
    t2, weight, error = inverse_three_halves_rule(cond)
    lam = spec.lam
    far = c + 1.0 / lam[-1]
    x = ((1.0 + c * lam) / lam / far) ** 2
    log_beta = 2.0 * jnp.log(lam) + jnp.log1p(t2[:, None] * x)
    parts = jax.vmap(lambda b: _sine(spec, b, 2.0 * log(cond)))(log_beta)
    value = 2.0 * far**-3.0 * (weight @ parts.value)
    bound = 2.0 * far**-3.0 * (weight @ parts.bound)
    # Beyond cond the rule gives less than the truth by any factor
    within = (
        (jnp.min(x) * max(cond, 10.0) ** 2 >= 1.0 - 1e-9) & (jnp.max(x) <= 1.0 + 1e-9) & (far > 0.0)
    )
    bound = jnp.where(within, bound + (error + 16.0 * UNIT) * value, jnp.inf)
    return negative(from_value(value, bound))


def layer_loss(spec: Spectrum, c: Float[Array, ""], cond: float = COND) -> Bounded:
    """l(c) = 2 E[1 - cos angle(v, s)] = int_c^inf -l'(x) dx, which has no cancellation; about 35 to
    110 slopes.

    For every sample the integrand is G/||s||^4 times ((x + alpha)^2 + beta^2)^{-3/2}, alpha + i
    beta = (q.s + i sqrt G)/ ||s||^2 in the disc on [1/lam_1, 1/lam_d]: the rule is good to the same
    relative error for all of them. Source: arXiv 2606.00605, Theorem 4.3.
    """
    lam = spec.lam
    x, weight, error = half_line_rule(c, 1.0 / lam[0], 1.0 / lam[-1], cond)
    slopes = lax.map(lambda point: layer_slope(spec, point, cond), x)
    value = -(weight @ slopes.value)
    return from_value(value, weight @ slopes.bound + (error + 8.0 * UNIT) * value)


def layer_C1(spec: Spectrum, cond: float = COND) -> Bounded:
    """C1 = lim -c^3 l'(c) = 2 E[G/||s||^4].

    Source: arXiv 2606.00605, Theorem 4.3.
    """
    return times(_sine(spec, 2.0 * jnp.log(spec.lam), 2.0 * log(cond)), 2.0)


def layer_correction(spec: Spectrum, cond: float = COND) -> Bounded:
    """D = 6 E[G q.s/||s||^6] in -c^3 l'(c) = C1 - D/c + O(1/c^2).

    The moment of X_g X_h X_i is that of three distinct groups plus y_g or y_h for a repeated one.
    Source: arXiv 2606.00605, Theorem 4.3 (derived).
    """
    lam = spec.lam

    def amplitude(s, terms):
        u, total, offset, V, slip = _spread(spec, terms.y)
        repeated = u * lam * terms.y
        value = V * (u @ lam) + (repeated * (total * offset**2 + V[:, None] / total)).sum(1)
        moved = (
            2.0 * jnp.abs(offset) * total * (lam + (u @ lam)[:, None] / total)
            + slip[:, None] / total
        )
        return value, value, value + slip * (u @ lam) + (repeated * moved).sum(1)

    nodes = node_count(3.0, lam.size / 2.0, 2.0 * log(cond))
    a, b, error = spec.mult / 2.0, 2.0 * jnp.log(lam), LOG_BETA * UNIT
    return times(
        integral(3.0, a, b, amplitude, nodes=nodes, left=3.0, degree=3, b_error=error), 3.0
    )
