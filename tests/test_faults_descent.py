"""What optimisers, products of float32 and a shared set of samples may do to a descent: by hand."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from slopes import plane_looped

from popgd.descent import gradient
from popgd.descent.descent import Descent, descend
from popgd.descent.gradient import GradientOf, population_gradient
from popgd.descent.recursion import recurse
from popgd.descent.recursion_optax import recurse_optax
from popgd.papers.power_method import kronecker, model
from popgd.papers.power_method.data import Rotated, Sample, UniformSphere
from popgd.papers.power_method.model import Active, Weights, embed
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.stability import hessian
from popgd.papers.power_method.training import noise
from popgd.papers.power_method.training.study import Study

SLOW = pytest.mark.slow
SLOPE = plane_looped(3.0, 1.0)
LAW, PLANE = Rotated.with_spectrum([3, 1]), SubspaceDistance(1)
OBJECTIVES = {
    "4.1": SubspaceDistance(1),
    "4.2": PowerIteration("unnormalised", layer_norm=False),
    "4.3": PowerIteration(),
}
LAWS = {"rotated": LAW, "uniform": UniformSphere(2, 3)}
OPTIMISERS = {"momentum": lambda rate: optax.sgd(rate, momentum=0.9), "adam": optax.adam}
RATE = 0.1

# --- optimisers by hand: Adam's first step is divided by 1 - beta, and eps stands outside the root


def by_hand(name: str, rate: float, slopes: list[Any]) -> Any:
    """What the steps so far add to the weights."""
    if name == "momentum":
        velocity, moved = 0.0, 0.0
        for g in slopes:
            velocity = 0.9 * velocity + g
            moved = moved - rate * velocity
        return moved
    m = v = moved = 0.0
    for t, g in enumerate(slopes, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        moved = moved - rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
    return moved


@pytest.mark.parametrize("name", OPTIMISERS)
def test_three_steps_of_an_optimiser_along_the_manifold(name):
    """With b = 1e-8 the first gradient of a is as small as eps, which then matters in Adam."""
    start, slopes = (1.0, 1e-8), []
    found = recurse_optax(SLOPE, start, OPTIMISERS[name](RATE), 2, np.arange(4))
    a, b = start
    for step in range(4):
        assert abs(found.c[step] - a * b) <= 1e-14 * max(abs(a * b), 1e-8)
        g = -2 / (2 + 4 * a * b) ** 2 / 2
        slopes.append(np.array([b * g, a * g]))
        a, b = np.array(start) + by_hand(name, RATE, slopes)


@SLOW
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_three_steps_of_an_optimiser_on_all_weights(name, projected):
    """Without Adam's corrections the first step is 0.32 as long."""
    key, start, slopes = jax.random.key(5), embed(jnp.ones(()), jnp.asarray(0.3), 2), []
    how = Descent(PLANE, OPTIMISERS[name](RATE), Active(2))
    found = descend(how, LAW, start, 3, 16, key, projected)
    assert found.step.tolist() == [0, 1, 2, 3]
    for step in range(4):
        at = Weights(*map(jnp.asarray, (found.weights.P[step], found.weights.Q[step])))
        moved = [by_hand(name, RATE, list(g)) for g in zip(*slopes, strict=True)] or (0.0, 0.0)
        for now, first, by in zip(at, start, moved, strict=True):
            assert np.abs(now - first - by).max() <= 1e-14
        now = jax.random.fold_in(key, step)
        mean = population_gradient(PLANE, at, LAW, now, 16, Active(2)).mean
        of_all = Active(2).embed(mean.coordinates) if projected else mean.weights
        slopes.append([np.asarray(g) for g in of_all])


# --- products of float32, which some devices make with the digits of a shorter format


def products(jaxpr: Any) -> Iterator[Any]:
    """The precision of every product in a program, and in those that it calls."""
    program = lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for inner in jax.tree.leaves(equation.params, is_leaf=program):
            inner = getattr(inner, "jaxpr", inner)
            yield from products(inner) if hasattr(inner, "eqns") else ()


