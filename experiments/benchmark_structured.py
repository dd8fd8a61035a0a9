"""The structured statistic of projected descents (structured.py) against the full gradient,
and what its orbits gain.

work = seconds times squared standard error: the time that one and the same error takes. Both are
unbiased for the same number. `one query` is the structured statistic at one query a sample; sign
flips of the query in the eigenbasis of S leave every sample's loss as it is, so that averages over
them gain nothing.
"""

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from popgd.descent import descent
from popgd.descent.gradient import Gradient
from popgd.papers.power_method import model
from popgd.papers.power_method.data import Orbit, Rotated, UniformSphere, UnitColumns
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.structured import AlongActive, structured

SAMPLES, REPEATS, POINT = 2**15, 3, (1.5, 1.0)
LAWS: dict[str, UnitColumns] = {
    "spectrum (8, 5, 4, 2, 1)": Rotated.with_spectrum((8, 5, 4, 2, 1)),
    "d = 20, n = 100": Rotated.with_spectrum(
        tuple(9.5 - 0.473684210526315789 * k for k in range(20))
    ),
    "uniform, d = 5, n = 20": UniformSphere(5, 20),
}
OBJECTIVES = {"4.1, L = 3": SubspaceDistance(3), "4.3": PowerIteration()}


@dataclass(frozen=True)
class OneQuery(AlongActive):
    """The same for one query of each orbit."""

    def __call__(self, weights: Weights, sample: Orbit) -> Gradient:
        d, one = len(sample.Q), sample._replace(Q=sample.Q[:, :1])
        loss, slope = jax.value_and_grad(self.loss)(model.Active(d).coordinates(weights), one)
        return Gradient(loss, (), slope / d, (slope / d) ** 2)


def measure() -> list[dict[str, Any]]:
    """For each law and objective: seconds, and error of the slope in Q12, of `SAMPLES` samples by
    the three statistics.
    """
    rows = []
    for law_name, law in LAWS.items():
        for name, objective in OBJECTIVES.items():
            full = descent.Descent(objective, optax.sgd(0.1), model.Active(law.d))
            cheap, seen = structured(full, law)
            single = descent.Descent(
                objective,
                full.optimiser,
                full.plane,
                statistic=OneQuery(cheap.statistic.objective),  # pyright: ignore
            )
            ways = {"full": (full, law), "structured": (cheap, seen), "one query": (single, seen)}
            found = {way: once(law.d, *how) for way, how in ways.items()}
            row = {"law": law_name, "objective": name}
            row |= {way: {"seconds": s, "error": e, "mean": m} for way, (s, e, m) in found.items()}
            row |= {
                f"gain over {way}": work(found[way]) / work(found["structured"])
                for way in ("full", "one query")
            }
            rows.append(row)
            print(
                f"{law_name}, {name}: the same error {row['gain over full']:.0f} times as fast "
                "by the structured statistic, "
                f"{row['gain over one query']:.1f} times by its orbits",
                flush=True,
            )
    return rows


def once(d: int, how: descent.Descent, law: Any) -> tuple[float, float, float]:
    """(median seconds, standard error, mean) of the slope in Q12, for d features."""
    weights = model.embed(jnp.asarray(POINT[0]), jnp.asarray(POINT[1]), d)
    seconds, estimate = [], None
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        estimate = jax.block_until_ready(how.gradient(weights, law, jax.random.key(0), SAMPLES))
        seconds.append(time.perf_counter() - began)
    assert estimate is not None
    return (
        sorted(seconds[1:])[REPEATS // 2],
        float(estimate.stderr.coordinates[1]),
        float(estimate.mean.coordinates[1]),
    )


def work(found: tuple[float, float, float]) -> float:
    return found[0] * found[1] ** 2
