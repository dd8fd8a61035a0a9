"""Evidence about exact descent on the manifold where l(c) = L* + A (c - c*)^2: c converges linearly to c*.

With etat = 2 eta A/d and s = sqrt(4c^2 + Delta^2) = a^2 + b^2 one step of the reduced dynamics is

    c^+ - c* = (c - c*) (1 - etat s + etat^2 (c - c*) c/4 ...),    factor -> 1 - etat s_inf,    loss factor -> its square.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from popgd import recursion
from popgd.curve import Linear
from popgd.memory import FORGETFUL, Memory
from popgd.quadrature import Spectrum
from popgd.theory import manifold
from popgd.theory.base import Progress, Setting
from popgd.theory.manifold import broken_off
from popgd.theory.study import Exact, Study, curves_of, exact_half, start_of
from popgd.verdict import Evidence

#: Steps in units of 1/(etat s): exp(-80) is beyond what float64 can tell from the limit.
ENOUGH = 80
#: At most this many steps one by one (under half a minute).
MOST = 10**8
PER_DECADE = 8
#: The contraction factor is read where c - c* has fallen to about this share of its start: far above rounding.
READ_AT = 1e-5


def affine_slope(c: jax.Array, c_star: jax.Array, A: jax.Array) -> jax.Array:
    """l'(c) = 2A (c - c*)."""
    return 2 * A * (c - c_star)


def sufficient(eta: float, A: float, c_star: float, d: int) -> float:
    """etat sqrt(1 + 4c*^2) + etat^2 c*^2/4: at most 1 suffices for c_t to rise monotonically to c* from (1, 0)."""
    etat = 2 * eta * A / d
    return etat * np.sqrt(1 + 4 * c_star**2) + etat**2 * c_star**2 / 4


def descend_exactly(
    setting: Setting, make_curve: Callable[[Spectrum], Any], progress: Progress, memory: Memory = FORGETFUL
) -> Exact:
    """The population curve of the law and the exact descent until it has converged, or to `setting.steps`."""
    curve, wide = curves_of(setting, make_curve)
    A, c_star = float(curve.mean_square().value), float(curve.c_star().value)
    slope = jax.tree_util.Partial(affine_slope, c_star=jnp.asarray(c_star), A=jnp.asarray(A))
    eta, d = setting.eta, setting.law.d
    need = int(min(ENOUGH * d / (2 * eta * A) + 100, MOST))
    grid = recursion.log_grid(max(1, min(setting.steps, need)), PER_DECADE)

    def descend() -> tuple:
        report = partial(progress, "exact descent")
        records = recursion.recurse(slope, start_of(setting), eta, d, grid, callback=report)
        short = recursion.recurse(slope, start_of(setting), eta, d, recursion.log_grid(setting.sampled_steps, PER_DECADE))
        return records, short, np.asarray(curve.loss(records.c).value), 0.0

    exact = exact_half(curve, wide, 2 * A, 0, descend, memory)
    return exact if wide is curve else replace(exact, under_wide=under(wide, setting, exact.short.step))


def under(curve: Linear, setting: Setting, steps: Int[np.ndarray, " short"]) -> tuple[np.ndarray, np.ndarray]:
    """c at the steps of a descent under the curve of sampled spectra, and its standard error: the delta method.

    l' = 2 (A c - N), A and N the means over the spectra. Each is moved by its standard error, up and down; what that does to c
    adds up as they are correlated.
    """
    A, N = curve.of_each()
    errors = np.cov(A, N) / len(A)
    up_A, up_N = np.diag(errors) ** 0.5
    A, N = A.mean() + up_A * np.array([0, 1, -1, 0, 0]), N.mean() + up_N * np.array([0, 0, 0, 1, -1])
    slope = jax.tree_util.Partial(affine_slope, c_star=jnp.asarray(N / A), A=jnp.asarray(A))
    c = recursion.recurse(slope, start_of(setting), np.full(5, setting.eta), setting.law.d, steps).c
    by_A, by_N = (c[:, 1] - c[:, 2]) / 2, (c[:, 3] - c[:, 4]) / 2
    together = errors[0, 1] / (up_A * up_N) if up_A * up_N else 0.0
    return c[:, 0], np.sqrt(np.maximum(by_A**2 + by_N**2 + 2 * together * by_A * by_N, 0.0))


