"""The polynomial of the loss: against quadrature over every matrix, the line, one feature and Monte
Carlo; descent.
"""

from fractions import Fraction
from functools import partial
from math import comb, prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from popgd.papers.in_context import wishart as line
from popgd.papers.in_context import wishart_loss as w
from popgd.papers.in_context import wishart_words as words

pytestmark = (
    pytest.mark.slow
)  # half a minute of compiling; the exact arithmetic beneath is in test_wishart.py

SIGMAS = 4.5  # two-sided false alarm 7e-6
REFERENCE = 1e-12  # Gauss-Hermite sums over 10^5 nodes; 1e-13 measured
SAME = 1e-12  # two orders of the same float64 operations, where terms cancel at most 100-fold
LIMIT = (
    1e-3  # corrections of relative size 1/n and, late in the flow, d/(n b^2) for b = 1 - eigenvalue
)
ARRIVED = 1e-8

# Compiled whole, quicker than operation by operation.
loss, gradient, rounding, loss_with_covariance = map(
    jax.jit, (w.loss, w.gradient, w.rounding, w.loss_with_covariance)
)


def gauss_hermite_loss(d: int, n: int, L: int, A: np.ndarray) -> float:
    """E ||(I - S A)^L||_F^2 for any matrix A: a polynomial of degree 4L in each of the d n normal
    variables.
    """
    x, weight = np.polynomial.hermite_e.hermegauss(2 * L + 1)
    X = np.stack(np.meshgrid(*[x] * (d * n)), axis=-1).reshape(-1, d, n)
    weights = (
        np.stack(np.meshgrid(*[weight / weight.sum()] * (d * n)), axis=-1)
        .reshape(-1, d * n)
        .prod(axis=1)
    )
    G = np.linalg.matrix_power(np.eye(d) - X @ X.swapaxes(1, 2) / n @ A, L)
    return weights @ (G**2).sum(axis=(1, 2))


def symmetric(d: int, seed: int = 0, size: float = 0.4) -> np.ndarray:
    A = np.random.default_rng(seed).normal(size=(d, d)) * size
    return (A + A.T) / 2 + 0.5 * np.eye(d)


