"""The recorded path of a run: one file of arrays that holds its finished pieces and the state of
the one under way.

An unfinished run goes on from it, and a finished one is judged again from it.
"""

import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from popgd.descent import processes
from popgd.descent.budget import Budget
from popgd.descent.memory import Arrays, Memory
from popgd.problem.errors import SettingError
from popgd.runs.digest import changes
from popgd.runs.store import BEFORE, write

#: Seconds of work that a crash may cost.
INTERVAL = 10.0
#: The number of the file's format; it changes whenever what any piece of work keeps changes.
FORMAT = 8
#: The array that says whose checkpoint it is; the others are called "part:array".
IDENTITY = "identity"
#: The part of an identity that says whose run it is.
SETTINGS = "settings"
#: Bytes of the digest at the end of the file.
DIGEST = 32


class Checkpoint(Memory):
    """A memory in a file, written whole every INTERVAL seconds and by `flush`; by the first
    process, read for all.

    identity: settings and what the path's digest is made of. A file of another path is not used but
    moved to BEFORE; `before` tells what is other in it, in words, and what it holds. Raises
    SettingError if it is damaged or of other settings.
    """

    def __init__(self, path: Path, identity: dict[str, Any], budget: Budget | None = None) -> None:
        super().__init__(budget)
        self._path, self._identity = path, {"format": FORMAT, **identity}
        self._packs: dict[str, Callable[[], Arrays]] = {}
        self._writes = processes.first()
        content = processes.from_first(_content(path) if self._writes and path.exists() else None)
        self._found, self.before = (
            ({}, None) if content is None else _read(path, content, self._identity)
        )
        if self.before and self._writes:
            os.replace(path, path.with_name(BEFORE))
        self._saved = time.monotonic()
        self._lock = threading.RLock()

    def part(self, name: str) -> Memory:
        return _Part(self, name)

    def flush(self) -> None:
        """Write what has been offered; in any thread, as nothing is offered meanwhile."""
        if not self._writes:
            return
        with self._lock:
            self._found |= {name: pack() for name, pack in self._packs.items()}
            self._packs.clear()
            if self._found:
                parts = sorted(self._found.items())
                named = {
                    f"{part}:{name}": array
                    for part, arrays in parts
                    for name, array in arrays.items()
                }
                file = io.BytesIO()
                np.savez(
                    file,
                    allow_pickle=False,
                    **{IDENTITY: np.array(json.dumps(self._identity)), **named},
                )
                content = file.getvalue()
                write(self._path, content + _digest(content))
            self._saved = time.monotonic()

    @property
    def parts(self) -> list[str]:
        """The names of the pieces that are known."""
        return _names(self._found)

    def _recall(self, name: str) -> Arrays | None:
        return self._found.get(name)

    def _offer(self, name: str, pack: Callable[[], Arrays]) -> None:
        with self._lock:
            self._packs[name] = pack
            if self._writes and time.monotonic() - self._saved >= INTERVAL:
                self.flush()


class _Part(Memory):
    def __init__(self, whole: Checkpoint, name: str) -> None:
        super().__init__(whole.budget)
        self._whole, self._name = whole, name

    def part(self, name: str) -> Memory:
        return _Part(self._whole, f"{self._name}/{name}")

    def recall(self) -> Arrays | None:
        return self._whole._recall(self._name)

    def offer(self, pack: Callable[[], Arrays]) -> None:
        self._whole._offer(self._name, pack)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingError(
            f"{path} cannot be read ({error.strerror}): delete it to start the run afresh"
        ) from None


class Before(NamedTuple):
    """A file that was written by another path: what is other, in words, and the pieces in it."""

    changed: str
    parts: list[str]


def _read(
    path: Path, content: bytes, identity: dict[str, Any]
) -> tuple[dict[str, Arrays], Before | None]:
    """The parts of a checkpoint: an npz archive and its digest, without which nothing in it is
    believed.
    """
    try:
        content, digest = content[:-DIGEST], content[-DIGEST:]
        if digest != _digest(content):
            raise ValueError("its digest is another")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        stored = dict(json.loads(str(arrays.pop(IDENTITY))))
    except Exception as error:  # what a foreign file makes its readers raise has no end
        raise SettingError(
            f"{path} is damaged or no checkpoint ({error}): delete it to start the run afresh"
        ) from None
    if stored.pop(SETTINGS, None) != identity[SETTINGS]:
        raise SettingError(
            f"{path} is that of a run with other settings: delete it to start this one afresh"
        )
    parts: dict[str, Arrays] = {}
    for name, array in arrays.items():
        part, _, leaf = name.rpartition(":")
        parts.setdefault(part, {})[leaf] = array
    changed = changes(stored, {name: value for name, value in identity.items() if name != SETTINGS})
    return ({}, Before(changed, _names(parts))) if changed else (parts, None)


def _names(parts: dict[str, Arrays]) -> list[str]:
    return [name.strip("/").replace("/", ", ") or "all" for name in parts]
