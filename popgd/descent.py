"""Population gradient descent on all of (P, Q), by Monte Carlo, recorded on a logarithmic grid of steps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from popgd import gradient, model
from popgd.data import Law
from popgd.model import Weights
from popgd.objectives import Objective
from popgd.recursion import log_grid

#: Called between pieces of work with (steps done, steps in all).
Progress = Callable[[int, int], None]
#: Steps per device call: short enough that an interrupt is heard within about a second.
PIECE_SAMPLES = 2**15


class Trajectory(NamedTuple):
    """A descent at the recorded steps; the last record is the last finite state.

    loss and loss_stderr are estimated on the samples of the step that starts there. inactive is the largest absolute
    entry that any inactive block ever had up to then, exactly 0 on the manifold.
    """

    step: Int[np.ndarray, " records"]
    P: Float[np.ndarray, "records 2d 2d"]
    Q: Float[np.ndarray, "records 2d 2d"]
    a: Float[np.ndarray, " records"]
    b: Float[np.ndarray, " records"]
    c: Float[np.ndarray, " records"]
    loss: Float[np.ndarray, " records"]
    loss_stderr: Float[np.ndarray, " records"]
    trace: Float[np.ndarray, "records 2"]
    trace_stderr: Float[np.ndarray, "records 2"]
    distance: Float[np.ndarray, " records"]
    inactive: Float[np.ndarray, " records"]
    diverged_at: int | None


@dataclass(frozen=True)
class Descent:
    """How to descend: everything static. With `bank` one batch is drawn and kept, instead of fresh samples at each step."""

    objective: Objective
    optimiser: optax.GradientTransformation
    bank: bool = False


class _State(NamedTuple):
    step: Int[Array, ""]
    weights: Weights
    optimiser: Any
    mean: gradient.Gradient
    stderr: gradient.Gradient
    inactive: Float[Array, ""]
    finite: Any


def _inactive(weights: Weights) -> Float[Array, ""]:
    P, Q = model.blocks(weights.P), model.blocks(weights.Q)
    entries = jnp.stack([P.b11, P.b12, P.b22, Q.b11, Q.b21, Q.b22])
    return jnp.max(jnp.abs(entries))


def _finite(*trees: Any) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(trees)]))


@partial(jax.jit, static_argnames="how")
def _advance(how: Descent, projected: Array, batch: Array, state: _State, law: Law, key: PRNGKeyArray, stop: Array) -> _State:
    """Steps until `stop`, or until a state is not finite: then the one before it is kept.

    The state carries the estimate at its own weights, so that one call of the estimator serves steps and records; the
    step from -1 to 0 only makes that estimate.
    """

    def go_on(state: _State) -> Array:
        return (state.step < stop) & state.finite

    def step(state: _State) -> _State:
        raw = state.mean.weights
        mean = jax.tree.map(lambda p, g: jnp.where(projected, p, g), model.project(raw), raw)
        updates, inner = how.optimiser.update(mean, state.optimiser, state.weights)
        moved = (optax.apply_updates(state.weights, updates), inner)
        begun = state.step >= 0
        weights, inner = jax.tree.map(lambda new, old: jnp.where(begun, new, old), moved, (state.weights, state.optimiser))
        step_key = key if how.bank else jax.random.fold_in(key, state.step + 1)
        estimate = gradient.estimate(gradient.GradientOf(how.objective), weights, law, step_key, batch)
        inactive = jnp.maximum(state.inactive, _inactive(weights))
        new = _State(state.step + 1, weights, inner, estimate.mean, estimate.stderr, inactive, True)
        finite = _finite(weights, estimate.mean, jnp.prod(jnp.stack(model.coordinates(weights))))
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)._replace(finite=finite)

    return jax.lax.while_loop(go_on, step, state)


def descend(
    how: Descent,
    law: Law,
    start: Weights,
    steps: int,
    batch: int,
    key: PRNGKeyArray,
    projected: bool = False,
    per_decade: int = 8,
    progress: Progress | None = None,
) -> Trajectory:
    """`steps` steps of population gradient descent on every entry of P and Q from `start`.

    projected: descend along the Schur projection of each gradient (active blocks to tr/d times I), which is unbiased on
    the manifold. Read the growth of c off such a descent only: in the raw one, where every entry follows its own noise,
    noise in the active blocks biases c by O(eta/batch).
    A descent that leaves the finite numbers stops: `diverged_at` is the step that failed, the records end before it.
    """
    state = _begin(how, start, law, key)
    piece = max(1, PIECE_SAMPLES // batch)
    rows: list[tuple] = []
    for target in log_grid(steps, per_decade) if steps else [0]:
        while int(state.step) < target and bool(state.finite):
            stop = jnp.minimum(state.step + piece, target)
            state = _advance(how, jnp.asarray(projected), jnp.asarray(batch), state, law, key, stop)
            if progress is not None:
                progress(int(state.step), steps)
        if not rows or int(state.step) > rows[-1][0]:
            a, b = model.coordinates(state.weights)
            mean, stderr = state.mean, state.stderr
            rows.append((int(state.step), state.weights.P, state.weights.Q, a, b, a * b, mean.loss, stderr.loss, mean.trace,
                         stderr.trace, model.manifold_distance(state.weights), state.inactive))  # fmt: skip
    columns = [np.stack([np.asarray(row[i]) for row in rows]) for i in range(len(rows[0]))]
    return Trajectory(*columns, diverged_at=None if bool(state.finite) else int(state.step) + 1)


def _begin(how: Descent, start: Weights, law: Law, key: PRNGKeyArray) -> _State:
    estimator = gradient.GradientOf(how.objective)
    shape = jax.eval_shape(lambda w, k: estimator(w, law.sample(k, w.P.dtype)), start, key)
    empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
    step = jnp.full((), -1, jnp.int64 if jax.config.read("jax_enable_x64") else jnp.int32)
    return _State(step, start, how.optimiser.init(start), empty, empty, _inactive(start), jnp.asarray(True))