def rotation(d: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def exact_loss(n: int, L: int, A: np.ndarray, centre: Fraction | float = 1) -> Fraction:
    """The exact polynomial at the floats of A, without rounding."""
    d = len(A)
    terms = w.exact_polynomial(n, d, L, centre)
    E = [
        [(Fraction(centre) if i == j else 0) - Fraction(A[i, j]) for j in range(d)]
        for i in range(d)
    ]
    power, q = [[Fraction(i == j) for j in range(d)] for i in range(d)], []
    for _ in range(2 * L + 1):
        q.append(sum(power[i][i] for i in range(d)))
        power = [[sum(row[k] * E[k][j] for k in range(d)) for j in range(d)] for row in power]
    return sum((factor * prod(q[k] for k in word) for word, factor in terms.items()), Fraction(0))


@pytest.mark.parametrize(
    ("d", "n", "L"),
    [(2, 1, 1), (3, 2, 1), (2, 3, 2), (3, 2, 2), (2, 2, 3), (4, 1, 2), (2, 2, 4), (2, 1, 5)],
)
def test_polynomial_against_quadrature(d, n, L):
    A = symmetric(d)
    wanted = gauss_hermite_loss(d, n, L, A)
    assert abs(exact_loss(n, L, A) / wanted - 1) < REFERENCE
    assert abs(exact_loss(n + 1, L, A) / wanted - 1) > 0.05


@pytest.mark.parametrize("dropped", [0, 1, 2, 5])
def test_a_term_less_in_the_recursion_is_seen(monkeypatch, dropped):
    """Twin of the test before: the words of three W and more lose one term."""
    whole = words._by_parts

    def mutant(word, others, turned):
        terms = list(whole(word, others, turned))
        return terms if len(terms) < 6 else terms[:dropped] + terms[dropped + 1 :]

    monkeypatch.setattr(words, "_by_parts", mutant)
    w._in_power_sums.cache_clear()
    A = symmetric(2)
    got = exact_loss(3, 2, A)
    w._in_power_sums.cache_clear()
    assert abs(got / gauss_hermite_loss(2, 3, 2, A) - 1) > 1e-2


@pytest.mark.parametrize("L", [1, 2, 3, 4, 5])
def test_polynomial_on_the_line(L):
    """Fractions on both sides; the other recursion knows only traces of powers of S."""
    for n, d, a, centre in ((3, 4, Fraction(1, 3), 1), (10**14, 7, Fraction(9, 10), 0.625)):
        terms = w.exact_polynomial(n, d, L, centre)
        b = Fraction(centre) - a
        assert sum(
            factor * prod(d * b**k for k in word) for word, factor in terms.items()
        ) == line._on_the_line(n, d, L, a)


@pytest.mark.parametrize("L", [1, 2, 3, 4])
def test_one_feature(L):
    """(1 - a s)^{2L} with the moments of chi squared."""
    n, a = 6, Fraction(4, 7)
    terms = w.exact_polynomial(n, 1, L)
    moment = [Fraction(prod(n + 2 * i for i in range(j)), n**j) for j in range(2 * L + 1)]
    wanted = sum(comb(2 * L, j) * (-a) ** j * moment[j] for j in range(2 * L + 1))
    assert (
        sum(factor * prod((1 - a) ** k for k in word) for word, factor in terms.items()) == wanted
    )


def test_number_of_terms_and_one_loop():
    assert [len(w.exact_polynomial(50, 5, L)) for L in range(1, 6)] == [3, 11, 29, 66, 138]
    n, d = 50, 5
    assert w.exact_polynomial(n, d, 1) == {
        (): Fraction(d * (d + 1), n),
        (1,): Fraction(-2 * (d + 1), n),
        (2,): 1 + Fraction(d + 1, n),
    }


@pytest.mark.parametrize("L", [1, 2, 3, 4])
def test_about_a_star(L):
    """The constant is the least loss, the slope is 0, and the second order holds two numbers of the
    Hessian.
    """
    n, d = 50, 5
    a = line.a_star(n, d, L)
    terms = w.exact_polynomial(n, d, L, a)
    h = line.hessian(n, d, L, a)
    assert abs(float(terms[()]) / line.least_loss(n, d, L) - 1) < 1e-15
    assert abs(terms[1,]) < 1e-15 * h.h_tr  # a* is rounded
    assert abs(2 * float(terms[2,]) / h.h_sym - 1) < 1e-15
    assert abs(2 * float(terms[2,] + d * terms.get((1, 1), 0)) / h.h_tr - 1) < 1e-15


@pytest.mark.parametrize(("d", "n", "L"), [(2, 6, 2), (3, 40, 3)])
def test_polynomial_against_monte_carlo(d, n, L):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60_000, d, n))
    A = symmetric(d)
    G = np.linalg.matrix_power(np.eye(d) - X @ X.swapaxes(1, 2) / n @ A, L)
    sample = (G**2).sum(axis=(1, 2))
    stderr = sample.std() / len(X) ** 0.5
    assert abs(sample.mean() - exact_loss(n, L, A)) < SIGMAS * stderr
    assert abs(sample.mean() - exact_loss(n + 9, L, A)) > 2 * SIGMAS * stderr


@pytest.mark.parametrize("L", [2, 3, 4])
@pytest.mark.parametrize("n", [2, 40, 10**14])
def test_rounding_bound_is_honest(n, L):
    d = 3
    polynomial, centre = w.polynomial(n, d, L), line.a_star(n, d, L)
    for A in (symmetric(d), symmetric(d, 1, 2.0), np.zeros((d, d)), centre * np.eye(d), np.eye(d)):
        error = abs(float(Fraction(float(loss(polynomial, jnp.asarray(A)))) - exact_loss(n, L, A)))
        bound = float(rounding(polynomial, jnp.asarray(A)))
        assert error <= bound < 1e-12 * float(loss(polynomial, jnp.asarray(A)))
    assert abs(float(loss(polynomial, centre * jnp.eye(d))) / line.least_loss(n, d, L) - 1) < 1e-15


