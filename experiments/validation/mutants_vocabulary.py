"""False statements about small problems, and faults in what computes them: what the vocabulary of
claims must refute, each of its functions more than once.

`VOCABULARY` is the list; `TRUE` are statements about the same toys that hold, and `SUBTLE` those
that are false in a way that a finite path may not show: they need not be refuted, but may not come
out SUPPORTED.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import toys
from mutant import YIELDS, Mutant

from popgd import claims
from popgd.claims import examined
from popgd.claims.evidence import Evidence
from popgd.claims.measured import Measured
from popgd.problem.problem import Problem

ETA, ROOT, LINE = toys.ETA, toys.ROOT, toys.LINE
rate = -np.log1p(-ETA)
first, angle = (lambda w: w[0]), (lambda w: w[1] / (1 + w[0]))
balance = lambda w: w["a"] ** 2 - w["b"] ** 2
product = lambda w: w["a"] * w["b"]
line = lambda factor: lambda m, t: 2 * (1 - np.exp(-factor * rate * t))
fallen = lambda factor: lambda m, t: 0.5 * np.exp(-factor * t)
halving = lambda eta: lambda m, t: 1 + 2 * (1 - eta) ** t
starts = lambda size: {"w": toys.number(size)}
SIZES = tuple(0.1 / 4.0**i for i in range(5))
reaches = lambda name, **law: claims.time_to("w", 0.5, starts, SIZES, name=name, **law)
last = lambda m: (m.read("w").value[-1], 1e-12)
ends = lambda at, name: claims.agrees(name, "w at the end", last, at, 1e-6)


def renamed(claim: Callable[[Measured], Any], name: str) -> Callable[[Measured], Any]:
    """The same evidence by another id."""

    def again(measured: Measured) -> Any:
        e: Evidence
        for e in claim(measured):
            yield dataclasses.replace(e, id=name)

    again.__qualname__ = claim.__qualname__
    return again


slope, plane = (
    renamed(examined.slope_agrees, "toy-slope"),
    renamed(examined.plane_holds, "toy-plane"),
)

#: Toy, id of the evidence, claim: all SUPPORTED.
TRUE: tuple[tuple[str, str, Any], ...] = (
    ("root", "exponent-root", claims.grows("w", 0.5, name="root")),
    ("root", "increments-root", claims.increments_converge("w", 2, 2 * ETA, "root")),
    ("line", "converges-line", claims.converges("w", 2.0, "line")),
    ("line", "converges-line-loss", claims.loss_limit(0.0, "line-loss")),
    ("line", "monotone-line", claims.monotone("w", name="line")),
    ("line", "follows-line", claims.follows("w", line(1.0), "line")),
    ("line", "end-line", ends(2.0, "end-line")),
    ("line, rated", "rate-line", claims.at_rate("w", 2.0, rate, "line")),
    ("product", "conserved-balance", claims.conserved(balance, name="balance")),
    ("circle", "follows-angle", claims.follows(angle, fallen(1.0), "angle")),
    ("saddle", "time-saddle", reaches("saddle", rate=1.0)),
    ("square", "time-square", reaches("square", like=-1.0)),
    ("identity", "identity-W", claims.multiple_of_identity("W")),
    ("mirrored", "zero-dead", claims.stays_zero("dead")),
    ("mirrored", "toy-slope", slope),
    ("mirrored", "toy-plane", plane),
    ("undeclared", "zero-sym", claims.stays_zero("sym")),
    ("sampled", "follows-mean", claims.follows(first, halving(0.5), "mean")),
    ("sampled", "converges-mean", claims.converges(first, 1.0, "mean")),
    ("sampled", "conserved-drift", claims.conserved(lambda w: w[1], name="drift")),
    ("seeds", "follows-seeds", claims.follows(lambda w: w["w"][0], halving(0.5), "seeds")),
)
YIELDS.update({id: claim for _, id, claim in TRUE})


def false(name: str, toy: str, id: str, claim: Any) -> Mutant:
    """A statement that does not hold."""
    YIELDS[id] = claim
    return Mutant(name, "prediction", f"vocabulary {toy}", (id,))


def fault(name: str, part: str, toy: str, ids: tuple[str, ...], change: Any, **rest: Any) -> Mutant:
    """Something else is computed than what the statement is about."""
    return Mutant(name, part, f"vocabulary {toy}", ids, change=change, **rest)


def scaled(problem: Problem, factor: float) -> Problem:
    """The exact loss times a factor."""
    return dataclasses.replace(problem, exact=lambda w: factor * problem.exact_of(w)[0])


def moved(name: str, size: float) -> Callable[[Measured], Measured]:
    """A coordinate of all records off by this."""

    def change(study: Measured) -> Measured:
        assert study.path is not None
        off = size * (np.array(study.plane.names) == name)
        return dataclasses.replace(study, path=study.path._replace(x=study.path.x + off))

    return change


STATEMENTS = (
    false("exponent 2% wrong", "root", "exponent-2%", claims.grows("w", 0.51, name="2%")),
    false(
        "constant 0.2% wrong",
        "root",
        "constant-.2%",
        claims.grows("w", 0.5, 1.002 * (2 * ETA) ** 0.5, ".2%"),
    ),
    false(
        "increments 2% wrong",
        "root",
        "increments-2%",
        claims.increments_converge("w", 2, 2.04 * ETA, "2%"),
    ),
    false("limit 1e-5 off", "line", "converges-1e-5", claims.converges("w", 2.00002, "1e-5")),
    false("loss is left", "line", "converges-left", claims.loss_limit(1e-5, "left")),
    false("falls, and rises", "line", "monotone-falls", claims.monotone("w", True, "falls")),
    false("curve 0.01% slow", "line", "follows-slow", claims.follows("w", line(0.9999), "slow")),
    false("ends 1e-5 off", "line", "end-off", ends(2.00001, "end-off")),
    false("rate 2% wrong", "line, rated", "rate-2%", claims.at_rate("w", 2.0, 1.02 * rate, "2%")),
    false("rate of the flow", "line, rated", "rate-flow", claims.at_rate("w", 2.0, ETA, "flow")),
    false(
        "conserved but for 1e-4 b^2",
        "product",
        "conserved-nearly",
        claims.conserved(lambda w: w["a"] ** 2 - 1.0001 * w["b"] ** 2, name="nearly"),
    ),
    false(
        "conserved to O(eta^2) only",
        "product by descent",
        "conserved-by-descent",
        claims.conserved(balance, name="by-descent"),
    ),
    false("rate of a time 2% wrong", "saddle", "time-2%", reaches("2%", rate=1.02)),
    false("exponent of a time 2% wrong", "square", "time-like", reaches("like", like=-1.02)),
    false("a weight that moves is 0", "mirrored", "zero-a", claims.stays_zero("a")),
    false(
        "the rate of half the step",
        "sampled",
        "follows-half",
        claims.follows(first, halving(0.25), "half"),
    ),
    false("limit 20% off", "sampled", "converges-20%", claims.converges(first, 1.2, "20%")),
    false(
        "step half as large, of seeds",
        "seeds",
        "follows-seeds-half",
        claims.follows(lambda w: w["w"][0], halving(0.25), "seeds-half"),
    ),
)

FAULTS = (
    fault(
        "the loss of t^(1/3)",
        "objective",
        "root",
        ("exponent-root",),
        lambda m: toys.path_of(toys.made(ROOT.start, lambda w: 1 / w["w"]), 10**10),
    ),
    fault(
        "step 2% too large",
        "descent",
        "root",
        ("increments-root",),
        lambda m: toys.path_of(ROOT, 10**8, eta=1.02 * ETA),
    ),
    fault(
        "weight decay 1e-5",
        "objective",
        "line",
        ("converges-line", "converges-line-loss", "end-line"),
        lambda m: toys.path_of(
            toys.made(LINE.start, lambda w: (w["w"] - 2) ** 2 / 2 + 1e-5 * w["w"] ** 2 / 2),
            10**4,
        ),
    ),
    fault(
        "step so large that it oscillates",
        "descent",
        "line",
        ("monotone-line", "follows-line"),
        lambda m: toys.path_of(LINE, 10**4, eta=1.5),
    ),
    fault(
        "step 2% too large",
        "descent",
        "line, rated",
        ("rate-line",),
        lambda m: toys.path_of(LINE, 200, eta=1.02 * ETA),
    ),
    fault(
        "descent for flow",
        "descent",
        "product",
        ("conserved-balance",),
        lambda m: toys.path_of(toys.PRODUCT, 10**4, eta=1e-3),
    ),
    fault(
        "the constraint left out",
        "descent",
        "circle",
        ("follows-angle",),
        lambda m: toys.path_of(
            dataclasses.replace(toys.CIRCLE, tangent=None, retraction=None), 100, flow=True
        ),
    ),
    fault(
        "loss 2% too large",
        "objective",
        "saddle",
        ("time-saddle",),
        lambda m: toys.path_of(scaled(toys.SADDLE, 1.02), 10, flow=True),
    ),
    fault(
        "cubic for quadratic growth",
        "objective",
        "square",
        ("time-square",),
        lambda m: toys.path_of(
            toys.made(toys.SQUARE.start, lambda w: -(w["w"] ** 4) / (1 + w["w"] ** 4) / 4),
            10,
            flow=True,
        ),
    ),
    fault(
        "variances apart",
        "law",
        "identity",
        ("identity-W",),
        lambda m: toys.examined_of(toys.identity((1.0, 1.3)), 100),
    ),
    fault("starts 1e-6 beside 0", "descent", "mirrored", ("zero-dead",), moved("dead", 1e-6)),
    fault(
        "exact loss 10% too large",
        "objective",
        "mirrored",
        ("toy-slope",),
        lambda m: toys.examined_of(toys.mirrored(factor=1.1, power=2), 100),
    ),
    fault(
        "a law without the declared symmetry",
        "law",
        "mirrored",
        ("toy-plane",),
        lambda m: toys.examined_of(toys.mirrored(mean=0.5, power=2), 100),
    ),
    fault(
        "a law with a mean",
        "law",
        "undeclared",
        ("zero-sym",),
        lambda m: toys.examined_of(toys.mirrored(mean=0.5, power=2, declared=False), 100),
    ),
    fault(
        "step half as large",
        "descent",
        "sampled",
        ("follows-mean",),
        lambda m: toys.sampled(0, eta=toys.SAMPLED_ETA / 2),
    ),
)
VOCABULARY = STATEMENTS + FAULTS

#: (what, toy, claim): none may be SUPPORTED.
SUBTLE: tuple[tuple[str, str, Any], ...] = (
    ("log t as a small power", "logarithm", claims.grows("w", 0.05)),
    ("log t as the exponent it has now", "logarithm", claims.grows("w", 0.0493)),
    ("t log t as t", "times log", claims.grows("w", 1.0)),
    ("t log t as the exponent it has now", "times log", claims.grows("w", 1.0407)),
    ("log(1/size) as a power", "saddle", reaches("power", like=-0.1)),
    ("log(1/size) as no growth", "saddle", reaches("power", like=0.0)),
    ("a power as log(1/size)", "square", reaches("rate", rate=1.0)),
    ("no convergence yet", "logarithm", claims.converges("w", 25.0)),
    ("no rate of a power", "root", claims.at_rate("w", 0.0, 1e-3)),
)
