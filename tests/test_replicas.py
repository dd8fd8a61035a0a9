"""Sampled descents at two batch sizes: the bias of noise is taken off, the stated standard error is
the scatter over seeds, and a problem without an exact loss is judged by them.

Descent of (w - x)^2/2, x ~ N(1, 1), w_0 = 3: E w_t = 1 + 2 (1 - eta)^t and
Var w_t = eta^2/B (1 - (1 - eta)^(2t))/(1 - (1 - eta)^2), by which E w_t^2 is off.
"""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stated import judged, outcomes

from popgd import Problem, claims
from popgd.claims.measured import Dynamics, Measured
from popgd.descent import replicas
from popgd.symmetry import whole

ETA, STEPS, BATCH, COUNT, SEEDS = 0.5, 16, 2, 32, 100
PROBLEM = Problem(
    {"w": jnp.array(3.0)},
    lambda weights, x: (weights["w"] - x) ** 2 / 2,
    lambda key: 1 + jax.random.normal(key),
)
square = lambda weights: weights["w"] ** 2
mean = lambda t: 1 + 2 * (1 - ETA) ** np.asarray(t)
variance = lambda t, B: ETA**2 / B * (1 - (1 - ETA) ** (2 * np.asarray(t))) / (1 - (1 - ETA) ** 2)


def slope(x, key):
    """Of one sample; one function, so that one program serves all seeds."""
    return x - 1 - jax.random.normal(key)


def study(seed, batch=BATCH):
    key = jax.random.key(seed)
    found = replicas.descend(slope, np.array([3.0]), ETA, STEPS, batch, COUNT, key)
    setting = SimpleNamespace(key=lambda *purpose: key)
    dynamics = Dynamics(PROBLEM, whole(PROBLEM.start), ETA, False)
    return Measured(setting, dynamics, None, found, {})


@cache
def studies():
    return [study(seed) for seed in range(SEEDS)]


def test_the_bias_of_a_batch_is_taken_off():
    """Over all seeds: w^2 at one batch is off by its variance, the reading is not."""
    w = np.stack([each.replicas.x for each in studies()])[..., -1, 0]  # seeds, 2, replicas
    truth = mean(STEPS) ** 2
    for size, rows in zip((BATCH, 2 * BATCH), np.moveaxis(w, 1, 0), strict=True):
        off, error = np.mean(rows**2) - truth, np.std(rows**2) / rows.size**0.5
        assert off == pytest.approx(variance(STEPS, size), abs=5 * error)
        assert off > 6 * error  # it could have been seen
    read = np.array([each.read(square).value[-1] for each in studies()])
    assert abs(read.mean() - truth) < 5 * read.std() / SEEDS**0.5
    assert 5 * read.std() / SEEDS**0.5 < variance(STEPS, BATCH)


def test_the_stated_error_is_the_scatter_over_seeds():
    """Gaps over errors have the spread of Student's t; 1 +- 5 standard errors of a spread."""
    for of, truth in ((square, mean(STEPS) ** 2), ("w", mean(STEPS))):
        found = [each.read(of) for each in studies()]
        t = np.array([(one.value[-1] - truth) / one.error[-1] for one in found])
        degrees = found[0].number.degrees
        assert degrees == COUNT - 1 and found[0].statistical
        wanted = np.sqrt(degrees / (degrees - 2))
        assert abs(t.std() - wanted) < 5 * wanted / np.sqrt(2 * SEEDS)
        assert abs(t.mean()) < 5 * wanted / np.sqrt(SEEDS)


def test_replicas_have_samples_of_their_own():
    x = study(0).replicas.x[:, :, -1, 0]
    assert len(np.unique(x)) == x.size
    assert np.array_equal(x, study(0).replicas.x[:, :, -1, 0])
    assert not np.any(np.isin(x, study(1).replicas.x))


def test_a_batch_that_is_no_multiple_of_a_chunk():
    """65 samples in two chunks have the variance of 65."""
    w = study(3, replicas.CHUNK + 1).replicas.x[0, :, -1, 0]
    expected = variance(STEPS, replicas.CHUNK + 1)
    assert abs(w.var(ddof=1) / expected - 1) < 5 * np.sqrt(2 / (COUNT - 1))


def test_a_problem_without_an_exact_loss_is_judged():
    """The truth is supported and its false variants refuted; what needs the loss says so."""
    settings = {"batch": 512, "sampled_steps": STEPS, "samples": 4096}
    stated = (
        claims.follows("w", lambda m, t: mean(t), name="right"),
        claims.follows("w", lambda m, t: 1 + 2 * (1 - 1.3 * ETA) ** t, name="wrong"),
        claims.converges(square, 1.0, name="right"),
        claims.converges(square, 1.5, name="wrong"),
        claims.monotone("w", name="wrong"),
        claims.loss_limit(0.5),
        claims.increments_converge("w", 1.0),
        claims.time_to("w", 2.0, lambda s: {"w": s}, (16.0, 8.0, 4.0, 2.0, 1.0), rate=1.0),
    )
    found = outcomes(judged(PROBLEM, *stated, eta=ETA, settings=settings))
    assert found == {
        "follows-right": "SUPPORTED",
        "follows-wrong": "REFUTED",
        "converges-right": "SUPPORTED",
        "converges-wrong": "REFUTED",
        "monotone-wrong": "REFUTED",
        "converges-loss": "INCONCLUSIVE",
        "increments-w": "INCONCLUSIVE",
        "time-w": "INCONCLUSIVE",
    }
