"""Signs of life of the processes of a run: who is stopped, frozen or cut off, and not merely slow.

Each writes a number that grows, from a thread of its own, to the store of JAX's coordination
service, which is part of process 0. That one reads those of all; the others read its own, and in it
who else is silent. No two clocks are compared.
"""

import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

#: Seconds between two signs of life; a shorter `peer_timeout` has ten of them.
BEAT = 1.0
#: Seconds of silence after which a process is named, or a third of `peer_timeout`.
EARLY = 20.0

#: Seconds that a process of several may be silent: no compilation or computation is, but a stopped
#: or frozen one.
PEER_TIMEOUT = 60.0


class Peers(NamedTuple):
    """The processes of a run; None where the launcher that started them knows."""

    processes: int | None
    process: int | None
    coordinator: str | None
    peer_timeout: float = PEER_TIMEOUT


class Board(NamedTuple):
    """JAX's client of a store that all processes share, which of them this is, and how many are."""

    client: Any
    process: int
    processes: int


class Heart:
    """The signs of life of this process, and the silence of the others.

    timeout: seconds of silence after which a process counts as lost; whoever calls `judge` counts
    them, and only those in which this process itself was awake.
    """

    def __init__(self, board: Board, timeout: float) -> None:
        self._board, self._timeout = board, timeout
        self._beat, self._early = min(BEAT, timeout / 10), min(EARLY, timeout / 3)
        self._heard: dict[int, dict[str, Any]] = {}  # what the others have written last
        self._seen: dict[int, Any] = {}  # how far they had counted at the last look
        others = range(1, board.processes) if board.process == 0 else (0,)
        self._silent = dict.fromkeys(others, 0.0)  # seconds
        self._named: dict[int, str] = {}
        self._told = 0.0  # seconds since the others can read that one is lost
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beats, daemon=True)

    def start(self) -> "Heart":
        self._thread.start()
        return self

    def stop(self) -> None:
        """When all are done: a thread that is inside JAX does not live through Python's end."""
        self._over.set()
        self._thread.join(5 * self._beat)

    def _beats(self) -> None:
        for count in itertools.count():
            with contextlib.suppress(RuntimeError):  # the service does not answer: that is silence
                self.exchange(count)
            if self._over.wait(self._beat):
                return

    def exchange(self, count: int) -> None:
        """Write one sign of life, and read those of the others."""
        client, own = self._board.client, self._board.process
        silent = {k: (self._host(k), s) for k, s in self._silent.items() if s >= self._early}
        told = silent if own == 0 else {}
        content = json.dumps({"count": count, "host": socket.gethostname(), "silent": told})
        client.key_value_set(f"popgd/{own}/life", content, allow_overwrite=True)
        for key, value in client.key_value_dir_get("popgd/0/" if own else "popgd/"):
            self._heard[int(key.split("/")[-2])] = json.loads(value)

    def judge(self, passed: float) -> Iterator[str]:
        """Lines about processes that fall silent or come back, `passed` seconds after the last."""
        for k in self._silent:
            count = self._heard.get(k, {}).get("count")
            self._silent[k] = self._silent[k] + passed if count == self._seen.get(k) else 0.0
            self._seen[k] = count
        silences = self._silences()
        self._told = self._told + passed if self.overdue() else 0.0
        for k, (name, seconds) in silences.items():
            if seconds >= self._early and k not in self._named:
                self._named[k] = name
                silent = f"{name} has not answered for {seconds:.0f} s"
                yield f"{silent}; if it does not within {self._timeout:g} s, the run ends"
        for k in [k for k in self._named if silences.get(k, ("", 0.0))[1] < self._early]:
            yield f"{self._named.pop(k)} answers again"

    def overdue(self) -> str:
        """Who has been silent for too long, and how long; "" if nobody."""
        silences = self._silences().values()
        name, seconds = max(silences, key=lambda silence: silence[1], default=("", 0.0))
        return f"{name} has not answered for {seconds:.0f} s" if seconds >= self._timeout else ""

    def lost(self) -> str:
        """The same; in process 0 once the others have had the time to read it there."""
        return self.overdue() if self._board.process or self._told >= 3 * self._beat else ""

    def _silences(self) -> dict[int, tuple[str, float]]:
        """The name of each process that this one hears of, and the seconds of its silence."""
        own = self._board.process
        told = self._heard.get(0, {}).get("silent", {}) if own else {}
        others = {int(k): (_name(int(k), host), s) for k, (host, s) in told.items()}
        others.pop(own, None)
        return others | {k: (_name(k, self._host(k)), s) for k, s in self._silent.items()}

    def _host(self, k: int) -> str:
        return self._heard.get(k, {}).get("host", "")


def _name(k: int, host: str) -> str:
    return f"process {k} on {host}" if host else f"process {k}"
