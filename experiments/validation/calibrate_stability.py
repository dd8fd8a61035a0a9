"""The sampled parts of `the stability findings` for many seeds: its other descents are exact, and
do not depend on them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from calibrate import Case, averages, keys_of, one_of

from popgd.descent import gradient
from popgd.descent.recursion import log_grid
from popgd.papers.power_method import kronecker, one_layer
from popgd.papers.power_method.kronecker import Kronecker
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.stability import growth, hessian, prediction
from popgd.papers.power_method.stability.measure import EARLY, INACTIVE, PER_DECADE, Stability
from popgd.papers.power_method.training.study import start_of
from popgd.theorem.base import Setting

#: Few steps: the claims about growth are the same, and a seed takes half a second.
SIZES: dict[str, Any] = {"spectrum": (3, 2, 1), "steps": 1000, "samples": 2**8, "sampled_steps": 10}


def one(setting: Setting, objective: Any) -> Stability:
    """The part of `theory.stability.measure.study` that sampling is compared with, at the point
    that it takes.
    """
    spectrum = Spectrum.of(setting.law.spectrum)
    known = prediction.curve_of(objective, spectrum)
    slope = prediction.slope_of(objective, known)
    cheap = (
        one_layer.along_curve(slope)
        if objective.layer_norm
        else one_layer.slope(objective, spectrum)
    )
    start, grid = kronecker.point(*start_of(setting)), log_grid(setting.sampled_steps, PER_DECADE)
    base = kronecker.descend(cheap, start, setting.eta, setting.law.d, grid, setting.key(6))
    theta = base.theta[np.searchsorted(base.step, max(1, setting.sampled_steps // EARLY))]
    unread: Any = dict.fromkeys((field.name for field in dataclasses.fields(Stability)), None)
    whole = Stability(
        **unread
        | {
            "setting": setting,
            "objective": objective,
            "known": slope,
            "base": base,
            "theta": theta,
            "found": hessian.population_hessian(
                objective, jnp.asarray(theta), setting.law, setting.key(7), setting.samples
            ),
            "exact": prediction.exact_hessian(objective, spectrum, theta)
            if prediction.whole(objective, spectrum)
            else None,
            "h": prediction.coupling(known, objective, np.array([theta[2] * theta[5]])),
        }
    )
    return followed(whole)


def followed(study: Stability) -> Stability:
    """The same with its growth and, for more than one layer, the closed form that is sampled."""
    setting, objective = study.setting, study.objective
    c, steps = float(study.theta[2] * study.theta[5]), setting.sampled_steps
    return dataclasses.replace(
        study,
        growth=growth.sector_growth(
            setting, objective, study.known, study.base, growth.lowest(study.found, INACTIVE), steps
        ),
        turned=prediction.turned(setting, objective, c) if objective.L > 1 else None,
    )


def measure(study: Stability, seeds: Sequence[int]) -> list[Stability]:
    """The first of the two sampled Hessians for every seed, which the claims are about, and what
    follows from it.
    """
    setting = study.setting
    weights = Kronecker(setting.law.d).embed(jnp.asarray(study.theta))
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(seeds), *x.shape)), weights)
    statistic = hessian.SectorHessian(study.objective)
    parts = jax.device_get(
        averages(statistic, many, setting.law, keys_of(setting, seeds, 7), setting.samples)
    )
    return [
        followed(
            dataclasses.replace(
                study,
                setting=dataclasses.replace(setting, seed=seed),
                found=gradient.Estimate(one_of(parts[0], s), one_of(parts[1], s), setting.samples),
            )
        )
        for s, seed in enumerate(seeds)
    ]


CASES = (
    Case("4.1.stability", "4.1.stability", SIZES, one, measure),
    Case("4.1.stability, L = 2", "4.1.stability", {**SIZES, "L": 2}, one, measure),
    Case("4.2.stability normalised", "4.2.stability", SIZES, one, measure, "normalised"),
    Case("4.2.stability unnormalised", "4.2.stability", SIZES, one, measure, "unnormalised"),
    Case("4.3.stability", "4.3.stability", SIZES, one, measure),
)
