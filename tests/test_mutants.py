"""Every claim can be refuted: a mistake planted in the package must turn the claim named beside it.

A mutant that changes compiled code runs with empty jit caches (`fresh_jit`). The measurements that a mutant does not touch
are those of the shared runs.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from rotations import of_positive_entries, one_plane
from runs import report, study

from popgd import curve, data, gradient, leap, model, recursion
from popgd.model import Weights, blocks
from popgd.theory import THEOREMS, convergence, growth, manifold, power_method
from popgd.theory.base import sampled
from popgd.verdict import Outcome, judge

FALSE_ALARM = 1e-6


@pytest.fixture(scope="module", autouse=True)
def unbroken():
    """The shared measurements, made before anything is broken."""
    for theorem in THEOREMS:
        report(theorem)


def quiet(name, done, total):
    pass


def change(study, **settings):
    return dataclasses.replace(study, setting=dataclasses.replace(study.setting, **settings))


def refuted(*evidence):
    return {claim.id for claim in judge([e for part in evidence for e in part], FALSE_ALARM) if claim.outcome is Outcome.REFUTED}


def measure_again(study, **settings):
    """The Monte Carlo half once more, by default with short descents: structure and gradients, not growth."""
    study = change(study, **{"sampled_steps": 4, "batch": 64, **settings})
    return sampled(study.setting, study.objective, study.exact, quiet)


def descend_again(study):
    """The exact half once more."""
    objective, setting = study.objective, study.setting
    if study.exact.power == 2:
        exact = growth.descend_exactly(setting, lambda s: curve.Looped.of(s, setting.L), 2, quiet)
    elif study.exact.power == 3:
        exact = growth.descend_exactly(setting, curve.Layer.of, 3, quiet)
    else:
        exact = convergence.descend_exactly(setting, lambda s: curve.Linear.of(s, objective.target), quiet)
    return dataclasses.replace(study, exact=exact)


def scaled(method, factor):
    """The method with its number, or the logarithm's, multiplied by a factor."""

    def mutant(self, *arguments):
        found = method(self, *arguments)
        return found._replace(value=found.value * factor)

    return mutant


#: claim -> the mutants that refuted it, filled by the tests and read by the last one.
KILLED: dict[str, list[str]] = {}


def killed(mutant, found, *wanted):
    assert set(wanted) <= found, f"{mutant} survives {set(wanted) - found}"
    for claim in found:
        KILLED.setdefault(claim, []).append(mutant)


# --- the model

attention = model.attention


def divided_by_n(weights, Z):
    return attention(weights, Z) / (Z.shape[1] - 1)


def blocks_exchanged(weights, Z):
    A, B = blocks(weights.P).b21, blocks(weights.Q).b12
    return attention(model.active_weights(B, A), Z)


@pytest.mark.parametrize(
    ("mutant", "name", "code"),
    [
        ("LN left out", "layer_norm", lambda Z: Z),
        ("S divided by n", "attention", divided_by_n),
        ("A and B exchanged", "attention", blocks_exchanged),
    ],
)
def test_model(mutant, name, code, monkeypatch, fresh_jit):
    monkeypatch.setattr(model, name, code)
    killed(mutant, refuted(manifold.structure(study("4.3"))), "forward-reduced")


def test_gradient_of_an_inactive_block_is_noise(monkeypatch, fresh_jit):
    original = gradient.GradientOf.__call__

    def noisy(self, weights, sample):
        found = original(self, weights, sample)
        P = found.weights.P.at[0, 0].add(1e-12 * sample.q[0])
        return found._replace(weights=Weights(P, found.weights.Q))

    monkeypatch.setattr(gradient.GradientOf, "__call__", noisy)
    found = refuted(manifold.structure(measure_again(study("4.3"))))
    killed("noise in P11", found, "inactive-gradient-zero", "inactive-blocks-zero")


# --- the data


@pytest.mark.parametrize("rotation", [of_positive_entries, one_plane])
def test_a_rotation_that_is_not_haar(rotation, monkeypatch, fresh_jit):
    monkeypatch.setattr(data, "haar", rotation)
    found = refuted(manifold.schur(measure_again(study("4.2", "unnormalised"))))
    killed(f"rotation {rotation.__name__}", found, "active-gradient-scalar")


@pytest.mark.parametrize(("leading", "claims"), [(1, ["engines-agree-slope"]), (2, ["engines-agree-slope", "gradient-negative"])])
def test_principal_subspace_of_the_wrong_eigenvalue(leading, claims):
    """lambda_1 exchanged with lambda_2 or lambda_3 in the samples; the exact curve knows better."""
    original = study("4.1")
    U = np.asarray(original.setting.law.U)
    vectors = np.linalg.eigh(U @ U.T)[1][:, ::-1]
    law = dataclasses.replace(original.setting.law, V=jnp.asarray(vectors[:, leading : leading + 1]))
    again = measure_again(change(original, law=law), batch=1024)
    found = refuted(manifold.negative_slope(again), manifold.cross_examination(again))
    killed(f"V of lambda_{leading + 1}", found, *claims)


def test_multiplicity_off_by_one():
    """The curve believes that the largest eigenvalue is double."""
    original = study("4.1")
    wrong = curve.Looped.of(curve.Spectrum(jnp.array([3.0, 1.0]), jnp.array([2.0, 1.0])), original.setting.L)
    exact = dataclasses.replace(original.exact, wide=wrong)
    found = refuted(manifold.cross_examination(dataclasses.replace(original, exact=exact)))
    killed("r off by one", found, "engines-agree-slope")


