"""Any model: weights and samples of any shape, beside gradients that NumPy takes by hand."""

import os
import re
import sys
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_distributed import agrees, bits, started
from test_resume import Kept

from popgd.descent import chunks
from popgd.descent.descent import Descent, descend
from popgd.descent.gradient import population_average, population_gradient
from popgd.papers.in_context import model as in_context
from popgd.papers.power_method import kronecker, model, structured
from popgd.papers.power_method.data import Rotated, UniformSphere
from popgd.problem.errors import SettingError
from popgd.problem.given import Drawn, as_law
from popgd.problem.plane import Plane, along, distance, project

SLOW = pytest.mark.slow  # each case compiles for a second; its siblings keep the code honest
KEY, SAMPLES, ETA = jax.random.key(5), 37, 0.1
#: Relative to the largest entry: means of 37 samples, in another order. Worst seen 7e-16, 3e-7.
ROUNDING = {"float64": 1e-13, "float32": 1e-5}

# --- two models, a law and a loss of each, and the gradient of one sample by hand


class Net(NamedTuple):
    """x -> v . tanh(W x + b)."""

    W: Any
    b: Any
    v: Any


def points(key):
    x = jax.random.normal(key, (3,))
    return {"x": x, "label": (x[0] > 0).astype(int)}


def net_loss(weights, sample):
    out = weights.v @ jnp.tanh(weights.W @ sample["x"] + weights.b)
    return (out - sample["label"]) ** 2


def net_by_hand(weights, sample):
    x = sample["x"]
    h = np.tanh(weights.W @ x + weights.b)
    error = 2 * (weights.v @ h - sample["label"])
    inner = error * weights.v * (1 - h**2)
    return (error / 2) ** 2, Net(np.outer(inner, x), inner, error * h)


def sentences(key):
    X = jax.random.normal(key, (4, 3))
    return X, X.mean(axis=0)


def head_loss(weights, sample):
    """The last token attends to all: sum of squares of its output less the mean token."""
    (X, y), (Wq, Wk) = sample, weights["qk"]
    a = jax.nn.softmax(X @ Wk.T @ (Wq @ X[-1]))
    return jnp.sum((weights["v"] @ (a @ X) - y) ** 2)


def head_by_hand(weights, sample):
    (X, y), (Wq, Wk), Wv = sample, weights["qk"], weights["v"]
    s = X @ Wk.T @ (Wq @ X[-1])
    a = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
    error = 2 * (Wv @ (a @ X) - y)
    of_a = X @ Wv.T @ error
    of_s = a * (of_a - a @ of_a)
    of_q, of_k = np.outer(Wk @ X.T @ of_s, X[-1]), np.outer(Wq @ X[-1], of_s @ X)
    return error @ error / 4, {"qk": [of_q, of_k], "v": np.outer(error, a @ X)}


class Case(NamedTuple):
    law: Any
    loss: Any
    by_hand: Any
    shapes: Any


CASES = {
    "net": Case(points, net_loss, net_by_hand, Net((5, 3), (5,), (5,))),
    "head": Case(sentences, head_loss, head_by_hand, {"qk": [(2, 3), (2, 3)], "v": (3, 3)}),
}


def start_of(name, dtype="float64"):
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), dtype)
    is_shape = lambda x: isinstance(x, tuple) and all(isinstance(n, int) for n in x)
    return jax.tree.map(draw, CASES[name].shapes, is_leaf=is_shape)


def one_by_one(name, weights, key, dtype="float64"):
    """Loss and gradient of each sample that the key draws, by NumPy in float64."""
    law = as_law(CASES[name].law)
    keys = jax.vmap(partial(jax.random.fold_in, key))(np.arange(SAMPLES))
    drawn = jax.device_get(jax.jit(jax.vmap(lambda k: law.sample(k, jnp.dtype(dtype))))(keys))
    wide = jax.tree.map(lambda x: np.asarray(x, float), jax.device_get(weights))
    each = lambda i: jax.tree.map(lambda x: np.asarray(x[i], float), drawn)
    return [CASES[name].by_hand(wide, each(i)) for i in range(SAMPLES)]


def near(found, wanted, rounding=ROUNDING["float64"]):
    pairs = zip(*map(jax.tree.leaves, (found, wanted)), strict=True)
    size = max(np.abs(x).max() for x in jax.tree.leaves(wanted))
    return all(np.abs(x - y).max() <= rounding * size for x, y in pairs)


