"""Statistical claims of the vocabulary for many seeds, on toys: sampled descents of a problem
without an exact loss, sampled gradients at points of an exact path, and recorded seeds.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import toys
from calibrate import calibrate

from popgd import claims
from popgd.claims import examined
from popgd.claims.evidence import Evidence
from popgd.claims.measured import Measured
from popgd.descent.memory import FORGETFUL

first, drift, falling = (lambda w: w[0]), (lambda w: w[1]), (lambda w: w[2])
recorded_first = lambda w: w["w"][0]
halving = lambda m, t: 1 + 2 * (1 - toys.SAMPLED_ETA) ** t
#: Records of one descent move together, and each counts as a test of its own.
TOGETHER = "the records of one descent move together, and each counts as a test of its own"
#: Why a claim may refute the truth less often than its level: by the start of its name.
CONSERVATIVE = {
    "follows": TOGETHER,
    "conserved": TOGETHER,
    "monotone": "the errors of both ends of a step are added up; " + TOGETHER,
    "converges": "what is left to come is allowed for",
}


class Toy(NamedTuple):
    """What is measured of one seed, and the claims that are true of it."""

    name: str
    one: Callable[[int], Any]
    claims: Sequence[Callable[[Any], Any]]


def gradients(name: str) -> Callable[[int], Measured]:
    """The sampled gradients of a toy, at the same points of the same path."""

    def one(seed: int) -> Measured:
        study = toys.study(name)
        key = lambda *purpose: jax.random.fold_in(jax.random.key(seed), sum(purpose))
        setting = SimpleNamespace(**{**vars(toys.SETTING), "key": key})
        checks = examined.examine(study.dynamics, setting, study.checks["x"], FORGETFUL)
        found = dataclasses.replace(study, checks=checks)
        vars(found)["zeros"] = study.zeros  # why entries are 0 is in no number
        return found

    return one


TOYS = (
    Toy(
        "sampled descents",
        partial(toys.sampled, batch=64),
        (
            claims.follows(first, halving, "mean"),
            claims.converges(first, 1.0, "mean"),
            claims.conserved(drift, name="drift"),
            claims.monotone(falling, falls=True, name="fall"),
        ),
    ),
    Toy(
        "recorded seeds",
        toys.seeds,
        (
            claims.follows(recorded_first, halving, "seeds"),
            claims.converges(recorded_first, 1.0, "seeds"),
        ),
    ),
    Toy("gradients", gradients("undeclared"), (examined.slope_agrees, claims.stays_zero("sym"))),
    Toy("gradients of matrices", gradients("identity"), (claims.multiple_of_identity("W"),)),
    Toy("gradients off a plane", gradients("mirrored"), (examined.plane_holds,)),
)


def evidence(toy: Toy, seeds: Sequence[int]) -> list[list[Evidence]]:
    """For each claim its evidence by seed."""
    studies = [toy.one(seed) for seed in seeds]
    return [[e for study in studies for e in claim(study)] for claim in toy.claims]


def rows(toy: Toy, seeds: int) -> list[dict[str, Any]]:
    """False alarms and power of each claim, as of the papers' claims."""
    named = {"case": f"vocabulary: {toy.name}", "theorem": "vocabulary"}
    return [{**named, **calibrate(found)} for found in evidence(toy, range(1, seeds + 1))]
