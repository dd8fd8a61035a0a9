"""The exact population loss of one layer on the Kronecker manifold, for a fixed spectrum of S or
the mean over several.

With alpha = p11 r12, beta = p12 r22, m = p22 r22, c = p21 r12 the layer's output is the lower half
of

    v = ((alpha S + beta) q; (1 + m + c S) q),   over ||v|| with LN,

so in the eigenbasis, X_g = the sum of w_i^2 over the k_g equal eigenvalues lam_g, and with

    below_g = (1 + m + c lam_g)^2,   V_g = below_g + (alpha lam_g + beta)^2,

    4.1   F = E[ sum_{g > 1} below_g X_g / sum_g V_g X_g ]
    4.3   F = 1 + E[ sum below_g X_g / sum V_g X_g ] - 2 E[ sum (1 + m + c lam_g) lam_g X_g /
          sqrt(sum V_g X_g  sum lam_g^2 X_g) ]
    4.2   F = E||f||^2 - 2 E f.y + E||y||^2, quadratic in (1 + m, c); for y = Sq it is E||(1 + m) q
          + (c - 1) S q||^2.

In 4.3 the three terms cancel to the order of 1/c^2. With s = Sq, any kappa > 0 and, in the
eigenbasis,

    delta = lower - kappa s,   U = |upper half|^2,   P = |lower|^2 - |kappa s|^2,   M = x V + (1 -
                               x) |kappa s|^2,

x = sin^2(psi/2), the same loss is, each term as small as F itself where lower is close to kappa s,

    F = (1/pi) int_0^pi E[ |delta|^2/M - sin^2(psi)/2 P^2/M^2 + (psi sin(psi) - sin^2(psi))/2
    U^2/M^2 + J U P (P + U)/M^3 ] dpsi,

J = (1 + cos(psi)) (sin(psi) - psi) sin(psi)/2. Derivation: with v = |(upper, lower)|, r = |kappa
s|,

    F = |delta|^2/(v r) - (v - r)^2/(v r) + U (v - r)/(v^2 r),   v^2 - r^2 = P + U,

and averages over psi are 1/(v r) of 1/M, 1/(v r (v + r)^2) of sin^2(psi)/2/M^2 and 1/(v^2 r (v +
r)) of psi sin(psi)/2/M^2; the terms in U P, of first order in 1/c, cancel among themselves but for
the last one, which is left by one integration by parts.

Ratios come from 1/x^p = int_0^inf t^{p-1} e^{-tx} dt/(p-1)! with t = e^s by the trapezoidal rule in
s: e^{-t sum V X} leaves the X_g independent, each y_g = 1/(1 + 2 t V_g) times a chi-square. psi is
by Gauss-Legendre: M = 0 only at psi = i y and pi + i y.

Everything is differentiable, so gradients and Hessians on the manifold are exact too. Source:
derived.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from popgd.papers.power_method import quadrature
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.spectra import batched, over, sample_condition, traces

#: The integrand of a ratio lies below (d/2) e^{s}, and below (d/2) e^{-s/2}, in s + log(2 max V):
#: 40 and 75 units leave less than 1e-16; a step of 0.25 leaves e^{-pi^2/0.25} = 7e-18 of it.
LEFT, RIGHT, STEP = 40.0, 75.0, 0.25
#: max V/min V up to which 4.1's loss keeps its relative accuracy: its integrand goes on to that;
#: e^{-33} = 3e-15 is left there.
WIDEST = 1e18
#: Nodes in psi, at least, for the fourth root of the worst ratio R of V and |kappa s|^2, and at
#: most: M = 0 at i y with y = log((sqrt R + 1)/(sqrt R - 1)), next to an end of [0, pi], where 18
#: R^{1/4} nodes leave e^{-40}.
LEAST, PER_ROOT, MOST = 48, 18, 1024
#: With an R that is larger by this factor e^{-28} = 1e-12 is left.
ROOM = 4.0

Loss = Callable[[Float[Array, "8"]], Float[Array, ""]]


def _mean(
    bottom: Float[Array, " m"], mult: Float[Array, " m"], integrand: Callable[..., Array]
) -> Float[Array, ""]:
    """int integrand(t, k y) prod y^{k/2} ds; bottom >= 0, not all 0."""
    s = jnp.arange(-LEFT, RIGHT, STEP)
    t = jnp.exp(s) / (2 * jax.lax.stop_gradient(jnp.max(bottom)))
    y = 1 / (1 + 2 * t[:, None] * bottom)
    product = jnp.exp(jnp.log(y) @ (mult / 2))
    return STEP * jnp.sum(integrand(t, y) * product)


def _mean_ratio(
    top: Float[Array, " m"], bottom: Float[Array, " m"], mult: Float[Array, " m"]
) -> Float[Array, ""]:
    """E[ sum_g top_g X_g / sum_g bottom_g X_g ], |top_g| <= constant times bottom_g, bottom not all
    0.
    """
    return _mean(bottom, mult, lambda t, y: t * (y @ (top * mult)))


def nodes(spectrum: Spectrum) -> int:
    """Nodes in psi that 4.3's loss needs for m > -1 and c >= 0, where V and |kappa s|^2 are the
    most uneven at c = 0.

    Raises ValueError for a spectrum that would need more than MOST: one of a condition number of
    some thousands.
    """
    lam, mult = (np.asarray(x) for x in spectrum)
    mean = (lam**2 @ mult) / mult.sum()
    count = int(np.ceil(PER_ROOT * max(lam.max() ** 2 / mean, mean / lam.min() ** 2) ** 0.25))
    if count > MOST:
        raise ValueError(
            f"spectrum of condition number {lam.max() / lam.min():.3g}: {count} nodes, at most "
            f"{MOST} are used"
        )
    return max(LEAST, count)


def _power_loss(theta: Float[Array, "8"], spectrum: Spectrum, count: int) -> Float[Array, ""]:
    """4.3's loss by `count` nodes in psi: see the module's docstring.

    Good to 1e-12 of itself; NaN where V and |kappa s|^2 are more uneven than the nodes are for,
    which needs 1 + m + c lam near 0 for some eigenvalue, or the upper half of v much more uneven
    than s.
    """
    lam, k = spectrum
    alpha, beta, m, c = products(theta)
    lower, U = 1 + m + c * lam, (alpha * lam + beta) ** 2
    # kappa so that delta does not depend on c; elsewhere, where f is not close to y, so that V and
    # |kappa s|^2 have one trace
    rms, above = jnp.sqrt((lam**2 @ k) / k.sum()), (lam - lam[0]) * (lam + lam[0])
    short = (above @ k / k.sum() - above) / (rms * (rms + lam))  # 1 - lam/rms
    near, even = (
        c + (1 + m) / rms,
        jax.lax.stop_gradient(jnp.sqrt((lower**2 + U) @ k / k.sum()) / rms),
    )
    aligned = near > even / 2
    kappa = jnp.where(aligned, near, even)
    delta = jnp.where(aligned, (1 + m) * short, lower - kappa * lam)
    target = (kappa * lam) ** 2
    P = delta * (lower + kappa * lam)
    x, weight = (jnp.asarray(v) for v in np.polynomial.legendre.leggauss(count))
    psi = jnp.pi / 2 * (1 + x)

    def at(psi: Float[Array, ""]) -> Float[Array, ""]:
        sine, share = jnp.sin(psi), jnp.sin(psi / 2) ** 2
        J = (1 + jnp.cos(psi)) * (sine - psi) * sine / 2

        def integrand(t: Float[Array, " s"], y: Float[Array, "s m"]) -> Float[Array, " s"]:
            t = t[:, None]
            size = delta**2 * t * y
            p, u = (
                P * t * y,
                U * t * y,
            )  # t X_g has the mean k_g t y_g and the cumulants 2 k_g (t y_g)^2, 8 k_g (t y_g)^3
            mean_p, mean_u = p @ k, u @ k
            pp, uu, pu = 2 * p**2 @ k, 2 * u**2 @ k, 2 * (p * u) @ k
            both = mean_p + mean_u
            third = (
                mean_u * mean_p * both
                + pu * both
                + (pu + uu) * mean_p
                + (pp + pu) * mean_u
                + 8 * (u * p * (p + u)) @ k
            )
            squares = (mean_u**2 + uu) * (psi - sine) - (mean_p**2 + pp) * sine
            return size @ k + sine / 2 * squares + J / 2 * third

        return _mean(share * (lower**2 + U) + (1 - share) * target, k, integrand)

    ratio = (lower**2 + U) / target
    resolved = ROOM * (count / PER_ROOT) ** 4 >= jnp.maximum(jnp.max(ratio), 1 / jnp.min(ratio))
    return jnp.where(resolved, weight @ jax.lax.map(at, psi, batch_size=48) / 2, jnp.nan)


def products(theta: Float[Array, "8"]) -> tuple[Array, Array, Array, Array]:
    """(alpha, beta, m, c): all that one layer's output depends on."""
    p11, p12, p21, p22, _, r12, _, r22 = theta
    return p11 * r12, p12 * r22, p22 * r22, p21 * r12


