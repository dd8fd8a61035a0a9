"""A constraint: single-index models on a sphere, by descent, flow and samples, against recursions
made by hand; and how long they take from a small overlap.

Source: Ben Arous, Gheissari, Jagannath, arXiv 2003.10409. x ~ N(0, I), student He_k(w.x)/sqrt(k!),
teacher the same of the first axis, |w| = 1: with m = w_1 the population loss is 1 - m^k, on the
sphere alone, and under flow dm/dt = k m^(k-1) (1 - m^2).
"""

from functools import cache
from math import factorial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stated import judged, outcomes

from popgd import Problem, claims
from popgd.claims.measured import Dynamics, Measured
from popgd.papers import single_index
from popgd.symmetry import whole
from popgd.theorem.verdict import judge

ETA, STEPS, SMALL = 0.05, 200, 0.2
#: Rounding of STEPS steps of numbers of size 1, amplified fivefold: measured 2e-15.
ROUNDED = 1e-13
HERMITE = {
    2: lambda h: h**2 - 1,
    3: lambda h: h**3 - 3 * h,
    4: lambda h: h**4 - 6 * h**2 + 3,
}

overlap = lambda w: w[0]
length = lambda w: jnp.sqrt(jnp.sum(w**2))
beside = lambda m: jnp.array([m, np.sqrt(1 - m * m), 0.0])


@cache
def model(k, exact=True):
    activation = lambda h: HERMITE[k](h) / factorial(k) ** 0.5
    return Problem(
        beside(SMALL),
        lambda w, x: (activation(w @ x) - activation(x[0])) ** 2 / 2,
        lambda key: jax.random.normal(key, (3,)),
        exact=(lambda w: 1 - w[0] ** k) if exact else None,
        tangent=lambda w, g: g - (g @ w) * w,
        retraction=lambda w: w / jnp.sqrt(w @ w),
    )


def by_hand(k, steps=STEPS):
    """m of each step, from the two numbers that matter: along the teacher and beside it."""
    m, rows = np.array([SMALL, np.sqrt(1 - SMALL**2)]), []
    for _ in range(steps + 1):
        rows.append(m[0])
        gradient = np.array([-k * m[0] ** (k - 1), 0.0])
        m = m - ETA * (gradient - (gradient @ m) * m)
        m = m / np.sqrt(m @ m)
    return np.array(rows)


def measured(problem, flow=False, steps=STEPS, of=10**9):
    """Its exact path; other starts are followed for `of` steps."""
    setting = SimpleNamespace(steps=of, key=lambda *purpose: jax.random.key(0))
    dynamics = Dynamics(problem, whole(problem.start), ETA, flow)
    path = dynamics.run(problem.start, steps, jax.random.key(0))
    return Measured(setting, dynamics, path, None, {})


def outcome(claim, study):
    (found,) = claim(study)
    return judge(found, 1e-6).outcome


@pytest.mark.parametrize("k", [2, 3])
def test_descent_stays_on_the_sphere_and_is_that_by_hand(k):
    study = measured(model(k))
    m, size = study.read(overlap), study.read(length)
    wanted = by_hand(k)[m.t.astype(int)]
    np.testing.assert_allclose(m.value, wanted, rtol=0, atol=ROUNDED)
    assert np.all(abs(size.value - 1) < 4 * np.finfo(float).eps)
    assert np.all(abs(m.value - wanted) <= m.error + 1e-15)  # the stated error covers it
    assert m.value[-1] > 0.9  # it has learned, so that it could have left


def test_descent_without_the_constraint_is_another():
    free = Problem(*(getattr(model(2), n) for n in ("start", "loss", "law")), exact=model(2).exact)
    m = measured(free).read(overlap)
    assert np.max(abs(m.value - by_hand(2)[m.t.astype(int)])) > 0.1


def test_flow_stays_on_the_sphere_and_follows_its_closed_form():
    """k = 2: m^2 is logistic with rate 4."""
    study = measured(model(2), flow=True, steps=60)
    size = study.read(length)
    assert np.all(abs(size.value - 1) < 1e-11)  # TOLERANCE of each of 15 stretches: measured 4e-13
    odds = (1 - SMALL**2) / SMALL**2
    curve = lambda rate: lambda m, t: (1 + odds * np.exp(-rate * t)) ** -0.5
    assert outcome(claims.follows(overlap, curve(4.0)), study) == "SUPPORTED"
    assert outcome(claims.follows(overlap, curve(4.0001)), study) == "REFUTED"
    assert outcome(claims.conserved(length), study) == "SUPPORTED"


SIZES = tuple(0.1 / 4.0**i for i in range(5))
reaches = lambda **law: claims.time_to(overlap, 0.5, beside, SIZES, name="m", **law)


@pytest.mark.parametrize(
    ("k", "law", "wanted"),
    [
        (2, {"rate": 2.0}, "SUPPORTED"),
        (2, {"rate": 2.04}, "REFUTED"),
        (2, {"rate": lambda measured: 1.96}, "REFUTED"),
        (2, {"like": -0.25}, "INCONCLUSIVE"),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                (3, {"like": -1.0}, "SUPPORTED"),
                (3, {"like": -1.02}, "REFUTED"),
                (3, {"rate": 2.0}, "INCONCLUSIVE"),
                (4, {"like": -2.0}, "SUPPORTED"),
                (4, {"like": -2.04}, "REFUTED"),
            )
        ),
    ],
)
def test_times_from_a_small_overlap(k, law, wanted):
    assert outcome(reaches(**law), flows(k)) == wanted


