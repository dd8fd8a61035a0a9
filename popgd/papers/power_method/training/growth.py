"""Evidence about exact descent on the manifold where -c^p l'(c) -> K > 0: c grows for ever, like
t^(1/p).

With l' = -(K - K2/c + K3/c^2 - ...)/c^p one step of the reduced dynamics gives (Delta = a^2 - b^2)

    (c^p)^+ - c^p = N (1 - k2/c + ...),   N = 2 p eta K/d,   k2 = K2/K,
    t (c^+ - c)/c = (1/p) (1 + (k2/c)/(p - 1) + ...),

with relative corrections of the next order: K3/(K c^2), (k2/c)^2, Delta^2/(8 c^2) and the size of
one step dc/c.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from popgd.claims.evidence import Evidence, known
from popgd.descent import leap, recursion, recursion_optax
from popgd.descent.interpolant import evaluate, interpolate
from popgd.descent.memory import FORGETFUL, Memory
from popgd.descent.recursion import Records
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.training.manifold import broken_off
from popgd.papers.power_method.training.study import Exact, Study, curves_of, exact_half, start_of
from popgd.theorem.base import Progress, Setting

#: Records per decade of the exact descent.
PER_DECADE = 8
#: What the growth constants must be good for: six digits.
SIX_DIGITS = 1e-6
#: Steps of another optimiser than plain gradient descent, and its rounding (measured 5e-13 after
#: 10^8 plain steps).
MOST_OPTIMISER_STEPS, STEPWISE_ROUNDING = 10**6, 1e-11
#: The interpolant's stated error is carried into every claim (1e-13 to 1e-12 mostly); beyond this
#: it is refused.
HARD = 1e-6
#: c at step 10^18 of 4.3 is 10^5 to 10^6 and of 4.1 some 10^8; the interpolant goes on by its tail
#: beyond this.
LARGEST = 1e10
#: A relative change of the step size, the same as one of the slope all along, whose effect on the
#: descent is linear.
CHANGE = 1e-5


def descend_exactly(
    setting: Setting,
    make_curve: Callable[[Spectrum], Any],
    power: int,
    progress: Progress,
    memory: Memory = FORGETFUL,
) -> Exact:
    """The population curve of the law, its interpolant and the exact descent to `setting.steps`.

    For a law with random spectra the recursion is exact for the sampled set of spectra. Another
    optimiser than plain gradient descent has no interpolating flow: it takes at most
    MOST_OPTIMISER_STEPS steps.
    """
    curve, wide = curves_of(setting, make_curve)
    middle = (
        None
        if curve is wide
        else make_curve(Spectrum.of(np.asarray(curve.spectra.lam).mean(axis=0)))
    )
    return exact_half(
        curve, wide, 0.0, power, lambda: _descend(setting, curve, middle, power, progress), memory
    )


def _descend(
    setting: Setting, curve: Any, middle: Any, power: int, progress: Progress
) -> tuple[Records, Records, np.ndarray, float, np.ndarray]:
    """Records of the long and of the short descent, losses along the long one, the error of the
    slope, and the response of the last (a, b, c) to the slope. `middle` is the curve of the mean
    spectrum where there are many.
    """
    worst = [0.0]

    def log_slope(c: Any) -> np.ndarray:
        found = curve.log_slope(c)
        worst.append(float(np.max(found.bound)))
        progress("interpolating the slope", len(worst), 60)
        return np.asarray(found.value)

    if middle is None:
        slope = interpolate(log_slope, power, largest=LARGEST, tolerance=HARD)
    else:
        like = interpolate(
            lambda c: np.asarray(middle.log_slope(c).value), power, largest=LARGEST, tolerance=HARD
        )
        same = {"scale": float(like.scale), "width": like.width}
        slope = interpolate(log_slope, power, **same, largest=LARGEST, degree=16, tolerance=HARD)
    # The descent's bounds are to hold for the true slope, not for what was interpolated
    slope = replace(slope, error=slope.error + max(worst))

    report = partial(progress, "exact descent")
    eta, d = setting.eta, setting.law.d
    response = np.full(3, 0.0 if middle is None else np.inf)
    if setting.optimiser == "sgd":
        run = partial(
            leap.trajectory,
            slope,
            start_of(setting),
            d=d,
            steps=setting.steps,
            per_decade=PER_DECADE,
        )
        records = run(eta, callback=report)
        if middle is not None:
            response = (ends_of(run(eta * (1 + CHANGE))) - ends_of(records)) / CHANGE
        short = recursion.recurse(
            slope, start_of(setting), eta, d, recursion.log_grid(setting.sampled_steps, PER_DECADE)
        )
    else:
        grids = (
            recursion.log_grid(min(n, MOST_OPTIMISER_STEPS), PER_DECADE)
            for n in (setting.steps, setting.sampled_steps)
        )
        run = partial(
            recursion_optax.recurse_optax, slope, start_of(setting), setting.make_optimiser(), d
        )
        records, short = (run(grid, callback=report) for grid in grids)
    error = float(slope.error)
    losses = float(curve.limit().value) + _excess_losses(slope, records.c, power)
    return records, short, losses, error, response


def ends_of(records: Records) -> Float[np.ndarray, "3"]:
    """(a, b, c) at the last step."""
    a, b = records.weights
    return np.array([a[-1], b[-1], records.c[-1]])


def sampling_errors(exact: Exact) -> Float[np.ndarray, "3"]:
    """Standard errors of the last (a, b, c) from the sampled spectra.

    What a slope off by the relative standard error of l'(c), at the start or at the end, whichever
    is larger, all along does to them: the errors at all c have the same sign nearly, and late ones
    count most.
    """
    if not exact.response.any():
        return np.zeros(3)
    shares = exact.curve.log_slope(np.array([0.0, float(exact.records.c[-1])])).stderr
    return abs(exact.response) * float(np.max(shares))


def _excess_losses(
    slope: Any, c: Float[np.ndarray, " records"], power: int
) -> Float[np.ndarray, " records"]:
    """l(c) - l_inf at increasing c, by integrating the fitted -l' from each c to the next and from
    the last to infinity.

    Gauss-Legendre in log(1 + c/scale), at most one unit a panel: 1e-12 relative. Beyond the last c
    the slope is a power up to k2/c, which is 1e-3 at most where it matters.
    """
    scale = float(slope.scale)
    u = np.log1p(np.maximum.accumulate(np.nan_to_num(c)) / scale)
    end = max(u[-1], np.log1p(LARGEST / scale))
    x, w = np.polynomial.legendre.leggauss(16)
    edges = np.unique(np.concatenate([u, np.arange(u[0], end, 1.0), [end]]))
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    at = scale * np.expm1(middle[:, None] + half[:, None] * x)
    last = scale * np.expm1(end)
    slopes = np.asarray(evaluate(slope, np.append(at, last)))
    pieces = (-slopes[:-1].reshape(at.shape) * (at + scale) * w).sum(axis=1) * half
    tail = -slopes[-1] * last / (power - 1)
    beyond = np.concatenate([np.cumsum(pieces[::-1])[::-1], [0.0]]) + tail
    return beyond[np.searchsorted(edges, u)]


@dataclass(frozen=True)
class Asymptote:
    """What is known of the descent near its last step: constants, corrections, and the size of the
    next order.
    """

    t: float
    c: float
    dc: float
    K: float
    k2: float
    next_order: float
    settled: float
    error: float
    numbers: str

    @classmethod
    def of(cls, study: Study) -> "Asymptote":
        exact: Exact = study.exact
        records, p = exact.records, exact.power
        # A c of 0 has no asymptote: every number of it is NaN
        c, dc, t = records.c[-1] or np.float64(np.nan), records.dc[-1], float(records.step[-1])
        K, K2 = exact.curve.constant(), exact.curve.correction()
        k2 = float(K2.value / K.value)
        third = third_order(exact, c)
        skew = float(records.imbalance[-1])
        late = (abs(k2) / np.maximum(records.c, 1e-300) < 0.5) & (records.imbalance < 0.5)
        settled = float(records.step[np.argmax(late)]) if late.any() else t
        next_order = 2 * (third + (k2 / c) ** 2 + skew + abs(dc) / c)
        bound = bound_of_c(records)
        error = exact.slope_error + float(K.bound / K.value) + p * bound / c
        numbers = (
            f"at c = {c:.4g}: 1/c term {k2 / c:.1e} removed, next order {next_order:.1e} allowed"
        )
        return cls(t, c, dc, float(K.value), k2, next_order, settled / t, error, numbers)


def bound_of_c(records: Records) -> float:
    """A bound of the error of the last c: measured where none is stated."""
    bound, c = float(records.bound[-1]), float(records.c[-1])
    return bound if np.isfinite(bound) else STEPWISE_ROUNDING * c


def third_order(exact: Any, c: Any) -> Any:
    """|K3|/(K c^2) at each c, whatever K and K2 are: from M = -c^p l'(c) at c, c/2 and c/4."""
    at = np.array([c, c / 2, c / 4])
    M = np.exp(np.asarray(exact.curve.log_slope(at).value) + exact.power * np.log(at))
    return abs(2 * M[0] - 3 * M[1] + M[2]) / 6 / M[0]


