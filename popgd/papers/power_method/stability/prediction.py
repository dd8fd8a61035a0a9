"""First order beside the manifold: the couplings in closed form, and log growth along the recursion
of (a, b).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from popgd.descent import chebyshev
from popgd.descent.gradient import population_average
from popgd.descent.interpolant import interpolate
from popgd.descent.recorded import compiled
from popgd.papers.power_method import curve as curves
from popgd.papers.power_method import kronecker, model, one_layer, spectra
from popgd.papers.power_method.data import Sample
from popgd.papers.power_method.kronecker import Path
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.spectra import stderr
from popgd.papers.power_method.stability import hessian
from popgd.papers.power_method.training import growth
from popgd.papers.power_method.training.study import start_of
from popgd.problem.number import Number
from popgd.theorem.base import Setting

#: Where the coordinates of the modes stand.
P11, P12, P22, Q21, Q22 = 0, 1, 3, 6, 7
#: Degree of the Chebyshev series of l', h and k11 in log(1 + lam_1 c), and how much further than
#: the recorded c they reach.
DEGREE, WIDER = 40, 1.1
#: Samples of the closed form of H_{P12,Q21} for each of a Hessian's: one costs a hundredth.
CHEAPER = 16

Objective = SubspaceDistance | PowerIteration


def curve_of(objective: Objective, spectrum: Spectrum) -> Any:
    """The population curve on the manifold."""
    if isinstance(objective, SubspaceDistance):
        return curves.Looped.of(spectrum, objective.L)
    return (
        curves.Layer.of(spectrum)
        if objective.layer_norm
        else curves.Linear.of(spectrum, objective.target)
    )


def rows_of(known: Any) -> Spectrum:
    """The spectra of a curve: (m,) for one, (K, m) for several."""
    lam, mult = known.spectra
    return Spectrum(lam[0], mult[0]) if len(lam) == 1 else Spectrum(lam, mult)


def slope_of(objective: Objective, known: Any) -> Any:
    """c -> l'(c), cheap enough for every step of a descent."""
    if not objective.layer_norm:
        return jax.tree_util.Partial(
            _affine, 2 * float(known.mean_square().value), float(known.c_star().value)
        )
    logs = lambda c: np.asarray(known.log_slope(c).value)
    power = 2 if isinstance(objective, SubspaceDistance) else 3
    return interpolate(logs, power, largest=growth.LARGEST, tolerance=growth.HARD)


def _affine(second: Any, star: Any, c: Array) -> Array:
    return second * (c - star)


def whole(objective: Objective, spectrum: Spectrum) -> bool:
    """Whether the exact loss is known on all of N: one layer, and for 4.3 one spectrum that is not
    too uneven.
    """
    try:
        one_layer.loss(objective, spectrum)
    except ValueError:
        return False
    return True


def exact_hessian(objective: Objective, spectrum: Spectrum, theta: np.ndarray) -> Number:
    """The Hessian of the exact loss at theta over d, with its standard error over the spectra."""
    at = jnp.asarray(theta)
    d = float(np.asarray(spectrum.mult).reshape(-1, spectrum.mult.shape[-1])[0].sum())
    if np.ndim(spectrum.lam) == 1:
        found = np.asarray(jax.jit(jax.hessian(one_layer.loss(objective, spectrum)))(at))
        return Number(found / d, stderr=np.zeros_like(found))
    if isinstance(objective, PowerIteration):
        of = jax.hessian(partial(one_layer.linear_loss, objective.target), argnums=1)
        found = np.asarray(
            jax.jit(jax.vmap(of, (0, None)))(
                one_layer.linear_constants(spectrum, objective.target), at
            )
        )
    else:
        one = lambda row: jax.hessian(one_layer.loss(objective, row))(at)
        found = np.asarray(
            jax.jit(lambda s: jax.lax.map(one, s, batch_size=spectra.CHUNK))(spectrum)
        )
    return Number(found.mean(axis=0) / d, stderr=stderr(np.moveaxis(found, 0, -1)) / d)


