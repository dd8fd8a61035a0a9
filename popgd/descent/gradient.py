"""Monte Carlo population averages, each with its standard error; above all the gradient of every
block.

Samples are drawn by global index, so they depend on the key alone. They are split over all devices
of all processes along one mesh axis; sums are the same bits for any number of devices of one kind,
and agree to rounding whatever the chunk. Where `jax.distributed` has several processes, all must
ask for the same averages in the same order, and all get them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from popgd.descent import processes
from popgd.descent.chunks import LARGEST_CHUNK, chunk_size
from popgd.problem.given import Scalar, as_law, number_format, sample_shapes
from popgd.problem.law import Law, Objective
from popgd.problem.plane import Plane
from popgd.problem.pytree import classes

#: A sample's key is the key folded with its number, a word of 32 bits.
NUMBERED = 2**32
#: Samples are split over logical shards, whose number depends on that of the samples and on nothing
#: else, and the shards' sums are added in shard order: a shard for every SHARD_CHUNKS chunks, so
#: that its overhead is a few per cent, but at least FEWEST, so that small batches are shared too.
#: More than MOST are no gain before there are as many devices.
SHARD_CHUNKS, FEWEST, MOST = 4, 8, 4096
#: Sums of this many shards (of one a device, if that is more) are gathered at a time: it bounds
#: what they take in memory.
GATHERED = 16
AXIS = "samples"
#: What a CPU leaves to LAPACK or to an FFT library. Their calls hand a batch to the pool of threads
#: that they run on, and wait. With as many devices as threads, each of them in such a call, nobody
#: is left to do the work, and the program hangs (two devices: `eigh` from d = 20 on). Statistics
#: with any of these run on one device of each process; popgd's own have none.
LINEAR_ALGEBRA = {
    "cholesky",
    "cholesky_update",
    "eig",
    "eigh",
    "fft",
    "geqp3",
    "geqrf",
    "hessenberg",
    "householder_product",
    "lu",
    "ormqr",
    "qr",
    "schur",
    "svd",
    "symmetric_product",
    "triangular_solve",
    "tridiagonal",
    "tridiagonal_solve",
}
#: A law, or a plain function of the key: see `given.as_law`.
Data = Law | Callable[[PRNGKeyArray], Any]
#: A statistic of the weights and one sample: any pytree of arrays. It must be hashable. One with an
#: attribute `at_once` wants no more samples than that in a chunk: chunks that a small batch does
#: not fill cost as much as full ones.
Statistic = Callable[[PyTree, Any], PyTree[Float[Array, "..."]]]


class Estimate(NamedTuple):
    """A Monte Carlo mean, entry by entry, with the standard error of that mean and the number of
    samples.
    """

    mean: Any
    stderr: Any
    samples: int


class Gradient(NamedTuple):
    """One sample's loss, its gradient in every entry (or empty), and what a plane makes of that
    (empty without one).

    `coordinates` holds the gradient's part along the plane (k,), `square` the square of it and
    of the loss (k + 1,), whose own standard error tells whether theirs can be trusted, `cube` their
    cube, `deviations` what `Plane.deviations` says.
    """

    loss: Float[Array, ""]
    weights: Any
    coordinates: Any = ()
    square: Any = ()
    deviations: Any = ()
    cube: Any = ()


@dataclass(frozen=True)
class GradientOf:
    """The statistic behind `population_gradient`."""

    objective: Objective
    plane: Plane | None = None

    def __call__(self, weights: PyTree, sample: Any) -> Gradient:
        loss, grad = jax.value_and_grad(Scalar(self.objective))(weights, sample)
        if self.plane is None:
            return Gradient(loss, grad)
        coordinates = self.plane.coordinates(grad)
        both = jnp.append(coordinates, loss)
        return Gradient(loss, grad, coordinates, both**2, self.plane.deviations(grad), both**3)


def population_gradient(
    objective: Objective,
    weights: PyTree,
    law: Data,
    key: PRNGKeyArray,
    samples: int,
    plane: Plane | None = None,
    chunk: int | None = None,
) -> Estimate:
    """E[loss] and E[gradient] under the law as an Estimate of a `Gradient`, from `samples` fresh
    samples.

    Raises ValueError for samples that are no whole number >= 2. Standard errors are those of a
    normal approximation: with heavy tails (small n in Task 1, large c) trust them only for many
    samples. For float32 weights every sample is computed in float32 and means over many in float64;
    what that rounding does to a mean: `rounding`.
    """
    return population_average(GradientOf(objective, plane), weights, law, key, samples, chunk)


def population_average(
    statistic: Statistic,
    weights: PyTree,
    law: Data,
    key: PRNGKeyArray,
    samples: int,
    chunk: int | None = None,
) -> Estimate:
    """E[statistic(weights, sample)] under the law, entry by entry, from `samples` fresh samples,
    `chunk` at a time.

    A statistic that takes derivatives must take them at a point made from the weights: at a
    constant, which all devices share, they come out summed over the devices. Raises ValueError for
    samples that are no whole number >= 2.
    """
    if samples < 2 or samples != int(samples):
        raise ValueError(
            f"samples={samples}: at least 2 are needed for a standard error, and a whole number "
            "of them"
        )
    if samples > NUMBERED:
        raise ValueError(
            f"samples={samples}: one key draws {NUMBERED} different ones; average over several keys"
        )
    samples = int(samples)
    mean, stderr = _over_all(statistic, weights, law, key, samples, chunk)
    return Estimate(mean, stderr, samples)


def skewness(found: Estimate) -> Float[np.ndarray, " values"]:
    """Of the mean of each coordinate, and of the mean loss. Worth something where the second moment
    is known well: rare samples carry the third even more than that.
    """
    mean, stderr, samples = found
    x, s = (np.append(part.coordinates, part.loss).astype(float) for part in (mean, stderr))
    return skewness_of(x, mean.square, mean.cube, s, float(samples))


def skewness_of(mean: Any, square: Any, cube: Any, stderr: Any, samples: Any) -> np.ndarray:
    """Of a mean, from the means of one, two and three powers: that of one sample over the root of
    their number; 0 where rounding is all that there is of a third moment, as for constants.
    """
    with np.errstate(all="ignore"):  # numbers of a descent that breaks off
        parts = np.stack([cube, -3 * mean * square, 2 * mean**3])
        rounding = 16 * np.finfo(cube.dtype).eps * abs(parts).sum(axis=0)
        third = parts.sum(axis=0)
        return np.where(abs(third) > rounding, third / (stderr**3 * samples**2), 0.0)


@dataclass(frozen=True)
class RoundingOf:
    """The statistic behind `rounding`."""

    objective: Objective
    plane: Plane

    def __call__(self, weights: PyTree, sample: Any) -> Float[Array, " k"]:
        def coordinates(*at: Any) -> Float[Array, " k"]:
            return self.plane.coordinates(jax.grad(self.objective)(*at)).astype(jnp.float64)

        wide = jax.tree.map(_widened, (weights, sample))
        return coordinates(weights, sample) - coordinates(*wide)


def _widened(x: Array) -> Array:
    return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def rounding(
    objective: Objective,
    weights: PyTree,
    law: Data,
    key: PRNGKeyArray,
    samples: int,
    plane: Plane,
) -> np.ndarray:
    """How far float32 may move the mean gradient along the plane: |mean| + 3 standard errors of
    what it does to a sample.

    Each sample's gradient in float32, less that of the same sample and weights in float64; 0 for
    float64 weights. What float32 does to the drawing of the sample is a few eps of X and q more.
    """
    if number_format(weights) == jnp.float64:
        return np.zeros(jax.eval_shape(plane.coordinates, weights).shape)
    mean, stderr = _over_all(RoundingOf(objective, plane), weights, law, key, samples, None)
    return np.asarray(abs(mean) + 3 * stderr)


def _over_all(
    statistic: Statistic,
    weights: PyTree,
    law: Data,
    key: PRNGKeyArray,
    samples: int,
    chunk: int | None,
) -> tuple[Any, Any]:
    """`_estimate` by all devices of all processes. Raises PeerLost if a process has ended."""
    number_format(weights)  # or raises
    law = as_law(law)
    with processes.watched():
        at = everywhere((weights, law, key))
        devices = _devices_for(statistic, at[0], at[1], at[2], samples, chunk)
        at = at if devices == _mesh() else everywhere((weights, law, key), devices)
        return processes.here(_estimate(statistic, *at, samples, chunk, devices, classes(at)))


#: What was found for a statistic with arguments of certain shapes.
_devices_of: dict[Any, Mesh] = {}


def _devices_for(
    statistic: Statistic,
    weights: PyTree,
    law: Law,
    key: PRNGKeyArray,
    samples: int,
    chunk: int | None,
) -> Mesh:
    """All devices, or one of each process where they are CPUs and the statistic calls
    `LINEAR_ALGEBRA`.
    """
    every = _mesh()
    if jax.default_backend() != "cpu" or jax.local_device_count() == 1:
        return every
    leaves, structure = jax.tree.flatten((weights, law))
    shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    known = classes((weights, law, key))
    called_with = (statistic, structure, known, shapes, chunk, every)
    if called_with not in _devices_of:
        # jit keeps what is traced here for the call itself, as the arguments lie where those of the
        # call do
        program = _estimate.trace(statistic, weights, law, key, samples, chunk, every, known).jaxpr
        firsts = {device.process_index: device for device in reversed(jax.devices())}
        alone = Mesh(np.array([firsts[i] for i in sorted(firsts)]), (AXIS,))
        _devices_of[called_with] = alone if calls_linear_algebra(program.jaxpr) else every
    return _devices_of[called_with]


def calls_linear_algebra(program: Any) -> bool:
    """Whether a jaxpr, or one inside it, has an operation of `LINEAR_ALGEBRA`."""
    return any(
        str(equation.primitive) in LINEAR_ALGEBRA
        or any(map(calls_linear_algebra, jaxprs_in_params(equation.params)))
        for equation in program.eqns
    )


@partial(jax.jit, static_argnames=("statistic", "chunk", "mesh", "known"))
@jax.default_matmul_precision("highest")
def _estimate(
    statistic: Statistic,
    weights: PyTree,
    law: Law,
    key: PRNGKeyArray,
    samples: Any,
    chunk: int | None,
    mesh: Mesh | None = None,
    known: tuple[Any, ...] = (),
) -> tuple[Any, Any]:
    """Mean and standard error of statistic(weights, sample) over samples number 0 .. samples - 1 of
    the key. `known` are the classes of the arguments, as programs are told apart by them.

    Memory does not grow with `samples`: each device loops over chunks and keeps a running mean and
    sum of squares. Products are those of the number format: by default some devices multiply
    float32 with the digits of a shorter format.
    """
    dtype = number_format(weights)
    drawn = sample_shapes(law, key, dtype)
    size = chunk or min(chunk_size(weights, drawn), getattr(statistic, "at_once", LARGEST_CHUNK))
    samples = jnp.asarray(samples)
    shards = jnp.clip(
        jax.lax.div(samples, jnp.asarray(SHARD_CHUNKS * size, samples.dtype)), FEWEST, MOST
    )
    shape = jax.eval_shape(statistic, weights, drawn)
    # One vector for all that is averaged: a few large operations, where each of its arrays would
    # have its own
    flat, unflatten = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape))
    # In float32 a running mean over 10^9 samples stands still: what a chunk adds is below half a
    # unit of it
    wide = jnp.result_type(float)
    empty = (jnp.zeros((), wide), *2 * (flat.astype(wide),))

    def shard(
        index: Array, weights: PyTree, law: Law, key: PRNGKeyArray, samples: Array, shards: Array
    ) -> tuple:
        per_shard = _ceil(samples, shards)

        def one(i: Array) -> Float[Array, " entries"]:
            sample = jax.tree.map(_unshare, law.sample(jax.random.fold_in(key, i), dtype))
            return ravel_pytree(statistic(weights, sample))[0]

        def step(i: Array, carry: tuple) -> tuple:
            local = i * size + jnp.arange(size)
            number = index * per_shard + local
            inside = (local < per_shard) & (number < samples)
            moments = _moments(jax.vmap(one)(number), inside.astype(dtype))
            return _merge(carry, jax.tree.map(lambda x: x.astype(wide), moments))

        return jax.lax.fori_loop(0, _ceil(per_shard, size), step, jax.tree.map(_unshare, empty))

    run = jax.shard_map(
        partial(_device, shard, empty),
        mesh=mesh or _mesh(),
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(),
    )
    _, mean, squares = run(weights, law, key, samples, shards)
    count = samples.astype(wide)
    stderr = jnp.sqrt(squares / (count * jnp.maximum(count - 1, 1)))
    return unflatten(mean.astype(flat.dtype)), unflatten(stderr.astype(flat.dtype))


def _device(shard: Callable[..., tuple], empty: tuple, *shared: Any) -> tuple:
    """What each device does: shards j D + k for the k-th of D devices, in rounds; all add up the
    shards of all in one order.

    The numbers of shards and rounds are not known to the compiler: one body, and so one rounding,
    for any number of devices.
    """
    devices, k, shards = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS), shared[-1]
    slots = -(-GATHERED // devices)
    # A gradient with respect to weights that all devices share would be summed over the devices:
    # unshare them.
    own = jax.tree.map(_unshare, shared)

    flat, unflatten = ravel_pytree(empty)  # one array is one collective

    def round(number: Array, total: tuple) -> tuple:
        first = number * slots * devices
        mine = jnp.clip(_ceil(own[-1] - first - k, devices), 0, slots)
        slot = lambda j, parts: parts.at[j].set(
            ravel_pytree(shard(first + j * devices + k, *own))[0]
        )
        parts = _unshare(jnp.zeros((slots, flat.size), flat.dtype))
        parts = jax.lax.fori_loop(jnp.zeros_like(mine), mine, slot, parts)
        every = jax.lax.all_gather(parts, AXIS, to="invarying")
        there = jnp.minimum(shards - first, slots * devices)
        every = every.swapaxes(0, 1).reshape(slots * devices, flat.size)  # in shard order
        return jax.lax.fori_loop(0, there, lambda i, sums: _merge(sums, unflatten(every[i])), total)

    return jax.lax.fori_loop(0, _ceil(shards, slots * devices), round, empty)


def everywhere(tree: PyTree, mesh: Mesh | None = None) -> Any:
    """The arrays on every device of every process, or of a mesh: one placement for all callers, so
    that one compilation serves them all.

    Each process puts its own on its devices: they must be the same.
    """
    where = mesh or _mesh()
    placement = NamedSharding(where, PartitionSpec())

    def put(x: Any) -> Array:
        if (
            getattr(x, "sharding", None) == placement
        ):  # to put it there again takes as long as a small batch
            return x
        if jax.process_count() == 1:
            return jax.device_put(x, placement)
        parts = [jax.device_put(x, device) for device in where.local_devices]
        return jax.make_array_from_single_device_arrays(jnp.shape(x), placement, parts)

    return jax.tree.map(put, tree)


def placed(tree: PyTree) -> Any:
    """The arrays where those of an `Estimate` are, so that one compilation serves the first step
    and all others.
    """
    return (
        everywhere(tree)
        if jax.process_count() == 1
        else jax.device_put(tree, jax.local_devices()[0])
    )


def _ceil(x: Array, y: Any) -> Array:
    """x/y rounded up, y >= 1, and 0 where x is negative: `//` is a program of its own."""
    y = jnp.asarray(y, x.dtype)
    return jax.lax.div(jnp.maximum(x, 0) + y - 1, y)


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (AXIS,))


def _unshare(x: Array) -> Array:
    """x as an array that may differ between devices; as it is, if it is one already: JAX has no
    stable way to ask.
    """
    try:
        return jax.lax.pcast(x, AXIS, to="varying")
    except ValueError:
        return x


def _moments(values: Float[Array, "chunk entries"], inside: Float[Array, " chunk"]) -> tuple:
    """(count, mean, sum of squared deviations) of the samples inside, per entry."""
    count = jnp.sum(inside)
    mean = inside @ values / jnp.maximum(count, 1)
    return count, mean, inside @ (values - mean) ** 2


def _merge(left: tuple, right: tuple) -> tuple:
    """Moments of the union of two sets of samples (Chan, Golub, LeVeque 1983): no cancellation for
    large means.
    """
    (m, mean_l, sq_l), (n, mean_r, sq_r) = left, right
    share = n / jnp.maximum(m + n, 1)
    gap = mean_r - mean_l
    return m + n, mean_l + gap * share, sq_l + sq_r + gap**2 * m * share
