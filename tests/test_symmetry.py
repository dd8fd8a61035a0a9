"""Declared symmetries and the plane they make: against planes by hand, and near misses refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from symmetric import attention, committee, hidden_rotations, network, transformer

from popgd import symmetry
from popgd.papers.power_method.data import UniformSphere
from popgd.papers.power_method.kronecker import Kronecker
from popgd.papers.power_method.model import Weights
from popgd.problem.errors import SettingError, TooLarge
from popgd.problem.plane import Plane as AnyPlane
from popgd.problem.plane import distance
from popgd.symmetry import plane as planes
from popgd.symmetry.gradients import off_plane

KEY = jax.random.key(17)
#: Standard errors that a sampled number may be off: probability 2e-9 for each of some hundred.
SIGMAS = 6
NETWORK = network()


def refusal(call, *parts):
    with pytest.raises(SettingError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in parts), message


def checked(model, loss=None, action=None):
    for one in (action,) if action else model.symmetries:
        symmetry.check(one, loss or model.loss, model.law, model.start, KEY)


def test_true_symmetries_pass():
    checked(NETWORK)
    checked(NETWORK, action=hidden_rotations(2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [lambda n=n: transformer(n) for n in ("4.1", "4.2", "4.3")] + [attention, committee],
)
def test_true_symmetries_of_the_papers_pass(make):
    checked(make())


@pytest.mark.parametrize("size", [1e-3, pytest.param(1e-9, marks=pytest.mark.slow)])
def test_a_broken_symmetry_is_refused(size):
    broken = lambda w, x: NETWORK.loss(w, x) + size * w["W1"][0, 1]
    refusal(lambda: checked(NETWORK, broken), "'signs', sample ", "the loss is ", "rounding")


@pytest.mark.slow
@pytest.mark.parametrize("number", ["4.1", "4.2", "4.3"])
def test_a_broken_symmetry_of_the_papers_is_refused(number):
    model = transformer(number)
    for row, one in ((0, model.symmetries[0]), (3, model.symmetries[1])):
        broken = lambda w, x, row=row: model.loss(w, x) + 1e-3 * w.P[row, row]
        refusal(lambda one=one, loss=broken: checked(model, loss, one), one.name)


def test_an_action_must_be_orthogonal_linear_and_keep_its_shape():
    (signs,) = NETWORK.symmetries
    weights = {
        "orthogonal": lambda g, w: {"W1": (2 + g[0]) * w["W1"], "W2": w["W2"] / (2 + g[0])},
        "linear": lambda g, w: jax.tree.map(lambda v: jnp.sign(v) * jnp.sort(jnp.abs(v)), w),
        "structure": lambda g, w: {"W1": w["W1"]},
    }
    for word, action in weights.items():
        wrong = replace(signs, weights=action, sample=lambda g, x: x)
        refusal(lambda wrong=wrong: checked(NETWORK, action=wrong), "'signs'", word)
    narrow = NETWORK._replace(start={k: v.astype("float32") for k, v in NETWORK.start.items()})
    refusal(lambda: checked(narrow), "float32", "wanted float64")


@pytest.fixture(scope="module")
def kronecker():
    """The planes of O(3), and of O(3) with the mirror, on (P, Q)."""
    model = transformer("4.1")
    both = symmetry.invariant(model.symmetries, model.start, KEY)
    return model, symmetry.invariant(model.symmetries[:1], model.start, KEY), both


def test_rotations_make_the_kronecker_manifold(kronecker):
    model, plane, both = kronecker
    by_hand = Kronecker(3)
    assert plane.names == tuple(f"{M}[{i},{j}]" for M in "PQ" for i in (0, 3) for j in (0, 3))
    assert both.names == ("P[0,3]", "P[3,0]", "Q[0,3]", "Q[3,0]")
    x = jax.random.normal(KEY, (8,))
    for left, right in zip(plane.embed(x), by_hand.embed(x), strict=True):
        np.testing.assert_array_equal(left, right)
    some = Weights(*jax.random.normal(KEY, (2, 6, 6)))
    np.testing.assert_allclose(plane.coordinates(some), by_hand.coordinates(some), atol=1e-15)
    assert float(plane.inactive(some)) == float(by_hand.inactive(some))
    assert float(both.inactive(model.start)) == 0 and both.off(model.start) == (0, "P[0,0]")


def test_a_plane_is_a_manifold(kronecker):
    _, plane, same = kronecker
    shifted = symmetry.Plane.of(
        Weights(jnp.zeros((6, 6)), jnp.zeros((6, 6))), same.directions, np.arange(72.0)
    )
    some, x = Weights(*jax.random.normal(KEY, (2, 6, 6))), jnp.arange(1.0, 5)
    assert isinstance(shifted, AnyPlane)
    lift = jax.tree.map(jnp.subtract, shifted.embed(x), shifted.embed(0 * x))
    np.testing.assert_allclose(shifted.coordinates(lift), x, rtol=1e-14)
    away = jax.tree.map(jnp.subtract, some, shifted.embed(shifted.coordinates(some)))
    # what is left is orthogonal to the plane, and a step along it makes the distance longer
    np.testing.assert_allclose(shifted.coordinates(away), 0, atol=1e-13)  # the origin is some 70
    assert distance(shifted, some) < min(
        float(jnp.sqrt(sum(jnp.sum((a - b) ** 2) for a, b in zip(some, other, strict=True))))
        for other in (shifted.embed(shifted.coordinates(some) + e) for e in 0.1 * jnp.eye(4))
    )
    assert shifted != same and plane != same and hash(same) == hash(replace(same))
    assert same == replace(same) and isinstance(jax.jit(same.embed)(x), Weights)


def test_averages_find_the_same_plane(kronecker, monkeypatch):
    model, _, both = kronecker
    monkeypatch.setattr(planes, "DENSE", 10)
    assert symmetry.invariant(model.symmetries, model.start, KEY) == both
    monkeypatch.setattr(planes, "WIDEST", 4)
    with pytest.raises(TooLarge, match="more than 4 coordinates of 72"):
        symmetry.invariant(model.symmetries, model.start, KEY)


def test_signs_keep_the_diagonals_and_hidden_rotations_nothing():
    plane = symmetry.invariant(NETWORK.symmetries, NETWORK.start, KEY)
    assert plane.names == ("W1[0,0]", "W1[1,1]", "W2[0,0]", "W2[1,1]")
    nothing = symmetry.invariant([hidden_rotations(2)], NETWORK.start, KEY)
    assert nothing.k == 0 and nothing.off(NETWORK.start) == (0.3, "W1[0,0]")
    np.testing.assert_array_equal(nothing.embed(jnp.zeros(0))["W1"], 0)
    assert nothing.coordinates(NETWORK.start).shape == (0,)
    assert "off the plane, at most by 0.3 in W1[0,0]" in nothing.describe(NETWORK.start)
    start = {**NETWORK.start, "W2": NETWORK.start["W2"].at[1, 0].add(1e-3)}
    assert "at most by 0.001 in W2[1,0]" in plane.describe(start)
    assert plane.describe(NETWORK.start).endswith("the start lies on the plane")


def test_a_coordinate_that_is_shared():
    equal = symmetry.permutations("units", 3, lambda p, w: {"u": w["u"][p], "v": w["v"]})
    start = {"u": jnp.ones(3), "v": jnp.array(2.0)}
    plane = symmetry.invariant([equal], start, KEY)
    assert plane.names == ("u[0]", "v")
    np.testing.assert_allclose(plane.coordinates({"u": jnp.arange(3.0), "v": 5.0}), [1, 5])
    off = plane.deviations({"u": jnp.arange(3.0), "v": jnp.array(5.0)})
    np.testing.assert_allclose(off["u"], [-1, 0, 1], atol=1e-15)
    assert float(off["v"]) == 0


def test_a_plane_that_a_fresh_element_moves_is_refused(monkeypatch):
    # one rotation of the plane leaves antisymmetric matrices alone, a reflection does not
    conj = symmetry.rotations("turn", 2, lambda O, w: O @ w @ O.T)
    conj = replace(conj, elements=())
    start = jnp.eye(2)
    assert symmetry.invariant([conj], start, KEY).names == ("w[0,0]",)
    monkeypatch.setattr(planes, "DRAWS", 1)
    refused = 0
    for seed in range(8):
        try:
            symmetry.invariant([conj], start, jax.random.key(seed))
        except SettingError as error:
            assert "'turn' moves what 1 of its elements leave alone" in str(error)
            refused += 1
    assert 0 < refused < 8
    refusal(lambda: symmetry.invariant([], start, KEY), "no symmetry was given")


def flipped(w, x):
    """w . x against 1 + x_0: x_1 -> -x_1, w_1 -> -w_1 is a symmetry of this loss."""
    return 0.5 * (w @ x - 1 - x[0]) ** 2


def even(key):
    return jax.random.normal(key, (2,))


def skewed(mean):
    """Two numbers, the second one with the law of an exponential number less 1 - mean."""
    exponential = lambda key: jax.random.exponential(jax.random.fold_in(key, 1))
    return lambda key: even(key).at[1].set(exponential(key) - 1 + mean)


def turned(g, v):
    return v * jnp.stack([1.0, g])


FLIP = symmetry.finite("flip", (1.0, -1.0), turned, turned)


def test_a_skewed_law_is_caught():
    start = jnp.array([0.5, 0.0])
    symmetry.check(FLIP, flipped, skewed(1.0), start, KEY)  # the loss has it, the law has not
    plane = symmetry.invariant([FLIP], start, KEY)
    found = {}
    for name, law in (("mean", skewed(1.0)), ("cube", skewed(0.0)), ("even", even)):
        gradient = off_plane(flipped, law, plane, np.array([0.5]), KEY)
        assert gradient.names == ("w[0]", "w[1]") and gradient.mean[0] == gradient.error[0] == 0
        found[name] = symmetry.moments(FLIP, law, KEY), gradient.sigmas.max()
    moved, gradient = found["mean"]
    assert moved.sigmas[1] > SIGMAS < gradient
    # E x_1 = 1 changes by -2 under half of the elements
    assert abs(moved.difference[1] + 1) < SIGMAS * moved.error[1]
    moved, gradient = found["cube"]
    # a skew of mean 0 leaves the plane invariant: nothing in the gradient is wrong
    assert moved.names[moved.worst] == "w[1]^3" and moved.sigmas.max() > SIGMAS > gradient
    moved, gradient = found["even"]
    assert max(moved.sigmas.max(), gradient) < SIGMAS


def test_moments_of_what_the_loss_sees():
    def law(key):
        """A line in the plane, by a unit vector with the sign that some rule chose."""
        x = even(key)
        return x * jnp.sign(x[0]) / jnp.linalg.norm(x)

    mirrored = symmetry.signs("signs", 2, jnp.multiply, jnp.multiply)
    seen = lambda v: jnp.outer(v, v)
    assert symmetry.moments(mirrored, law, KEY, 1024, seen).sigmas.max() < SIGMAS
    assert symmetry.moments(mirrored, law, KEY, 1024).sigmas[0] > SIGMAS


@pytest.mark.slow
def test_moments_of_the_papers_laws():
    law = UniformSphere(3, 20)  # more numbers than all products are taken of
    sample = lambda key: law.sample(key, jnp.dtype("float64"))
    turn, mirrored = transformer("4.3").symmetries
    seen = lambda x: x._replace(V=x.V @ x.V.T)
    for one in (turn, mirrored):
        assert symmetry.moments(one, sample, KEY, 4096, seen).sigmas.max() < SIGMAS
    tilted = lambda key: sample(key)._replace(X=sample(key).X.at[0].multiply(1.3))
    moved = symmetry.moments(turn, tilted, KEY, 4096, seen)
    assert moved.sigmas.max() > SIGMAS
