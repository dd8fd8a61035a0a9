"""Monte Carlo population averages, each with its standard error; above all the gradient of every block.

Samples are drawn by global index, so the samples depend on the key alone, and sums agree to rounding whatever the
chunk and the number of devices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from popgd.data import Law
from popgd.objectives import Objective
from popgd.weights import Manifold, Weights

#: Samples are split over this many logical shards whatever the number of devices, and their sums are added in
#: shard order; with more devices than this, the rest are idle.
SHARDS = 8
AXIS = "samples"
#: A chunk's working set should stay near a core's second-level cache; twice or half of it costs a few per cent.
CHUNK_BYTES = 2**19
#: Arrays of the size of the token matrix, and of P, that one sample's gradient keeps alive at least: a layer's input,
#: output, their gradients and norms; P, Q, Z Z^T, their products, gradients, running means and squares.
LIVE_TOKENS, LIVE_WEIGHTS = 8, 12

#: A statistic of the weights and one sample: any pytree of arrays. It must be hashable.
Statistic = Callable[[Weights, Any], PyTree[Float[Array, "..."]]]


class Estimate(NamedTuple):
    """A Monte Carlo mean, entry by entry, with the standard error of that mean and the number of samples."""

    mean: Any
    stderr: Any
    samples: int


class Gradient(NamedTuple):
    """One sample's loss, its gradient in every entry, and what a manifold makes of that (empty without one).

    `coordinates` holds the gradient's part along the manifold (k,), `square` its square (whose own standard error tells
    whether that of the coordinates can be trusted), `deviations` what `Manifold.deviations` says.
    """

    loss: Float[Array, ""]
    weights: Weights
    coordinates: Any = ()
    square: Any = ()
    deviations: Any = ()


@dataclass(frozen=True)
class GradientOf:
    """The statistic behind `population_gradient`."""

    objective: Objective
    manifold: Manifold | None = None

    def __call__(self, weights: Weights, sample: Any) -> Gradient:
        loss, grad = jax.value_and_grad(self.objective)(weights, sample)
        if self.manifold is None:
            return Gradient(loss, grad)
        coordinates = self.manifold.coordinates(grad)
        return Gradient(loss, grad, coordinates, coordinates**2, self.manifold.deviations(grad))


def working_set(D: int, N: int) -> int:
    """Bytes that one sample's forward and backward pass keep alive, for weights D x D and N tokens in float64."""
    return 8 * (LIVE_TOKENS * D * N + LIVE_WEIGHTS * D * D)


def chunk_size(D: int, law: Law, dtype: jnp.dtype) -> int:
    """How many samples to put through the model at once: measured best where the token matrices about fill a core's cache."""
    per_sample = 8 * D * (law.n + 1) * jnp.dtype(dtype).itemsize
    return int(2 ** np.clip(np.floor(np.log2(CHUNK_BYTES / per_sample)), 0, 6))


def population_gradient(
    objective: Objective,
    weights: Weights,
    law: Law,
    key: PRNGKeyArray,
    samples: int,
    manifold: Manifold | None = None,
    chunk: int | None = None,
) -> Estimate:
    """E[loss] and E[gradient] under the law as an Estimate of a `Gradient`, from `samples` fresh samples.

    Raises ValueError for samples that are no whole number >= 2. Standard errors are those of a normal approximation: with
    heavy tails (small n in Task 1, large c) trust them only for many samples. For float32 weights every sample is computed in
    float32 and means over many in float64; what that rounding does to a mean: `rounding`.
    """
    if samples < 2 or samples != int(samples):
        raise ValueError(f"samples={samples}: at least 2 are needed for a standard error, and a whole number of them")
    weights, law, key = everywhere((weights, law, key))
    mean, stderr = _estimate(GradientOf(objective, manifold), weights, law, key, samples, chunk)
    return Estimate(mean, stderr, samples)


def population_average(
    statistic: Statistic, weights: Weights, law: Law, key: PRNGKeyArray, samples: int, chunk: int | None = None
) -> Estimate:
    """E[statistic(weights, sample)] under the law, entry by entry, from `samples` fresh samples, `chunk` at a time.

    A statistic that takes derivatives must take them at a point made from the weights: at a constant, which all devices
    share, they come out summed over the devices. Raises ValueError for fewer than 2 samples.
    """
    if samples < 2:
        raise ValueError(f"samples={samples}: at least 2 are needed for a standard error")
    weights, law, key = everywhere((weights, law, key))
    mean, stderr = _estimate(statistic, weights, law, key, samples, chunk)
    return Estimate(mean, stderr, samples)


@dataclass(frozen=True)
class RoundingOf:
    """The statistic behind `rounding`."""

    objective: Objective
    manifold: Manifold

    def __call__(self, weights: Weights, sample: Any) -> Float[Array, " k"]:
        def coordinates(*at: Any) -> Float[Array, " k"]:
            return self.manifold.coordinates(jax.grad(self.objective)(*at)).astype(jnp.float64)

        wide = jax.tree.map(lambda x: x.astype(jnp.float64), (weights, sample))
        return coordinates(weights, sample) - coordinates(*wide)


