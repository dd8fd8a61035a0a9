"""Evidence about a trained layer looped on other data: exact angles, both bounds, and the
contraction factor a loop.

Every function takes an `Inference` and yields evidence for each of its models, at every snapshot,
matrix, query and number of loops up to where float64 ends. gamma(c) = (1 + c lam_{r+1})/(1 + c
lam_1), R = lam_{r+1}/lam_1.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from popgd.claims.evidence import Evidence, known
from popgd.papers.power_method.looping import inference
from popgd.papers.power_method.looping.study import START, TRUSTED, Inference, Run
from popgd.papers.power_method.looping.trained import Trained
from popgd.papers.power_method.training import growth

#: A formula and the loop must agree to this, or to twice float64's bound where that is larger;
#: beyond `TRUSTED` nothing is claimed.
AGREE = 1e-10
#: Factors are told from each other by a tenth of their predicted difference; what training closes
#: of the gap to R, by this share of it.
SHARE, CLOSED = 0.1, 1e-3
#: A fall between snapshots must be told from half of it.
FALL = 0.25
#: A factor is compared with another only where float64 leaves its distance from 1 and from R this
#: good.
KNOWN = 0.05
#: To which both bounds are told, float64's bound being TRUSTED at most.
BOUND_RESOLUTION = 2 * TRUSTED
#: A loop that returns the query must be that many resolutions from what is claimed: then half a
#: step is seen too.
MOVED = 4
IDLE = "c is so small that a loop moves the query by less than can be seen: train longer"


def _trusted(runs: Iterable[Run], *arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
    """The trusted entries of arrays given run by run, in one row each."""
    masks = [run.trusted for run in runs]
    return [
        np.concatenate([x[mask] for x, mask in zip(array, masks, strict=True)]) for array in arrays
    ]


def _ends(runs: Iterable[Run], depths: np.ndarray) -> str:
    """How many loops float64 lasts, at the last snapshot and the query that it serves worst."""
    last = {run.test.name: int(np.min(run.trusted[-1].sum(axis=-1))) for run in runs}
    told = ", ".join(f"{name} {count}" for name, count in last.items())
    return f"float64 lasts for this many of {depths.size} depths: {told}"


def _excuse(entries: np.ndarray) -> str:
    return (
        ""
        if entries.size
        else "the angle is below the rounding of float64 wherever it was looked at"
    )


def _compare(
    study: Inference,
    name: str,
    trained: Trained,
    runs: tuple[Run, ...],
    measured: list,
    allowance: list,
    idle: list,
    **words: str,
) -> Evidence:
    """One claim over all trusted entries, which are ratios to what is predicted: equal to 1, or at
    most 1.

    idle is how far they would be from that if the loop returned the query: where it is nowhere seen
    nothing is told.
    """
    values, allowed, unmoved = _trusted(
        runs,
        measured,
        allowance,
        [np.broadcast_to(x, run.trusted.shape) for x, run in zip(idle, runs, strict=True)],
    )
    sense = words.pop("sense", "equal")
    # A bound's tightest entry is the one to show: one resolution for all of them.
    resolution = (
        np.maximum(AGREE, 2 * allowed)
        if sense == "equal"
        else np.full(allowed.shape, BOUND_RESOLUTION)
    )
    # Values beyond a bound refute it, whatever else is wrong
    excuse = words.pop("excuse", "") * bool(
        np.max(values, initial=0.0) <= 1 + BOUND_RESOLUTION
    ) or ("" if np.any(abs(unmoved) > MOVED * resolution) else IDLE)
    return known(
        f"{name}-{trained.name}",
        predicted=0.0 if name == "loop-output" else 1.0,
        measured=values if values.size else 0.0,
        allowance=allowed if values.size else 0.0,
        resolution=resolution if values.size else AGREE,
        reason=f"rounding of every loop, derived; {_ends(runs, study.depths)}",
        sense=sense,
        excuse=_excuse(values) or excuse,
        **words,
    )


def output(study: Inference) -> Iterator[Evidence]:
    """The loop of (P, Q) returns (I + cS)^k q, over its norm if it has LN."""
    for trained, runs in study.pairs():
        norm = lambda x: np.linalg.norm(x, axis=-1)
        with np.errstate(invalid="ignore", over="ignore"):
            gaps = [norm(run.outputs - run.expected) / norm(run.expected) for run in runs]
            idle = [
                norm(run.test.queries[:, None] - run.expected) / norm(run.expected) for run in runs
            ]
        form = "(I + cS)^k q" + (" over its norm" if trained.layer_norm else "")
        yield _compare(
            study,
            "loop-output",
            trained,
            runs,
            gaps,
            [run.rounding.output for run in runs],
            idle,
            statement=f"{trained.name}: k loops of the trained (P, Q) return {form}: relative "
            "distance",
            source="reduction to the power iteration",
        )


def exact_angle(study: Inference) -> Iterator[Evidence]:
    """The exact formula for sin theta_k."""
    for trained, runs in study.pairs():
        ratios = [np.exp(run.measured.sin - run.exact.sin) for run in runs]
        idle = [np.expm1(start(run) - run.exact.sin) for run in runs]
        yield _compare(
            study,
            "sin-exact",
            trained,
            runs,
            ratios,
            [run.rounding.tan for run in runs],
            idle,
            statement=f"{trained.name}: sin theta_k of the loop is that of the exact formula: "
            "ratio",
            source="derived: exact angle",
            origin="derived",
        )


def both_bounds(study: Inference) -> Iterator[Evidence]:
    """|alpha_{r+1}| gamma^k <= sin theta_k <= sqrt(1 - rho^2)/rho gamma^k, the lower one with the
    whole eigenspace.
    """
    for trained, runs in study.pairs():
        allowance = [run.rounding.tan + study.depths * run.test.spectrum.spread for run in runs]
        # Where the query that meets both bounds by construction is not where it belongs, others say
        # nothing.
        off = max(
            (np.max(gap[run.trusted[:, -1]], initial=0.0) for run, gap in _worst_gaps(runs)),
            default=0.0,
        )
        excuse = (
            ""
            if off <= BOUND_RESOLUTION
            else "the query that meets both bounds does not: see the exact angle"
        )
        idle = [np.expm1(start(run) - run.exact.sin) for run in runs]
        upper = [np.exp(run.measured.sin - run.bounds.upper) for run in runs]
        yield _compare(
            study,
            "upper-bound",
            trained,
            runs,
            upper,
            allowance,
            idle,
            sense="at most",
            excuse=excuse,
            statement=f"{trained.name}: sin theta_k <= sqrt(1 - rho^2)/rho gamma^k at every "
            "number of loops: largest ratio",
            source="upper bound",
        )
        lower = [np.exp(run.bounds.sharper - run.measured.sin) for run in runs]
        yield _compare(
            study,
            "lower-bound",
            trained,
            runs,
            lower,
            allowance,
            idle,
            sense="at most",
            excuse=excuse,
            statement=f"{trained.name}: sin theta_k >= |projection of q on the lam_(r+1)-space| "
            "gamma^k >= |alpha_(r+1)| "
            "gamma^k: largest ratio bound/sin",
            source="lower bound; the sharper one derived",
        )


def start(run: Run) -> np.ndarray:
    """log sin theta of the queries themselves, (queries, 1)."""
    S = run.test.spectrum
    return np.stack(
        [
            inference.angles(S, inference.query(S, q), 0.0, np.array([0])).sin
            for q in run.test.queries
        ]
    )


def _worst_gaps(runs: Iterable[Run]) -> Iterator[tuple[Run, np.ndarray]]:
    """Every run with how far sin theta of its last query is from the exact one, relative,
    (snapshots, depths).
    """
    for run in runs:
        yield (
            run,
            np.nan_to_num(
                abs(np.expm1(run.measured.sin[:, -1] - run.exact.sin[:, -1])), nan=np.inf
            ),
        )


def contraction(study: Inference) -> Iterator[Evidence]:
    """For a query in the span of v_1 and v_{r+1} tan theta falls by exactly gamma(c) a loop."""
    for trained, runs in study.pairs():
        per_loop, allowance = zip(*(_steps(run, study.depths) for run in runs), strict=True)
        worst = [run._replace(trusted=run.trusted[:, -1]) for run in runs]
        idle = [
            np.array([np.expm1(-inference.log_factor(run.test.spectrum, c)) for c in run.c])[
                :, None
            ]
            for run in runs
        ]
        yield _compare(
            study,
            "contraction",
            trained,
            tuple(worst),
            list(per_loop),
            list(allowance),
            idle,
            statement=f"{trained.name}: tan theta falls by gamma(c) = (1 + c lam_(r+1))/(1 + c "
            "lam_1) a loop, for q = "
            "(v_1 + v_(r+1))/sqrt(2): measured factor over gamma",
            source="contraction factor",
        )


def _steps(run: Run, depths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(tan theta_k/tan theta_j)^{1/(k-j)}/gamma of the worst query between neighbouring depths j <
    k, from 0 on.
    """
    S = run.test.spectrum
    start = inference.angles(S, inference.query(S, run.test.queries[-1]), 0.0, np.array([0])).tan[0]
    tan, error = run.measured.tan[:, -1], run.rounding.tan[:, -1]
    between = np.diff(depths, prepend=0)
    gamma = np.array([inference.log_factor(S, c) for c in run.c])[:, None]
    ratio = np.exp(np.diff(tan, axis=1, prepend=start) / between - gamma)
    before = np.concatenate([np.full_like(error[:, :1], START), error[:, :-1]], axis=1)
    return ratio, (error + before) / between


