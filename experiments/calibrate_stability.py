"""The sampled Hessians of `popgd.theory.stability` for many seeds: its descents are exact, and do not depend on them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from calibrate import Case, averages, keys_of, one_of
from calibrate_manifold import exact_of

from popgd import gradient, hessian, kronecker
from popgd.kronecker import Kronecker
from popgd.quadrature import Spectrum
from popgd.theory.base import Setting
from popgd.theory.stability import prediction
from popgd.theory.stability.measure import EARLY, Stability

SIZES: dict[str, Any] = {"spectrum": (3, 2, 1), "steps": 1000, "samples": 2**8, "sampled_steps": 100}


def one(setting: Setting, objective: Any) -> Stability:
    """The part of `theory.stability.measure.study` that sampling is compared with, at the point that it takes."""
    spectrum, early = Spectrum.of(setting.law.spectrum), max(1, setting.sampled_steps // EARLY)
    base = dataclasses.replace(setting, theorem=setting.theorem.removesuffix(".stability"), sampled_steps=early)
    a, b = (float(x[-1]) for x in exact_of(base, objective).short.weights)
    theta = kronecker.point(a, b)
    known = prediction.curve_of(objective, spectrum)
    unread: Any = dict.fromkeys((field.name for field in dataclasses.fields(Stability)), None)
    return Stability(**unread | {
        "setting": setting,
        "objective": objective,
        "theta": np.asarray(theta),
        "found": hessian.population_hessian(objective, theta, setting.law, setting.key(7), setting.samples),
        "exact": prediction.exact_hessian(objective, spectrum, np.asarray(theta)),
        "h": prediction.coupling(known, objective, np.array([a * b])),
    })  # fmt: skip


def measure(study: Stability, seeds: Sequence[int]) -> list[Stability]:
    """The first of the two sampled Hessians for every seed, which the claims are about."""
    setting = study.setting
    weights = Kronecker(setting.law.d).embed(jnp.asarray(study.theta))
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(seeds), *x.shape)), weights)
    statistic = hessian.SectorHessian(study.objective)
    parts = jax.device_get(averages(statistic, many, setting.law, keys_of(setting, seeds, 7), setting.samples))
    return [
        dataclasses.replace(
            study,
            setting=dataclasses.replace(setting, seed=seed),
            found=gradient.Estimate(one_of(parts[0], s), one_of(parts[1], s), setting.samples),
        )
        for s, seed in enumerate(seeds)
    ]


CASES = (
    Case("4.1.stability", "4.1.stability", SIZES, one, measure),
    Case("4.2.stability normalised", "4.2.stability", SIZES, one, measure, "normalised"),
    Case("4.2.stability unnormalised", "4.2.stability", SIZES, one, measure, "unnormalised"),
    Case("4.3.stability", "4.3.stability", SIZES, one, measure),
)
