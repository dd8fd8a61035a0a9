"""The one integral behind every sphere expectation, with an honest error bound.

    I = int ds  e^{power s} prod_j (1 + e^{s + b_j})^{-a_j} amplitude(y),      y_j = 1 / (1 + e^{s +
                b_j})

`amplitude` is a polynomial in y.  Every monomial makes the integrand log-concave in s and analytic
                                   for |Im
s| < pi, so the plain sum over an equidistant grid converges geometrically.
"""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from popgd.problem.numeric import UNIT

STEP = 0.25  # widest step; at the line Im s = pi/2 it leaves e^{-pi^2/h} = 7e-18
REACH = 40.0  # e^{-40} = 4e-18 of the integral is left outside the grid
TINY = 2.0**-1022  # smallest normal float64; XLA flushes what is smaller

# (s, Logistic at s + b) -> value, sum of magnitudes of monomials, slip (see `integral`)
Amplitude = Callable[..., tuple[Array, Array, Array]]


class Bounded(NamedTuple):
    """A number with its absolute error bound, and its logarithm for when float64 cannot hold the
    number.

    `value` is 0.0 below the smallest normal float64; `log` is log|value| always; `log_bound` the
    error of `log`.
    """

    value: Float[Array, "*batch"]
    bound: Float[Array, "*batch"]
    log: Float[Array, "*batch"]
    log_bound: Float[Array, "*batch"]


def node_count(left: float, right: float, log_range: float) -> int:
    """Number of nodes that keeps the step below STEP; 7 is room for log(sum a) and for the corner
    at the right end.
    """
    return ceil((REACH / left + REACH / right + log_range + 7.0) / STEP) + 1


class Logistic(NamedTuple):
    """log(1 + e^x), y = 1/(1 + e^x) and sigma = 1 - y, each to full relative accuracy."""

    soft: Float[Array, "*n"]
    y: Float[Array, "*n"]
    sigma: Float[Array, "*n"]


def logistic(x: Float[Array, "*n"]) -> Logistic:
    """One exponential, never overflowing; `where` rather than `abs`, whose gradient at x = 0 is
    wrong here.
    """
    positive = x > 0.0
    e = jnp.exp(jnp.where(positive, -x, x))
    soft = jnp.where(positive, x, 0.0) + jnp.log1p(e)
    share = 1.0 / (1.0 + e)
    return Logistic(soft, jnp.where(positive, e, 1.0) * share, jnp.where(positive, 1.0, e) * share)


def _modulus(x: Float[Array, "*n"]) -> Logistic:
    """The same on the line Im x = pi/2: |1 + i e^x| = (1 + e^{2x})^{1/2}."""
    soft, y, sigma = logistic(2.0 * x)
    return Logistic(soft / 2.0, jnp.sqrt(y), jnp.sqrt(sigma))


def _log_terms(power, a, b, amplitude: Amplitude, s, at: Callable[..., Logistic]):
    """Exponent, sign and rounding weight of the integrand; at = _modulus gives its modulus on Im s
    = pi/2.
    """
    terms = at(s[:, None] + b)
    value, size, slip = amplitude(s, terms)
    damping = terms.soft @ a
    there = size > TINY
    size = jnp.where(there, size, 1.0)
    log_f = jnp.where(there, power * s - damping + jnp.log(size), -jnp.inf)
    weight = jnp.abs(power * s) + damping + jnp.abs(jnp.log(size)) + slip / (2.0 * size)
    return log_f, jnp.where(there, value, 0.0) / size, weight


def _modulus_mass(integrand: tuple, s: Float[Array, " s"], h, top) -> Float[Array, ""]:
    """Upper bound of M = int |f(s + i pi/2)| ds / e^top from every fourth node; 2 covers that
    rule's own error.
    """
    power, a, b, amplitude = integrand
    log_f, _, _ = _log_terms(power, a, b, amplitude, s[::4], _modulus)
    return 8.0 * h * jnp.sum(jnp.exp(log_f - top))


