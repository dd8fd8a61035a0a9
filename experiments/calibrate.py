"""False alarms under the truth and power at `detectable` of one claim, over many seeds measured side by side."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from math import exp, lgamma, log, log1p
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from popgd import descent, gradient, model
from popgd.recursion import log_grid
from popgd.structured import structured
from popgd.theory import THEOREMS
from popgd.theory.base import Setting
from popgd.theory.study import RAW_BATCH, RAW_SHORTER, Exact, Point, Study, start_of
from popgd.verdict import POWER, Evidence, Outcome, judge, z_score

#: Every claim is judged at this level: seldom enough to be a tail, often enough to be counted.
NOMINAL = 0.05
#: Counts must lie within this central part of their binomial law.
CENTRAL = 0.999
#: Samples of each seed in one piece: some 40 seeds together fill the cache.
CHUNK = 8
#: The batched measurement must be that of popgd itself, up to the order of sums.
SAME = 1e-9
#: Where the tail of studentised gaps is counted, and samples behind each skewness.
TAIL, DRAWS = np.arange(0.0, 5.01, 0.25), 2**17
#: Where statistical claims are made.
SAMPLED = ("popgd.theory.invariance", "popgd.theory.manifold")
#: Judged at any size: the question here is how often, not whether the error bar is small enough.
ANY = 1e9


def quiet(name: str, done: int, total: int) -> None:
    pass


# --- many seeds at once


@partial(jax.jit, static_argnames="how")
def gradients(how: descent.Descent, weights: model.Weights, law: Any, keys: jax.Array, samples: Any) -> tuple[Any, Any]:
    """`Descent.gradient` of every seed: its mean and standard error. One compilation for all `samples`."""
    statistic = how.statistic or gradient.GradientOf(how.objective, how.manifold)
    one = lambda w, k: gradient._estimate(statistic, w, law, k, samples, CHUNK)
    return jax.vmap(one)(weights, keys)


def keys_of(setting: Setting, seeds: Sequence[int], *purpose: int) -> jax.Array:
    return jnp.stack([dataclasses.replace(setting, seed=seed).key(*purpose) for seed in seeds])


def one_of(many: Any, s: int) -> Any:
    return jax.tree.map(lambda x: x[s], many)


def points_of(study: Study, exact: Exact, seeds: Sequence[int]) -> list[tuple[Point, ...]]:
    setting, a, b, found = study.setting, *exact.short.weights, []
    how = descent.Descent(study.objective, setting.make_optimiser(), model.Active(setting.law.d))
    for number, step in enumerate((0, max(1, setting.sampled_steps // 100), setting.sampled_steps)):
        i = int(np.searchsorted(exact.short.step, step))
        weights = model.embed(jnp.asarray(a[i]), jnp.asarray(b[i]), setting.law.d)
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(seeds), *x.shape)), weights)
        both = []
        for purpose, (kind, law) in ((1, (how, setting.law)), (8, structured(how, setting.law))):
            keys = keys_of(setting, seeds, purpose, number)
            mean, stderr = jax.device_get(gradients(kind, many, law, keys, setting.samples))
            both.append([gradient.Estimate(one_of(mean, s), one_of(stderr, s), setting.samples) for s in range(len(seeds))])
        found.append([Point(float(a[i]), float(b[i]), *estimates) for estimates in zip(*both, strict=True)])
    return list(zip(*found, strict=True))


def descents(
    study: Study, seeds: Sequence[int], purpose: int, steps: int, batch: int, projected: bool
) -> list[descent.Trajectory]:
    """`descent.descend` of every seed; of the records only what the statistical claims read."""
    setting = study.setting
    optimiser = setting.make_optimiser()
    manifold = model.Active(setting.law.d)
    how, law = descent.Descent(study.objective, optimiser, manifold), setting.law
    how, law = structured(how, law) if projected else (how, law)
    start = manifold.embed(jnp.asarray(start_of(setting)))
    keys, grid = keys_of(setting, seeds, purpose), log_grid(steps, 8)
    one = descent._State(start, optimiser.init(start), jnp.zeros(()))
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(seeds), *x.shape)), one)
    move = jax.vmap(partial(descent._step, how, projected))
    rows, window = [], []
    for step in range(steps + 1):
        now = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        mean, stderr = gradients(how, state.weights, law, now, batch)
        window.append((np.asarray(mean.coordinates), np.asarray(stderr.coordinates)))
        if step in grid:
            where = np.asarray(jax.vmap(manifold.coordinates)(state.weights))
            slopes, errors = (np.stack(x) for x in zip(*window, strict=True))
            rows.append((where, *window[-1], slopes.mean(axis=0), np.sqrt((errors**2).sum(axis=0)) / len(errors)))
            window = []
        state, finite = move(state, mean.coordinates if projected else mean.weights)
        assert bool(np.all(finite)), f"a descent of the calibration breaks off at step {step}"
    where, slope, stderr, mean, error = (np.stack(x, axis=1) for x in zip(*rows, strict=True))
    nothing: Any = np.zeros(0)
    unread: Any = dict.fromkeys(("P", "Q", "loss", "loss_stderr", "distance", "inactive"), nothing)
    return [
        descent.Trajectory(step=grid, coordinates=where[s], slope=slope[s], slope_stderr=stderr[s], window=mean[s],
                           window_stderr=error[s], diverged_at=None, **unread)
        for s in range(len(seeds))
    ]  # fmt: skip


def measure(study: Study, seeds: Sequence[int]) -> list[Study]:
    """`theory.study.sampled` for every seed, beside the study's exact half."""
    setting = study.setting
    steps, batch, short = setting.sampled_steps, setting.batch, study.exact.short.step
    raw = int(short[np.searchsorted(short, max(1, steps // RAW_SHORTER))])
    runs = [
        descents(study, seeds, 2, raw, RAW_BATCH * batch, False),
        descents(study, seeds, 3, raw, 2 * RAW_BATCH * batch, False),
        descents(study, seeds, 4, steps, batch, True),
    ]
    points = points_of(study, study.exact, seeds)
    return [
        Study(dataclasses.replace(setting, seed=seed), study.objective, study.exact, *parts)
        for seed, *parts in zip(seeds, points, *runs, strict=True)
    ]


def statistical(study: Study) -> Iterator[Evidence]:
    """The evidence of every claim of the theorem that rests on sampling."""
    for claim in THEOREMS[study.setting.theorem].claims:
        if claim.__module__ in SAMPLED and claim.__name__ != "structure":
            yield from (e for e in claim(study) if e.statistical)


def check_same(batched: Study, study: Study) -> None:
    """The batched measurement of seed 0 is that of popgd."""
    assert study.setting.seed == batched.setting.seed == 0
    for one, other in zip(statistical(batched), statistical(study), strict=True):
        gap = np.max(abs(np.asarray(one.measured) - other.measured) / np.maximum(abs(np.asarray(other.measured)), 1e-3))
        assert gap < SAME, f"{one.id}: batched and single measurement differ by {gap:.1e}"


# --- one claim over all seeds


def interval(trials: int, p: float) -> tuple[int, int]:
    """The CENTRAL part of the binomial law: counts outside have at most half of the rest on either side."""
    k = np.arange(trials + 1)
    ways = np.array([lgamma(trials + 1) - lgamma(i + 1) - lgamma(trials - i + 1) for i in k])
    law = np.cumsum(np.exp(ways + k * log(p) + (trials - k) * log1p(-p)))
    low, high = np.searchsorted(law, ((1 - CENTRAL) / 2, (1 + CENTRAL) / 2))
    return int(low), int(high)


def refuted(e: Evidence, measured: np.ndarray) -> bool:
    alone = dataclasses.replace(e, measured=measured, resolution=ANY, excuse="")
    return judge([alone], NOMINAL)[0].outcome is Outcome.REFUTED


def detectable(e: Evidence, entry: int) -> float:
    """The gap that entry `entry` of the claim is said to catch with probability POWER."""
    worst = np.full(np.size(e.measured), e.predicted)
    worst[entry] = ANY / 2 * (-1 if e.sense == "at least" else 1)
    return float(judge([dataclasses.replace(e, measured=worst, resolution=ANY, excuse="")], NOMINAL)[0].detectable or np.inf)


def calibrate(found: Sequence[Evidence]) -> dict[str, Any]:
    """False alarms and power of one claim over its seeds.

    What is claimed to be at most 0 is truly below: it is shifted to that boundary by its mean over all seeds. Power:
    the truth is moved by exactly `detectable` in one entry, of each seed another one, and the others are silenced.
    """
    first, seeds = found[0], len(found)
    measured = np.stack([np.atleast_1d(e.measured) for e in found])
    if first.sense != "equal":
        measured = measured - measured.mean(axis=0) + first.predicted
    alarms = sum(refuted(e, row) for e, row in zip(found, measured, strict=True))
    caught = 0
    for seed, (e, row) in enumerate(zip(found, measured, strict=True)):
        entry, side = seed % row.size, -1 if e.sense == "equal" and seed // row.size % 2 else 1
        moved = np.full(row.size, e.predicted)
        moved[entry] = row[entry] + side * detectable(e, entry)
        caught += refuted(e, moved)
    (low, high), least = interval(seeds, NOMINAL), interval(seeds, POWER)[0]
    verdict = "not calibrated" if alarms > high or caught < least else "conservative" if alarms < low else "calibrated"
    t = np.concatenate([np.ravel((row - e.predicted) / e.error) for e, row in zip(found, measured, strict=True)])
    return {"claim": first.id, "entries": measured.shape[1], "nominal": NOMINAL, "seeds": seeds, "alarms": alarms,
            "interval": [low, high], "caught": caught, "promised": POWER, "at_least": least, "verdict": verdict,
            "bias": t.mean(), "spread": t.std(), "excused": sum(bool(e.excuse) for e in found),
            "allowance_in_errors": float(np.mean([np.max(e.allowance / e.error) for e in found])),
            "beyond": [int((abs(t) > z).sum()) for z in TAIL], "all": t.size}  # fmt: skip


# --- how far the normal approximation holds


@partial(jax.jit, static_argnames=("objective", "count"))
def draws(objective: Any, weights: model.Weights, law: Any, key: jax.Array, count: int) -> Any:
    """Single samples of what the claims average: traces, diagonals less the trace, entries off the diagonal."""
    statistic = gradient.GradientOf(objective, model.Active(law.d))

    def one(k: jax.Array) -> Any:
        found = statistic(weights, law.sample(k, jnp.float64))
        A, B = model.blocks(found.weights.P).b21, model.blocks(found.weights.Q).b12
        return {"trace": found.coordinates, "diagonal": found.deviations[:, 0], "off-diagonal": jnp.stack([A[1, 0], B[1, 0]])}

    return jax.lax.map(one, jax.random.split(key, count), batch_size=64)


def tails(study: Study, claims: Sequence[Evidence]) -> list[dict[str, Any]]:
    """What skewness makes of the stated tail at the default rate 1e-6 of a whole report, at the study's sizes.

    P(T > z) of a studentised mean is (1 - Phi(z)) exp(-skewness z^3/(3 sqrt n)) to leading order (Wang 2005, moderate
    deviations of self-normalised sums); a symmetric entry stays below exp(-z^2/2) whatever its tails (Efron 1969).
    """
    setting, rows = study.setting, []
    size = {e.id: np.size(e.measured) for e in claims}
    share = setting.false_alarm / len(claims) / max(1, len(THEOREMS[setting.theorem].targets))
    used = {
        "trace": ("engines-agree-slope", 2, setting.samples),
        "diagonal": ("active-gradient-scalar", 2, setting.samples),
        "off-diagonal": ("active-gradient-scalar", 2, setting.samples),
        "window": ("gradient-negative", 1, setting.batch),
    }
    for number, point in enumerate(study.points):
        weights = model.embed(jnp.asarray(point.a), jnp.asarray(point.b), setting.law.d)
        found = jax.device_get(draws(study.objective, weights, setting.law, setting.key(9, number), DRAWS))
        if number == 0 and "gradient-negative" in size:
            found["window"] = found["trace"]
        for kind, x in found.items():
            x = x[:, 1]  # the gradient of Q12, which carries a >= b
            y = (x - x.mean()) / x.std()
            claim, sides, n = used[kind]
            z = z_score(share / sides / size[claim])
            factor = exp(abs(float((y**3).mean())) * z**3 / 3 / n**0.5)
            rows.append({"claim": claim, "of": kind, "c": point.c, "n": n, "z": z, "skewness": float((y**3).mean()),
                         "kurtosis": float((y**4).mean()), "tail_factor": factor})  # fmt: skip
    return rows
