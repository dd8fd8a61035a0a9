"""Mistakes planted in the loop over test data and in what is predicted of it: what Theorems 4.6 and
4.7 must see.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from mutant import Mutant
from mutants_exact import other_target, scaled

from popgd.papers.power_method import curve
from popgd.papers.power_method.looping import inference
from popgd.papers.power_method.looping import study as looping
from popgd.papers.power_method.looping.inference import Bounds
from popgd.papers.power_method.looping.study import Inference

#: A matrix with a simple and one with a multiple leading eigenvalue show every mistake.
MATRICES = ("clustered", "repeated")

loop, angles, bounds = looping._loop, inference.angles, inference.bounds


def again(study: Inference) -> Inference:
    """The trained models looped once more, on `MATRICES` only."""
    last_only = "loops" not in study.setting.options
    runs = {}
    for trained, before in study.pairs():
        tests = [run.test for run in before if run.test.name in MATRICES]
        runs[trained.name] = tuple(
            looping.run_on(trained, test, study.depths, last_only) for test in tests
        )
    return dataclasses.replace(study, runs=runs)


def flipped(
    a: Any, b: Any, X: Any, queries: Any, loops: int, normalise: bool, last_only: bool
) -> Any:
    return loop(a, b, X, queries, loops, not normalise, last_only)


def opposite(a: Any, b: Any, *rest: Any) -> Any:
    return loop(-a, b, *rest)


def untrained(a: Any, b: Any, *rest: Any) -> Any:
    return loop(jnp.broadcast_to(a[:1], a.shape), jnp.broadcast_to(b[:1], b.shape), *rest)


def longer(a: Any, b: Any, *rest: Any) -> Any:
    return loop(a, 1.001 * b, *rest)


def halved(spectrum: Any, at: Any, c: float, loops: Any) -> Any:
    return angles(spectrum, at, c, np.asarray(loops) / 2)


def one_more(function: Any) -> Any:
    return lambda spectrum, at, c, loops: function(spectrum, at, c, np.asarray(loops) + 1)


def swapped(*arguments: Any) -> Bounds:
    found = bounds(*arguments)
    return Bounds(found.upper, found.upper, found.lower)


def second(spectrum: Any, c: float) -> float:
    return float(inference.log_weights(spectrum, c)[1])


def each(name: str, *models: str) -> tuple[str, ...]:
    return tuple(f"{name}-{model}" for model in models)


STUCK = each("factor-stuck", "norm", "unnorm")
THREE, ONE = ("LN", "norm", "unnorm"), ("looped",)
EVERY = (("4.6", THREE), ("4.7", ONE))


def both(name: str, part: str, claims: tuple[str, ...], *patches: Any) -> tuple[Mutant, ...]:
    """The mutant in both theorems; claims are named without their model."""
    return tuple(
        Mutant(
            name,
            part,
            theorem,
            tuple(c for claim in claims for c in each(claim, *models)),
            patches,
            change=again,
        )
        for theorem, models in EVERY
    )


INFERENCE = (
    *both(
        "LN dropped, or added, at inference", "model", ("loop-output",), (looping, "_loop", flipped)
    ),
    *both(
        "sign of the layer",
        "model",
        ("loop-output", "sin-exact", "contraction"),
        (looping, "_loop", opposite),
    ),
    *both(
        "b 0.1% too large at inference",
        "model",
        ("loop-output", "sin-exact", "contraction"),
        (looping, "_loop", longer),
    ),
    *both(
        "half the loops in the formula", "prediction", ("sin-exact",), (inference, "angles", halved)
    ),
    *both(
        "sides of the bounds swapped",
        "prediction",
        ("upper-bound", "lower-bound"),
        (inference, "bounds", swapped),
    ),
    *both(
        "gamma with lam_2 for lam_(r+1)",
        "prediction",
        ("lower-bound", "contraction"),
        (inference, "log_factor", second),
    ),
    Mutant(
        "every snapshot is the first",
        "model",
        "4.6",
        ("factor-falls-LN", "factor-limit-LN", *STUCK),
        ((looping, "_loop", untrained),),
        change=again,
    ),
    Mutant(
        "every snapshot is the first",
        "model",
        "4.7",
        ("factor-falls-looped", "factor-limit-looped", "limit-angle-looped", "limit-upper-looped"),
        ((looping, "_loop", untrained),),
        change=again,
    ),
    Mutant(
        "slopes 1.5 times as large",
        "curve",
        "4.6",
        each("engines-agree-slope", *THREE),
        (scaled(curve.Layer, "slope", 1.5), scaled(curve.Linear, "slope", 1.5)),
    ),
    Mutant(
        "slopes 1.5 times as large",
        "curve",
        "4.7",
        each("engines-agree-slope", *ONE),
        (scaled(curve.Looped, "slope", 1.5),),
    ),
    Mutant(
        "constant 1% off",
        "curve",
        "4.6",
        ("factor-limit-LN",),
        (scaled(curve.Layer, "constant", 1.01),),
    ),
    Mutant(
        "constant 1% off",
        "curve",
        "4.7",
        ("factor-limit-looped",),
        (scaled(curve.Looped, "constant", 1.01),),
    ),
    Mutant(
        "c* of the other target", "curve", "4.6", STUCK, ((curve.Linear, "c_star", other_target),)
    ),
    Mutant(
        "power method of one loop more",
        "prediction",
        "4.7",
        ("limit-angle-looped",),
        ((inference, "angles", one_more(angles)),),
    ),
    Mutant(
        "sides of the bounds swapped in the limit",
        "prediction",
        "4.7",
        ("limit-upper-looped", "limit-lower-looped"),
        ((inference, "bounds", swapped),),
    ),
)