def rounding(objective: Objective, weights: Weights, law: Law, key: PRNGKeyArray, samples: int, manifold: Manifold) -> np.ndarray:
    """How far float32 may move the mean gradient along the manifold: |mean| + 3 standard errors of what it does to a sample.

    Each sample's gradient in float32, less that of the same sample and weights in float64; 0 for float64 weights. What
    float32 does to the drawing of the sample is a few eps of X and q more.
    """
    if weights.P.dtype == jnp.float64:
        return np.zeros(len(manifold.coordinates(weights)))
    weights, law, key = everywhere((weights, law, key))
    mean, stderr = _estimate(RoundingOf(objective, manifold), weights, law, key, samples, None)
    return np.asarray(abs(mean) + 3 * stderr)


@partial(jax.jit, static_argnames=("statistic", "chunk"))
def _estimate(
    statistic: Statistic, weights: Weights, law: Law, key: PRNGKeyArray, samples: Any, chunk: int | None
) -> tuple[Any, Any]:
    """Mean and standard error of statistic(weights, sample) over samples number 0 .. samples - 1 of the key.

    Memory does not grow with `samples`: each device loops over chunks and keeps a running mean and sum of squares.
    """
    dtype = weights.P.dtype
    size = chunk or chunk_size(weights.P.shape[0], law, dtype)
    samples = jnp.asarray(samples)
    # In float32 a running mean over 10^9 samples stands still: what a chunk adds is below half a unit of it
    wide = jnp.result_type(float)
    shape = jax.eval_shape(lambda w, k: statistic(w, law.sample(k, dtype)), weights, key)

    def shard(index: Array, weights: Weights, law: Law, key: PRNGKeyArray, samples: Array) -> tuple:
        per_shard = (samples + SHARDS - 1) // SHARDS

        def one(i: Array) -> PyTree:
            return statistic(weights, law.sample(jax.random.fold_in(key, i), dtype))

        def step(i: Array, carry: tuple) -> tuple:
            local = i * size + jnp.arange(size)
            number = index * per_shard + local
            inside = (local < per_shard) & (number < samples)
            moments = _moments(jax.vmap(one)(number), inside.astype(dtype))
            return _merge(carry, jax.tree.map(lambda x: x.astype(wide), moments))

        empty = jax.tree.map(lambda s: jnp.zeros(s.shape, wide), shape)
        start = jax.tree.map(_unshare, (jnp.zeros((), wide), empty, empty))
        return jax.lax.fori_loop(0, (per_shard + size - 1) // size, step, start)

    def device(indices: Array, *shared: Any) -> tuple:
        # A gradient with respect to weights that all devices share would be summed over the devices: unshare them.
        weights, *rest = jax.tree.map(_unshare, shared)
        return jax.lax.map(lambda index: shard(index, weights, *rest), indices)

    split, whole = PartitionSpec(AXIS), PartitionSpec()
    run = jax.shard_map(device, mesh=_mesh(), in_specs=(split, whole, whole, whole, whole), out_specs=split)
    parts = run(jnp.arange(SHARDS), weights, law, key, samples)
    first, rest = jax.tree.map(lambda x: x[0], parts), jax.tree.map(lambda x: x[1:], parts)
    (_, mean, squares), _ = jax.lax.scan(lambda total, part: (_merge(total, part), None), first, rest)
    count = samples.astype(wide)
    stderr = jax.tree.map(lambda s: jnp.sqrt(s / (count * jnp.maximum(count - 1, 1))), squares)
    mean, stderr = (jax.tree.map(lambda x, s: x.astype(s.dtype), part, shape) for part in (mean, stderr))
    return mean, stderr


def everywhere(tree: PyTree) -> Any:
    """The arrays on every device: one placement for all callers, so that one compilation serves them all."""
    return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec()))


def _mesh() -> Mesh:
    devices = jax.devices()
    count = max(k for k in (1, 2, 4, 8) if k <= len(devices))
    return Mesh(np.array(devices[:count]), (AXIS,))


def _unshare(x: Array) -> Array:
    return jax.lax.pcast(x, AXIS, to="varying")


def _moments(values: PyTree, inside: Float[Array, " chunk"]) -> tuple:
    """(count, mean, sum of squared deviations) of the samples inside, per entry."""
    count = jnp.sum(inside)

    def average(x: Array) -> Array:
        return jnp.tensordot(inside, x, 1) / jnp.maximum(count, 1)

    mean = jax.tree.map(average, values)
    squares = jax.tree.map(lambda x, m: jnp.tensordot(inside, (x - m) ** 2, 1), values, mean)
    return count, mean, squares


def _merge(left: tuple, right: tuple) -> tuple:
    """Moments of the union of two sets of samples (Chan, Golub, LeVeque 1983): no cancellation for large means."""
    (m, mean_l, sq_l), (n, mean_r, sq_r) = left, right
    share = n / jnp.maximum(m + n, 1)
    mean = jax.tree.map(lambda x, y: x + (y - x) * share, mean_l, mean_r)
    squares = jax.tree.map(lambda s, t, x, y: s + t + (y - x) ** 2 * m * share, sq_l, sq_r, mean_l, mean_r)
    return m + n, mean, squares
