"""A finite data set as a law: population descent is full-batch descent, with no `exact` given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stated import judged, outcomes

from popgd import Finite, Outcome, Problem, claims, symmetry
from popgd.problem.errors import SettingError
from popgd.problem.given import as_law

DRAW = np.random.default_rng(5)
X, y = DRAW.normal(size=(40, 3)), DRAW.normal(size=40)
ETA, STEPS = 0.05, 200
#: Rounding of some hundred steps of numbers of size 1: measured 1e-15.
ROUNDED = 1e-13


def regression():
    """Weights are a nested pytree: a list and a scalar."""
    start = {"w": [jnp.zeros(2), jnp.zeros(1)], "b": jnp.array(0.5)}

    def loss(weights, sample):
        x, target = sample
        return (x @ jnp.concatenate(weights["w"]) + weights["b"] - target) ** 2 / 2

    return Problem(start, loss, Finite(X, y))


def ends(reads, at):
    """The read-out ends there, to rounding."""
    of = lambda m: (np.max(abs(m.read(reads).value[-1] - at)), ROUNDED)
    return claims.agrees("end", "Weights at the end: gap", of, 0.0, resolution=1e-9)


def test_full_batch_descent_is_numpys():
    flat, A = np.array([0.5, 0.0, 0.0, 0.0]), np.column_stack([np.ones(40), X])
    for _ in range(STEPS):
        flat = flat - ETA * A.T @ (A @ flat - y) / 40
    whole = lambda w: jnp.append(w["b"], jnp.concatenate(w["w"]))
    found = outcomes(judged(regression(), ends(whole, flat), eta=ETA, steps=STEPS))
    assert found == {"end": "SUPPORTED", "engines-agree-slope": "SUPPORTED"}
    assert outcomes(judged(regression(), ends(whole, flat), steps=STEPS))["end"] == "REFUTED"


def test_least_squares_is_the_limit():
    solution, *_ = np.linalg.lstsq(np.column_stack([X, np.ones(40)]), y, rcond=None)
    found = judged(regression(), claims.converges("w.0", solution[:2]), steps=10**4)
    wrong = judged(regression(), claims.converges("w.0", 1.0001 * solution[:2]), steps=10**4)
    assert (found.outcome, wrong.outcome) == (Outcome.SUPPORTED, Outcome.REFUTED)


#: All eight signs and their parity: discrete data, integers.
BITS = np.array([[i >> j & 1 for j in range(3)] for i in range(8)])
PARITY = BITS.sum(axis=1) % 2


def parity(rows):
    """A table of eight scores for the label of each row, and logistic loss: d/ds log(1 + e^s)."""

    def loss(table, row):
        place = jnp.sum(row["bits"] * jnp.array([1, 2, 4]))
        return jax.nn.softplus(table[place]) - row["label"] * table[place]

    return Problem(jnp.zeros(8), loss, Finite(rows))


def test_discrete_data_stay_integers():
    rows = {"bits": BITS, "label": PARITY}
    sample = as_law(Finite(rows)).sample(jax.random.key(0), jnp.dtype("float32"))
    assert sample["bits"].dtype == sample["label"].dtype == jnp.int64
    assert (
        Finite(X.astype("float32")).sample(jax.random.key(0), jnp.dtype("float64")).dtype == float
    )
    table = np.zeros(8)
    for _ in range(STEPS):
        table = table - ETA / 8 * (1 / (1 + np.exp(-table)) - PARITY)
    found = judged(parity(rows), ends(lambda w: w, table), eta=ETA, steps=STEPS)
    assert found.outcome is Outcome.SUPPORTED


def test_every_row_is_drawn_as_often():
    law = Finite(np.arange(5))
    drawn = jax.vmap(lambda key: law.sample(key, jnp.dtype(float)))(
        jax.random.split(jax.random.key(1), 5000)
    )
    counts = np.bincount(np.asarray(drawn), minlength=5)
    assert np.all(abs(counts - 1000) < 6 * np.sqrt(5000 * 0.2 * 0.8))


def flipped(rows):
    """A symmetry that holds sample by sample, and may not be one of the data set."""
    flip = symmetry.signs("sign", 1, lambda s, w: {"w": s * w["w"], "v": w["v"]},
                          lambda s, x: (s * x[0], x[1]))  # fmt: skip
    loss = lambda w, x: (w["w"][0] * x[0][0] + w["v"] - x[1]) ** 2 / 2
    start = {"w": jnp.zeros(1), "v": jnp.array(0.3)}
    return Problem(start, loss, Finite(*rows), symmetries=[flip])


@pytest.mark.slow
def test_a_data_set_without_the_declared_symmetry_is_seen_exactly():
    x, target = DRAW.normal(size=(500, 1)), DRAW.normal(size=500)
    both = np.concatenate([x, -x]), np.concatenate([target, target])
    zero = claims.stays_zero("w")
    right = judged(flipped(both), zero, steps=50)
    assert right.outcome is Outcome.SUPPORTED
    (holds,) = (c for c in right.self_checks if c.id == "plane-holds")
    assert holds.outcome is Outcome.SUPPORTED and holds.detectable < 1e-11
    # One row of a thousand is off: too little for samples
    less = both[0][:-1], both[1][:-1]
    assert judged(flipped(less), zero, steps=50).outcome is Outcome.NOT_TRUSTED


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((), r"shapes \[\]"),
        ((X, y[:-1]), r"\(40, 3\), \(39,\)"),
        ((np.array(1.0),), r"\(\)"),
        ((np.zeros((0, 3)),), r"\(0, 3\)"),
        ((X, np.where(y > y.mean(), np.nan, y)), r"\[1\] is not finite"),
    ],
)
def test_a_data_set_that_is_none_is_one_line(rows, said):
    with pytest.raises(SettingError, match=said) as caught:
        Finite(*rows)
    assert "\n" not in str(caught.value)
