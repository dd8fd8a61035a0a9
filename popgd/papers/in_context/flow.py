"""Gradient flow: rows 9 and 10."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from popgd.claims.evidence import Evidence, known
from popgd.descent.memory import Memory
from popgd.papers.in_context import pictures
from popgd.papers.in_context import wishart_loss as exact
from popgd.papers.in_context.common import Parts, Study, hypotheses
from popgd.papers.in_context.integrator import COARSE, INTEGRATOR, MOST_STEPS, integrate
from popgd.papers.in_context.model import SquaredError
from popgd.problem.law import Hypothesis
from popgd.problem.number import Number
from popgd.theorem.base import Progress, Setting

#: A flow is followed as long as b^2 = (l/d)^{1/L} >= d/(n FOLLOWED): corrections of finite n are of
#: the size of FOLLOWED.
FOLLOWED = 1e-3
#: It needs so many examples, in units of d, for the exponent to show in that range.
EXAMPLES = 10**6
TIMES = 97
RTOL = 1e-3
#: What the loss has fallen by must be known to this share.
SHARE = 0.1


class Flow(NamedTuple):
    """Gradient flow from A = 0 at n and at 4 n examples: times and losses; coarse are those at n
    with the coarser tolerance.
    """

    t: Any
    loss: Any
    more: Any
    coarse: Any


def horizon(n: int, lam: Any, L: int) -> float:
    """The time up to which finite n moves the loss by FOLLOWED at most."""
    d, least = len(lam), float(np.min(lam))
    if L == 1:
        return float(np.log(FOLLOWED * n / (d * (d + 1)))) / (4 * least**2)
    return min(1e8, FOLLOWED * n / (4 * L * (L - 1) * d * float(np.max(lam)) ** 2))


def flow_study(
    setting: Setting, objective: SquaredError, progress: Progress, memory: Memory
) -> Study:
    law = setting.law
    lam = jnp.asarray(np.linalg.eigvalsh(law.Sigma))
    n, L = law.n, setting.L

    def solve() -> Flow:
        last = horizon(n, lam, L)
        times = jnp.concatenate([jnp.zeros(1), jnp.geomspace(last * 1e-9, last, TIMES - 1)])
        progress("gradient flow", 0, 3)
        loss = integrate(n, lam, L, times)
        progress("gradient flow", 1, 3)
        more = integrate(4 * n, lam, L, times)
        progress("gradient flow", 2, 3)
        return Flow(times, loss, more, integrate(n, lam, L, times, COARSE))

    flow = lambda: memory.part("flow").once(solve, Flow(*range(4)))._asdict()
    return Study(setting, objective, Parts({"flow": flow}), pictures.flow)


def many_examples(setting: Setting) -> list[Hypothesis]:
    """The flow is solved at n = infinity."""
    law = setting.law
    reason = (
        f"n = {law.n:,}, and n = infinity is seen from n = {EXAMPLES:,} d on: take a larger "
        "n, it costs nothing"
    )
    return [*hypotheses(setting), Hypothesis("n = infinity", law.n >= EXAMPLES * law.d, reason)]


def looped(setting: Setting) -> list[Hypothesis]:
    """The rates are those of L >= 2."""
    return [
        *many_examples(setting),
        Hypothesis("L >= 2", setting.L >= 2, "one loop converges exponentially"),
    ]


def _unsolved(study: Study) -> str:
    """Why there is no flow to judge, or empty."""
    if all(np.isfinite(study.values[f"flow/{name}"]).all() for name in ("loss", "more", "coarse")):
        return ""
    return (
        f"the integrator takes more than {MOST_STEPS:,} steps: take a covariance of a smaller "
        "condition number"
    )


def flow(study: Study) -> Iterator[Evidence]:
    """Row 9: the loss of gradient flow from 0."""
    L, values = study.setting.L, study.values
    t, loss, more, coarse = (values[f"flow/{name}"] for name in ("t", "loss", "more", "coarse"))
    lam = jnp.asarray(np.linalg.eigvalsh(study.law.Sigma))
    wanted = np.asarray(exact.flow_loss_infinite(lam, L, jnp.asarray(t)))
    error = float(np.max(np.abs(loss - coarse) / wanted)) + INTEGRATOR
    # A flow that stands still agrees with any solution that does.
    fallen = SHARE * float(wanted[0] / wanted[-1] - 1)
    still = max(fallen, SHARE * abs(float(loss[0] / loss[-1] - 1))) < 2 * error
    yield known(
        "flow-loss",
        "The loss of gradient flow from 0 is sum_i (1 + 4L(L-1) lambda_i^2 t)^(-L/(L-1)) up to t "
        f"= {t[-1]:.3g}: ratio",
        "derived at n = infinity",
        predicted=1.0,
        measured=loss / wanted,
        error=error,
        allowance=2 * 4 / 3 * np.abs(loss - more) / wanted,
        resolution=min(3 * RTOL, fallen),
        reason="finite n, twice what the limit from n and 4 n examples says; error of the "
        "integrator, by a second tolerance",
        excuse=_unsolved(study)
        or (
            f"the loss does not fall up to t = {t[-1]:.3g}: take a larger covariance"
            if still
            else ""
        ),
    )


def final_loss(study: Study) -> Number:
    """The loss at the end, with its error: what the coarser tolerance changes, and the finer one
    itself.
    """
    loss, coarse = (float(study.values[f"flow/{name}"][-1]) for name in ("loss", "coarse"))
    return Number(loss, abs(loss - coarse) + INTEGRATOR * loss)


def rate(study: Study) -> tuple[float, float]:
    """d log t/d log l at the end of the flow, and how far it still is from its limit."""
    t, loss = study.values["flow/t"], study.values["flow/loss"]
    with np.errstate(divide="ignore", invalid="ignore"):  # a loss that stands still
        slopes = np.diff(np.log(t[1:])) / np.diff(np.log(loss[1:]))
        return float(slopes[-1]), abs(float(slopes[-1] - slopes[-9]))


def derived_time(study: Study) -> Iterator[Evidence]:
    """Row 10: the exponent that follows from gradient dominance and the exact solution."""
    yield _time_exponent(
        study,
        (study.setting.L - 1) / study.setting.L,
        "derived: integral of row 8 and 9",
        "derived",
    )


def transcribed_time(study: Study) -> Iterator[Evidence]:
    """Row 10: the exponent as transcribed."""
    L = study.setting.L
    yield _time_exponent(study, (L - 1) / (2 * L - 1), "Theorem 3.3, as transcribed", "paper")


def _time_exponent(study: Study, exponent: float, source: str, origin: Any) -> Evidence:
    L = study.setting.L
    measured, change = rate(study)
    rival = abs((L - 1) / L - (L - 1) / (2 * L - 1))
    return known(
        "time-to-xi" if origin == "derived" else "time-to-xi-transcribed",
        f"Gradient flow reaches the loss xi after a time of the order of xi^(-{exponent:.6g}): d "
        "log t/d log xi at "
        f"xi = {study.values['flow/loss'][-1]:.3g}",
        source,
        predicted=-exponent,
        measured=measured,
        error=1e-6,
        allowance=2 * change + 2 * FOLLOWED,
        resolution=rival / 2,
        reason="twice the change over the last decade of times, and finite n. Resolution: half "
        "the distance between the two "
        "exponents",
        origin=origin,
        excuse=_unsolved(study),
    )
