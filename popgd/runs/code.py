"""The source text that a theorem rests on, read and not run: its top-level definitions and what
each of them uses.

Files of popgd and of the user, not those of installed packages or of Python itself. Names are
resolved through imports.
"""

import ast
import functools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from popgd.runs.origin import definitions, file_of, holders, ours, packaged
from popgd.theorem.base import Theorem

#: (module, name) of a top-level definition; a statement that defines nothing has its number for a
#: name.
Key = tuple[str, str]
#: A name with attributes: ("growth", "descend_exactly").
Chain = tuple[str, ...]
#: Packages that gather what others define: what is taken from them counts, not what else they
#: import.
GATHERING = ("popgd", "popgd.papers", "popgd.papers.power_method")
#: How theorems are found, and a run is begun, watched, stored and shown: nothing of it is read.
APART = {
    "popgd.run",
    "popgd.__main__",
    "popgd.collect",
    "popgd.theorem.registry",
    "popgd.descent.heartbeat",
} | {
    f"popgd.runs.{name}"
    for name in (
        "command",
        "perform",
        "sweep",
        "collect",
        "screen",
        "recheck",
        "older",
        "watchdog",
        "guard",
        "digest",
        "code",
        "origin",
        "own",
        "files",
        "help",
        "checkpoint",
    )
}
#: The fields of a theorem that are only of judging, or for the reader.
JUDGING = (
    "name",
    "title",
    "statement",
    "source",
    "hypotheses",
    "claims",
    "sampled",
    "quantities",
)
_FIELDS = tuple(Theorem.__dataclass_fields__)
_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
#: Python's own ways to a name that is not in the text.
_DYNAMIC = {"globals", "eval", "exec", "__import__", "importlib", "modules"}


def drawn(module: str) -> bool:
    """Whether a module only draws."""
    return module == "popgd.theorem.plot" or (
        module.startswith("popgd.") and module.endswith("pictures")
    )


class Unit(NamedTuple):
    """One top-level definition, import or statement: its text for the path and as a whole, the
    names in it, whether it makes a theorem, and the names that may hand it on: of decorators, base
    classes, and what an assignment calls.

    Whoever uses an import's name uses what it stands for.
    """

    path: str
    whole: str
    names: set[Chain]
    theorem: bool
    handed: set[Chain]


@dataclass
class Module:
    """The units of a file, in its order, and what its imports mean, wherever they stand: name ->
    (module, name or "").
    """

    units: list[tuple[str, Unit]] = field(default_factory=list)
    aliases: dict[str, set[Key]] = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)


class _Text:
    """The text of one statement, node by node, without docstrings and positions."""

    def __init__(self) -> None:
        self.path: list[str] = []
        self.whole: list[str] = []
        self.names: set[Chain] = set()
        self.theorem = False
        self.imports: list[Any] = []
        self._judging = False

    def add(self, value: Any) -> None:
        if isinstance(value, ast.AST):
            self._node(value)
        elif isinstance(value, list):
            self._word("[")
            for item in value:
                self.add(item)
            self._word("]")
        else:
            self._word(repr(value))

    def _word(self, word: str) -> None:
        self.whole.append(word)
        if not self._judging:
            self.path.append(word)

    def _node(self, node: ast.AST) -> None:
        kind = type(node)
        self._word(kind.__name__)
        if kind is ast.Import or kind is ast.ImportFrom:
            self.imports.append(node)
        if kind is ast.Name or kind is ast.Attribute:
            chain = _chain(node)
            if chain[0]:
                if not self._judging:
                    self.names.add(chain)
                self._word(".".join(chain))
                return
        judging = _judging(node) if kind is ast.Call else ()
        self.theorem |= bool(judging) and _chain(node.func)[-1] != "Option"  # pyright: ignore
        for name in kind._fields:
            if name in ("ctx", "kind", "type_comment"):
                continue
            value = getattr(node, name, None)
            if name == "body" and isinstance(node, _DEFINES):
                value = _plain(node.body)
            if judging and name in ("args", "keywords"):
                for item in value or ():
                    self._judging, before = self._judging or item in judging, self._judging
                    self.add(item)
                    self._judging = before
            else:
                self.add(value)

    def unit(self, handed: Iterable[ast.AST] = ()) -> Unit:
        chains = {
            _chain(part)
            for node in handed
            for part in ast.walk(node)
            if isinstance(part, ast.Name | ast.Attribute)
        }
        return Unit(" ".join(self.path), " ".join(self.whole), self.names, self.theorem, chains)


