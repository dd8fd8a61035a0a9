"""The loss on the line a I: moments, a*, the least loss, free step sizes and the Hessian, each by a
second route.
"""

from fractions import Fraction
from itertools import pairwise, product
from math import comb, prod

import mpmath
import numpy as np
import pytest

from popgd.papers.in_context import wishart as w
from popgd.problem.numeric import whole

pytestmark = pytest.mark.slow  # the default suite is for what theorems use

SAME = 1e-15  # both numbers are right to the last bit or two
REFERENCE = (
    1e-13  # Gauss-Hermite sums: 5e-15 measured, more where the loss is small against its terms
)
LIMIT = 1e-5  # corrections of relative size d^2/n at n = 10^7
# (d, n, L): a*, least loss; from another implementation
LEAST = {
    (5, 50, 1): (0.8928571428571429, 0.5357142857142857),
    (5, 50, 2): (0.8786067690804943, 0.1179363695487382),
    (5, 50, 3): (0.8637515118477837, 0.03413262592086276),
    (5, 50, 4): (0.8483390340081442, 0.01168557341803926),
}


def gauss_hermite(d: int, n: int, degree: int):
    """Nodes X (N, d, n) and weights (N,) exact for polynomials of that degree in each entry of
    X.
    """
    x, weight = np.polynomial.hermite_e.hermegauss(degree // 2 + 1)
    nodes = np.array(list(product(x, repeat=d * n))).reshape(-1, d, n)
    return nodes, np.array([prod(row) for row in product(weight / weight.sum(), repeat=d * n)])


def full_loss(d: int, n: int, L: int, A: np.ndarray):
    """E ||(I - S A)^L||_F^2 for any matrix A, as the polynomial in the entries of A that it is (no
    conjugate).
    """
    X, weight = gauss_hermite(d, n, 4 * L)
    step = np.eye(d) - X @ X.swapaxes(1, 2) / n @ A
    G = np.linalg.matrix_power(step, L)
    return weight @ (G * G).sum(axis=(1, 2))


def second_derivative(d: int, n: int, L: int, a: float, K: np.ndarray) -> float:
    """d^2/de^2 of the loss at aI + eK: 2 times a coefficient of a polynomial in e, from its values
    on a circle.
    """
    turns = np.exp(2j * np.pi * np.arange(2 * L + 1) / (2 * L + 1))
    return 2 * np.mean([full_loss(d, n, L, a * np.eye(d) + e * K) / e**2 for e in turns]).real


@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 5), (7, 3), (50, 5), (10**14, 4)])
def test_first_moments(n, d):
    m3 = Fraction(n**2 + 3 * n * (d + 1) + d**2 + 3 * d + 4, n**2)
    assert w.moments(n, d, 3) == (1, 1, Fraction(n + d + 1, n), m3)


@pytest.mark.parametrize("n", [1, 4, 10**14])
def test_moments_of_one_feature_are_those_of_chi_squared(n):
    assert w.moments(n, 1, 12) == tuple(
        Fraction(prod(n + 2 * i for i in range(k)), n**k) for k in range(13)
    )


@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 2), (2, 3)])
def test_moments_by_enumeration(n, d):
    X, weight = gauss_hermite(d, n, 8)
    eigenvalues = np.linalg.eigvalsh(X @ X.swapaxes(1, 2) / n)
    for k, m in enumerate(w.moments(n, d, 4)):
        mean = weight @ np.mean(eigenvalues**k, axis=1)
        assert abs(mean / float(m) - 1) < REFERENCE
        assert k < 2 or abs(mean / float(w.moments(n + 1, d, 4)[k]) - 1) > 0.05


@pytest.mark.parametrize("n", [1, 2, 9])
def test_moments_are_symmetric_in_n_and_d(n):
    """tr (X X^T)^k = tr (X^T X)^k, which the recursion does not know."""
    m, turned = w.moments(n, 4, 9), w.moments(4, n, 9)
    assert all(4 * m[k] * n**k == n * turned[k] * 4**k for k in range(1, 10))


@pytest.mark.parametrize(("d", "n", "L"), LEAST)
def test_least_loss_reference(d, n, L):
    a, least = LEAST[d, n, L]
    assert abs(w.a_star(n, d, L) / a - 1) < SAME
    assert abs(w.least_loss(n, d, L) / least - 1) < SAME
    assert abs(w.least_loss(n + 1, d, L) / least - 1) > 1e-2


@pytest.mark.filterwarnings("ignore:Descending")  # of newer versions of mpmath
@pytest.mark.parametrize("n", [1, 50, 10**7, 10**14])
@pytest.mark.parametrize("L", [1, 2, 4])
def test_minimum_against_mpmath(n, L):
    """The roots of the slope by another method and in another arithmetic."""
    d = 6
    with mpmath.workdps(100 * L):
        m = [mpmath.mpf(x.numerator) / x.denominator for x in w.moments(n, d, 2 * L)]
        slope = [comb(2 * L - 1, j) * (-1) ** j * m[j + 1] for j in range(2 * L)]
        [a] = [
            mpmath.re(z)
            for z in mpmath.polyroots(slope[::-1], 200, extraprec=400)
            if abs(mpmath.im(z)) < 1e-20
        ]
        least = d * sum(comb(2 * L, j) * (-a) ** j * x for j, x in enumerate(m))
        assert w.a_star(n, d, L) == float(a) < 1
        assert abs(w.least_loss(n, d, L) / float(least) - 1) < SAME
        exact = w.minimiser(n, d, L)
        assert abs((1 - mpmath.mpf(exact.numerator) / exact.denominator) / (1 - a) - 1) < 1e-30