def falling(study: Inference) -> Iterator[Evidence]:
    """With LN the measured factor falls from snapshot to snapshot."""
    for trained, runs in study.pairs(layer_norm=True):
        measured, errors = [], []
        for run in runs:
            value, error = run.factors(study.depths)[:2]
            expected = -np.diff(
                [np.exp(inference.log_factor(run.test.spectrum, c)) for c in trained.c]
            )
            seen = (error[:-1] + error[1:]) / expected
            good = seen <= KNOWN
            measured.append((-np.diff(value) / expected)[good])
            errors.append(seen[good])
        fall, error = np.concatenate(measured), np.concatenate(errors)
        yield known(
            f"factor-falls-{trained.name}",
            f"{trained.name}: more training makes the factor a loop smaller: its fall from "
            "snapshot to snapshot, in units of "
            "that of gamma(c_t)",
            "contraction factor decreases with training",
            predicted=1.0,
            measured=fall if fall.size else 0.0,
            error=error if fall.size else 0.0,
            resolution=FALL,
            reason=f"rounding; {fall.size} falls between snapshots at steps "
            + ", ".join(f"{t:.2g}" for t in trained.snapshots[0]),
            excuse="" if fall.size else "no two snapshots differ by more than rounding",
        )


def to_the_limit(study: Inference) -> Iterator[Evidence]:
    """With LN the factor approaches R like t^(-1/p): (g - R) lam_1 (N t)^(1/p)/(1 - R) -> 1, N = 2
    p eta K/d.
    """
    for trained, runs in study.pairs(layer_norm=True):
        i, corrections, allowed = _approach(study, trained)
        t, c = trained.snapshots[0][i], trained.c[i]
        K = trained.curve.constant()
        scale = (
            2 * trained.power * study.setting.eta * float(K.value) / study.setting.law.d * float(t)
        ) ** (1 / trained.power)
        measured, errors = [], []
        for run in runs:
            value, error = run.factors(study.depths).at(i)[:2]
            R, lam = run.test.spectrum.ratio, run.test.spectrum.lam[0]
            measured.append((value - R) / (1 - R) * lam * scale * (1 + corrections) + 1 / (c * lam))
            errors.append(error / (1 - R) * lam * scale)
        good = np.isfinite(errors) & (np.array(errors) <= CLOSED / 4)
        yield known(
            f"factor-limit-{trained.name}",
            f"{trained.name}: the factor falls to lam_(r+1)/lam_1, the power method's, like "
            f"t^(-1/{trained.power}): its distance "
            f"at step {t:.3g} over the predicted one",
            "limit of the contraction factor; constant derived",
            predicted=1.0,
            measured=np.array(measured)[good] if good.any() else 0.0,
            error=np.array(errors)[good] + float(K.bound / K.value) if good.any() else 0.0,
            allowance=allowed,
            resolution=CLOSED,
            reason=f"1/c terms removed, next order allowed; float64 resolves it on {good.sum()} "
            f"of {good.size} matrices",
            origin="derived",
            excuse="" if good.any() else "float64 does not resolve the distance from the limit",
        )


