"""Evidence about exact descent on the manifold where l(c) = L* + A (c - c*)^2: c converges linearly
to c*.

With etat = 2 eta A/d and s = sqrt(4c^2 + Delta^2) = a^2 + b^2 one step of the reduced dynamics is,
exactly,

    c^+ - c* = f (c - c*),   f = 1 - etat s + etat^2 (c - c*) c  ->  1 - etat s_inf,   loss factor
                             -> its square.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from popgd.claims.evidence import Evidence, known
from popgd.descent import recursion
from popgd.descent.memory import FORGETFUL, Memory
from popgd.descent.recursion import Records
from popgd.papers.power_method.curve import Linear
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.training import manifold
from popgd.papers.power_method.training.manifold import broken_off
from popgd.papers.power_method.training.study import Exact, Study, curves_of, exact_half, start_of
from popgd.problem.number import Number
from popgd.problem.numeric import UNIT
from popgd.theorem.base import Progress, Setting

#: At most this many steps one by one (under half a minute).
MOST = 10**8
PER_DECADE = 8
#: Rounding of c in one step, relative to c*: four units.
ARRIVED = 4 * UNIT
#: A limit must be known to this share of its distance from the start: of c, and of the loss, a
#: square, to its square root.
SHARE, LOSS_SHARE = 1e-9, 1e-6
#: An orbit that is still this far from c*, relative to the start, and whose amplitude and s have
#: changed by less than STEADY since half the steps, does not converge.
FAR, STEADY = 1e-6, 1e-3
#: A relative change of A and of N = A c* that shows what those two do to a number, and of which at
#: most this share may be lost to second order.
CHANGE, LINEAR = 1e-10, 0.01
#: Relative rounding of A, N and of the steps together, in units.
ROUNDINGS = 64
#: The contraction factor is read where c - c* has fallen to about this share of its start: far
#: above rounding.
READ_AT = 1e-5


def _affine_slope(c: jax.Array, c_star: jax.Array, A: jax.Array) -> jax.Array:
    """l'(c) = 2A (c - c*)."""
    return 2 * A * (c - c_star)


def _parabola(A: Any, c_star: Any) -> jax.tree_util.Partial:
    """The slope of L* + A (c - c*)^2, for `recursion`."""
    return jax.tree_util.Partial(_affine_slope, c_star=jnp.asarray(c_star), A=jnp.asarray(A))


def sufficient(eta: float, A: float, c_star: float, d: int) -> float:
    """etat sqrt(1 + 4c*^2) + etat^2 c*^2/4: at most 1 suffices for c_t to rise monotonically to c*
    from (1, 0).
    """
    etat = np.float64(2 * eta * A / d)
    return etat * np.sqrt(1 + 4 * c_star**2) + etat**2 * c_star**2 / 4


def descend_exactly(
    setting: Setting,
    make_curve: Callable[[Spectrum], Any],
    progress: Progress,
    memory: Memory = FORGETFUL,
) -> Exact:
    """The population curve of the law and the exact descent until it has converged, or to
    `setting.steps`.
    """
    curve, wide = curves_of(setting, make_curve)
    A, c_star = float(curve.mean_square().value), float(curve.c_star().value)
    eta, d = setting.eta, setting.law.d
    start = start_of(setting)

    def descend() -> tuple:
        records = _to_the_end(
            curve, start, eta, d, setting.steps, partial(progress, "exact descent")
        )
        short = recursion.recurse(
            _parabola(A, c_star),
            start,
            eta,
            d,
            recursion.log_grid(setting.sampled_steps, PER_DECADE),
        )
        return records, short, np.asarray(curve.loss(records.c).value), 0.0, np.zeros(3)

    exact = exact_half(curve, wide, 2 * A, 0, descend, memory)
    return (
        exact
        if wide is curve
        else replace(exact, under_wide=under(wide, setting, exact.short.step))
    )


def _to_the_end(
    curve: Linear,
    start: tuple[float, float],
    eta: float,
    d: int,
    steps: int,
    progress: Callable[[int, int], None],
) -> Records:
    """The descent until c has arrived or is not finite, for `steps` steps at most, and never more
    than MOST.
    """
    parts, state = [], None
    A, c_star = float(curve.mean_square().value), float(curve.c_star().value)
    slope, etat = _parabola(A, c_star), 2 * eta * A / d
    grid = recursion.log_grid(min(steps, MOST), PER_DECADE)
    for number, step in enumerate(grid):
        part = recursion.recurse(
            slope, start, eta, d, grid[number : number + 1], state=state, callback=progress
        )
        state = part.state
        parts.append(part)
        progress(int(step), int(grid[-1]))
        c, Delta = float(part.c[0]), float(part.Delta[0])
        if step and not abs(c - c_star) > floor(c_star, etat * float(np.hypot(2 * c_star, Delta))):
            break
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Records._fields[:7]
    }
    return parts[-1]._replace(**columns)


