"""The Hessian reduced by Schur's lemma: against the whole one averaged over a group, against closed
forms and the exact loss.
"""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from popgd.descent.gradient import population_average
from popgd.papers.power_method import curve, kronecker, one_layer
from popgd.papers.power_method.data import Rotated, Sample
from popgd.papers.power_method.kronecker import ACTIVE, Kronecker
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.stability import hessian

KEY = jax.random.key(80)
LAM = (8.0, 5.0, 4.0, 2.0, 1.0)
LAW, SPECTRUM = Rotated.with_spectrum(LAM), Spectrum.of(LAM)
SIGMAS = 6
OBJECTIVES = (
    SubspaceDistance(2),
    PowerIteration("normalised"),
    PowerIteration("unnormalised", layer_norm=False),
)
#: Rounding of an average over a group, relative to the largest entry: measured 3e-15.
GROUP = 1e-12


def dihedral() -> np.ndarray:
    """Rotations by multiples of 2 pi/8 and reflections. A Hessian turns with O by polynomials of
    degree 4, which rotations by 2 pi/5 or less average as all of O(2) does.
    """
    angles = np.arange(8) * np.pi / 4
    turn = np.array(
        [[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]]
    ).transpose(2, 0, 1)
    return np.concatenate([turn, turn @ np.diag([1.0, -1.0])])


def icosahedral() -> np.ndarray:
    """The 60 rotations of the icosahedron: its first invariant beyond the constants has degree 6.
    With -1, O(3) to degree 5.
    """
    golden = (1 + 5**0.5) / 2
    third = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    half = np.diag([-1.0, -1, 1])
    fifth = (
        np.array([[1, -golden, golden - 1], [golden, golden - 1, -1], [golden - 1, 1, golden]]) / 2
    )
    group = [np.eye(3)]
    for g in group:
        for h in (third, half, fifth):
            new = g @ h
            if not any(np.allclose(new, old) for old in group):
                group.append(new)
    return np.array(group)


def averaged(objective, theta, law, group):
    """(full, reduced) Hessian of one sample, each averaged over the sample's orbit."""
    sample = law.sample(KEY, jnp.dtype("float64"))
    weights = Kronecker(law.d).embed(theta)
    orbit = Sample(
        *(jnp.einsum("gij,j...->gi...", jnp.asarray(group), part) for part in sample[:3])
    )
    full = jnp.mean(
        jax.lax.map(lambda s: hessian.full_hessian(objective, weights, s), orbit), axis=0
    )
    reduced = jnp.mean(
        jax.lax.map(jax.jit(lambda s: hessian.SectorHessian(objective)(weights, s)), orbit), axis=0
    )
    return np.asarray(full), np.asarray(reduced)


def basis(d):
    """An orthonormal basis of each sector."""

    def unit(i, j):
        return np.eye(d * d)[d * i + j].reshape(d, d)

    pairs = list(itertools.combinations(range(d), 2))
    diagonal = np.linalg.svd(np.eye(d) - 1 / d)[0][:, : d - 1]
    return (
        [np.eye(d) / d**0.5],
        [(unit(i, j) - unit(j, i)) / 2**0.5 for i, j in pairs],
        [(unit(i, j) + unit(j, i)) / 2**0.5 for i, j in pairs] + [np.diag(x) for x in diagonal.T],
    )


def check_split(objective, theta, law, group):
    full, reduced = averaged(objective, theta, law, group)
    sectors = basis(law.d)
    assert tuple(map(len, sectors)) == hessian.dimensions(law.d)
    scale = abs(full).max()
    for (s, left), (t, right) in itertools.product(enumerate(sectors), repeat=2):
        for (i, M), (j, N) in itertools.product(enumerate(left), enumerate(right)):
            entry = np.einsum("sijtkl,ij,kl->st", full, M, N)
            expected = reduced[s] if s == t and i == j else 0.0
            assert np.abs(entry - expected).max() < GROUP * scale, (s, t, i, j)