def in_float32() -> dict[str, Any]:
    one, S, theta = jnp.float32(1), jnp.eye(2, dtype="float32"), jnp.ones(8, "float32")
    at, sample = embed(one, one, 2), Sample(S, S[0], S[:, :1])
    coupling = lambda c: hessian.p12_q21_coupling(SubspaceDistance(2), c, S, sample)
    return {
        **{name: (lambda w, f=f: f(w, sample), at) for name, f in OBJECTIVES.items()},
        "4.1, three loops": (lambda w: SubspaceDistance(3)(w, sample), at),
        "power loop": (lambda c: jnp.sum(model.power_loop(c, S, sample.q[:, None], 3)), one),
        "kronecker": (lambda x: kronecker.sample_loss(SubspaceDistance(3), x, sample), theta),
        "kronecker, one layer": (lambda x: jnp.sum(kronecker.one_layer(x, S, sample.q)), theta),
        "curvature of P11": (lambda c: hessian.p11_curvature(one, c, "subspace", sample), one),
        "coupling of P12 and Q21": (coupling, one),
    }


@pytest.mark.parametrize("name", in_float32())
def test_products_have_all_digits_of_float32(name):
    """Of objectives, `kronecker` and `hessian` they had the device's default, both ways."""
    f, at = in_float32()[name]
    found = list(products(jax.make_jaxpr(jax.value_and_grad(f))(at).jaxpr))
    assert len(found) >= 2 and set(found) == {(jax.lax.Precision.HIGHEST,) * 2}


@pytest.mark.parametrize("kind", ["rotated", pytest.param("uniform", marks=SLOW)])
def test_products_of_an_average_have_all_digits_of_float32(kind):
    """Of the law and of the sums too; without that of `_estimate` it is the device's default."""
    law, statistic = LAWS[kind], GradientOf(SubspaceDistance(3), Active(2))
    at = embed(jnp.float32(1), jnp.float32(1), 2)
    of = lambda w, key: gradient._estimate(statistic, w, law, key, 100, None, gradient._mesh())
    found = list(products(jax.make_jaxpr(of)(at, jax.random.key(0)).jaxpr))
    assert len(found) >= 10 and set(found) == {(jax.lax.Precision.HIGHEST,) * 2}


# --- one shared set of samples, on which repeated estimates agree too well


#: Two-sided, for a sum of squares of 30 independent numbers of unit variance.
SEEDS, FALSE_ALARM = 30, 1e-4
LIKELY = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], SEEDS)
BANK_STEPS, BANK = 30, 128


def on_a_bank(seed: int) -> Any:
    how = Descent(PLANE, optax.sgd(1.0), Active(2), bank=True)
    start = embed(jnp.ones(()), jnp.zeros(()), 2)
    return descend(how, LAW, start, BANK_STEPS, BANK, jax.random.key(seed), True, 100)


@SLOW
def test_what_a_bank_states_is_its_scatter_over_seeds():
    """Loss and slope at the end, beside the closed form.

    The noise of c adds up in phase and counts no damping: it may be too large, but not too small.
    With the error of c as of fresh samples its sum is beyond the upper end.
    """
    exact = recurse(SLOPE, (1.0, 0.0), 1.0, 2, np.arange(BANK_STEPS + 1))
    setting, half = Mock(eta=1.0, bank=True), Mock(power=2, short=exact)
    study = Mock(spec=Study, setting=setting, exact=half)
    rows = []
    for seed in range(SEEDS):
        every = on_a_bank(seed)
        assert every.step.tolist() == list(range(BANK_STEPS + 1))
        c = every.coordinates.prod(axis=1)
        slope = every.coordinates[:, 0] * np.asarray(SLOPE(c)) / 2
        ratio = (1 + c[-1]) / (1 + 3 * c[-1])
        rows.append([
            (every.loss[-1] - ratio / (1 + ratio)) / every.loss_stderr[-1],
            (every.slope[-1, 1] - slope[-1]) / every.slope_stderr[-1, 1],
            (c[-1] - exact.c[-1]) / noise.sampling_noise(study, every),
        ])  # fmt: skip
    found = (np.array(rows) ** 2).sum(axis=0)
    assert (LIKELY[0] < found[:2]).all() and (found[:2] < LIKELY[1]).all()
    assert found[2] < LIKELY[1]