def _approach(study: Inference, trained: Trained) -> tuple[int, float, float]:
    """The snapshot where growth and rounding together are known best, its 1/c correction of (N
    t)^(1/p)/c, and the next order.

    c = (N t)^(1/p) (1 - k2/((p - 1) c) + ...), with the corrections of `growth` at c.
    """
    records, p = trained.records, trained.power
    k2 = float(trained.curve.correction().value / trained.curve.constant().value)
    best, found = np.inf, (int(len(trained.c) - 1), 0.0, np.inf)
    noise = max(
        run.test.spectrum.rounding * run.test.spectrum.lam[0] for run in study.runs[trained.name]
    )
    for i, j in enumerate(trained.chosen):
        c, t = float(records.c[j]), float(records.step[j])
        settled = float(
            records.step[
                np.argmax(
                    (abs(k2) / np.maximum(records.c, 1e-300) < 0.5) & (records.imbalance < 0.5)
                )
            ]
        )
        order = 2 * (
            (k2 / c) ** 2
            + float(records.imbalance[j])
            + abs(float(records.dc[j])) / c
            + growth.third_order(trained, c)
        )
        bound = float(records.bound[j]) / c if np.isfinite(records.bound[j]) else 0.0
        allowed = (
            order * (1 + np.log(t))
            + 2 * settled / t
            + bound
            + 1 / (c * _least(study, trained)) ** 2
        )
        if allowed + noise * c < best:
            best, found = allowed + noise * c, (i, -k2 / ((p - 1) * c), allowed)
    return found