def convergence(study: Study) -> Iterator[Evidence]:
    """c_t -> c*, the loss -> L* > 0, linearly with the factors of the module's head."""
    exact = study.exact
    records, curve = exact.records, exact.curve
    excuse = broken_off(int(records.stopped) if records.stopped >= 0 else None)
    star, least = curve.c_star(), curve.limit()
    c_star, t = float(star.value), int(records.step[-1])
    left = remaining(study)
    yield Evidence(
        "limit-c",
        f"a_t b_t converges to c* = {c_star:.10g}: c at step {t}",
        "main theorem: convergence",
        predicted=c_star,
        measured=float(records.c[-1]),
        error=float(star.bound),
        allowance=left + 1e-14 * max(1.0, abs(c_star)),
        resolution=1e-9 * max(1.0, abs(c_star)),
        reason=f"what linear convergence leaves after {t} steps, and rounding; {regime(study)}",
        statistical=False,
        excuse=excuse,
    )
    loss = curve.loss(jnp.asarray(records.c[-1]))
    floor = 2 * exact.curvature * left**2
    yield Evidence(
        "limit-loss",
        f"The loss converges to L* = {float(least.value):.10g}: the loss at step {t}",
        "main theorem: convergence",
        predicted=float(least.value),
        measured=float(loss.value),
        error=float(least.bound + loss.bound),
        allowance=floor + 1e-14,
        resolution=1e-9,
        reason="the parabola over what linear convergence leaves of c - c*, and rounding",
        statistical=False,
        excuse=excuse,
    )
    limit = float(least.value)
    yield manifold.positive("limit-loss-positive", "The limit L* of the loss is positive", limit, float(least.bound), excuse)
    yield from contraction(study, excuse)


def regime(study: Study) -> str:
    """What the descent did, in words: etat s_inf = 2 is the edge of local stability of a fixed point with a b = c*."""
    records, exact = study.exact.records, study.exact
    if records.stopped >= 0:
        return f"the descent diverges at step {int(records.stopped)}"
    c_star = float(exact.curve.c_star().value)
    etat = study.setting.eta * exact.curvature / study.setting.law.d
    s = float(np.hypot(2 * records.c[-1], records.Delta[-1]))
    gap = abs(float(records.c[-1]) - c_star) / max(abs(c_star), abs(float(records.c[0]) - c_star))
    early = etat * float(np.hypot(2 * c_star, records.Delta[0]))
    if gap > 1e-6 and etat * s >= 2:
        return f"it oscillates around c*, beyond the edge of local stability: etat s = {etat * s:.3g} >= 2"
    tamed = ", though at its start it was beyond: it stabilised itself" if early >= 2 else ""
    return f"locally stable, etat s_inf = {etat * s:.3g} < 2{tamed}"


def remaining(study: Study) -> float:
    """How far linear convergence leaves c_t from c* at the last step: |c_0 - c*| (1 - etat s)^t, s the least on record."""
    records, setting = study.exact.records, study.setting
    c_star = float(study.exact.curve.c_star().value)
    etat = setting.eta * study.exact.curvature / setting.law.d
    s = float(np.min(np.hypot(2 * records.c, records.Delta)))
    factor = abs(1 - etat * s)
    return abs(float(records.c[0]) - c_star) * factor ** float(records.step[-1]) if factor < 1 else np.inf


def contraction(study: Study, excuse: str) -> Iterator[Evidence]:
    """The measured factor of c - c* at one step, where c - c* is small but far above rounding."""
    exact, setting = study.exact, study.setting
    records = exact.records
    star = exact.curve.c_star()
    gap = records.c - float(star.value)
    etat = setting.eta * exact.curvature / setting.law.d
    seen = abs(gap) > max(READ_AT * abs(gap[0]), 1e6 * float(star.bound))
    i = int(np.flatnonzero(seen)[-1]) if seen.any() else 0
    s = float(np.hypot(2 * records.c[-1], records.Delta[-1]))
    here = float(np.hypot(2 * records.c[i], records.Delta[i]))
    factor = 1 - etat * s
    yield Evidence(
        "contraction",
        f"c_t - c* contracts by 1 - etat s_inf = {factor:.10g} a step (the loss excess by its square): factor at step "
        f"{records.step[i]}",
        "main theorem: linear rate; factor derived",
        predicted=factor,
        measured=1 + float(records.dc[i] / gap[i]),
        error=float(star.bound / abs(gap[i])) * 2 + 1e-14 / abs(gap[i]),
        allowance=2 * etat * abs(here - s) + etat**2 * abs(gap[i]) * (abs(gap[i]) + abs(float(star.value))),
        resolution=1e-2 * etat * s,
        reason=f"c is {gap[i]:.1e} from c*: s differs by {here - s:.1e} from its limit, and the term quadratic in etat",
        origin="derived",
        statistical=False,
        excuse=excuse,
    )
    monotone = sufficient(setting.eta, exact.curvature / 2, float(star.value), setting.law.d) <= 1
    if monotone:
        rising = records.dc * np.sign(float(star.value) - float(records.c[0]))
        yield Evidence(
            "monotone",
            "c_t moves monotonically towards c*, as it must at step sizes within the sufficient bound",
            "derived: sufficient step size",
            predicted=0.0,
            measured=rising,
            error=0.0,
            allowance=4 * np.finfo(float).eps * max(1.0, abs(float(star.value))),
            resolution=1e-12 * max(1.0, abs(float(star.value))),
            reason="rounding of one step",
            origin="derived",
            sense="at least",
            statistical=False,
            excuse=excuse,
        )
