"""Your own theorem, from statement to report: at A = a Sigma^-1 one layer has the population loss
d (1 - 2a + a^2 (1 + (d + 1)/n)).

    python -m popgd.run theorem=experiments/your_own_theorem.py d=3 n=20 a=0.5

The data law, the objective and the Monte Carlo are popgd's; what is new is what to measure, the
claim, the setting `a` and the `Theorem`.
"""

import jax.numpy as jnp

from popgd import Evidence, Option, Theorem, population_gradient
from popgd.papers.in_context import model as in_context
from popgd.papers.in_context.common import Study, hypotheses, make_law
from popgd.papers.in_context.options import LAW


def study(setting, objective, progress, memory):
    law = setting.law
    at = in_context.embed(setting["a"] * jnp.linalg.inv(law.Sigma), jnp.zeros(law.d))
    measure = lambda: population_gradient(objective, at, law, setting.key(0), setting.samples)
    loss, stderr = memory.once(lambda: [part.loss for part in measure()[:2]], (0, 0))
    return Study(setting, objective, {"loss": loss, "stderr": stderr}, lambda study, title: {})


def second_moment(study):
    """E ||I - a S||_F^2 for the S = X X^T/n of n standard normal columns; a tenth of d must be
    seen.
    """
    loss, stderr = study.values["loss"], study.values["stderr"]
    n, d, a = study.law.n, study.law.d, study.setting["a"]
    predicted = d * (1 - 2 * a + a**2 * (1 + (d + 1) / n))
    statement, why = "The loss is d (1 - 2a + a^2 (1 + (d + 1)/n))", "sampling error"
    yield Evidence("loss", statement, "exercise", predicted, loss, stderr, 0.0, d / 10, why)


OWN = Theorem(
    name="own.loss",
    title="the loss of one layer at A = a Sigma^-1",
    statement="At A = a Sigma^-1 one layer has the loss d (1 - 2a + a^2 (1 + (d + 1)/n)).",
    source="exercise",
    law_options=LAW,
    options={"a": Option(0.0, float, "the weights are A = a Sigma^-1")},
    make_law=make_law,
    step_size=lambda law, L: 1.0,
    objective=lambda setting, target: in_context.SquaredError(1),
    hypotheses=hypotheses,
    study=study,
    claims=(second_moment,),
    quantities=lambda s: {"loss": (s.values["loss"].item(), s.values["stderr"].item())},
    sampled=("loss",),
)
