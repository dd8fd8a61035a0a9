"""The recursion of `popgd.descent.recursion` with any optax optimiser in place of plain gradient
steps.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from popgd.descent.recorded import Progress, columns, recorded
from popgd.descent.recursion import (
    Records,
    Slope,
    as_pytree,
    checked_records,
    dimension,
    sign_of,
    start_state,
)


class OptaxState(NamedTuple):
    """Step, weights and the optimiser's own state."""

    step: Int[Array, ""]
    weights: Any
    optimiser: Any
    finite: Int[Array, ""]


def recurse_optax(
    slope: Slope,
    start: tuple[float, float],
    optimiser: optax.GradientTransformation,
    d: int,
    records: np.ndarray,
    *,
    state: OptaxState | None = None,
    callback: Progress | None = None,
) -> Records:
    """As `recurse`, with an optax optimiser acting on the scalars (a, b).

    gradients (b l'(c)/d, a l'(c)/d), the entry on the diagonal of the two active blocks. The same
    as the optimiser on the blocks when it acts entrywise and leaves entries without gradient at 0
    (sgd, momentum, adam, rmsprop, lion), not when it mixes entries (global-norm clipping, muon,
    lamb). Delta = (a-b)(a+b) loses digits where |Delta| << c.
    """
    d = dimension(d)
    if state is None:
        start_state(start)
        # One array, so that both entries are rounded alike and a = b stays so: of two scalars the
        # compiler may fuse one's product and not the other's.
        weights = jnp.asarray(start, jnp.float64)
        zero = jnp.zeros((), jnp.int64)
        state = OptaxState(zero, weights, optimiser.init(weights), zero)
    now, records = state, checked_records(records, first := int(state.step))
    slope = as_pytree(slope)
    rows, advance = [], partial(_advance_optax, optimiser, slope, d)
    for _, now in recorded(advance, state, records, first=first, progress=callback):
        (a, b), (da, db), _ = _optax_step(optimiser, slope, d, now.weights, now.optimiser)
        rows.append((a * b, (a - b) * (a + b), da * b + a * db + da * db, sign_of(a, b)))
    c, Delta, dc, sign = columns(rows)
    unknown, finite = np.full(c.shape, np.nan), int(now.finite)
    stopped = np.asarray(-1 if finite == int(now.step) else finite + 1)
    return Records(records, c, Delta, dc, unknown, unknown, sign, stopped, now)


@partial(jax.jit, static_argnums=0)
def _advance_optax(optimiser, slope, d, state, first, end) -> OptaxState:
    def step(_, now):
        weights, updates, inner = _optax_step(optimiser, slope, d, now.weights, now.optimiser)
        weights = weights + updates
        finite = now.finite + jnp.isfinite(jnp.prod(weights))
        return OptaxState(now.step + 1, weights, inner, finite)

    return jax.lax.fori_loop(first, end, step, state)


@partial(jax.jit, static_argnums=0)
def _optax_step(optimiser, slope, d, weights, inner):
    g = slope(jnp.prod(weights)) / d
    updates, inner = optimiser.update(weights[::-1] * g, inner, weights)
    return weights, updates, inner