def floor(c_star: float, etat_s: float) -> float:
    """How far from c* rounding keeps c where descent converges: a step adds a few units of c, seen
    through the slope as etat s of them, and takes 1 - |1 - etat s| of what is there. 0 where it
    does not converge: rounding excuses nothing.
    """
    left = 1 - abs(1 - etat_s)
    return ARRIVED * abs(c_star) * (1 + etat_s / left) if left > 0 else 0.0


class Changed(NamedTuple):
    """A and N = A c* as they are, and moved: by the standard errors of their means over the
    spectra, up and down, and by CHANGE.

    correlation is that of the two means.
    """

    A: Float[np.ndarray, "9"]
    N: Float[np.ndarray, "9"]
    correlation: float

    @classmethod
    def of(cls, curve: Linear) -> "Changed":
        A, N = curve.of_each()
        errors = np.cov(A, N) / len(A) if len(A) > 1 else np.zeros((2, 2))
        up_A, up_N = np.diag(errors) ** 0.5
        by_A, by_N = np.array([0, 1, -1, 0, 0, 0, 0, 0, 0]), np.array([0, 0, 0, 1, -1, 0, 0, 0, 0])
        all_A = A.mean() + up_A * by_A + CHANGE * A.mean() * np.roll(by_A, 4)
        all_N = N.mean() + up_N * by_N + CHANGE * N.mean() * np.roll(by_N, 4)
        return cls(all_A, all_N, errors[0, 1] / (up_A * up_N) if up_A * up_N else 0.0)

    def descend(self, setting: Setting, steps: Int[np.ndarray, " records"]) -> Records:
        """The nine descents at these steps."""
        slope = _parabola(self.A, self.N / self.A)
        return recursion.recurse(
            slope, start_of(setting), np.full(9, setting.eta), setting.law.d, steps
        )

    def sampling(self, values: Float[np.ndarray, "*n 9"]) -> Float[np.ndarray, "*n"]:
        """The standard error of a number from the sampled spectra, by the delta method."""
        by_A, by_N = (values[..., 1] - values[..., 2]) / 2, (values[..., 3] - values[..., 4]) / 2
        return np.asarray(
            np.sqrt(np.maximum(by_A**2 + by_N**2 + 2 * self.correlation * by_A * by_N, 0.0))
        )

    def number(self, values: Float[np.ndarray, "*n 9"], error_N: float) -> Number:
        """A number, what the relative error of N, and rounding, may do to it (infinite where that
        is not small), and its standard error.
        """
        moved = np.stack([values[..., 5] - values[..., 6], values[..., 7] - values[..., 8]]) / 2
        small = np.all(abs(moved) <= LINEAR * abs(values[..., 0]), axis=0)
        rounding = ROUNDINGS * UNIT
        by_A, by_N = abs(moved) / CHANGE
        off = by_A * rounding + by_N * (error_N + rounding) + rounding * abs(values[..., 0])
        return Number(values[..., 0], np.where(small, off, np.inf), self.sampling(values))


def under(curve: Linear, setting: Setting, steps: Int[np.ndarray, " short"]) -> Number:
    """c at the steps of a descent under the curve of sampled spectra, with its standard error."""
    changed = Changed.of(curve)
    c = changed.descend(setting, steps).c
    return Number(c[:, 0], stderr=changed.sampling(c))


def quantities(study: Study) -> dict[str, Number]:
    """Numbers of c*, of where descent ends, and of how fast it comes there."""
    exact, setting = study.exact, study.setting
    curve, records = exact.curve, exact.records
    star, least = curve.c_star(), curve.limit()
    changed = Changed.of(curve)
    ends = changed.descend(setting, records.step[-1:])
    a, b = ends.weights
    etat = 2 * setting.eta * changed.A / setting.law.d
    stability = etat * np.hypot(2 * ends.c[0], ends.Delta[0])
    values = {
        "contraction": (1 - stability) ** 2,
        "stability": stability,
        "c_final": ends.c[0],
        "a_final": a[0],
        "b_final": b[0],
    }
    error_N = float((star.bound + _rounding_of(study)) / abs(star.value)) if star.value else 0.0
    found = {name: changed.number(x, error_N) for name, x in values.items()}
    if not converges(study):
        unknown = {name: found[name].moved(np.inf) for name in ("contraction", "stability")}
        found |= unknown  # numbers of the limit
    loss = curve.loss(jnp.asarray(records.c[-1]))
    slope = curve.slope(jnp.asarray(records.c[-1])).value
    moved = abs(slope) * found["c_final"].error
    return {"c_star": star, "loss_min": least, **found, "loss_final": loss.moved(moved)}


