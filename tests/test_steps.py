"""The error of a single step, where one large step leaves little of a^2 - b^2."""

from types import SimpleNamespace

import numpy as np
import pytest

from popgd.descent.recursion import Records
from popgd.papers.power_method.training import steps
from popgd.papers.power_method.training.study import Study

SLOPE, SLOPE_ERROR = -2.0, 1e-13


def judged(h, change):
    """|ratio - 1| and its error for a + b and a - b, for the first step from (1, 0) with a slope
    wrong by `change`.
    """
    moved = h * (1 + change)
    c, Delta, none = np.array([0.0, -moved]), np.array([1.0, 1 - moved**2]), np.zeros(2)
    records = Records(np.array([0, 1]), c, Delta, none, none, none, np.ones(2), np.array(-1), None)
    slope = SimpleNamespace(value=np.array([SLOPE]), bound=np.zeros(1))
    exact = SimpleNamespace(curve=SimpleNamespace(slope=lambda c: slope), slope_error=SLOPE_ERROR)
    study = object.__new__(Study)  # no more of it is looked at
    for name, value in {
        "exact": exact,
        "setting": SimpleNamespace(eta=3 * h / SLOPE, law=SimpleNamespace(d=3)),
    }.items():
        object.__setattr__(study, name, value)
    ratio, error, _ = steps.gradient_steps(study, records)
    return abs(ratio - 1), error


@pytest.mark.parametrize("h", [-1e-3, -0.5, -0.9663284635302384, -0.999, -2.0])
def test_the_error_of_a_step_covers_what_the_error_of_the_slope_does(h):
    """With h^2 near 1 that is much of a - b: 4.3, eta = 1 and spectrum (5.9, 0.09, 0.01) were
    refuted by 9e-13.
    """
    for change in (SLOPE_ERROR, -SLOPE_ERROR):
        gap, error = judged(h, change)
        assert np.all(gap <= error)
    assert np.all(error < 1e-9)
    gap, error = judged(h, 1e-7)
    assert np.all(gap > error)
