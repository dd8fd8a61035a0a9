"""The loop of every descent, on one whose every state is known: x counts its steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from popgd.descent import recorded as loop
from popgd.descent.memory import Memory
from popgd.descent.recorded import columns, compiled, recorded

GRID = np.array([0, 1, 4, 9])


def count(state, first, end):
    """Adds up the numbers of the steps, as only one that is taken once each, in order, does."""
    for step in range(first, end):
        state = 3 * state + step
    return state


WANTED = [0, 0, count(0, 0, 4), count(0, 0, 9)]


class Kept(Memory):
    def __init__(self, found=None):
        self.found, self.packs = found, []

    def recall(self):
        return self.found

    def offer(self, pack):
        self.packs.append(pack)


def walked(grid=GRID, **named):
    rows = []
    for step, state in recorded(count, 0, grid, rows, **named):
        rows.append((step, state))
    return rows


@pytest.mark.parametrize("longest", [None, 1, 3, 100])
def test_each_record_once_and_progress_to_the_end(longest):
    told = []
    rows = walked(longest=longest, progress=lambda *call: told.append(call))
    assert [step for step, _ in rows] == GRID.tolist() and [x for _, x in rows] == WANTED
    assert told[-1] == (9, 9) and [done for done, _ in told] == sorted({done for done, _ in told})
    steps = np.diff([0, *[done for done, _ in told]])
    assert max(steps) <= (longest or max(np.diff(GRID)))


def test_pieces_get_shorter_where_they_take_too_long(monkeypatch):
    monkeypatch.setattr(loop, "FIRST", 4)
    monkeypatch.setattr(loop, "SECONDS", (-1.0, -1.0))
    told = []
    walked(np.array([16]), progress=lambda done, _: told.append(done))
    assert np.diff([0, *told]).tolist() == [4, 2, *[1] * 10]


def test_it_goes_on_from_another_step():
    rows = [(step, state) for step, state in recorded(count, WANTED[2], GRID[2:], first=4)]
    assert rows == [(4, WANTED[2]), (9, WANTED[3])]


def test_from_whatever_was_offered_it_ends_the_same():
    whole = Kept()
    rows = walked(longest=2, memory=whole)
    for pack in whole.packs:  # called late: what was offered stays that of its moment
        again = walked(longest=2, memory=Kept(pack()))
        for x, y in zip(columns(again), columns(rows), strict=True):
            np.testing.assert_array_equal(x, y)
    assert [int(pack()["step"]) for pack in whole.packs] == [1, 3, 4, 6, 8, 9]


def test_the_last_finite_state_is_the_last():
    for limit, wanted in ((8, [0, 1, 4, 7]), (4, [0, 1, 3]), (2, [0, 1])):
        rows = walked(longest=1, finite=lambda x, limit=limit: x < count(0, 0, limit))
        assert [step for step, _ in rows] == wanted


def test_inside_a_program_it_is_the_same():
    step = lambda now: (now[0] + 1, 3 * now[1] + now[0])
    start = (jnp.zeros((), int), jnp.zeros((), int))
    found = jax.jit(lambda grid: compiled(step, lambda now: now, start, grid))(GRID)
    assert found[0].tolist() == GRID.tolist() and found[1].tolist() == WANTED
