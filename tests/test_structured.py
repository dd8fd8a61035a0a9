"""The structured statistic: the part of the full gradient along the manifold, sample by sample, and
its law.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from popgd.descent import descent, gradient
from popgd.papers.power_method import kronecker, model
from popgd.papers.power_method.data import Orbit, Rotated, Sample, UniformSphere
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.structured import AlongActive, structured

LAWS = {
    "rotated": Rotated.with_spectrum((8, 5, 4, 2, 1)),
    "r = 2": Rotated.with_spectrum((3.5, 3.5, 2)),
    "uniform": UniformSphere(4, 9),
    "n < d": UniformSphere(4, 2),
}
OBJECTIVES = (
    SubspaceDistance(3),
    PowerIteration(),
    PowerIteration("unnormalised", layer_norm=False),
    SubspaceDistance(2, False),
)
POINTS = ((1.0, 0.0), (0.4, 0.9), (5.0, 4.0))
#: Rounding of a sample's slope by either route, relative (measured worst 1.1e-13 at c = 20, where
#: the slope is small).
ROUNDING = 1e-12


def how(objective, law, **rest):
    return descent.Descent(objective, optax.sgd(0.1), model.Active(law.d), **rest)


def as_orbits(sample: Sample) -> tuple[Orbit, Orbit]:
    """The same sample as an orbit of its one query: as it is, and in the eigenbasis of S."""
    S = np.asarray(sample.X @ sample.X.T)
    lam, O = (x[..., ::-1] for x in np.linalg.eigh(S))
    V = jnp.eye(len(lam), sample.V.shape[1])
    return Orbit(jnp.asarray(S), sample.q[:, None], sample.V), Orbit(
        jnp.asarray(lam), jnp.asarray(O.T @ sample.q)[:, None], V
    )


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        pytest.param(
            name,
            objective,
            id=f"{name}, {objective}",
            marks=[] if k % 4 == i else [pytest.mark.slow],
        )
        for i, name in enumerate(LAWS)
        for k, objective in enumerate(OBJECTIVES)
    ],
)
def test_same_slope_as_the_full_gradient_on_the_same_sample(name, objective):
    law = LAWS[name]
    sample = law.sample(jax.random.key(3), jnp.dtype("float64"))
    whole = jax.jit(gradient.GradientOf(objective, model.Active(law.d)).__call__)
    along = jax.jit(jax.value_and_grad(AlongActive(objective).loss))
    for a, b in POINTS:
        full = whole(model.embed(jnp.asarray(a), jnp.asarray(b), law.d), sample)
        for orbit in as_orbits(sample):
            loss, slope = along(jnp.array([a, b]), orbit)
            np.testing.assert_allclose(loss, full.loss, rtol=ROUNDING, atol=ROUNDING)
            size = abs(full.coordinates).max()
            np.testing.assert_allclose(
                slope / law.d, full.coordinates, rtol=ROUNDING, atol=ROUNDING * size
            )


@pytest.mark.slow
@pytest.mark.parametrize("law", [LAWS["r = 2"], LAWS["uniform"]], ids=["r = 2", "uniform"])
def test_same_mean_as_the_full_gradient_and_less_noise(law):
    """Their own samples: means agree within the errors, and d shifts gain more than they cost (here
    1.4 to 4 times).
    """
    full, (cheap, seen) = (
        how(SubspaceDistance(2), law),
        structured(how(SubspaceDistance(2), law), law),
    )
    weights, key = model.embed(jnp.asarray(1.2), jnp.asarray(0.7), law.d), jax.random.key(5)
    (m, s, _), (mean, stderr, _) = (
        full.gradient(weights, law, key, 2**13),
        cheap.gradient(weights, seen, key, 2**13),
    )
    for x, y, error_x, error_y in (
        (m.loss, mean.loss, s.loss, stderr.loss),
        (m.coordinates, mean.coordinates, s.coordinates, stderr.coordinates),
    ):
        assert np.all(abs(x - y) < 5.5 * np.hypot(error_x, error_y))
    assert np.all(s.coordinates**2 > law.d * np.asarray(stderr.coordinates) ** 2 * 0.9)


def test_an_orbit_leaves_no_noise_in_squares():
    """For one layer without LN and y = Sq they leave no noise: the loss is linear in the squares of
    q, whose sum is 1.
    """
    law = LAWS["rotated"]
    cheap, seen = structured(how(PowerIteration("unnormalised", layer_norm=False), law), law)
    weights = model.embed(jnp.asarray(1.2), jnp.asarray(0.7), law.d)
    mean, stderr, _ = cheap.gradient(weights, seen, jax.random.key(5), 64)
    lam, c = np.array(law.spectrum), 1.2 * 0.7
    slope = 2 * np.mean(lam * (1 + c * lam - lam))  # l'(c), grad_a = b l'
    # Terms of up to 15 cancel to a slope of 1
    np.testing.assert_allclose(mean.coordinates, np.array([0.7, 1.2]) * slope / law.d, rtol=5e-14)
    assert np.all(stderr.coordinates <= 1e-15 * abs(slope))


def test_chosen_where_it_is_valid_only():
    law = LAWS["rotated"]
    full = how(SubspaceDistance(2), law)
    assert structured(full, law)[0].statistic == AlongActive(SubspaceDistance(2))
    other = descent.Descent(SubspaceDistance(2), optax.sgd(0.1), kronecker.Kronecker(law.d))
    assert structured(other, law) == (other, law)


@pytest.mark.parametrize("projected, off", [(False, 0.0), (True, 1e-9)])
def test_refused_off_the_manifold(projected, off):
    law = LAWS["rotated"]
    cheap, seen = structured(how(SubspaceDistance(2), law), law)
    start = model.embed(jnp.asarray(1.0), jnp.asarray(0.0), law.d)
    start = start._replace(P=start.P.at[0, 0].add(off))
    with pytest.raises(ValueError, match="only a projected descent from a point of it"):
        descent.descend(cheap, seen, start, 2, 4, jax.random.key(0), projected)
