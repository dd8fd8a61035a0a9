"""Compiled programs kept between runs: JAX's persistent compilation cache, a directory for each
kind of machine.

What is in it saves time and moves no number. One that cannot be read or written costs that time,
and no run.
"""

import contextlib
import hashlib
import itertools
import logging
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from popgd.problem.errors import SettingError
from popgd.theorem.settings import CACHE

#: What `cache=` said, for this process and those that it or a launcher starts: a directory, or OFF.
WORD, OFF = "POPGD_CACHE", "off"
#: Bytes of all entries from which on the oldest go, until half of it is left. A run of theorem=4.1
#: adds one megabyte.
MOST = 2**28
ENTRIES = "xla-*/*-cache"
#: Where Linux tells of each processor, and what of it decides which instructions a program may use.
PROCESSORS = "/proc/cpuinfo"
MODEL = {
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features",
}  # fmt: skip
#: What JAX says where it goes on without an entry.
FAULT = r"Error (?:reading|writing) persistent compilation cache entry for '(\w+)': (.*)"


def told(words: Sequence[str]) -> list[str]:
    """Note what the words say of the cache, for `start`; the other words. Raises SettingError."""
    for word in words:
        name, _, value = word.partition("=")
        if name in CACHE:
            if not value.strip():
                raise SettingError(f"{word}: a directory was wanted, or {OFF}")
            os.environ[WORD] = value if value == OFF else str(Path(value).expanduser().absolute())
    return [word for word in words if word.partition("=")[0] not in CACHE]


def start() -> None:
    """Have JAX keep what it compiles from now on.

    A directory that JAX was told before stays, unless `cache=` names another. Where there can be
    none, one line says why.
    """
    import jax

    where = os.environ.get(WORD, "")
    if where == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    _hush()
    known = jax.config.values["jax_compilation_cache_dir"]
    if known and not where:
        return
    try:
        root = Path(where) if where else default(os.environ)
        directory = root / f"xla-{kind()}"
        if str(directory) == known:  # the next job of a sweep
            return
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"entry")
    except (OSError, RuntimeError) as error:
        os.environ[WORD] = OFF  # the other jobs of a sweep say nothing
        why = (
            f"{error.filename or where} ({error.strerror})"
            if isinstance(error, OSError)
            else f"a home directory ({error})"
        )
        return _say(why)
    prune(root)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Reading what takes less time to compile is worth it too: from 0.02, 0.1, 0.3 or 1 s on a
    # second run of theorem=4.1 takes 0.5, 1, 2 or 4 s longer.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # Caches of XLA itself on a GPU: what becomes of damaged ones JAX does not say.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    _listen(directory)


def default(environment: Mapping[str, str]) -> Path:
    """Where caches of this user belong. Raises RuntimeError if nobody knows where home is."""
    if sys.platform == "win32" and environment.get("LOCALAPPDATA"):
        return Path(environment["LOCALAPPDATA"]) / "popgd" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "popgd"
    named = Path(environment.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "popgd"


def kind() -> str:
    """A word for what a program depends on and JAX's own key leaves out: the processor, the cores.

    A program with instructions that a processor does not have kills its process, and homes are
    shared by machines of several kinds. The compression of entries depends on the version of
    Python.
    """
    from jaxlib.version import __version__ as jaxlib

    try:
        with open(PROCESSORS) as processors:
            first = list(itertools.takewhile(str.strip, processors))
        model = [line for line in first if line.partition(":")[0].strip() in MODEL]
    except OSError:  # no Linux, and less is told: a directory for each machine
        model = [platform.node(), platform.processor()]
    parts = [jaxlib, *sys.version_info[:2], platform.system(), platform.machine(), cores()]
    text = "\n".join(map(str, [*parts, os.environ.get("XLA_FLAGS", ""), *model]))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cores() -> int:
    """How many of them this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prune(root: Path, most: int = MOST) -> None:
    """Delete the oldest entries, of all kinds, if all have more bytes than `most`: down to half."""
    found = []
    for entry in root.glob(ENTRIES):
        with contextlib.suppress(OSError):  # another process has deleted it
            status = entry.stat()
            found.append((status.st_mtime, status.st_size, entry))
    left = sum(size for _, size, _ in found)
    for _, size, entry in sorted(found) if left > most else ():
        if left <= most / 2:
            break
        with contextlib.suppress(OSError):
            entry.unlink()
        left -= size


def _hush() -> None:
    """Of what XLA says, leave what ends a process, unless the user told it otherwise.

    For each program that it loads it says, as of an error, that the processor lacks two features.
    They are none, but what its own compiler prefers (jax-ml/jax#38445).
    """
    import jax

    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "1":  # as JAX sets it
        jax.config.update("jax_logging_level", "CRITICAL")
        for name in ("jax", "jaxlib"):  # what they themselves warn of stays
            logging.getLogger(name).setLevel(logging.WARNING)


def _listen(directory: Path) -> None:
    """Say once, in a line, what JAX warns of for every entry.

    Delete what is damaged, which JAX would neither use nor replace.
    """
    faults, before = [], warnings.showwarning

    def show(message: Any, *rest: Any, **more: Any) -> None:
        fault = re.match(FAULT, str(message))
        if not fault:
            return before(message, *rest, **more)
        program, why = fault.groups()
        # JAX does not tell which of this name it is
        for entry in directory.glob(f"{program}-*-cache"):
            with contextlib.suppress(OSError):
                entry.unlink()
        if not faults:
            _say(f"{directory} ({why})")
        faults.append(program)
        return None

    warnings.showwarning = show
    warnings.filterwarnings("always", message=FAULT)


def _say(where: str) -> None:
    what = f"compiled programs cannot be read or kept in {where}, and are compiled afresh"
    print(f"popgd: {what}; cache=DIR keeps them elsewhere, cache={OFF} nowhere", file=sys.stderr)
