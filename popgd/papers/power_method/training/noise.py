"""How far a sampled descent is from the exact one, and how far gradient noise may have driven
it.
"""

import numpy as np

from popgd.descent import gradient
from popgd.descent.descent import Trajectory
from popgd.papers.power_method.training.study import Study, path_of
from popgd.problem.number import Number


def deviation(study: Study, run: Trajectory) -> tuple[float, float, float, float]:
    """(how far c of a descent is from the exact one, the exact c, gradient noise, error from
    sampled spectra), at its end.

    Where descent converges, the mean over the last decade of records.
    """
    exact = study.exact
    found = exact.c_at(int(run.step[-1]))
    c, outer = np.float64(found.value), found.stderr  # 0 where steps are so large that it is lost
    if not exact.curvature or run.diverged_at is not None:
        return float(path_of(run)[2][-1]) - c, c, sampling_noise(study, run), outer
    late = run.step >= run.step[-1] / 10
    path = exact.under_wide or Number(exact.short.c, stderr=np.zeros(exact.short.c.shape))
    gaps = (path_of(run)[2] - path.value[: late.size])[late]
    outer = path.stderr[: late.size][late]
    return (
        float(np.mean(gaps)),
        c,
        sampling_noise(study, run, int(late.sum())),
        float(np.mean(outer)),
    )


def sampling_noise(study: Study, run: Trajectory, late: int = 1) -> float:
    """Standard deviation of c at the end of a descent, from the gradient noise at the recorded
    steps.

    A step adds eta (b se_P21 + a se_Q12) to c. Where c grows for ever later steps change that as
    they change time: by the ratio of the increments of c then and now. Where it converges they damp
    it: `damped_noise`, of the mean over the `late` last records. On a fixed bank of samples the
    kicks add up in phase, with no damping counted.
    """
    setting, exact = study.setting, study.exact
    if run.diverged_at is not None:
        return np.inf
    a, b, c = path_of(run)
    kick = _kicks(study, run)
    if setting.bank:
        return float(np.trapezoid(kick, run.step) + kick[0])
    unit = float(kick.max()) or 1.0  # squares of tiny kicks would vanish
    if exact.power:
        return unit * float(
            np.sqrt(np.trapezoid((kick / unit) ** 2, run.step) + (kick[0] / unit) ** 2)
        )
    if not np.all(np.isfinite(kick)) or kick.max() > 1e100:
        return np.inf
    s = a**2 + b**2
    away = c - float(exact.curve.c_star().value)
    return unit * damped_noise(
        kick / unit,
        setting.eta * exact.curvature / setting.law.d * (s + 4 * c * away / s),
        run.step,
        late,
    )


def _kicks(study: Study, run: Trajectory) -> np.ndarray:
    """What the noise of one step adds to c, at the recorded steps; where c grows, as much of it as
    is left at the end.
    """
    a, b, _ = path_of(run)
    kick = study.setting.eta * (
        abs(b) * run.slope_stderr[:, 0] + abs(a) * run.slope_stderr[:, 1]
    ).astype(float)
    dc = study.exact.short.dc[: len(kick)]
    return kick * (dc[-1] / dc) if study.exact.power and not study.setting.bank else kick


def noise_skewness(study: Study, run: Trajectory, noise: float, batch: int) -> float:
    """A bound of the skewness of c at the end of a descent with batches of this size.

    That of a sum of independent kicks is sum kick^3 skew/noise^3 <= max(kick skew)/noise, as sum
    kick^2 = noise^2; and no kick exceeds the noise. skew: of one step's trace, the largest at any
    of the exact points.
    """
    estimates = ((p, p.along if run is study.projected else p.estimate) for p in study.points)
    found = [abs(gradient.skewness(estimate)[int(p.a >= p.b)]) for p, estimate in estimates]
    share = min(float(_kicks(study, run).max()) / noise, 1.0) if 0 < noise < np.inf else 1.0
    return float(max(found)) * (study.setting.samples / batch) ** 0.5 * share


def damped_noise(kick: np.ndarray, rate: np.ndarray, step: np.ndarray, late: int) -> float:
    """Standard deviation of the mean of x over the last records, x <- (1 - rate) x + kick times a
    standard normal number.

    Kicks between two records count as the larger of the two, the rate as their mean. Noise made
    early is still there in several records, which are therefore not independent: var = sum over
    pairs of V_i (what is left of it at j).
    """
    variance, shared = (
        0.0,
        np.zeros(late),
    )  # shared: the covariance of x now with x at each of the last records
    total = 0.0
    for i in range(1, len(step)):
        gap, left = step[i] - step[i - 1], abs(1 - (rate[i] + rate[i - 1]) / 2)
        made = gap if left == 1 else (1 - left ** (2.0 * gap)) / (1 - left**2)
        variance = variance * left ** (2.0 * gap) + max(kick[i - 1], kick[i]) ** 2 * made
        shared = shared * left ** float(gap)
        k = i - (len(step) - late)
        if k >= 0:
            total += variance + 2 * float(shared.sum())
            shared[k] = variance
    return float(np.sqrt(total)) / late
