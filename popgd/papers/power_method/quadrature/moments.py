"""Moments of ||Sq|| and Theorem 4.2, one layer without layer normalisation."""

from math import ceil, log, pi, sqrt
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from popgd.papers.power_method.quadrature.layer import layer_loss
from popgd.papers.power_method.quadrature.spectrum import COND, Spectrum
from popgd.papers.power_method.quadrature.trapezoid import (
    REACH,
    Bounded,
    from_value,
    integral,
    logistic,
    node_count,
)
from popgd.problem.numeric import UNIT


def _first_degree(spec: Spectrum, power: float, weights, log_scale, cond: float) -> Bounded:
    """e^{log_scale} int e^{power s} sum_g k_g weights_g y_g Phi ds with beta = lam^2."""

    def amplitude(s, terms):
        value = terms.y @ (spec.mult * weights)
        return value, value, 2.0 * value  # the weights are at most squares of eigenvalues

    nodes = node_count(power, (spec.lam.size + 2 - 2 * power) / 2.0, 2.0 * log(cond))
    b = 2.0 * jnp.log(spec.lam)
    return integral(
        power,
        spec.mult / 2.0,
        b,
        amplitude,
        nodes=nodes,
        left=power,
        degree=1,
        log_scale=log_scale,
        b_error=8.0 * UNIT,
    )


def gamma_ratio(x: Float[Array, ""]) -> Float[Array, ""]:
    """Gamma(x + 1/2)/Gamma(x), x > 0, to a few units; a difference of gammaln would cancel.

    Shifted up by 16; then y^{1/2} exp(-sum_k E_2k / (4k (4y)^{2k})), y = x - 1/4 (Euler numbers
    E_2k; DLMF 5.11.8).
    """
    shift = jnp.arange(16.0)
    y = x + 15.75
    z = 1.0 / (4.0 * y) ** 2
    series = z * (1 / 4 + z * (-5 / 8 + z * (61 / 12 + z * (-1385 / 16 + z * 50521 / 20))))
    return jnp.sqrt(y) * jnp.exp(series) * jnp.prod((x + shift) / (x + 0.5 + shift))


def mean_inverse_square_norm(spec: Spectrum, cond: float = COND) -> Bounded:
    """E[1/||Sq||^2] = E[w.w / w.S^2 w].

    Source: arXiv 2606.00605, Theorem 4.3 (bound l(c) <= 2 E[1/||Sq||^2]/c^2).
    """
    return _first_degree(spec, 1.0, 0.5, 0.0, cond)


def mean_norm(spec: Spectrum, cond: float = COND) -> Bounded:
    """E||Sq|| = E||Sw|| / E||w||.

    Source: arXiv 2606.00605, Theorem 4.2.
    """
    scale = -jnp.log(2.0 * sqrt(pi) * gamma_ratio(spec.mult.sum() / 2.0))
    return _first_degree(spec, 0.5, spec.lam**2, scale, cond)


def mean_cosine(spec: Spectrum, cond: float = COND) -> Bounded:
    """E[q.Sq/||Sq||] = E[w.Sw/||Sw||] / E||w||.

    Source: arXiv 2606.00605, Theorem 4.2.
    """
    scale = -jnp.log(2.0 * sqrt(pi) * gamma_ratio(spec.mult.sum() / 2.0))
    return _first_degree(spec, 0.5, spec.lam, scale, cond)


def _norm_deficit(spec: Spectrum, g, mean_square, cond: float) -> Bounded:
    """T = sqrt(A) - E||Sq|| >= 0 without cancellation, g_i = lam_i^2 - lam_1^2, A = E||Sq||^2.

    From X^{1/2} = 1/(2 sqrt pi) int t^{-3/2} (1 - e^{-tX}) dt for X = ||Sw||^2 and for A ||w||^2,

        T E||w|| = 1/(2 sqrt pi) int t^{-3/2} (Phi_S - Phi_A) dt = .. Phi_S (1 - e^{-W}),
        W = -1/2 sum_g k_g (log(1 + x_g) - x_g) >= 0,  x_g = e^s delta_g/(1 + A e^s),  delta_g =
        lam_g^2 - A,

    because sum k_g delta_g = 0. On Im s = pi/2 the path from A to lam^2 gives |Phi_S - Phi_A| <=
    1/4 e^{2s} sum_g k_g delta_g^2 |y_g|^2 prod |y|^{k/2}, with y for min(lam_g^2, A). Source:
    derived.
    """
    lam, k = spec.lam, spec.mult
    d = k.sum()
    delta = g - (k * g).sum() / d
    log_A = jnp.log(mean_square)

    def amplitude(s, terms):
        x = logistic(s + log_A).sigma[:, None] * (delta / mean_square)
        W = log1p_defect(x) @ (k / 2.0)
        # What the eigenvalues do is counted in `norm_excess`
        return -jnp.expm1(-W), -jnp.expm1(-W), jnp.zeros_like(W)

    def path(s, terms):
        size = terms.y**2 @ (k * delta**2 / 4.0)
        return size, size, jnp.zeros_like(size)

    b = 2.0 * jnp.log(lam)
    gaps = jnp.max(jnp.abs(g)) / jnp.sqrt((k * delta**2).sum() / d)
    return integral(
        -0.5,
        k / 2.0,
        b,
        amplitude,
        # Off the axis the majorant grows like cond^2 over the integrand: so many more nodes per
        # unit
        nodes=ceil(
            node_count(1.5, (lam.size + 1) / 2.0, 2.0 * log(cond)) * (1.0 + 2.0 * log(cond) / REACH)
        ),
        left=1.5,
        degree=0,
        log_scale=-jnp.log(2.0 * sqrt(pi) * gamma_ratio(d / 2.0)),
        b_error=8.0 * UNIT * (1.0 + 4.0 * gaps),
        majorant=(1.5, k / 2.0, jnp.minimum(b, log_A), path),
    )