@pytest.mark.parametrize(
    "objective",
    [OBJECTIVES[1], *(pytest.param(o, marks=pytest.mark.slow) for o in OBJECTIVES[::2])],
)
def test_whole_hessian_splits_into_the_three_sectors(objective):
    """At a point of N that is not on the smaller manifold: within a sector the reduced matrix times
    I, between sectors 0.
    """
    check_split(
        objective, 0.4 * jax.random.normal(KEY, (8,)), Rotated.with_spectrum((3.0, 1.0)), dihedral()
    )


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_whole_hessian_splits_in_three_dimensions(objective):
    assert len(icosahedral()) == 60
    check_split(
        objective,
        0.4 * jax.random.normal(KEY, (8,)),
        Rotated.with_spectrum((4.0, 2.0, 1.0)),
        icosahedral(),
    )


@pytest.mark.slow
def test_a_law_that_is_not_invariant_is_seen():
    """Over half of the group the split fails: the test above can see it."""
    with pytest.raises(AssertionError):
        check_split(
            OBJECTIVES[0],
            kronecker.point(1.0, 0.5),
            Rotated.with_spectrum((3.0, 1.0)),
            dihedral()[:2],
        )


@pytest.mark.slow
def test_active_and_inactive_blocks_do_not_mix():
    """Exactly, sample by sample."""
    inactive = [k for k in range(8) if k not in ACTIVE]
    for objective in (SubspaceDistance(3), *OBJECTIVES[1:]):
        estimate = hessian.population_hessian(objective, kronecker.point(1.2, 0.7), LAW, KEY, 64)
        mixed = np.asarray(estimate.mean)[:, ACTIVE][:, :, inactive]
        assert not np.any(mixed)


def exact_scalar(objective, theta):
    return np.asarray(jax.hessian(one_layer.loss(objective, SPECTRUM))(theta)) / 5


def second(known, c, h=1e-3):
    """l''(c) from the exact slope: central differences of fourth order, good to 1e-10."""
    at = known.slope(c + h * np.array([-2.0, -1.0, 1.0, 2.0])).value
    return float(at @ np.array([1.0, -8.0, 8.0, -1.0])) / (12 * h)


@pytest.mark.parametrize(
    "theorem",
    [pytest.param("4.1", marks=pytest.mark.slow), pytest.param("4.3", marks=pytest.mark.slow)],
)
def test_closed_forms_with_layer_norm(theorem):
    """(P22, Q22): -c l'(c)/d; the active blocks: l and the chain rule, against derivatives of the
    exact loss on N.
    """
    objective = SubspaceDistance(1) if theorem == "4.1" else PowerIteration("normalised")
    known = curve.Looped.of(SPECTRUM, 1) if theorem == "4.1" else curve.Layer.of(SPECTRUM)
    a, b = 1.6, 1.25
    c = a * b
    found = exact_scalar(objective, kronecker.point(a, b))
    slope = float(known.slope(np.array([c])).value[0])
    np.testing.assert_allclose(
        found[np.ix_([3, 7], [3, 7])], np.array([[0, 1], [1, 0]]) * -c * slope / 5, atol=1e-12
    )
    expected = hessian.manifold_curvature(a, b, slope, second(known, c), 5)
    np.testing.assert_allclose(found[np.ix_(ACTIVE, ACTIVE)], expected, atol=1e-9)


def test_closed_form_without_layer_norm():
    """(P22, Q22): 2 L*/d at c* for y = S q, with c* = 1 - (n/d)/A, L* = 1 - (n/d)^2/A, A = sum
    lam^2/d.
    """
    mean, A = sum(LAM) / 5, sum(x * x for x in LAM) / 5
    found = exact_scalar(
        PowerIteration("unnormalised", layer_norm=False), kronecker.point(1.0, 1 - mean / A)
    )
    assert found[3, 7] == pytest.approx(2 * (1 - mean**2 / A) / 5, abs=1e-13)
    assert found[3, 3] == found[7, 7] == found[0, 0] == 0