@pytest.mark.parametrize(
    ("name", "dtype"), [("net", "float64"), ("head", "float64"), ("head", "float32")]
)
def test_mean_and_standard_error_are_those_of_numpy(name, dtype):
    weights, case = start_of(name, dtype), CASES[name]
    mean, stderr, _ = jax.device_get(
        population_gradient(case.loss, weights, case.law, KEY, SAMPLES)
    )
    each = one_by_one(name, weights, KEY, dtype)
    over = lambda f: jax.tree.map(lambda *x: f(np.stack(x), axis=0), *each)
    errors = jax.tree.map(lambda s: s / SAMPLES**0.5, over(partial(np.std, ddof=1)))
    assert jax.tree.structure(mean.weights) == jax.tree.structure(weights)
    assert near((mean.loss, mean.weights), over(np.mean), ROUNDING[dtype])
    assert near((stderr.loss, stderr.weights), errors, ROUNDING[dtype])
    assert {x.dtype for x in jax.tree.leaves((mean, stderr))} == {np.dtype(dtype)}
    other = one_by_one(name, weights, jax.random.key(6), dtype)
    assert not near(mean.weights, jax.tree.map(lambda *x: np.mean(x, axis=0), *other)[1], 0.01)


@cache
def descended(name, dtype="float64"):
    how, memory = Descent(CASES[name].loss, optax.sgd(ETA, momentum=0.9)), Kept()
    start = start_of(name, dtype)
    return descend(how, CASES[name].law, start, 5, SAMPLES, KEY, memory=memory), memory


@pytest.mark.parametrize("name", [pytest.param("net", marks=SLOW), "head"])
def test_descent_is_that_of_numpy_step_by_step(name):
    found = descended(name)[0]
    at, velocity = jax.device_get(start_of(name)), None
    assert found.step.tolist() == list(range(6)) and found.diverged_at is None
    for step in range(6):
        assert near(jax.tree.map(lambda x, i=step: x[i], found.weights), at)
        each = one_by_one(name, at, jax.random.fold_in(KEY, step))
        loss, mean = jax.tree.map(lambda *x: np.mean(np.stack(x), axis=0), *each)
        assert found.loss[step] == pytest.approx(loss, rel=1e-12, abs=0)
        velocity = mean if step == 0 else jax.tree.map(lambda v, g: 0.9 * v + g, velocity, mean)
        at = jax.tree.map(lambda w, v: w - ETA * v, at, velocity)
    assert found.coordinates.shape == found.slope.shape == found.slope_stderr.shape == (6, 0)
    assert not found.distance.any() and not found.inactive.any()


@pytest.mark.parametrize(
    ("name", "dtype"), [pytest.param("net", "float32", marks=SLOW), ("head", "float64")]
)
def test_a_descent_goes_on_bit_for_bit_from_each_state(name, dtype):
    whole, memory = descended(name, dtype)
    assert {x.dtype for x in jax.tree.leaves(whole.weights)} == {np.dtype(dtype)}
    how = Descent(CASES[name].loss, optax.sgd(ETA, momentum=0.9))
    for kept in memory.offers:
        assert all(isinstance(x, np.ndarray) and x.dtype != object for x in kept.values())
        again = descend(
            how, CASES[name].law, start_of(name, dtype), 5, SAMPLES, KEY, memory=Kept(kept)
        )
        assert jax.tree.structure(again.weights) == jax.tree.structure(whole.weights)
        for x, y in zip(*map(jax.tree.leaves, (again, whole)), strict=True):
            np.testing.assert_array_equal(x, y, strict=True)


#: Prints the bits of an estimate on 2 and on 4 devices.
DEVICES = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 4)
from popgd.descent import gradient
import test_pytrees as of
for count in (2, 4):
    gradient._mesh = lambda: jax.sharding.Mesh(np.array(jax.devices()[:count]), (gradient.AXIS,))
    found = gradient.population_gradient(
        of.head_loss, of.start_of("head"), of.sentences, of.KEY, 101)
    print("BITS", *(float(x).hex() for x in of.flat(found[:2])))