# --- the curve


@pytest.mark.parametrize("theorem", ["4.1", "4.3"])
def test_factor_two_in_the_slope(theorem, monkeypatch):
    kind = curve.Looped if theorem == "4.1" else curve.Layer
    log_slope = kind.log_slope
    monkeypatch.setattr(kind, "slope", scaled(kind.slope, 2))
    monkeypatch.setattr(
        kind, "log_slope", lambda self, c: log_slope(self, c)._replace(value=log_slope(self, c).value + np.log(2))
    )
    again = descend_again(study(theorem))
    found = refuted(manifold.cross_examination(again), growth.growth(again))
    killed("factor 2 in the slope", found, "engines-agree-slope", "engines-agree-descent", "increment-constant")


@pytest.mark.parametrize(
    ("mutant", "theorem", "method", "factor", "claims"),
    [
        ("wrong kappa", "4.1", "constant", 1.001, ["increment-constant", "loss-excess"]),
        ("wrong C1", "4.3", "constant", 1.001, ["increment-constant", "loss-vanishes"]),
        ("wrong K2", "4.1", "correction", 2.0, ["increment-constant"]),
        ("wrong D", "4.3", "correction", 2.0, ["increment-constant", "loss-vanishes"]),
        ("wrong l_inf", "4.1", "limit", 1 + 1e-6, ["loss-excess"]),
        ("negative l_inf", "4.1", "limit", -1.0, ["loss-limit-positive", "loss-excess"]),
        ("square root of the loss", "4.3", "loss", None, ["loss-vanishes", "time-to-loss"]),
    ],
)
def test_wrong_constant(mutant, theorem, method, factor, claims, monkeypatch):
    kind = curve.Looped if theorem == "4.1" else curve.Layer
    original = getattr(kind, method)
    root = lambda self, c: original(self, c)._replace(value=original(self, c).value ** 0.5)
    monkeypatch.setattr(kind, method, scaled(original, factor) if factor else root, raising=True)
    last = power_method.positive_limit if theorem == "4.1" else power_method.vanishing_loss
    killed(mutant, refuted(growth.growth(study(theorem)), last(study(theorem))), *claims)


def test_loss_that_falls_too_slowly():
    original = study("4.3")
    exact = dataclasses.replace(original.exact, losses=original.exact.losses**0.5)
    found = refuted(power_method.vanishing_loss(dataclasses.replace(original, exact=exact)))
    killed("square root of the recorded losses", found, "loss-bound")


def test_negative_least_loss(monkeypatch):
    monkeypatch.setattr(curve.Linear, "limit", scaled(curve.Linear.limit, -1.0))
    killed("negative L*", refuted(convergence.convergence(study("4.2", "normalised"))), "limit-loss", "limit-loss-positive")


@pytest.mark.parametrize("target", ["normalised", "unnormalised"])
def test_wrong_limit_of_c(target, monkeypatch):
    """c* 0.1% off in the prediction alone; then 20% off in the curve, recursion and all."""
    original = study("4.2", target)
    with monkeypatch.context() as m:
        m.setattr(curve.Linear, "c_star", scaled(curve.Linear.c_star, 1.001))
        killed("wrong c*", refuted(convergence.convergence(original)), "limit-c", "contraction")
    right = curve.q.c_star
    monkeypatch.setattr(curve.q, "c_star", lambda *a, **k: right(*a, **k)._replace(value=1.2 * right(*a, **k).value))
    found = refuted(manifold.cross_examination(descend_again(original)))
    killed("wrong c* everywhere", found, "engines-agree-slope")


# --- the recursion


@pytest.mark.parametrize("theorem", ["4.1", "4.3"])
def test_d_forgotten_in_the_recursion(theorem, monkeypatch):
    recurse, trajectory = recursion.recurse, leap.trajectory
    monkeypatch.setattr(recursion, "recurse", lambda slope, start, eta, d, grid, **k: recurse(slope, start, eta, 1, grid, **k))
    monkeypatch.setattr(leap, "trajectory", lambda slope, start, eta, d, *a, **k: trajectory(slope, start, eta, 1, *a, **k))
    again = descend_again(study(theorem))
    found = refuted(manifold.cross_examination(again), growth.growth(again))
    killed("1/d forgotten", found, "engines-agree-descent", "engines-agree-raw", "increment-constant")


def test_step_size_of_the_recursion(monkeypatch):
    """Eight times the step: eta is stable still, but c overshoots."""
    recurse = recursion.recurse
    monkeypatch.setattr(recursion, "recurse", lambda slope, start, eta, *a, **k: recurse(slope, start, 8 * eta, *a, **k))
    found = refuted(convergence.convergence(descend_again(study("4.2", "unnormalised"))))
    killed("8 eta", found, "contraction", "monotone")


@pytest.mark.parametrize(("theorem", "exponent"), [("4.1", 1 / 3), ("4.3", 1 / 2)])
def test_wrong_exponent(theorem, exponent):
    found = refuted(growth.growth(change(study(theorem), exponent=exponent)))
    killed("wrong exponent", found, "exponent-a", "exponent-b", "exponent-c", "increment-constant")


# --- all of them


def test_the_unbroken_package_is_not_refuted():
    for theorem in THEOREMS:
        assert not [c.id for c in report(theorem).claims if c.outcome is Outcome.REFUTED]


def test_every_claim_has_a_mutant():
    claims = {claim.id.split("@")[0] for theorem in THEOREMS for claim in report(theorem).claims}
    assert claims <= set(KILLED), f"no mutant refutes {claims - set(KILLED)}"
