"""What theorems say: each function makes a claim, from what was measured to evidence; and
`judge_path`, which judges them of a path that another program recorded.
"""

from typing import Any

from popgd.claims.growth import grows, increments_converge, time_to
from popgd.claims.limits import agrees, at_rate, conserved, converges, follows, loss_limit, monotone
from popgd.claims.structure import multiple_of_identity, stays_zero

judge_path: Any  #: `popgd.theorem.recorded.judge_path`, put here by popgd

__all__ = [
    "agrees",
    "at_rate",
    "conserved",
    "converges",
    "follows",
    "grows",
    "increments_converge",
    "judge_path",
    "loss_limit",
    "monotone",
    "multiple_of_identity",
    "stays_zero",
    "time_to",
]