def _grid(
    a: Float[Array, " m"], b: Float[Array, " m"], left: float, right, nodes: int
) -> tuple[Float[Array, " s"], Float[Array, ""]]:
    """Nodes from where e^{left s} has lost e^{-40} to where e^{-right s} has, and the step (s[1] -
    s[0] would cancel).
    """
    lo = -jax.nn.logsumexp(b, b=a) - REACH / left
    h = (-jnp.min(b) + 3.0 + REACH / right - lo) / (nodes - 1)
    return lax.stop_gradient(lo + h * jnp.arange(nodes)), lax.stop_gradient(h)


def integral(
    power: float,
    a: Float[Array, " m"],
    b: Float[Array, " m"],
    amplitude: Amplitude,
    *,
    nodes: int,
    left: float,
    degree: int,
    log_scale: Float[Array, ""] | float = 0.0,
    b_error: Float[Array, ""] | float = 0.0,
    majorant: tuple | None = None,
) -> Bounded:
    """I e^{log_scale}, where the integrand grows at least like e^{left s} on the left and y has
    degree `degree`.

    `amplitude(s, logistic)` returns the value, the sum of the magnitudes of its monomials, and its
    slip: the units that it moves by where each eigenvalue is off by one unit, half an ulp, as a
    rounded decimal is. The bound is the sum of

    * truncation: f(end) / |(log f)'(end)| for every log-concave monomial;
    * discretisation: 2 M / (e^{pi^2/h} - 1), M = int |f(s + i pi/2)| ds (Trefethen and Weideman
      2014, theorem 5.1);
    * rounding: 2 units per unit of exponent, 16 + m per term, 2 sqrt(nodes) for the sum, the slip,
      and `b_error`, the absolute error of b, that of the eigenvalues included, which counts `power`
      times because int f (power - sum_j (a_j + degree_j) sigma_j) ds = int f' ds = 0.

    `majorant` replaces (power, a, b, amplitude) in M when the amplitude is no polynomial.
    Source: derived.
    """
    right = jnp.sum(a) + degree - power
    s, h = _grid(a, b, left, right, nodes)
    log_f, sign, weight = _log_terms(power, a, b, amplitude, s, logistic)
    top = lax.stop_gradient(jnp.max(log_f))
    f = jnp.exp(log_f - top)
    total = h * jnp.sum(f * sign)

    sigma = jax.nn.sigmoid(s[-1] + b)
    fall = jnp.maximum(a @ sigma + degree * jnp.min(sigma) - power, 0.0)
    cut = f[0] / (0.99 * left) + f[-1] / fall
    aliasing = (
        2.0
        * _modulus_mass(majorant or (power, a, b, amplitude), s, h, top)
        / jnp.expm1(jnp.pi**2 / h)
    )
    units = 2.0 * weight + 16.0 + b.size + 2.0 * nodes**0.5
    rounding = h * jnp.sum(f * (UNIT * units + (abs(power) + degree) * b_error))
    rounding = rounding + 3.0 * UNIT * jnp.abs(log_scale) * h * jnp.sum(f)
    return _finish(total, lax.stop_gradient(cut + aliasing + rounding), top + log_scale)


def _finish(total, error, log_scale) -> Bounded:
    """total e^{log_scale} with error e^{log_scale}; TINY is added because the bound itself may
    underflow.
    """
    log = jnp.log(jnp.abs(total)) + log_scale
    held = ~(log <= jnp.log(TINY))  # a NaN stays one
    value = jnp.where(held, jnp.sign(total) * jnp.exp(jnp.where(held, log, 0.0)), 0.0)
    extra = UNIT * (4.0 + 2.0 * jnp.abs(log))
    log_bound = lax.stop_gradient(error / jnp.abs(total) + extra)
    bound = jnp.exp(jnp.log(error) + log_scale) + jnp.where(held, extra * jnp.abs(value), 0.0)
    return Bounded(value, lax.stop_gradient(bound + TINY), log, log_bound)


def from_value(value, bound) -> Bounded:
    return _finish(value, lax.stop_gradient(bound), 0.0)


def times(x: Bounded, factor) -> Bounded:
    """factor x, factor > 0 and exact to two units; x and the product are normal float64."""
    value = factor * x.value
    return from_value(value, factor * x.bound)


def negative(x: Bounded) -> Bounded:
    return x._replace(value=-x.value)