@pytest.mark.parametrize("d", [1, 5, 10])
def test_one_loop(d):
    assert all(w.a_star(n, d, 1) == n / (n + d + 1) for n in (1, 50, 10**7))
    assert abs(w.least_loss(50, d, 1) / (d * (d + 1) / (50 + d + 1)) - 1) < SAME


@pytest.mark.parametrize("d", [1, 2, 5, 10])
def test_limits_of_large_n(d):
    limits = [d**2 + d, 2 * d**3 + 5 * d**2 + 5 * d, 5 * d**4 + 22 * d**3 + 52 * d**2 + 41 * d]
    for n, tolerance in ((10**7, LIMIT * (1 + d**2 / 10)), (10**14, 1e-10)):
        for L, limit in enumerate(limits, 1):
            assert abs(w.least_loss(n, d, L) * float(n) ** L / limit - 1) < tolerance
        for L, kappa in ((1, d + 1), (2, (3 * d**2 + 8 * d + 9) / (3 * (d + 1)))):
            assert abs(float(1 - w.minimiser(n, d, L)) * n / kappa - 1) < tolerance
    assert abs(1e7 * (1 - w.a_star(10**7, d, 2)) / kappa - 1) < LIMIT * (1 + d**2 / 10)


@pytest.mark.parametrize("L", [1, 2, 3])
def test_proportional_limit(L):
    """n = 4d: a* -> 1/(1 + d/n), with an error in 1/d."""
    error = [abs(w.a_star(4 * d, d, L) - 0.8) for d in (10, 40, 160)]
    assert all(abs(coarse / fine / 4 - 1) < 0.15 for coarse, fine in pairwise(error))


@pytest.mark.parametrize(("d", "n", "L", "ratio"), [(10, 1000, 2, 1.8737), (40, 4000, 3, 4.6419)])
def test_looped_over_unlooped(d, n, L, ratio):
    assert abs(w.least_loss(n, d, L) / w.unlooped(n, d, L) / ratio - 1) < 1e-4
    assert w.unlooped(n, d, 1) == w.least_loss(n, d, 1)


def test_ratio_tends_to_the_catalan_numbers():
    for L, catalan in ((2, 2), (3, 5)):
        ratio = [w.least_loss(10**9, d, L) / w.unlooped(10**9, d, L) for d in (50, 200)]
        assert abs(ratio[1] / catalan - 1) < 0.05 < abs(ratio[0] / catalan - 1) * 6
        assert abs(ratio[1] - catalan) < abs(ratio[0] - catalan) / 3


@pytest.mark.parametrize(("n", "d", "L"), [(3, 2, 2), (2, 2, 3)])
def test_unlooped_by_least_squares(n, d, L):
    """min over c of E ||I + sum_k c_k S^k||^2 as a least-squares problem over the nodes."""
    X, weight = gauss_hermite(d, n, 4 * L)
    s = np.linalg.eigvalsh(X @ X.swapaxes(1, 2) / n)
    rows = np.sqrt(np.repeat(weight, d))
    powers = np.stack([s.ravel() ** k * rows for k in range(1, L + 1)], axis=1)
    residual = rows + powers @ np.linalg.lstsq(powers, -rows, rcond=None)[0]
    assert (
        abs(residual @ residual / w.unlooped(n, d, L) - 1) < 1e-11
    )  # the powers of s are nearly dependent


def test_loss_on_the_line():
    assert w.isotropic_loss(50, 5, 3, 0.0) == 5 and w.isotropic_loss(
        50, 5, 3, w.a_star(50, 5, 3)
    ) == w.least_loss(50, 5, 3)
    for d, n, L in ((2, 2, 2), (1, 4, 3)):
        assert (
            abs(full_loss(d, n, L, 0.7 * np.eye(d)) / w.isotropic_loss(n, d, L, 0.7) - 1)
            < REFERENCE
        )
    s = np.random.default_rng(0).chisquare(20, size=400_000) / 20
    sample = (1 - 0.9 * s) ** 4
    assert abs(sample.mean() - w.isotropic_loss(20, 1, 2, 0.9)) < 4.5 * sample.std() / len(s) ** 0.5


def test_mean_error_over_test_loops_falls_then_grows():
    n, d, a = 50, 10, w.a_star(50, 10, 2)
    error = [w.isotropic_loss(n, d, T, a) for T in range(1, 31)]
    assert np.argmin(error) == 7  # T = 8
    assert (np.diff(error)[:7] < 0).all() and (np.diff(error)[7:] > 0).all() and error[-1] > d


