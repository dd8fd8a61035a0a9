"""Population gradients along the manifold {P21 = a I, Q12 = b I} from S and a set of queries alone.

There the output is q <- N(q + ab S q), L times (`model.power_loop`), the loss of a sample does not
change under (X, q, V) -> (O X, O q, O V), and the gradient of an active block has the trace of that
of a or b. So its part along the manifold is the gradient of the loss in (a, b) over d, and by (A2)
its mean over the queries of an `Orbit` is unbiased. One draw of S then costs a d-th of what d
samples do, and as the squares of the queries sum to I the variance falls by more than the d
evaluations cost (`experiments/benchmark.py`).

Valid at points of the manifold and for rotation-invariant laws (A2) only. What it cannot see is
everything that makes the manifold invariant: claims of structure use
`gradient.population_gradient`. Source: arXiv 2606.00605, Lemma A.1 and Section 4; the orbits:
derived.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from popgd.descent.descent import Descent
from popgd.descent.gradient import Gradient
from popgd.papers.power_method import model
from popgd.papers.power_method.data import Orbit, UnitColumns, WithOrbits
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import OfOutput
from popgd.problem.law import Law
from popgd.problem.pytree import registered


@registered(["law"])
@dataclass(frozen=True)
class Orbits:
    """The law of `law.orbit`."""

    law: WithOrbits

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Orbit:
        return self.law.orbit(key, dtype)


@registered(["law"])
@dataclass(frozen=True)
class Single(Orbits):
    """The samples of `law.sample`, each as an orbit of its one query."""

    law: UnitColumns

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Orbit:
        sample = self.law.sample(key, dtype)
        return Orbit(sample.root @ sample.root.T, sample.q[:, None], sample.V)


@dataclass(frozen=True)
class AlongActive:
    """The statistic: a `Gradient` without weights, its loss and coordinates averaged over the
    queries of an orbit.
    """

    objective: OfOutput
    at_once: ClassVar[int] = 32

    def loss(self, ab: Float[Array, "2"], orbit: Orbit) -> Float[Array, ""]:
        """The mean loss of an orbit at the point ab of the manifold. Valid as
        `model.power_loop`.
        """
        objective = self.objective
        f = model.power_loop(ab[0] * ab[1], orbit.S, orbit.Q, objective.L, objective.layer_norm)
        of_query = lambda f, Sq: objective.of_output(f, Sq, orbit.V)
        return jnp.mean(jax.vmap(of_query, 1)(f, model.times(orbit.S, orbit.Q)))

    def __call__(self, weights: Weights, sample: Orbit) -> Gradient:
        d = sample.Q.shape[0]
        loss, slope = jax.value_and_grad(self.loss)(model.Active(d).coordinates(weights), sample)
        both = jnp.append(slope / d, loss)
        return Gradient(loss, (), slope / d, both**2, cube=both**3)


def structured(how: Descent, law: Law) -> tuple[Descent, Law]:
    """The same projected descent and its law by the structured statistic where that is valid, else
    as they are.
    """
    if (
        isinstance(how.plane, model.Active)
        and isinstance(how.objective, OfOutput)
        and isinstance(law, WithOrbits)
    ):
        return replace(how, statistic=AlongActive(how.objective)), Orbits(law)
    return how, law