def loss(objective: SubspaceDistance | PowerIteration, spectrum: Spectrum) -> Loss:
    """theta -> F(theta), for K spectra (K, m) the mean over them; no bound comes with it.

    Relative to itself good to 1e-12 for 4.1 and 4.3, NaN beyond the range for which that was laid
    out: where V differs by more than WIDEST (conditions beyond 1e9) in 4.1, and as `_power_loss`
    says in 4.3. For 4.2 good to 1e-14 and what half an ulp of the eigenvalues does. Raises
    ValueError for more than one layer, for 4.1 without LN, for 4.3 with a spectrum that `nodes`
    refuses, and for 4.3 with several spectra.
    """
    if objective.L != 1:
        raise ValueError(f"L={objective.L}: the exact loss is that of one layer; use kronecker")
    if isinstance(objective, PowerIteration) and not objective.layer_norm:
        return _linear(objective.target, spectrum)
    if not objective.layer_norm or (
        isinstance(objective, PowerIteration) and objective.target != "normalised"
    ):
        raise ValueError(
            f"{objective}: of the losses of a layer with LN that of 4.1 or 4.3 is known here; use "
            "kronecker"
        )
    if np.ndim(spectrum.lam) == 2:
        if isinstance(objective, PowerIteration):
            raise ValueError(
                "4.3 with random spectra: their worst condition numbers need too many nodes; use "
                "kronecker"
            )
        return lambda theta: jnp.mean(jax.vmap(lambda row: loss(objective, row)(theta))(spectrum))
    lam, mult = spectrum
    count = nodes(spectrum) if isinstance(objective, PowerIteration) else 0

    def distance(theta: Float[Array, "8"]) -> Float[Array, ""]:
        alpha, beta, m, c = products(theta)
        below = (1 + m + c * lam) ** 2
        V = below + (alpha * lam + beta) ** 2
        return jnp.where(
            jnp.max(V) <= WIDEST * jnp.min(V), _mean_ratio(below.at[0].set(0.0), V, mult), jnp.nan
        )

    return (
        distance
        if isinstance(objective, SubspaceDistance)
        else partial(_power_loss, spectrum=spectrum, count=count)
    )


