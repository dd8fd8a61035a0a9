"""Two quadrature rules that are exact to rounding for a stated family, laid out once per static
condition number.
"""

from functools import lru_cache
from math import ceil, log, pi, sqrt

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

DIGITS = 40.0  # both rules aim at an error of e^{-40}, before algebraic factors


def _elliptic_k(k_prime: float) -> float:
    """Complete elliptic integral K of the modulus whose complement is k_prime, by the
    arithmetic-geometric mean.
    """
    a, b = 1.0, k_prime
    for _ in range(9):  # quadratic convergence: nine steps reach rounding for k_prime >= 1e-16
        a, b = (a + b) / 2.0, sqrt(a * b)
    return pi / (2.0 * a)


@lru_cache
def inverse_three_halves_rule(cond: float) -> tuple[np.ndarray, np.ndarray, float]:
    """t2, weight, error with x^{-3/2} = sum_j weight_j / (1 + t2_j x)^2 for 1/cond^2 <= x <= 1, to
    relative `error`.

    x^{-3/2} = (4/pi) int_0^inf t^2/(1 + t^2 x)^2 dt; the poles t = i/sqrt(x) fill i[1, cond]. With
    t = sc(v | k), k' = 1/cond, they lie on Im v = K', so N midpoints on (0, K) converge like e^{-2
    pi N K'/K} (Hale, Higham and Trefethen 2008 do this for x^{-1/2}). sc by its Fourier series in
    the complementary nome, all terms positive, on the left half; sc(K - v) = 1/(k' sc(v)) on the
    right. `error` is the largest seen on a grid of x, doubled. Source: derived.
    """
    kp = 1.0 / max(cond, 10.0)
    K, Kp = _elliptic_k(kp), _elliptic_k(sqrt((1.0 - kp) * (1.0 + kp)))
    count = 2 * ceil((DIGITS + 6.0) * K / (4.0 * pi * Kp))
    v = K * (np.arange(count // 2) + 0.5) / count
    odd = 2.0 * np.arange(60)[:, None] + 1.0
    rate = odd * pi / (2.0 * Kp)
    series = (np.exp(-rate * (K - v)) - np.exp(-rate * (K + v))) / -np.expm1(-2.0 * rate * K)
    left = pi / (kp * Kp) * series.sum(0)
    t2 = np.concatenate([left, 1.0 / (kp * left[::-1])]) ** 2
    weight = 4.0 / pi * K / count * t2 * np.sqrt((1.0 + t2) * (1.0 + kp**2 * t2))
    x = np.exp(np.linspace(2.0 * log(kp), 0.0, 200))[:, None]
    ratio = (weight / (1.0 + t2 * x) ** 2).sum(1) * x[:, 0] ** 1.5
    return t2, weight, 2.0 * float(np.abs(ratio - 1.0).max())


@lru_cache
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(count)
    return (x + 1.0) / 2.0, w / 2.0


def half_line_rule(
    c, near, far, cond: float
) -> tuple[Float[Array, " k"], Float[Array, " k"], Float[Array, ""]]:
    """Nodes, weights and relative error for int_c^inf ((x + alpha)^2 + beta^2)^{-3/2} dx, alpha + i
    beta in the disc whose diameter is [near, far], 0 < near < far <= cond near.

    Gauss-Legendre in log(x + near) up to x = c + 2 far, then in 1/(x + near). `error` is the
    largest on a grid over the half disc against 1/(R (R + c + alpha)), R = |c + alpha + i beta|,
    doubled. Source: derived.
    """
    u, wu = _legendre(ceil(DIGITS / (2.0 * pi) * log(2.0 * cond)) + 8)
    v, wv = _legendre(12)
    start, span = c + near, jnp.log1p((2.0 * far - near) / (c + near))
    inner = start * jnp.exp(u * span)
    outer = start * jnp.exp(span) / v
    weight = jnp.concatenate([wu * span * inner, wv * outer / v])
    offset = jnp.concatenate([inner, outer])  # x + near
    radius, angle = jnp.meshgrid(jnp.linspace(0.0, 1.0, 5), jnp.linspace(0.0, pi, 9))
    alpha = ((far - near) / 2.0 * (1.0 + radius * jnp.cos(angle))).ravel()  # alpha - near
    beta = ((far - near) / 2.0 * radius * jnp.sin(angle)).ravel()
    R = jnp.hypot(start + alpha, beta)
    exact = 1.0 / (R * (R + start + alpha))
    rule = jnp.hypot(offset + alpha[:, None], beta[:, None]) ** -3.0 @ weight
    return offset - near, weight, 2.0 * jnp.max(jnp.abs(rule / exact - 1.0))
