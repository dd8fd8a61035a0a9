"""Chebyshev series against polynomials."""

import jax.numpy as jnp
import numpy as np
import pytest

from popgd.descent import chebyshev

#: Of a sum of a dozen terms of size 1 (measured 4e-16).
ROUNDING = 1e-14


@pytest.mark.parametrize("degree", [1, 7, 24])
def test_a_polynomial_of_the_degree_is_fitted_and_one_of_the_next_is_not(degree):
    nodes, transform = chebyshev.points(degree)
    x = jnp.linspace(-1, 1, 31)
    for power, exact in ((degree, True), (degree + 1, False)):
        terms = transform @ np.cos(power * np.arccos(nodes))
        found = chebyshev.clenshaw(lambda n, terms=terms: terms[n], degree + 1, x)
        gap = np.max(np.abs(found - np.cos(power * np.arccos(x))))
        assert gap < ROUNDING * (degree + 1) if exact else gap > 0.5


def test_terms_may_be_arrays():
    terms = np.random.default_rng(0).normal(size=(5, 2, 3))
    found = chebyshev.clenshaw(lambda n: terms[n], 5, jnp.asarray(0.3))
    wanted = np.polynomial.chebyshev.chebval(0.3, terms)
    assert found == pytest.approx(wanted, abs=ROUNDING)
