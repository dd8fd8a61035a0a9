"""Evidence about descent on the manifold {P21 = a I, Q12 = b I, all other blocks 0}: its slopes,
and the two engines.

Every function takes a `Study` and yields evidence; no theorem's number stands here.
"""

from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np

from popgd.claims.evidence import Evidence, estimated, known
from popgd.descent import gradient
from popgd.descent.descent import Trajectory
from popgd.papers.power_method import slopes
from popgd.papers.power_method.training.noise import deviation, noise_skewness
from popgd.papers.power_method.training.study import SAME, Point, Study
from popgd.problem.number import Number

#: Whole gradients must have the exact slopes this closely: half the distance to a ratio of 1/2, the
#: least forgotten factor.
SLOPE_RESOLUTION = 0.25
#: A wrong factor 2 in the gradient moves c after many steps by 2^(1/3) - 1 = 26 %; half of that
#: must be seen.
TRAJECTORY_RESOLUTION = 0.13
#: The largest relative standard error h of a trace's sampled second moment. Where the mean is small
#: against the spread h bounds skewness/sqrt(samples), and a studentised mean exceeds z at most
#: exp(h z^3/3) times as often as a normal one (Wang 2005): 5 times at the z = 5.5 of a default run,
#: whose h is 0.01 and that factor 1.7.
HEAVY = 0.03
#: Rounding between two routes to a sample's slope, in units of eps: measured worst 500, at c = 20,
#: where it is small.
SAME_UNITS = 5000
#: And to this share of it: a tenth of what a forgotten factor 2 does.
SAME_SHARE = 0.1
#: Rounding of a sampled slope, in units of eps.
SLOPE_UNITS = 100
#: Below this a limit of the loss counts as 0 (losses start at order one).
LOSS_RESOLUTION = 1e-9


def slope_of(point: Point, d: int) -> Number:
    """l'(c) from the gradient along (a, b): the one whose factor max(a, b) is larger."""
    k = int(point.a >= point.b)  # the gradient of Q12 carries a, that of P21 carries b
    factor, found = d / max(point.a, point.b), point.estimate
    mean, stderr = (float(x.coordinates[k]) * factor for x in (found.mean, found.stderr))
    return Number(mean, 0.0, stderr, float(gradient.skewness(found)[k]))


def _slope_rounding(point: Point, d: int) -> float:
    """What float32 may have moved `slope_of` by: 0 in float64."""
    return float(np.asarray(point.rounding)[int(point.a >= point.b)]) * d / max(point.a, point.b)


def descent_rounding(study: Study, run: Trajectory) -> float:
    """What rounding may move c of a sampled descent by, relative to c: half a unit of a and of b a
    step, all the same way, and that of the slopes, which move c no more than they are moved
    themselves; and the bound of the exact descent's slopes.

    Where c converges a slope is 2A (c - c*), sampled as a difference of terms of the order A, n/d,
    sqrt A and 1: for c* near 0, as for nearly equal eigenvalues, it is far smaller than they are.
    """
    law, exact = study.setting.law, study.exact
    d = law.d
    slopes = [
        _slope_rounding(p, d) / max(abs(slope_of(p, d).value), 1e-300)
        for p in study.points
        if _slope_rounding(p, d)
    ]
    if exact.power:
        slope = exact.slope_error
    else:
        A, star = exact.curvature / 2, exact.curve.c_star()
        cancelled = SLOPE_UNITS * study.eps * (1 + law.n / d / A + A**-0.5 + 1 / A)
        slope = float((star.bound + cancelled) / abs(star.value))
    return (float(run.step[-1]) + SLOPE_UNITS) * study.eps + max(slopes, default=0.0) + slope


def negative_slope(study: Study) -> Iterator[Evidence]:
    """The population loss falls in c all along the exact descent, by sampled slopes at its first,
    early and last steps.
    """
    found = study.slopes
    yield estimated(
        "gradient-negative",
        f"The slope l'(c) of the population loss is negative at steps {found.listed()}, beyond "
        "its sampling error",
        "the loss falls in c",
        measured=found.value,
        error=found.stderr,
        resolution=seen(found.value),
        reason="sampling error only; it must be smaller than the slope itself",
        sense="at most",
        # Slopes are skewed downwards: by the normal law alone one of 0 would be refuted too often
        skewness=np.maximum(-found.skewness, 0.0),
        excuse=found.blind(),
    )


