"""What the sampled spectra of a random law move of what is measured beside the manifold."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from popgd.papers.power_method import curve as curves
from popgd.papers.power_method import kronecker, one_layer
from popgd.papers.power_method.kronecker import ACTIVE, Path
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.stability import prediction
from popgd.papers.power_method.stability.prediction import Objective
from popgd.papers.power_method.training import convergence
from popgd.papers.power_method.training.growth import CHANGE
from popgd.theorem.base import Setting

#: Groups of the sampled spectra that are left out in turn, for the sampling error of where descent
#: ends.
GROUPS = 8
#: Further descents of several loops, and how many times smaller their batches are.
REPLICAS, LESS = 8, 4
#: What is reported of where it ends.
ENDS = ("loss", "alpha", "beta", "m", "c", "mean_square_output")
#: Setting, objective, slope, grid and perhaps a key -> the descent beside the manifold.
Run = Callable[..., Path]


def beside(
    setting: Setting, objective: Objective, spectrum: Spectrum, cheap: Any
) -> tuple[int, Any]:
    """Steps and slope of the exact descent of one layer beside the manifold."""
    if isinstance(objective, SubspaceDistance):
        return setting.sampled_steps, one_layer.slope(objective, spectrum)
    return setting.steps, cheap


def losses_beside(
    objective: Objective, spectrum: Spectrum, known: Any, theta: Float[np.ndarray, "points 8"]
) -> Float[np.ndarray, " points"]:
    """The exact losses of one layer at points of such a descent."""
    if prediction.whole(objective, spectrum):
        exact = jax.jit(one_layer.loss(objective, spectrum))
        return np.array([float(exact(jnp.asarray(x))) for x in theta])
    # F = l(c/(1 + m)) where p11 = p12 = 0; descent may step past m = -1, where l is not known.
    _, _, m, c = (np.asarray(x) for x in jax.vmap(one_layer.products)(jnp.asarray(theta)))
    position = c / (1 + m)
    return np.asarray(known.loss(np.where(position >= 0, position, np.nan)).value)


def ends_at(
    objective: Objective, spectrum: Spectrum, loss: float, theta: Float[np.ndarray, "8"]
) -> Float[np.ndarray, " ends"]:
    """The ENDS at theta, the last of them NaN without LN."""
    square = (
        float(one_layer.mean_square_output(jnp.asarray(theta), spectrum))
        if objective.layer_norm
        else np.nan
    )
    return np.array([loss, *_products_at(theta), square])


def _products_at(theta: Float[np.ndarray, "8"]) -> tuple[float, ...]:
    return tuple(float(x) for x in one_layer.products(jnp.asarray(theta)))


def batch_error(
    setting: Setting, objective: Objective, end: Float[np.ndarray, "8"], run: Run
) -> float:
    """Error of the loss at the end of a descent of several loops, from the noise of its batches.

    REPLICAS others take batches of a 1/LESS of that, so they scatter LESS^(1/2) times as much, and
    are off by LESS times as much in the mean.
    """
    law, small = setting.law, max(2, setting.batch // LESS)
    slope, grid = kronecker.sampled_slope(objective, law, small), np.array([setting.sampled_steps])
    keys = [setting.key(18, number) for number in range(REPLICAS)]
    ends = [end, *(run(setting, objective, slope, grid, key).theta[-1] for key in keys)]
    samples = max(2, setting.samples // REPLICAS)
    # On the same samples, whose noise the differences do not have
    loss, *losses = (
        float(
            kronecker.population_gradient(
                objective, jnp.asarray(at), law, setting.key(10), samples
            ).mean[0]
        )
        for at in ends
    )
    less = setting.batch / small
    bias = (np.mean(losses) - loss) / max(less - 1, 1.0)
    return float(np.hypot(np.std(losses, ddof=1) / less**0.5, bias))


def end_errors(
    setting: Setting,
    objective: Objective,
    known: Any,
    cheap: Any,
    end: Float[np.ndarray, "8"],
    run: Run,
) -> Float[np.ndarray, " ends"]:
    """Standard errors of the ENDS: of the exact descent of one layer from the sampled spectra, 0
    for a fixed one; of several loops that of the loss from the batches, without the others.
    """
    spectrum = prediction.rows_of(known)
    if objective.L > 1:
        error = batch_error(setting, objective, end, run)
        return np.array([error, *[np.nan] * (len(ENDS) - 1)])
    if np.ndim(spectrum.lam) == 1:
        return np.zeros(len(ENDS))
    if isinstance(objective, PowerIteration) and objective.layer_norm:
        return _by_response(setting, objective, known, cheap, run)
    rows, groups = np.arange(len(spectrum.lam)), min(GROUPS, len(spectrum.lam))
    kept = [rows[rows % groups != g] for g in range(groups)]
    if isinstance(objective, PowerIteration):
        each = one_layer.linear_constants(spectrum, objective.target)
        return _jackknife(np.stack([_linear_end(setting, objective, each[k], run) for k in kept]))
    parts = (Spectrum(spectrum.lam[k], spectrum.mult[k]) for k in kept)
    return _jackknife(np.stack([_looped_end(setting, objective, part, run) for part in parts]))


def _by_response(
    setting: Setting, objective: Objective, known: Any, cheap: Any, run: Run
) -> Float[np.ndarray, " ends"]:
    """The errors of 4.3, where the loss is l(c/(1 + m)): a slope larger by a small share all along
    is a larger step size.

    An l' that is off by another share at each c moves the descent along the same path but for
    O(eta), only faster or slower: the larger of its shares at the start and at the end counts for
    all.
    """
    grid = np.array([setting.steps])
    faster = replace(setting, eta=setting.eta * (1 + CHANGE))
    here, there = (run(s, objective, cheap, grid).theta[0] for s in (setting, faster))
    (_, _, m, c), (_, _, more_m, more_c) = _products_at(here), _products_at(there)
    x, moved = c / (1 + m), more_c / (1 + more_m) - c / (1 + m)
    if not x >= 0:
        return np.full(len(ENDS), np.inf)
    share = float(np.max(known.log_slope(np.array([0.0, x])).stderr)) / CHANGE
    loss = float(known.loss(x).stderr) + abs(float(known.slope(x).value) * moved) * share
    # p11 = p12 = 0 all along: the output has length 1
    return np.array(
        [loss, *(share * abs(np.subtract(_products_at(there), _products_at(here)))), 0.0]
    )


def _linear_end(
    setting: Setting, objective: PowerIteration, each: Float[Array, "K 4"], run: Run
) -> Float[np.ndarray, " ends"]:
    """The ENDS of 4.2 for spectra with these `one_layer.linear_constants`."""
    loss = partial(one_layer.linear_loss, objective.target, one_layer.mean_constants(each))
    value_and_grad = jax.value_and_grad(loss)
    end = run(
        setting, objective, lambda theta, key: value_and_grad(theta), np.array([setting.steps])
    )
    return np.array([float(end.loss[0]), *_products_at(end.theta[0]), np.nan])


def _looped_end(
    setting: Setting, objective: Objective, spectrum: Spectrum, run: Run
) -> Float[np.ndarray, " ends"]:
    """The ENDS of 4.1 for these spectra."""
    slope = one_layer.slope(objective, spectrum)
    end = run(setting, objective, slope, np.array([setting.sampled_steps]))
    return ends_at(objective, spectrum, float(end.loss[0]), end.theta[0])


def _jackknife(others: Float[np.ndarray, "groups ends"]) -> Float[np.ndarray, " ends"]:
    """Standard errors of what was computed without one group each (Quenouille, Tukey)."""
    return np.sqrt((len(others) - 1) * others.var(axis=0))


def shift_of(
    setting: Setting,
    known: Any,
    base: Path,
    theta: np.ndarray,
    make: Callable[..., Any],
    fresh: np.ndarray,
) -> Float[np.ndarray, "3 8 8"]:
    """What the error of c moves of the Hessian at theta, with the samples of `fresh`: a b = c, a^2
    - b^2 as it is.
    """
    error = _error_of_c(setting, known, base, theta)
    if not error:
        return np.zeros_like(fresh)
    (a, b), away = theta[list(ACTIVE)], np.zeros(8)
    away[list(ACTIVE)] = error / (a * a + b * b) * np.array([b, a])
    return np.asarray(make(jnp.asarray(theta + away)).mean) - fresh


def _error_of_c(setting: Setting, known: Any, base: Path, theta: np.ndarray) -> float:
    """Standard error from the sampled spectra of c at the point theta of the descent on the
    manifold.

    Where c grows, a slope larger by a small share all along moves it as that share more steps
    would.
    """
    if len(known.spectra.lam) == 1:
        return 0.0
    i = int(np.flatnonzero((base.theta == theta).all(axis=1))[0])
    if isinstance(known, curves.Linear):
        changed = convergence.Changed.of(known)
        return float(changed.sampling(changed.descend(setting, base.step[i : i + 1]).c)[0])
    before, c = (base.theta[[i - 1, i]][:, list(ACTIVE)]).prod(axis=1)
    shares = known.log_slope(np.array([0.0, c])).stderr
    return float(
        abs(c - before) / (base.step[i] - base.step[i - 1]) * base.step[i] * np.max(shares)
    )
