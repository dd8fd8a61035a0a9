"""Sphere expectations: right values, honest bounds, no cancellation."""

import json
from fractions import Fraction
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from scipy.special import elliprg

from popgd.papers.power_method import quadrature
from popgd.papers.power_method.curve import Linear
from popgd.papers.power_method.quadrature import trapezoid

STATIC = ("L", "cond", "target")
q = SimpleNamespace(  # the same names, compiled once
    **{name: getattr(quadrature, name) for name in ("Bounded", "Spectrum")},
    **{
        name: jax.jit(
            getattr(quadrature, name),
            static_argnames=[
                s for s in STATIC if s in signature(getattr(quadrature, name)).parameters
            ],
        )
        for name in quadrature.__all__
        if name.startswith(("looped", "layer", "mean", "c_star", "loss_min", "moments", "norm"))
    },
)
REFERENCE = json.loads((Path(__file__).parent / "data" / "reference.json").read_text())
# against 20-digit strings; worst seen 2.9e-15 (slope at c = 1e4: ten roundings in log rho)
DIGITS_20 = 1e-14
RECURSION = (
    1e-12  # slopes at 0 and c*, L* of the file are float64 numbers "about 1e-12"; worst seen 4e-15
)
CLOSED = 5e-14  # against closed forms of d = 2; worst seen 4e-15 at condition 1e6
AUTODIFF = 1e-11  # autodiff of the loss cancels as c grows; worst seen 1e-13 for c <= 1e3
LARGEST_BOUND = (
    4e-12  # largest relative bound on the hard cases (L = 50, condition 1e6: exponents of 1400)
)

spectra = {
    name: q.Spectrum.of(entry["spectrum"]) for name, entry in REFERENCE.items() if name in "AB"
}


def close(got: q.Bounded, wanted, tol: float) -> None:
    assert abs(float(got.value) / float(wanted) - 1) <= tol, (float(got.value), float(wanted))


def honest(got: q.Bounded, wanted, spec: q.Spectrum) -> None:
    """value, log, and both bounds against a many-digit number. Half an ulp of each eigenvalue is in
    the bound: relative to the square of their least difference 17 2^-53 lam_1 over that, at most.
    """
    size = abs(mp.mpf(wanted))
    assert abs(abs(mp.mpf(float(got.value))) - size) <= float(got.bound)
    assert abs(mp.mpf(float(got.log)) - mp.log(size)) <= float(got.log_bound)
    lam = np.asarray(spec.lam)
    assert float(got.log_bound) <= LARGEST_BOUND + 17 * 2.0**-53 * lam[0] / -np.diff(lam).max()


SLOW = (
    pytest.mark.slow
)  # each case compiles for seconds; its siblings in the default suite keep the formula honest


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW) for name in "AB"])
def test_reference_values(name):
    entry, spec = REFERENCE[name], spectra[name]
    L = entry["loops_L"]
    for c, row in entry["thm41"]["at_c"].items():
        close(q.looped_loss(spec, float(c), L), row["loss"], DIGITS_20)
        close(q.looped_slope(spec, float(c), L), row["dloss"], DIGITS_20)
    close(q.looped_limit(spec, L), entry["thm41"]["loss_limit"], DIGITS_20)
    close(q.looped_kappa(spec, L), entry["thm41"]["kappa"], DIGITS_20)
    close(q.layer_C1(spec), entry["thm43"]["C1"], DIGITS_20)
    close(q.layer_slope(spec, 0.0), entry["thm43"]["slope_at_c=0"], RECURSION)
    close(q.mean_norm(spec), entry["thm42"]["mean_norm_Sq"], DIGITS_20)
    for target in ("normalised", "unnormalised"):
        close(q.c_star(spec, target), entry["thm42"][f"c_star_{target}"], RECURSION)
        close(q.loss_min(spec, target), entry["thm42"][f"loss_min_{target}"], RECURSION)


