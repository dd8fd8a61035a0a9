"""The vocabulary of claims: what is true is SUPPORTED, what is false REFUTED, and what cannot be
told yet INCONCLUSIVE. Paths are made up here, from closed forms.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stated import judged, outcomes

from popgd import claims, symmetry
from popgd.claims.growth import extrapolate
from popgd.claims.measured import Dynamics, Measured, _with_errors
from popgd.descent.exact import Path
from popgd.descent.recursion import log_grid
from popgd.papers import committee
from popgd.problem.problem import Problem
from popgd.symmetry import whole
from popgd.theorem.verdict import judge

SETTING = SimpleNamespace(steps=10**12, key=lambda *n: jax.random.key(0))


def made(x, move=None, flow=False, error=1e-15, steps=10**12):
    """A path of one weight with these closed forms."""
    t = log_grid(steps, 8).astype(float)
    value = np.asarray([x(s) for s in t], dtype=float)[:, None]
    moves = np.zeros_like(value) if move is None else np.asarray([move(s) for s in t])[:, None]
    start = {"w": jnp.asarray(value[0])}
    square = lambda weights, sample: jnp.sum(weights["w"] ** 2)
    problem = Problem(start, square, lambda key: jnp.zeros(()), exact=lambda w: square(w, 0))
    path = Path(t, value, error * abs(value), moves)
    return Measured(SETTING, Dynamics(problem, whole(start), 0.1, flow), path, None, {})


def outcome(claim, measured):
    (found,) = claim(measured)
    return judge(found, 1e-6).outcome


w = lambda weights: weights["w"][0]
power = made(lambda t: 3 * (1 + t) ** 0.5 * (1 + 2 / (1 + t)))
logarithm = made(lambda t: (2 + t) ** 0.5 * np.log(2 + t))
loglog = made(lambda t: (20 + t) ** 0.5 * np.log(np.log(20 + t)))
towards = made(lambda t: 2 + np.exp(-t / 1e4), steps=10**4)
rated = made(lambda t: 2 + np.exp(-0.01 * t), steps=1500)
one_over_log = made(lambda t: (2 + t) ** 0.5 * (1 + 1 / np.log(2 + t)))
small_theta = made(lambda t: (1 + t) ** 0.5 * (1 + 5 * (1 + t) ** -0.1 - 4 * (1 + t) ** -0.2))
exponential = made(lambda t: 2 + np.exp(-0.01 * t), steps=10**4)
slow = made(lambda t: 2 + 1 / np.log(3 + t))


@pytest.mark.parametrize(
    "claim, measured, wanted",
    [
        (claims.grows(w, like=0.5), power, "SUPPORTED"),
        (claims.grows(w, like=0.51), power, "REFUTED"),
        (claims.grows(w, like=1 / 3), power, "REFUTED"),
        (claims.grows(w, like=0.5), logarithm, "INCONCLUSIVE"),
        (claims.grows(w, like=0.549), logarithm, "INCONCLUSIVE"),
        (claims.grows(w, like=0.5), loglog, "INCONCLUSIVE"),
        (claims.grows(w, like=0.5), one_over_log, "INCONCLUSIVE"),
        (claims.grows(w, like=0.46), small_theta, "INCONCLUSIVE"),
        (claims.grows(w, like=0.5), made(lambda t: (1 + t) ** 0.5, steps=100), "INCONCLUSIVE"),
        (claims.converges(w, 2.0), exponential, "SUPPORTED"),
        (claims.converges(w, 2.00001), exponential, "REFUTED"),
        (claims.converges(w, 3.0), exponential, "REFUTED"),
        (claims.converges(w, 2.0), slow, "INCONCLUSIVE"),
        (claims.converges(w, 2.0), towards, "INCONCLUSIVE"),
        (claims.at_rate(w, 2.0, 0.01), rated, "SUPPORTED"),
        (claims.at_rate(w, 2.0, 0.0102), rated, "REFUTED"),
        (claims.at_rate(w, 2.0, 0.01), slow, "INCONCLUSIVE"),
        (claims.monotone(w), power, "REFUTED"),  # 3 (1 + t)^.5 (1 + 2/(1 + t)) falls at first
        (claims.monotone(w), logarithm, "SUPPORTED"),
        (claims.monotone(w, falls=True), logarithm, "REFUTED"),
        (claims.monotone(w), made(lambda t: 1.0), "INCONCLUSIVE"),
        (claims.follows(w, lambda m, t: 2 + np.exp(-0.01 * t)), exponential, "SUPPORTED"),
        (claims.follows(w, lambda m, t: 2 + np.exp(-0.01001 * t)), exponential, "REFUTED"),
        (claims.follows(w, lambda m, t: 1.0), made(lambda t: 1.0), "INCONCLUSIVE"),
        (claims.conserved(lambda p: jnp.zeros(()) * w(p)), exponential, "SUPPORTED"),
        (claims.conserved(lambda p: 1e-7 * w(p)), exponential, "REFUTED"),
        (claims.conserved(lambda p: 0 * w(p)), made(lambda t: 1.0), "INCONCLUSIVE"),
        (claims.loss_limit(4.0), exponential, "SUPPORTED"),
        (claims.loss_limit(4.001), exponential, "REFUTED"),
    ],
)  # fmt: skip
def test_claims_come_out_as_they_should(claim, measured, wanted):
    assert outcome(claim, measured) == wanted


def test_constant_and_increments_of_growth():
    """x = 3 sqrt(1 + t): x^2 grows by 9 a step."""
    measured = made(lambda t: 3 * (1 + t) ** 0.5, lambda t: 3 / ((1 + t) ** 0.5 + (2 + t) ** 0.5))
    for to, wanted in ((9.0, "SUPPORTED"), (9.1, "REFUTED"), (None, "SUPPORTED")):
        assert outcome(claims.increments_converge(w, 2, to), measured) == wanted
    for constant, wanted in ((3.0, "SUPPORTED"), (3.1, "REFUTED")):
        _, found = claims.grows(w, 0.5, constant)(measured)
        assert found.id.startswith("constant") and judge(found, 1e-6).outcome == wanted


def test_extrapolation_is_right_and_its_error_honest():
    t = 10.0 ** np.arange(2, 12, 1 / 8)
    rng = np.random.default_rng(0)
    for theta in (0.3, 0.5, 1.0):
        for k in rng.normal(size=20):
            found, excuse = extrapolate(
                0.5 + k * t**-theta + k * k * t ** (-2 * theta), np.full(t.size, 1e-15)
            )
            assert not excuse and abs(found.value - 0.5) <= found.error


@pytest.mark.parametrize(
    "start, said",
    [
        ({"w": jnp.ones(2, int)}, "int64"),
        ({"w": jnp.ones(2, jnp.float32)}, "float32"),
        ({}, "no arrays"),
    ],
)
def test_a_start_of_another_format_is_one_line(start, said):
    with pytest.raises(ValueError, match=said) as caught:
        Problem(start, lambda w, x: jnp.sum(w["w"]), lambda key: jnp.zeros(()))
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_no_finite_scalar_is_one_line():
    law, start = (lambda key: jnp.zeros(())), {"w": jnp.ones(2)}
    for loss, said in ((lambda w, x: w["w"], r"shape \(2,\)"), (lambda w, x: jnp.nan, "nan")):
        with pytest.raises(ValueError, match=said):
            Problem(start, loss, law)
    with pytest.raises(ValueError, match="exact is inf"):
        Problem(start, lambda w, x: jnp.sum(w["w"]), law, exact=lambda w: jnp.inf)


def test_a_name_of_no_weight_is_one_line():
    with pytest.raises(ValueError, match="'v' names no array of the weights: one of w"):
        list(claims.converges("v", 0.0)(exponential))


def four(a, dead, mean, silent, sym):
    return {"a": a, "dead": dead, "mean": mean, "silent": silent, "sym": sym}


def reasons(plane=None, declared=True):
    """Four weights that stay 0, each for another reason, beside one that moves."""

    def loss(w, x):
        gap = (w["a"] - 1) * x[0] + w["sym"] * x[1] + w["mean"] * x[2]
        return gap**2 / 2 + (w["dead"] * x[0]) ** 2

    flip = symmetry.signs("second", 1, lambda s, w: {**w, "sym": s[0] * w["sym"]},
                          lambda s, x: x * jnp.array([1.0, s[0], 1.0]))  # fmt: skip
    exact = lambda w: ((w["a"] - 1) ** 2 + w["sym"] ** 2 + w["mean"] ** 2) / 2 + w["dead"] ** 2
    start = four(*map(jnp.array, (0.5, 0.0, 0.0, 0.0, 0.0)))
    law = lambda key: jax.random.normal(key, (3,))
    return Problem(start, loss, law, [flip] if declared else [], plane=plane, exact=exact)


@pytest.mark.parametrize(
    "problem, wanted",
    [
        (reasons(), "by symmetry"),
        pytest.param(reasons(declared=False), "in expectation only", marks=pytest.mark.slow),
        pytest.param(
            reasons(symmetry.Plane.of(reasons().start, np.eye(5)[:4])),
            "on the plane that was given",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_zero_has_its_reason(problem, wanted):
    names = ("dead", "mean", "silent", "sym", "a")
    found = judged(problem, *map(claims.stays_zero, names), claims.stays_zero(
        lambda w: jnp.stack([w["silent"], w["dead"]]), name="two"), steps=50)  # fmt: skip
    assert outcomes(found) | {"plane-holds": "SUPPORTED", "engines-agree-slope": "SUPPORTED"} == {
        **{f"zero-{name}": "SUPPORTED" for name in (*names, "two")},
        "zero-a": "REFUTED",
        "plane-holds": "SUPPORTED",
        "engines-agree-slope": "SUPPORTED",
    }
    why = {claim.id: claim.reason for claim in found.claims}
    assert "structural" in why["zero-dead"] and "silent" in why["zero-silent"]
    assert "in expectation" in why["zero-mean"] and wanted in why["zero-sym"]
    assert "silent" in why["zero-two"] and "structural" in why["zero-two"]
    assert "it has a gradient" in why["zero-a"]


def test_a_start_off_the_plane_has_no_time():
    problem = reasons()
    plane = symmetry.invariant(problem.symmetries, problem.start, jax.random.key(0))
    study = Measured(SETTING, Dynamics(problem, plane, 0.1, True), power.path, None, {})
    starts = lambda size: four(*map(jnp.array, (size, 0.0, 0.0, 0.0, size)))
    claim = claims.time_to("a", 0.5, starts, (0.1, 0.01, 1e-3, 1e-4, 1e-5), rate=1.0)
    with pytest.raises(ValueError, match=r"a start is off the plane by 0\.1 in sym"):
        list(claim(study))


def test_growth_is_of_one_number():
    for claim in (claims.grows("w", 0.5), claims.increments_converge("w", 2)):
        with pytest.raises(ValueError, match=r"w has shape \(1,\): growth is of one number"):
            list(claim(power))


class Everything:
    """All weights, as a plane."""

    embed = staticmethod(lambda x: x)


def test_rounding_of_a_read_out_whose_terms_cancel_is_stated():
    """Next to its teacher the loss of a committee is 0, and its terms of order one leave some
    1e-16: of moves by one unit every other one shows nothing of that.
    """
    rng, unit = np.random.default_rng(0), np.array([[2, 0.1, 0, 0], [0.1, 2, 0, 0]]) * 2.0**-53
    x = np.stack([np.eye(2, 4) + rng.integers(-2, 3, size=(2, 4)) * unit for _ in range(300)])
    reads = lambda x: committee.exact(x.reshape(2, 4))
    flat = jnp.asarray(x.reshape(300, 8))
    keys = jax.random.split(jax.random.key(0), 300)
    value, error = _with_errors(Everything, reads, flat, jnp.zeros_like(flat), keys)
    # It is 1e-30 or so, less than what is stated of it in any case
    assert np.all(abs(value) <= error) and np.max(abs(value)) > 1e-16 and np.max(error) < 2e-15