def convergence(study: Study) -> Iterator[Evidence]:
    """c_t -> c*, the loss -> L* > 0, linearly with the factors of the module's head."""
    exact = study.exact
    records, curve = exact.records, exact.curve
    excuse = broken_off(int(records.stopped) if records.stopped >= 0 else None)
    star, least = curve.c_star(), curve.limit()
    c_star, t = float(star.value), int(records.step[-1])
    left, distance = _remaining(study), abs(float(records.c[0]) - c_star)
    yield known(
        "limit-c",
        f"a_t b_t converges to c* = {c_star:.10g}: c at step {t}",
        "main theorem: convergence",
        predicted=c_star,
        measured=float(records.c[-1]),
        error=float(star.bound),
        allowance=left + _rounding_of(study),
        resolution=SHARE * distance,
        reason=f"what linear convergence leaves after {t} steps, and rounding; {_regime(study)}. "
        "Resolution: a share of the "
        f"distance {distance:.3g} from the start",
        excuse=excuse or unfinished(study),
    )
    loss = curve.loss(jnp.asarray(records.c[-1]))
    excess = exact.curvature / 2 * distance**2
    yield known(
        "limit-loss",
        f"The loss converges to L* = {float(least.value):.10g}: the loss at step {t}",
        "main theorem: convergence",
        predicted=float(least.value),
        measured=float(loss.value),
        error=float(least.bound + loss.bound),
        allowance=exact.curvature / 2 * left**2,
        resolution=LOSS_SHARE * excess,
        reason="the parabola over what linear convergence leaves of c - c*. Resolution: a share "
        f"of the {excess:.3g} by which "
        "the loss falls",
        excuse=excuse or unfinished(study),
    )
    limit = float(least.value)
    yield manifold.positive(
        "limit-loss-positive",
        "The limit L* of the loss is positive",
        limit,
        float(least.bound),
        excuse,
    )
    yield from contraction(study, excuse)


def _gaps(study: Study) -> tuple[np.ndarray, np.ndarray]:
    """c - c* at the records, and the factors f by which the next step multiplies it."""
    exact = study.exact
    records = exact.records
    gap = records.c - float(exact.curve.c_star().value)
    etat = study.setting.eta * exact.curvature / study.setting.law.d
    return gap, 1 - etat * np.hypot(2 * records.c, records.Delta) + etat**2 * gap * records.c


def half(records: Records) -> int:
    """The last record at no more than half of the steps."""
    return int(np.searchsorted(records.step, records.step[-1] / 2, side="right")) - 1


def _oscillates(study: Study) -> bool:
    """Whether c goes on moving around c*, as far away as at half of the steps and with the same
    s.
    """
    records = study.exact.records
    gap, i = _gaps(study)[0], half(study.exact.records)
    # A record may fall on either side of c*
    wide = np.maximum(abs(gap), abs(gap + records.dc))
    s = np.hypot(2 * records.c, records.Delta)
    with np.errstate(invalid="ignore"):
        still = abs(wide[-1] - wide[i]) <= STEADY * wide[i] and abs(s[-1] - s[i]) <= STEADY * s[i]
        still = still and abs(records.dc[-1]) > wide[-1]  # it does not just stand still
    return bool(still and wide[-1] > FAR * abs(gap[0]) and i > 0)


def converges(study: Study) -> bool:
    """Whether from half of the steps on every step on record brings c nearer to c*."""
    f, i = _gaps(study)[1], half(study.exact.records)
    return bool(np.all(abs(f[i:]) < 1))


def _rounding_of(study: Study) -> float:
    """`floor` at the last step."""
    records, exact = study.exact.records, study.exact
    star = float(exact.curve.c_star().value)
    s = float(np.hypot(2 * star, records.Delta[-1]))
    return floor(star, study.setting.eta * exact.curvature / study.setting.law.d * s)