def coupling(known: Any, objective: Objective, c: float | Float[np.ndarray, " points"]) -> Number:
    """h(c) = d H_{P22,Q22}, with its standard error over the spectra, by its closed form.

    -c l'(c) with LN, 2 E[(f - y).q] = 2 (1 - E[y.q] + c n/d) without.
    """
    c = np.asarray(c, dtype=float)
    if objective.layer_norm:
        found = known.slope(c)
        return Number(-c * found.value, stderr=c * found.stderr)
    # 1 - E[y.q] as one number: near isotropy 1 and E[y.q] cancel to nothing
    target = objective.target if isinstance(objective, PowerIteration) else "unnormalised"
    mu, _, bent, _ = np.asarray(one_layer.linear_constants(known.spectra, target)).T
    if target == "normalised":
        return Number(2 * (bent.mean() + c * mu.mean()), stderr=2 * stderr(bent) + 0 * c)
    return Number(2 * (1 - mu.mean() + c * mu.mean()), stderr=0 * c)


@dataclass(frozen=True)
class _Turned:
    """Statistic: one sample's closed form of H_{P12,Q21}, multiples of I, at c = the last entry of
    P.
    """

    objective: Objective

    def __call__(self, weights: Weights, sample: Sample) -> Array:
        d = sample.q.shape[0]
        c = weights.P[-1, d - 1]
        return hessian.p12_q21_coupling(self.objective, c, jnp.eye(d) / d**0.5, sample)


def turned(setting: Setting, objective: Objective, c: float) -> Number:
    """The closed form of H_{P12,Q21}, multiples of I, by Monte Carlo."""
    law = setting.law
    at = model.embed(jnp.asarray(c), jnp.asarray(1.0), law.d)
    found = population_average(
        _Turned(objective), at, law, setting.key(11), CHEAPER * setting.samples
    )
    return Number(float(found.mean), stderr=float(found.stderr))


def fitted(
    f: Callable[[np.ndarray], np.ndarray], lam: float, bottom: float, top: float
) -> Callable[[Array], Array]:
    """f on [bottom, top] as a Chebyshev series in log(1 + lam c), NaN elsewhere.

    There its singularities c = -1/lam_i are pi away from the reals."""
    ends = np.log1p(lam * np.array([bottom, top]))
    middle, half = ends.mean(), np.diff(ends)[0] / 2
    nodes, transform = chebyshev.points(DEGREE)
    terms = transform @ f(np.expm1(middle + half * nodes) / lam)
    place = lambda c: (jnp.log1p(lam * c) - middle) / half
    value = lambda c: chebyshev.clenshaw(lambda n: terms[n], len(terms), place(c))
    return lambda c: jnp.where((c >= bottom) & (c <= top), value(c), jnp.nan)


def first_order(
    setting: Setting,
    objective: Objective,
    spectrum: Spectrum,
    known: Any,
    base: Path,
    grid: Int[np.ndarray, " records"],
) -> Float[np.ndarray, "3 records"]:
    """log growth of (u, p22 + r22, p11) by first order, along the recursion of (a, b) by the
    curve's own slope.

    The first two, and the path, know nothing of the exact loss on N; the third is NaN where that is
    not known.
    """
    rate, lam = setting.eta / setting.law.d, float(spectrum.lam.max())
    passed = base.theta[:, 2] * base.theta[:, 5]
    # Where steps of 4.2 overshoot, c swings around c*, past 0 and further than at the steps that
    # were recorded
    ends = min(0.0, WIDER * float(passed.min())), WIDER * float(passed.max())
    slope = fitted(lambda c: np.asarray(known.slope(c).value), lam, *ends)
    h = fitted(lambda c: coupling(known, objective, c).value, lam, *ends)
    k11 = lambda c: jnp.nan
    if whole(objective, spectrum):
        loss = one_layer.loss(objective, spectrum)
        second = jax.jit(
            jax.vmap(
                lambda c: jax.grad(
                    jax.grad(lambda x: loss(kronecker.point(c, 1.0).at[P11].set(x)))
                )(0.0)
            )
        )
        k11 = fitted(lambda c: np.asarray(second(jnp.asarray(c))), lam, *ends)

    def step(state: tuple) -> tuple:
        a, b, log = state
        c = a * b
        moved = rate * jnp.stack([h(c), -h(c), -b * b * k11(c)])
        g = rate * slope(c)
        return a - g * b, b - g * a, log + jnp.log1p(moved)

    start = (*map(jnp.asarray, start_of(setting)), jnp.zeros(3))
    run = jax.jit(partial(compiled, step, lambda state: state[2], start))
    return np.asarray(run(jnp.asarray(grid))).T
