"""The path that is explored: exact descent or flow on the plane, or sampled descents.

Everything random is drawn under a key purpose of its own, so that what is conjectured here is
judged on samples that nobody has seen.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from popgd.claims.measured import Dynamics, Measured
from popgd.explore.structure import Structure
from popgd.problem.errors import SettingError
from popgd.problem.problem import Problem

#: The purpose of every key that explores: theorems draw under others.
PURPOSE = 40
#: Without a step size: this share of the inverse of the largest curvature at the start.
SHARE = 0.1
#: Sampled descents, where there is no exact loss: some ten seconds of a small model.
REPLICAS, SAMPLED_STEPS, BATCH = 16, 256, 64


@dataclass(frozen=True)
class Horizon:
    """How far it is looked, and what claims read of a `Setting`."""

    eta: float
    steps: int
    flow: bool
    seed: int
    samples: int
    sampled_steps: int = SAMPLED_STEPS
    batch: int = BATCH

    def key(self, *purpose: int) -> jax.Array:
        """The random key of one purpose, beside all of a run's."""
        key = jax.random.fold_in(jax.random.key(self.seed), PURPOSE)
        for number in purpose:
            key = jax.random.fold_in(key, number)
        return key

    def describe(self) -> str:
        what = "gradient flow up to time" if self.flow else "gradient descent, steps"
        end = self.eta * self.steps if self.flow else self.steps
        return f"{what} {end:.3g}" + ("" if self.flow else f", eta = {self.eta:.3g}")


def step_size(problem: Problem, structure: Structure) -> float:
    """SHARE of the inverse of the largest curvature of the exact loss along the plane at the start;
    where that is 0, of the size of the slope; 1 where both are. Raises SettingError without an
    exact loss.
    """
    if problem.exact is None:
        raise SettingError("a problem without an exact loss has no natural step size: give eta=")
    dynamics = Dynamics(problem, structure.plane, 1.0, True)
    x = jnp.asarray(structure.plane.coordinates(problem.start))
    slope, curvatures = np.asarray(dynamics.slope(x)), np.asarray(jax.jacfwd(dynamics.slope)(x))
    largest = float(np.linalg.norm(curvatures, 2))
    if not np.isfinite(largest):
        raise SettingError("the exact loss has no second derivative at the start: give eta=")
    scale = largest or float(np.linalg.norm(slope) / max(1.0, float(jnp.linalg.norm(x))))
    return SHARE / scale if scale > 0 else 1.0


def measured(
    problem: Problem,
    structure: Structure,
    horizon: Horizon,
    progress: Callable[[str, int, int], None],
) -> Measured:
    """The path, without the sampled gradients that a theorem's run has beside it. Raises
    SettingError for the flow of a problem without an exact loss.
    """
    dynamics = Dynamics(problem, structure.plane, horizon.eta, horizon.flow)
    told = lambda name: lambda done, total: progress(name, done, total)
    if problem.exact is None:
        found = dynamics.sampled(horizon, REPLICAS, told("sampled descents"))
        return Measured(horizon, dynamics, None, found, {})
    path = dynamics.run(problem.start, horizon.steps, horizon.key(22), told("path"))
    return Measured(horizon, dynamics, path, None, {})