def unfinished(study: Study) -> str:
    """Why nothing can be said of the limit, or empty."""
    if converges(study) or _oscillates(study):
        return ""
    return (
        f"c neither settles nor repeats itself in {int(study.exact.records.step[-1])} steps: "
        "take more, or a smaller eta"
    )


def _remaining(study: Study) -> float:
    """How far linear convergence leaves c_t from c* at the last step: the distance from where on
    every factor f is below 1, times those factors.

    Between two records the larger of their factors counts. 0 where c oscillates for ever: no step
    excuses that.
    """
    if not converges(study):
        return 0.0
    records = study.exact.records
    gap, f = _gaps(study)
    i = int(np.append(-1, np.flatnonzero(~(abs(f) < 1)))[-1]) + 1
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(abs(f[i:-1]), abs(f[i + 1 :]))) @ np.diff(records.step[i:])
    return 2 * abs(float(gap[i])) * float(np.exp(logs))


def _regime(study: Study) -> str:
    """What the descent did, in words: etat s_inf = 2 is the edge of local stability of a fixed
    point with a b = c*.
    """
    records, exact = study.exact.records, study.exact
    if records.stopped >= 0:
        return f"the descent diverges at step {int(records.stopped)}"
    c_star = float(exact.curve.c_star().value)
    etat = study.setting.eta * exact.curvature / study.setting.law.d
    s = float(np.hypot(2 * records.c[-1], records.Delta[-1]))
    gap = abs(float(records.c[-1]) - c_star) / max(abs(c_star), abs(float(records.c[0]) - c_star))
    early = etat * float(np.hypot(2 * c_star, records.Delta[0]))
    if gap > 1e-6 and etat * s >= 2:
        return (
            "it oscillates around c*, beyond the edge of local stability: etat s = "
            f"{etat * s:.3g} >= 2"
        )
    tamed = ", though at its start it was beyond: it stabilised itself" if early >= 2 else ""
    return f"locally stable, etat s_inf = {etat * s:.3g} < 2{tamed}"


def contraction(study: Study, excuse: str) -> Iterator[Evidence]:
    """The measured factor of c - c* at one step, where c - c* is small but far above rounding."""
    exact, setting = study.exact, study.setting
    records = exact.records
    star = exact.curve.c_star()
    gap = records.c - float(star.value)
    etat = setting.eta * exact.curvature / setting.law.d
    doubt = float(star.bound) + _rounding_of(study)
    seen = abs(gap) > max(READ_AT * abs(gap[0]), 1e6 * doubt)
    i = int(np.flatnonzero(seen)[-1]) if seen.any() else 0
    s = float(np.hypot(2 * records.c[-1], records.Delta[-1]))
    here = float(np.hypot(2 * records.c[i], records.Delta[i]))
    factor = 1 - etat * s
    yield known(
        "contraction",
        f"c_t - c* contracts by 1 - etat s_inf = {factor:.10g} a step (the loss excess by its "
        "square): factor at step "
        f"{records.step[i]}",
        "main theorem: linear rate; factor derived",
        predicted=factor,
        measured=1 + float(records.dc[i] / gap[i]) if gap[i] else np.nan,
        error=2 * doubt / abs(gap[i]) if gap[i] else np.inf,
        allowance=2 * etat * abs(here - s)
        + etat**2 * abs(gap[i]) * (abs(gap[i]) + abs(float(star.value))),
        resolution=1e-2 * etat * s,
        reason=f"c is {gap[i]:.1e} from c*: s differs by {here - s:.1e} from its limit, and the "
        "term quadratic in etat",
        origin="derived",
        excuse=excuse or ("" if converges(study) else "c does not converge: there is no rate"),
    )
    monotone = sufficient(setting.eta, exact.curvature / 2, float(star.value), setting.law.d) <= 1
    if monotone:
        far = abs(gap) > READ_AT * abs(gap[0])
        error = doubt / abs(gap[far]).min() if far.any() else np.inf
        taken = -records.dc[far] / gap[far]
        yield known(
            "monotone",
            "c_t moves monotonically towards c*, as it must at step sizes within the sufficient "
            "bound: the share of its "
            "distance that a step takes off, and the share that it leaves",
            "derived: sufficient step size",
            measured=np.concatenate([taken - 2 * error, 1 - taken]) if far.any() else np.nan,
            error=error,
            resolution=1e-2 * etat * s,
            reason="rounding, and twice that off the first share, as 0 itself refutes. "
            "Resolution: a percent of the rate",
            sense="at least",
            excuse=excuse,
        )
