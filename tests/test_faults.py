"""Faults that others met in the libraries underneath, each ruled out where it would matter here.

What was broken to see each of these tests fail stands beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from slopes import plane_looped

from popgd.descent import gradient
from popgd.descent.descent import Descent, descend
from popgd.descent.gradient import population_average, population_gradient
from popgd.descent.interpolant import interpolate
from popgd.descent.leap import trajectory
from popgd.descent.recursion import recurse
from popgd.descent.recursion_optax import recurse_optax
from popgd.papers.power_method import kronecker, model, structured
from popgd.papers.power_method.data import Rotated, Sample, UniformSphere
from popgd.papers.power_method.model import Active, Weights, embed
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.stability import hessian, tangent
from popgd.problem.errors import SettingError

SLOW = pytest.mark.slow
SLOPE, ETA = plane_looped(3.0, 1.0), 0.3
LAW, PLANE = Rotated.with_spectrum([3, 1]), SubspaceDistance(1)
OBJECTIVES = {
    "4.1": SubspaceDistance(1),
    "4.2": PowerIteration("unnormalised", layer_norm=False),
    "4.3": PowerIteration(),
}

OPTIMISERS = {"momentum": lambda rate: optax.sgd(rate, momentum=0.9), "adam": optax.adam}
RATE = 0.1

# --- fused products: compiled with all optimisations, x y - z w is not 0 where x y = z w


@pytest.fixture(params=["optimised", pytest.param("as the other tests", marks=SLOW)])
def compiler(request, fresh_jit):
    """Both ways of compiling; `fresh_jit`, as what was compiled one way would serve the other."""
    jax.config.update("jax_disable_most_optimizations", request.param != "optimised")


STEPS = np.array([0, 1, 2, 3, 10, 100])


def sizes(count: int) -> np.ndarray:
    """Numbers of all sizes, with all their digits."""
    return np.exp(np.random.default_rng(0).uniform(-20, 20, count))


def test_the_recursion_keeps_a_balanced_start_balanced(compiler):
    """With Delta = a^2 - b^2 by a compiled a a - b b it is a rounding of a^2 instead of 0."""
    a = sizes(1000)
    many = recurse(SLOPE, (a, a), np.full(a.shape, ETA), 2, STEPS)
    assert not many.Delta.any() and not many.state.Delta_low.any() and np.isfinite(many.c).all()
    for x in a[:5]:
        assert not recurse(SLOPE, (x, x), ETA, 2, STEPS).Delta.any()


@SLOW
def test_the_leap_keeps_a_balanced_start_balanced(compiler):
    fit = interpolate(lambda c: np.log(-SLOPE(np.asarray(c))), 2, scale=0.25, largest=1e10)
    found = trajectory(fit, (0.3, 0.3), ETA, 2, 9 * 10**18, 2)
    assert not found.Delta.any() and not found.bound_Delta.any() and not found.imbalance.any()


@pytest.mark.parametrize("name", ["momentum", "adam", pytest.param("sgd", marks=SLOW)])
def test_an_optimiser_keeps_a_balanced_start_balanced(compiler, name):
    """As two scalars the weights came apart, by 3e-15 under momentum: one product was fused."""
    optimiser = {**OPTIMISERS, "sgd": optax.sgd}[name](RATE)
    for x in (0.1, 0.7, 1 / 3, 12.34):
        found = recurse_optax(SLOPE, (x, x), optimiser, 2, STEPS)
        a, b = found.state.weights
        assert not found.Delta.any() and a == b


def test_balanced_weights_are_equal():
    a, b = recurse(SLOPE, (sizes(1000), sizes(1000)), np.full(1000, ETA), 2, STEPS).weights
    assert np.array_equal(a, b)


# --- sums that stand still at 2^24, numbers that overflow at 2^31


@jax.tree_util.register_static
@dataclass(frozen=True)
class Numbered:
    """A law whose samples are their own numbers, where `fold_in` gives the number for the key."""

    def sample(self, key, dtype):
        return jnp.zeros((), int) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


@pytest.fixture
def numbered(monkeypatch, fresh_jit):
    monkeypatch.setattr(jax.random, "fold_in", lambda key, number: number)


MANY = 30_000_000


def halves(weights: Weights, number: Any) -> Any:
    """1 for the first half of the samples, 2 for the second: exact in float32, as is their mean."""
    return jnp.where(number < MANY // 2, 1, 2).astype(weights.P.dtype)


SHARDS = {"many shards": None, "one shard": 1}


@pytest.mark.parametrize("name", ["many shards", pytest.param("one shard", marks=SLOW)])
def test_means_of_float32_beyond_2_24_samples(numbered, monkeypatch, name):
    """With running means in float32 the mean is off by 1e-5, and by 2e-4 in one shard."""
    if shards := SHARDS[name]:
        monkeypatch.setattr(gradient, "FEWEST", shards)
        monkeypatch.setattr(gradient, "MOST", shards)
    at = embed(jnp.float32(1), jnp.float32(0), 1)
    mean, stderr, _ = population_average(halves, at, Numbered(), jax.random.key(0), MANY)
    assert mean.dtype == np.float32 and float(mean) == 1.5
    assert abs(float(stderr) / (0.25 / (MANY - 1)) ** 0.5 - 1) <= 2.0**-23  # a unit of float32


def test_the_numbers_of_samples_beyond_2_31(numbered, monkeypatch):
    """The last turn of each loop alone; with numbers in int32 those of the last chunk are wrong."""
    loop = jax.lax.fori_loop
    last_turn = lambda low, high, *rest: loop(jnp.maximum(low, high - 1), high, *rest)
    monkeypatch.setattr(jax.lax, "fori_loop", last_turn)
    count, size = gradient.NUMBERED, gradient.LARGEST_CHUNK
    itself = lambda weights, number: number.astype(float)
    at = embed(jnp.ones(()), jnp.zeros(()), 1)
    mean, _, _ = population_average(itself, at, Numbered(), jax.random.key(0), count)
    assert float(mean) == count - (size + 1) / 2


@SLOW
def test_the_gradient_of_3e7_samples_in_float32_is_that_of_float64():
    """Both beside the closed form (slopes.plane_looped), at a relative error of 2e-4."""
    c, slope = 0.5, -2 / (2 + 4 * 0.5) ** 2
    for dtype in (jnp.float32, jnp.float64):
        at = embed(dtype(2), dtype(c / 2), 2)
        mean, stderr, _ = population_gradient(PLANE, at, LAW, jax.random.key(3), MANY, Active(2))
        z = (np.asarray(mean.coordinates) - slope / 2 * np.array([c / 2, 2])) / stderr.coordinates
        assert (abs(z) < 5).all() and stderr.coordinates[1] < 3e-4 * abs(slope)


# --- the norm of 0, whose gradient may be NaN today and 0 tomorrow


@pytest.fixture
def silent_norm(monkeypatch, fresh_jit):
    """A norm whose derivative at 0 is 0, as `jnp.linalg.norm` may come to have."""
    honest = jnp.linalg.norm

    def norm(x, ord=None, axis=None, keepdims=False):
        zero = jnp.all(x == 0, axis=axis, keepdims=True)
        found = jnp.where(zero, 0, honest(jnp.where(zero, 1, x), ord, axis, True))
        return found if keepdims else jnp.squeeze(found, axis)

    assert jax.grad(norm)(jnp.zeros(3)).tolist() == [0, 0, 0]
    monkeypatch.setattr(jnp.linalg, "norm", norm)


#: Sizes whose squares are 0 or subnormal: by the root alone inf here, and elsewhere few digits.
TOO_SMALL = {jnp.float64: (0.0, 1e-156, 1e-310), jnp.float32: (0.0, 1e-20, 1e-40)}


@pytest.mark.parametrize("dtype", TOO_SMALL)
def test_an_output_of_0_has_no_direction(silent_norm, dtype):
    """With Z/max(norm, tiny), or a `where` that gives 0, these are finite."""
    weighed = lambda z: jnp.sum(model.layer_norm(z) * jnp.arange(1.0, 5)[:, None].astype(dtype))
    for size in TOO_SMALL[dtype]:
        value, slope = jax.jit(jax.value_and_grad(weighed))(jnp.full((4, 1), size, dtype))
        assert np.isnan(value) and np.isnan(slope).all()


#: X = I, so that S q = q with every digit, and at c = -1 the layer's output is q - q = 0.
IDENTITY = kronecker.without_rotation(Rotated.with_spectrum([1, 1, 1]))


def opposed(dtype: Any = jnp.float64) -> Weights:
    return embed(dtype(1), dtype(-1), 3)


@SLOW
@pytest.mark.parametrize("name", ["4.1", "4.3"])
def test_a_gradient_where_the_output_is_0_is_never_averaged(silent_norm, name):
    """With eps in layer_norm's norm they are numbers, and the descent goes on from them."""
    objective = OBJECTIVES[name]
    sample = IDENTITY.sample(jax.random.key(0), jnp.dtype("float64"))
    loss, slope = jax.value_and_grad(objective)(opposed(), sample)
    assert np.isnan(loss) and np.isnan(slope.P[3:, :3]).any()
    found = population_gradient(objective, opposed(), IDENTITY, jax.random.key(0), 16, Active(3))
    assert np.isnan(found.mean.loss) and np.isnan(found.mean.coordinates).all()
    how = Descent(objective, optax.sgd(ETA), Active(3))
    for projected in (False, True):
        with pytest.raises(SettingError, match="loss of 16 samples is nan at the start"):
            descend(how, IDENTITY, opposed(), 3, 16, jax.random.key(0), projected)