HARD_LOOPED = {  # lam, mult, c (None: infinity), L; few shapes, so that few programs are compiled
    "plateau of 1381 in s, value 1e-597": ([1e6, 1], [2, 3], 1e10, 50),
    "value 1e-600, peak at s = 0": ([1e6, 1], [5, 1], 1e3, 50),
    "half-integer powers": ([1e3, 1], [3, 2], 10.0, 50),
    "d = 1000, r = 999": ([3, 1], [999, 1], 50.0, 50),
    "peak far to the right, r = 1": ([1e6, 1e3, 1], [1, 1, 3], None, 50),
    "c = 1e12 with c lam_d = 1e7": ([8, 5, 1e-5], [1, 2, 2], 1e12, 3),
    "d = 1000, sharpest growth of |f| off the axis": ([3, 2, 1], [10, 500, 490], 5.0, 3),
    "near isotropy": ([1 + 1e-7, 1 - 1e-7], [1, 2], 5.0, 3),
    "r = d - 1": ([3, 1], [4, 1], 5.0, 3),
    "d = 2, slowest decay on the right": ([3, 1], [1, 1], 0.7, 3),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(k, marks=[SLOW] if k.startswith(("peak far", "plateau")) else [])
        for k in HARD_LOOPED
    ],
)
def test_looped_bound_is_honest_on_hard_cases(case):
    lam, mult, c, L = HARD_LOOPED[case]
    spec = q.Spectrum(jnp.array(lam, float), jnp.array(mult, float))
    loss, slope = oracles.looped(lam, mult, c, L)
    honest(q.looped_limit(spec, L) if c is None else q.looped_loss(spec, c, L), loss, spec)
    honest(q.looped_kappa(spec, L) if c is None else q.looped_slope(spec, c, L), slope, spec)


HARD_LAYER = {
    "cond 1e6 at c = 0: x spans 12 decades": ([1e6, 1e3, 1], [1, 2, 1], 0.0),
    "cond 1e6, c lam_d = 1e-3": ([1e3, 1, 1e-3], [1, 2, 2], 1.0),
    "c = 1e12": ([8, 5, 4, 2, 1], [1, 1, 1, 1, 1], 1e12),
    "near isotropy": ([1 + 1e-7, 1.0, 1 - 1e-7], [1, 2, 1], 0.3),
    "d = 1000": ([3, 2, 1], [10, 500, 490], 0.1),
}


@pytest.mark.parametrize("case", HARD_LAYER)
def test_layer_bound_is_honest_on_hard_cases(case):
    lam, mult, c = HARD_LAYER[case]
    spec = q.Spectrum(jnp.array(lam, float), jnp.array(mult, float))
    honest(q.layer_slope(spec, c), oracles.layer_slope(lam, mult, c), spec)


@pytest.mark.parametrize(
    ("cond", "c"),
    [
        (1e3, 1e12),
        *(
            pytest.param(*case, marks=SLOW)
            for case in [(1e6, 1.0), (3.0, 0.0), (1e6, 0.0), (1 + 1e-7, 0.5)]
        ),
    ],
)
def test_layer_in_the_plane(cond, c):
    spec = q.Spectrum(jnp.array([cond, 1.0]), jnp.ones(2))
    loss, slope = oracles.plane_layer(cond, 1.0, c)
    honest(q.layer_loss(spec, c), loss, spec)
    honest(q.layer_slope(spec, c), slope, spec)


def test_double_step_fails_where_it_should(monkeypatch):
    """Half the nodes: e^{-pi^2/h} = 3e-9 at d = 1000 is beyond the allowance, and the bound says
    so.
    """
    lam, mult, c, L = HARD_LOOPED["d = 1000, sharpest growth of |f| off the axis"]
    spec = q.Spectrum(jnp.array(lam, float), jnp.array(mult, float))
    _, slope = oracles.looped(lam, mult, c, L)
    widest = (40.0 / 2 + 40.0 / 500 + 13.0) / 32  # the range that the grid really spans here
    monkeypatch.setattr(
        "popgd.papers.power_method.quadrature.looped.node_count", lambda *_: int(widest * 32 / 0.5)
    )
    coarse = jax.jit(lambda x: quadrature.looped_slope(spec, x, L))(c)
    error = abs(abs(float(coarse.value)) / float(slope) - 1)
    assert 1e-12 < error <= float(coarse.log_bound)


