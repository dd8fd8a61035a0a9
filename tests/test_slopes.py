"""Sampled slopes: where rare queries make the loss, their two stages, and how often they are off by
their errors.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from popgd.claims import sampling
from popgd.descent import gradient
from popgd.descent.budget import Budget
from popgd.descent.memory import FORGETFUL, Memory
from popgd.papers.power_method import curve as curves
from popgd.papers.power_method import model, slopes, tilted
from popgd.papers.power_method.data import UniformSphere
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.tilted import SlopeOf, Tilted
from popgd.runs.checkpoint import Checkpoint

SLOW = pytest.mark.slow
#: Of all the comparisons of a test with its standard errors together, 1e-6 by the normal law.
FAR = 5.5
SAMPLES = 2**15
BLANK = tilted.Slope(0, 0, 0)
#: Standard errors that are believed have this relative one of their second moment.
BELIEVED = 0.06


def exact_of(objective, rows):
    many = (
        Spectrum.of(rows[0])
        if len(rows) == 1
        else Spectrum(jnp.asarray(rows), jnp.ones(rows.shape))
    )
    if isinstance(objective, SubspaceDistance):
        return curves.Looped.of(many, objective.L)
    return (
        curves.Layer.of(many) if objective.layer_norm else curves.Linear.of(many, objective.target)
    )


def sampled(objective, rows, r, c, key, samples=SAMPLES, loops=None):
    loops = objective.L if loops is None else loops
    spectral = getattr(objective, "target", "") == "normalised"
    law = Tilted(
        jnp.asarray(rows), jnp.asarray(c), r, loops if objective.layer_norm else 0, spectral
    )
    weights = model.embed(jnp.ones(()), jnp.asarray(c), rows.shape[1])
    return gradient.population_average(SlopeOf(objective), weights, law, key, samples)


ROWS = {
    "plain": (np.array([[8.0, 5, 4, 2, 1]]), 1),
    "one far ahead": (np.array([[5.9, 0.09, 0.01]]), 1),
    "three sizes": (np.array([[10.0, 0.2, 0.005]]), 1),
    "two lead": (np.array([[2.5, 2.5, 1.0]]), 2),
    "uniform": (UniformSphere(4, 8).eigenvalues(jax.random.key(3), 16), 1),
}
LINEAR = PowerIteration("normalised", layer_norm=False)
CASES = [
    (SubspaceDistance(10), "one far ahead"),
    (SubspaceDistance(3), "plain"),
    (SubspaceDistance(8), "two lead"),
    (PowerIteration(), "one far ahead"),
    (PowerIteration(), "three sizes"),
    (PowerIteration(), "uniform"),
    (LINEAR, "plain"),
]


@pytest.mark.parametrize(
    ("objective", "name"),
    [pytest.param(*case, id=f"{case}", marks=[SLOW] if i else []) for i, case in enumerate(CASES)],
)
def test_slopes_where_rare_queries_make_the_loss(objective, name):
    """Up to c = 1e8, where l' is down to 1e-33: quadrature in other coordinates says the same, and
    the error is known.
    """
    rows, r = ROWS[name]
    known = exact_of(objective, rows)
    for number, c in enumerate((0.0, 1.0, 30.0, 1e4, 1e8)):
        mean, stderr, _ = sampled(objective, rows, r, c, jax.random.key(number))
        wanted = float(known.slope(np.array([c])).value[0])
        assert abs(float(mean.value) - wanted) < FAR * float(stderr.value), c
        assert float(stderr.value) < 0.04 * abs(wanted) and float(stderr.square) < BELIEVED * float(
            mean.square
        ), c


def test_uniform_queries_miss_them():
    """A mixture with the uniform law alone: no error that is stated is believed, or the slope is
    far off.
    """
    rows, r = ROWS["one far ahead"]
    mean, stderr, _ = sampled(SubspaceDistance(10), rows, r, 1.0, jax.random.key(0), loops=0)
    wanted = float(exact_of(SubspaceDistance(10), rows).slope(np.ones(1)).value[0])
    far = abs(float(mean.value) - wanted) > FAR * float(stderr.value)
    assert far or float(stderr.square) > BELIEVED * float(mean.square)


def test_weights_are_densities():
    """Means over the mixture of 1 and of q_1^2, which are 1 and 1/d under the uniform law."""
    law = Tilted(jnp.asarray(ROWS["plain"][0]), jnp.asarray(5.0), 1, 3, True)
    draws = jax.jit(jax.vmap(lambda key: law.sample(key, jnp.dtype("float64"))))(
        jax.random.split(jax.random.key(0), SAMPLES)
    )
    weight, first = np.asarray(draws.weight), np.asarray(draws.orbit.Q)[:, 0, 0] ** 2
    for values, wanted in ((weight, 1.0), (weight * first, 1 / 5)):
        assert abs(values.mean() - wanted) < FAR * values.std() / SAMPLES**0.5
    assert weight.max() <= tilted.LEADING + tilted.SPECTRAL


class Normal:
    """Draws of a normal mean 1 with this spread of one sample, the same for the same stage."""

    def __init__(self, spread):
        self.spread, self.sizes = spread, []

    def __call__(self, stage, samples):
        self.sizes.append((stage, samples))
        value = 1 + self.spread * np.random.default_rng(stage).normal() / samples**0.5
        mean = tilted.Slope(value, value**2 + self.spread**2, 0.0)
        return gradient.Estimate(mean, tilted.Slope(self.spread / samples**0.5, 1e-9, 0.0), samples)


@pytest.mark.parametrize(("spread", "stages"), [(0.01, 2), (1.0, 2), (4.0, 3)])
def test_a_second_stage_is_as_large_as_the_pilot_asks_for(spread, stages, to_a_percent):
    draw = Normal(spread)
    found, wanted = sampling.two_stages(
        draw, lambda e: sampling.wanted_of(e, 0.0, 0.01), 2**18, BLANK, FORGETFUL, "it"
    )
    sizes = [size for _, size in draw.sizes]
    assert [stage for stage, _ in draw.sizes] == list(range(stages)) and found.samples == sizes[-1]
    assert (
        sizes[-1] == max(2**18, int(np.ceil(wanted)))
        and sizes[-1] <= sampling.SHARE * sizes[-2] * 1.2
    )
    assert wanted == pytest.approx((sampling.SEEN * spread / 0.01) ** 2, rel=0.1, abs=0)


def test_a_second_moment_that_rules_the_plan_is_known_after_it():
    """Of means of two cubes of normal numbers, whose tails are heavy: 7 of 200 plans leave it
    unknown. Planned for KNOWN itself 144 did.
    """
    left = 0
    for seed in range(200):

        def draw(stage, samples, seed=seed):
            rng = np.random.default_rng((seed, stage))
            x = (rng.standard_normal((samples, 2)) ** 3).mean(axis=1)
            moments = tilted.Slope(x.mean(), (x**2).mean(), (x**3).mean())
            errors = tilted.Slope(*(m.std() / samples**0.5 for m in (x, x**2, x**3)))
            return gradient.Estimate(moments, errors, samples)

        *_, spread, _, _ = slopes.examined(draw, 1e3, 2**12, FORGETFUL, "it")
        left += spread > sampling.KNOWN
    assert left <= 20


@pytest.mark.parametrize(("spread", "why"), [(1e4, "can be numbered"), (10.0, "budget")])
def test_more_than_there_is_time_for_is_said(spread, why, to_a_percent):
    draw, memory = Normal(spread), Memory(Budget(0.0))
    row = slopes.examined(draw, 0.0, 2**18, memory, "it")
    found = slopes.Slopes(np.zeros(1), np.ones(1), *row[:, None])
    assert "queries would settle it" in found.blind() and why in found.blind()
    assert {stage for stage, _ in draw.sizes} == {0}
    cut = [(what, samples) for what, samples, _ in memory.budget.cut]
    assert cut == ([("it", found.wanted[0])] if why == "budget" else [])


def test_what_the_budget_cut_goes_on_with_more_bit_for_bit(to_a_percent, tmp_path):
    """The pilot that was kept, and the second stage that it asked for: as in one go."""
    whole, cut, later = Normal(2.0), Normal(2.0), Normal(2.0)
    expected = slopes.examined(whole, 0.0, 2**18, FORGETFUL, "it")
    path, identity = tmp_path / "checkpoint", {"settings": "one"}
    first = Checkpoint(path, identity, Budget(0.0))
    blind = slopes.examined(cut, 0.0, 2**18, first, "it")
    first.flush()
    assert blind[-1] > blind[-2] and [what for what, *_ in first.budget.cut] == ["it"]
    second = Checkpoint(path, identity, Budget(100.0))
    found = slopes.examined(later, 0.0, 2**18, second, "it")
    assert found.tolist() == expected.tolist() and not second.budget.cut
    assert [stage for stage, _ in later.sizes].count(1) == 1


@SLOW
def test_errors_of_the_second_stage_are_those_of_a_normal_law(monkeypatch):
    """300 seeds of (slope - exact)/stderr, at a tenth of the default resolution: Kolmogorov-Smirnov
    at 1e-4.
    """
    monkeypatch.setattr(slopes, "RESOLUTION", 0.2)
    rows, r = ROWS["plain"]
    objective = SubspaceDistance(3)
    wanted = float(exact_of(objective, rows).slope(np.ones(1)).value[0])
    z = []
    for seed in range(300):
        draw = lambda stage, samples, seed=seed: sampled(
            objective, rows, r, 1.0, jax.random.key(1000 * seed + stage), samples
        )
        value, stderr, *_ = slopes.examined(draw, 0.0, 512, FORGETFUL, "it")
        z.append((value - wanted) / stderr)
    assert kstest(z, "norm").pvalue > 1e-4
    assert kstest(np.array(z) + 0.5, "norm").pvalue < 1e-4


@pytest.mark.parametrize("error", [0.0, 3e-17])
@pytest.mark.parametrize("value", [-2.0, 0.1, 1 / 3])
def test_samples_that_are_all_alike_have_no_skewness(value, error):
    """Nor with a standard error that rounding makes; and none of it must not end the run."""
    alike = (np.array(x) for x in (value, value**2, value**3, error))
    assert gradient.skewness_of(*alike, 64) == 0


def test_skewness_of_a_mean():
    """That of 0, 0, 0, 1 over the root of four."""
    x = np.array([0.0, 0.0, 0.0, 1.0])
    moments = (np.mean(x**power) for power in (1, 2, 3))
    wanted = float(((x - x.mean()) ** 3).mean() / x.std() ** 3 / 2)
    found = gradient.skewness_of(*moments, np.array(x.std() / 2), 4.0)
    assert found == pytest.approx(wanted, rel=1e-14, abs=0)