@SLOW
def test_without_layer_norm_an_output_of_0_is_a_number_like_others():
    """4.2 at f = 0 has the loss |Sq|^2 = 1 and the gradient -2 Sq in f."""
    key, plain = jax.random.key(0), OBJECTIVES["4.2"]
    mean = population_gradient(plain, opposed(), IDENTITY, key, 16, Active(3)).mean
    assert abs(mean.loss - 1) < 1e-15
    assert np.abs(mean.coordinates - np.array([2 / 3, -2 / 3])).max() < 1e-15  # -2 b/d, -2 a/d


def test_a_target_of_0_has_no_direction(silent_norm):
    """By the norm y/max(|y|, tiny) the target is 0 and the loss 1."""
    nothing = Sample(jnp.zeros((2, 3)), jnp.ones(2), jnp.ones((2, 1)))
    loss, slope = jax.value_and_grad(PowerIteration().of_output)(jnp.ones(2), nothing.Sq, nothing.V)
    assert np.isnan(loss) and np.isnan(slope).all()


@SLOW
def test_a_norm_that_overflows_is_no_output_on_the_kronecker_manifold():
    """Z/inf = 0: both losses of 4.1 were 0 there, and so were their gradients."""
    sample = LAW.sample(jax.random.key(0), jnp.dtype("float64"))
    by_tokens = lambda theta: kronecker.output(theta, sample.X, sample.q)
    by_form = lambda theta: kronecker.one_layer(theta, sample.X @ sample.X.T, sample.q)
    for output in (by_tokens, by_form):
        loss_at = lambda theta, output=output: PLANE.of_output(output(theta), sample.Sq, sample.V)
        loss, slope = jax.jit(jax.value_and_grad(loss_at))(kronecker.point(1.0, 1e155))
        assert np.isnan(loss) and np.isnan(slope).any()