def _plain(body: list[ast.stmt]) -> list[ast.stmt]:
    """A body without its docstring."""
    first = body[0] if body else None
    text = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    return body[1:] if text else body


def _chain(node: ast.AST) -> Chain:
    """The names of a.b.c; those after an expression are nobody's."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ("",)


def _judging(call: ast.AST) -> tuple[ast.AST, ...]:
    """The arguments of a call of Theorem, or of a function `theorem` that makes one, that are only
    of judging; of an Option, its help.
    """
    assert isinstance(call, ast.Call)
    called = _chain(call.func)[-1]
    if called == "Option" and not any(isinstance(arg, ast.Starred) for arg in call.args):
        return (*call.args[2:], *(word for word in call.keywords if word.arg == "help"))
    named = tuple(word for word in call.keywords if word.arg in JUDGING)
    if called == "Theorem" and not any(isinstance(arg, ast.Starred) for arg in call.args):
        return named + tuple(
            arg for name, arg in zip(_FIELDS, call.args, strict=False) if name in JUDGING
        )
    return named if called == "theorem" else ()


@functools.cache
def parse(text: str, package: str) -> Module:
    """The units of a module's text, read once in a process. Raises SyntaxError."""
    tree, module = ast.parse(text), Module()
    for number, node in enumerate(_plain(tree.body)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            _imports(node, package, module)
            source = f"{'.' * getattr(node, 'level', 0)}{getattr(node, 'module', None)}"
            for alias in node.names:
                words = f"{type(node).__name__} {source} {alias.name} {alias.asname}"
                name = alias.asname or alias.name.partition(".")[0]
                module.units.append((name, Unit(words, words, set(), False, set())))
            continue
        written = _Text()
        written.add(node)
        for inner in written.imports:
            _imports(inner, package, module)
        if isinstance(node, _DEFINES):
            handed = [
                *node.decorator_list,
                *getattr(node, "bases", ()),
                *getattr(node, "keywords", ()),
            ]
            module.units.append((node.name, written.unit(handed)))
        else:
            targets = (
                node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            )
            plain = (
                isinstance(node, ast.Assign | ast.AnnAssign)
                and len(targets) == 1
                and isinstance(targets[0], ast.Name)
            )
            called = (
                [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
                if plain
                else []
            )
            module.units.append((targets[0].id if plain else str(number), written.unit(called)))  # pyright: ignore
    return module


def _imports(node: ast.Import | ast.ImportFrom, package: str, module: Module) -> None:
    for alias in node.names:
        if isinstance(node, ast.Import):
            bound = (
                (alias.asname, alias.name) if alias.asname else (alias.name.partition(".")[0],) * 2
            )
            module.aliases.setdefault(bound[0], set()).add((bound[1], ""))
            module.imported.add(alias.name)
        else:
            parents = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            source = ".".join([*parents, *([node.module] if node.module else [])])
            module.aliases.setdefault(alias.asname or alias.name, set()).add(
                (source, alias.name.strip("*"))
            )
            module.imported |= {source, f"{source}.{alias.name}"}


class Sources:
    """The modules that a theorem rests on, found from some of them through their imports."""

    def __init__(self, start: Iterable[str]) -> None:
        self.modules: dict[str, Module] = {}
        self.files: dict[str, Path] = {}
        self.packages: set[str] = set()
        self.known = True
        self._gathering: dict[str, Module] = {}
        left = list(start)
        while left:
            left += self._read(left.pop())
        self._uses: dict[Key, set[Key]] = {}
        self._names = {*self.modules, *GATHERING}
        self._by_key: dict[Key, list[Unit]] = {}
        for key, unit in self.units():
            self._by_key.setdefault(key, []).append(unit)

    def _read(self, name: str) -> set[str]:
        """Read a module, if it is there and to be read: those that it imports."""
        if name in self.modules or name in APART or name in GATHERING:
            return set()
        file = file_of(name)
        if file is None:
            return set()
        module = self.modules[name] = _parsed(file, name)
        if not name.startswith("popgd."):
            self.files[name] = file
            tops = {source.partition(".")[0] for source in module.imported} - {
                "",
                "popgd",
                *sys.stdlib_module_names,
            }
            self.packages |= {top for top in tops if file_of(top) is None}
            parents = name.split(".")[:-1]
            found = {".".join(parents[:k]) for k in range(1, len(parents) + 1)}
        else:
            found = set()
        for source in module.imported:
            found.add(source)
            package, _, last = source.rpartition(".")
            if package in GATHERING and file_of(source) is None:
                found |= {taken for taken, _ in self._gathered(package).aliases.get(last, ())}
        return found

    def _gathered(self, package: str) -> Module:
        if package not in self._gathering:
            file = file_of(package)
            assert file is not None
            self._gathering[package] = _parsed(file, package)
        return self._gathering[package]

    def units(self) -> Iterator[tuple[Key, Unit]]:
        """All definitions, in the order of their modules' names and their places."""
        return (
            ((name, own), unit)
            for name in sorted(self.modules)
            for own, unit in self.modules[name].units
        )

    @property
    def keys(self) -> set[Key]:
        return set(self._by_key)

    def uses(self, key: Key) -> set[Key]:
        """The definitions whose names stand in that one."""
        if key not in self._uses:
            chains = {chain for unit in self._by_key[key] for chain in unit.names}
            self._uses[key] = {used for chain in chains for used in self._means(key[0], chain)}
        return self._uses[key]

    def always(self) -> set[Key]:
        """What may be used without being named: statements, theorems, and what other definitions
        that are read here may keep.
        """
        return {
            key
            for key, unit in self.units()
            if key[1].isdecimal()
            or unit.theorem
            or any(self._means(key[0], chain) - {key} for chain in unit.handed)
        }

    def _means(self, module: str, chain: Chain, seen: tuple[Key, ...] = ()) -> set[Key]:
        """What a name may mean there: never less than it does."""
        if chain[0] in _DYNAMIC or chain[-1] in _DYNAMIC:
            return self.keys
        found = {(module, chain[0])} & self._by_key.keys()
        if module not in self.modules or (module, chain[0]) in seen:
            return found
        aliases, seen = self.modules[module].aliases, (*seen, (module, chain[0]))
        for source, name in aliases.get(chain[0], ()):
            found |= self._inside(source, [*([name] if name else []), *chain[1:]], seen)
        for source, _ in aliases.get("*", ()):
            found |= self._inside(source, list(chain), seen)
        return found

    def _inside(self, module: str, names: list[str], seen: tuple[Key, ...]) -> set[Key]:
        while names and f"{module}.{names[0]}" in self._names:
            module, names = f"{module}.{names[0]}", names[1:]
        if module in GATHERING and names:
            sources = self._gathered(module).aliases.get(names[0], ())
            return set().union(
                *(self._inside(source, [name, *names[1:]], seen) for source, name in sources)
            )
        if names:
            return self._means(module, tuple(names), seen)
        return {key for key in self._by_key if key[0] == module}  # the module itself is handed on


def _parsed(file: Path, name: str) -> Module:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    return parse(file.read_text(encoding="utf-8"), package)


def sources(theorem: Theorem, more: Iterable[str]) -> Sources:
    """The sources of a theorem and of those modules; `known` is false if a part of the theorem is
    in no file.
    """
    names = {module for module, _ in definitions(theorem)}
    if not ours(theorem):
        names |= set(holders(theorem))
    found = Sources([*names, *more])
    found.known = all(file_of(name) or packaged(name) for name in names)
    return found
