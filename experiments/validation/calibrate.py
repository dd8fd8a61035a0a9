"""False alarms under the truth and power at `detectable` of one claim, over many seeds measured
side by side.
"""

import ast
import dataclasses
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from math import lgamma, log, log1p
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from popgd.claims.evidence import Evidence
from popgd.descent import gradient
from popgd.descent.memory import FORGETFUL
from popgd.papers.in_context.slopes import agreement
from popgd.theorem.base import Setting
from popgd.theorem.problems import is_about_a_problem
from popgd.theorem.registry import theorems
from popgd.theorem.report import find_theorem, resolve
from popgd.theorem.verdict import POWER, SLOPE, Outcome, judge

#: Every claim is judged at this level: seldom enough to be a tail, often enough to be counted.
NOMINAL = 0.05
#: Counts must lie within this central part of their binomial law.
CENTRAL = 0.999
#: Samples of each seed in one piece, and seeds side by side: together they fill the cache.
CHUNK, ABREAST = 4, 64
#: The batched measurement must be that of popgd itself, up to the order of sums.
SAME = 1e-9
#: Where the tail of studentised gaps is counted.
TAIL = np.arange(0.0, 5.01, 0.25)
#: What yields checks of slopes, whose evidence is made elsewhere.
AGREE = {"slopes.agree", "slopes.agree_with"}
#: Judged at any size: the question here is how often, not whether the error bar is small enough.
ANY = 1e9


def quiet(name: str, done: int, total: int) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Case:
    """One setting whose statistical claims are calibrated.

    sizes are settings beside the theorem; one measures seed 0 by popgd's own code, from setting and
    objective, and many makes the studies of many seeds out of that, both as far as the statistical
    claims read them.
    """

    name: str
    theorem: str
    sizes: dict[str, Any]
    one: Callable[[Setting, Any], Any]
    many: Callable[[Any, Sequence[int]], list[Any]]
    target: str = ""

    def study(self) -> Any:
        """Seed 0."""
        setting = resolve({"theorem": self.theorem, **self.sizes})
        return self.one(setting, find_theorem(self.theorem).objective(setting, self.target))


def whole(setting: Setting, objective: Any) -> Any:
    """All that popgd measures."""
    return find_theorem(setting.theorem).study(setting, objective, quiet, FORGETFUL)


# --- which claims are statistical


@cache
def stated(claim: Callable[..., Any]) -> set[str]:
    """The ids of the statistical evidence that a claim can yield, by the source: of itself and of
    what it calls in its module.
    """
    functions = {
        n.name: n
        for n in ast.parse(inspect.getsource(sys.modules[claim.__module__])).body
        if isinstance(n, ast.FunctionDef)
    }
    seen, todo = set(), {claim.__name__}
    while todo - seen:
        name = (todo - seen).pop()
        seen.add(name)
        todo |= {
            n.id for n in ast.walk(functions[name]) if isinstance(n, ast.Name) and n.id in functions
        }
    return set().union(*(_ids(functions[name]) for name in seen))


def _ids(function: ast.FunctionDef) -> set[str]:
    """Ids of the evidence that a function makes by `estimated`."""
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
    ids = {_start(call.args[0]) for call in calls if ast.unparse(call.func) == "estimated"}
    called = {ast.unparse(call.func) for call in calls}
    return ids | ({f"{SLOPE}*"} if called & AGREE else set())


def _start(id: ast.expr) -> str:
    """An id, or of one that is put together its fixed beginning and *."""
    if isinstance(id, ast.JoinedStr) and isinstance(id.values[0], ast.Constant):
        return f"{id.values[0].value}*"
    return str(id.value) if isinstance(id, ast.Constant) else ast.unparse(id)


