"""Statistical claims err as often as they say: a fast twin of
experiments/validation/calibration.py, on few samples and steps.

Intervals are wide enough that a calibrated claim fails here with probability 1e-6 at most.
"""

import dataclasses
import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from calibrate import NOMINAL, calibrate, check_same, quiet, stated, statistical, uncalibrated
from calibrate_manifold import exact_of, measure
from runs import study

from popgd.descent import gradient
from popgd.papers.power_method.training.measure import sampled
from popgd.theorem import verdict
from popgd.theorem.problems import is_about_a_problem
from popgd.theorem.registry import theorems
from popgd.theorem.verdict import POWER

SEEDS, TOGETHER = 200, 100
#: Sizes that cost next to nothing; the last step is on the shared run's grid of records.
SMALL = {"samples": 1024, "sampled_steps": 4, "batch": 64}
#: Of all counts below together.
FALSE_ALARM = 1e-6
CLAIMS = (
    "active-gradient-scalar",
    "gradient-negative",
    "engines-agree-slope",
    "engines-agree-gradient",
    "engines-agree-descent",
    "engines-agree-raw",
)
#: What the source can yield and these findings never do: it is about more than one layer.
NEVER = {f"4.{k}.stability": {"hessian-p12-q21"} for k in (2, 3)}
WIDE = NormalDist().inv_cdf(1 - FALSE_ALARM / 2 / len(CLAIMS))


@pytest.fixture(scope="module")
def small():
    whole = study("4.3")
    return dataclasses.replace(whole, setting=dataclasses.replace(whole.setting, **SMALL))


@pytest.fixture(scope="module")
def studies(small):
    return [
        one
        for first in range(0, SEEDS, TOGETHER)
        for one in measure(small, range(first, first + TOGETHER))
    ]


@pytest.fixture(scope="module")
def found(studies):
    rows = [[*statistical(one)] for one in studies]
    return {claim[0].id: calibrate(claim) for claim in zip(*rows, strict=True)}


@pytest.mark.slow
def test_the_batched_measurement_is_that_of_the_package(small, studies):
    check_same(studies[0], sampled(small.setting, small.objective, small.exact, quiet))


def test_the_exact_half_is_that_of_the_package(small):
    """The study of seeds takes the descent's steps by the curve itself, popgd by an interpolant."""
    mine, wanted = exact_of(small.setting, small.objective).short, small.exact.short
    assert mine.c == pytest.approx(
        wanted.c[: mine.c.size], rel=1e-11, abs=0
    ) and mine.dc == pytest.approx(wanted.dc[: mine.c.size], rel=1e-10, abs=0)


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS)
def test_false_alarms_and_power(claim, found):
    row = found[claim]
    # Normal approximation of the binomial law; + 3 for its skewness at these counts.
    alarms = SEEDS * NOMINAL + WIDE * np.sqrt(SEEDS * NOMINAL * (1 - NOMINAL)) + 3
    missed = SEEDS * (1 - POWER) + WIDE * np.sqrt(SEEDS * POWER * (1 - POWER)) + 3
    assert row["alarms"] <= alarms
    assert SEEDS - row["caught"] <= missed


@pytest.mark.slow
def test_no_claim_but_the_raw_descent_is_conservative(found):
    """That one allows half its measured bias. The others raise some 40 alarms together: fewer than
    9 has chance 1e-9.
    """
    assert set(found) == set(CLAIMS)
    assert sum(found[claim]["alarms"] for claim in CLAIMS[:-1]) >= 9


def test_every_statistical_claim_is_calibrated():
    """Of all theorems and findings, by the source of their claims: each is in the numbers of the
    study, and keeps its word.
    """
    numbers = json.loads((Path(__file__).parents[1] / "figures" / "calibration.json").read_text())[
        "claims"
    ]
    assert uncalibrated(numbers) == []
    assert all(
        row["seeds"] >= 1000 and row["verdict"] in ("calibrated", "conservative", "excused")
        for row in numbers
    )


#: Claims of the vocabulary are functions made by functions: their ids are told by `about`.
WRITTEN_OUT = [name for name, t in theorems().items() if not is_about_a_problem(t)]


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_theorem_declares_what_its_source_may_sample(name):
    """Its `sampled` against the source of its claims, both ways."""
    found = set().union(*map(stated, theorems()[name].claims)) - NEVER.get(name, set())
    fits = lambda id, seen: id.startswith(seen[:-1]) if seen[-1] == "*" else id == seen
    declared = theorems()[name].sampled
    assert all(any(fits(id, seen) for seen in found) for id in declared)
    assert all(any(fits(id, seen) for id in declared) for seen in found)


def test_a_claim_that_is_not_calibrated_is_missed():
    every = uncalibrated([])
    assert {"4.1 gradient-negative", "gatmiry.loops median-vanishes", "4.3.stability saddle"} < set(
        every
    )
    assert not [row for row in every if row.startswith(("4.6", "gatmiry.flow")) or "forward" in row]


def test_the_third_moment_gives_the_skewness_of_a_mean():
    """Of 1, 1, 1, 5 and of a loss that is always 2: (3 1 - 27) ... = 2/3^(1/2) in one sample, and
    0.
    """
    x = np.array([1.0, 1.0, 1.0, 5.0])
    stderr = np.sqrt(x.var() / x.size)
    moments = gradient.Gradient(
        2.0,
        None,
        x.mean()[None],
        np.array([(x**2).mean(), 4.0]),
        None,
        np.array([(x**3).mean(), 8.0]),
    )
    errors = gradient.Gradient(0.0, None, np.array([stderr]))
    assert gradient.skewness(gradient.Estimate(moments, errors, 4)) == pytest.approx(
        [2 / 3**0.5 / 2, 0.0], rel=1e-6, abs=0
    )


@pytest.mark.parametrize(
    ("tail", "degrees", "quantile"),
    [(0.01, 15, 2.602480), (1e-3, 15, 3.732834), (0.05, 10, 1.812461)],
)
def test_few_degrees_of_freedom_widen_the_quantile(tail, degrees, quantile):
    assert verdict.student(verdict.z_score(tail), degrees) == pytest.approx(
        quantile, rel=0.01, abs=0
    )
    assert verdict.student(2.0, np.inf) == 2.0 and verdict.student(2.0, 1) == np.inf
