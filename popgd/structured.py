"""Population gradients along the manifold {P21 = a I, Q12 = b I} from the spectrum of S and the query in its eigenbasis alone.

There the output is q <- N(q + ab S q), L times (`model.power_loop`), the loss of a sample does not change under (X, q, V) ->
(O X, O q, O V), and the gradient of an active block has the trace of that of a or b. So its part along the manifold is the
gradient of the loss in (a, b) over d, at one sample of the law seen in the eigenbasis of S. In that basis q is uniform on
the sphere and independent of S: the mean over its d cyclic shifts is unbiased, one draw costs a d-th of them, and the
variance falls by more than the d evaluations cost (measured: `experiments/benchmark.py`). Flips of its signs change nothing.

Valid at points of the manifold and for rotation-invariant laws (A2) only. What it cannot see is everything that makes the
manifold invariant: claims of structure use `gradient.population_gradient`.
Source: arXiv 2606.00605, Lemma A.1 and Section 4; the shifts: derived.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from popgd import model
from popgd.data import Diagonal, Hypothesis, Law, Sample
from popgd.descent import Descent
from popgd.gradient import Gradient
from popgd.objectives import OfOutput
from popgd.weights import Weights


@partial(jax.tree_util.register_dataclass, data_fields=["law"], meta_fields=[])
@dataclass(frozen=True)
class InEigenbasis:
    """The law of `law.in_eigenbasis`: d data tokens of dimension d."""

    law: Diagonal

    @property
    def d(self) -> int:
        return self.law.d

    @property
    def n(self) -> int:
        return self.law.d

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Sample:
        return self.law.in_eigenbasis(key, dtype)

    def hypotheses(self) -> list[Hypothesis]:
        return self.law.hypotheses()

    def describe(self) -> dict[str, object]:
        return self.law.describe()


@dataclass(frozen=True)
class AlongActive:
    """The statistic: a `Gradient` without weights, its loss and coordinates averaged over the cyclic shifts of the query."""

    objective: OfOutput
    at_once: ClassVar[int] = 32

    def loss(self, ab: Float[Array, "2"], sample: Sample) -> Float[Array, ""]:
        """The sample loss at the point ab of the manifold. Valid as `model.power_loop`."""
        f = model.power_loop(ab[0] * ab[1], sample.X, sample.q, self.objective.L, self.objective.layer_norm)
        return self.objective.of_output(f, sample)

    def __call__(self, weights: Weights, sample: Sample) -> Gradient:
        d = len(sample.q)
        ab = model.Active(d).coordinates(weights)
        shifts = (jnp.arange(d)[:, None] + jnp.arange(d)) % d
        of_query = lambda q: jax.value_and_grad(self.loss)(ab, sample._replace(q=q))
        loss, slope = jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.vmap(of_query)(sample.q[shifts]))
        both = jnp.append(slope / d, loss)
        return Gradient(loss, (), slope / d, both**2, cube=both**3)


def structured(how: Descent, law: Law) -> tuple[Descent, Law]:
    """The same projected descent and its law by the structured statistic where that is valid, else as they are."""
    if isinstance(how.manifold, model.Active) and isinstance(how.objective, OfOutput) and isinstance(law, Diagonal):
        return replace(how, statistic=AlongActive(how.objective)), InEigenbasis(law)
    return how, law
