"""The Kronecker manifold: reduced forward pass, sampled and exact loss, descent that stays in
it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from popgd.descent import gradient
from popgd.papers.power_method import curve, kronecker, model, one_layer
from popgd.papers.power_method.data import Rotated, UniformSphere
from popgd.papers.power_method.kronecker import Kronecker
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.stability import hessian
from popgd.problem.plane import Plane, distance

LAM = (6.0, 3.0, 3.0)
LAW, SPECTRUM = Rotated.with_spectrum(LAM), Spectrum.of(LAM)
KEY = jax.random.key(8)
ONE_LAYER = (
    SubspaceDistance(1),
    PowerIteration("normalised"),
    PowerIteration("normalised", layer_norm=False),
    PowerIteration("unnormalised", layer_norm=False),
)
#: Rounding of a forward pass over the size of its output: measured 1e-16 to 2e-16.
FORWARD = 1e-12
#: Quadrature of the exact loss against the curve's own (which has bounds): measured 7e-16 for a
#: ratio, 1e-15 for a cosine.
EXACT = 1e-13
#: Standard errors that a sampled number may be off: probability 1e-6 for each of a few dozen.
SIGMAS = 6


def some_theta(number: int, size: float = 0.4) -> jax.Array:
    return size * jax.random.normal(jax.random.fold_in(KEY, number), (8,))


@pytest.mark.parametrize(("L", "normalise"), [(1, True), (3, True), (3, False)])
def test_reduced_forward_is_the_transformer(L, normalise):
    manifold = Kronecker(LAW.d)

    @jax.jit
    def gap(key):
        theta, sample = 0.4 * jax.random.normal(key, (8,)), LAW.sample(key, jnp.dtype("float64"))
        f = model.looped(manifold.embed(theta), sample.X, sample.q, L, normalise)
        reduced = kronecker.output(theta, sample.X, sample.q, L, normalise)
        closed = (
            kronecker.one_layer(theta, sample.X @ sample.X.T, sample.q, normalise) if L == 1 else f
        )
        return (jnp.linalg.norm(f - reduced) + jnp.linalg.norm(f - closed)) / jnp.linalg.norm(f)

    assert max(float(gap(jax.random.fold_in(KEY, i))) for i in range(8)) < FORWARD


def test_coordinates_undo_embedding():
    manifold, theta = Kronecker(3), some_theta(0)
    weights = manifold.embed(theta)
    np.testing.assert_allclose(manifold.coordinates(weights), theta, rtol=0, atol=1e-15)
    assert isinstance(manifold, Plane)
    assert float(distance(manifold, weights)) < 1e-15 and manifold.inactive(weights) == 0
    off = Weights(weights.P.at[0, 1].add(0.5), weights.Q)
    assert float(distance(manifold, off)) == pytest.approx(0.5, abs=1e-12)
    assert float(manifold.inactive(off)) == pytest.approx(0.5, abs=1e-12)
    assert float(jnp.abs(manifold.deviations(weights)).max()) < 1e-15


@pytest.mark.parametrize("c", [1e3, 1e9, 1e14, -1e3])
def test_a_small_sample_loss_has_all_its_digits(c):
    """||f - y||^2 in 50 digits, of the same S q: 1e-31 at c = 1e14, where f - y in float64 has
    no digit left.
    """
    theta, sample = (
        some_theta(5).at[2].set(1e-3 * c).at[5].set(1e3),
        LAW.sample(KEY, jnp.dtype("float64")),
    )
    p11, p12, p21, p22, _, r12, _, r22 = (mpmath.mpf(float(x)) for x in theta)
    with mpmath.workdps(50):
        pairs = [
            (mpmath.mpf(float(x)), mpmath.mpf(float(y)))
            for x, y in zip(sample.Sq, sample.q, strict=True)
        ]
        above = [p11 * r12 * s + p12 * r22 * q for s, q in pairs]
        below = [(1 + p22 * r22) * q + p21 * r12 * s for s, q in pairs]
        size, norm = mpmath.norm(above + below), mpmath.norm([s for s, _ in pairs])
        wanted = mpmath.fsum(
            (x / size - s / norm) ** 2 for x, (s, _) in zip(below, pairs, strict=True)
        )
    assert float(kronecker.sample_loss(ONE_LAYER[1], theta, sample)) == pytest.approx(
        float(wanted), rel=1e-13, abs=0
    )


def test_curvature_along_p11_has_its_digits():
    """Sample by sample the closed form of `hessian`, at c = 1e6: there the differences of f - y
    have lost them.
    """
    theta, sample = kronecker.point(1e3, 1e3), LAW.sample(KEY, jnp.dtype("float64"))
    found = (
        jax.jit(jax.hessian(partial(kronecker.sample_loss, ONE_LAYER[1])))(theta, sample)[0, 0] / 3
    )
    assert float(found) == pytest.approx(
        float(hessian.p11_curvature(1e3, 1e6, "power", sample)), rel=1e-12, abs=0
    )


CURVES = (
    lambda: curve.Looped.of(SPECTRUM, 1),
    lambda: curve.Layer.of(SPECTRUM),
    lambda: curve.Linear.of(SPECTRUM, "normalised"),
    lambda: curve.Linear.of(SPECTRUM, "unnormalised"),
)


@pytest.mark.slow
@pytest.mark.parametrize("i", range(4))
def test_exact_loss_on_the_smaller_manifold_is_the_curves(i):
    theta, c, known = kronecker.point(1.3, 0.7), 1.3 * 0.7, CURVES[i]()
    value, slope = one_layer.slope(ONE_LAYER[i], SPECTRUM)(theta, None)
    assert float(value) == pytest.approx(float(known.loss(c).value), abs=EXACT)
    expected = float(np.squeeze(known.slope(np.array(c)).value))
    assert float(slope[2]) == pytest.approx(0.7 * expected, abs=10 * EXACT)
    assert float(slope[5]) == pytest.approx(1.3 * expected, abs=10 * EXACT)
    np.testing.assert_array_equal(np.delete(slope, kronecker.ACTIVE), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ONE_LAYER)
def test_exact_loss_is_the_sampled_mean(objective):
    theta = some_theta(1)
    estimate = kronecker.population_gradient(objective, theta, LAW, KEY, 2**14)
    for mean, stderr, exact in zip(
        estimate.mean,
        estimate.stderr,
        one_layer.slope(objective, SPECTRUM)(theta, None),
        strict=True,
    ):
        assert np.all(abs(mean - exact) <= SIGMAS * stderr + 1e-12)


def test_exact_loss_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="one layer"):
        one_layer.loss(SubspaceDistance(2), SPECTRUM)
    with pytest.raises(ValueError, match="use kronecker"):
        one_layer.loss(SubspaceDistance(1, layer_norm=False), SPECTRUM)


def test_unnormalised_power_step_is_an_exact_minimum_without_layer_norm():
    """m = -1, c = 1: f = S q, loss 0 and slope 0 exactly."""
    theta = jnp.zeros(8).at[jnp.array([2, 3, 5, 7])].set(jnp.array([0.5, -0.25, 2.0, 4.0]))
    value, slope = one_layer.slope(ONE_LAYER[3], SPECTRUM)(theta, None)
    assert float(value) == 0 and not np.any(slope)


@pytest.mark.slow
@pytest.mark.parametrize("law", [LAW, UniformSphere(3, 6)])
@pytest.mark.parametrize("objective", [*ONE_LAYER, SubspaceDistance(3)])
def test_population_gradient_of_every_block_is_a_multiple_of_the_identity(objective, law):
    theta, manifold = some_theta(2), Kronecker(3)
    full = gradient.population_gradient(objective, manifold.embed(theta), law, KEY, 2**16)
    mean, stderr = full.mean.weights, full.stderr.weights
    reduced = kronecker.population_gradient(objective, theta, law, jax.random.key(9), 2**16)
    multiple = manifold.embed(reduced.mean[1] / 3)
    slip = manifold.embed(reduced.stderr[1] / 3)
    for x, e, y, f in zip(mean, stderr, multiple, slip, strict=True):
        assert np.all(abs(x - y) <= SIGMAS * np.hypot(e, f) + 1e-12)


@pytest.mark.slow
def test_descent_of_all_entries_follows_the_reduced_one():
    """300 steps of full-matrix descent off the smaller manifold: near N, and its coordinates those
    of the exact descent.
    """
    objective, theta, eta, steps, batch = (
        ONE_LAYER[1],
        kronecker.point(1.0, 0.1) + some_theta(3, 0.1),
        0.3,
        300,
        4096,
    )
    manifold = Kronecker(3)
    weights = manifold.embed(theta)
    step = jax.jit(partial(gradient.population_gradient, objective, law=LAW, samples=batch))
    for t in range(steps):
        mean = step(weights=weights, key=jax.random.fold_in(KEY, t)).mean.weights
        weights = jax.tree.map(lambda w, g: w - eta * g, weights, mean)
    path = kronecker.descend(
        one_layer.slope(objective, SPECTRUM), theta, eta, 3, np.array([0, steps]), KEY
    )
    moved = np.abs(path.theta[-1] - path.theta[0]).max()
    # Measured: coordinates within 0.5 % of what they moved, distance from N 0.02; both are noise of
    # batch 4096.
    assert np.abs(np.asarray(manifold.coordinates(weights)) - path.theta[-1]).max() < 0.03 * moved
    assert float(distance(manifold, weights)) < 0.1 * moved


@pytest.mark.slow
def test_sampled_descent_follows_the_exact_one():
    objective, theta = SubspaceDistance(1), kronecker.point(1.0, 0.0) + some_theta(4, 0.05)
    grid = np.array([0, 50, 200])
    exact = kronecker.descend(one_layer.slope(objective, SPECTRUM), theta, 0.3, 3, grid, KEY)
    sampled = kronecker.descend(
        kronecker.sampled_slope(objective, LAW, 4096), theta, 0.3, 3, grid, KEY
    )
    assert (
        np.abs(sampled.theta - exact.theta).max()
        < 0.01 * np.abs(exact.theta[-1] - exact.theta[0]).max()
    )
