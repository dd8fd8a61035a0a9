"""Descent on all of (P, Q): on the manifold it is the recursion, beside its noise; elsewhere it
says where it broke off.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from slopes import plane_looped

from popgd.descent.descent import Descent, descend
from popgd.descent.recursion import log_grid, recurse
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.model import Active, blocks, embed
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.training.study import path_of

#: Cheap to compile, and with a slope in closed form: l'(c) = -2/(2 + 4c)^2 (slopes.plane_looped).
LAW, PLANE, ETA, STEPS = Rotated.with_spectrum([3, 1]), SubspaceDistance(1), 1.0, 30
FALSE_ALARM = 1e-6
SEEDS, BATCH = 24, 128
#: c is off by second order in the noise: var(c)/c, 5e-4 of c at this batch.
CURVED = 2e-3
SGD = optax.sgd(ETA)


def start(init="P21"):
    a, b = (1.0, 0.0) if init == "P21" else (0.0, 1.0)
    return embed(jnp.asarray(a), jnp.asarray(b), 2)


@cache
def run(projected, init="P21", seed=0, bank=False, steps=STEPS, optimiser=SGD):
    return descend(
        Descent(PLANE, optimiser, Active(2), bank),
        LAW,
        start(init),
        steps,
        BATCH,
        jax.random.key(seed),
        projected,
    )


def test_projected_descent_follows_the_recursion():
    exact = recurse(plane_looped(3.0, 1.0), (1.0, 0.0), ETA, 2, log_grid(STEPS, 8))
    runs = [run(True, seed=seed) for seed in range(SEEDS)]
    for i in range(1, len(exact.step)):
        c = np.array([path_of(r)[2][i] for r in runs])
        error = c.std(ddof=1) / SEEDS**0.5
        limit = (
            stats.t.isf(FALSE_ALARM / 2 / len(exact.step), SEEDS - 1) * error + CURVED * exact.c[i]
        )
        assert abs(c.mean() - exact.c[i]) < limit
        assert limit < 0.2 * exact.c[i]  # a factor 2 in the slope moves c by a quarter and more
    assert np.array_equal(runs[0].step, exact.step)


def test_projected_descent_stays_on_the_manifold():
    found = run(True)
    assert found.distance.max() < 1e-15
    assert np.array_equal(found.coordinates[-1, 0] * np.eye(2), found.weights.P[-1][2:, :2])


def test_inactive_blocks_stay_exactly_zero_while_the_active_ones_move_freely():
    found = run(False)
    assert not found.inactive.any()
    for P, Q in zip(*found.weights, strict=True):
        P, Q = blocks(P), blocks(Q)
        assert not any(np.any(x) for x in (P.b11, P.b12, P.b22, Q.b11, Q.b21, Q.b22))
    assert found.distance[-1] > 1e-3  # each entry follows its own noise


def test_an_inactive_entry_is_seen():
    P = start().P.at[0, 0].set(1e-200)
    found = descend(
        Descent(PLANE, SGD, Active(2)), LAW, start()._replace(P=P), 1, BATCH, jax.random.key(0)
    )
    assert (found.inactive >= 1e-200).all()


def test_a_bank_is_one_batch_and_its_loss_falls():
    found = run(True, bank=True)
    assert (np.diff(found.loss) < 0).all()
    still = optax.sgd(1e-12)
    same, fresh = (run(True, bank=bank, steps=3, optimiser=still).loss for bank in (True, False))
    assert np.ptp(same) < 1e-9
    assert np.ptp(fresh) > 1e-3


def test_either_start_gives_the_same_c():
    """In every sample the traces are b l'_s(c) and a l'_s(c): exchanging a and b exchanges them.
    Raw noise differs.
    """
    one, other = run(True), run(True, "Q12")
    assert one.coordinates == pytest.approx(other.coordinates[:, ::-1], rel=1e-13, abs=1e-16)
    raw, swapped = (path_of(run(False, init))[2] for init in ("P21", "Q12"))
    assert abs(raw[-1] / swapped[-1] - 1) > 1e-6


def test_reproducible_by_seed_bit_for_bit():
    again = descend(
        Descent(PLANE, SGD, Active(2)), LAW, start(), STEPS, BATCH, jax.random.key(0), False
    )
    for x, y in zip(*map(jax.tree.leaves, (again, run(False))), strict=True):
        assert np.array_equal(x, y)
    assert np.all(run(False, seed=1).coordinates[-1] != again.coordinates[-1])


def test_a_longer_run_goes_through_the_same_points():
    short = run(False, steps=10)
    assert np.array_equal(run(False).coordinates[run(False).step <= 10], short.coordinates)


def test_records():
    found = run(False)
    assert np.array_equal(found.step, log_grid(STEPS, 8))
    assert (found.loss_stderr > 0).all() and (found.slope_stderr[:, 1] > 0).all()
    assert found.diverged_at is None
    none = run(False, steps=0)
    assert (none.step.tolist(), none.coordinates.tolist()) == ([0], [[1.0, 0.0]])


def test_progress_is_told_every_step():
    seen = []
    descend(
        Descent(PLANE, SGD, Active(2)),
        LAW,
        start(),
        5,
        BATCH,
        jax.random.key(0),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (5, 5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_any_optax_optimiser():
    """Adam's first step is the step size along the sign of each entry; b > 0 because l' < 0."""
    found = run(True, optimiser=optax.adam(0.1))
    a, b, c = path_of(found)
    assert b[1] == pytest.approx(0.1, rel=1e-6, abs=0)
    assert a[1] == 1.0
    assert c[-1] > c[1] and np.isfinite(c).all()
    assert not run(False, steps=5, optimiser=optax.adam(0.1)).inactive.any()


def test_divergence_stops_at_a_finite_record_and_says_where():
    """Without LN the step 1 is far too large for this spectrum: c overflows within some ten
    steps.
    """
    law = Rotated.with_spectrum([8, 4])
    how = Descent(PowerIteration("unnormalised", layer_norm=False), optax.sgd(1.0), Active(2))
    found = descend(how, law, start(), 100, 16, jax.random.key(0))
    assert found.diverged_at is not None and 1 < found.diverged_at < 100
    assert found.step[-1] < found.diverged_at
    for column in jax.tree.leaves(found[:4]):
        assert np.isfinite(column).all()
    assert abs(path_of(found)[2][-1]) > 1e3  # the last record is close to the end, not at the start