def test_outside_the_laid_out_condition_the_bound_says_so():
    spec = q.Spectrum.of([1e4, 1.0])
    assert float(q.layer_slope(spec, 0.0, cond=10.0).log_bound) >= 1.0
    narrow, wide = q.looped_limit(spec, 20, cond=10.0), q.looped_limit(spec, 20)
    assert abs(float(narrow.log - wide.log)) <= float(narrow.log_bound)
    assert float(narrow.log_bound) > LARGEST_BOUND


@SLOW
@pytest.mark.parametrize(("ratio", "L"), [(2.0, 1), (1e6, 1), (2.0, 3), (1e6, 3)])
def test_plane_closed_forms(ratio, L):
    """d = 2: l = k/(1+k), k = ((1+c lam_2)/(1+c lam_1))^L, from mean of k^2 sin^2/(cos^2 + k^2
    sin^2).
    """
    spec = q.Spectrum(jnp.array([ratio, 1.0]), jnp.ones(2))
    a, b = 1 - 1 / ratio, 1 - 1 / ratio**2
    k = ratio**-L
    close(q.looped_limit(spec, L), k / (1 + k), CLOSED)
    close(q.looped_kappa(spec, L), L * k * a / (1 + k) ** 2, CLOSED)
    K2 = L * k / (1 + k) ** 2 * (b - L * a**2 * (1 - k) / (1 + k))
    correction = q.looped_correction(spec, L)
    assert abs(float(correction.value) - K2) <= float(correction.bound) + 1e-14 * abs(K2)
    k = ((1 + 0.3) / (1 + 0.3 * ratio)) ** L
    close(q.looped_loss(spec, 0.3, L), k / (1 + k), CLOSED)
    slope = -L * k * (ratio - 1) / ((1 + 0.3) * (1 + 0.3 * ratio)) / (1 + k) ** 2
    close(q.looped_slope(spec, 0.3, L), slope, CLOSED)
    close(q.layer_C1(spec), (ratio - 1) ** 2 / (ratio * (1 + ratio) ** 2), CLOSED)
    close(q.mean_inverse_square_norm(spec), 1 / ratio, CLOSED)


@pytest.mark.parametrize("lam", [[3.0, 2.0, 1.0], [1e6, 1.0, 1e-2], [1 + 1e-7, 1.0, 1 - 1e-7]])
def test_mean_norm_is_carlson_in_three_dimensions(lam):
    spec = q.Spectrum.of(lam)
    close(q.mean_norm(spec, cond=1e8), elliprg(*np.square(lam)), CLOSED)


@SLOW
def test_norm_excess_agrees_with_the_difference_and_survives_isotropy():
    spec = spectra["B"]
    wanted = q.mean_norm(spec).value - q.moments(spec).mu
    assert abs(float(q.norm_excess(spec).value - wanted)) < 1e-14 * float(q.moments(spec).mu)
    for delta in (1e-3, 1e-7):
        spec = q.Spectrum(jnp.array([1 + delta, 1 - delta]), jnp.ones(2))
        with mp.workdps(40):
            x, y = (mp.mpf(float(v)) for v in spec.lam)
            mean_norm = 2 / mp.pi * x * mp.ellipe(1 - (y / x) ** 2)
            excess, A = mean_norm - (x + y) / 2, (x * x + y * y) / 2
            honest(q.norm_excess(spec), excess, spec)
            honest(q.c_star(spec, "normalised"), excess / A, spec)
            got = q.c_star(
                spec, "unnormalised"
            )  # of these very numbers, whose sum is not 2: no digits are claimed
            assert abs(mp.mpf(float(got.value)) - (1 - (x + y) / 2 / A)) <= float(got.bound)
            honest(q.loss_min(spec, "unnormalised"), 1 - ((x + y) / 2) ** 2 / A, spec)
            loss = oracles.plane_layer(float(x), float(y), 0.0)[0]
            honest(q.loss_min(spec, "normalised"), loss - excess**2 / A, spec)


def near_isotropy(E):
    """Spectra of whole trace, as exact fractions and multiplicities: d = 2, 3 and 5, n = d and n >
    d.
    """
    return (
        ([1 + E, 1 - E], [1, 1]),
        ([1 + E, 1 - 2 * E], [2, 1]),
        ([Fraction(4, 3) + 2 * E, Fraction(4, 3) - E], [1, 2]),
        ([1 + 2 * E, Fraction(1), 1 - E], [1, 2, 2]),
    )


