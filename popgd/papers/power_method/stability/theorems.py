"""What population gradient descent does beside the manifold of Theorems 4.1, 4.2 and 4.3, popgd's
own.

The theorems start on the manifold {P21 = a I, Q12 = b I, other blocks 0}, which descent does not
leave, and are true as stated. Here descent starts next to it. A small perturbation of all entries,
for any L and law, follows the Hessian reduced by Schur's lemma to first order
(`stability.tangent`); so do tangent maps of fresh samples along the same path, in the mean. On the
Kronecker manifold (all blocks multiples of I) descent of one layer is exact, for random spectra
that of the sampled ones; of more layers it is sampled. To first order, for one layer,

    u = p22 - r22:   u <- (1 + eta h/d) u,   h = -c l'(c) with LN,   h = 2 E[(f - y).q]
                     without;   p22 + r22 has 1 - eta h/d;
    p11:             p11 <- (1 - eta k11) p11,   k11 = H_{P11,P11} < 0 with LN,

and with LN, eta -> 0, dc/dt = -(l'/d) sqrt(4c^2 + Delta^2) and d log u/dt = -c l'/d give d log u/dc
= c/sqrt(4c^2 + Delta^2), so u grows by exp{(sqrt(4c^2 + Delta^2) - |Delta|)/4} from c = 0. For L >
1 the quadratic form along P22 - Q22 is still -h/d < 0, but P11 and Q11 mix with P22 and Q22, so
that u alone follows no such law, and nothing is claimed of it. Source: derived; see also
`stability.hessian`.
"""

from collections.abc import Mapping
from typing import Any

from popgd.papers.power_method import theorems as power_method
from popgd.papers.power_method.data import UnitColumns
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.options import DESCENT, LAW, LOOPS, SIZE, TARGET
from popgd.papers.power_method.stability import hessian
from popgd.papers.power_method.stability.claims import (
    LOSS_ROUNDING,
    ends,
    grows,
    saddle,
    sectors,
    sectors_split,
)
from popgd.papers.power_method.stability.measure import Stability, study
from popgd.papers.power_method.stability.sampling import ENDS, ends_at
from popgd.problem.number import Number
from popgd.theorem.base import Theorem
from popgd.theorem.settings import Option

__all__ = ["FINDINGS"]

#: How much smaller than the natural one the step size is for two loops, and for each loop beyond.
TWO_LOOPS, EACH_MORE = 10.0, 100.0


def quantities(study: Stability) -> dict[str, Number]:
    """Lowest curvature of each sector with the standard error of its own, independent estimate;
    where descent ended.
    """
    found: dict[str, Number] = {}
    modes = list(hessian.modes(study.found, study.fresh))
    for mode in modes:
        lowest = "lowest_" + mode.sector.replace(" ", "_")
        found.setdefault(lowest, Number(mode.curvature, stderr=_error_of(study, mode)))
    top = max(modes, key=lambda mode: mode.curvature)
    found["highest"] = Number(top.curvature, stderr=_error_of(study, top))
    sampling = study.end_errors
    off = study.loss_error[-1] + LOSS_ROUNDING
    found["end_loss"] = Number(study.loss[-1], off, sampling[0])
    found["limit_of_theorem"] = study.limit
    if study.inside is None:
        return found
    values = ends_at(study.objective, study.spectrum, float(study.loss[-1]), study.ended.theta[-1])
    every = zip(ENDS[1:], values[1:], sampling[1:], strict=True)
    reported = ENDS if study.objective.layer_norm else ENDS[:-1]
    return found | {
        f"end_{name}": Number(x, LOSS_ROUNDING, error)
        for name, x, error in every
        if name in reported
    }


def _error_of(study: Stability, mode: hessian.Mode) -> float:
    """That of the samples, and what the sampled spectra move through the point where the Hessian is
    taken.
    """
    shifted = study.shifted[hessian.SECTORS.index(mode.sector)]
    return mode.error + abs(float(mode.vector @ shifted @ mode.vector))


def _beside_step(law: UnitColumns, L: int) -> float:
    """The natural step size, a tenth of it for two loops and a hundredth for each loop beyond.

    Beside the manifold eta must be below 2/curvature of Q11, which for the default spectrum is 4.4,
    433 and 29,000 at c = 1 for L = 2, 3 and 4; and where it is not well below, sampling noise hides
    what grows.
    """
    return power_method.natural_step(law, L) / (
        1.0 if L == 1 else max(TWO_LOOPS, EACH_MORE ** (L - 2))
    )


#: Claims that rest on sampling.
SAMPLED = (
    "engines-agree-slope",
    "hessian-coupling",
    "engines-agree-hessian",
    "saddle",
    *(f"growth-{sector.replace(' ', '-')}" for sector in hessian.SECTORS),
)


def _finding(
    number: str,
    title: str,
    statement: str,
    defaults: dict[str, Any],
    objective: Any,
    options: Mapping[str, Option],
    sampled: tuple[str, ...] = SAMPLED,
    **rest: Any,
) -> Theorem:
    return Theorem(
        name=f"{number}.stability",
        title=title,
        statement=statement,
        source=f"popgd, beside {power_method.PAPER}, Theorem {number}",
        law_options=LAW,
        options={**options, **DESCENT, **SIZE},
        defaults={"samples": 2**13, "sampled_steps": 1000, **defaults},
        make_law=power_method.make_law,
        objective=objective,
        hypotheses=power_method.hypotheses,
        study=study,
        claims=(sectors_split, saddle, sectors, grows, ends),
        sampled=sampled,
        quantities=quantities,
        **rest,
    )


FINDINGS = (
    _finding(
        "4.1",
        "beside Theorem 4.1: descent leaves the manifold, and for one layer the output collapses",
        "Started beside the manifold, descent on dist^2(f, V) leaves it, and the loss falls below "
        "l_inf; for one layer p22 - r22 "
        "and p11 grow, and f shrinks towards 0.",
        {"L": 1, "steps": 10**5, "sampled_steps": 2000},
        lambda setting, target: SubspaceDistance(setting.L),
        LOOPS,
        sampled=(*SAMPLED, "hessian-p12-q21"),
        step_size=_beside_step,
    ),
    _finding(
        "4.2",
        "beside Theorem 4.2: the layer without LN learns the unnormalised power iteration exactly",
        "Started beside the manifold, descent leaves c = c*: p22 - r22 grows, and the layer "
        "learns the best fit of y by q and "
        "S q, which for y = S q is exact.",
        {"steps": 10**5},
        lambda setting, target: PowerIteration(target, layer_norm=False),
        TARGET,
        step_size=power_method.contracting_step,
        targets=power_method.TARGETS,
    ),
    _finding(
        "4.3",
        "beside Theorem 4.3: an exact power step at finite weights",
        "Started beside the manifold, p22 - r22 grows like exp(const t^(1/3)), and the layer "
        "reaches the power step at finite c.",
        {"steps": 10**5, "size": 0.3},
        lambda setting, target: PowerIteration("normalised"),
        {},
        step_size=power_method.natural_step,
    ),
)