def seen(value: Any) -> Any:
    """The size of a number whose sign is claimed, to which it must be known; NaN for exactly 0,
    which has none to see.
    """
    return np.where(np.equal(value, 0), np.nan, np.abs(value))


def motionless(path: np.ndarray) -> str:
    """Why a descent says nothing of what it keeps, whose records never leave the first one, or
    empty.
    """
    return (
        ""
        if np.ptp(path, axis=0).any()
        else "the descent never leaves its start, where everything stays as it is"
    )


def broken_off(diverged_at: int | None) -> str:
    return (
        ""
        if diverged_at is None
        else f"the descent is not finite at step {diverged_at}: judge a smaller step size"
    )


def positive(name: str, statement: str, limit: float, error: float, excuse: str = "") -> Evidence:
    """The limit of the loss is positive: REFUTED at 0 and below, INCONCLUSIVE where its error hides
    its sign.
    """
    return known(
        name,
        statement,
        "limit of the loss",
        predicted=max(2 * error, np.finfo(float).tiny),
        measured=limit,
        error=error,
        resolution=max(abs(limit), LOSS_RESOLUTION),
        reason="error: quadrature bound, and what descent has left; the prediction is twice that, "
        "as 0 itself refutes",
        sense="at least",
        excuse=excuse,
    )


def blind(study: Study, run: Trajectory | None = None) -> str:
    """Why sampling, or a sampled descent, can conclude nothing here; empty if it can.

    Beside heavy tails: where first steps are so large that they make |a^2 - b^2| themselves, their
    noise is never forgotten, which that of `sampling_noise` leaves out.
    """
    heavy = heavy_tails(study, run)
    if heavy:
        return heavy
    short = study.exact.short
    if run is not None and not abs(short.Delta[len(run.step) - 1]) <= 2 * abs(short.Delta[0]):
        return (
            "large-step regime: the first steps make |a^2 - b^2|, and their noise stays; lower eta"
        )
    return broken_off(run.diverged_at) if run is not None else ""


def heavy_tails(study: Study, run: Trajectory | None = None) -> str:
    """Why the standard errors of sampling are worth nothing here; empty if they are.

    They are only if the second moment behind them is known: with heavy tails (many loops, large c)
    rare samples carry the mean, and a sample without them looks precise.
    """
    for point in study.points:
        estimate = point.along if run is not None and run is study.projected else point.estimate
        mean, stderr = estimate.mean.square, estimate.stderr.square
        k = int(point.a >= point.b)
        if not float(stderr[k]) <= HEAVY * float(mean[k]):
            samples = study.setting.samples
            wanted = float(samples * (stderr[k] / (HEAVY * mean[k])) ** 2)
            more = f": take samples={wanted:.2g} at least" if np.isfinite(wanted) else ""
            return (
                f"heavy tails: at c = {point.c:.3g} a few of {point.estimate.samples} samples "
                f"carry all{more}"
            )
    return ""


def known_slope(study: Study) -> Iterator[Evidence]:
    """The slope of the loss, on which all else rests, by two engines."""
    yield slopes.agree_with(study.exact.curve, study.slopes, study.setting.samples)


def cross_examination(study: Study) -> Iterator[Evidence]:
    """The two engines against each other: Monte Carlo on (P, Q) and quadrature on the manifold."""
    yield from _same_samples(study)
    yield from _whole_gradients(study)
    yield from _trajectories(study)


def _same_samples(study: Study) -> Iterator[Evidence]:
    gap, size = np.array([p.apart for p in study.points]).T
    # Rounding is relative to the gradient where the output is not yet next to its target, and to
    # the terms it is made of
    law, share = study.setting.law, size / size.max()
    allowed = SAME_UNITS * study.eps * (1 + study.objective.L * law.n / law.d / size.max())
    seen = SAME_SHARE * share > 2 * allowed
    shown = ", ".join(f"{p.c:.3g}" for p, there in zip(study.points, seen, strict=True) if there)
    yield known(
        "engines-agree-samples",
        "The gradient of the full model along the manifold is that of the loss of q <- N(q + c S "
        "q), in (a, b) and over d, for "
        f"the same {SAME} samples at c = {shown}: means and mean squares",
        "derived: grad_P21 = (b l'(c)/d) I, sample by sample",
        measured=(gap / size.max())[seen],
        allowance=allowed,
        resolution=(SAME_SHARE * share)[seen],
        reason=f"rounding of both: {SAME_UNITS} eps of the gradient and of its terms; where it is "
        "smaller nothing is compared",
        self_check="engines",
    )


