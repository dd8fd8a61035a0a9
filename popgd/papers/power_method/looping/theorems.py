"""Trained transformers looped on other data than they were trained on: Theorems 4.6 and 4.7.

Source: Wu, Zhang, Cao, arXiv 2606.00605 (2026), Section 4.3. All that is asked of the test data is
unit columns.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from popgd.claims.evidence import Evidence, known
from popgd.descent.memory import Memory
from popgd.papers.power_method import slopes
from popgd.papers.power_method.looping import claims as angles
from popgd.papers.power_method.looping import data as inference_data
from popgd.papers.power_method.looping import inference
from popgd.papers.power_method.looping import trained as training
from popgd.papers.power_method.looping.inference import Query, Split
from popgd.papers.power_method.looping.study import (
    COLUMNS,
    LONGEST,
    TRUSTED,
    Inference,
    Run,
    fits_memory,
    hypotheses,
    judgeable,
    study,
)
from popgd.papers.power_method.looping.trained import Trained
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.options import DEPTHS, DESCENT, LAW, LOOPING, LOOPS
from popgd.papers.power_method.theorems import PAPER, contracting_step, natural_step
from popgd.papers.power_method.training import convergence, growth
from popgd.problem.errors import SettingError
from popgd.problem.number import Number
from popgd.theorem.base import Progress, Setting, Theorem

#: A limit as t -> infinity must be met this closely, its first 1/c term removed.
LIMIT_RESOLUTION = 1e-4
#: The models that each theorem loops.
LAYERS, LOOPED = ("LN", "norm", "unnorm"), ("looped",)
#: How the ids of the checks of their slopes begin: nothing else here rests on sampling.
CHECK = "engines-agree-slope"


def first_order(S: Split, at: Query, L: int, c: float) -> tuple[float, float]:
    """The relative 1/c term of sin theta_L, and a bound of what is left of the 1/c^2 terms.

    With p_i ~ lam_i^{2L} alpha_i^2 over i > r: d log tan/d(1/c) = L (sum_i p_i/lam_i - 1/lam_1),
    and cos^2 theta of it for sin.
    """
    r, lam = S.r, S.lam / S.lam[0]
    squares = at.alpha**2
    weight = squares[r:] * lam[r:] ** (2 * L)
    total = float(weight.sum())
    one, two = (float((squares[r:] * lam[r:] ** (2 * L - k)).sum()) / total for k in (1, 2))
    inside = float(squares[:r].sum())
    step = L / (c * S.lam[0])
    return step * (one - 1) * inside / (inside + total), 4 * (1 + 4) * step**2 * (two + 1)


def beyond(ratios: list[float]) -> bool:
    """Whether a bound is refuted, whatever else is wrong."""
    return bool(max(ratios) > 1 + LIMIT_RESOLUTION)


def power_limit(study: Inference) -> Iterator[Evidence]:
    """As t -> infinity the angle is that of the L-step power method, and within both bounds with
    gamma = lam_{r+1}/lam_1.
    """
    (trained, runs), L = next(study.pairs()), study.setting.L
    sizes = np.array([float(study.depths[-1]), np.inf])
    found: dict[str, list[float]] = {
        name: [] for name in ("limit-angle", "limit-upper", "limit-lower", "allowance", "idle")
    }
    for run in runs:
        S, c = run.test.spectrum, float(run.c[-1])
        if S.ratio == 0:  # one power step is exact: sin is 0, and no ratio is left to judge
            continue
        for k, q in enumerate(run.test.queries):
            if not run.trusted[-1, k, -1]:
                continue
            at = inference.query(S, q)
            slope, left = first_order(S, at, L, c)
            measured = float(run.measured.sin[-1, k, -1]) - slope
            exact, sides = (
                inference.angles(S, at, np.inf, sizes[:1]),
                inference.bounds(S, at, np.inf, sizes[:1]),
            )
            found["limit-angle"].append(np.exp(measured - exact.sin[0]))
            found["limit-upper"].append(np.exp(measured - sides.upper[0]))
            found["limit-lower"].append(np.exp(sides.sharper[0] - measured))
            found["idle"].append(
                np.expm1(inference.angles(S, at, 0.0, np.array([0])).sin[0] - exact.sin[0])
            )
            # Loop and power method meet in the same eigenvectors: their error is in both alike.
            found["allowance"].append(left + float(run.rounding.tan[-1, k, -1]) + L * S.spread)
    allowed, idle = np.array(found.pop("allowance")), np.array(found.pop("idle"))
    still = (
        ""
        if np.any(abs(idle) > angles.MOVED * LIMIT_RESOLUTION)
        else "the power method does not move these queries"
    )
    met = np.all(abs(np.array(found["limit-angle"]) - 1) <= allowed + LIMIT_RESOLUTION)
    away = "" if met else "the angle is not that of the power method: its bounds say nothing"
    told = {
        "limit-angle": (
            "the angle tends to that of the L-step power method, sin theta = that of S^L q",
            "equal",
            "derived",
        ),
        "limit-upper": (
            "in the limit sin theta_L <= sqrt(1 - rho^2)/rho (lam_(r+1)/lam_1)^L",
            "at most",
            "paper",
        ),
        "limit-lower": (
            "in the limit sin theta_L >= |alpha_(r+1)| (lam_(r+1)/lam_1)^L: ratio bound/sin",
            "at most",
            "paper",
        ),
    }
    for name, (statement, sense, origin) in told.items():
        yield known(
            f"{name}-{trained.name}",
            f"{trained.name}: {statement}: ratio at step {trained.snapshots[0][-1]:.3g}, its 1/c "
            "term removed",
            "limit t -> infinity",
            predicted=1.0,
            measured=np.array(found[name]) if allowed.size else 0.0,
            allowance=allowed if allowed.size else 0.0,
            resolution=LIMIT_RESOLUTION,
            reason=f"at c = {trained.c[-1]:.4g}: terms in 1/c^2, and rounding",
            origin=origin,
            sense=sense,
            excuse=(still or ("" if sense == "equal" or beyond(found[name]) else away))
            if allowed.size
            else "float64 ends before the last loop",
        )


def quantities(study: Inference) -> dict[str, Number]:
    """For every matrix its spectrum's split; for every model its last c, and its factor, slack and
    range on every matrix.
    """
    found: dict[str, Number] = {}
    for trained, runs in study.pairs():
        errors = errors_of_c(study.setting, trained)
        found[f"c_{trained.name}"] = Number(trained.c[-1], errors[-1])
        for run in runs:
            S, name = run.test.spectrum, run.test.name
            found |= {
                f"r_{name}": Number(S.r),
                f"lambda_ratio_{name}": Number(S.ratio, 2 * S.rounding),
            }
            each = _of_run(run, study.depths, errors, trained.layer_norm)
            found |= {f"{key}_{trained.name}_{name}": number for key, number in each.items()}
    return found


def errors_of_c(setting: Setting, trained: Trained) -> Float[np.ndarray, " snapshots"]:
    """Errors of c at the snapshots, rounding and sampling error added up; infinite where the latter
    is not known.

    Where c grows, a slope larger by a small share all along moves it as that share more steps
    would, as in `Exact.c_at`.
    """
    records, c = trained.records, trained.c
    step, bound = records.step[trained.chosen], records.bound[trained.chosen]
    if not trained.power:
        changed, star = convergence.Changed.of(trained.curve), trained.curve.c_star()
        values = changed.descend(setting, step).c
        off = float(star.bound) / abs(star.value) if star.value else 0.0
        return changed.number(values, off).error
    bound = np.where(np.isfinite(bound), bound, growth.STEPWISE_ROUNDING * c)
    if len(trained.curve.spectra.lam) == 1:
        return bound
    if setting.optimiser != "sgd":
        return np.full(c.shape, np.inf)
    shares = trained.curve.log_slope(np.append(c, 0.0)).stderr
    # The first increments fall so fast that the one to come says too little
    before = np.diff(records.c) / np.diff(records.step)
    increment = np.maximum(abs(records.dc[trained.chosen]), abs(before[trained.chosen - 1]))
    return bound + increment * step * np.maximum(shares[:-1], shares[-1])


def ends(c: Any, error: Any) -> tuple[Any, Any]:
    """c less and plus its error, not below 0."""
    return np.maximum(c - error, 0.0), c + error


def _of_run(
    run: Run, depths: np.ndarray, errors: np.ndarray, layer_norm: bool
) -> Mapping[str, Number]:
    """The last snapshot's measured factor and gamma(c); how close sin theta comes to its bounds (1:
    they are met); and the number of depths that float64 lasts, at the query that it serves worst.
    errors are those of c at the snapshots.
    """
    S, c, off = run.test.spectrum, float(run.c[-1]), float(errors[-1])
    least, most = ends(c, off)
    low, gamma, high = (inference.factor(S, x) for x in (least, c, most))
    moved = max(abs(x.value - gamma.value) for x in (high, low)) if np.isfinite(off) else np.inf
    found = {
        "factor": run.factors(depths).at(-1).moved(moved),
        "gamma": gamma.moved(moved),
        "float64_loops": Number(
            run.trusted[-1].sum(axis=-1).min(), _loops_off(run, depths, layer_norm, off)
        ),
    }
    trusted = run.trusted[:, :-1]  # the worst query meets its bounds by construction
    if trusted.any():
        seen = _extremes(
            run.measured.sin[:, :-1] - run.bounds.upper[:, :-1],
            run.bounds.sharper[:, :-1] - run.measured.sin[:, :-1],
            trusted,
        )
        here, *around = (
            _extremes(*_gaps(run, depths, at), trusted) for at in (run.c, *ends(run.c, errors))
        )
        rounding = _rounding_of(run, trusted)
        for name, ratio in seen.items():
            moved = (
                max(abs(other[name] - here[name]) for other in around)
                if np.isfinite(errors).all()
                else np.inf
            )
            found[name] = Number(ratio, rounding[name.partition("_")[0]] + moved)
    return found


def _rounding_of(run: Run, trusted: np.ndarray) -> dict[str, float]:
    """The largest error of a ratio of sin theta to its upper bound, and of the lower bound to it:
    of both sides.
    """
    sin, upper, lower, off = (
        run.measured.sin[:, :-1],
        run.bounds.upper[:, :-1],
        run.bounds.sharper[:, :-1],
        run.rounding,
    )
    sides = {
        "upper": (sin - upper, 2 * off.angle[:, :-1]),
        "lower": (lower - sin, (off.angle + off.lower)[:, :-1]),
    }
    # A lower bound of 0 is 0 whatever its relative error
    return {
        name: float(np.max(np.where(gap > -np.inf, np.exp(gap) * error, 0.0)[trusted]))
        for name, (gap, error) in sides.items()
    }


def _extremes(upper: np.ndarray, lower: np.ndarray, trusted: np.ndarray) -> dict[str, float]:
    """The largest and the least ratio of sin theta to its upper bound, and of the lower bound to
    it, from their logarithms.
    """
    sides = {"upper": np.exp(upper[trusted]), "lower": np.exp(lower[trusted])}
    return {
        f"{name}_{word}": float(f(x))
        for name, x in sides.items()
        for word, f in (("tightest", np.max), ("loosest", np.min))
    }


def _gaps(
    run: Run, depths: np.ndarray, c: Float[np.ndarray, " snapshots"]
) -> tuple[np.ndarray, np.ndarray]:
    """log sin theta less its upper bound, and the lower bound less it, exactly, for the given c of
    the snapshots: where an extreme is taken moves with them, so that its own slope in c says too
    much.
    """
    S = run.test.spectrum
    at = [inference.query(S, q) for q in run.test.queries[:-1]]
    sin = np.array([[inference.angles(S, q, float(x), depths).sin for q in at] for x in c])
    sides = [[inference.bounds(S, q, float(x), depths) for q in at] for x in c]
    upper, lower = (
        np.array([[getattr(b, name) for b in row] for row in sides])
        for name in ("upper", "sharper")
    )
    return sin - upper, lower - sin


def _loops_off(run: Run, depths: np.ndarray, layer_norm: bool, error: float) -> float:
    """By how much the error of the last c may move the number of depths that float64 lasts."""
    if not np.isfinite(error):
        return np.inf
    S, c = run.test.spectrum, float(run.c[-1])

    def lasts(c: float) -> int:
        counts = []
        for q in run.test.queries:
            at = inference.query(S, q)
            trusted = inference.rounding(S, at, c, int(depths[-1])).angle[depths - 1] <= TRUSTED
            counts.append(
                np.sum(
                    trusted
                    if layer_norm
                    else trusted & (inference.log_length(S, at, c, depths) <= LONGEST)
                )
            )
        return int(min(counts))

    return float(max(abs(lasts(x) - lasts(c)) for x in ends(c, error)))


def make_law(values: Mapping[str, Any], names: tuple[str, ...], deep: bool) -> training.TrainingLaw:
    """The law that the named models are trained on; deep ones are looped `loops` times, others once
    at their own L.

    All files are read here, so that what is wrong with them is said before any training and before
    anything is written.
    """
    data = values["data"]
    if data and values["test"] != "all":
        raise SettingError(
            f"test={values['test']} was given beside data, which are the test data: leave out one "
            "of them"
        )
    if values["normalise"] and not data:
        raise SettingError(
            "normalise=true is about data, and none was given: leave it out, test laws have unit "
            "columns"
        )
    d, n = (
        inference_data.load(inference_data.path_of(data), values["normalise"]).X.shape
        if data
        else (None, None)
    )
    made = training.make_law(values, names, d)
    if values["test"] != "all":
        least = inference_data.TEST_LAWS[values["test"]].least_d
        if made.d < least:
            raise SettingError(
                f"test={values['test']} needs d >= {least}, and the model has d={made.d}"
            )
    if values["query"]:
        inference_data.load_query(inference_data.path_of(values["query"]), made.d)
    matrices = 1 if data or values["test"] != "all" else len(inference_data.TEST_LAWS)
    fits_memory(made.d, n or COLUMNS * made.d, matrices, len(names), values["loops"] if deep else 1)
    if values["assume"] == "ignore":
        judgeable(values, made.d)
    return made


def step_size(law: training.TrainingLaw, L: int, automatic: Any) -> float:
    """The trained run's own, or the automatic one."""
    return float(law.kept["eta"]) if law.kept else automatic(law, L)


