"""Statistical claims of the vocabulary err as often as they say, on toys: a fast twin of
experiments/validation/calibration.py.

Intervals are wide enough that a calibrated claim fails here with probability 1e-6 at most.
"""

from statistics import NormalDist

import numpy as np
import pytest
from calibrate import NOMINAL, calibrate
from calibrate_vocabulary import CONSERVATIVE, TOYS, evidence

from popgd.theorem.verdict import POWER

SEEDS = 60
FALSE_ALARM = 1e-6
#: Of all counts below together.
WIDE = NormalDist().inv_cdf(1 - FALSE_ALARM / 2 / sum(len(toy.claims) for toy in TOYS))


def missed(found, probability):
    """So many of them at most; + 3 for the skewness of the binomial law at these counts."""
    return (
        len(found) * probability + WIDE * np.sqrt(len(found) * probability * (1 - probability)) + 3
    )


@pytest.mark.parametrize(
    "toy",
    [
        pytest.param(
            toy, id=toy.name, marks=[pytest.mark.slow] if toy.name.startswith("gradients") else []
        )
        for toy in TOYS
    ],
)
def test_false_alarms_and_power(toy):
    for found in evidence(toy, range(1, SEEDS + 1)):
        assert all(e.statistical and e.id == found[0].id for e in found)
        row = calibrate(found)
        assert row["alarms"] <= missed(found, NOMINAL), row
        assert SEEDS - row["caught"] <= missed(found, 1 - POWER), row
        # errors that are added up are up to twice the scatter, others are the scatter
        low = 0.4 if found[0].id.startswith(tuple(CONSERVATIVE)) else 0.8
        assert low < row["spread"] < 1.4, row