@pytest.mark.parametrize(
    "digits", [3, 7, pytest.param(10, marks=SLOW), pytest.param(12, marks=SLOW)]
)
def test_decimals_that_float64_rounds_are_covered_near_isotropy(digits):
    """y = Sq against exact fractions of the numbers that were meant; tr S = n is known and kept."""
    for lam, mult in near_isotropy(Fraction(1, 10**digits)):
        d = sum(mult)
        mu, A = (sum(k * x**p for x, k in zip(lam, mult, strict=True)) / d for p in (1, 2))
        spec = q.Spectrum(jnp.array([float(x) for x in lam]), jnp.array(mult, float))
        curve = Linear.of(spec, "unnormalised")
        for got, wanted in ((curve.c_star(), 1 - mu / A), (curve.limit(), 1 - mu**2 / A)):
            error = abs(Fraction(float(got.value)) - wanted)
            assert error <= Fraction(float(got.bound)) <= wanted * Fraction(1 + 10**digits, 10**15)
        # Without the trace the rounding of its summands is left, and said
        error = abs(Fraction(float(q.c_star(spec, "unnormalised").value)) - (1 - mu / A))
        assert error <= Fraction(float(q.c_star(spec, "unnormalised").bound))


@pytest.mark.parametrize("digits", [pytest.param(n, marks=SLOW) for n in (3, 7, 10, 12)])
def test_decimals_near_isotropy_for_the_other_curves(digits):
    E = mp.mpf(10) ** -digits
    spec = q.Spectrum(jnp.array([float(1 + E), float(1 - E)]), jnp.ones(2))
    with mp.workdps(40):
        E = mp.mpf(10) ** -digits
        loss, slope = oracles.plane_layer(1 + E, 1 - E, 1.0, 40)
        honest(q.layer_loss(spec, 1.0), loss, spec)
        honest(q.layer_slope(spec, 1.0), slope, spec)
        honest(q.layer_C1(spec), E**2 / (1 - E**2), spec)
        honest(q.looped_slope(spec, 1.0, 1), E / 8, spec)
        honest(q.looped_kappa(spec, 1), E / 2, spec)
        excess = 2 / mp.pi * (1 + E) * mp.ellipe(1 - ((1 - E) / (1 + E)) ** 2) - 1
        honest(q.c_star(spec, "normalised"), excess / (1 + E**2), spec)


def test_isotropy_is_exact():
    spec = q.Spectrum.of([3.0, 3.0, 3.0])
    assert (
        float(q.c_star(spec, "normalised").value)
        == float(q.loss_min(spec, "normalised").value)
        == 0.0
    )
    close(q.c_star(spec, "unnormalised"), 2 / 3, CLOSED)
    with pytest.raises(ValueError, match="every direction is leading"):
        q.looped_loss(spec, 1.0, 2)


@SLOW
def test_slope_is_the_derivative_of_the_loss():
    spec = spectra["A"]
    looped = jax.jit(jax.grad(lambda x: q.looped_loss(spec, x, 3, 10.0).value))
    layer = jax.jit(jax.grad(lambda x: q.layer_loss(spec, x, 10.0).value))
    for c in (0.1, 3.0, 1e3):
        close(q.looped_slope(spec, c, 3), looped(c), AUTODIFF)
        close(q.layer_slope(spec, c), layer(c), AUTODIFF)