"""


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@SLOW  # another process compiles for seconds; test_distributed has its sibling
def test_the_number_of_devices_does_not_matter():
    ((two, four),) = bits(started(["-c", DEVICES], PYTHONPATH=os.pathsep.join(sys.path)))
    one = population_gradient(head_loss, start_of("head"), sentences, KEY, 101)
    assert two == four and agrees(two, " ".join(float(x).hex() for x in flat(one[:2])))


# --- planes of such weights


@dataclass(frozen=True)
class Equal:
    """All of v are equal, W and b are 0: the coordinate is that of v times the root of their
    number.
    """

    def coordinates(self, weights):
        return jnp.mean(weights["v"], keepdims=True)

    def embed(self, coordinates):
        return {"v": jnp.broadcast_to(coordinates, (4,)), "inner": [jnp.zeros((4, 2))]}

    def inactive(self, weights):
        return jnp.max(jnp.abs(weights["inner"][0]))

    def deviations(self, gradient):
        return ()


def test_a_plane_of_a_nested_pytree():
    off = {"v": jnp.array([1.0, 2.0, 3.0, 6.0]), "inner": [jnp.ones((4, 2))]}
    assert isinstance(Equal(), Plane)
    nearest = project(Equal(), off)
    assert np.array_equal(nearest["v"], np.full(4, 3.0)) and not np.any(nearest["inner"][0])
    assert float(distance(Equal(), off)) == pytest.approx(
        (4 + 1 + 0 + 9 + 8) ** 0.5, rel=1e-15, abs=0
    )
    assert near(along(Equal(), off), nearest)
    loss = lambda w, x: jnp.sum((w["inner"][0] @ x + w["v"]) ** 2)
    how, start = Descent(loss, optax.sgd(ETA), Equal()), Equal().embed(jnp.ones(1))
    run = descend(how, lambda key: jax.random.normal(key, (2,)), start, 4, 8, KEY, projected=True)
    assert not run.distance.any() and not run.inactive.any()
    # the loss along v is v^2 in every sample, and its gradient 2v
    assert run.coordinates[:, 0] == pytest.approx((1 - 2 * ETA) ** np.arange(5), rel=1e-14, abs=0)


# --- the size of chunks


def before(D, columns, itemsize):
    """What it was when P, Q and the law's numbers of columns were all that the core knew."""
    return int(np.clip(2 ** np.floor(np.log2(2**19 / (8 * D * (columns + 1) * itemsize))), 1, 64))


def laws():
    for d, n in [(2, 3), (7, 300), (20, 24), (100, 4000), (9, 4)]:
        yield UniformSphere(d, n), n
    yield in_context.InContext.gaussian(40, 200), 200
    for spectrum in ([8, 5, 4, 2, 1], [9, 9, *[1] * 30], [4000, 1]):
        law = Rotated.with_spectrum(spectrum)
        yield kronecker.without_rotation(law), law.columns
        yield structured.Orbits(law), law.d
    yield law, law.columns
    yield structured.Orbits(UniformSphere(40, 90)), 40
    yield structured.Single(UniformSphere(40, 90)), 40


@pytest.mark.parametrize("dtype", ROUNDING)
def test_the_chunks_of_the_papers_are_what_they_were(dtype):
    """Weights of 2 x 2 are those of descents in N, of d + 1 rows those of the second paper."""
    sizes = set()
    for law, columns in laws():
        drawn = jax.eval_shape(lambda key, law=law: law.sample(key, jnp.dtype(dtype)), KEY)
        d = getattr(law, "law", law).d
        for D in (2, 2 * d, d + 1):
            weights = 2 * [jax.ShapeDtypeStruct((D, D), dtype)]
            sizes.add(chunks.chunk_size(weights, drawn))
            assert chunks.chunk_size(weights, drawn) == before(D, columns, np.dtype(dtype).itemsize)
    assert len(sizes) >= 6
    weights, X = model.shapes(7, 30)
    assert chunks.working_set(weights, X) == 8 * (8 * 14 * 31 + 12 * 14 * 14)


# --- laws


@dataclass(frozen=True)
class Unregistered:
    """A law whose class is no pytree: a constant of the program."""

    scale: float

    def sample(self, key, dtype):
        return self.scale * jax.random.normal(key, (2,), dtype)


def test_a_function_is_one_law_however_often_it_is_handed_in():
    """Compiled once, by its identity."""
    traced = []

    def law(key):
        traced.append(key)
        return jax.random.normal(key, (2,))

    statistic = lambda weights, sample: sample * weights
    first = population_average(statistic, jnp.ones(2), law, KEY, 8)
    told = len(traced)
    again = population_average(statistic, jnp.ones(2), law, KEY, 8)
    assert len(traced) == told and np.array_equal(first.mean, again.mean)
    assert as_law(law) == as_law(law) == as_law(as_law(law)) and isinstance(as_law(law), Drawn)
    double = population_average(statistic, jnp.ones(2), Unregistered(2.0), KEY, 8)
    assert np.array_equal(double.mean, 2 * first.mean)


