"""The curve as a function of c: averages, their standard errors, and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from popgd.papers.power_method import quadrature as q
from popgd.papers.power_method.curve import Layer, Linear, Looped, heavy_tailed, uniform_c_star
from popgd.papers.power_method.data import UniformSphere

SIGMAS = 4.5  # two-sided false alarm 7e-6 per comparison, under 1e-4 for the file
SAME = 1e-14  # the same number by another grouping of the same operations
A = q.Spectrum(jnp.array([8.0, 5, 4, 2, 1]), jnp.ones(5))


def sampled(d: int, n: int, K: int, seed: int = 0) -> q.Spectrum:
    """Spectra of X X' for n uniform unit columns."""
    X = np.random.default_rng(seed).normal(size=(K, d, n))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return q.Spectrum(
        jnp.asarray(np.linalg.eigvalsh(X @ X.swapaxes(1, 2))[:, ::-1].copy()), jnp.ones(d)
    )


def within(quantity, wanted, sigmas: float = SIGMAS) -> None:
    assert abs(float(quantity.value) - wanted) <= sigmas * float(quantity.stderr) + float(
        quantity.bound
    )


def test_one_spectrum_is_the_quadrature():
    curve, c = Looped.of(A, 3), jnp.array([0.0, 2.0, 40.0])
    slope = curve.slope(c)
    single = jax.jit(jax.vmap(lambda x: q.looped_slope(A, x, 3, curve.cond)))(c)
    assert np.allclose(slope.value, single.value, rtol=SAME) and not slope.stderr.any()
    assert np.allclose(curve.log_slope(c).value, jnp.log(-slope.value), rtol=SAME)


@pytest.mark.slow
def test_average_and_standard_error():
    spectra = sampled(3, 8, 7)
    for curve, function in (
        (Looped.of(spectra, 2), lambda s: q.looped_slope(s, 1.5, 2)),
        (Layer.of(spectra), lambda s: q.layer_slope(s, 1.5)),
    ):
        each = jax.jit(jax.vmap(function))(q.Spectrum(spectra.lam, jnp.ones((7, 3)))).value
        got = curve.slope(jnp.array([1.5]))
        assert abs(float(got.value[0] / each.mean()) - 1) < SAME
        assert abs(float(got.stderr[0]) / (np.std(each, ddof=1) / 7**0.5) - 1) < 1e-9
        assert abs(float(curve.log_slope(jnp.array([1.5])).value[0]) - np.log(-each.mean())) < 1e-13


def test_uniform_columns_match_their_closed_forms():
    d, n = 4, 9
    curve = Linear.of(sampled(d, n, 4000), "unnormalised")
    within(curve.mean_square(), UniformSphere(d, n).mean_square_norm())
    within(curve.c_star(), uniform_c_star(d, n))
    assert 0 < float(curve.c_star().stderr) < 0.01


@pytest.mark.slow
def test_delta_method_matches_the_scatter_of_independent_batches():
    """Ratio of averages: 40 batches of 50, sd of the ratio against the mean reported stderr (11 %
    sampling error).
    """
    spectra = sampled(2, 6, 2000, seed=1)
    batches = [q.Spectrum(spectra.lam[i : i + 50], spectra.mult) for i in range(0, 2000, 50)]
    curves = [Linear(*_full(batch), cond=1e4) for batch in batches]
    for name in ("c_star", "limit"):
        numbers = [getattr(curve, name)() for curve in curves]
        scatter = np.std([float(x.value) for x in numbers], ddof=1)
        reported = np.mean([float(x.stderr) for x in numbers])
        assert abs(scatter / reported - 1) < 0.5


def _full(batch):
    return q.Spectrum(batch.lam, jnp.broadcast_to(batch.mult, batch.lam.shape)), "unnormalised"


@pytest.mark.parametrize(
    "target", [pytest.param("normalised", marks=pytest.mark.slow), "unnormalised"]
)
def test_linear_curve_is_its_parabola(target):
    curve = Linear.of(sampled(3, 7, 3), target)
    star, least, A2 = (float(x.value) for x in (curve.c_star(), curve.limit(), curve.mean_square()))
    c = jnp.array([-1.0, 0.0, star, 3.0])
    assert np.allclose(curve.loss(c).value, least + A2 * (c - star) ** 2, rtol=1e-13)
    assert np.allclose(curve.slope(c).value, 2 * A2 * (c - star), rtol=1e-13, atol=1e-13)


@pytest.mark.slow
def test_limits_are_approached():
    """l - l_inf = kappa/c and l = C1/(2 c^2) to first order."""
    looped, layer, c = Looped.of(A, 3), Layer.of(A), jnp.array([1e6])
    gap = float((looped.loss(c).value - looped.limit().value)[0]) * 1e6
    assert abs(gap / float(looped.constant().value) - 1) < 1e-6
    assert abs(float(layer.loss(c).value[0]) * 2e12 / float(layer.constant().value) - 1) < 1e-5
    assert float(layer.limit().value) == 0.0


def test_log_slope_holds_where_the_slope_underflows():
    curve = Looped.of(q.Spectrum(jnp.array([1e6, 1.0]), jnp.array([2.0, 3.0])), 50)
    slope = curve.log_slope(jnp.array([1e8]))
    assert (
        float(curve.slope(jnp.array([1e8])).value[0]) == 0.0
        and -1500 < float(slope.value[0]) < -1300
    )
    assert float(slope.bound[0]) < 1e-11


def test_bad_input_is_one_line():
    with pytest.raises(ValueError, match="descend"):
        Layer.of(q.Spectrum(jnp.array([1.0, 2.0]), jnp.ones(2)))
    with pytest.raises(ValueError, match="at least 1 loop"):
        Looped.of(A, 0)
    with pytest.raises(ValueError, match="target"):
        Linear.of(A, "both")
    with pytest.raises(ValueError, match="mult"):
        Layer.of(q.Spectrum(A.lam, jnp.ones(3)))
    assert (
        heavy_tailed(2, 4)
        and heavy_tailed(2, 5)
        and not heavy_tailed(2, 6)
        and not heavy_tailed(3, 5)
    )
