"""Mistakes planted in recursion, leap, quadrature, curve and predictions: what the exact half must
see.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from mutant import Mutant, Study, with_exact, with_setting

from popgd.descent import leap, recursion
from popgd.papers.power_method import curve
from popgd.papers.power_method.quadrature import layer as layer_quadrature
from popgd.papers.power_method.quadrature import looped as looped_quadrature
from popgd.papers.power_method.quadrature import trapezoid

Code = Callable[..., Any]


def scaled(kind: type, name: str, factor: float) -> tuple[type, str, Code]:
    """The method with its number multiplied by a factor, or by factor(self)."""
    method = getattr(kind, name)

    def wrong(self: Any, *arguments: Any) -> Any:
        found = method(self, *arguments)
        return found._replace(value=found.value * factor)

    return kind, name, wrong


def root(kind: type, name: str) -> tuple[type, str, Code]:
    method = getattr(kind, name)

    def wrong(self: Any, *arguments: Any) -> Any:
        found = method(self, *arguments)
        return found._replace(value=found.value**0.5)

    return kind, name, wrong


def shifted(kind: Any) -> tuple[tuple[Any, str, Code], ...]:
    """Twice the slope, in its logarithm too."""
    method = kind.log_slope

    def wrong(self: Any, c: Any) -> Any:
        found = method(self, c)
        return found._replace(value=found.value + np.log(2))

    return (scaled(kind, "slope", 2.0), (kind, "log_slope", wrong))


# --- recursion, leap


def without_square(h: Any, c: Any, Delta: Any) -> tuple[Any, Any]:
    return -h * jnp.sqrt(4 * c * c + Delta * Delta), -h * h * Delta


def rising_Delta(h: Any, c: Any, Delta: Any) -> tuple[Any, Any]:
    return h * (h * c - jnp.sqrt(4 * c * c + Delta * Delta)), h * h * Delta


def with_step(factor: float, spare_leap: bool = False) -> tuple[tuple[Any, str, Code], ...]:
    """The recursion, and with it the leap unless spared, at another step size."""
    short = lambda slope, start, eta, *rest, **named: recurse(
        slope, start, factor * eta, *rest, **named
    )
    long = lambda slope, start, eta, *rest, **named: trajectory(
        slope, start, factor * eta, *rest, **named
    )
    return (
        ((recursion, "recurse", short),)
        if spare_leap
        else ((recursion, "recurse", short), (leap, "trajectory", long))
    )


def last(study: Study, name: str) -> Study:
    """A column of the record turned round at the last step alone."""
    records = study.exact.records
    column = getattr(records, name) * np.append(np.ones(len(records.step) - 1), -1.0)
    return with_exact(study, records=records._replace(**{name: column}))


recurse, trajectory = recursion.recurse, leap.trajectory
both_increments = lambda code: ((recursion, "increments", code), (leap, "increments", code))
flow, gauss = leap._flow, leap.gauss


def late(
    slope: Any, eta: Any, d: Any, z: Any, Delta0: Any, relative: Any, log_t: Any, *rest: Any
) -> Any:
    return flow(slope, eta, d, z, Delta0, relative, log_t - np.log(2.0), *rest)


def light(stages: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    nodes, matrix, weights = gauss(stages)
    return nodes, matrix, 0.999 * weights


def without_d() -> tuple[tuple[Any, str, Code], ...]:
    short = lambda slope, start, eta, d, *rest, **named: recurse(
        slope, start, eta, 1, *rest, **named
    )
    long = lambda slope, start, eta, d, *rest, **named: trajectory(
        slope, start, eta, 1, *rest, **named
    )
    return ((recursion, "recurse", short), (leap, "trajectory", long))


ON_D = ("engines-agree-descent", "engines-agree-raw", "increment-constant", "reduced-dynamics")

RECURSION = (
    Mutant(
        "eta^2 g^2 c left out",
        "recursion",
        "4.3",
        ("reduced-dynamics",),
        both_increments(without_square),
        again="exact",
        compiled=True,
        slow=True,
    ),
    Mutant(
        "Delta grows",
        "recursion",
        "4.3",
        ("reduced-dynamics",),
        both_increments(rising_Delta),
        again="exact",
        compiled=True,
        slow=True,
    ),
    Mutant(
        "1% error in the step size of the recursion",
        "recursion",
        "4.2 normalised",
        ("reduced-dynamics",),
        with_step(1.01, True),
        again="exact",
    ),
    Mutant(
        "1% error in the step size of recursion and leap",
        "recursion",
        "4.1",
        ("reduced-dynamics", "increment-constant"),
        with_step(1.01),
        again="exact",
    ),
    Mutant(
        "sign of the weights forgotten",
        "recursion",
        "4.2 normalised",
        ("reduced-dynamics",),
        tuple(
            (module, "sign_after", lambda sign, h, c, Delta: sign) for module in (recursion, leap)
        ),
        again="exact",
        change=lambda study: with_setting(study, eta=1.15),
        compiled=True,
    ),
    Mutant(
        "a and b exchanged at the last record",
        "recursion",
        "4.3",
        ("reduced-dynamics",),
        change=lambda s: last(s, "Delta"),
    ),
    Mutant(
        "a and b exchanged at the last record",
        "recursion",
        "4.2 normalised",
        ("reduced-dynamics",),
        change=lambda s: last(s, "Delta"),
    ),
    Mutant(
        "signs of a and b at the last record",
        "recursion",
        "4.1",
        ("reduced-dynamics",),
        change=lambda s: last(s, "sign"),
    ),
    Mutant(
        "8 times the step size",
        "recursion",
        "4.2 unnormalised",
        ("contraction", "monotone", "reduced-dynamics"),
        with_step(8.0),
        again="exact",
    ),
    Mutant("1/d forgotten", "recursion", "4.1", ON_D, without_d(), again="exact", slow=True),
    Mutant("1/d forgotten", "recursion", "4.3", ON_D, without_d(), again="exact"),
    Mutant(
        "times half of what they are",
        "leap",
        "4.1",
        ("exponent-c", "exponent-a", "exponent-b"),
        ((leap, "_flow", late),),
        again="exact",
        slow=True,
    ),
    Mutant(
        "weights of the integrator 0.1% too small",
        "leap",
        "4.3",
        ("exponent-c",),
        ((leap, "gauss", light),),
        again="exact",
        compiled=True,
        slow=True,
    ),
)

# --- quadrature, curve

log_terms, count, slope_rule = (
    trapezoid._log_terms,
    trapezoid.node_count,
    layer_quadrature.inverse_three_halves_rule,
)
rate = looped_quadrature._looped_rate
half = lambda *a: (count(*a) + 1) // 2


def dropped(power: Any, a: Any, *rest: Any) -> Any:
    return log_terms(power, a.at[-1].set(0.0), *rest)


def heavier(cond: float) -> tuple[Any, Any, Any]:
    t2, weight, error = slope_rule(cond)
    return t2, 1.5 * weight, error


def other_target(self: Any) -> Any:
    target = "normalised" if self.target == "unnormalised" else "unnormalised"
    return c_star(curve.Linear.of(self.spectra, target))


def multiplicity(study: Study) -> Study:
    spectrum = curve.Spectrum(jnp.array([3.0, 1.0]), jnp.array([2.0, 1.0]))
    wrong = curve.Looped.of(spectrum, study.setting.L)
    return with_exact(study, curve=wrong, wide=wrong)


c_star, limit, exact_c_star = curve.Linear.c_star, curve.Looped.limit, curve.q.c_star
more = lambda *a, **k: exact_c_star(*a, **k)._replace(value=1.2 * exact_c_star(*a, **k).value)

CURVE = (
    Mutant(
        "half the nodes",
        "quadrature",
        "4.1",
        ("engines-agree-slope",),
        ((looped_quadrature, "node_count", half),),
        compiled=True,
        slow=True,
        survives="the stated bound grows with the step, and every number stays within it: "
        "tests/test_half_nodes.py",
    ),
    Mutant(
        "an eigenvalue dropped from the log-determinant",
        "quadrature",
        "4.1",
        ("engines-agree-slope",),
        ((trapezoid, "_log_terms", dropped),),
        compiled=True,
        slow=True,
    ),
    Mutant(
        "weights of the pole rule 1.5 times too large",
        "quadrature",
        "4.3",
        ("engines-agree-slope",),
        ((layer_quadrature, "inverse_three_halves_rule", heavier),),
        compiled=True,
        slow=True,
    ),
    Mutant(
        "factor L forgotten in the slope",
        "quadrature",
        "4.1",
        ("engines-agree-slope",),
        (
            (
                looped_quadrature,
                "_looped_rate",
                lambda spec, u, c, L, cond: rate(spec, u, c, L, cond)._replace(
                    value=rate(spec, u, c, L, cond).value / L
                ),
            ),
        ),
        compiled=True,
        slow=True,
    ),
    Mutant(
        "multiplicity r off by one",
        "curve",
        "4.1",
        ("engines-agree-slope", "engines-agree-gradient"),
        change=multiplicity,
    ),
    Mutant(
        "factor 2 in the slope",
        "curve",
        "4.1",
        ("engines-agree-slope", "engines-agree-descent", "increment-constant"),
        shifted(curve.Looped),
        again="exact",
    ),
    Mutant(
        "factor 2 in the slope",
        "curve",
        "4.3",
        ("engines-agree-slope", "engines-agree-descent", "increment-constant"),
        shifted(curve.Layer),
        again="exact",
    ),
    Mutant(
        "1/d forgotten in the mean square",
        "curve",
        "4.2 unnormalised",
        ("reduced-dynamics",),
        (scaled(curve.Linear, "mean_square", 3.0),),
        again="exact",
    ),
    Mutant(
        "c* 20% too large, descent and all",
        "curve",
        "4.2 normalised",
        ("engines-agree-slope",),
        ((curve.q, "c_star", more),),
        again="exact",
    ),
    Mutant(
        "c* 20% too large, descent and all",
        "curve",
        "4.2 unnormalised",
        ("engines-agree-slope",),
        ((curve.q, "c_star", more),),
        again="exact",
    ),
)

# --- predictions


def claiming(exponent: float) -> Callable[[Study], Study]:
    return lambda study: with_setting(
        study, options={**study.setting.options, "claim.exponent": exponent}
    )


exponents = ("exponent-a", "exponent-b", "exponent-c", "increment-constant")


def falling(study: Study) -> Study:
    return with_exact(study, records=study.exact.records._replace(dc=-study.exact.records.dc))


PREDICTIONS = (
    Mutant(
        "wrong kappa",
        "prediction",
        "4.1",
        ("increment-constant", "loss-excess"),
        (scaled(curve.Looped, "constant", 1.001),),
    ),
    Mutant(
        "wrong C1",
        "prediction",
        "4.3",
        ("increment-constant", "loss-vanishes"),
        (scaled(curve.Layer, "constant", 1.001),),
    ),
    Mutant(
        "wrong K2",
        "prediction",
        "4.1",
        ("increment-constant",),
        (scaled(curve.Looped, "correction", 2.0),),
    ),
    Mutant(
        "sign of K2",
        "prediction",
        "4.1",
        ("increment-constant",),
        (scaled(curve.Looped, "correction", -1.0),),
    ),
    Mutant(
        "wrong D",
        "prediction",
        "4.3",
        ("increment-constant", "loss-vanishes"),
        (scaled(curve.Layer, "correction", 2.0),),
    ),
    Mutant(
        "sign of D",
        "prediction",
        "4.3",
        ("increment-constant", "loss-vanishes"),
        (scaled(curve.Layer, "correction", -1.0),),
    ),
    Mutant(
        "wrong l_inf",
        "prediction",
        "4.1",
        ("loss-excess",),
        (scaled(curve.Looped, "limit", 1 + 1e-6),),
    ),
    Mutant(
        "negative l_inf",
        "prediction",
        "4.1",
        ("loss-limit-positive", "loss-excess"),
        (scaled(curve.Looped, "limit", -1.0),),
    ),
    Mutant(
        "l_inf of one loop fewer",
        "prediction",
        "4.1",
        ("loss-excess",),
        ((curve.Looped, "limit", lambda self: limit(curve.Looped.of(self.spectra, self.L - 1))),),
        slow=True,
    ),
    Mutant(
        "square root of the loss",
        "prediction",
        "4.3",
        ("loss-vanishes", "time-to-loss"),
        (root(curve.Layer, "loss"),),
    ),
    Mutant(
        "square root of the recorded losses",
        "prediction",
        "4.3",
        ("loss-bound",),
        change=lambda study: with_exact(study, losses=study.exact.losses**0.5),
    ),
    Mutant(
        "negative L*",
        "prediction",
        "4.2 normalised",
        ("limit-loss", "limit-loss-positive"),
        (scaled(curve.Linear, "limit", -1.0),),
    ),
    Mutant(
        "c* 0.1% off",
        "prediction",
        "4.2 normalised",
        ("limit-c", "contraction"),
        (scaled(curve.Linear, "c_star", 1.001),),
    ),
    Mutant(
        "c* 0.1% off",
        "prediction",
        "4.2 unnormalised",
        ("limit-c", "contraction"),
        (scaled(curve.Linear, "c_star", 1.001),),
    ),
    Mutant(
        "c* of the other target",
        "prediction",
        "4.2 unnormalised",
        ("limit-c",),
        ((curve.Linear, "c_star", other_target),),
    ),
    Mutant(
        "half the contraction rate",
        "prediction",
        "4.2 unnormalised",
        ("contraction",),
        change=lambda study: with_exact(study, curvature=study.exact.curvature / 2),
    ),
    Mutant("sign of 'monotone'", "prediction", "4.2 unnormalised", ("monotone",), change=falling),
    Mutant("exponent 1/3 for 4.1", "prediction", "4.1", exponents, change=claiming(1 / 3)),
    Mutant("exponent 1/2 for 4.3", "prediction", "4.3", exponents, change=claiming(1 / 2)),
    Mutant("exponent 0.334 for 4.3", "prediction", "4.3", exponents, change=claiming(0.334)),
)

EXACT = RECURSION + CURVE + PREDICTIONS