def mean_square_output(theta: Float[Array, "8"], spectrum: Spectrum) -> Float[Array, ""]:
    """E||f||^2 of the layer with LN: 1 where nothing is moved to the upper half of v. For K spectra
    the mean over them.
    """
    if np.ndim(spectrum.lam) == 2:
        return jnp.mean(jax.vmap(lambda row: mean_square_output(theta, row))(spectrum))
    lam, mult = spectrum
    alpha, beta, m, c = products(theta)
    below = (1 + m + c * lam) ** 2
    return _mean_ratio(below, below + (alpha * lam + beta) ** 2, mult)


def _linear(target: str, spectrum: Spectrum) -> Loss:
    return partial(linear_loss, target, mean_constants(linear_constants(spectrum, target)))


def linear_constants(spectrum: Spectrum, target: str) -> Float[Array, "K 4"]:
    """What 4.2's loss is made of, for each spectrum: mu = n/d, V = E||Sq||^2 - mu^2, and for y =
    Sq/||Sq|| its 1 - E q.y and E||Sq|| - mu (0 for y = Sq).
    """
    rows = batched(*spectrum)
    found = jax.vmap(quadrature.moments)(rows, traces(rows))
    bent = excess = jnp.zeros_like(found.V)
    if target == "normalised":
        options = (("target", target), ("cond", sample_condition(rows)))
        star, least = (
            over(f, options, rows).value for f in (quadrature.c_star, quadrature.loss_min)
        )
        excess, bent = star * found.A, (least + star**2 * found.A) / 2
    return jnp.stack([found.mu, found.V, bent, excess], axis=1)


def mean_constants(each: Float[Array, "K 4"]) -> Float[Array, "4"]:
    """The constants whose `linear_loss` is the mean of theirs: it is linear in them but for mu^2,
    whose spread joins V.
    """
    mean = jnp.mean(each, axis=0)
    return mean.at[1].add(jnp.var(each[:, 0]))


def linear_loss(
    target: str, constants: Float[Array, "4"], theta: Float[Array, "8"]
) -> Float[Array, ""]:
    """4.2's loss without cancellation: with Sq = mu q + r, E q.r = 0, in the parts along q and r.

    For y = Sq exactly 0 at m = -1, c = 1.
    """
    mu, V, bent, excess = constants
    _, _, m, c = products(theta)
    if target == "unnormalised":
        return (1 + m + (c - 1) * mu) ** 2 + (c - 1) ** 2 * V
    return (m + c * mu) ** 2 + 2 * (1 + m) * bent + c**2 * V - 2 * c * excess


def slope(
    objective: SubspaceDistance | PowerIteration, spectrum: Spectrum
) -> Callable[..., tuple[Array, Array]]:
    """theta, key -> (F, grad F), the key unused: what `kronecker.descend` takes."""
    value_and_grad = jax.value_and_grad(loss(objective, spectrum))
    return lambda theta, key: value_and_grad(theta)


def along_curve(curve_slope: Callable[[Array], Array]) -> Callable[..., tuple[Array, Array]]:
    """theta, key -> (c/(1 + m), grad F) where p11 = p12 = 0, for a layer with LN, from the slope l'
    of its population curve.

    There F = l(c/(1 + m)), 1 + m > 0, and p11 and p12 stay 0, as F is even in the upper half of v.
    Far cheaper than `slope` for 4.3, and good to the accuracy of l'. In place of the loss stands
    c/(1 + m).
    """

    def slope(theta: Float[Array, "8"], key: object) -> tuple[Array, Array]:
        def position(theta: Float[Array, "8"]) -> Float[Array, ""]:
            _, _, m, c = products(theta)
            return c / (1 + m)

        x, gradient = jax.value_and_grad(position)(theta)
        return x, curve_slope(x) * gradient

    return slope
