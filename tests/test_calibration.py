"""Statistical claims err as often as they say: a fast twin of experiments/calibration.py, on few samples and steps.

Intervals are wide enough that a calibrated claim fails here with probability 1e-6 at most.
"""

import dataclasses
from statistics import NormalDist

import numpy as np
import pytest
from calibrate import NOMINAL, calibrate, check_same, measure, quiet, statistical
from runs import study

from popgd import gradient
from popgd.theory import manifold
from popgd.theory.study import Point, sampled
from popgd.verdict import POWER

SEEDS, TOGETHER = 200, 100
#: Sizes that cost next to nothing; the last step is on the shared run's grid of records.
SMALL = {"samples": 256, "sampled_steps": 4, "batch": 64}
#: Of all counts below together.
FALSE_ALARM = 1e-6
CLAIMS = ("active-gradient-scalar", "gradient-negative", "engines-agree-slope", "engines-agree-descent", "engines-agree-raw")
WIDE = NormalDist().inv_cdf(1 - FALSE_ALARM / 2 / len(CLAIMS))


@pytest.fixture(scope="module")
def small():
    whole = study("4.3")
    return dataclasses.replace(whole, setting=dataclasses.replace(whole.setting, **SMALL))


@pytest.fixture(scope="module")
def studies(small):
    return [one for first in range(0, SEEDS, TOGETHER) for one in measure(small, range(first, first + TOGETHER))]


@pytest.fixture(scope="module")
def found(studies):
    rows = [[*statistical(one)] for one in studies]
    return {claim[0].id: calibrate(claim) for claim in zip(*rows, strict=True)}


def test_the_batched_measurement_is_that_of_the_package(small, studies):
    check_same(studies[0], sampled(small.setting, small.objective, small.exact, quiet))


@pytest.mark.parametrize("claim", CLAIMS)
def test_false_alarms_and_power(claim, found):
    row = found[claim]
    # Normal approximation of the binomial law; + 3 for its skewness at these counts.
    alarms = SEEDS * NOMINAL + WIDE * np.sqrt(SEEDS * NOMINAL * (1 - NOMINAL)) + 3
    missed = SEEDS * (1 - POWER) + WIDE * np.sqrt(SEEDS * POWER * (1 - POWER)) + 3
    assert row["alarms"] <= alarms
    assert SEEDS - row["caught"] <= missed


def test_no_claim_but_the_raw_descent_is_conservative(found):
    """That one allows half its measured bias. The others raise some 40 alarms together: fewer than 9 has chance 1e-9."""
    assert sum(found[claim]["alarms"] for claim in CLAIMS[:-1]) >= 9


def test_every_statistical_claim_is_calibrated(found):
    assert set(found) == set(CLAIMS)


def test_the_skewness_of_a_trace_is_bounded_from_above():
    """x = -E of an exponential E: skewness -2, and the bound sd(x^2) - 2 = 2.47 from m = -1, s = 1, sd(x^2) = 20^(1/2)."""
    samples = 100
    moments = [gradient.Gradient(0.0, None, coordinates=np.full(2, t), square=np.full(2, q))
               for t, q in ((-1.0, 2.0), (0.1, 20**0.5 / 10))]  # fmt: skip
    estimate = gradient.Estimate(*moments, samples)
    bound = manifold.downward_skewness(Point(1.0, 0.0, estimate, estimate))
    assert bound == pytest.approx(20**0.5 - 2)