HESSIANS = {2: (1.302411, 0.893487, -0.026936), 3: (0.679627, 0.388008, -0.023518)}


@pytest.mark.parametrize("L", HESSIANS)
def test_hessian_reference(L):
    assert np.allclose(w.hessian(50, 5, L, w.a_star(50, 5, L)), HESSIANS[L], rtol=0, atol=6e-7)
    assert np.allclose(w.hessian(50, 5, 1, 0.3), 2 * (50 + 5 + 1) / 50, rtol=SAME)


@pytest.mark.parametrize(
    ("d", "n", "L", "a"),
    [(2, 3, 2, 0.4), (3, 2, 2, 0.5), (2, 2, 3, 0.3), (3, 1, 2, 1.0), (2, 2, 1, 1)],
)
def test_hessian_against_the_full_matrix(d, n, L, a):
    """Directions that are neither symmetric nor antisymmetric; its twin takes h_sym for h_asym."""
    h = w.hessian(n, d, L, a)
    for seed in range(2):
        K = np.random.default_rng(seed).normal(size=(d, d))
        K /= np.linalg.norm(K)
        trace, symmetric, turned = (
            np.trace(K) ** 2 / d,
            ((K + K.T) ** 2).sum() / 4,
            ((K - K.T) ** 2).sum() / 4,
        )
        measured = second_derivative(d, n, L, a, K)
        assert (
            abs(h.h_tr * trace + h.h_sym * (symmetric - trace) + h.h_asym * turned - measured)
            < REFERENCE * measured
        )
        assert (
            L == 1
            or abs(h.h_tr * trace + h.h_sym * (symmetric + turned - trace) - measured)
            > 1e-2 * measured
        )


@pytest.mark.parametrize("n", [50, 10**14])
@pytest.mark.parametrize("L", [1, 2, 5])
def test_trace_direction_is_the_second_derivative_on_the_line(n, L):
    a, d = Fraction(7, 8), 4
    m = w.moments(n, d, 2 * L)
    second = (
        2
        * L
        * (2 * L - 1)
        * sum(comb(2 * L - 2, j) * (-a) ** j * m[j + 2] for j in range(2 * L - 1))
    )
    assert abs(w.hessian(n, d, L, a).h_tr / float(second) - 1) < SAME


@pytest.mark.parametrize(("d", "first"), [(2, 15), (3, 20), (5, 31), (10, 78)])
def test_saddle_from_some_n_on(d, first):
    """h_asym at a* is positive below and negative from there on."""
    asym = lambda n: w.hessian(n, d, 2, w.a_star(n, d, 2)).h_asym
    assert all(asym(n) > 0 for n in (*range(1, first, 4), first - 1))
    assert all(asym(n) < 0 for n in (first, first + 1, 2 * first, 10**3, 10**7, 10**14))


def test_growth_along_an_antisymmetric_direction():
    assert abs(1 - 0.5 * w.hessian(100, 4, 2, w.a_star(100, 4, 2)).h_asym - 1.014235) < 6e-7


@pytest.mark.parametrize("function", [w.a_star, w.least_loss, w.unlooped])
def test_numbers_that_are_refused(function):
    for arguments in ((0, 5, 2), (50, 0, 2), (50, 5, 0), (50, 5, 51), (50, -1, 2)):
        with pytest.raises(ValueError, match="wanted"):
            function(*arguments)


def test_other_refusals():
    for value in (1e7, "7", None, 2.5, True):
        with pytest.raises(ValueError, match=r"got n = .*, wanted a whole number"):
            whole(n=value)
    assert whole(n=np.int64(7), L=3) == [7, 3] and type(whole(n=np.int64(7))[0]) is int
    for a in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"):
            w.isotropic_loss(50, 5, 2, a)
    with pytest.raises(ValueError, match="d = 1, wanted a whole number >= 2"):
        w.hessian(50, 1, 2, 0.5)
    with pytest.raises(ValueError, match="at most 100"):
        w.moments(50, 5, 101)
    with pytest.raises(ValueError, match="outside the range of float64"):
        w.isotropic_loss(50, 5, 2, 1e200)
    with pytest.raises(ValueError, match="outside the range of float64"):
        w.least_loss(10**150, 5, 3)


def test_deviation_of_a_prompt():
    """d = 1: E (w x (1 - a s)^L)^4 = 9 E (1 - a s)^{4L}; at a = 0 it is 3 (1 + 2/d) of d^2."""
    for n, L, a in ((1, 1, 0.4), (7, 2, 0.8)):
        wanted = 9 * w.isotropic_loss(n, 1, 2 * L, a) / w.isotropic_loss(n, 1, L, a) ** 2 - 1
        assert w.deviation(n, 1, L, a) == pytest.approx(wanted**0.5, rel=1e-14, abs=0)
    assert w.deviation(9, 4, 3, 0.0) == pytest.approx((3 * 1.5 - 1) ** 0.5, rel=1e-15, abs=0)