def growth(study: Study) -> Iterator[Evidence]:
    """c grows like t^(1/p), a and b like t^(1/2p), and the increments of c^p approach 2 p eta
    K/d.
    """
    exact: Exact = study.exact
    setting, p = study.setting, exact.power
    near = Asymptote.of(study)
    exponent = 1 / p if setting["claim.exponent"] is None else setting["claim.exponent"]
    shown = Fraction(exponent).limit_denominator(1000)
    excuse = broken_off(int(exact.records.stopped) if exact.records.stopped >= 0 else None)
    # Logarithms of t come from integrating second-order terms: d(c^p) = N (1 + x/c^2) dt.
    allowed = near.next_order * (1 + np.log(near.t)) + 2 * near.settled
    rival = abs(1 / 2 - 1 / 3) / 2
    measured = near.t * near.dc / near.c - near.k2 / near.c / (p * (p - 1))
    yield known(
        "exponent-c",
        f"c_t grows like t^({shown}): local exponent at step {near.t:.3g}, its 1/c term removed",
        "main theorem: growth",
        predicted=exponent,
        measured=measured,
        error=near.error * measured,
        allowance=allowed / p,
        resolution=rival,
        reason=f"{near.numbers}; early steps {near.settled:.1e}. Resolution: half the distance "
        "between 1/2 and 1/3",
        excuse=excuse,
    )
    for name, value in zip("ab", _block_exponents(exact.records), strict=True):
        yield known(
            f"exponent-{name}",
            f"{name}_t grows like t^({shown / 2}): local exponent, its 1/c term removed",
            "main theorem: growth",
            predicted=exponent / 2,
            measured=value * near.t - near.k2 / near.c / (2 * p * (p - 1)),
            error=near.error * value * near.t,
            allowance=allowed / (2 * p) + abs(float(exact.records.Delta[-1])) / near.c,
            resolution=rival / 2,
            reason=f"{near.numbers}; and |a^2 - b^2|/c",
            excuse=excuse,
        )
    yield from increments(study, near, excuse)