def log1p_defect(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """x - log(1 + x) >= 0, x > -1: near 0 by log(1 + x) = 2 artanh z, z = x/(2 + x), x = 2z/(1 -
    z).
    """
    near = jnp.abs(x) < 0.25
    z = jnp.where(near, x / (2.0 + x), 0.0)
    tail = sum(z ** (2 * n + 1) / (2 * n + 1) for n in range(1, 11))
    safe = jnp.where(near, 1.0, x)
    return jnp.where(near, 2.0 * (z**2 / (1.0 - z) - tail), safe - jnp.log1p(safe))


class Moments(NamedTuple):
    """Exact moments: mu = E q.Sq = n/d, A = E||Sq||^2, V = A - mu^2, excess = A - mu, all without
    cancellation.

    V_slip and excess_slip: by how much V and the excess move where each eigenvalue is off by half
    an ulp.
    """

    mu: Float[Array, ""]
    A: Float[Array, ""]
    V: Float[Array, ""]
    excess: Float[Array, ""]
    g: Float[Array, " m"]
    V_slip: Float[Array, ""]
    excess_slip: Float[Array, ""]


def moments(spec: Spectrum, trace: Float[Array, ""] | float | None = None) -> Moments:
    """mu, A, V and A - mu of the spectrum; excess = V + mu (mu - 1).

    `trace` is tr S where that is known better than as the sum of rounded eigenvalues: n for n unit
    columns. Near isotropy mu - 1, which is 0 for n = d, is lost in their rounding otherwise.
    Source: arXiv 2606.00605, Theorem 4.2.
    """
    lam, k = spec.lam, spec.mult
    d = k.sum()
    share = k / d
    away = lam - lam[0]
    offset = away - (share * away).sum()
    V = (share * offset**2).sum()
    V_slip = UNIT * (share * lam * (2.0 * jnp.abs(offset) + UNIT * lam)).sum()
    if trace is None:
        mu, above = (share * lam).sum(), (k * (lam - 1.0)).sum() / d
        slip = UNIT * (share * lam * jnp.abs(2.0 * lam - 1.0)).sum()
        # Below 1 every partial sum of the lam - 1 is a multiple of 2^-53, and exact
        distance = (share * jnp.abs(lam - 1.0)).sum()
        slip = slip + 16.0 * UNIT * jnp.where(
            distance * d < 1.0, jnp.abs(mu * above), mu * distance
        )
    else:
        mu, above = trace / d, (trace - d) / d
        slip = V_slip
    return Moments(
        mu, (share * lam**2).sum(), V, V + mu * above, away * (lam + lam[0]), V_slip, slip
    )


def norm_excess(spec: Spectrum, cond: float = COND) -> Bounded:
    """E||Sq|| - mu >= 0 = V/(sqrt(A) + mu) - T, both of second order in the anisotropy.

    Its derivative by log lam_g is E[lam_g X_g (lam_g/||Sq|| - 1)], X_g the part of ||q||^2 in the
    group: all of them together are at most mu (lam_1 - lam_d)/lam_d, and E||Sq|| + mu <= 2 sqrt(A).
    Source: derived.
    """
    mu, A, V, _, g, _, _ = moments(spec)
    first = V / (jnp.sqrt(A) + mu)
    if spec.lam.shape[-1] == 1:  # isotropic: exactly 0
        return from_value(first, first)
    T = _norm_deficit(spec, g, A, cond)
    spread = (spec.lam[0] - spec.lam[-1]) / spec.lam[-1] + 4.0 * UNIT
    slip = UNIT * jnp.minimum(mu * spread, 2.0 * jnp.sqrt(A))
    return from_value(first - T.value, T.bound + 16.0 * UNIT * first + slip)


def check_target(target: str) -> None:
    if target not in ("normalised", "unnormalised"):
        raise ValueError(
            f"got target {target!r}, wanted 'normalised' or 'unnormalised': pick one of the two"
        )


def c_star(
    spec: Spectrum, target: str, cond: float = COND, trace: Float[Array, ""] | float | None = None
) -> Bounded:
    """c* = (E||Sq|| - mu)/A for y = Sq/||Sq||, c* = 1 - mu/A for y = Sq; `trace` as for `moments`.

    Source: arXiv 2606.00605, Theorem 4.2.
    """
    check_target(target)
    _, A, V, excess, _, _, slip = moments(spec, trace)
    if target == "normalised":
        top = norm_excess(spec, cond)
        return from_value(top.value / A, (top.bound + 8.0 * UNIT * top.value) / A)
    return from_value(excess / A, (slip + 16.0 * UNIT * (V + jnp.abs(excess - V))) / A)


def loss_min(spec: Spectrum, target: str, cond: float = COND) -> Bounded:
    """L* = V/A for y = Sq; L* = 2 E[1 - cos(q, Sq)] - (E||Sq|| - mu)^2/A for y = Sq/||Sq||: the
    first term is `layer_loss` at c = 0, of second order in the anisotropy, the second of fourth.

    Source: arXiv 2606.00605, Theorem 4.2.
    """
    check_target(target)
    _, A, V, _, _, V_slip, _ = moments(spec)
    if target == "unnormalised":
        return from_value(V / A, (V_slip + 16.0 * UNIT * V) / A)
    if spec.lam.shape[-1] == 1:
        return from_value(V, V)
    start, top = layer_loss(spec, jnp.zeros(()), cond), norm_excess(spec, cond)
    drop = top.value**2 / A
    return from_value(
        start.value - drop, start.bound + 2.0 * top.value * top.bound / A + 16.0 * UNIT * drop
    )
