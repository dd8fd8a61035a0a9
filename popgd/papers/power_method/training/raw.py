"""Descent in which every entry follows its own noisy gradient, against the exact recursion.

Noise in the blocks biases c by O(eta/batch), and more where it grows. A pilot of one descent at B
and one at 2B, B = RAW_BATCH times the batch, estimates the noise, and measures how far it has moved
the slopes. Where that cannot settle the comparison, descents of several seeds at B' = B/SMALLER and
2B' do: c = 2 c_2B' - c_B', with the standard error of their means. That takes off what is of first
order in 1/B'. Where the slopes are moved so far that noise no longer counts twice for half the
batch, two batch sizes may be off alike (at d = 50 c by 40 % at both): what second order may do is
the square of the bias, or of how far the pilot's slopes are moved, whichever is larger.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from popgd.claims.evidence import Evidence, estimated
from popgd.claims.sampling import SEEN
from popgd.descent import descent, gradient
from popgd.descent.descent import Trajectory
from popgd.descent.memory import Memory
from popgd.papers.power_method.training.manifold import (
    TRAJECTORY_RESOLUTION,
    blind,
    both_skewed,
    broken_off,
    degrees,
    descent_rounding,
    heavy_tails,
    skewness_of_spectra,
)
from popgd.papers.power_method.training.noise import deviation, noise_skewness
from popgd.papers.power_method.training.study import RAW_BATCH, Exact, Study
from popgd.problem.plane import project
from popgd.theorem.base import Setting

#: Raw descents scatter more than the noise of their traces explains: 1.22 times, measured over 60
#: seeds of 4.3.
RAW_SCATTER = 1.25
#: The seeds' batches are the pilot's divided by this: their mean has its error from all of them
#: together, and its bias is measured.
SMALLER = 2
#: Seeds at least and at most. Of fewer the quantile of Student's t is beyond 15 standard errors.
FEWEST_SEEDS, MOST_SEEDS = 6, 32
#: Their standard error is to take this part of what second order leaves of the resolution.
PART = 0.5
#: The number of seeds is planned for this share of the false-alarm rate, as some reports have as
#: many statistical claims, and for missing a gap with this probability.
SHARE, MISSED = 1 / 16, 0.01


def slope_shift(
    setting: Setting, how: descent.Descent, exact: Exact, run: descent.Trajectory
) -> float:
    """`shift` at the end of a raw descent."""
    weights = gradient.placed(jax.tree.map(lambda M: jnp.asarray(M[-1]), run.weights))
    both = (weights, project(how.plane, weights))
    there, beside = (
        how.gradient(at, setting.law, setting.key(9), shift_samples(setting)).mean.coordinates
        for at in both
    )
    return shift(setting, exact, run.coordinates[-1], np.asarray(there), np.asarray(beside))


def shift_samples(setting: Setting) -> int:
    return max(2, setting.samples // 2)


def shift(
    setting: Setting, exact: Exact, ab: np.ndarray, there: np.ndarray, beside: np.ndarray
) -> float:
    """|slope somewhere / slope at the point (a, b) of the manifold next to it - 1|, from gradients
    (2,) on the same samples.

    Where c converges: how far that moves the c at which the slope vanishes, relative to c. A slope
    larger by a share all along moves c by no more than that share; measured where it matters most,
    c was off by 0.2 to 0.5 of the shift at the end.
    """
    k, unit = int(ab[0] >= ab[1]), setting.law.d / np.float64(max(ab))
    with np.errstate(all="ignore"):
        whole = exact.curvature * ab[0] * ab[1] if exact.curvature else beside[k] * unit
        return float(np.nan_to_num(abs((there[k] - beside[k]) * unit / whole), nan=np.inf))


def pilot(study: Study) -> Evidence:
    """engines-agree-raw by one descent at each batch."""
    raw, double, shifts = study.raw, study.raw_double, study.shifts
    once, c, noise, outer = deviation(study, raw)
    twice, *_ = deviation(study, double)
    bias = 2 * (once - twice)
    return estimated(
        "engines-agree-raw",
        f"The raw descent at step {raw.step[-1]}, less its O(eta/batch) bias from two batch "
        "sizes, follows the recursion",
        "derived: noise in the active blocks biases c",
        predicted=1.0,
        measured=1 + (2 * twice - once) / c,
        error=float(np.hypot(RAW_SCATTER * 3**0.5 * noise, outer)) / abs(c),
        skewness=both_skewed(
            (
                noise_skewness(study, raw, noise, RAW_BATCH * study.setting.batch),
                RAW_SCATTER * 3**0.5 * noise,
            ),
            (skewness_of_spectra(study, c), outer),
        ),
        degrees=degrees(study),
        # Of 2 twice - once: what noise in the blocks does to either may be anything up to what it
        # does to the slope
        allowance=shifts[0]
        + 2 * shifts[1]
        + 2 * (bias / c) ** 2
        + 3 * descent_rounding(study, raw),
        resolution=2 * TRAJECTORY_RESOLUTION,
        reason=f"bias {bias / c:+.1%} of c taken off, but noise in the blocks moves the slopes by "
        f"{shifts[0]:.1%} and "
        f"{shifts[1]:.1%} in these very runs, and c by as much; second order; rounding",
        excuse=blind(study, raw) or broken_off(double.diverged_at),
        self_check="engines",
    )


class Plan(NamedTuple):
    """How many seeds are needed, and the smaller of their two batches; no seeds where the pilot is
    enough, or more than MOST_SEEDS would be.
    """

    seeds: int
    batch: int


def plan(study: Study) -> Plan:
    """What the pilot asks for. It does not depend on how far its c is from the recursion's but by
    the second-order term.
    """
    setting, e = study.setting, pilot(study)
    batch = RAW_BATCH * setting.batch // SMALLER
    rest = e.resolution - _nonlinear(study.shifts)
    enough = not e.excuse and e.allowance + SEEN * e.error <= e.resolution
    _, c, noise, _ = deviation(study, study.raw)
    each = RAW_SCATTER * (3 * SMALLER) ** 0.5 * noise / abs(c)
    from scipy.special import stdtrit

    for seeds in range(FEWEST_SEEDS, MOST_SEEDS + 1):
        tails = np.array([setting.false_alarm * SHARE / 2, MISSED])
        far = -float(stdtrit(_welch(seeds), tails).sum())
        if far * each / seeds**0.5 <= PART * rest:
            return Plan(0 if enough or heavy_tails(study, study.raw) else seeds, batch)
    return Plan(0, batch)


def _nonlinear(shifts: tuple[float, float]) -> float:
    """What 2 c_2B' - c_B' may leave of the noise, relative to c, by the pilot's shifts at 2B' and
    4B'. Noise of first order moves c at B' by at most about the shift at 2B', twice that at 4B'.
    Measured for 4.1 and 4.3 at d = 50, batches of 256 to 16384: where this is below the resolution,
    at most .85 of it is left.
    """
    once, twice = shifts
    return max(once, 2 * twice) ** 2


def _welch(seeds: int) -> float:
    """Degrees of freedom of the standard error of 2 x_2B - x_B, whose two terms have variances as 2
    to 1.
    """
    return 9 / 5 * (seeds - 1)


def more_seeds(
    study: Study,
    run: Callable[[int, int], Trajectory],
    seconds: Callable[[int], float],
    memory: Memory,
) -> Float[np.ndarray, "2 seeds"]:
    """How far c is from the recursion's at the end of each descent that the plan asks for and the
    budget has time for: run(seed, batch) makes one, and a gradient takes seconds(batch).
    """
    seeds, batch = plan(study)
    parts = [(seed, size) for size in (batch, 2 * batch) for seed in range(seeds)]
    kept = [memory.part(f"seed {seed} of {size}") for seed, size in parts]
    steps = 3 * batch * seeds * int(study.raw.step[-1])
    if seeds and kept[-1].recall() is None:
        takes = steps / batch * seconds(batch)
        if not memory.budget.allows("engines-agree-raw", steps, takes):
            return np.zeros((2, 0))
    of = lambda seed, size: np.asarray(deviation(study, run(seed, size))[0])
    found = [
        part.once(lambda seed=seed, size=size: of(seed, size), 0)
        for part, (seed, size) in zip(kept, parts, strict=True)
    ]
    return np.reshape(np.asarray(found, dtype=float), (2, seeds))


def agreement(study: Study) -> Iterator[Evidence]:
    """The raw descent and the recursion, from all seeds where the pilot asked for them."""
    e = pilot(study)
    if not study.seeds.size:
        yield _settled(e, study)
        return
    (once, twice), seeds = study.seeds, study.seeds.shape[1]
    _, c, noise, outer = deviation(study, study.raw)
    bias = 2 * float(once.mean() - twice.mean())
    variance = np.array([4 * twice.var(ddof=1), once.var(ddof=1)]) / seeds
    stderr, batch = float(variance.sum()) ** 0.5, plan(study).batch
    skewed = noise_skewness(study, study.raw, noise * SMALLER**0.5, batch) / seeds**0.5
    freedom = float(variance.sum() ** 2 / (variance**2).sum() * (seeds - 1))
    e = replace(
        e,
        measured=1 + float(2 * twice.mean() - once.mean()) / c,
        error=float(np.hypot(stderr, outer)) / abs(c),
        skewness=both_skewed((skewed, stderr), (skewness_of_spectra(study, c), outer)),
        degrees=min(freedom, degrees(study)),
        allowance=max(2 * (bias / c) ** 2, _nonlinear(study.shifts))
        + 3 * descent_rounding(study, study.raw),
        reason=f"bias {bias / c:+.1%} of c taken off, second order; rounding; error: that of the "
        f"means of {seeds} descents at batches {batch} and {2 * batch}",
        excuse=heavy_tails(study, study.raw),
    )
    yield _settled(e, study)


def _settled(e: Evidence, study: Study) -> Evidence:
    """The same, with the batch that would settle it where it is not."""
    rest = float(e.resolution) - SEEN * float(e.error) - float(e.allowance)
    if e.excuse or rest >= 0:
        return e
    # What is allowed falls like 1/batch at least, the square of the error like it
    parts = 2 * float(e.allowance) / e.resolution, (2 * SEEN * float(e.error) / e.resolution) ** 2
    wanted = study.setting.batch * max(*parts, 1.0)
    # but for noise that has saturated: it falls more slowly at first
    saturated = _nonlinear(study.shifts) > e.resolution
    would = "at least is needed" if saturated else "would settle it"
    more = f"batch={np.ceil(wanted):.0f} {would}" if np.isfinite(wanted) else "lower eta"
    return replace(e, reason=f"{e.reason}: {more}")
