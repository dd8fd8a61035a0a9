"""Data law, layer and support of gradient descent in context: against the formulas of Section 2,
prompt by prompt.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from popgd.descent import gradient
from popgd.papers.in_context import model as in_context
from popgd.papers.in_context import wishart_loss as exact
from popgd.papers.in_context.model import InContext, SquaredError, Support
from popgd.papers.power_method.model import Weights
from popgd.problem.plane import Plane, along

PROMPTS = 32
FORWARD = 1e-12
SIGMAS = 5.0  # two-sided false alarm 6e-7, a dozen entries a test


def covariance(d: int) -> np.ndarray:
    G = np.random.default_rng(d).normal(size=(d, d))
    return G @ G.T / d + 0.3 * np.eye(d)


def prompts(law: InContext, count: int, seed: int = 0) -> in_context.Prompt:
    keys = jax.random.split(jax.random.key(seed), count)
    return jax.jit(jax.vmap(lambda key: law.sample(key, jnp.dtype("float64"))))(keys)


@pytest.mark.parametrize("L", [1, 2, 5])
def test_forward_pass_is_preconditioned_gradient_descent(L):
    """TF_L = (w + u)^T (I - (I - S A)^L) x_q by matrix powers, any A and u; with u = 0, L steps on
    the least squares.
    """
    d, n = 3, 7
    law = InContext.gaussian(d, n, covariance(d))
    many = prompts(law, PROMPTS)
    rng = np.random.default_rng(1)
    A, u = rng.normal(size=(d, d)) / 2, rng.normal(size=d)
    weights = in_context.embed(jnp.asarray(A), jnp.asarray(u))
    got = jax.jit(jax.vmap(lambda p: in_context.looped(weights, p, L)))(many)
    reduced = jax.jit(jax.vmap(lambda p: in_context.reduced(jnp.asarray(A), jnp.asarray(u), p, L)))(
        many
    )
    X, w, x_q = (np.asarray(x) for x in (many.X, many.w, many.x_q))
    S = X @ X.transpose(0, 2, 1) / n
    G = np.linalg.matrix_power(np.eye(d) - S @ A, L)
    wanted = np.einsum("pi,pij,pj->p", w + u, np.eye(d) - G, x_q)
    size = np.abs(wanted) + np.linalg.norm(G, axis=(1, 2)) * np.linalg.norm(
        x_q, axis=1
    ) * np.linalg.norm(w + u, axis=1)
    assert (np.abs(got - wanted) / size).max() < FORWARD
    assert (np.abs(reduced - wanted) / size).max() < FORWARD
    steps = np.zeros((PROMPTS, d))
    for _ in range(L):
        residual = np.asarray(many.y) - np.einsum("pij,pi->pj", X, steps)
        steps = steps + np.einsum("ji,pjk,pk->pi", A, X, residual) / n
    descended = np.einsum("pi,pi->p", steps, x_q)
    without = jax.jit(
        jax.vmap(lambda p: in_context.looped(in_context.embed(jnp.asarray(A), jnp.zeros(d)), p, L))
    )(many)
    assert (np.abs(without - descended) / size).max() < FORWARD


def test_the_query_is_no_key_and_its_label_is_zero():
    one = jax.tree.map(lambda x: x[0], prompts(InContext.gaussian(3, 7, covariance(3)), PROMPTS))
    Z = in_context.tokens(one)
    assert Z.shape == (4, 8) and Z[3, 7] == 0 and np.allclose(Z[3, :7], one.X.T @ one.w)
    weights = in_context.embed(jnp.eye(3), jnp.zeros(3))
    other = Z.at[:3, 7].multiply(2.0)
    moved = in_context.layer(weights, other) - in_context.layer(weights, Z)
    assert np.abs(moved[:, :7]).max() == 0


def test_the_law_has_its_moments():
    d, count = 3, 40_000
    law = InContext.gaussian(d, 2, covariance(d))
    many = prompts(law, count)
    for sampled, wanted in (
        (many.X[:, :, 1], law.Sigma),
        (many.x_q, law.Sigma),
        (many.w, np.linalg.inv(law.Sigma)),
    ):
        outer = np.einsum("pi,pj->pij", sampled, sampled)
        assert (np.abs(outer.mean(0) - wanted) < SIGMAS * outer.std(0) / count**0.5).all()
        assert (np.abs(outer.mean(0) - np.eye(d)) > SIGMAS * outer.std(0) / count**0.5).any()
    assert np.allclose(many.y, np.einsum("pij,pi->pj", many.X, many.w))


def test_the_support_is_a_manifold():
    d = 2
    support = Support(d)
    assert isinstance(support, Plane) and hash(support) == hash(Support(d))
    x = jnp.arange(1.0, 7.0)
    weights = support.embed(x)
    assert np.array_equal(weights.Q, [[1, 2, 0], [3, 4, 0], [0, 0, 0]]) and np.array_equal(
        weights.P, [[0, 0, 0], [0, 0, 0], [5, 6, 1]]
    )
    assert np.array_equal(support.coordinates(weights), x) and support.inactive(weights) == 0
    assert support.inactive(weights._replace(P=weights.P.at[d, d].set(1.5))) == 0.5
    ones = Weights(jnp.ones((3, 3)), jnp.ones((3, 3)))
    kept = along(support, ones)
    assert np.array_equal(kept.P, [[0, 0, 0], [0, 0, 0], [1, 1, 0]]) and kept.Q.sum() == 4


@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.slow
def test_which_gradients_vanish(L):
    """At u = 0: those of P12, P21, Q12 and Q21. Not that of P22, which is <A, grad_A>; nor those of
    P11 and Q22 for L >= 2.
    """
    d, n = 2, 10
    law = InContext.gaussian(d, n, covariance(d))
    A = jnp.asarray(0.4 * np.linalg.inv(law.Sigma) + 0.05)
    mean, stderr, _ = gradient.population_gradient(
        SquaredError(L),
        in_context.embed(A, jnp.zeros(d)),
        law,
        jax.random.key(0),
        2**17,
        Support(d),
    )
    assert (np.abs(mean.deviations) <= SIGMAS * np.asarray(stderr.deviations)).all()
    assert (np.abs(mean.coordinates[-d:]) <= SIGMAS * np.asarray(stderr.coordinates[-d:])).all()
    slope = jax.grad(exact.loss_with_covariance, argnums=1)(exact.polynomial(n, d, L), A, law.root)
    assert (np.abs(mean.weights.Q[:d, :d] - slope) < SIGMAS * stderr.weights.Q[:d, :d]).all()
    assert abs(mean.weights.P[d, d] - jnp.sum(A * slope)) < SIGMAS * stderr.weights.P[d, d]
    assert abs(mean.weights.P[d, d]) > SIGMAS * stderr.weights.P[d, d]
    for found, error in (
        (mean.weights.P[:d, :d], stderr.weights.P[:d, :d]),
        (mean.weights.Q[d, d], stderr.weights.Q[d, d]),
    ):
        assert bool((np.abs(found) > SIGMAS * error).any()) == (L > 1)
        assert L > 1 or np.abs(found).max() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(InContext.gaussian, 0, 5), "whole number >= 1"),
        (partial(InContext.gaussian, 2, 0), "whole number >= 1"),
        (partial(InContext.gaussian, 2, 5, (1.0, 2.0, 3.0)), "wanted 2 eigenvalues"),
        (partial(InContext.gaussian, 2, 5, (1.0, 0.0)), "wanted all > 0"),
        (partial(InContext.gaussian, 2, 5, np.array([[1.0, 2.0], [2.0, 1.0]])), "wanted all > 0"),
        (partial(InContext.gaussian, 2, 5, (1.0, np.nan)), "finite"),
        (partial(SquaredError, 0), "whole number >= 1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
