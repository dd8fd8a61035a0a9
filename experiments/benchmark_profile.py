"""Where the time of a gradient goes: the sampler's steps and the moments by themselves, in the same
loop over chunks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import benchmark_gradient as measured
import jax
import jax.numpy as jnp

from popgd.descent import gradient
from popgd.papers.power_method.data import Rotated, Sample
from popgd.papers.power_method.model import Active, Weights
from popgd.problem.law import haar
from popgd.problem.normal import normal
from popgd.problem.pytree import registered


@registered(["law"], ["draw"])
@dataclass(frozen=True, eq=False)
class Partly:
    """A law whose sample stops half way."""

    law: Rotated
    draw: Callable[[Rotated, Any, Any], Any]

    @property
    def d(self) -> int:
        return self.law.d

    @property
    def n(self) -> int:
        return self.law.n

    def sample(self, key: Any, dtype: Any) -> Any:
        return self.draw(self.law, key, dtype)


def numbers(law: Rotated, key: Any, dtype: Any) -> Any:
    return normal(key, (law.d, law.d + 1), dtype)


def rotation(law: Rotated, key: Any, dtype: Any) -> Any:
    return haar(numbers(law, key, dtype)[:, :-1])


def total(weights: Weights, sample: Any) -> Any:
    return sum(jnp.sum(part) for part in jax.tree.leaves(sample))


def as_if(weights: Weights, sample: Sample) -> gradient.Gradient:
    """As many numbers as a gradient has, for next to no work: what remains is the moments."""
    grad, manifold = (
        Weights(weights.P * sample.q[0], weights.Q * sample.q[0]),
        Active(len(sample.q)),
    )
    coordinates = manifold.coordinates(grad)
    return gradient.Gradient(
        sample.q[0], grad, coordinates, coordinates**2, manifold.deviations(grad)
    )


def measure(rows: list[dict[str, Any]]) -> None:
    """Adds "profile" to the rows of float32: seconds of each step, and of the products at the GEMM
    rate.
    """
    for row in (row for row in rows if row["dtype"] == "float32"):
        d, n, L = row["d"], row["n"], row["L"]
        weights, law, key = measured.setting(d, n, L, "float32")
        few = jax.vmap(lambda k, law=law: law.sample(k, jnp.dtype("float32")))(
            jax.random.split(key, 8)
        )
        stages = {
            "numbers": (total, Partly(law, numbers)),
            "rotation": (total, Partly(law, rotation)),
            "sample": (total, law),
            "moments": (as_if, measured.Stored(few)),
        }

        def average(statistic: Any, where: Any, weights: Any = weights, key: Any = key) -> None:
            jax.block_until_ready(
                gradient.population_average(statistic, weights, where, key, measured.BATCH)[:2]
            )

        work = {name: partial(average, *stage) for name, stage in stages.items()}
        for run in work.values():
            run()
        seconds = measured.interleaved(work, 5)
        products = measured.BATCH * measured.executed(d, n, L) / row["gemm"]
        row["profile"] = {
            "normal numbers": seconds["numbers"],
            "rotation": seconds["rotation"] - seconds["numbers"],
            "X = O U": seconds["sample"] - seconds["rotation"],
            "products at the GEMM rate": products,
            "moments": seconds["moments"],
            "small products, LN": row["seconds"]["popgd"] - products - seconds["moments"],
        }
        print(
            f"profile {(d, n, L)}: "
            + ", ".join(f"{k} {v:.2g} s" for k, v in row["profile"].items()),
            flush=True,
        )
