"""Several processes, on one host or many, that do one run together, on JAX's own distributed
runtime.

All of them judge the same setting; the samples of every Monte Carlo average are split over the
devices of all (`gradient`). The first alone reads and writes run directories and prints; what it
read it tells the others.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from popgd.descent.heartbeat import Board, Peers
from popgd.problem.errors import SettingError

#: What the runtime says when a collective operation fails because a process at its other end is
#: gone.
_GONE = ("Gloo", "NCCL", "UNAVAILABLE", "ABORTED")


class PeerLost(RuntimeError):
    """Another process of the run has ended before its time."""


def start(peers: Peers) -> None:
    """Join the others; before JAX's first computation. Raises SettingError if they cannot be
    found.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    try:
        patience = int(
            max(100, 2 * peers.peer_timeout)
        )  # JAX's own ends a process without a word: ours comes first
        jax.distributed.initialize(
            peers.coordinator, peers.processes, peers.process, heartbeat_timeout_seconds=patience
        )
    except ValueError as error:
        given = "processes=auto: no launcher that JAX knows (srun, mpirun) started this process"
        raise SettingError(
            f"{given} ({error}); use one, or processes=N process=K coordinator=HOST:PORT"
        ) from None
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise SettingError(
            f"the processes did not find each other ({said}); start all of them, on a free port"
        ) from None


def board() -> Board:
    """What all processes can read and write, without a computation: JAX has it, but no public name
    for it.

    Raises SettingError if this JAX has it elsewhere.
    """
    try:
        from jax._src.distributed import global_state

        client, own, count = (
            global_state.client,
            global_state.process_id,
            global_state.num_processes,
        )
        assert client is not None and client.key_value_set and client.key_value_dir_get
    except (ImportError, AttributeError, AssertionError):
        said = (
            f"jax {jax.__version__} keeps the store that its processes share in a place that "
            "popgd does not know"
        )
        raise SettingError(
            f"{said}; run one process, or install a version that popgd was tested with"
        ) from None
    return Board(client, own, count)


def first() -> bool:
    """Whether this process reads, writes and prints: always, where there is only one."""
    return jax.process_index() == 0


def from_first(content: bytes | None) -> bytes | None:
    """What the first process passes here. All must call it, in the same order of everything that
    they do together.
    """
    if jax.process_count() == 1:
        return content
    with watched():
        own = content if first() else None
        size = int(_sum(np.array([-1 if own is None else len(own)] if first() else [0]))[0])
        if size < 1:
            return None if size < 0 else b""
        return _sum(
            np.frombuffer(own, np.uint8) if own is not None else np.zeros(size, np.uint8)
        ).tobytes()


def _sum(own: np.ndarray) -> np.ndarray:
    """The sum of an array over all processes, which may have different numbers of devices."""
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    split, whole = (
        NamedSharding(mesh, PartitionSpec("devices")),
        NamedSharding(mesh, PartitionSpec()),
    )
    rows = [own if i == 0 else np.zeros_like(own) for i in range(jax.local_device_count())]
    parts = [
        jax.device_put(row[None], device)
        for row, device in zip(rows, jax.local_devices(), strict=True)
    ]
    every = jax.make_array_from_single_device_arrays((jax.device_count(), *own.shape), split, parts)
    total = jax.jit(lambda x: x.sum(axis=0, dtype=x.dtype), out_shardings=whole)(every)
    return np.asarray(total.addressable_data(0))


def told(read: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """What the first process reads, plain data, in all processes."""
    content = from_first(json.dumps(read()).encode() if first() else None)
    return json.loads(content or b"null")


def alike(identity: dict[str, Any]) -> None:
    """Raises SettingError if this process has other settings or versions than the first: their sums
    would be of nothing.
    """
    own, wanted = json.loads(json.dumps(identity)), told(lambda: identity) or {}
    for name, value in own.items():
        if wanted.get(name) != value:
            raise SettingError(
                f"process 0 has {name} = {wanted.get(name)}, and this one {value}: start all with "
                "the same words"
            )


def here(tree: PyTree) -> PyTree:
    """Arrays that every device has, as arrays of this process alone; they are computed when this
    returns.
    """
    if jax.process_count() == 1:
        return tree
    return jax.block_until_ready(jax.tree.map(lambda x: x.addressable_data(0), tree))


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Raises PeerLost inside if a process has ended that this one works with."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if jax.process_count() > 1 and any(word in str(error) for word in _GONE):
            raise PeerLost(str(error).splitlines()[0]) from error
        raise


def part() -> None:
    """The end of what all have finished: none leaves before the others are there."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def leave(code: int) -> int:
    """The exit code of a run that breaks off: at once where others take part, as waiting for them
    might have no end.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
