"""Population gradient descent on all weights, by Monte Carlo, recorded on a logarithmic grid of
steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from popgd.descent import gradient
from popgd.descent.memory import FORGETFUL, Memory
from popgd.descent.recorded import Progress, columns, recorded
from popgd.descent.recursion import log_grid
from popgd.problem.errors import SettingError
from popgd.problem.given import as_law, number_format
from popgd.problem.law import Objective
from popgd.problem.plane import Plane, distance, lift
from popgd.problem.pytree import classes


class Trajectory(NamedTuple):
    """A descent at the recorded steps; the last record is the last finite state.

    weights are those of the model, each array with a first axis of records. coordinates are those
    of the plane, and slope the gradient's, of this step's samples: without a plane both are empty,
    of shape (records, 0). loss and loss_stderr are estimated on the samples of the step that starts
    there. distance is that from the plane, inactive the largest that `Plane.inactive` ever was up
    to then, exactly 0 on the plane and without one. Errors are of the samples alone; valid for
    finite records, and none after diverged_at.
    """

    step: Int[np.ndarray, " records"]
    weights: Any
    coordinates: Float[np.ndarray, "records k"]
    loss: Float[np.ndarray, " records"]
    loss_stderr: Float[np.ndarray, " records"]
    slope: Float[np.ndarray, "records k"]
    slope_stderr: Float[np.ndarray, "records k"]
    distance: Float[np.ndarray, " records"]
    inactive: Float[np.ndarray, " records"]
    diverged_at: int | None


@dataclass(frozen=True)
class Descent:
    """How to descend: everything static, and hashable. With `bank` one batch is drawn and kept,
    instead of fresh samples at each step.

    plane: the plane of weights to read coordinates off, or None. `statistic` is what is averaged at
    each step, by default the gradient of every entry; one that gives `Gradient`s without weights
    serves projected descents from points of the plane. Valid for any optimiser; one whose updates
    are not finite ends the descent.
    """

    objective: Objective
    optimiser: optax.GradientTransformation
    plane: Plane | None = None
    bank: bool = False
    statistic: gradient.Statistic | None = None

    def gradient(
        self, weights: PyTree, law: gradient.Data, key: PRNGKeyArray, samples: int
    ) -> gradient.Estimate:
        """The mean of the statistic, an Estimate of a `Gradient`."""
        statistic = self.statistic or gradient.GradientOf(self.objective, self.plane)
        return gradient.population_average(statistic, weights, law, key, samples)

    def inactive(self, weights: PyTree) -> Float[Array, ""]:
        """That of the plane; 0 without one, as then every weight may move."""
        return jnp.zeros(()) if self.plane is None else self.plane.inactive(weights)

    def place(self, weights: PyTree) -> tuple[Any, Any]:
        """The coordinates and the distance of the plane; none and 0 without one."""
        if self.plane is None:
            return (), 0.0
        return self.plane.coordinates(weights), distance(self.plane, weights)


#: The key of one step, where the descent's own key is; without a compilation for each number.
_key_of = jax.jit(jax.random.fold_in)


class _State(NamedTuple):
    weights: PyTree
    optimiser: Any
    inactive: Float[Array, ""]


class _At(NamedTuple):
    """A state, whether its weights are finite, and the estimate of the step that starts there."""

    state: _State
    finite: Any
    mean: Any
    stderr: Any


@partial(jax.jit, static_argnames=("how", "projected", "known"))
def _step(
    how: Descent, projected: bool, state: _State, mean: Any, known: tuple[Any, ...] = ()
) -> tuple[_State, Array]:
    """One step of the optimiser along a gradient, its coordinates if projected, and whether the new
    weights are finite; `known` are the classes of the weights.
    """
    mean = lift(how.plane, mean) if how.plane is not None and projected else mean
    updates, inner = how.optimiser.update(mean, state.optimiser, state.weights)
    weights: Any = optax.apply_updates(state.weights, updates)
    inactive = jnp.maximum(state.inactive, how.inactive(weights))
    finite = reduce(jnp.logical_and, (jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(weights)))
    return _State(weights, inner, inactive), finite


def descend(
    how: Descent,
    law: gradient.Data,
    start: PyTree,
    steps: int,
    batch: int,
    key: PRNGKeyArray,
    projected: bool = False,
    per_decade: int = 8,
    progress: Progress | None = None,
    memory: Memory = FORGETFUL,
) -> Trajectory:
    """`steps` steps of population gradient descent on every entry of the weights from `start`, any
    pytree of float arrays.

    projected: descend along each gradient's part along the plane, which is unbiased on it. Read
    growth off such a descent only: in the raw one, where every entry follows its own noise, that
    noise biases coordinates by O(eta/batch). A descent that leaves the finite numbers stops:
    `diverged_at` is the step that failed, the records end before it. What `memory` recalls of the
    same descent is gone on from, bit for bit. Raises ValueError unless 0 <= steps <= 9e18, batch >=
    2 and per_decade >= 1 are whole numbers, where a statistic without weights serves a descent
    that is not projected or starts off the plane, and for weights, a law or a loss that are none;
    SettingError for a start at which the mean loss is not finite.
    """
    number_format(start)  # or raises
    if projected and how.plane is None:
        raise ValueError("projected=True without a plane: give the Descent one, or leave it out")
    start = gradient.placed(start)
    if how.statistic is not None and not (projected and float(how.place(start)[1]) == 0):
        raise ValueError(
            "a statistic along the plane was given: only a projected descent from a point of "
            "it can use that"
        )
    drawn, key = gradient.everywhere((as_law(law), key))

    def estimate(weights: PyTree, step: int) -> tuple[Any, Any]:
        step_key = key if how.bank else _key_of(key, step)
        return how.gradient(weights, drawn, step_key, batch)[:2]

    begun = _State(start, how.optimiser.init(start), how.inactive(start))
    begun = _At(gradient.placed(begun), np.array(True), *estimate(start, 0))
    if not np.isfinite(begun.mean.loss):
        raise SettingError(
            f"the mean loss of {batch} samples is {float(begun.mean.loss)} at the start: wanted a "
            "finite one; start elsewhere, or mend the loss"
        )
    rows: list[tuple] = []
    grid = log_grid(steps, per_decade) if steps else np.array([0])

    def step_to(at: _At, _: int, then: int) -> _At:
        # Looked up at each step, so that it can be replaced
        return _advance(how, projected, estimate, at, then)

    finite = lambda at: at.finite and np.isfinite(at.mean.loss)
    for step, at in recorded(step_to, begun, grid, rows, longest=1, finite=finite,
                             progress=progress, memory=memory):  # fmt: skip
        where, off = how.place(at.state.weights)
        losses, slopes = (
            (at.mean.loss, at.stderr.loss),
            (at.mean.coordinates, at.stderr.coordinates),
        )
        weights = jax.tree.leaves(at.state.weights)
        rows.append((step, *weights, where, *losses, *slopes, off, at.state.inactive))
    step, *fields = columns(rows)
    structure = jax.tree.structure(start)
    weights, rest = fields[: structure.num_leaves], fields[structure.num_leaves :]
    broken = int(step[-1]) + 1 if step[-1] < steps else None
    return Trajectory(step, jax.tree.unflatten(structure, weights), *rest, diverged_at=broken)


def _advance(
    how: Descent, projected: bool, estimate: Callable[..., tuple], at: _At, step: int
) -> _At:
    """The step before `step`, and what is estimated after it."""
    at = gradient.placed(at)  # one that was recalled is elsewhere
    mean = at.mean.coordinates if projected else at.mean.weights
    state, finite = _step(how, projected, at.state, mean, classes(at.state.weights))
    return _At(state, finite, *estimate(state.weights, step))
