"""A process of a distributed run does its work in a child, so that its parent can tell the end that
JAX leaves no time to tell.

Where the process that coordinates a run is gone, JAX aborts the others: no handler outlives that.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

#: How a signal reaches the child: some launchers send each signal to parent and child, and the
#: second would end it at once. Windows has none to spare.
RELAYED = (
    {}
    if sys.platform == "win32"
    else {signal.SIGINT: signal.SIGUSR1, signal.SIGTERM: signal.SIGUSR2}
)
#: Seconds from a signal to the end of a child that does not end by itself, stopped or frozen;
#: `watchdog` takes less.
PATIENCE = 8.5
#: Tells a child who its parent is.
_PARENT = "POPGD_GUARDED_BY"
_PR_SET_PDEATHSIG = 1


class End(NamedTuple):
    """How the child ended: its exit code, minus the signal where one killed it; and the last signal
    that was relayed, or 0.
    """

    code: int
    relayed: int


def in_child(told: Callable[[int, Any], None]) -> End | None:
    """None in the child, which goes on, its signals going to `told(signal, frame)`. Else does this
    command in a child: its end.

    On Linux a killed parent takes its child with it. On Windows there is no child.
    """
    if not RELAYED:
        return None
    if os.environ.get(_PARENT) == str(os.getppid()):
        for number, relayed in RELAYED.items():
            signal.signal(number, signal.SIG_IGN)
            signal.signal(relayed, lambda _, frame, number=number: told(number, frame))
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        return None
    child, last = None, 0

    def relay(number: int, frame: Any) -> None:
        nonlocal last
        last = number
        if child:
            child.send_signal(RELAYED[signal.Signals(number)])
            killer = threading.Timer(PATIENCE, child.kill)
            killer.daemon = True
            killer.start()

    for number in RELAYED:
        signal.signal(number, relay)
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]], env={**os.environ, _PARENT: str(os.getpid())}
    )
    if last:
        relay(last, None)
    return End(child.wait(), last)
