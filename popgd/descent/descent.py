"""Population gradient descent on all of (P, Q), by Monte Carlo, recorded on a logarithmic grid of
steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from popgd.descent import gradient
from popgd.descent.memory import FORGETFUL, Arrays, Memory
from popgd.descent.recursion import log_grid
from popgd.problem.law import Law, Objective
from popgd.problem.plane import Plane, distance, lift

#: Called between pieces of work with (steps done, steps in all).
Progress = Callable[[int, int], None]


class Trajectory(NamedTuple):
    """A descent at the recorded steps; the last record is the last finite state.

    coordinates are those of the plane, slope the gradient's, of this step's samples, and window
    its mean over all steps since the record before. loss and loss_stderr are estimated on the
    samples of the step that starts there. inactive is the largest that `Plane.inactive` ever was
    up to then, exactly 0 on the plane. Errors are of the samples alone; valid for finite
    records, and none after diverged_at.
    """

    step: Int[np.ndarray, " records"]
    P: Float[np.ndarray, "records D D"]
    Q: Float[np.ndarray, "records D D"]
    coordinates: Float[np.ndarray, "records k"]
    loss: Float[np.ndarray, " records"]
    loss_stderr: Float[np.ndarray, " records"]
    slope: Float[np.ndarray, "records k"]
    slope_stderr: Float[np.ndarray, "records k"]
    window: Float[np.ndarray, "records k"]
    window_stderr: Float[np.ndarray, "records k"]
    distance: Float[np.ndarray, " records"]
    inactive: Float[np.ndarray, " records"]
    diverged_at: int | None


@dataclass(frozen=True)
class Descent:
    """How to descend: everything static. With `bank` one batch is drawn and kept, instead of fresh
    samples at each step.

    `statistic` is what is averaged at each step, by default the gradient of every entry; one that
    gives `Gradient`s without weights, such as `structured.AlongActive`, serves projected descents
    from points of the plane. Valid for any optimiser; one whose updates are not finite ends the
    descent.
    """

    objective: Objective
    optimiser: optax.GradientTransformation
    plane: Plane
    bank: bool = False
    statistic: gradient.Statistic | None = None

    def gradient(
        self, weights: PyTree, law: Law, key: PRNGKeyArray, samples: int
    ) -> gradient.Estimate:
        """The mean of the statistic, an Estimate of a `Gradient`."""
        statistic = self.statistic or gradient.GradientOf(self.objective, self.plane)
        return gradient.population_average(statistic, weights, law, key, samples)


#: The key of one step, where the descent's own key is; without a compilation for each number.
_key_of = jax.jit(jax.random.fold_in)


class _State(NamedTuple):
    weights: PyTree
    optimiser: Any
    inactive: Float[Array, ""]


class _Run(NamedTuple):
    """A descent under way: the step to take next, and what was seen of those before. rows and
    window grow in place.
    """

    step: int
    state: _State
    rows: list[tuple]
    window: list[tuple]
    diverged_at: int | None = None


@partial(jax.jit, static_argnames=("how", "projected"))
def _step(how: Descent, projected: bool, state: _State, mean: Any) -> tuple[_State, Array]:
    """One step of the optimiser along a gradient, its coordinates if projected, and whether the new
    weights are finite.
    """
    mean = lift(how.plane, mean) if projected else mean
    updates, inner = how.optimiser.update(mean, state.optimiser, state.weights)
    weights: Any = optax.apply_updates(state.weights, updates)
    inactive = jnp.maximum(state.inactive, how.plane.inactive(weights))
    finite = jnp.all(jnp.isfinite(weights.P)) & jnp.all(jnp.isfinite(weights.Q))
    return _State(weights, inner, inactive), finite


def descend(
    how: Descent,
    law: Law,
    start: PyTree,
    steps: int,
    batch: int,
    key: PRNGKeyArray,
    projected: bool = False,
    per_decade: int = 8,
    progress: Progress | None = None,
    memory: Memory = FORGETFUL,
) -> Trajectory:
    """`steps` steps of population gradient descent on every entry of P and Q from `start`.

    projected: descend along each gradient's part along the plane, which is unbiased on it. Read
    growth off such a descent only: in the raw one, where every entry follows its own noise, that
    noise biases coordinates by O(eta/batch). A descent that leaves the finite numbers stops:
    `diverged_at` is the step that failed, the records end before it. What `memory` recalls of the
    same descent is gone on from, bit for bit. Raises ValueError unless 0 <= steps <= 9e18, batch >=
    2 and per_decade >= 1 are whole numbers, and where a statistic without weights serves a descent
    that is not projected or starts off the plane. Valid for a finite start.
    """
    start = gradient.placed(start)
    if how.statistic is not None and not (projected and float(distance(how.plane, start)) == 0):
        raise ValueError(
            "a statistic along the plane was given: only a projected descent from a point of "
            "it can use that"
        )
    at = _begin(how, start, memory.recall())
    law, key = gradient.everywhere((law, key))
    grid = set(log_grid(steps, per_decade).tolist()) if steps else {0}
    while at.step <= steps and at.diverged_at is None:
        at = _advance(how, law, steps, batch, key, projected, grid, at)
        memory.offer(partial(_pack, at, len(at.rows), len(at.window)))
        if progress is not None:
            progress(at.step - 1, steps)
    columns = [np.stack([np.asarray(row[i]) for row in at.rows]) for i in range(len(at.rows[0]))]
    return Trajectory(*columns, diverged_at=at.diverged_at)


def _advance(
    how: Descent,
    law: Law,
    last: int,
    batch: int,
    key: PRNGKeyArray,
    projected: bool,
    grid: set[int],
    at: _Run,
) -> _Run:
    """One step, after recording the state that it starts from if it is on the grid."""
    step, state, rows, window, _ = at
    step_key = key if how.bank else _key_of(key, step)
    mean, stderr, _ = how.gradient(state.weights, law, step_key, batch)
    following, finite = _step(
        how, projected, state, mean.coordinates if projected else mean.weights
    )
    if step and not np.isfinite(mean.loss):
        return at._replace(diverged_at=step)
    window.append((np.asarray(mean.coordinates), np.asarray(stderr.coordinates)))
    # The last state of a descent that breaks off is recorded too.
    if step in grid or not finite:
        rows.append(_record(how, step, state, mean, stderr, window))
        window = []
    diverged_at = step + 1 if not finite and step < last else None
    return _Run(step + 1, following, rows, window, diverged_at)


def _pack(at: _Run, rows: int, pairs: int) -> Arrays:
    """All of a descent under way, in its own digits, as it was when it had so many rows, and pairs
    in its window.
    """
    at = at._replace(rows=at.rows[:rows], window=at.window[:pairs])
    leaves = {f"state{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(at.state))}
    columns = {
        f"row{i}": np.stack([np.asarray(row[i]) for row in at.rows])
        for i in range(len(at.rows[0]) if at.rows else 0)
    }
    window = np.array(at.window, dtype=at.state.weights.P.dtype)
    diverged_at = np.array(-1 if at.diverged_at is None else at.diverged_at)
    return {
        "step": np.array(at.step),
        "diverged_at": diverged_at,
        "window": window,
        **leaves,
        **columns,
    }


def _begin(how: Descent, start: PyTree, kept: Arrays | None) -> _Run:
    """A descent at its start, or where it was packed."""
    state = _State(start, how.optimiser.init(start), how.plane.inactive(start))
    if kept is None:
        return _Run(0, gradient.placed(state), [], [])
    leaves, tree = jax.tree.flatten(state)
    state = jax.tree.unflatten(tree, [jnp.asarray(kept[f"state{i}"]) for i in range(len(leaves))])
    columns = [kept[f"row{i}"] for i in range(sum(name.startswith("row") for name in kept))]
    rows, window = list(zip(*columns, strict=True)), [tuple(pair) for pair in kept["window"]]
    diverged_at = int(kept["diverged_at"])
    return _Run(
        int(kept["step"]),
        gradient.placed(state),
        rows,
        window,
        None if diverged_at < 0 else diverged_at,
    )


def window_mean(window: list[tuple], bank: bool) -> tuple[np.ndarray, np.ndarray]:
    """The mean of (slope, standard error) pairs of successive steps, and its standard error.

    Fresh samples are independent from step to step; those of a bank are the same, and so is nearly
    what they are off by.
    """
    slopes, errors = (np.stack(column) for column in zip(*window, strict=True))
    return slopes.mean(axis=0), errors.mean(axis=0) if bank else np.sqrt(
        (errors**2).sum(axis=0)
    ) / len(errors)


def _record(
    how: Descent,
    step: int,
    state: _State,
    mean: gradient.Gradient,
    stderr: gradient.Gradient,
    window: list,
) -> tuple:
    plane = how.plane
    return (step, *state.weights, plane.coordinates(state.weights), mean.loss, stderr.loss,
            mean.coordinates, stderr.coordinates, *window_mean(window, how.bank),
            distance(plane, state.weights), state.inactive)  # fmt: skip