def test_slope_is_the_finite_difference_at_large_c():
    """In 1/c, with 40 digits: (l(u + h) - l(u - h))/2h = -c^2 l'."""
    lam, mult = [8, 5, 4, 2, 1], [1] * 5
    u, h = 2.0**-40, 2.0**-60
    up, down = (oracles.looped(lam, mult, 1 / x, 3, digits=50)[0] for x in (u + h, u - h))
    got = float(q.looped_slope(spectra["A"], 1 / u, 3).value)
    assert abs(got / float(-(up - down) / (2 * mp.mpf(h)) * mp.mpf(u) ** 2) - 1) < 1e-11


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW) for name in "AB"])
def test_corrections_are_the_next_order(name):
    """Richardson: (kappa + c^2 l') c and (C1 + c^3 l') c extrapolated from c and 2c; the rest is
    O(1/c^2).
    """
    spec, L = spectra[name], REFERENCE[name]["loops_L"]
    kappa, C1 = float(q.looped_kappa(spec, L).value), float(q.layer_C1(spec).value)

    def looped(c):
        return (kappa + c**2 * float(q.looped_slope(spec, c, L).value)) * c

    def layer(c):
        return (C1 + c**3 * float(q.layer_slope(spec, c).value)) * c

    c = 3e3
    assert (
        abs((2 * looped(2 * c) - looped(c)) / float(q.looped_correction(spec, L).value) - 1) < 1e-5
    )
    assert abs((2 * layer(2 * c) - layer(c)) / float(q.layer_correction(spec).value) - 1) < 1e-5
    assert abs(2 * float(q.layer_loss(spec, 1e8).value) * 1e16 / C1 - 1) < 1e-6
    assert (
        abs(float(q.looped_loss(spec, 1e12, L).value / q.looped_limit(spec, L).value) - 1) < 1e-12
    )


@pytest.mark.slow
def test_layer_loss_at_zero_is_the_mean_cosine():
    for spec in spectra.values():
        wanted = 2 - 2 * float(q.mean_cosine(spec).value)
        close(
            q.layer_loss(spec, 0.0), wanted, 2e-14
        )  # worst seen 3e-15: two digits lost in the difference


@SLOW
def test_order_and_grouping_of_eigenvalues():
    a, b = q.Spectrum.of([2, 6, 4, 6, 2.0]), q.Spectrum.of([6, 6, 4, 2, 2.0])
    assert all(bool((x == y).all()) for x, y in zip(a, b, strict=True))
    merged, split = q.Spectrum.of([6, 6, 4, 2, 2.0]), q.Spectrum.of([6, 6, 4, 2, 2 * (1 + 1e-8)])
    assert merged.lam.size == 3 and split.lam.size == 4
    for f in (
        lambda s: q.looped_slope(s, 2.0, 2),
        lambda s: q.layer_slope(s, 2.0),
        q.mean_norm,
        q.layer_correction,
    ):
        assert abs(float(f(split).value / f(merged).value) - 1) < 1e-7
    with pytest.raises(ValueError, match="finite positive"):
        q.Spectrum.of([1.0, -1.0])


@SLOW
def test_vmap_and_gradient_in_the_spectrum():
    c = jnp.array([0.0, 1.0, 1e12])
    batch = q.Spectrum(jnp.array([[8.0, 5, 1], [9.0, 2, 1e-3]]), jnp.ones((2, 3)))
    out = jax.jit(jax.vmap(lambda s: jax.vmap(lambda x: q.looped_slope(s, x, 3))(c)))(batch)
    one = q.looped_slope(jax.tree.map(lambda x: x[1], batch), c[1], 3)
    assert out.value.shape == (2, 3) and abs(float(out.value[1, 1] / one.value) - 1) < 1e-14
    spec = spectra["A"]
    grad = jax.jit(jax.grad(lambda lam: q.layer_C1(spec._replace(lam=lam)).value))(spec.lam)
    assert (
        abs(float(grad @ spec.lam) / float(q.layer_C1(spec).value) + 2) < 1e-12
    )  # homogeneous of degree -2


def test_gamma_ratio():
    from popgd.papers.power_method.quadrature.moments import gamma_ratio

    for x in (0.5, 1.0, 2.5, 50.0, 500.0, 1e5):
        wanted = mp.gammaprod([mp.mpf(x) + 0.5], [mp.mpf(x)])
        assert abs(float(gamma_ratio(jnp.asarray(x))) / float(wanted) - 1) < 4e-15


def test_aliasing_bound_uses_the_modulus():
    """|1 + i e^x| at the nodes, against complex arithmetic."""
    x = jnp.linspace(-30.0, 30.0, 7)
    terms = trapezoid._modulus(x)
    assert np.allclose(np.exp(terms.soft), np.abs(1 + 1j * np.exp(x)), rtol=1e-14)
    assert np.allclose(terms.y * np.exp(terms.soft), 1.0, rtol=1e-14)
