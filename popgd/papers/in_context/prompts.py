"""More loops at test than in training, and loops against free steps: rows 7 and 12."""

import contextlib
from collections.abc import Iterator
from math import comb
from typing import Any

import numpy as np

from popgd.claims.evidence import Evidence, estimated, known
from popgd.descent.memory import Memory
from popgd.papers.in_context import pictures, wishart
from popgd.papers.in_context.common import ROUNDED, Study, hypotheses
from popgd.papers.in_context.model import SquaredError
from popgd.problem.law import Hypothesis
from popgd.problem.number import Number
from popgd.theorem.base import Progress, Setting

#: Prompts whose errors are followed over loops; their share is known to 1/sqrt(4 PROMPTS).
PROMPTS = 4096
#: Loops at which those errors are read, the last so many that whatever contracts is gone: for n
#: just above d the least eigenvalue of S is some 1/d^2, and at d = 260 most need more than 10^6.
#: The mean is exact up to MEAN_LOOPS, as 2T moments are needed.
LOOPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 1024, 10**4, 10**6, 10**9)
MEAN_LOOPS = 50
#: An error counts as gone below this, or this share of that after one loop where that is smaller.
GONE = 1e-6
#: d and n/d at which looped over unlooped is close to its limit.
WIDE, LONG = 10**6, 10**8


def wishart_spectra(rng: np.random.Generator, n: int, d: int, count: int) -> tuple[Any, Any]:
    """Eigenvalues and eigenvectors of `count` whitened S: by Bartlett's triangle for n >= d,
    whatever n is.
    """
    if n < d:
        X = rng.normal(size=(count, d, n))
        return np.linalg.eigh(X @ X.transpose(0, 2, 1) / n)
    T = np.tril(rng.normal(size=(count, d, d)), -1)
    T[:, np.arange(d), np.arange(d)] = np.sqrt(
        rng.chisquare(n - np.arange(d, dtype=float), (count, d))
    )
    T /= float(n) ** 0.5
    return np.linalg.eigh(T @ T.transpose(0, 2, 1))


def loops_study(
    setting: Setting, objective: SquaredError, progress: Progress, memory: Memory
) -> Study:
    """The mean error (exact) and the errors of sampled prompts at A = a* Sigma^-1 against the
    number of test loops.
    """
    n, d, L = setting.law.n, setting.law.d, setting.L
    a = wishart.a_star(n, d, L)
    progress("prompts", 0, 1)
    rng = np.random.default_rng([setting.seed, 12])
    s, V = wishart_spectra(rng, n, d, PROMPTS)
    left, right = (np.einsum("pij,pi->pj", V, rng.normal(size=(PROMPTS, d))) for _ in range(2))
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # prompts that diverge: inf, and not below anything
        errors = np.stack([np.abs(np.sum(left * right * (1 - a * s) ** T, axis=1)) for T in LOOPS])
    values = {"loops": np.array(LOOPS), "errors": errors, "mean": np.array(mean_errors(n, d, a))}
    return Study(setting, objective, values, pictures.loops)


def mean_errors(n: int, d: int, a: float) -> list[float]:
    """The mean squared error after 1, 2, ... loops, exact, to where all that was gained is lost
    again, or to MEAN_LOOPS.
    """
    mean = []
    with contextlib.suppress(ValueError):  # outside the range of float64: the error is below 1e-307
        for T in range(1, MEAN_LOOPS + 1):
            mean.append(wishart.isotropic_loss(n, d, T, a))
            if mean[-1] > max(mean[0], 2 * min(mean)):
                break
    return mean


def contracting(setting: Setting) -> list[Hypothesis]:
    """Where the median falls: most prompts have all eigenvalues of a* S between 0 and 2."""
    n, d, L = setting.law.n, setting.law.d, setting.L
    top = wishart.a_star(n, d, L) * (1 + (d / n) ** 0.5) ** 2
    reason = (
        f"n = {n}, d = {d}: the largest eigenvalue of a* S is about {top:.3g}, below 2 and n "
        "> d is wanted"
    )
    return [*hypotheses(setting), Hypothesis("most prompts contract", n > d and top < 2, reason)]


