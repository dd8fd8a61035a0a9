"""The loop of every descent: advance, record on a grid, offer what is done to a memory.

`recorded` runs from Python, piece by piece; `compiled` is the same inside a compiled program.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from popgd.descent.memory import FORGETFUL, Arrays, Memory

#: Steps of the first piece; the next grows if one took less than the first of the seconds, and
#: shrinks if it took more than the second.
FIRST, SECONDS = 1 << 12, (0.2, 0.6)

#: Called between pieces of work with (steps done, steps in all).
Progress = Callable[[int, int], Any]


def recorded(
    advance: Callable[[Any, int, int], Any],
    state: Any,
    grid: np.ndarray,
    rows: list[tuple] | None = None,
    *,
    first: int = 0,
    longest: int | None = None,
    finite: Callable[[Any], Any] = lambda _: True,
    progress: Progress | None = None,
    memory: Memory = FORGETFUL,
) -> Iterator[tuple[int, Any]]:
    """(step, state) at each of an increasing `grid` of steps >= `first`, where `state` is; for each
    the caller appends a tuple of arrays to `rows`, or stops.

    advance(state, now, then) is the state after the steps now ... then - 1: `longest` at most, by
    default as many as take about half a second, so a bit of it must not depend on where they are
    cut. Where `finite` says no of it the last state before is the last, on the grid or not. After
    each piece state and rows are offered to `memory`; what it recalls is gone on from, rows first.
    """
    rows = [] if rows is None else rows
    now, kept, piece = first, memory.recall(), longest or FIRST
    if kept is not None:
        now, state = _unpacked(kept, state, rows)
    last = int(grid[-1])
    for record in np.asarray(grid)[len(rows) :].tolist():
        while now < record:
            began, then = time.perf_counter(), min(record, now + piece)
            after = jax.block_until_ready(advance(state, now, then))
            spent = time.perf_counter() - began
            if not finite(after):
                if now not in grid:
                    yield now, state
                return
            if longest is None and then - now == piece:
                piece = piece * 2 if spent < SECONDS[0] else piece
                piece = max(1, piece // 2) if spent > SECONDS[1] else piece
            now, state = then, after
            memory.offer(partial(_packed, now, state, rows, len(rows)))
            if progress is not None:
                progress(now, last)
        yield record, state


def compiled(step: Callable[[Any], Any], look: Callable[[Any], Any], state: Any, grid: Any) -> Any:
    """look(state) at the steps of an increasing `grid`, each array with a first axis of records;
    for use inside a jitted function.
    """

    def piece(state: Any, count: Any) -> tuple[Any, Any]:
        state = jax.lax.fori_loop(0, count, lambda _, now: step(now), state)
        return state, look(state)

    return jax.lax.scan(piece, state, jnp.diff(jnp.asarray(grid), prepend=0))[1]


def columns(rows: Sequence[tuple]) -> list[np.ndarray]:
    """The rows, one array for each of their fields."""
    return [np.stack([np.asarray(x) for x in column]) for column in zip(*rows, strict=True)]


def _packed(now: int, state: Any, rows: list[tuple], count: int) -> Arrays:
    """All of a descent under way, in its own digits, as it was when it had so many rows, which grow
    in place.
    """
    leaves = {f"state{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    fields = {f"row{i}": column for i, column in enumerate(columns(rows[:count]))}
    return {"step": np.array(now), **leaves, **fields}


def _unpacked(kept: Arrays, state: Any, rows: list[tuple]) -> tuple[int, Any]:
    """Step and state that were packed, a tree like `state`; the rows are put back in place."""
    leaves, tree = jax.tree.flatten(state)
    fields = [kept[f"row{i}"] for i in range(sum(name.startswith("row") for name in kept))]
    rows[:] = zip(*fields, strict=True)
    state = [jnp.asarray(kept[f"state{i}"]) for i in range(len(leaves))]
    return int(kept["step"]), jax.tree.unflatten(tree, state)
