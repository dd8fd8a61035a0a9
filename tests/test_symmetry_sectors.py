"""Sectors of a symmetric matrix: multiplicities against representation theory, blocks against those
by hand, and what does not commute refused.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from symmetric import conjugation, mirror
from test_hessian import averaged, dihedral

from popgd import symmetry
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.kronecker import point
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import SubspaceDistance
from popgd.problem.errors import SettingError
from popgd.symmetry.sectors import commuting

KEY = jax.random.key(31)
#: Rounding of a block, relative to the matrix: measured 2e-14.
ROUNDED = 1e-11


def conjugate(d):
    return symmetry.rotations("conjugation", d, lambda O, w: O @ w @ O.T)


@cache
def of(d):
    return symmetry.sectors([conjugate(d)], jnp.zeros((d, d)), KEY)


def kinds(found):
    return [(sector.multiplicity, sector.dimension) for sector in found]


@pytest.mark.parametrize("d", [3, *(pytest.param(d, marks=pytest.mark.slow) for d in (2, 4))])
def test_a_matrix_is_a_trace_an_antisymmetric_and_a_traceless_part(d):
    found = of(d)
    dimensions = sorted([1, d * (d - 1) // 2, d * (d + 1) // 2 - 1])
    assert kinds(found) == [(1, dimension) for dimension in dimensions]
    projections = [s.whole(np.eye(1)) for s in found]
    np.testing.assert_allclose(sum(projections), np.eye(d * d), atol=ROUNDED)
    swap = np.eye(d * d).reshape(d, d, d, d).swapaxes(2, 3).reshape(d * d, d * d)
    trace = np.outer(np.eye(d), np.eye(d)) / d
    by_hand = [trace, (np.eye(d * d) - swap) / 2, (np.eye(d * d) + swap) / 2 - trace]
    for part in by_hand:
        assert min(np.abs(part - p).max() for p in projections) < ROUNDED


@pytest.mark.slow
def test_planted_blocks_come_back():
    found = symmetry.sectors([conjugation(2)], Weights(jnp.zeros((4, 4)), jnp.zeros((4, 4))), KEY)
    assert kinds(found) == [(8, 1), (8, 1), (8, 2)]
    A = commuting([conjugation(2)], Weights(jnp.zeros((4, 4)), jnp.zeros((4, 4))), KEY)
    reduced = symmetry.reduce(found, A[None])
    lam = np.concatenate([np.repeat(np.linalg.eigvalsh(r.H), r.sector.dimension) for r in reduced])
    np.testing.assert_allclose(np.sort(lam), np.linalg.eigvalsh(A), atol=ROUNDED * np.abs(A).max())


def test_a_matrix_that_does_not_commute_is_refused():
    found = of(3)
    A = sum(i * s.whole(np.eye(1)) for i, s in enumerate(found, start=1))
    exact = symmetry.reduce(found, A[None])
    np.testing.assert_allclose([float(r.H[0, 0]) for r in exact], [1, 2, 3], rtol=1e-12)
    broken = A + 1e-3 * np.outer(np.eye(9)[1], np.eye(9)[1])
    with pytest.raises(SettingError, match=r"entry \(1, 1\) is off"):
        symmetry.reduce(found, broken[None])
    noise = np.random.default_rng(5).normal(size=(32, 9, 9)) / 100
    noise = noise + noise.swapaxes(1, 2)
    sampled = symmetry.reduce(found, A + noise)
    for r, value in zip(sampled, (1, 2, 3), strict=True):
        # 32 estimates: six standard errors are a probability of 1e-6
        assert 0 < r.error[0, 0] < 0.01 and abs(r.H[0, 0] - value) < 6 * r.error[0, 0]
    with pytest.raises(SettingError, match=r"entry \(1, 1\) is off by .*, with standard error"):
        symmetry.reduce(found, A + noise + 100 * (broken - A))


def cyclic(copies):
    roll = lambda g, w: jnp.roll(w, g, axis=0)
    group = symmetry.finite("Z3", (0, 1, 2), roll)
    return group, jnp.zeros((3, copies))


def commutant(copies):
    """The dimension of the symmetric matrices that commute with the shift, by linear algebra."""
    n = 3 * copies
    shift = np.kron(np.roll(np.eye(3), 1, axis=0), np.eye(copies))
    units = [np.outer(a, b) + np.outer(b, a) for a in np.eye(n) for b in np.eye(n)]
    moved = [np.append((shift @ U - U @ shift).ravel(), 0) for U in units]
    symmetric = np.linalg.matrix_rank([U.ravel() for U in units])
    return symmetric - np.linalg.matrix_rank(moved)


def test_a_complex_type_is_refused():
    group, start = cyclic(1)
    assert kinds(symmetry.sectors([group], start, KEY)) == [(1, 1), (1, 2)] and commutant(1) == 2
    group, start = cyclic(2)
    assert commutant(2) == 7  # not 3 + 3
    with pytest.raises(SettingError, match=r"off the 6 numbers .* complex or quaternionic"):
        symmetry.sectors([group], start, KEY)
    # with the reflections of a triangle the type is real
    mirrored = symmetry.finite("flip", (1, -1), lambda g, w: jnp.where(g > 0, w, w[::-1]))
    assert kinds(symmetry.sectors([group, mirrored], start, KEY)) == [(2, 1), (2, 2)]


def test_a_draw_that_is_not_random_is_refused():
    turn = lambda g, w: jnp.array([[jnp.cos(g), -jnp.sin(g)], [jnp.sin(g), jnp.cos(g)]]) @ w
    slow = symmetry.Symmetry("slow", lambda key: jnp.array(1e-3), turn)
    with pytest.raises(SettingError, match="still changes by"):
        symmetry.sectors([slow], jnp.zeros(2), KEY)


@pytest.mark.slow
def test_blocks_are_those_by_hand():
    """The Hessian of 4.1 at a point of the Kronecker manifold, averaged over rotations and
    reflections by multiples of 2 pi/8: its sectors by representation theory, and by hand.
    """
    law, theta = Rotated.with_spectrum((3.0, 1.0)), point(1.1, 0.8)
    full, by_hand = averaged(SubspaceDistance(2), theta, law, dihedral())
    start = Weights(jnp.zeros((4, 4)), jnp.zeros((4, 4)))
    # the Hessian by hand is over eight d x d blocks, ours over the entries of P and Q
    place = np.arange(32).reshape(2, 4, 4)
    order = place.reshape(2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).ravel()
    assert full.reshape(32, 32).shape == (32, 32)
    H = np.empty((32, 32))
    H[np.ix_(order, order)] = full.reshape(32, 32)
    reduced = symmetry.reduce(symmetry.sectors([conjugation(2)], start, KEY), H[None])
    ours = sorted([np.linalg.eigvalsh(r.H) for r in reduced], key=lambda lam: tuple(lam))
    theirs = sorted([np.linalg.eigvalsh(b) for b in by_hand], key=lambda lam: tuple(lam))
    np.testing.assert_allclose(ours, theirs, atol=ROUNDED * np.abs(H).max())


@pytest.mark.slow
def test_sectors_of_the_looped_transformer():
    start = Weights(jnp.zeros((8, 8)), jnp.zeros((8, 8)))
    assert kinds(symmetry.sectors([conjugation(4)], start, KEY)) == [(8, 1), (8, 6), (8, 9)]
    both = symmetry.sectors([conjugation(4), mirror(4)], start, KEY)
    assert kinds(both) == [(4, d) for d in (1, 1, 6, 6, 9, 9)]