def uncalibrated(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Statistical claims of theorems, and of popgd's findings, that these rows of numbers do not
    have. Checks of slopes are apart: tests/test_slopes.py calibrates them.
    """
    done = {(row["theorem"], row["claim"]) for row in rows}
    # Those about a Problem are examined with the vocabulary, not paper by paper
    known = {name: t for name, t in theorems().items() if not is_about_a_problem(t)}
    every = ((name, id) for name, theorem in known.items() for id in theorem.sampled)
    return sorted(
        f"{name} {id}" for name, id in every if (name, id) not in done and not id.startswith(SLOPE)
    )


# --- many seeds at once


@partial(jax.jit, static_argnames=("statistic", "own_law"))
def averages(
    statistic: Any, weights: Any, law: Any, keys: jax.Array, samples: Any, own_law: bool = False
) -> tuple[Any, Any]:
    """Mean and standard error of a statistic for every seed, as `gradient.population_average` has
    them.

    weights (and the law, if each seed has its `own_law`) lead with the seeds. One compilation for
    all `samples`.
    """
    one = lambda w, law, k: gradient._estimate(statistic, w, law, k, samples, CHUNK)
    if own_law:
        return jax.lax.map(lambda parts: one(*parts), (weights, law, keys), batch_size=ABREAST)
    return jax.lax.map(
        lambda parts: one(parts[0], law, parts[1]), (weights, keys), batch_size=ABREAST
    )


def keys_of(setting: Setting, seeds: Sequence[int], *purpose: int) -> jax.Array:
    return jnp.stack([dataclasses.replace(setting, seed=seed).key(*purpose) for seed in seeds])


def one_of(many: Any, s: int) -> Any:
    return jax.tree.map(lambda x: x[s], many)


def stacked(every: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *every)


def statistical(study: Any) -> Iterator[Evidence]:
    """The evidence of the theorem's claims that rests on sampling, but for slopes in context, which
    are not measured side by side.
    """
    for claim in find_theorem(study.setting.theorem).claims:
        if stated(claim) and claim is not agreement:
            yield from (e for e in claim(study) if e.statistical)


def abreast(work: Callable[[Any], Any], of: Sequence[Any]) -> list[Any]:
    """[work(x) for x in of], one core each: compiled code lets the others go on."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, of))


def check_same(batched: Any, study: Any) -> None:
    """The batched measurement of seed 0 is that of popgd."""
    assert study.setting.seed == batched.setting.seed == 0
    for one, other in zip(statistical(batched), statistical(study), strict=True):
        for mine, wanted in (
            (one.measured, other.measured),
            (one.error, other.error),
            (one.skewness, other.skewness),
        ):
            gap = np.max(abs(np.asarray(mine) - wanted) / np.maximum(abs(np.asarray(wanted)), 1e-3))
            assert gap < SAME, f"{one.id}: batched and single measurement differ by {gap:.1e}"


# --- one claim over all seeds


def interval(trials: int, p: float) -> tuple[int, int]:
    """The CENTRAL part of the binomial law: counts outside have at most half of the rest on either
    side.
    """
    k = np.arange(trials + 1)
    ways = np.array([lgamma(trials + 1) - lgamma(i + 1) - lgamma(trials - i + 1) for i in k])
    law = np.cumsum(np.exp(ways + k * log(p) + (trials - k) * log1p(-p)))
    low, high = np.searchsorted(law, ((1 - CENTRAL) / 2, (1 + CENTRAL) / 2))
    return int(low), int(high)


def flat(e: Evidence) -> Evidence:
    """The same with one row of entries, judged at any size."""
    names = ("measured", "error", "allowance", "skewness")
    rows = np.broadcast_arrays(*(np.asarray(getattr(e, name), dtype=float) for name in names))
    return dataclasses.replace(
        e, **dict(zip(names, map(np.ravel, rows), strict=True)), resolution=ANY, excuse=""
    )


def refuted(e: Evidence, measured: np.ndarray) -> bool:
    return judge(dataclasses.replace(e, measured=measured), NOMINAL).outcome is Outcome.REFUTED


def detectable(e: Evidence, entry: int) -> float:
    """The gap that entry `entry` of the claim is said to catch with probability POWER."""
    worst = np.full(e.measured.size, e.predicted)
    worst[entry] = ANY / 2 * (-1 if e.sense == "at least" else 1)
    return float(judge(dataclasses.replace(e, measured=worst), NOMINAL).detectable or np.inf)


def calibrate(found: Sequence[Evidence]) -> dict[str, Any]:
    """False alarms and power of one claim over its seeds.

    What is claimed to be at most (or at least) a number is truly on that side of it: it is shifted
    to that boundary by its mean over all seeds. Power: the truth is moved by exactly `detectable`
    in one entry that is sampled at all, of each seed another one, and the others are silenced.
    """
    excused, found = sum(bool(e.excuse) for e in found), [flat(e) for e in found]
    first, seeds = found[0], len(found)
    measured, error, allowance = (
        np.stack([getattr(e, name) for e in found]) for name in ("measured", "error", "allowance")
    )
    if first.sense != "equal":
        measured = measured - measured.mean(axis=0) + first.predicted
    alarms = sum(refuted(e, row) for e, row in zip(found, measured, strict=True))
    caught, live = 0, np.flatnonzero((error > 0).all(axis=0))
    for seed, (e, row) in enumerate(zip(found, measured, strict=True)):
        entry, side = (
            live[seed % live.size],
            {"equal": (-1) ** (seed // live.size), "at least": -1, "at most": 1}[e.sense],
        )
        moved = np.full(row.size, e.predicted)
        moved[entry] = row[entry] + side * detectable(e, entry)
        caught += refuted(e, moved)
    (low, high), least = interval(seeds, NOMINAL), interval(seeds, POWER)[0]
    verdict = (
        "not calibrated"
        if alarms > high or caught < least
        else "conservative"
        if alarms < low
        else "calibrated"
    )
    gaps = measured - np.array(
        [[e.predicted] for e in found]
    )  # growth is predicted for each seed's own direction
    t = (gaps[:, live] / error[:, live]).ravel()
    return {
        "claim": first.id,
        "entries": measured.shape[1],
        "nominal": NOMINAL,
        "seeds": seeds,
        "alarms": alarms,
        "interval": [low, high],
        "caught": caught,
        "promised": POWER,
        "at_least": least,
        "verdict": verdict,
        "bias": t.mean(),
        "spread": t.std(),
        "excused": excused,
        "allowance_in_errors": float(np.mean(np.max(allowance[:, live] / error[:, live], axis=1))),
        "beyond": [int((abs(t) > z).sum()) for z in TAIL],
        "all": t.size,
    }
