"""A thread that goes on where the main thread waits inside JAX: a run that hangs says so, and ends
when it is told to.

Python calls the handler of a signal between two of its own steps, in the main thread: not before a
compilation or a computation ends, be that in an hour. The number of the signal reaches this thread
at once, through a socket.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from popgd.descent.heartbeat import Heart

#: Seconds without progress after which a run says so; again after twice as many, and so on.
QUIET = 60.0
#: Seconds that a signal leaves the main thread to end by itself; then the thread here has SAVING
#: seconds to save, and SAYING seconds to say so: eight in all, as some may be late, of ten.
GRACE, SAVING, SAYING = 3.0, 3.0, 1.0
#: A signal that comes again within so many seconds is the same: `timeout` sends one to a process
#: and to its group.
SAME = 0.2
#: Seconds between two looks. Any longer time counts as twice this: the process was then stopped
#: itself, and saw nothing.
TICK = 0.5
#: The exit code of a run that another of its processes has left.
PEER_LOST = 75


class Interrupted(Exception):
    """A run ended at a boundary because a signal asked for it; its checkpoint is written."""


class Doing(NamedTuple):
    """What is being done, how many of its steps are, and since when (seconds since 1970)."""

    name: str
    done: int
    total: int
    since: float


class Watchdog:
    """What this process is doing, the signal that asks it to end, if one came, and who ends it.

    The main thread ends at once when a signal comes, unless a run is being judged: then it does at
    its next boundary, as an exception from a handler is lost where compiled code swallows it. If
    that does not come, the watching thread ends it. A second signal ends it at once in any case.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.heart: Heart | None = None
        self._at, self._path, self._ending = 0.0, None, threading.Lock()
        self._save: Callable[[], None] | None = None
        self._doing: Doing | None = None
        self._mouth: socket.socket | None = None

    @property
    def word(self) -> str:
        return "interrupted" if self.signal == signal.SIGINT else "terminated"

    @property
    def code(self) -> int:
        return 128 + self.signal

    def told(self, number: int, frame: Any) -> None:
        """The handler of a signal."""
        now = time.monotonic()
        if self.signal and now - self._at < SAME:
            return
        again, self.signal, self._at = self.signal, number, now
        if (again or self._path is None) and self.last_word():
            _write(self._at_once() if again else self._broken_off())
            os._exit(self.code)

    @contextlib.contextmanager
    def later(self, path: Path) -> Iterator[None]:
        """Inside, where the run in `path` is judged, the first signal is only noted."""
        self._path = path
        try:
            yield
        finally:
            self._path, self._save = None, None

    def saves(self, save: Callable[[], None]) -> None:
        """How what was done can be saved at any moment, by another thread."""
        self._save = save

    @contextlib.contextmanager
    def doing(self, name: str) -> Iterator[None]:
        """Inside, this is being done, until a report says more."""
        self._doing = Doing(name, 0, 0, time.time())
        try:
            yield
        finally:
            self._doing = None

    def report(self, name: str, done: int, total: int) -> None:
        """There is progress."""
        self._doing = Doing(name, done, total, time.time())

    def last_word(self) -> bool:
        """True for the first that asks: it says the line that ends this process, nobody else."""
        return self._ending.acquire(blocking=False)

    def goes_on(self, saved: bool = True) -> str:
        if not self._path:
            return "the same command goes on"
        what = "what was done is saved" if saved else "the last checkpoint stays"
        return f"{what}, continue with resume={self._path}"

    def listen(self, meaning: Mapping[Any, int]) -> None:
        """Begin to watch; in the main thread, once the signals have handlers.

        meaning: what each of them stands for.
        """
        if self._mouth:
            return
        ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(ear, meaning), daemon=True).start()

    def _watch(self, ear: socket.socket, meaning: Mapping[Any, int]) -> None:
        last, told, waited = time.monotonic(), 0, 0.0
        seen, quiet, limit = None, 0.0, QUIET
        ear.settimeout(TICK)
        while True:
            heard = []
            with contextlib.suppress(TimeoutError):
                heard = [meaning[number] for number in ear.recv(64) if number in meaning]
            now = time.monotonic()
            passed, last = min(now - last, 2 * TICK), now
            waited += passed if told else 0.0
            if told and heard and waited > SAME:
                self.signal = heard[0]
                self._end(self.code, lambda _: self._at_once(), save=False)
            told = told or (heard[0] if heard else 0)
            if waited > GRACE:
                self.signal = told
                self._end(self.code, self._broken_off)
            if self._doing is not seen:
                seen, quiet, limit = self._doing, 0.0, QUIET
            quiet += passed
            if seen and quiet >= limit and not told:
                limit *= 2
                _say(self._complaint(seen, quiet))
            self._listen_to_peers(passed)

    def _listen_to_peers(self, passed: float) -> None:
        if heart := self.heart:
            for line in heart.judge(passed):
                _say(line)
            if lost := heart.lost():
                ends = f"{lost}, which ends the run here too"
                several = ", with as many processes as you like"
                self._end(PEER_LOST, lambda saved: f"{ends}; {self.goes_on(saved)}{several}")

    def _complaint(self, doing: Doing, quiet: float) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(doing.since))
        steps = f", {doing.done:,} of {doing.total:,} steps done" if doing.total else ""
        ends = "Ctrl-C ends it" + (", and what was done is saved" if self._path else "")
        what = f"{doing.name}{steps}{_place()}"
        return f"no progress for {quiet:.0f} s, since {at}: {what}; {ends}"

    def _broken_off(self, saved: bool = True) -> str:
        return f"{self.word}; {self.goes_on(saved) if self._path else 'no run was under way'}"

    def _at_once(self) -> str:
        return f"{self.word}; at once, the same command goes on from the last checkpoint"

    def _end(self, code: int, line: Callable[[bool], str], save: bool = True) -> None:
        """End this process, whatever its main thread waits for: no saving or saying can keep it."""
        saved = not (save and self._save) or _aside(self._save, SAVING)
        if self.last_word():
            _aside(lambda: _write(line(saved)), SAYING)
        else:
            time.sleep(SAYING)  # the main thread is saying it
        os._exit(code)


def _aside(work: Callable[[], None], seconds: float) -> bool:
    """Whether the work, in a thread of its own, has come to a good end within so many seconds."""
    done = threading.Event()

    def run() -> None:
        with contextlib.suppress(Exception):  # a full disk, say: the process ends all the same
            work()
            done.set()

    threading.Thread(target=run, daemon=True).start()
    return done.wait(seconds)


def _say(line: str) -> None:
    """A line above the progress bars, which have taken sys.stderr."""
    _aside(lambda: print(f"popgd: {line}", file=sys.stderr, flush=True), SAYING)


def _write(line: str) -> None:
    """The last line of a process, in a signal handler too, where print may not be used.

    A bar on the screen goes, and its hidden cursor comes back.
    """
    end_of_bars = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""
    os.write(2, f"{end_of_bars}popgd: {line}\n".encode())


def _place() -> str:
    """Where in popgd the main thread is, and whether JAX compiles there."""
    frame, compiles = sys._current_frames().get(threading.main_thread().ident or 0), ""
    while frame:
        name = frame.f_globals.get("__name__", "")
        if name == "jax._src.compiler":
            compiles = "JAX compiles, "
        if name.startswith("popgd."):
            return f" ({compiles}in {name}.{frame.f_code.co_name})"
        frame = frame.f_back
    return ""