def _block_exponents(records: recursion.Records) -> tuple[float, float]:
    """(a^+ - a)/a and (b^+ - b)/b at the last step, from dc: a^2 = (s + Delta)/2, s = sqrt(4c^2 +
    Delta^2), dDelta ~ 0.
    """
    c, Delta, dc = float(records.c[-1]), float(records.Delta[-1]), float(records.dc[-1])
    s = np.hypot(2 * c, Delta)
    ds = 4 * c * dc / s
    return ds / (2 * (s + Delta)), ds / (2 * (s - Delta))


def increments(study: Study, near: Asymptote, excuse: str) -> Iterator[Evidence]:
    """(c^p)^+ - c^p -> 2 p eta K/d, as a ratio; with another exponent 1/k asked for, those of c^k
    must be constant.
    """
    exact: Exact = study.exact
    setting, p = study.setting, exact.power
    if setting["claim.exponent"] is not None:
        p = 1 / setting["claim.exponent"]
    step = near.c ** (p - 1) * near.dc * p * (1 + (p - 1) / 2 * near.dc / near.c)
    constant = 2 * exact.power * setting.eta * near.K / setting.law.d
    yield known(
        "increment-constant",
        f"c^{p:.3g} grows by 2 p eta K/d = {constant:.10g} a step in the limit: ratio at step "
        f"{near.t:.3g}, 1/c term removed",
        "main theorem: increments; constant derived",
        predicted=1.0,
        measured=step / constant + near.k2 / near.c,
        error=near.error,
        allowance=near.next_order,
        resolution=SIX_DIGITS,
        reason=f"{near.numbers}. Resolution: six digits",
        origin="derived",
        excuse=excuse,
    )
