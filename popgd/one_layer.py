"""The exact population loss of one layer on the Kronecker manifold, for a fixed spectrum of S or the mean over several.

With alpha = p11 r12, beta = p12 r22, m = p22 r22, c = p21 r12 the layer's output is the lower half of

    v = ((alpha S + beta) q; (1 + m + c S) q),   over ||v|| with LN,

so in the eigenbasis, X_g = the sum of w_i^2 over the k_g equal eigenvalues lam_g, and with

    below_g = (1 + m + c lam_g)^2,   V_g = below_g + (alpha lam_g + beta)^2,

    4.1   F = E[ sum_{g > 1} below_g X_g / sum_g V_g X_g ]
    4.3   F = 1 + E[ sum below_g X_g / sum V_g X_g ] - 2 E[ sum (1 + m + c lam_g) lam_g X_g / sqrt(sum V_g X_g  sum lam_g^2 X_g) ]
    4.2   F = E||f||^2 - 2 E f.y + E||y||^2, quadratic in (1 + m, c); for y = Sq it is E||(1 + m) q + (c - 1) S q||^2.

Ratios come from 1/x = int_0^inf e^{-tx} dt with t = e^s, E[X_g e^{-t sum V X}] = k_g y_g prod_j y_j^{k_j/2},
y_g = 1/(1 + 2 t V_g), by the trapezoidal rule in s; the product of two roots from

    1/sqrt(A B) = (1/pi) int_0^1 dx / (sqrt(x (1 - x)) (x A + (1 - x) B)),   Gauss-Chebyshev in x.

Everything is differentiable, so gradients and Hessians on the manifold are exact too. Source: derived.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from popgd import quadrature
from popgd.objectives import PowerIteration, SubspaceDistance
from popgd.quadrature import Spectrum
from popgd.spectra import batched, over, sample_condition

#: The integrand of a ratio lies below (d/2) e^{s}, and below (d/2) e^{-s/2}, in s + log(2 max V): 40 and 75 units leave
#: less than 1e-16; a step of 0.25 leaves e^{-pi^2/0.25} = 7e-18 of it.
LEFT, RIGHT, STEP = 40.0, 75.0, 0.25
#: Nodes in x, at least, for each root of the worst ratio R of A and B (scaled to one trace), and at most: the error is
#: rho^{-2N}, rho = (sqrt R + 1)/(sqrt R - 1), so N = 10 sqrt R leaves e^{-40}.
CHEBYSHEV, PER_ROOT, MOST = 64, 10, 4096

Loss = Callable[[Float[Array, "8"]], Float[Array, ""]]


def mean_ratio(top: Float[Array, " m"], bottom: Float[Array, " m"], mult: Float[Array, " m"]) -> Float[Array, ""]:
    """E[ sum_g top_g X_g / sum_g bottom_g X_g ], |top_g| <= constant times bottom_g, bottom not all 0."""
    s = jnp.arange(-LEFT, RIGHT, STEP)
    t = jnp.exp(s) / (2 * jax.lax.stop_gradient(jnp.max(bottom)))
    y = 1 / (1 + 2 * t[:, None] * bottom)
    product = jnp.exp(jnp.log(y) @ (mult / 2))
    return STEP * jnp.sum(t * product * (y @ (top * mult)))


def nodes(spectrum: Spectrum) -> int:
    """Nodes in x that 4.3's loss needs for m > -1 and c >= 0, where A/B is the most uneven at c = 0: there A = 1, B = lam^2.

    Raises ValueError for a spectrum that would need more than MOST: one of condition number 400 or more.
    """
    lam, mult = (np.asarray(x) for x in spectrum)
    mean = (lam**2 @ mult) / mult.sum()
    count = int(np.ceil(PER_ROOT * max(lam.max() ** 2 / mean, mean / lam.min() ** 2) ** 0.5))
    if count > MOST:
        raise ValueError(f"spectrum of condition number {lam.max() / lam.min():.3g}: {count} nodes, at most {MOST} are used")
    return max(CHEBYSHEV, count)


def mean_cosine(
    top: Float[Array, " m"], A: Float[Array, " m"], B: Float[Array, " m"], mult: Float[Array, " m"], count: int = CHEBYSHEV
) -> Float[Array, ""]:
    """E[ sum top_g X_g / sqrt(sum A_g X_g  sum B_g X_g) ] by `count` nodes in x."""
    x = (1 + jnp.cos((2 * jnp.arange(count) + 1) * jnp.pi / (2 * count))) / 2
    scale = jax.lax.stop_gradient((B @ mult) / (A @ mult))
    mixed = x[:, None] * (scale * A) + (1 - x[:, None]) * B
    return jnp.sqrt(scale) * jnp.mean(jax.vmap(mean_ratio, (None, 0, None))(top, mixed, mult))


def products(theta: Float[Array, "8"]) -> tuple[Array, Array, Array, Array]:
    """(alpha, beta, m, c): all that one layer's output depends on."""
    p11, p12, p21, p22, _, r12, _, r22 = theta
    return p11 * r12, p12 * r22, p22 * r22, p21 * r12