def _whole_gradients(study: Study) -> Iterator[Evidence]:
    d = study.setting.law.d
    sampled = Number(*np.array([slope_of(p, d) for p in study.points]).T)
    value, error, skewness = sampled.value, sampled.stderr, abs(sampled.skewness)
    rounding = np.array([_slope_rounding(p, d) for p in study.points])
    exact = study.exact.wide.slope(np.array([p.c for p in study.points]))
    wanted, bound, outer, skewed = (np.broadcast_to(x, value.shape) for x in exact[:4])
    scale = np.maximum(abs(wanted), slopes.start_of(study.exact.wide))
    yield estimated(
        "engines-agree-gradient",
        "The sampled gradient of the full model has the slope l'(c) of the exact engine, at exact "
        "points of the manifold",
        "derived: grad_P21 = (b l'(c)/d) I",
        predicted=1.0,
        measured=1 + (value - wanted) / scale,
        error=np.hypot(error, outer) / scale,
        skewness=both_skewed((skewness, error), (abs(skewed), outer)),
        degrees=degrees(study),
        allowance=(bound + SLOPE_UNITS * study.eps * abs(value) + rounding) / scale,
        resolution=SLOPE_RESOLUTION,
        drawn=("samples", study.setting.samples),
        reason="quadrature bound and rounding (that of float32 measured); sampling error of the "
        "gradient and of the spectra",
        excuse=blind(study),
        self_check="engines",
    )


def degrees(study: Study) -> float:
    """Degrees of freedom of the standard error over the sampled spectra; infinite where there is
    one.
    """
    K = int(np.shape(study.exact.wide.spectra.lam)[0])
    return K - 1.0 if K > 1 else np.inf


def both_skewed(*parts: tuple[Any, Any]) -> Any:
    """The skewness of a sum of independent parts (skewness, standard error)."""
    total = reduce(np.hypot, (error for _, error in parts))
    share = lambda error: np.divide(
        error, total, out=np.zeros(np.shape(total)), where=np.asarray(total) > 0
    )
    return sum(skew * share(error) ** 3 for skew, error in parts)


def skewness_of_spectra(study: Study, c: float) -> float:
    """That of c from sampled spectra: what they do to c they do by the slope."""
    return float(np.max(abs(np.asarray(study.exact.wide.slope(np.array([max(c, 0.0)])).skewness))))


def _trajectories(study: Study) -> Iterator[Evidence]:
    projected = study.projected
    gap, c, noise, outer = deviation(study, projected)
    rounding = descent_rounding(study, projected)
    yield estimated(
        "engines-agree-descent",
        "Monte Carlo descent along the manifold follows the exact recursion: c at step "
        f"{projected.step[-1]}, as a ratio",
        "derived: reduced dynamics",
        predicted=1.0,
        measured=1 + gap / c,
        # Rounding is allowed for, and stands here too: where it is all that there is (y = Sq, whose
        # slope the structured statistic knows exactly) a gap of size `detectable` must be seen
        # whatever its sign.
        error=float(np.hypot(np.hypot(noise, outer), rounding * c) / abs(c)),
        skewness=both_skewed(
            (noise_skewness(study, projected, noise, study.setting.batch), noise),
            (skewness_of_spectra(study, c), outer),
        ),
        degrees=degrees(study),
        allowance=(noise / c) ** 2 + rounding,
        resolution=TRAJECTORY_RESOLUTION,
        drawn=("batch", study.setting.batch),
        reason="second order in the noise, rounding, bound of exact slopes; error: noise of all "
        "steps, and the sampled spectra",
        excuse=blind(study, projected),
        self_check="engines",
    )