def loops(study: Study) -> Iterator[Evidence]:
    """Row 12, the median."""
    errors, L = study.values["errors"], study.setting.L
    share = float(np.mean(errors[-1] < GONE * np.minimum(1.0, errors[0])))
    yield estimated(
        "median-vanishes",
        f"Trained for {L} loops, the median error goes to 0 with more: the share of prompts whose "
        "error is "
        f"below {GONE:g}, and so much less than after one, after {LOOPS[-1]:,} loops, at least "
        "one half "
        f"(median {np.median(errors[-1]):.3g}, {np.median(errors[0]):.3g} after one)",
        "derived: I - a* S contracts for most prompts",
        predicted=0.5,
        measured=share,
        error=0.5 / PROMPTS**0.5,
        resolution=0.25,
        reason="binomial, the largest there is",
        sense="at least",
    )


def looped_over_unlooped(n: int, d: int, L: int) -> tuple[float, str]:
    """The least loss of equal steps over that of free ones; NaN, and why, where float64 does not
    hold one of them.
    """
    try:
        return wishart.least_loss(n, d, L) / wishart.unlooped(n, d, L), ""
    except ValueError as error:
        return np.nan, str(error)


def free_steps(study: Study) -> Iterator[Evidence]:
    """Row 7: what equal steps cost."""
    n, d, L = study.sizes
    ratio, lost = looped_over_unlooped(n, d, L)
    common = {"predicted": 1.0, "error": 4 * ROUNDED}
    yield known(
        "looped-above-unlooped",
        f"{L} equal steps are not better than {L} free ones: the least loss "
        f"{wishart.least_loss(n, d, L):.10g} over theirs",
        "derived: d/(e_0^T M^-1 e_0), M_jk = m_{j+k}",
        measured=ratio,
        resolution=1e-3,
        reason="rounded once",
        sense="at least",
        excuse=lost,
        **common,
    )
    catalan = comb(2 * L, L) // (L + 1)
    (near, lost), (nearer, _) = (looped_over_unlooped(m * LONG, m, L) for m in (WIDE, 4 * WIDE))
    yield known(
        "catalan-ratio",
        f"Looped over unlooped tends to the Catalan number {catalan} for d -> infinity, d/n -> 0: "
        f"ratio at d = {WIDE:.0e}, "
        f"n = {WIDE * LONG:.0e}",
        "derived: semicircle law",
        measured=near / catalan,
        allowance=2 * abs(near - nearer) / catalan,
        resolution=0.02,
        reason="next order in 1/d, twice what four times the dimension changes",
        excuse=lost,
        **common,
    )


def _open_end(mean: np.ndarray) -> bool:
    """Whether the mean still falls where the search for its least ended. E (1 - a s)^2T is convex
    in T: it rises only once.
    """
    return int(np.argmin(mean)) + 1 == len(mean)


def mean_error(study: Study) -> Iterator[Evidence]:
    """Row 12, the mean."""
    mean, L = study.values["mean"], study.setting.L
    growth = mean[1:] / mean[:-1]
    still = (
        "the mean error does not change with the loops at all"
        if len(mean) > 1 and np.ptp(mean) == 0
        else ""
    )
    least = int(np.argmin(mean)) + 1
    end = "that is exact" if len(mean) == MEAN_LOOPS else "at which float64 holds it"
    yield known(
        "mean-keeps-falling",
        f"Trained for {L} loops, more loops at test never raise the mean error: the largest ratio "
        "of one to the next, up to "
        f"{len(mean)} loops (least at {least})",
        "more test loops keep improving, as transcribed",
        predicted=1.0,
        measured=growth,
        error=4 * ROUNDED,
        resolution=1e-3,
        reason="exact moments, rounded once",
        sense="at most",
        excuse=still
        or (
            f"it falls up to {least} loops, the most {end}, and diverges later: its least is not "
            "known"
            if _open_end(mean)
            else ""
        ),
    )


def loops_quantities(study: Study) -> dict[str, Number]:
    """The least mean error and its number of loops; neither where the search ended before the mean
    rose.
    """
    mean = study.values["mean"]
    if _open_end(mean):
        return {}
    return {
        "best_loops": Number(np.argmin(mean) + 1),
        "mean_error_least": Number(mean.min(), ROUNDED * mean.min()),
    }
