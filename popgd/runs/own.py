"""Theorems of the user's own, kept beside the runs that judge them, and found again."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

from popgd.problem.errors import SettingError
from popgd.runs import digest, origin, store
from popgd.runs.files import load
from popgd.theorem.base import Theorem
from popgd.theorem.registry import theorems

#: Where a run directory keeps the files, and in it which they are.
SOURCES, ORIGIN = "sources", "origin.json"
#: The name of what was typed into a notebook, of which no file is known.
TYPED = "typed.py"


class Origin(NamedTuple):
    """The module of a theorem, and of each file that is kept, by its name there, where it was (""
    if nowhere) and its digest.
    """

    module: str
    files: dict[str, list[str]]


def keep(path: Path, theorem: Theorem) -> str:
    """Write what the theorem is made of into the run directory, if it is not popgd's: "" or why
    that cannot be done, in a line.

    What was loaded from there stays as it is.
    """
    if origin.ours(theorem):
        return ""
    known, place = digest.sources(theorem), path / SOURCES
    files = {_inside(name, file): file for name, file in known.files.items()}
    if any(file.resolve().is_relative_to(place.resolve()) for file in files.values()):
        return ""
    kept = {name: (str(file.absolute()), file.read_bytes()) for name, file in files.items()}
    if not known.known:
        kept[TYPED] = ("", origin.cells(theorem).encode())
    if not any(content for _, content in kept.values()):
        if theorem.name in origin.names():
            return ""
        return (
            f"Theorem {theorem.name} is in no file: this run cannot be gone on with or "
            "rechecked elsewhere"
        )
    shutil.rmtree(place, ignore_errors=True)
    for name, (_, content) in kept.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        store.write(place / name, content)
    module = next(
        (name for name in origin.holders(theorem) if name in known.files), Path(TYPED).stem
    )
    told = Origin(module, {name: [where, _digest(x)] for name, (where, x) in kept.items()})
    store.write(place / ORIGIN, json.dumps(told._asdict(), indent=1).encode())
    return (
        ""
        if known.known
        else (
            f"Theorem {theorem.name} is in no file: it is measured anew each time; put it into one"
        )
    )


def read(path: Path) -> dict[str, Any] | None:
    """What `keep` left in a run directory, as plain data; None if nothing. Raises SettingError if
    it is damaged.
    """
    place = path / SOURCES
    if not place.exists():
        return None
    try:
        told = Origin(**json.loads((place / ORIGIN).read_text()))
        for name, (where, kept) in told.files.items():
            if _digest((place / name).read_bytes()) != kept or not isinstance(where, str):
                raise ValueError(f"{name} is not what was kept")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SettingError(
            f"{place} is damaged ({error}): run the file that defines the theorem, "
            "with these settings"
        ) from None
    return told._asdict()


def summon(path: Path, theorem: Any, kept: dict[str, Any] | None) -> str:
    """Make the theorem of a run known, if it is not popgd's: from where it was, if nothing has
    changed there, else from the copy.

    Returns a line that says which, "" for popgd's. Raises SettingError if it cannot be loaded.
    """
    if kept is None:
        if isinstance(theorem, str) and theorem not in theorems():
            given = (
                f"the run in {path} is of {theorem}, no theorem of popgd, and its source was "
                "not kept"
            )
            raise SettingError(f"{given}: run theorem=FILE.py, with the same settings")
        return ""
    told = Origin(**kept)
    stays = all(where and _is(Path(where), content) for where, content in told.files.values())
    name = next(name for name in told.files if name in (_inside(told.module, Path("x.py")), TYPED))
    where, copy = told.files[name][0], path / SOURCES / name
    if stays:
        line, file = f"{theorem} is that of {where}", Path(where)
    elif where and Path(where).exists():
        line, file = (
            f"{where} has been edited since (or what it imports): the copy {copy} is run",
            copy,
        )
    else:
        line, file = f"{theorem} is foreign, its file is not here: the code in {copy} is run", copy
    for known in told.files:
        sys.modules.pop(known.removesuffix(".py").removesuffix("/__init__").replace("/", "."), None)
    bring = "use that one, or bring a copy of it up to date and run that by theorem=FILE.py"
    found = load(file, told.module, bring)
    if theorem not in found:
        raise SettingError(
            f"{file} holds no theorem {theorem}, but {', '.join(found)}: correct "
            "it, or name another run"
        )
    theorems()[theorem] = found[theorem]
    return line


def _inside(module: str, file: Path) -> str:
    """Where the file of a module stands below the place that it is imported from."""
    return module.replace(".", "/") + ("/__init__.py" if file.name == "__init__.py" else ".py")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is(file: Path, content: str) -> bool:
    return file.is_file() and _digest(file.read_bytes()) == content