def _least(study: Inference, trained: Trained) -> float:
    return min(float(run.test.spectrum.lam[0]) for run in study.runs[trained.name])


def stuck(study: Inference) -> Iterator[Evidence]:
    """Without LN the factor stops at gamma(c*) > R: no further training helps."""
    for trained, runs in study.pairs(layer_norm=False):
        star = trained.curve.c_star()
        left = _remaining(study, trained) + float(star.bound)
        measured, errors, seen = [], [], []
        for run in runs:
            value, error = run.factors(study.depths).at(slice(-1, None))[:2]
            R = run.test.spectrum.ratio
            gamma = float(np.exp(inference.log_factor(run.test.spectrum, float(star.value))))
            measured.append((value - R) / (gamma - R))
            errors.append(error / (gamma - R))
            # At c = 0 the factor is 1, and (1 - R)/(gamma - R) = 1 + c lam_1.
            seen.append(SHARE * min(1.0, abs(float(star.value)) * run.test.spectrum.lam[0]))
        value, error, resolution = np.concatenate(measured), np.concatenate(errors), np.array(seen)
        good = np.isfinite(error) & (error <= resolution / 4)
        yield known(
            f"factor-stuck-{trained.name}",
            f"{trained.name}: the factor at step {trained.snapshots[0][-1]:.3g} is gamma(c*) with "
            f"c* = {float(star.value):.8g}, "
            "above lam_(r+1)/lam_1, and further training cannot improve it: (factor - "
            "R)/(gamma(c*) - R)",
            "fixed contraction factor",
            predicted=1.0,
            measured=value[good] if good.any() else 0.0,
            error=error[good] if good.any() else 0.0,
            allowance=4 * left * max(float(run.test.spectrum.lam[0]) for run in runs) + 1e-9,
            resolution=resolution[good] if good.any() else SHARE,
            reason=f"c_t has {left:.1e} to go; resolution: a tenth of the distance to the power "
            "method's factor, "
            "and to that at c = 0",
            excuse=""
            if good.any()
            else "float64 does not tell gamma(c*) from the power method's factor here",
        )


def _remaining(study: Inference, trained: Trained) -> float:
    """How far c_t still moves: its last step over 1 - (1 - etat s), as linear convergence goes on,
    and rounding.
    """
    records, j = trained.records, trained.chosen[-1]
    etat = 2 * study.setting.eta * float(trained.curve.mean_square().value) / study.setting.law.d
    s = float(np.hypot(2 * records.c[j], records.Delta[j]))
    return abs(float(records.dc[j])) / (etat * s) + 1e-13
