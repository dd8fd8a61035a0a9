"""The transformer against its reduced form and against gradients written down by hand."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from popgd.papers.power_method import model
from popgd.papers.power_method.data import Sample
from popgd.papers.power_method.model import Active, Weights, active_weights, blocks, embed, looped
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.training import invariance
from popgd.problem.plane import along, distance, project

SIZES = [(2, 3, 1), (3, 7, 2), (5, 4, 3), (4, 9, 6)]  # d, n, L; d > n once
# relative; worst seen 3e-15: the two orders of multiplication differ by rounding, L times
FORWARD = 2e-13
GRADIENT = 1e-12  # relative to the largest entry; worst seen 4e-16
MANIFOLD = 1e-12  # relative; worst seen 2e-15

OBJECTIVES = {
    "4.1, L = 1": SubspaceDistance(1),
    "4.1, L = 3": SubspaceDistance(3),
    "4.1 without LN": SubspaceDistance(2, layer_norm=False),
    "4.2 normalised": PowerIteration("normalised", layer_norm=False),
    "4.2 unnormalised": PowerIteration("unnormalised", layer_norm=False),
    "4.3": PowerIteration("normalised"),
    "4.3 unnormalised": PowerIteration("unnormalised"),
}
ONE_LAYER = [name for name, objective in OBJECTIVES.items() if objective.L == 1]


def draw(seed, d, n, r=1):
    """A sample with unit columns, and its principal subspace of dimension r, by NumPy alone."""
    rng = np.random.default_rng(seed)
    X, q = rng.normal(size=(d, n)), rng.normal(size=d)
    X, q = X / np.linalg.norm(X, axis=0), q / np.linalg.norm(q)
    V = np.linalg.eigh(X @ X.T)[1][:, -r:]
    return Sample(*(jnp.asarray(x) for x in (X, q, V)))


def matrices(seed, count, size):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, size, size)) / np.sqrt(size))


@cache
def gradient(name):
    return jax.jit(jax.grad(OBJECTIVES[name]))


def relative(found, wanted):
    return float(
        np.max(np.abs(np.asarray(found) - np.asarray(wanted))) / np.max(np.abs(np.asarray(wanted)))
    )


# --- forward


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("d", "n", "L"), SIZES)
def test_full_model_is_the_reduced_one_for_any_active_blocks(d, n, L, normalise):
    A, B = matrices(d, 2, d)
    X, q, _ = draw(n, d, n)[:3]
    full = looped(active_weights(A, B), X, q, L, normalise)
    by_hand = np.asarray(q)
    for _ in range(L):
        by_hand = by_hand + A @ X @ X.T @ B @ by_hand
        by_hand = by_hand / np.linalg.norm(by_hand) if normalise else by_hand
    assert relative(full, by_hand) < FORWARD
    many = invariance._reduced(*(np.asarray(x)[None] for x in (A, B, X, q)), L, normalise)
    assert relative(many[0], by_hand) < FORWARD


def test_order_of_the_active_blocks_matters():
    A, B = matrices(0, 2, 3)
    X, q, _ = draw(1, 3, 5)[:3]
    assert relative(looped(active_weights(A, B), X, q), looped(active_weights(B, A), X, q)) > 1e-2


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("d", "n", "L"), SIZES)
def test_output_on_the_manifold_is_a_power_of_a_shifted_S(d, n, L, normalise):
    X, q, _ = draw(d, d, n)[:3]
    a, b = 0.7, 1.3
    lam, vectors = np.linalg.eigh(np.asarray(X @ X.T))
    wanted = vectors @ ((1 + a * b * lam) ** L * (vectors.T @ np.asarray(q)))
    wanted = wanted / np.linalg.norm(wanted) if normalise else wanted
    assert (
        relative(looped(embed(jnp.asarray(a), jnp.asarray(b), d), X, q, L, normalise), wanted)
        < MANIFOLD
    )


def test_a_layer_written_out_column_by_column():
    """Z + P Z Z^T Q Z for weights without any zero block, then each column divided by its norm."""
    d, n = 3, 4
    P, Q = matrices(5, 2, 2 * d)
    Z = np.asarray(matrices(6, 1, 2 * d)[0][:, : n + 1])
    wanted = np.zeros_like(Z)
    for i in range(n + 1):
        wanted[:, i] = Z[:, i] + sum(
            np.asarray(P) @ Z[:, j] * (Z[:, j] @ np.asarray(Q) @ Z[:, i]) for j in range(n + 1)
        )
    assert relative(model.layer(Weights(P, Q), jnp.asarray(Z), False), wanted) < FORWARD
    assert (
        relative(
            model.layer(Weights(P, Q), jnp.asarray(Z)), wanted / np.linalg.norm(wanted, axis=0)
        )
        < FORWARD
    )


def test_tokens():
    X, q, _ = draw(0, 2, 3)[:3]
    Z = np.asarray(model.tokens(X, q))
    assert np.array_equal(Z[:2, :3], X) and np.array_equal(Z[2:, 3], q)
    assert not Z[2:, :3].any() and not Z[:2, 3].any()


# --- blocks and the manifold


def test_blocks_are_the_four_quarters():
    M = jnp.arange(16.0).reshape(4, 4)
    b11, b12, b21, b22 = (np.asarray(x) for x in blocks(M))
    assert np.array_equal(np.block([[b11, b12], [b21, b22]]), M)
    assert b12[0, 0] == 2 and b21[0, 0] == 8


def test_active_weights_fill_p21_and_q12_alone():
    A, B = matrices(1, 2, 3)
    P, Q = (blocks(M) for M in active_weights(A, B))
    assert np.array_equal(P.b21, A) and np.array_equal(Q.b12, B)
    assert not any(np.any(x) for x in (P.b11, P.b12, P.b22, Q.b11, Q.b21, Q.b22))


def test_coordinates_and_distance_of_an_embedded_point():
    weights = embed(jnp.asarray(0.3), jnp.asarray(-1.7), 5)
    assert np.allclose(Active(5).coordinates(weights), (0.3, -1.7), rtol=1e-15)
    assert float(distance(Active(5), weights)) < 1e-15


def test_projection_is_the_nearest_point():
    weights = Weights(*matrices(2, 2, 6))
    near = project(Active(3), weights)
    assert all(
        np.allclose(x, y, atol=1e-15) for x, y in zip(near, project(Active(3), near), strict=True)
    )
    assert all(
        np.allclose(x, y, atol=1e-15) for x, y in zip(near, along(Active(3), weights), strict=True)
    )
    wanted = np.sqrt(sum(float(jnp.sum((x - y) ** 2)) for x, y in zip(weights, near, strict=True)))
    assert float(distance(Active(3), weights)) == pytest.approx(wanted, rel=1e-14, abs=0)
    a, b = (float(x) for x in Active(3).coordinates(weights))
    for da, db in [(1e-3, 0), (0, 1e-3), (-1e-3, 1e-3)]:
        other = embed(jnp.asarray(a + da), jnp.asarray(b + db), 3)
        assert wanted < np.sqrt(
            sum(float(jnp.sum((x - y) ** 2)) for x, y in zip(weights, other, strict=True))
        )


# --- gradients


@pytest.mark.parametrize("name", OBJECTIVES)
def test_inactive_blocks_have_gradient_exactly_zero_in_every_sample(name):
    """For any active blocks, bit for bit: what one step of descent leaves 0 stays 0."""
    d, n, samples = 4, 6, 16
    many = jax.tree.map(lambda *x: jnp.stack(x), *(draw(s, d, n) for s in range(samples)))
    A, B = matrices(3, samples, d), matrices(4, samples, d)
    grads = jax.jit(jax.vmap(jax.grad(OBJECTIVES[name])))(jax.vmap(active_weights)(A, B), many)
    for M, active in ((grads.P, "b21"), (grads.Q, "b12")):
        for label, block in jax.vmap(blocks)(M)._asdict().items():
            assert np.any(block) == (label == active), label


def by_hand(objective, weights, sample):
    """The gradient of a one-layer objective in all of (P, Q).

    With z = (0; q), G = Z Z^T = diag(S, q q^T), g = Q z, u = G g and v = z + P u the output is f =
    v_bottom, or v_bottom/|v|. w = dl/df is 2 (f - y), or 2 (I - V V^T) f. Pulled back to v: e = (0;
    w), and with LN (e - (N.e) N)/|v|, N = v/|v|. Then dl/dP = e u^T and dl/dQ = (G P^T e) z^T,
    whose first d columns are 0 because z = (0; q).
    """
    X, q, V = (np.asarray(x) for x in sample[:3])
    P, Q = (np.asarray(M) for M in weights)
    d = len(q)
    S, zero = X @ X.T, np.zeros((d, d))
    G, z = np.block([[S, zero], [zero, np.outer(q, q)]]), np.concatenate([np.zeros(d), q])
    u = G @ Q @ z
    v = z + P @ u
    N = v / np.linalg.norm(v) if objective.layer_norm else v
    f = N[d:]
    if isinstance(objective, SubspaceDistance):
        w = 2 * (f - V @ (V.T @ f))
    else:
        y = S @ q
        w = 2 * (f - (y / np.linalg.norm(y) if objective.target == "normalised" else y))
    e = np.concatenate([np.zeros(d), w])
    if objective.layer_norm:
        e = (e - N * (N @ e)) / np.linalg.norm(v)
    return np.outer(e, u), np.outer(G @ P.T @ e, z)


@pytest.mark.parametrize("name", ONE_LAYER)
def test_autodiff_is_the_closed_form_at_general_weights(name):
    weights, sample = Weights(*matrices(7, 2, 6)), draw(8, 3, 5)
    for found, wanted in zip(
        gradient(name)(weights, sample), by_hand(OBJECTIVES[name], weights, sample), strict=True
    ):
        assert relative(found, wanted) < GRADIENT


@pytest.mark.parametrize("name", ONE_LAYER)
def test_autodiff_is_the_closed_form_in_the_active_blocks(name):
    """dl/dA = e (S B q)^T and dl/dB = S A^T e q^T, e = w or (I - f f^T) w/|q + A S B q|."""
    objective, (A, B), sample = OBJECTIVES[name], matrices(9, 2, 3), draw(10, 3, 5)
    grad = gradient(name)(active_weights(A, B), sample)
    X, q, V = (np.asarray(x) for x in sample[:3])
    S = X @ X.T
    v = q + A @ S @ B @ q
    length = np.linalg.norm(v) if objective.layer_norm else 1.0
    f = v / length
    if isinstance(objective, SubspaceDistance):
        w = 2 * (f - V @ (V.T @ f))
    else:
        w = 2 * (f - (S @ q / np.linalg.norm(S @ q) if objective.target == "normalised" else S @ q))
    e = (w - f * (f @ w)) / length if objective.layer_norm else w
    assert relative(blocks(grad.P).b21, np.outer(e, S @ B @ q)) < GRADIENT
    assert relative(blocks(grad.Q).b12, np.outer(S @ A.T @ e, q)) < GRADIENT


@pytest.mark.parametrize("name", ONE_LAYER)
def test_blocks_that_never_reach_the_output_of_one_layer(name):
    """Q11 and Q21 at every point; without LN P11 and P12 too. The others do have a gradient at a
    general point.
    """
    grad = gradient(name)(Weights(*matrices(11, 2, 6)), draw(12, 3, 5))
    P, Q = blocks(grad.P), blocks(grad.Q)
    silent = [Q.b11, Q.b21] + ([] if OBJECTIVES[name].layer_norm else [P.b11, P.b12])
    moving = [P.b21, P.b22, Q.b12, Q.b22] + ([P.b11, P.b12] if OBJECTIVES[name].layer_norm else [])
    assert not any(np.any(x) for x in silent)
    assert all(np.any(x) for x in moving)


def test_no_gradient_flows_through_the_principal_subspace():
    """V is data: the loss does not move it with X, and a repeated eigenvalue makes no NaN."""
    X = jnp.asarray(np.repeat(np.eye(3), [2, 2, 1], axis=1))
    sample = Sample(X, jnp.asarray([0.6, 0.0, 0.8]), jnp.eye(3)[:, :2])
    to_V = jax.grad(
        lambda V: OBJECTIVES["4.1, L = 1"](
            embed(jnp.asarray(1.0), jnp.asarray(1.0), 3), sample._replace(V=V)
        )
    )
    assert not np.any(to_V(sample.V))
    grad = gradient("4.1, L = 1")(embed(jnp.asarray(1.0), jnp.asarray(1.0), 3), sample)
    assert all(np.isfinite(x).all() for x in grad)