def test_gradient_of_one_loop():
    n, d = 50, 3
    A = symmetric(d)
    wanted = 2 * ((n + d + 1) / n * A - np.eye(d))
    got = gradient(w.polynomial(n, d, 1), jnp.asarray(A))
    assert np.allclose(got, wanted, rtol=0, atol=1e-14)
    assert not np.allclose(
        gradient(w.polynomial(n + 1, d, 1), jnp.asarray(A)), wanted, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(("d", "n", "L"), [(3, 2, 2), (3, 1, 3)])
def test_gradient_over_all_matrices(d, n, L):
    """d/de at A + e K for a K that is not symmetric, as a coefficient of a polynomial in e."""
    A, K = symmetric(d), np.random.default_rng(3).normal(size=(d, d))
    turns = 0.5 * np.exp(2j * np.pi * np.arange(2 * L + 1) / (2 * L + 1))
    got = float(jnp.sum(gradient(w.polynomial(n, d, L), jnp.asarray(A)) * K))
    assert (
        abs(got / np.mean([gauss_hermite_loss(d, n, L, A + e * K) / e for e in turns]).real - 1)
        < REFERENCE
    )


@pytest.mark.parametrize("L", [2, 3])
def test_eigenvalues_are_a_system_of_their_own(L):
    d, R = 3, rotation(3)
    a = jnp.array([0.1, 0.5, 1.2])
    A = jnp.asarray((R * np.asarray(a)) @ R.T)
    polynomial = w.polynomial(30, d, L)
    assert abs(loss(polynomial, A) / loss(polynomial, a) - 1) < SAME
    G = gradient(polynomial, A)
    assert (G == G.T).all()
    assert np.allclose(
        R.T @ G @ R, np.diag(gradient(polynomial, a)), rtol=0, atol=SAME * float(abs(G).max())
    )


def test_jit_vmap_and_one_program_for_every_n():
    many = [w.polynomial(n, 3, 2) for n in (10, 50, 10**7)]
    A = jnp.stack([jnp.asarray(symmetric(3, seed)) for seed in range(3)])
    traces = []
    compiled = jax.jit(lambda polynomial, A: traces.append(A) or w.loss(polynomial, A))
    each = [float(compiled(polynomial, A[i])) for i, polynomial in enumerate(many)]
    assert len(traces) == 1
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    assert np.allclose(jax.jit(jax.vmap(w.loss))(together, A), each, rtol=SAME)
    assert np.allclose(jax.jit(jax.vmap(partial(w.loss, many[1])))(A)[1], each[1], rtol=SAME)


@jax.jit
def descend(polynomial, A, root, eta, steps):
    slope = jax.grad(w.loss_with_covariance, argnums=1)
    return jax.lax.fori_loop(0, steps, lambda _, A: A - eta * slope(polynomial, A, root), A)


def test_descent_reference():
    """d = 5, n = 50, L = 3, eta = 0.02 from 0; any rotation of the covariance gives the same
    losses.
    """
    R = rotation(5)
    root = w.square_root((R * np.array([2, 1.5, 1, 0.75, 0.5])) @ R.T)
    polynomial, zero = w.polynomial(50, 5, 3), jnp.zeros((5, 5))
    for steps, wanted in (
        (0, 5),
        (10, 0.6947791961),
        (100, 0.09610652229),
        (1000, 0.03453689135),
        (5000, 0.03413262594),
    ):
        got = loss_with_covariance(polynomial, descend(polynomial, zero, root, 0.02, steps), root)
        assert abs(float(got) / wanted - 1) < 2e-10  # ten digits are known
    wrong = loss_with_covariance(
        polynomial, descend(polynomial, zero, jnp.eye(5), 0.02, 100), jnp.eye(5)
    )
    assert abs(float(wrong) / 0.09610652229 - 1) > 1e-2


@pytest.mark.parametrize("L", [2, 3])
def test_descent_among_symmetric_matrices_ends_at_a_star(L):
    d, n, R = 5, 60, rotation(5)
    root = w.square_root((R * np.array([1.5, 1.2, 1, 0.8, 0.7])) @ R.T)
    polynomial = w.polynomial(n, d, L)
    for start in (
        jnp.zeros((d, d)),
        jnp.asarray(symmetric(d, 2, 0.2)),
        jnp.asarray(symmetric(d, 5, 0.3)),
    ):
        A = descend(polynomial, start, root, 0.1, 20_000)
        assert abs(root @ A @ root - line.a_star(n, d, L) * jnp.eye(d)).max() < ARRIVED


@pytest.mark.parametrize("n", [50, 10**14])
def test_gradient_with_covariance(n):
    Sigma, A = symmetric(3, 7) + 2 * np.eye(3), symmetric(3, 8)
    root = w.square_root(Sigma)
    assert (
        np.allclose(root @ root, Sigma, rtol=0, atol=1e-14) and (abs(root - root.T) < 1e-15).all()
    )
    polynomial = w.polynomial(n, 3, 2)
    got = jax.jit(jax.grad(w.loss_with_covariance, argnums=1))(polynomial, jnp.asarray(A), root)
    inner = gradient(polynomial, root @ jnp.asarray(A) @ root)
    assert np.allclose(got, root @ inner @ root, rtol=0, atol=SAME * float(abs(got).max()))


@pytest.mark.parametrize("L", [1, 3])
def test_another_covariance_at_test(L):
    """Eigenvalues of a product that is not symmetric against the matrix in the coordinates of the
    inputs.
    """
    d = 3
    train, other = symmetric(d, 3) + 2 * np.eye(d), symmetric(d, 4) + 2 * np.eye(d)
    mu = jnp.asarray(np.sort(np.linalg.eigvals(np.linalg.solve(train, other)).real))
    for n in (30, 10**12):
        polynomial, a = w.polynomial(n, d, L), line.a_star(n, d, L)
        got = loss_with_covariance(
            polynomial, jnp.asarray(a * np.linalg.inv(train)), w.square_root(other)
        )
        assert abs(got / loss(polynomial, a * mu) - 1) < SAME
    assert abs(got / w.loss_infinite(mu, L) - 1) < 1e-8  # n = 10^12
    assert (
        w.loss_infinite(jnp.array([0.1, 1.9]), 200)
        < 1e-15
        < 1
        < w.loss_infinite(jnp.array([0.1, 2.1]), 200)
    )


@pytest.mark.parametrize("L", [1, 2])
def test_gradient_flow_for_large_n(L):
    lam, t = jnp.array([2.0, 1.0, 0.5]), jnp.array([0.0, 0.3, 3.0, 30.0][: 3 if L == 1 else 4])
    polynomial = w.polynomial(10**7, 3, L)
    slope = jax.jit(jax.grad(lambda a: loss(polynomial, lam * a)))
    flow = solve_ivp(
        lambda _, a: -slope(a), (0, float(t[-1])), np.zeros(3), "LSODA", t, rtol=1e-9, atol=1e-12
    )
    losses = jnp.stack([loss(polynomial, lam * jnp.asarray(a)) for a in flow.y.T])
    assert np.allclose(losses, w.flow_loss_infinite(lam, L, t), rtol=LIMIT)
    assert not np.allclose(losses[1:], w.flow_loss_infinite(lam, L, 1.01 * t[1:]), rtol=LIMIT)


def test_refusals():
    polynomial = w.polynomial(50, 3, 2)
    for L, message in ((7, "at most 6"), (0, "whole number")):
        with pytest.raises(ValueError, match=message):
            w.polynomial(50, 3, L)
    with pytest.raises(ValueError, match="finite"):
        w.exact_polynomial(50, 3, 2, float("nan"))
    with pytest.raises(
        ValueError, match=r"coefficient at n = 10*, d = 3, L = 2 outside the range of float64"
    ):
        w.polynomial(10**170, 3, 2)
    for function in (w.loss, w.gradient, w.rounding):
        for A in (jnp.zeros((2, 2)), jnp.zeros(4), jnp.zeros((3, 3), jnp.float32)):
            with pytest.raises(ValueError, match=r"wanted float64, \(3, 3\)"):
                function(polynomial, A)
        with pytest.raises(ValueError, match="not symmetric"):
            function(polynomial, jnp.eye(3).at[0, 1].set(1e-6))
    for Sigma in (
        np.diag([1.0, 0]),
        np.diag([1.0, -1]),
        np.array([[1.0, 0.1], [0, 1]]),
        np.array([[np.nan, 0], [0, 1]]),
    ):
        with pytest.raises(ValueError, match="wanted"):
            w.square_root(Sigma)
    with pytest.raises(ValueError, match="whole number"):
        w.flow_loss_infinite(jnp.ones(2), 0, jnp.ones(1))
    with jax.enable_x64(False), pytest.raises(ValueError, match="float32 is on"):
        w.polynomial(50, 3, 2)
