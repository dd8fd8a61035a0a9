"""Looped linear transformers learn multi-step gradient descent in context.

Source: Gatmiry, Saunshi, Reddi, Jegelka, Kumar, arXiv 2410.08292 (2024). Its statements are judged
as transcribed ("Theorem 3.2"), beside what follows from the loss l(A) = E ||(I - S A)^L||_F^2
("derived"); where a transcribed statement is contradicted by its own consequences it is a theorem
of its own here, so that a reader sees which statement fails.
"""

from collections.abc import Mapping
from typing import Any

from popgd.papers.in_context import (
    descents,
    dominance,
    flow,
    large_n,
    minimiser,
    prompts,
    saddle,
    shifted,
    slopes,
)
from popgd.papers.in_context.common import (
    INFINITE,
    LONGEST,
    NUMBER,
    Study,
    hypotheses,
    make_law,
    objective,
    quantities,
    step_size,
)
from popgd.papers.in_context.options import LAW, LOOPS, SHIFT
from popgd.papers.in_context.wishart import LARGEST_K
from popgd.papers.in_context.wishart_loss import LARGEST_L
from popgd.papers.in_context.wishart_normal import LARGEST_L as LARGEST_NORMAL_L
from popgd.problem.number import Number
from popgd.theorem.base import Theorem
from popgd.theorem.settings import Option

__all__ = ["PAPER", "THEOREMS"]

TITLE = (
    f"{NUMBER}, Can Looped Transformers Learn to Implement Multi-step Gradient Descent for "
    "In-context Learning?"
)


def descent_quantities(study: Study) -> dict[str, Number]:
    loss, error = (study.values[f"exact/{name}"][-1] for name in ("loss", "loss_error"))
    return {**quantities(study), "loss_final": Number(loss, error)}


def escape_quantities(study: Study) -> dict[str, Number]:
    return {**quantities(study), "loss_final": saddle.final_loss(study)}


def flow_quantities(study: Study) -> dict[str, Number]:
    return {**quantities(study), "loss_final": flow.final_loss(study)}


def loops_quantities(study: Study) -> dict[str, Number]:
    return {**quantities(study), **prompts.loops_quantities(study)}


def theorem(
    largest: int,
    what: str,
    study: Any,
    claims: tuple[Any, ...],
    n: int = 50,
    options: Mapping[str, Option] = LOOPS,
    sampled: tuple[str, ...] = (),
    **own: Any,
) -> Theorem:
    """A theorem of this paper: exact for at most `largest` loops, by default with n examples."""
    return Theorem(
        study=slopes.with_slopes(study),
        claims=(slopes.agreement, *claims),
        sampled=("engines-agree-slope-a", *sampled),
        law_options=LAW,
        options=options,
        defaults={"n": n, "steps": LONGEST, "samples": 2**15, "sampled_steps": 320},
        make_law=make_law,
        step_size=step_size,
        transcribed=True,
        objective=objective(largest, what),
        **{"hypotheses": hypotheses, **own},
    )


