"""What a stored run rests on: two digests of code, versions and machine, which tell whether it
still holds.

*path* guards the checkpoint and all that was measured: start, loss, law, exact engine, descent; the
versions of the packages that numbers depend on; the processor. *verdict* guards the report: all of
that and the code that judges.

Both are of syntax trees, without docstrings, comments and positions, of popgd's files and the
user's own (`code`) that the theorem imports, directly or not. The verdict's is of all of it. The
path is what may have moved a number: all top-level definitions that the theorem's fields use,
directly or not, but for claims, quantities, hypotheses and texts; and statements, which run without
being used. "Uses" is read off the names in the text, and in doubt the answer is yes: of a module
that is handed on as a value everything is used; by code that looks names up (`globals`,
`importlib`) everything there is; and what a decorator, a base class or a function called in an
assignment, of the user's or popgd's, may keep is used too. So what is left out of the path is code
whose name no measurement knows. Not seen is a claim that changes, as it judges, what is measured
later.

The command line, the screen and how a run is stored are in neither. Pictures are in the verdict's:
they are written with it.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from popgd.runs import code, origin
from popgd.runs.code import Key, Sources
from popgd.theorem.base import Theorem

#: Packages that numbers depend on; those that the user's own files import are added.
PACKAGES = (
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "optax",
    "diffrax",
    "equinox",
    "lineax",
    "optimistix",
)
#: These bring path and judgement together: part of every path, but what judges is not because they
#: name it.
DRIVERS = ("popgd.theorem.report", "popgd.theorem.base", "popgd.runs.store")
JUDGE = "popgd.theorem.verdict"
_APART = (JUDGE, "popgd.claims.evidence")
_WORDS = {
    "code": "the code that measures",
    "versions": "versions",
    "cpu": "the processor",
    "devices": "the devices",
}
#: Theorems whose digests are known: the code that a process has loaded does not change under it.
_KNOWN: dict[int, tuple[Theorem, Sources, dict[str, Any]]] = {}


def of(theorem: Theorem) -> dict[str, Any]:
    """{"path": ..., "verdict": ..., "of": what the path's is made of, by name}; those of the first
    call in this process.

    Code in no file is unknown: its digests are like no other. Raises OSError if a file cannot be
    read.
    """
    return _known(theorem)[2]


def sources(theorem: Theorem) -> Sources:
    """What those digests are of."""
    return _known(theorem)[1]


def _known(theorem: Theorem) -> tuple[Theorem, Sources, dict[str, Any]]:
    if id(theorem) not in _KNOWN:
        known = code.sources(theorem, ("popgd.theorem.report", JUDGE))
        _KNOWN[id(theorem)] = theorem, known, _of(theorem, known)
    return _KNOWN[id(theorem)]


def _of(theorem: Theorem, known: Sources) -> dict[str, Any]:
    told = {name: origin.told(getattr(theorem, name)) for name in Theorem.__dataclass_fields__}
    judging = [told.pop(name) for name in code.JUDGING]
    nowhere = "" if known.known else os.urandom(16).hex()
    path = path_of(known, theorem)
    kept = [unit.path for key, unit in known.units() if key in path]
    every = [unit.whole for _, unit in known.units()]
    parts = {
        "code": _hash([json.dumps(told), nowhere, *kept]),
        "versions": versions(known.packages),
        "cpu": cpu(),
        "devices": devices(),
    }
    digest = _hash([json.dumps(parts, sort_keys=True)])
    return {"path": digest, "verdict": _hash([digest, json.dumps(judging), *every]), "of": parts}


def path_of(known: Sources, theorem: Theorem) -> set[Key]:
    """The definitions that may have moved a number."""
    fields = [
        getattr(theorem, name) for name in Theorem.__dataclass_fields__ if name not in code.JUDGING
    ]
    drivers = {key for key in known.keys if key[0] in DRIVERS}
    found = (
        (origin.definitions(fields) & known.keys)
        | drivers
        | {key for key in known.always() if not _apart(key)}
    )
    left = list(found)
    while left:
        key = left.pop()
        for used in known.uses(key) - found:
            if not (_apart(used) and (used[0] not in _APART or key[0] in DRIVERS)):
                found.add(used)
                left.append(used)
    return found


def _apart(key: Key) -> bool:
    """Whether a definition judges or draws."""
    return key[0] in _APART or code.drawn(key[0])


def _hash(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def versions(packages: set[str]) -> dict[str, str]:
    """The versions of Python, of PACKAGES and of those packages, where they are installed."""
    found = {"python": platform.python_version()}
    for name in sorted({*PACKAGES, *packages}):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def cpu() -> str:
    """The model of the processor: others may round in another way."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def devices() -> str:
    """The kind of JAX's devices, and whether there is only one.

    Programs for one device are compiled in another way than those for several, whose number does
    not matter (`gradient`).
    """
    kinds = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    return f"{kinds}, {'one' if jax.device_count() == 1 else 'several'}"


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of the parts of a path is other now, in words; empty if nothing is."""
    return ", ".join(_changes(then, now))


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*then, *now}):
        a, b, words = then.get(name), now.get(name), _WORDS.get(name, name)
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            moved = [
                f"{key} {a.get(key, '-')} -> {b.get(key, '-')}"
                for key in sorted({*a, *b})
                if a.get(key) != b.get(key)
            ]
            yield f"{words} ({', '.join(moved)})"
        else:
            yield words if name == "code" else f"{words} ({a} -> {b})"
