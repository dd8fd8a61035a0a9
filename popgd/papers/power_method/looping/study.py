"""What is measured for a theorem about looping a trained layer on other data: training exactly,
then the transformer itself.

Theorem 4.6 loops layers trained as in 4.3 (with LN) and in 4.2 (without), Theorem 4.7 runs the
model of 4.1 at its own L. Source: arXiv 2606.00605, Section 4.3.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from popgd.descent.chunks import working_set
from popgd.descent.memory import Memory
from popgd.papers.power_method import model, slopes
from popgd.papers.power_method.looping import data as inference_data
from popgd.papers.power_method.looping import inference
from popgd.papers.power_method.looping.data import TEST_LAWS
from popgd.papers.power_method.looping.inference import Angles, Bounds, Query, Rounding, Split
from popgd.papers.power_method.looping.trained import Trained, train
from popgd.papers.power_method.slopes import Slopes
from popgd.problem.errors import SettingError
from popgd.problem.law import Hypothesis
from popgd.problem.number import Number
from popgd.theorem.base import Progress, Setting, Unfolding, fits

#: Snapshots of a trained model, evenly spaced in the logarithm of the step, the last step among
#: them.
SNAPSHOTS = 6
#: Random queries on every matrix, and columns of a named test law per dimension.
QUERIES, COLUMNS = 2, 4
#: Nothing is claimed of a loop at which float64's relative error of tan theta may exceed this, that
#: of the eigenvectors included.
TRUSTED = 1e-3
#: The settings that describe the test data.
OF_TESTS = ("data", "normalise", "test", "query")
#: Arrays of the size of all outputs that are alive at once: measured, expected, and those made on
#: the way.
ARRAYS = 4
#: log of 1e154: without LN the square of a longer output overflows, and the transformer's Z Z^T
#: with it.
LONGEST = float(np.log(1e154))


class Test(NamedTuple):
    """A data matrix, its spectrum, unit queries as rows, and a word on where it comes from.

    The last query is `inference.worst_query`, the others are random or the user's own.
    """

    name: str
    words: str
    X: Float[np.ndarray, "d n"]
    spectrum: Split
    queries: Float[np.ndarray, "queries d"]


#: Rounding of the worst query's own tan theta_0, which is 1.
START = 8 * inference.UNIT


class Run(NamedTuple):
    """One trained model on one matrix: what the loop returned, and what theory says, by (snapshot,
    query, depth).

    trusted is where claims are made: float64's error bound is small, and lengths stay within its
    range.
    """

    test: Test
    c: Float[np.ndarray, " snapshots"]
    outputs: Float[np.ndarray, "snapshots queries depths d"]
    expected: Float[np.ndarray, "snapshots queries depths d"]
    measured: Angles
    exact: Angles
    bounds: Bounds
    rounding: Rounding
    trusted: np.ndarray

    def factors(self, depths: np.ndarray) -> Number:
        """The measured factor a loop of the worst query over all trusted loops, for every
        snapshot; NaN if none.
        """
        S = self.test.spectrum
        start = inference.angles(
            S, inference.query(S, self.test.queries[-1]), 0.0, np.array([0])
        ).tan[0]
        value, error = (np.full(self.c.size, np.nan) for _ in range(2))
        for i in range(self.c.size):
            seen = np.flatnonzero(self.trusted[i, -1])
            if seen.size:
                # The depth whose error a loop is the least.
                k = seen[np.argmin((self.rounding.tan[i, -1] + START)[seen] / depths[seen])]
                value[i] = np.exp((self.measured.tan[i, -1, k] - start) / depths[k])
                error[i] = value[i] * (self.rounding.tan[i, -1, k] + START) / depths[k]
        return Number(value, error)


@dataclass(frozen=True)
class Inference(Unfolding):
    """Everything measured: runs[model name] holds one `Run` for every test matrix; depths are
    numbers of loops.

    slopes[model name] are sampled ones at its first and last snapshots.
    """

    setting: Setting
    models: tuple[Trained, ...]
    depths: np.ndarray
    runs: Mapping[str, tuple[Run, ...]]
    slopes: Mapping[str, Slopes]

    def pairs(self, layer_norm: bool | None = None) -> Iterator[tuple[Trained, tuple[Run, ...]]]:
        """Every model with its runs; only those with, or without, LN if told."""
        for trained in self.models:
            if layer_norm in (None, trained.layer_norm):
                yield trained, self.runs[trained.name]

    def arrays(self) -> dict[str, np.ndarray]:
        """For every model the snapshots, for every matrix X, queries, log sin theta and its bounds.

        rounding bounds the errors of log_sin, log_sin_exact and log_upper, rounding_lower that of
        log_lower.
        """
        arrays: dict[str, np.ndarray] = {"loops": self.depths}
        for trained, runs in self.pairs():
            snap = trained.snapshots
            arrays |= {
                f"{trained.name}/{key}": x for key, x in zip(("step", "a", "b"), snap, strict=True)
            }
            for run in runs:
                here = f"{trained.name}/{run.test.name}"
                arrays |= {
                    f"{here}/log_sin": run.measured.sin,
                    f"{here}/log_sin_exact": run.exact.sin,
                }
                arrays |= {
                    f"{here}/log_lower": run.bounds.sharper,
                    f"{here}/log_upper": run.bounds.upper,
                }
                arrays |= {f"{here}/rounding": run.rounding.angle, f"{here}/trusted": run.trusted}
                arrays |= {f"{here}/rounding_lower": run.rounding.lower}
                arrays |= {
                    f"test/{run.test.name}/X": run.test.X,
                    f"test/{run.test.name}/queries": run.test.queries,
                }
        return arrays

    def figures(self, title: str) -> dict[str, Any]:
        """loops, and factors."""
        from popgd.papers.power_method.looping import pictures as inference_pictures

        return inference_pictures.figures(self, title)


def tests_of(setting: Setting) -> tuple[Test, ...]:
    """The matrices and queries that the settings data, test and query describe. Raises SettingError
    (one line).
    """
    return _tests(setting.law.d, setting.seed, *(setting[name] for name in OF_TESTS))


@cache
def _tests(
    d: int, seed: int, data: str | None, normalise: bool, test: str, query: str | None
) -> tuple[Test, ...]:
    key = jax.random.fold_in(jax.random.key(seed), 6)
    own = None if query is None else inference_data.load_query(inference_data.path_of(query), d)
    if data is not None:
        loaded = inference_data.load(inference_data.path_of(data), normalise)
        return (_test("data", loaded.words, loaded.X, own, key),)
    chosen = (
        [test] if test != "all" else [name for name, law in TEST_LAWS.items() if law.least_d <= d]
    )
    keys = {name: jax.random.fold_in(key, number) for number, name in enumerate(TEST_LAWS)}
    n = COLUMNS * d
    return tuple(
        _test(
            name, TEST_LAWS[name].words, TEST_LAWS[name].sample(keys[name], d, n), own, keys[name]
        )
        for name in chosen
    )


def _test(name: str, words: str, X: np.ndarray, own: np.ndarray | None, key: jax.Array) -> Test:
    spectrum = inference.split(X)
    if own is None:
        G = np.asarray(
            jax.random.normal(jax.random.fold_in(key, 99), (QUERIES, X.shape[0]), jnp.float64)
        )
        queries = G / np.linalg.norm(G, axis=1, keepdims=True)
    else:
        queries = own[None]
    if spectrum.r < spectrum.d:
        queries = np.concatenate([queries, inference.worst_query(spectrum)[None]])
    return Test(name, words, X, spectrum, queries)


def hypotheses(setting: Setting) -> list[Hypothesis]:
    """Assumption 4.4, a gap, and queries that are not orthogonal to V; for the training, its
    own.
    """
    found = [*setting.law.hypotheses()]
    law = setting.law
    found += [
        Hypothesis(
            "r < d",
            law.r < law.d,
            f"in training the largest eigenvalue has multiplicity {law.r}, and d = {law.d}",
        )
    ]
    for test in tests_of(setting):
        S, name = test.spectrum, test.name
        gap = S.r < S.d
        reason = (
            f"on {name} all {S.d} eigenvalues are {S.lam[0]:.6g}, up to 1e-9: there is no "
            "leading direction to find"
        )
        found.append(Hypothesis("lambda_1 > lambda_d", gap, reason))
        for q in test.queries if gap else ():
            rho = inference.query(S, q).rho
            reason = (
                f"on {name} the query is orthogonal to the leading subspace, up to rounding "
                f"{inference.uncertainty(S):.1g}"
            )
            found.append(Hypothesis("rho > 0", rho > 0, reason))
    found += [
        Hypothesis(
            "gradient descent",
            setting.optimiser == "sgd",
            f"the optimiser is {setting.optimiser}, not plain sgd",
        )
    ]
    return found


@partial(jax.jit, static_argnames=("loops", "normalise", "last_only"))
def _loop(
    a: jax.Array,
    b: jax.Array,
    X: jax.Array,
    queries: jax.Array,
    loops: int,
    normalise: bool,
    last_only: bool,
) -> jax.Array:
    """The transformer's outputs for every (a, b) and query, at every depth or after the last loop
    only.
    """

    def one(a: jax.Array, b: jax.Array, q: jax.Array) -> jax.Array:
        weights = model.embed(a, b, X.shape[0])
        if last_only:
            return model.looped(weights, X, q, loops, normalise)[None]
        return inference.outputs(weights, X, q, loops, normalise)

    return jax.lax.map(lambda ab: jax.vmap(lambda q: one(ab[0], ab[1], q))(queries), (a, b))


def run_on(trained: Trained, test: Test, depths: np.ndarray, last_only: bool) -> Run:
    """Loop every snapshot of a model on one matrix, and set beside it what theory says."""
    _, a, b = trained.snapshots
    X, queries = jnp.asarray(test.X), jnp.asarray(test.queries)
    out = np.asarray(
        _loop(
            jnp.asarray(a),
            jnp.asarray(b),
            X,
            queries,
            int(depths[-1]),
            trained.layer_norm,
            last_only,
        )
    )
    S = test.spectrum
    rows = [
        [
            _theory(S, inference.query(S, q), float(c), depths, trained.layer_norm)
            for q in test.queries
        ]
        for c in a * b
    ]
    columns = [
        np.stack([np.stack([row[i] for row in rank]) for rank in rows])
        for i in range(len(rows[0][0]))
    ]
    flat = inference.measured(S, out.reshape(-1, S.d))
    seen = Angles(*[x.reshape(out.shape[:-1]) for x in flat])
    expected, lengths, error = columns[0], columns[1], Rounding(*columns[8:])
    trusted = (error.angle <= TRUSTED) & (lengths <= LONGEST)
    return Run(
        test,
        a * b,
        out,
        expected,
        seen,
        Angles(*columns[2:5]),
        Bounds(*columns[5:8]),
        error,
        trusted,
    )


def _theory(
    S: Split, at: Query, c: float, depths: np.ndarray, layer_norm: bool
) -> tuple[np.ndarray, ...]:
    """Output, log length, three angles, three bounds and four roundings at the depths."""
    at_depths = inference.rounding(S, at, c, int(depths[-1]))
    lengths = np.zeros(depths.size) if layer_norm else inference.log_length(S, at, c, depths)
    with np.errstate(over="ignore"):
        output = inference.direction(S, at, c, depths) * np.exp(lengths)[:, None]
    by_loops, *others = (x[depths - 1] for x in at_depths)
    by_length = inference.EXPONENT * inference.UNIT * abs(lengths)
    told = (*inference.angles(S, at, c, depths), *inference.bounds(S, at, c, depths))
    return output, lengths, *told, by_loops + by_length, *others


def fits_memory(d: int, n: int, matrices: int, models: int, loops: int) -> None:
    """Raises SettingError if one test matrix of this shape, or the outputs of all loops, exceed
    half the memory here.
    """
    queries = QUERIES + 1
    fits(f"test data with d={d}, n={n}", queries * working_set(*model.shapes(d, n)))
    fits(f"loops={loops}", ARRAYS * 8 * matrices * queries * SNAPSHOTS * models * loops * d)


def judgeable(values: Mapping[str, Any], d: int) -> None:
    """Raises SettingError if no factor is left to judge, for when hypotheses are to be ignored."""
    for test in _tests(d, values["seed"], *(values[name] for name in OF_TESTS)):
        S = test.spectrum
        if S.r == S.d:
            raise SettingError(
                f"on {test.name} all eigenvalues are equal: no direction leads, nothing is left "
                "to judge; use other data"
            )
        if any(inference.query(S, q).rho == 0 for q in test.queries):
            raise SettingError(
                f"on {test.name} a query is orthogonal to the leading subspace: no loop finds it; "
                "use another query"
            )


def study(
    setting: Setting, names: tuple[str, ...], progress: Progress, memory: Memory
) -> Inference:
    """Train the models with these names, unless a finished run has them, and loop them on all test
    matrices.
    """
    last_only = "loops" not in setting.options
    tests = tests_of(setting)
    count = 1 if last_only else setting["loops"]
    depths = np.array([setting.L]) if last_only else np.arange(1, count + 1)
    models = tuple(train(setting, name, SNAPSHOTS, progress, memory.part(name)) for name in names)

    def runs() -> dict[str, tuple[Run, ...]]:
        found, total = {}, len(models) * len(tests)
        for number, trained in enumerate(models):
            found[trained.name] = ()
            for done, test in enumerate(tests):
                progress("looping on test data", number * len(tests) + done, total)
                found[trained.name] += (run_on(trained, test, depths, last_only),)
        progress("looping on test data", total, total)
        return found

    sampled = lambda m: slopes_of(setting, m, progress, memory.part(m.name))
    return Inference.of(
        {"setting": setting, "models": models, "depths": depths},
        {"slopes": lambda: {m.name: sampled(m) for m in models}, "runs": runs},
    )


def slopes_of(setting: Setting, trained: Trained, progress: Progress, memory: Memory) -> Slopes:
    step, *_ = trained.snapshots
    ends = [0, -1]
    return slopes.measure(
        setting, trained.objective, trained.curve, step[ends], trained.c[ends], progress, memory
    )
