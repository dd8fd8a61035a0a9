"""The stated errors of all numbers that sampled spectra move, against their scatter over seeds."""

import jax
import numpy as np
import pytest

from popgd import curve as curves
from popgd.report import resolve
from popgd.theory import convergence, growth, power_method
from popgd.theory.study import Study

SEEDS = 16
#: Scatter over stated error: chi-squared with 15 degrees of freedom stays in it with probability 1 - 1e-4, and a half more on
#: either side for errors that are themselves estimated from 64 spectra.
LEAST, MOST = 0.35 / 1.5, 1.75 * 1.5
SIZES = {"law": "uniform", "d": 3, "n": 9, "spectra": 64, "samples": 2, "sampled_steps": 1, "batch": 2}
#: Numbers that no sampled spectrum moves beyond rounding, or whose error is no more than a bound.
UNMOVED = {("4.1", "exponent_c"), ("4.3", "exponent_c"), ("4.3", "loss_limit")}
CURVES = {
    "4.1": (lambda setting: lambda s: curves.Looped.of(s, setting.L), 2),
    "4.3": (lambda setting: curves.Layer.of, 3),
}


def halved(**parts):
    """A study of which only these parts are there."""
    study = object.__new__(Study)
    for name, value in parts.items():
        object.__setattr__(study, name, value)
    return study


def numbers(theorem, seed, target="", **own):
    """What the theorem's exact half reports for these sampled spectra."""
    setting = resolve({"theorem": theorem, "seed": seed, **SIZES, **own})
    quiet = lambda *_: None
    if theorem in CURVES:
        make, power = CURVES[theorem]
        exact = growth.descend_exactly(setting, make(setting), power, quiet)
        return power_method.growth_quantities(halved(exact=exact, setting=setting))
    exact = convergence.descend_exactly(setting, lambda s: curves.Linear.of(s, target), quiet)
    return convergence.quantities(halved(exact=exact, setting=setting))


def ratios(theorem, **own):
    """Scatter over the root mean square of the stated errors, number by number."""
    found = [numbers(theorem, seed, **own) for seed in range(SEEDS)]
    result = {}
    for name in found[0]:
        values, errors = np.array([run[name] for run in found]).T
        assert np.isfinite(errors).all(), name
        result[name] = values.std(ddof=1) / np.sqrt(np.mean(errors**2))
    return result


def check(theorem, **own):
    found = ratios(theorem, **own)
    for name, ratio in found.items():
        if (theorem, name) in UNMOVED:
            assert ratio < MOST, (name, ratio)
        else:
            assert LEAST < ratio < MOST, (name, ratio)
    return found


SLOW = pytest.mark.slow
NORMALISED = {"target": "normalised"}


@pytest.mark.parametrize(
    "own",
    [{"target": "unnormalised"}, pytest.param(NORMALISED, marks=SLOW),
     pytest.param({**NORMALISED, "steps": 5, "init": "Q12"}, marks=SLOW)],
)  # fmt: skip
def test_numbers_of_a_descent_that_converges(own):
    """Before, c_final was 1e12 times as far from the truth as it said."""
    check("4.2", **own)


def test_without_the_sampling_error_it_fails(monkeypatch):
    monkeypatch.setattr(convergence.Changed, "sampling", lambda self, values: 0.0 * values[..., 0])
    assert ratios("4.2", target="unnormalised")["c_final"] > 1e6


@pytest.mark.slow
@pytest.mark.parametrize("steps", [10, 10**4, 10**18])
@pytest.mark.parametrize("theorem", CURVES)
def test_numbers_of_a_descent_that_grows(theorem, steps):
    check(theorem, steps=steps)
    jax.clear_caches()


@pytest.mark.slow
def test_without_the_response_of_the_descent_it_fails(monkeypatch):
    monkeypatch.setattr(growth, "sampling_errors", lambda exact: np.zeros(3))
    assert ratios("4.1", steps=10**6)["c_final"] > 1e6