# --- bad input: one line each

numbers = count(1)


@dataclass
class Unhashable:
    scale: float

    def sample(self, key, dtype):
        return self.scale * jax.random.normal(key, (2,), dtype)


GOOD = {"w": jnp.ones(2)}
normal = lambda key: jax.random.normal(key, (2,))
square = lambda w, x: jnp.sum((w["w"] - x) ** 2)
BAD = {
    "no arrays": (square, {"w": []}, normal, "weights={'w': []} have no arrays: give a pytree"),
    "integers": (
        square,
        {"w": jnp.ones(2), "n": [jnp.arange(2)]},
        normal,
        "weights['n'][0] is of int64: wanted floats",
    ),
    "a text": (square, {"w": "f"}, normal, "weights['w'] is str: wanted floats"),
    "two formats": (
        square,
        {"w": jnp.ones(2), "v": jnp.ones(2, "float32")},
        normal,
        "weights['v'] of float32, weights['w'] of float64): wanted one; cast them",
    ),
    "an unhashable law": (square, GOOD, Unhashable(1.0), "make its class a frozen dataclass"),
    "no sample": (square, GOOD, lambda key: (), "draws no arrays"),
    "as many as the key says": (
        square,
        GOOD,
        lambda key: jnp.ones(int(jax.random.randint(key, (), 1, 5))),
        "asks for the value of its key",
    ),
    "a shape of the key": (
        square,
        GOOD,
        lambda key: jnp.ones(jax.random.randint(key, (), 1, 5)),
        "asks for the value of its key",
    ),
    "those above 0": (
        square,
        GOOD,
        lambda key: normal(key)[normal(key) > 0],
        "asks for the value of its key",
    ),
    "another shape every time": (
        square,
        GOOD,
        lambda key: jnp.ones(next(numbers)),
        "with one key and float64[",
    ),
    "another format every time": (
        square,
        GOOD,
        lambda key: jnp.ones(2, int if next(numbers) % 2 else float),
        "with one key and ",
    ),
    "numpy's random numbers": (
        square,
        GOOD,
        lambda key: np.random.normal(size=2),
        "another sample with the same key",
    ),
    "a vector": (
        lambda w, x: (w["w"] - x) ** 2,
        GOOD,
        normal,
        "the loss of one sample is float64 of shape (2,): wanted one float",
    ),
    "a whole number": (
        lambda w, x: jnp.sum(w["w"] > x),
        GOOD,
        normal,
        "the loss of one sample is int64 of shape (): wanted one float",
    ),
    "nothing": (lambda w, x: None, GOOD, normal, "the loss of one sample is NoneType"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name):
    loss, weights, law, line = BAD[name]
    for call in (
        lambda: population_gradient(loss, weights, law, KEY, 8),
        lambda: descend(Descent(loss, optax.sgd(ETA)), law, weights, 2, 8, KEY),
    ):
        with pytest.raises(SettingError, match=re.escape(line)) as caught:
            call()
        assert "\n" not in str(caught.value)


@jax.tree_util.register_static
class Registered:
    def sample(self, key, dtype):
        return jnp.ones(int(jax.random.randint(key, (), 1, 5)), dtype)


def test_a_law_that_is_a_pytree_may_not_ask_for_its_key_either():
    with pytest.raises(SettingError, match="law=Registered asks for the value of its key"):
        population_gradient(square, GOOD, Registered(), KEY, 8)


def test_what_is_no_law_is_refused():
    with pytest.raises(SettingError, match="law=3: wanted a function of a random key"):
        as_law(3)


def test_a_start_without_a_finite_loss_is_refused():
    how = Descent(lambda w, x: jnp.log(w["w"] @ x - 1e9), optax.sgd(ETA))
    with pytest.raises(
        SettingError, match="loss of 8 samples is nan at the start: wanted a finite"
    ):
        descend(how, normal, GOOD, 2, 8, KEY)


def test_a_descent_along_no_plane_is_refused():
    with pytest.raises(ValueError, match="projected=True without a plane"):
        descend(Descent(square, optax.sgd(ETA)), normal, GOOD, 2, 8, KEY, projected=True)