THEOREMS = (
    theorem(
        LARGEST_L,
        "the loss over symmetric A",
        name="gatmiry.minimiser",
        title="among symmetric A, descent ends at u = 0, A = a* Sigma^-1",
        statement="With Q = [[A, 0], [0, 0]] and P = [[0, 0], [u^T, 1]] the looped layer is L "
        "steps of preconditioned gradient "
        "descent in context. Among symmetric A the population loss is least at u = 0 and A = a* "
        "Sigma^-1, where gradient descent "
        "ends; a* lies within c of 1, and 1 - a* and the least loss fall like 1/n and n^-L.",
        source=f"{NUMBER}, Theorem 3.2 among symmetric A",
        study=descents.study,
        claims=(
            minimiser.local,
            slopes.curvatures,
            large_n.bracket,
            large_n.asymptotics,
            minimiser.arrival,
            minimiser.forward,
            minimiser.engines,
        ),
        sampled=("engines-agree-loss", "engines-agree-gradient-A", "engines-agree-descent-A"),
        quantities=descent_quantities,
    ),
    theorem(
        LARGEST_NORMAL_L,
        "the loss over matrices that are not symmetric",
        name="gatmiry.minimiser-all",
        title="the same claimed among all A: a* Sigma^-1 is a saddle for L >= 2 and large n",
        statement="A = a* Sigma^-1, u = 0 is the global minimiser of the population loss over all "
        "A and u.",
        source=f"{NUMBER}, Theorem 3.2 among all matrices, as transcribed",
        hypotheses=saddle.several,
        study=saddle.study,
        claims=(saddle.over_all_matrices,),
        quantities=escape_quantities,
    ),
    theorem(
        LARGEST_L,
        "the loss over symmetric A",
        name="gatmiry.dominance",
        title="the squared gradient is at least l^((2L-1)/L)/16, unless the loss is close to its "
        "least",
        statement="At symmetric A, ||grad l||^2 >= l^((2L-1)/L)/16 unless l is within a small "
        "factor of the least loss; at n = "
        "infinity the constant 1/16 is 4 L^2 d^(-(L-1)/L) at best.",
        source=f"{NUMBER}, Theorem 3.4",
        study=dominance.dominance_study,
        claims=(dominance.dominance,),
        quantities=quantities,
    ),
    theorem(
        LARGEST_L,
        "the loss over symmetric A",
        n=INFINITE,
        name="gatmiry.flow",
        title="gradient flow from 0 reaches the loss xi in time xi^(-(L-1)/L)",
        statement="At n = infinity gradient flow from A = 0 has the loss sum_i (1 + 4L(L-1) "
        "lambda_i^2 t)^(-L/(L-1)), and so "
        "reaches xi after a time of the order of xi^(-(L-1)/L), as gradient dominance says.",
        source=f"{NUMBER}, consequence of Theorem 3.4",
        hypotheses=flow.many_examples,
        study=flow.flow_study,
        claims=(flow.flow, flow.derived_time),
        quantities=flow_quantities,
    ),
    theorem(
        LARGEST_L,
        "the loss over symmetric A",
        n=INFINITE,
        name="gatmiry.flow-transcribed",
        title="the same claimed with the exponent -(L-1)/(2L-1), which contradicts it",
        statement="Gradient flow from A = 0 reaches the loss xi after a time of the order of "
        "xi^(-(L-1)/(2L-1)).",
        source=f"{NUMBER}, Theorem 3.3, as transcribed",
        hypotheses=flow.looped,
        study=flow.flow_study,
        claims=(flow.transcribed_time,),
        quantities=flow_quantities,
    ),
    theorem(
        LARGEST_K // 2,
        "the loss on the line A = a Sigma^-1",
        name="gatmiry.loops",
        title="more loops at test: the median error goes to 0; loops against free steps: Catalan "
        "numbers",
        statement="At A = a* Sigma^-1 the median error over prompts goes to 0 with the number of "
        "loops at test. The least loss "
        "of L loops over that of L free steps tends to the Catalan number C_L.",
        source=f"{NUMBER}, Section 3",
        hypotheses=prompts.contracting,
        study=prompts.loops_study,
        claims=(prompts.loops, prompts.free_steps),
        sampled=("median-vanishes",),
        quantities=loops_quantities,
    ),
    theorem(
        LARGEST_K // 2,
        "the loss on the line A = a Sigma^-1",
        name="gatmiry.loops-mean",
        title="the same claimed of the mean error, which diverges",
        statement="At A = a* Sigma^-1 more loops at test than in training never raise the mean "
        "error.",
        source=f"{NUMBER}, more loops at test, as transcribed",
        study=prompts.loops_study,
        claims=(prompts.mean_error,),
        quantities=loops_quantities,
    ),
    theorem(
        LARGEST_L,
        "the loss over symmetric A",
        options={**LOOPS, **SHIFT},
        name="gatmiry.ood",
        title="other covariances at test: the loss is l(diag(a* mu)); every prompt is bounded",
        statement="At A = a* Sigma^-1 and inputs of the covariance Sigma_test the loss is "
        "l(diag(a* mu)), mu = "
        "eig(Sigma^-1 Sigma_test); at n = infinity it goes to 0 with L iff 0 < mu < 2. On any "
        "prompt the error after T loops "
        "is at most rho^T |A^-1/2 w| |A^1/2 x_q|, rho = |I - A^1/2 S A^1/2|.",
        source=f"{NUMBER}, out of distribution",
        study=shifted.shifted_study,
        claims=(shifted.ood, shifted.every_prompt),
        sampled=("engines-agree-shifted",),
        quantities=quantities,
    ),
)

PAPER = {TITLE: THEOREMS}
