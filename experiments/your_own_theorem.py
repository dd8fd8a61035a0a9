"""Your own theorem, from statement to report: at A = 0 a transformer predicts 0, so its population
loss is d.

    python experiments/your_own_theorem.py d=3 n=20

The data law, the objective and the Monte Carlo are popgd's; what is new is what to measure, the
claim and the `Theorem`.
"""

import sys

import jax.numpy as jnp

from popgd.claims.evidence import Evidence
from popgd.descent import gradient
from popgd.papers.in_context import model as in_context
from popgd.papers.in_context.common import Study, hypotheses, make_law
from popgd.runs import command as run
from popgd.theorem.base import Theorem
from popgd.theorem.registry import theorems

no_figures = lambda study, title: {}


def study(setting, objective, progress, memory):
    zero = in_context.embed(jnp.zeros((setting.law.d, setting.law.d)), jnp.zeros(setting.law.d))
    measure = lambda: gradient.population_gradient(
        objective, zero, setting.law, setting.key(0), setting.samples
    )
    loss, stderr = memory.once(lambda: [part.loss for part in measure()[:2]], (0, 0))
    return Study(setting, objective, {"loss": loss, "stderr": stderr}, no_figures)


def loss_is_d(study):
    """E (w . x_q)^2 = tr(Sigma^-1 Sigma) = d, judged by the rule of all claims; a loss a quarter
    off must be seen.
    """
    loss, stderr, d = study.values["loss"], study.values["stderr"], study.law.d
    statement, why = "The loss at A = 0 is d", "sampling error"
    yield Evidence("loss-is-d", statement, "exercise", d, loss, stderr, 0.0, d / 4, why)


OWN = Theorem(
    "own.zero", "the loss at zero is d", "At A = 0 the loss is d.", "exercise",
    ("d", "n", "covariance"), (), make_law, lambda law, L: 1.0,
    lambda setting, target: in_context.SquaredError(1), hypotheses, study, (loss_is_d,),
    lambda s: {"loss": (s.values["loss"].item(), s.values["stderr"].item())}, {"n": 50, "L": 1},
    sampled=("loss-is-d",),
)  # fmt: skip

if __name__ == "__main__":
    theorems()[OWN.name] = OWN
    sys.exit(run.main([f"theorem={OWN.name}", *sys.argv[1:]]))