# --- eigenvectors, whose derivative does not exist where eigenvalues are equal

EQUAL = Rotated.with_spectrum([3, 3, 1])


@SLOW
def test_the_gradient_depends_on_the_span_of_v_alone():
    """With V replaced by one of its columns the loss moves by O(1)."""
    rng = np.random.default_rng(0)
    weights = Weights(*jnp.asarray(rng.normal(size=(2, 6, 6))))
    sample = EQUAL.sample(jax.random.key(0), jnp.dtype("float64"))
    turn = jnp.asarray(np.linalg.qr(rng.normal(size=(2, 2)))[0])
    of = jax.jit(jax.value_and_grad(PLANE))
    with_v = lambda V: jax.tree.leaves(of(weights, sample._replace(V=V)))
    one, other, flipped = map(with_v, (sample.V, sample.V @ turn, -sample.V))
    for x, y in zip(one, other, strict=True):
        assert np.abs(x - y).max() < 1e-13 * np.abs(x).max()  # rounding; worst seen 2e-15
    assert all(np.array_equal(x, y) for x, y in zip(one, flipped, strict=True))


def derivatives(law: Any) -> Iterator[Any]:
    """Every way in which popgd differentiates the loss of a sample, at a point of the manifold."""
    key, at = jax.random.key(0), embed(jnp.ones(()), jnp.asarray(0.25), law.d)
    theta, grid = kronecker.point(1.0, 0.25), np.array([0, 2])
    yield population_gradient(PLANE, at, law, key, 16, Active(law.d)).mean
    yield kronecker.population_gradient(PLANE, theta, law, key, 16).mean
    yield kronecker.population_hessian(PLANE, theta, law, key, 16).mean
    yield kronecker.descend(kronecker.sampled_slope(PLANE, law, 4), theta, ETA, law.d, grid, key)
    yield hessian.population_hessian(PLANE, theta, law, key, 16).mean
    slope, start, x = jax.tree_util.Partial(SLOPE), jnp.array([1.0, 0.3]), jnp.ones((3, 8))
    yield tangent.sampled(PLANE, law, slope, start, ETA, x, grid, key, 4, 2)
    how = Descent(PLANE, optax.sgd(ETA), Active(law.d))
    yield descend(*structured.structured(how, law), at, 2, 16, key, True)[:4]


@SLOW
@pytest.mark.parametrize("kind", ["rotated", "uniform"])
def test_nobody_differentiates_through_eigenvectors(kind, monkeypatch, fresh_jit):
    """With eigenvectors of the weights' own making in the objective this raises."""

    @jax.custom_jvp
    def refusing(S):
        return tuple(plain(S))

    @refusing.defjvp
    def _(primals, tangents):
        raise AssertionError("a derivative through eigenvectors was asked for")

    plain = jnp.linalg.eigh
    monkeypatch.setattr(jnp.linalg, "eigh", refusing)
    for found in derivatives({"rotated": EQUAL, "uniform": UniformSphere(2, 2)}[kind]):
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
