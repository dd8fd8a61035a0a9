"""Exact moments by other programs: those of O(d) by haarpy, Gaussian ones by thewalrus."""

from fractions import Fraction
from itertools import product

import haarpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from popgd import symmetry
from popgd.papers.in_context import wishart
from popgd.papers.power_method import quadrature
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.quadrature import Spectrum
from popgd.problem.law import haar
from popgd.symmetry.averages import averaged

KEY = jax.random.key(0)
#: Pairs of places (i, j) of the entries O_ij whose product is averaged.
PRODUCTS = (
    (((0, 0), (0, 0)),),
    (((0, 0),) * 4,),
    (((0, 0), (0, 0), (1, 1), (1, 1)),),
    (((0, 0), (0, 1), (1, 0), (1, 1)),),
    (((0, 0), (0, 0), (0, 1), (0, 1)),),
    (((0, 0),) * 6,),
    (((0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 0)),),
)


def of_haar(places, d):
    """E of the product of the entries O_ij of a random O in O(d)."""
    rows, columns = zip(*places, strict=True)
    return Fraction(str(haarpy.haar_integral_orthogonal((rows, columns), d)))


@pytest.mark.parametrize("places", [p for (p,) in PRODUCTS])
def test_haar_draws_have_the_moments_of_haarpy(places):
    d, count = 4, 2**17
    O = np.asarray(jax.jit(jax.vmap(haar))(jax.random.normal(KEY, (count, d, d))))
    values = np.prod([O[:, i, j] for i, j in places], axis=0)
    error = values.std() / count**0.5
    assert abs(values.mean() - float(of_haar(places, d))) < 5 * error
    assert error < 0.01


@pytest.mark.parametrize("lam", [(8.0, 5.0, 4.0, 2.0, 1.0), (3.0, 1.0), (2.5, 2.5, 1.0)])
def test_the_mean_square_of_the_power_step(lam):
    """A = E||Sq||^2 and mu = E q.Sq, with S = O diag(lam) O^T and q = O' e: entries of O alone."""
    d = len(lam)
    second = [of_haar(((k, 0), (k, 0)), d) for k in range(d)]
    found = quadrature.moments(Spectrum.of(np.array(lam)))
    A = float(sum(Fraction(x) ** 2 * m for x, m in zip(lam, second, strict=True)))
    mu = float(sum(Fraction(x) * m for x, m in zip(lam, second, strict=True)))
    np.testing.assert_allclose([found.A, found.mu], [A, mu], rtol=1e-15)


def test_the_law_of_rotated_columns():
    """E S_ij S_kl of S = O diag(lam) O^T, by the samples that the power method draws."""
    lam, d, count = (3.0, 2.0, 1.0), 3, 2**16
    law = Rotated.with_spectrum(list(lam))
    draw = lambda key: law.sample(key, jnp.dtype(float)).X
    X = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(KEY, count)))
    S = X @ X.swapaxes(1, 2)
    for i, j, k, m in ((0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 0, 1), (0, 1, 1, 2)):
        exact = sum(
            Fraction(lam[a]) * Fraction(lam[b]) * of_haar(((i, a), (j, a), (k, b), (m, b)), d)
            for a, b in product(range(d), repeat=2)
        )
        values = S[:, i, j] * S[:, k, m]
        assert abs(values.mean() - float(exact)) < 5 * values.std() / count**0.5


def test_an_average_over_rotations():
    """rho A rho^T averaged, rho acting on a vector: trace A/d, as haarpy's second moments say."""
    d = 3
    turning = symmetry.rotations("O(3)", d, lambda O, w: O @ w)
    A = np.asarray(jax.random.normal(KEY, (d, d)))
    found = averaged([turning], jnp.zeros(d), A, KEY, matrix=True)
    exact = [
        [
            sum(
                A[k, m] * float(of_haar(((i, k), (j, m)), d))
                for k, m in product(range(d), repeat=2)
            )
            for j in range(d)
        ]
        for i in range(d)
    ]
    np.testing.assert_allclose(found, exact, atol=1e-10)


@pytest.mark.parametrize(("n", "d", "k"), [(1, 2, 3), (2, 2, 3), (3, 2, 2), (2, 3, 2)])
def test_wishart_moments_are_hafnians(n, d, k):
    """E tr (X X^T)^k, X of n Gaussian columns: each product of entries has the hafnian of its
    covariance for mean (Isserlis).
    """
    hafnian = pytest.importorskip("thewalrus").hafnian
    total = 0.0
    for rows in product(range(d), repeat=k):
        for columns in product(range(n), repeat=k):
            entries = [
                place
                for at, column in enumerate(columns)
                for place in ((rows[at], column), (rows[(at + 1) % k], column))
            ]
            covariance = [[float(one == other) for other in entries] for one in entries]
            total += np.real(hafnian(np.array(covariance)))
    assert round(total) == pytest.approx(total, abs=1e-9)
    assert wishart.moments(n, d, k)[k] == Fraction(round(total), d * n**k)
