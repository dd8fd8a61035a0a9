"""The theorems that popgd knows: those of every paper that is found in `popgd.papers`, and what is
added to them.
"""

import functools
import importlib
import pkgutil

from popgd.problem.errors import SettingError
from popgd.theorem.base import Theorem


@functools.cache
def papers() -> dict[str, tuple[Theorem, ...]]:
    """The theorems of each paper, by its title: a paper is a module of `popgd.papers` with a dict
    PAPER of them.
    """
    home = importlib.import_module("popgd.papers")
    found = (
        importlib.import_module(f"{home.__name__}.{module.name}")
        for module in pkgutil.iter_modules(home.__path__)
    )
    return {title: theorems for paper in found for title, theorems in paper.PAPER.items()}


@functools.cache
def theorems() -> dict[str, Theorem]:
    """Every theorem by its name; one that is put in here is known from then on."""
    return {theorem.name: theorem for group in papers().values() for theorem in group}


def called(name: str) -> str:
    """How a verdict calls the theorem of this name, known or not."""
    known = theorems().get(name)
    return f"Theorem {name}{', as transcribed' if known and known.transcribed else ''}"


def add(theorem: Theorem) -> str:
    """Put a theorem in, for an earlier one of that name; its name. Raises SettingError for the name
    of another one of popgd's.
    """
    known = {known.name: known for group in papers().values() for known in group}
    if known.get(theorem.name, theorem) is not theorem:
        raise SettingError(f"a theorem of popgd is called {theorem.name}: give yours another name")
    theorems()[theorem.name] = theorem
    return theorem.name
