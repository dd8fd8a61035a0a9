"""The studies of Theorems 4.1, 4.2 and 4.3 for many seeds: fixed and random spectra, fresh samples
and a fixed bank.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from calibrate import Case, abreast, averages, keys_of, one_of, quiet, stacked

from popgd.descent import descent, gradient, recursion
from popgd.descent.memory import FORGETFUL
from popgd.descent.recursion import Records, log_grid
from popgd.papers.power_method import curve, model
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.spectra import over_c
from popgd.papers.power_method.structured import structured
from popgd.papers.power_method.training import convergence
from popgd.papers.power_method.training.measure import sampled, seeds_of, slopes_of
from popgd.papers.power_method.training.raw import shift, shift_samples
from popgd.papers.power_method.training.study import (
    RAW_BATCH,
    RAW_SHORTER,
    Exact,
    Point,
    Study,
    curves_of,
    start_of,
)
from popgd.problem.plane import project
from popgd.theorem.base import Setting

#: Small sizes are the harder ones: the normal approximation is the worse, the fewer samples there
#: are. With fewer than these popgd itself would say INCONCLUSIVE, as too little is known of the
#: tails.
SIZES: dict[str, Any] = {
    "spectrum": (3, 2, 1),
    "steps": 1000,
    "samples": 2**13,
    "sampled_steps": 32,
    "batch": 32,
}
#: Few spectra, so that their sampling error is as large as that of the gradients.
UNIFORM: dict[str, Any] = {
    "law": "uniform",
    "d": 3,
    "n": 24,
    "spectra": 4,
    "steps": 1000,
    "samples": 2**13,
    "sampled_steps": 16,
    "batch": 32,
}
BANK = {**SIZES, "bank": True}
COND = 1e3
#: p with -c^p l'(c) -> constant; records a decade.
POWERS, PER_DECADE = {"4.1": 2, "4.3": 3}, 8


def curve_of(setting: Setting, target: str, spectra: Spectrum) -> Any:
    """The curve of the theorem; random spectra share one program, laid out for condition numbers up
    to COND.
    """
    if setting.theorem == "4.2":
        found = curve.Linear.of(spectra, target)
    else:
        found = (
            curve.Looped.of(spectra, setting.L)
            if setting.theorem == "4.1"
            else curve.Layer.of(spectra)
        )
    return (
        found
        if len(spectra.lam.shape) == 1
        else dataclasses.replace(found, cond=max(found.cond, COND))
    )


def exact_of(setting: Setting, objective: Any) -> Exact:
    """The exact half of a study as far as sampling is compared with it: the curve, and the short
    descent along it.

    Every step is taken by the curve itself instead of an interpolant of it.
    """
    narrow, wide = curves_of(setting, partial(curve_of, setting, getattr(objective, "target", "")))
    a, b = start_of(setting)
    c, Delta, rows, grid = a * b, (a - b) * (a + b), [], log_grid(setting.sampled_steps, PER_DECADE)
    for step in range(int(grid[-1]) + 1):
        h = setting.eta * slope_at(narrow, c) / setting.law.d
        dc, dDelta = (float(x) for x in recursion.increments(h, jnp.asarray(c), jnp.asarray(Delta)))
        if step in grid:
            rows.append((c, Delta, dc))
        c, Delta = c + dc, Delta + dDelta
    unknown = np.full(grid.size, np.nan)
    columns = [np.array(x) for x in zip(*rows, strict=True)]
    short = Records(
        grid,
        columns[0],
        columns[1],
        columns[2],
        unknown,
        unknown,
        np.ones(len(grid)),
        np.array(-1),
        None,
    )
    curvature, power = (
        (2 * float(narrow.mean_square().value), 0)
        if setting.theorem == "4.2"
        else (0.0, POWERS[setting.theorem])
    )
    found = Exact(
        narrow, wide, short, short, np.zeros(grid.size), 0.0, curvature, power, np.zeros(3)
    )
    return (
        found
        if power or wide is narrow
        else dataclasses.replace(found, under_wide=convergence.under(wide, setting, grid))
    )


def slope_at(of: Any, c: float) -> float:
    """One slope; `of.slope` fills a block of eight."""
    if isinstance(of, curve.Linear):
        return float(of.slope(c).value)
    return float(
        np.mean(over_c(of.functions["slope"], of._options(), of.spectra, np.array([c])).value)
    )


def one(setting: Setting, objective: Any) -> Study:
    return sampled(setting, objective, exact_of(setting, objective), quiet)


def statistic_of(how: descent.Descent) -> Any:
    return how.statistic or gradient.GradientOf(how.objective, how.plane)


def points_of(
    study: Study, exacts: Sequence[Exact], seeds: Sequence[int]
) -> list[tuple[Point, ...]]:
    setting, found = study.setting, []
    how = descent.Descent(study.objective, setting.make_optimiser(), model.Active(setting.law.d))
    for number, step in enumerate((0, max(1, setting.sampled_steps // 100), setting.sampled_steps)):
        i = int(np.searchsorted(study.exact.short.step, step))
        at = [tuple(float(x[i]) for x in exact.short.weights) for exact in exacts]
        weights = stacked(
            [model.embed(jnp.asarray(a), jnp.asarray(b), setting.law.d) for a, b in at]
        )
        both = []
        for purpose, kind in ((1, (how, setting.law)), (8, structured(how, setting.law))):
            keys = keys_of(setting, seeds, purpose, number)
            mean, stderr = jax.device_get(
                averages(statistic_of(kind[0]), weights, kind[1], keys, setting.samples)
            )
            both.append(
                [
                    gradient.Estimate(one_of(mean, s), one_of(stderr, s), setting.samples)
                    for s in range(len(seeds))
                ]
            )
        found.append([Point(*ab, *estimates) for ab, *estimates in zip(at, *both, strict=True)])
    return list(zip(*found, strict=True))


def descents(
    study: Study, seeds: Sequence[int], purpose: int, steps: int, batch: int, projected: bool
) -> tuple[list[descent.Trajectory], Weights]:
    """`descent.descend` of every seed; of the records only what the statistical claims read, and
    the last weights.
    """
    setting = study.setting
    optimiser, manifold = setting.make_optimiser(), model.Active(setting.law.d)
    how, law = descent.Descent(study.objective, optimiser, manifold, setting.bank), setting.law
    how, law = structured(how, law) if projected else (how, law)
    start = manifold.embed(jnp.asarray(start_of(setting)))
    keys, grid = keys_of(setting, seeds, purpose), log_grid(steps, PER_DECADE)
    one = descent._State(start, optimiser.init(start), jnp.zeros(()))
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(seeds), *x.shape)), one)
    move = jax.vmap(partial(descent._step, how, projected))
    rows = []
    for step in range(steps + 1):
        now = keys if setting.bank else jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        mean, stderr = averages(statistic_of(how), state.weights, law, now, batch)
        if step in grid:
            where = jax.vmap(manifold.coordinates)(state.weights)
            rows.append(tuple(map(np.asarray, (where, mean.coordinates, stderr.coordinates))))
        last = state.weights
        state, finite = move(state, mean.coordinates if projected else mean.weights)
        assert bool(np.all(finite)), f"a descent of the calibration breaks off at step {step}"
    where, slope, stderr = (np.stack(x, axis=1) for x in zip(*rows, strict=True))
    nothing: Any = np.zeros(0)
    unread: Any = dict.fromkeys(("weights", "loss", "loss_stderr", "distance", "inactive"), nothing)
    found = [
        descent.Trajectory(
            step=grid,
            coordinates=where[s],
            slope=slope[s],
            slope_stderr=stderr[s],
            diverged_at=None,
            **unread,
        )
        for s in range(len(seeds))
    ]
    return found, last


def shifts(
    study: Study,
    exacts: Sequence[Exact],
    seeds: Sequence[int],
    runs: Sequence[descent.Trajectory],
    ends: Weights,
) -> Any:
    """`slope_shift` of every seed, at the ends (seeds, D, D) of its descents."""
    setting, manifold = study.setting, model.Active(study.setting.law.d)
    both = (ends, jax.vmap(partial(project, manifold))(ends))
    statistic, keys = gradient.GradientOf(study.objective, manifold), keys_of(setting, seeds, 9)
    found = (
        averages(statistic, at, setting.law, keys, shift_samples(setting))[0].coordinates
        for at in both
    )
    there, beside = (np.asarray(x) for x in found)
    return [
        shift(setting, exact, run.coordinates[-1], *x)
        for exact, run, *x in zip(exacts, runs, there, beside, strict=True)
    ]


def measure(study: Study, seeds: Sequence[int]) -> list[Study]:
    """`theory.study.sampled` for every seed, beside its exact half."""
    setting = study.setting
    settings = [dataclasses.replace(setting, seed=seed) for seed in seeds]
    random = study.exact.wide is not study.exact.curve
    exacts = (
        abreast(partial(exact_of, objective=study.objective), settings)
        if random
        else [study.exact] * len(seeds)
    )
    steps, batch, short = setting.sampled_steps, setting.batch, study.exact.short.step
    raw = int(short[np.searchsorted(short, max(1, steps // RAW_SHORTER))])
    once, end = descents(study, seeds, 2, raw, RAW_BATCH * batch, False)
    twice, other_end = descents(study, seeds, 3, raw, 2 * RAW_BATCH * batch, False)
    projected, _ = descents(study, seeds, 4, steps, batch, True)
    moved = zip(
        shifts(study, exacts, seeds, once, end),
        shifts(study, exacts, seeds, twice, other_end),
        strict=True,
    )
    one_slope = lambda pair: slopes_of(pair[0], study.objective, pair[1], quiet, FORGETFUL)
    examined = abreast(one_slope, list(zip(settings, exacts, strict=True)))
    parts = zip(
        settings,
        exacts,
        points_of(study, exacts, seeds),
        once,
        twice,
        projected,
        moved,
        examined,
        strict=True,
    )
    return [with_seeds(study, one, dict(zip(MEASURED, rest, strict=True))) for one, *rest in parts]


def with_seeds(study: Study, setting: Setting, measured: dict[str, Any]) -> Study:
    """A study of one seed, with the raw descents that its own ask for."""
    how = descent.Descent(
        study.objective, setting.make_optimiser(), model.Active(setting.law.d), setting.bank
    )
    a0, b0 = start_of(setting)
    start = model.embed(jnp.asarray(a0), jnp.asarray(b0), setting.law.d)
    known = {"setting": setting, "objective": study.objective, **measured}
    found = Study.of(known, {"seeds": lambda: seeds_of(found, how, start, quiet, FORGETFUL)})
    return found


#: What `measure` gives of every seed.
MEASURED = ("exact", "points", "raw", "raw_double", "projected", "shifts", "slopes")

CASES = (
    Case("4.1", "4.1", {**SIZES, "L": 2}, one, measure),
    Case("4.2 normalised", "4.2", SIZES, one, measure, "normalised"),
    Case("4.2 unnormalised", "4.2", SIZES, one, measure, "unnormalised"),
    Case("4.3", "4.3", SIZES, one, measure),
    Case("4.1 uniform", "4.1", {**UNIFORM, "L": 2}, one, measure),
    Case("4.2 normalised, uniform", "4.2", UNIFORM, one, measure, "normalised"),
    Case("4.3 uniform", "4.3", UNIFORM, one, measure),
    Case("4.2 normalised, bank", "4.2", BANK, one, measure, "normalised"),
    Case("4.3 bank", "4.3", BANK, one, measure),
)