def loss(objective: SubspaceDistance | PowerIteration, spectrum: Spectrum) -> Loss:
    """theta -> F(theta), for K spectra (K, m) the mean over them.

    Raises ValueError for more than one layer, for 4.1 without LN, for 4.3 with a spectrum that `nodes` refuses, and for 4.3
    with several spectra.
    """
    if objective.L != 1:
        raise ValueError(f"L={objective.L}: the exact loss is that of one layer; use kronecker")
    if isinstance(objective, PowerIteration) and not objective.layer_norm:
        return _linear(objective.target, spectrum)
    if not objective.layer_norm or (isinstance(objective, PowerIteration) and objective.target != "normalised"):
        raise ValueError(f"{objective}: of the losses of a layer with LN that of 4.1 or 4.3 is known here; use kronecker")
    if np.ndim(spectrum.lam) == 2:
        if isinstance(objective, PowerIteration):
            raise ValueError("4.3 with random spectra: their worst condition numbers need too many nodes; use kronecker")
        return lambda theta: jnp.mean(jax.vmap(lambda row: loss(objective, row)(theta))(spectrum))
    lam, mult = spectrum
    count = nodes(spectrum) if isinstance(objective, PowerIteration) else 0

    def distance(theta: Float[Array, "8"]) -> Float[Array, ""]:
        alpha, beta, m, c = products(theta)
        below = (1 + m + c * lam) ** 2
        return mean_ratio(below.at[0].set(0.0), below + (alpha * lam + beta) ** 2, mult)

    def power(theta: Float[Array, "8"]) -> Float[Array, ""]:
        alpha, beta, m, c = products(theta)
        below = (1 + m + c * lam) ** 2
        V = below + (alpha * lam + beta) ** 2
        return 1 + mean_ratio(below, V, mult) - 2 * mean_cosine((1 + m + c * lam) * lam, V, lam**2, mult, count)

    return distance if isinstance(objective, SubspaceDistance) else power


def mean_square_output(theta: Float[Array, "8"], spectrum: Spectrum) -> Float[Array, ""]:
    """E||f||^2 of the layer with LN: 1 where nothing is moved to the upper half of v. For K spectra the mean over them."""
    if np.ndim(spectrum.lam) == 2:
        return jnp.mean(jax.vmap(lambda row: mean_square_output(theta, row))(spectrum))
    lam, mult = spectrum
    alpha, beta, m, c = products(theta)
    below = (1 + m + c * lam) ** 2
    return mean_ratio(below, below + (alpha * lam + beta) ** 2, mult)


def _linear(target: str, spectrum: Spectrum) -> Loss:
    mean = jnp.mean(linear_constants(spectrum), axis=0)
    return lambda theta: linear_loss(target, mean, theta)


def linear_constants(spectrum: Spectrum) -> Float[Array, "K 4"]:
    """What 4.2's loss is linear in, for each spectrum: E q.Sq, E||Sq||^2, E q.Sq/||Sq||, E||Sq||."""
    rows = batched(*spectrum)
    moments = jax.vmap(quadrature.moments)(rows)
    options = (("cond", sample_condition(rows)),)
    along, norm = (over(f, options, rows).value for f in (quadrature.mean_cosine, quadrature.mean_norm))
    return jnp.stack([moments.mu, moments.A, along, norm], axis=1)


def linear_loss(target: str, constants: Float[Array, "4"], theta: Float[Array, "8"]) -> Float[Array, ""]:
    """4.2's loss: exactly 0 at m = -1, c = 1 for y = Sq."""
    mean, A, along, norm = constants
    _, _, m, c = products(theta)
    if target == "unnormalised":
        return (1 + m) ** 2 + 2 * (1 + m) * (c - 1) * mean + (c - 1) ** 2 * A
    return (1 + m) ** 2 + 2 * (1 + m) * c * mean + c**2 * A - 2 * ((1 + m) * along + c * norm) + 1


def slope(objective: SubspaceDistance | PowerIteration, spectrum: Spectrum) -> Callable[..., tuple[Array, Array]]:
    """theta, key -> (F, grad F), the key unused: what `kronecker.descend` takes."""
    value_and_grad = jax.value_and_grad(loss(objective, spectrum))
    return lambda theta, key: value_and_grad(theta)


def along_curve(curve_slope: Callable[[Array], Array]) -> Callable[..., tuple[Array, Array]]:
    """theta, key -> (c/(1 + m), grad F) where p11 = p12 = 0, for a layer with LN, from the slope l' of its population curve.

    There F = l(c/(1 + m)), 1 + m > 0, and p11 and p12 stay 0, as F is even in the upper half of v. Far cheaper than `slope` for
    4.3, and good to the accuracy of l'. In place of the loss stands c/(1 + m).
    """

    def slope(theta: Float[Array, "8"], key: object) -> tuple[Array, Array]:
        def position(theta: Float[Array, "8"]) -> Float[Array, ""]:
            _, _, m, c = products(theta)
            return c / (1 + m)

        x, gradient = jax.value_and_grad(position)(theta)
        return x, curve_slope(x) * gradient

    return slope
