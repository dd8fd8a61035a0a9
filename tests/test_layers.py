"""Transformer layers as steps of the power method: the dynamics, the matrices, and every claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mutant import YIELDS, refuted, sizes
from mutants_layers import LAYERS

import popgd
from popgd.papers import layers
from popgd.papers.layers import contraction, dynamics, matrices, rate, steering, tilt
from popgd.theorem.report import check
from popgd.theorem.verdict import Outcome

NAMES = [theorem.name for theorem in layers.THEOREMS]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def reports():
    known = {}

    def get(name):
        if name not in known:
            known[name] = check(name, **sizes(name))
        return known[name]

    return get


@pytest.mark.parametrize("name", NAMES)
def test_supported(reports, name):
    found = reports(name)
    assert {c.id: c.reason for c in found.claims if c.outcome is not Outcome.SUPPORTED} == {}
    assert found.outcome is Outcome.SUPPORTED
    assert all(np.isfinite(number.value) for number in found.quantities.values())
    assert found.figures()


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(m, id=f"{m.theorem}: {m.name}", marks=[pytest.mark.slow] if m.slow else [])
        for m in LAYERS
    ],
)
def test_mutant(reports, mutant):
    found = refuted(mutant, reports(mutant.theorem).studies[""])
    assert set(mutant.claims) <= found, f"survives {set(mutant.claims) - found}"


def test_every_claim_has_a_mutant(reports):
    claims = {claim.id for name in NAMES for claim in reports(name).claims}
    assert claims <= set(YIELDS)
    assert claims <= {claim for mutant in LAYERS for claim in mutant.claims}


# --- dynamics


def test_a_layer_is_what_it_says():
    """Against loops over tokens and heads."""
    n, D, H = 3, 4, 2
    X, F, P = RNG.normal(size=(n, D)), RNG.normal(size=(H, D, D)), RNG.dirichlet(np.ones(n), (H, n))
    added = lambda X: np.array(
        [sum(F[h] @ sum(P[h, i, j] * X[j] for j in range(n)) for h in range(H)) for i in range(n)]
    )
    N = lambda X: X / np.linalg.norm(X, axis=1, keepdims=True)
    arrays = [jnp.asarray(x) for x in (X, F, P)]
    for residual, wanted in (
        ("post", N(X + added(X))),
        ("none", N(added(X))),
        ("pre", X + added(N(X))),
    ):
        np.testing.assert_allclose(dynamics.layer(*arrays, residual), wanted, atol=1e-14)


def test_attentions_are_row_stochastic():
    X = jnp.asarray(RNG.normal(size=(5, 3)))
    M = jnp.asarray(RNG.normal(size=(2, 3, 3)))
    for attend in (*dynamics.FIXED.values(), dynamics.softmax(M), dynamics.softmax(M[0], True)):
        P = attend(X)
        np.testing.assert_allclose(P.sum(axis=-1), 1, atol=1e-14)
        assert np.all(P >= 0)
    assert np.all(np.triu(dynamics.softmax(M[0], True)(X), 1) == 0)


def test_layer_norm_is_the_sphere_in_the_hyperplane():
    """With F -> Pi F Pi, up to sqrt(D)."""
    D = 6
    X, F = jnp.asarray(RNG.normal(size=(4, D))), jnp.asarray(RNG.normal(size=(D, D)))
    X = dynamics.layer_norm(X)
    P = dynamics.uniform(X)
    by_norm = dynamics.layer(X, F, P, "post", dynamics.layer_norm)
    inside = dynamics.layer(
        dynamics.unit(X), jnp.asarray(matrices.seen(np.asarray(F), "layernorm")), P
    )
    np.testing.assert_allclose(by_norm, D**0.5 * inside, atol=1e-13)


# --- predictions


def test_the_rates_of_the_page():
    """lam = (1, .6, ...): .8 and .6."""
    F = np.diag([1.0, 0.6, 0.3, -0.2])
    for residual, wanted in (("post", 0.8), ("none", 0.6)):
        top = matrices.dominant(F, residual)
        assert rate.moduli(top, "uniform", 4, residual)[0] == pytest.approx(wanted, abs=1e-14)


def test_deviations_that_attention_averages_away_rule_where_others_are_negative():
    top = matrices.dominant(np.diag([1.0, -0.6]), "post")
    assert rate.moduli(top, "uniform", 4, "post")[0] == pytest.approx(0.5, abs=1e-14)
    assert rate.moduli(top, "causal", 4, "post")[0] == pytest.approx((1 - 0.6 / 4) / 2, abs=1e-14)


@pytest.mark.parametrize("residual", ["post", "none"])
def test_the_rate_of_any_matrix_is_its_derivatives(residual):
    """A matrix that is not normal: the spectral radius of the whole Jacobian."""
    n, D = 3, 5
    F = RNG.normal(size=(D, D)) / 3 + 2 * np.outer(
        np.eye(D)[0], RNG.normal(size=D) / 5 + np.eye(D)[0]
    )
    top = matrices.dominant(F, residual)
    assert top.real
    step = lambda x: dynamics.layer(
        x.reshape(n, D), jnp.asarray(F), dynamics.causal(jnp.zeros((n, D))), residual
    ).ravel()
    J = np.asarray(jax.jacobian(step)(jnp.asarray(np.tile(top.v, n))))
    wanted = max(abs(np.linalg.eigvals(J)))
    assert rate.moduli(top, "causal", n, residual)[0] == pytest.approx(wanted, rel=1e-9, abs=0)


def test_the_integral_of_one_tilted_token():
    """D = 2, m = (2, 1): E of 4 g^2/(4 g^2 + h^2), twice 2/3."""
    assert tilt.exactly(np.diag([1.0, 0.0]), np.eye(2)[0]) == pytest.approx(4 / 3, abs=1e-10)
    assert tilt.exactly(np.zeros((7, 7)), np.eye(7)[0]) == pytest.approx(1, abs=1e-10)


def test_the_secular_equation_of_a_projection():
    """F = 0: mu = kappa, v = u."""
    assert steering.secular(np.zeros(3), np.array([0.5, 0.3, 0.2]), 1.7) == pytest.approx(
        (1.7, 1), abs=1e-12
    )
    assert steering.limits(2.0, 1.0) == (2.5, 0.75)
    assert steering.limits(0.5, 1.0) == (2.0, 0.0)


def test_the_bound_is_that_of_the_page():
    assert contraction.bound(1.0, 1.0, 0.6, "post") == pytest.approx(
        (1 + 0.6 / 2**0.5) / (1 + 1 / 2**0.5), abs=1e-14
    )
    assert contraction.bound(1.0, 1.0, 0.6, "none") == pytest.approx(0.6, abs=1e-14)


# --- what is told apart


def outcome(name, **settings):
    found = check(name, **{**sizes(name), **settings})
    return str(found.outcome), {claim.id: str(claim.outcome) for claim in found.claims}


def test_hypotheses_that_fail():
    assert outcome("layers.contraction", shear=0.3)[0] == "NOT APPLICABLE"
    assert outcome("layers.contraction", spectrum=[-1, 0.5])[0] == "NOT APPLICABLE"
    assert outcome("layers.prenorm", spectrum=[-1, -2, -0.3], D=3)[0] == "NOT APPLICABLE"
    assert outcome("layers.sign", spectrum=[-1.5, -0.6, -0.2], D=3)[0] == "NOT APPLICABLE"


def test_a_complex_dominant_pair(tmp_path):
    F = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.5]])
    np.save(tmp_path / "F.npy", F)
    for name in ("layers.rate", "layers.sign", "layers.tilt", "layers.prenorm"):
        named = {k: x for k, x in sizes(name).items() if k != "D"}
        found = check(name, **named, F=str(tmp_path / "F.npy"))
        assert found.outcome is Outcome.NOT_APPLICABLE and "1 +- 1i" in found.reason


def test_the_principal_eigenvector_is_not_always_the_one():
    found = outcome("layers.sign", spectrum=[-1.5, -0.6, -0.2], D=3, attention="identity")
    assert found == ("REFUTED", {"line": "SUPPORTED", "principal": "REFUTED", "side": "SUPPORTED"})


def test_negative_definite_without_residual_turns_tokens_around():
    found = outcome("layers.sign", spectrum=[-1, -0.6], residual="none", L=401)
    assert found[0] == "SUPPORTED"


def test_a_bound_that_fails_is_refuted():
    """Not symmetric, and judged all the same."""
    found = outcome("layers.contraction", shear=0.9, D=8, assume="ignore")
    assert found[1]["contraction-shared"] in ("REFUTED", "SUPPORTED")


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"eta": 0.1}, "about no descent, eta means nothing"),
        ({"samples": 2}, "about no descent, samples means nothing"),
        ({"spectrum": "[1,.6"}, "a list of numbers"),
        ({"spectrum": [1, 0.5, 0.2], "D": 2}, "D = 2 at most"),
        ({"F": "nowhere.npy"}, "cannot be read"),
    ],
)
def test_bad_input(settings, told):
    with pytest.raises(popgd.SettingError, match=told):
        check("layers.rate", **settings)


@pytest.mark.parametrize(
    "array, told",
    [
        (np.zeros((2, 3)), "a square matrix"),
        (np.full((2, 2), np.nan), "not all of it is finite"),
        (np.zeros((2, 2), complex), "real numbers"),
    ],
)
def test_a_matrix_that_is_none(tmp_path, array, told):
    np.save(tmp_path / "F.npy", array)
    with pytest.raises(popgd.SettingError, match=told):
        check("layers.rate", F=str(tmp_path / "F.npy"))
    with pytest.raises(popgd.SettingError, match="both say what F is"):
        check("layers.rate", F=str(tmp_path / "F.npy"), D=3)


@pytest.mark.parametrize("spectrum", [[1e6, 10], [1e4, 1], [1e3, 30.0]])
def test_a_fast_rate_is_not_refuted_by_rounding(spectrum):
    """Of [1e6, 10] deviations of 1e-6 become 1e-11, of which rounding is a share of 1e-5."""
    found = outcome("layers.rate", spectrum=spectrum)
    assert found[0] in ("SUPPORTED", "INCONCLUSIVE") and found[1]["linear-uniform"] == "SUPPORTED"


def test_a_rate_of_zero():
    told = outcome("layers.rate", spectrum=[1, 0], D=2, residual="none")
    assert told[0] == "INCONCLUSIVE" and set(told[1].values()) == {"INCONCLUSIVE"}
