"""Looped linear transformers learn multi-step gradient descent in context.

Source: Gatmiry, Saunshi, Reddi, Jegelka, Kumar, arXiv 2410.08292 (2024). Its statements are judged as transcribed ("Theorem
3.2"), beside what follows from the loss l(A) = E ||(I - S A)^L||_F^2 ("derived"); where a transcribed statement is
contradicted by its own consequences it is a theorem of its own here, so that a reader sees which statement fails.
"""

from popgd.theory.base import Theorem
XX
from popgd.theory.gatmiry.common import EXAMPLES, PAPER, Study, hypotheses, make_law, objective, quantities, step_size
from popgd.wishart import LARGEST_K
from popgd.wishart_loss import LARGEST_L
from popgd.wishart_normal import LARGEST_L as LARGEST_NORMAL_L

__all__ = ["THEOREMS"]

#: Where the claims are about n = infinity.
MANY = 10**14


def descent_quantities(study: Study) -> dict[str, tuple[float, float]]:
    loss, error = (float(study.values[f"exact/{name}"][-1]) for name in ("loss", "loss_error"))
    return {**quantities(study), "loss_final": (loss, error)}


def escape_quantities(study: Study) -> dict[str, tuple[float, float]]:
    found = quantities(study)
    final = float(study.values["escape/ratio"][-1]) * found["loss_min"][0]
    return {**found, "loss_final": (final, 1e-12 * final)}


def flow_quantities(study: Study) -> dict[str, tuple[float, float]]:
    loss = float(study.values["flow/loss"][-1])
    return {**quantities(study), "loss_final": (loss, 1e-6 * loss)}
