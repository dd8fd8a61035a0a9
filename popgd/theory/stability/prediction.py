"""First order beside the manifold: the coupling in closed form, and log growth along the recursion of (a, b)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from popgd import curve as curves
from popgd import kronecker, one_layer
from popgd.kronecker import Path
from popgd.objectives import PowerIteration, SubspaceDistance
from popgd.quadrature import Spectrum
from popgd.theory.base import Setting
from popgd.theory.study import start_of

#: Where the coordinates of the two modes stand.
P11, P22, Q22 = 0, 3, 7
#: Degree of the Chebyshev series of l', h and k11 in log(1 + lam_1 c).
DEGREE = 40

Objective = SubspaceDistance | PowerIteration


def curve_of(objective: Objective, spectrum: Spectrum) -> Any:
    """The population curve on the manifold."""
    if isinstance(objective, SubspaceDistance):
        return curves.Looped.of(spectrum, objective.L)
    return curves.Layer.of(spectrum) if objective.layer_norm else curves.Linear.of(spectrum, objective.target)


def coupling(
    known: Any, objective: Objective, spectrum: Spectrum, c: Float[np.ndarray, " points"]
) -> Float[np.ndarray, " points"]:
    """h(c) = d H_{P22,Q22}: -c l'(c) with LN, 2 E[(f - y).q] = 2 (1 + c n/d - E[y.q]) without, by their closed forms."""
    if objective.layer_norm:
        return -c * np.asarray(known.slope(c).value)
    mean = float(one_layer.quadrature.moments(spectrum).mu)
    unit = isinstance(objective, PowerIteration) and objective.target == "normalised"
    along = float(one_layer.quadrature.mean_cosine(spectrum).value) if unit else mean
    return 2 * (1 + c * mean - along)


def fitted(f: Callable[[np.ndarray], np.ndarray], lam: float, top: float) -> Callable[[Array], Array]:
    """f on [0, top] as a Chebyshev series in log(1 + lam c), where its singularities c = -1/lam_i are pi away from the reals."""
    series = np.polynomial.Chebyshev.interpolate(lambda u: f(np.expm1(u) / lam), DEGREE, domain=[0.0, np.log1p(lam * top)])
    scale = 2 / np.log1p(lam * top)
    return lambda c: jnp.asarray(np.polynomial.chebyshev.chebval(jnp.log1p(lam * c) * scale - 1, series.coef))


def first_order(
    setting: Setting, objective: Objective, spectrum: Spectrum, known: Any, base: Path, grid: Int[np.ndarray, " records"]
) -> Float[np.ndarray, "3 records"]:
    """log growth of (u, p22 + r22, p11) by first order, along the recursion of (a, b) by the curve's own slope.

    The first two, and the path, know nothing of the exact loss on N.
    """
    rate, lam = setting.eta / setting.law.d, float(spectrum.lam[0])
    top = 1.001 * float((base.theta[:, 2] * base.theta[:, 5]).max())
    loss = one_layer.loss(objective, spectrum)
    second = jax.jit(jax.vmap(lambda c: jax.grad(jax.grad(lambda x: loss(kronecker.point(c, 1.0).at[P11].set(x))))(0.0)))
    slope = fitted(lambda c: np.asarray(known.slope(c).value), lam, top)
    h = fitted(lambda c: coupling(known, objective, spectrum, c), lam, top)
    k11 = fitted(lambda c: np.asarray(second(jnp.asarray(c))), lam, top)

    def step(_: Any, state: tuple) -> tuple:
        a, b, log = state
        c = a * b
        moved = rate * jnp.stack([h(c), -h(c), -b * b * k11(c)])
        g = rate * slope(c)
        return a - g * b, b - g * a, log + jnp.log1p(moved)

    def piece(state: tuple, count: Array) -> tuple:
        state = jax.lax.fori_loop(0, count, step, state)
        return state, state[2]

    start = (*map(jnp.asarray, start_of(setting)), jnp.zeros(3))
    return np.asarray(jax.jit(lambda counts: jax.lax.scan(piece, start, counts)[1])(jnp.asarray(np.diff(grid, prepend=0)))).T