def measure(
    setting: Setting, objective: Any, progress: Progress, memory: Memory, names: tuple[str, ...]
) -> Inference:
    return study(setting, training.names_in(setting, names), progress, memory)


def checks(study: Inference) -> Iterator[Evidence]:
    """The slopes of the models' training, by two engines."""
    for trained in study.models:
        name = f"{CHECK}-{trained.name}"
        yield slopes.agree_with(
            trained.curve, study.slopes[trained.name], study.setting.samples, name=name
        )


COMMON_CLAIMS = (
    checks,
    angles.output,
    angles.exact_angle,
    angles.both_bounds,
    angles.contraction,
    angles.falling,
    angles.to_the_limit,
)

THEOREMS = (
    Theorem(
        name="4.6",
        title="trained layers looped on any data: with LN the factor falls to the power method's, "
        "without it is stuck",
        statement="On any data with unit columns k loops of a layer with P21 = a I, Q12 = b I, c "
        "= ab, bring the output to the "
        "leading subspace: |alpha_(r+1)| gamma^k <= sin theta_k <= sqrt(1 - rho^2)/rho gamma^k "
        "with gamma = (1 + c lam_(r+1))/"
        "(1 + c lam_1). With LN c = c_t grows, and gamma falls to lam_(r+1)/lam_1; without LN c "
        "-> c*, and gamma stays above it.",
        source=f"{PAPER}, Theorem 4.6",
        law_options=LAW,
        options={**DESCENT, **LOOPING, **DEPTHS},
        make_law=partial(make_law, names=LAYERS, deep=True),
        step_size=partial(step_size, automatic=contracting_step),
        objective=lambda setting, target: PowerIteration("normalised", layer_norm=True),
        hypotheses=hypotheses,
        study=partial(measure, names=LAYERS),
        claims=(*COMMON_CLAIMS, angles.stuck),
        sampled=tuple(f"{CHECK}-{name}" for name in LAYERS),
        quantities=quantities,
    ),
    Theorem(
        name="4.7",
        title="the looped transformer on any data: at its own L it approaches the L-step power "
        "method",
        statement="On any data with unit columns the L-loop model trained as in 4.1 has "
        "|alpha_(r+1)| gamma^L <= sin theta <= "
        "sqrt(1 - rho^2)/rho gamma^L with gamma = (1 + c_t lam_(r+1))/(1 + c_t lam_1), and gamma "
        "-> lam_(r+1)/lam_1 as t grows.",
        source=f"{PAPER}, Theorem 4.7",
        law_options=LAW,
        options={**LOOPS, **DESCENT, **LOOPING},
        make_law=partial(make_law, names=LOOPED, deep=False),
        step_size=partial(step_size, automatic=natural_step),
        objective=lambda setting, target: SubspaceDistance(setting.L),
        hypotheses=hypotheses,
        study=partial(measure, names=LOOPED),
        claims=(*COMMON_CLAIMS, power_limit),
        sampled=tuple(f"{CHECK}-{name}" for name in LOOPED),
        quantities=quantities,
    ),
)