class _P11:
    """Statistic: the closed form of the curvature along P11."""

    def __init__(self, target, b):
        self.target, self.b = target, b

    def __call__(self, weights, sample):
        return hessian.p11_curvature(self.b, weights.P[0, 0] * self.b, self.target, sample)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["subspace", "power"])
def test_closed_form_of_the_p11_curvature(target):
    """Sampled closed form, exact loss and sampled Hessian: three routes; the same in every
    sector.
    """
    from popgd.papers.power_method.model import Weights

    objective = SubspaceDistance(1) if target == "subspace" else PowerIteration("normalised")
    a, b = 1.6, 1.25
    exact = exact_scalar(objective, kronecker.point(a, b))[0, 0]
    eye = jnp.eye(2)
    closed = population_average(
        _P11(target, b), Weights(a * eye, b * eye), kronecker.without_rotation(LAW), KEY, 2**16
    )
    assert abs(float(closed.mean) - exact) < SIGMAS * float(closed.stderr)
    assert exact < -100 * float(closed.stderr)
    sampled = hessian.population_hessian(objective, kronecker.point(a, b), LAW, KEY, 2**12)
    for sector in range(3):
        assert abs(float(sampled.mean[sector, 0, 0]) - exact) < SIGMAS * float(
            sampled.stderr[sector, 0, 0]
        )


@pytest.mark.slow
@pytest.mark.parametrize("L", [1, 2])
def test_multiples_of_the_identity_by_the_reduced_forward_pass(L):
    """The Hessian on N by 2 x 2 algebra, over d, is the scalar sector of the one on the full
    weights.
    """
    theta = 0.4 * jax.random.normal(KEY, (8,))
    full = hessian.population_hessian(SubspaceDistance(L), theta, LAW, KEY, 2**12)
    reduced = kronecker.population_hessian(
        SubspaceDistance(L), theta, LAW, jax.random.key(4), 2**16
    )
    error = np.hypot(full.stderr[0], reduced.stderr / 5)
    assert np.all(abs(full.mean[0] - reduced.mean / 5) <= SIGMAS * error + 1e-12)


def test_modes_name_their_blocks():
    assert hessian.name(np.array([0, 0, 0, 0.8, 0, 0, 0, -0.6])) == "P22 - Q22"
    assert hessian.name(np.eye(8)[4]) == "Q11"


def test_one_dimension_is_refused():
    with pytest.raises(ValueError, match="use d >= 2"):
        hessian.directions(1)


def test_a_c_at_which_rounding_is_the_curvature_is_refused():
    theta = kronecker.point(1e3, 1e3)
    with pytest.raises(ValueError, match=r"c = 1e\+06: rounding may be 0.09 of a curvature"):
        hessian.population_hessian(PowerIteration("normalised"), theta, LAW, KEY, 2)


DEVICES = """
import sys, jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from popgd.papers.power_method.stability import hessian
from popgd.papers.power_method import kronecker
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.objectives import PowerIteration
law, objective = Rotated.with_spectrum((3.0, 1.0)), PowerIteration("normalised")
theta = kronecker.point(1.0, 0.5)
found = hessian.population_hessian(objective, theta, law, jax.random.key(0), 64)
reduced = kronecker.population_hessian(objective, theta, law, jax.random.key(0), 64)
print(*found.mean.ravel(), *reduced.mean.ravel())
"""


@pytest.mark.slow
def test_derivatives_do_not_depend_on_the_number_of_devices():
    def run(count):
        out = subprocess.run(
            [sys.executable, "-c", DEVICES, str(count)], capture_output=True, text=True, check=True
        ).stdout
        return np.array(out.split(), float)

    np.testing.assert_allclose(run(1), run(2), rtol=0, atol=1e-14)


def test_modes_of_a_matrix_that_is_not_finite_are_no_numbers():
    values, vectors = hessian.eigh(np.diag([1.0, np.nan]))
    assert np.isnan(values).all() and np.isnan(vectors).all()
    np.testing.assert_array_equal(hessian.eigh(np.diag([2.0, 1.0]))[0], [1.0, 2.0])
