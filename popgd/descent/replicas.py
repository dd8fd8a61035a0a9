"""Sampled descent of many replicas at two batch sizes: population descent with an error bar.

Noise of a batch of B samples biases whatever is read off a descent by O(eta/B). So REPLICAS-many
runs are made at B and at 2B, and what is read is 2 x_2B - x_B, with the standard error of both
means.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from popgd.descent import gradient
from popgd.descent.recorded import Progress, recorded
from popgd.descent.recursion import log_grid

#: Samples of a batch in memory at once.
CHUNK = 64

#: (coordinates, key of a sample) -> the sample's gradient in them.
Slope = Callable[[Float[Array, " k"], Array], Float[Array, " k"]]


class Replicas(NamedTuple):
    """Coordinates of every replica at the recorded steps, at batches B and 2B."""

    step: Float[np.ndarray, " records"]
    x: Float[np.ndarray, "2 replicas records k"]


@partial(jax.jit, static_argnames=("slope", "batch", "retract"))
def _advance(
    slope: Slope,
    retract: Any,
    eta: Array,
    batch: int,
    keys: Array,
    x: Array,
    first: Any,
    end: Any,
) -> Array:
    """Steps first ... end - 1 of all replicas."""
    size = min(CHUNK, batch)
    rounds = -(-batch // size)

    def one(x: Array, key: Array) -> Array:
        def step(i: Array, x: Array) -> Array:
            here = jax.random.fold_in(key, i)

            def add(j: Array, total: Array) -> Array:
                number = j * size + jnp.arange(size)
                own = jax.vmap(lambda n: slope(x, jax.random.fold_in(here, n)))(number)
                return total + jnp.sum(jnp.where((number < batch)[:, None], own, 0), axis=0)

            mean = jax.lax.fori_loop(0, rounds, add, jnp.zeros_like(x)) / batch
            return retract(x - eta * mean)

        return jax.lax.fori_loop(first, end, step, x)

    return jax.vmap(one)(x, keys)


def descend(
    slope: Slope,
    start: Float[np.ndarray, " k"],
    eta: float,
    steps: int,
    batch: int,
    replicas: int,
    key: Array,
    retract: Callable[[Array], Array] = lambda x: x,
    progress: Progress | None = None,
) -> Replicas:
    """`replicas` sampled descents at batches `batch` and twice that, each with samples of its own,
    recorded on a logarithmic grid of 0 ... `steps`; replicas are shared by the devices.
    """
    devices = len(jax.devices())
    count = -(-replicas // devices) * devices
    place = NamedSharding(gradient._mesh(), PartitionSpec(gradient.AXIS))
    grid = log_grid(steps, 8)
    found = []
    for number, size in enumerate((batch, 2 * batch)):
        own = jax.random.split(jax.random.fold_in(key, number), count)
        x = jax.device_put(jnp.broadcast_to(jnp.asarray(start), (count, len(start))), place)
        own = jax.device_put(own, place)
        advance = partial(_advance, slope, retract, jnp.asarray(eta), size, own)
        rows = []
        for t, now in recorded(advance, x, grid, longest=steps):
            rows.append(np.asarray(now))
            if progress is not None and t:
                progress(t + number * steps, 2 * steps)
        found.append(np.stack(rows, axis=1)[:replicas])
    return Replicas(grid.astype(float), np.stack(found))