@cache
def flows(k):
    return measured(model(k), flow=True, steps=10)


#: Times from m = .1, .01 and .001 to 1/2 under flow, by independent programs.
TIMES = {
    2: (0.87412689036662, 2.02790701957693, 3.17922431732392),
    3: (2.81632359886766, 32.8464352703269, 332.849435381334),
    4: (12.4370634451833, 1250.51395350979, 125001.089612159),
}


@pytest.mark.parametrize("k", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_times_are_the_closed_forms(k):
    """The last of k = 4 ends in a span of which the integrator takes parts alone: all but a unit of
    its 40,000 is rest.
    """
    for size, time in zip((0.1, 0.01, 0.001), TIMES[k], strict=True):
        found, error = flows(k).hits(overlap, 0.5, beside(size))[:2]
        assert abs(found - time) <= max(error, 1e-13 * time) and error < 1e-8 * time


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_paper_has_this_model(k):
    """Its polynomials and its exact loss, by the numbers above."""
    mine, paper = model(k), single_index.problem(k, 3, SMALL)
    for key in jax.random.split(jax.random.key(1), 4):
        sample = mine.law(key)
        value, wanted = (float(of.loss(mine.start, sample)) for of in (paper, mine))
        assert value == pytest.approx(wanted, rel=1e-12, abs=0)
    assert paper.exact(mine.start) == mine.exact(mine.start)
    assert np.array_equal(paper.start, mine.start)


def test_times_of_descent():
    """They are those of the recursion by hand, between two steps; small m grows by 1 + 2 eta."""
    study = measured(model(2), steps=10)
    found, error = study.hits(overlap, 0.5, beside(SMALL))[:2]
    m = by_hand(2)
    after = int(np.argmax(m > 0.5))
    assert after - 1 < found < after
    # Between steps by log m, which is almost linear there; a straight line in m is worse
    line = lambda f: after - 1 + (f(0.5) - f(m[after - 1])) / (f(m[after]) - f(m[after - 1]))
    smooth = line(lambda m: np.log(m / np.sqrt(1 - m * m)))
    assert abs(found - smooth) < 5e-4 < abs(found - line(lambda m: m))
    assert 0 < error < 1e-4
    rate = np.log1p(2 * ETA)
    assert outcome(reaches(rate=rate), study) == "SUPPORTED"
    assert outcome(reaches(rate=2 * ETA), study) == "REFUTED"  # the rate of flow


def test_a_law_of_times_is_one_of_two():
    with pytest.raises(ValueError, match="like=None, rate=None: give"):
        reaches()
    with pytest.raises(ValueError, match="give the exponent of size, or the rate"):
        reaches(like=1.0, rate=2.0)
    with pytest.raises(ValueError, match="five or more"):
        claims.time_to(overlap, 0.5, beside, SIZES[:4], rate=2.0)


#: The claims of a theorem about k = 2, true and false.
TRUE = claims.agrees("m", "m after the last step", 
    lambda s: (s.read(overlap).value[-1], 1e-12), by_hand(2, 40)[-1], 1e-6)  # fmt: skip


@pytest.mark.slow
def test_samples_examine_the_tangential_gradient():
    """exact is the loss on the sphere alone: off it, it has another radial gradient."""
    found = outcomes(judged(model(2), TRUE, eta=ETA, steps=40))
    assert found == {"m": "SUPPORTED", "engines-agree-slope": "SUPPORTED"}
    with_radius = Problem(**{**vars(model(2)), "tangent": lambda w, g: g})
    assert (
        outcomes(judged(with_radius, TRUE, eta=ETA, steps=40))["engines-agree-slope"] == "REFUTED"
    )


def test_sampled_descents_stay_on_the_sphere():
    """Without exact: m follows the recursion by hand, and not one at 1.2 times the step."""
    settings = {"batch": 1024, "sampled_steps": 16, "samples": 4096}
    curve = lambda rows, name: claims.follows(overlap, lambda m, t: rows[int(t)], name)
    rows = by_hand(2)
    half = int(np.argmax(rows > 0.5))
    stretched = np.interp(1.3 * np.arange(17), np.arange(31), rows[half : half + 31])
    stated = curve(rows[half:], "right"), curve(stretched, "wrong")
    start = jnp.array([rows[half], np.sqrt(1 - rows[half] ** 2), 0.0])
    problem = Problem(**{**vars(model(2, exact=False)), "start": start})
    found = judged(problem, *stated, eta=ETA, settings=settings)
    wanted = {"follows-right": "SUPPORTED", "follows-wrong": "REFUTED"}
    assert outcomes(found) == wanted
    sizes = np.linalg.norm(found.studies[""].replicas.x, axis=-1)
    assert np.all(abs(sizes - 1) < 4 * np.finfo(float).eps)
