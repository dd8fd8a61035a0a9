"""The studies of arXiv 2410.08292 for many seeds, as far as claims about sampled numbers read
them.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from calibrate import Case, averages, keys_of, one_of, quiet, stacked, whole

from popgd.descent import descent, gradient
from popgd.descent.memory import FORGETFUL
from popgd.papers.in_context import descents, pictures, prompts, shifted, wishart, wishart_loss
from popgd.papers.in_context import model as in_context
from popgd.papers.in_context.common import Study, sampled_law
from popgd.papers.in_context.descents import BIAS, REPLICAS
from popgd.papers.in_context.model import InContext
from popgd.theorem.base import Setting

#: Enough samples that popgd does not call the tails too heavy.
SIZES: dict[str, Any] = {
    "covariance": (1.5, 0.5),
    "n": 100,
    "steps": 1000,
    "samples": 2**14,
    "sampled_steps": 32,
    "batch": 32,
}
LOOPS: dict[str, Any] = {"covariance": (1.5, 0.5), "n": 20, "L": 2}


def with_seed(study: Study, seed: int, **values: Any) -> Study:
    return dataclasses.replace(
        study,
        setting=dataclasses.replace(study.setting, seed=seed),
        values={**study.values, **values},
    )


def gradients(
    study: Study, points: Sequence[Any], laws: Any, keys: jax.Array, own_law: bool = False
) -> tuple[Any, Any, Any, Any]:
    """(mean, standard error, `heavy` and `skewness` of the studies) at one A a seed."""
    d = study.setting.law.d
    weights = stacked([in_context.embed(jnp.asarray(A), jnp.zeros(d)) for A in points])
    statistic = gradient.GradientOf(study.objective, in_context.Support(d))
    mean, stderr = jax.device_get(
        averages(statistic, weights, laws, keys, study.setting.samples, own_law)
    )
    skew = [
        gradient.skewness(
            gradient.Estimate(one_of(mean, s), one_of(stderr, s), study.setting.samples)
        )
        for s in range(len(keys))
    ]
    return mean, stderr, np.max(stderr.square / mean.square, axis=1), np.stack(skew)


def minimiser(setting: Setting, objective: Any) -> Study:
    """Its Monte Carlo half."""
    found = descents.sample(setting, objective, sampled_law(setting.law), quiet, FORGETFUL)
    return Study(
        setting,
        objective,
        {f"sampled/{k}": np.asarray(v) for k, v in found._asdict().items()},
        pictures.minimiser,
    )


def measure_minimiser(study: Study, seeds: Sequence[int]) -> list[Study]:
    """`descents.sample` for every seed."""
    setting, law = study.setting, sampled_law(study.setting.law)
    n, d = law.n, law.d
    polynomial, inverse = wishart_loss.polynomial(n, d, setting.L), np.linalg.inv(law.Sigma)
    random = [
        np.asarray(descents.starts(dataclasses.replace(setting, seed=seed), law)[1])
        for seed in seeds
    ]
    points: list[Any] = []
    for number, where in enumerate(
        ([0.3 * inverse] * len(seeds), random, [0.6 * inverse] * len(seeds))
    ):
        mean, stderr, heavy, skewness = gradients(
            study, where, law, keys_of(setting, seeds, 1, number)
        )
        exact = [descents.loss_and_slope(polynomial, law.root, A) for A in where]
        losses = [
            np.array(x)
            for x in zip(mean.loss, stderr.loss, (loss for loss, _ in exact), strict=True)
        ]
        parts = (
            mean.weights.Q[:, :d, :d],
            stderr.weights.Q[:, :d, :d],
            [np.asarray(slope) for _, slope in exact],
        )
        points.append((losses, [np.stack(x) for x in zip(*parts, strict=True)], heavy, skewness))
    ends = monte_carlo(study, law, seeds)
    names = ("sampled/loss", "sampled/grad_A", "sampled/heavy", "sampled/skewness")
    return [
        with_seed(
            study,
            seed,
            **{name: np.stack([point[i][s] for point in points]) for i, name in enumerate(names)},
            **{"sampled/ends": ends[s]},
        )
        for s, seed in enumerate(seeds)
    ]


def monte_carlo(study: Study, law: InContext, seeds: Sequence[int]) -> Any:
    """`descents.monte_carlo` of every seed: (seeds, 2, REPLICAS, 2)."""
    setting, d, root = study.setting, law.d, np.asarray(law.root)
    lam, R = np.linalg.eigh(law.Sigma)
    manifold, optimiser = in_context.Support(d), setting.make_optimiser()
    how = descent.Descent(study.objective, optimiser, manifold, setting.bank)
    start = in_context.embed(jnp.zeros((d, d)), jnp.asarray(BIAS * R[:, 0] / np.sqrt(lam[0])))
    one = descent._State(start, optimiser.init(start), jnp.zeros(()))
    move, found = jax.vmap(partial(descent._step, how, True)), []
    for size in (0, 1):
        numbers = range(size * REPLICAS, (1 + size) * REPLICAS)
        keys = jnp.concatenate([keys_of(setting, seeds, 2, number) for number in numbers])
        state = stacked([one] * len(keys))
        for step in range(descents.sampled_steps(setting)):
            now = keys if setting.bank else jax.vmap(jax.random.fold_in, (0, None))(keys, step)
            statistic = gradient.GradientOf(study.objective, manifold)
            mean, _ = averages(statistic, state.weights, law, now, setting.batch * (1 + size))
            state, _ = move(state, mean.coordinates)
        A, u = (np.asarray(x) for x in (state.weights.Q[:, :d, :d], state.weights.P[:, d, :d]))
        ends = np.stack(
            [np.trace(root @ A @ root, axis1=1, axis2=2) / d, u @ root @ R[:, 0]], axis=-1
        )
        found.append(ends.reshape(REPLICAS, len(seeds), 2).swapaxes(0, 1))
    return np.stack(found, axis=1)


def measure_shifted(study: Study, seeds: Sequence[int]) -> list[Study]:
    """The Monte Carlo part of `shifted.shifted` for every seed, each with its own law at test."""
    setting, (n, d, L) = study.setting, study.sizes
    settings = [dataclasses.replace(setting, seed=seed) for seed in seeds]
    few = [sampled_law(shifted.test_law(one, setting.law)) for one in settings]
    common = [
        dataclasses.replace(law, covariance=setting.law.covariance) for law in few
    ]  # unread, and not to be traced
    A = wishart.a_star(n, d, L) * np.linalg.inv(setting.law.Sigma)
    mean, stderr, heavy, skewness = gradients(
        study, [A] * len(seeds), stacked(common), keys_of(setting, seeds, 1), own_law=True
    )
    polynomial, direct = (
        wishart_loss.polynomial(few[0].n, d, L),
        jax.jit(wishart_loss.loss_with_covariance),
    )
    exact = [float(direct(polynomial, jnp.asarray(A), law.root)) for law in few]
    rows = zip(seeds, mean.loss, stderr.loss, exact, heavy, skewness[:, -1], strict=True)
    return [
        with_seed(study, seed, sampled=np.array(row), heavy=worst, skewness=skew)
        for seed, *row, worst, skew in rows
    ]


def measure_loops(study: Study, seeds: Sequence[int]) -> list[Study]:
    """popgd's own: no compiled code is in it."""
    settings: list[Setting] = [dataclasses.replace(study.setting, seed=seed) for seed in seeds]
    return [prompts.loops_study(one, study.objective, quiet, None) for one in settings]  # pyright: ignore


CASES = (
    Case("gatmiry.minimiser", "gatmiry.minimiser", SIZES, minimiser, measure_minimiser),
    Case("gatmiry.ood", "gatmiry.ood", {**SIZES, "shift": (1.1, 0.9)}, whole, measure_shifted),
    Case("gatmiry.loops", "gatmiry.loops", LOOPS, whole, measure_loops),
)
