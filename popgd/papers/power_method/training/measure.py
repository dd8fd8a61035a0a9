"""How a study is measured by Monte Carlo, beside its exact half."""

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from popgd.descent import descent, gradient
from popgd.descent.memory import FORGETFUL, Memory
from popgd.papers.power_method import model, slopes
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import OfLoops
from popgd.papers.power_method.slopes import Slopes
from popgd.papers.power_method.structured import AlongActive, Single, structured
from popgd.papers.power_method.training import raw
from popgd.papers.power_method.training.study import (
    RAW_BATCH,
    RAW_SHORTER,
    ROUNDED,
    SAME,
    Exact,
    Point,
    Study,
    start_of,
)
from popgd.theorem.base import Progress, Setting


def _population_gradients(
    setting: Setting, objective: OfLoops, exact: Exact, progress: Progress, memory: Memory
) -> Iterable[Point]:
    """Monte Carlo gradients at the start, early in and at the end of the short descent."""
    law, dtype, steps = setting.law, jnp.dtype(setting.dtype), setting.sampled_steps
    a, b = exact.short.weights
    active = model.Active(law.d)
    how = descent.Descent(objective, setting.make_optimiser(), active)
    cheap, seen = structured(how, law)
    blank = gradient.Gradient(0, Weights(0, 0), 0, 0, 0, 0)  # pyright: ignore
    blank_along = blank if cheap is how else blank._replace(weights=(), deviations=())  # pyright: ignore
    like = (blank, blank), (blank_along, blank_along), 0, 0

    def measure(number: int, weights: Weights) -> Any:
        full = how.gradient(weights, law, setting.key(1, number), setting.samples)
        along = cheap.gradient(weights, seen, setting.key(8, number), setting.samples)
        few = min(setting.samples, ROUNDED)
        rounded = gradient.rounding(objective, weights, law, setting.key(6, number), few, active)
        return full[:2], along[:2], rounded, apart(how, weights, law, setting.key(15, number))

    for number, step in enumerate((0, max(1, steps // 100), steps)):
        progress("population gradients", number, 3)
        i = int(np.searchsorted(exact.short.step, step))
        weights = model.embed(jnp.asarray(a[i], dtype), jnp.asarray(b[i], dtype), law.d)
        *both, rounding, gap = memory.part(f"point {number}").once(
            partial(measure, number, weights), like
        )
        estimate, along = (
            gradient.Estimate(mean, stderr, setting.samples) for mean, stderr in both
        )
        yield Point(float(a[i]), float(b[i]), estimate, along, rounding, gap)


def apart(how: descent.Descent, weights: Weights, law: Any, key: Any) -> Float[np.ndarray, "2"]:
    """How far the gradient of the full model along the manifold is from that of the reduced one for
    the same SAME samples, and its root mean square: gaps of means, and of mean squares over that
    root.
    """
    objective: Any = how.objective
    reduced = replace(how, statistic=AlongActive(objective))
    full, along = (
        run.gradient(weights, seen, key, SAME).mean
        for run, seen in ((how, law), (reduced, Single(law)))
    )
    size = float(np.asarray(full.square, dtype=float)[:-1].sum()) ** 0.5
    means = np.asarray(full.coordinates) - np.asarray(along.coordinates)
    squares = np.asarray(full.square)[:-1] - np.asarray(along.square)[:-1]
    return np.array([np.max([*abs(means), *abs(squares) / size]), size])


def sampled(
    setting: Setting,
    objective: OfLoops,
    exact: Exact,
    progress: Progress,
    memory: Memory = FORGETFUL,
) -> Study:
    """The Monte Carlo half of a study of descent on the manifold {P21 = a I, Q12 = b I}, beside its
    exact half: each part is measured when it is first read.
    """
    law, dtype, steps = setting.law, jnp.dtype(setting.dtype), setting.sampled_steps
    a0, b0 = start_of(setting)
    start = model.embed(jnp.asarray(a0, dtype), jnp.asarray(b0, dtype), law.d)
    how = descent.Descent(objective, setting.make_optimiser(), model.Active(law.d), setting.bank)
    raw_steps = int(
        exact.short.step[np.searchsorted(exact.short.step, max(1, steps // RAW_SHORTER))]
    )

    def run(name: str, purpose: int, count: int, batch: int, projected: bool) -> descent.Trajectory:
        return descent.descend(
            *(structured(how, law) if projected else (how, law)),
            start,
            count,
            batch,
            setting.key(purpose),
            projected,
            progress=partial(progress, name),
            memory=memory.part(name),
        )

    def shifts() -> tuple[float, float]:
        ends = study.raw, study.raw_double
        of_ends = lambda: np.array([raw.slope_shift(setting, how, exact, end) for end in ends])
        once, twice = memory.part("shifts").once(of_ends, 0)
        return float(once), float(twice)

    batch, twice = RAW_BATCH * setting.batch, "raw descent, twice the batch"
    points = lambda: tuple(_population_gradients(setting, objective, exact, progress, memory))
    study = Study.of(
        {"setting": setting, "objective": objective, "exact": exact},
        {
            "points": points,
            "raw": lambda: run("raw descent", 2, raw_steps, batch, False),
            "raw_double": lambda: run(twice, 3, raw_steps, 2 * batch, False),
            "projected": lambda: run("projected descent", 4, steps, setting.batch, True),
            "shifts": shifts,
            "seeds": lambda: seeds_of(study, how, start, progress, memory.part("seeds")),
            "slopes": lambda: slopes_of(setting, objective, exact, progress, memory),
        },
    )
    return study


def seeds_of(
    study: Study, how: descent.Descent, start: Weights, progress: Progress, memory: Memory
) -> Float[np.ndarray, "2 seeds"]:
    """The raw descents that the first two ask for: `raw.more_seeds`."""
    setting, steps = study.setting, int(study.raw.step[-1])

    def seconds(batch: int) -> float:
        took = 0.0
        for _ in range(2):  # the first is compiled
            began = time.monotonic()
            found = how.gradient(start, setting.law, setting.key(16), batch)
            jax.block_until_ready(found.mean)
            took = time.monotonic() - began
        return took

    def run(seed: int, batch: int) -> descent.Trajectory:
        told = partial(progress, f"raw descent {seed} at batch {batch}")
        key = setting.key(17, seed, batch)
        return descent.descend(how, setting.law, start, steps, batch, key, progress=told)

    return raw.more_seeds(study, run, seconds, memory)


def slopes_of(
    setting: Setting, objective: Any, exact: Exact, progress: Progress, memory: Memory
) -> Slopes:
    """Sampled slopes at the start, early in and at the end of the short descent, and at the end of
    the long one.
    """
    steps = setting.sampled_steps
    i = np.searchsorted(exact.short.step, (0, max(1, steps // 100), steps))
    step = np.append(exact.short.step[i], exact.records.step[-1])
    c = np.append(exact.short.c[i], exact.records.c[-1])
    return slopes.measure(setting, objective, exact.curve, step, c, progress, memory)
