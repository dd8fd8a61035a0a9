"""Theorems in files of the user's: found, and loaded from there, with what is wrong in one line."""

import ast
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from popgd.problem.errors import SettingError
from popgd.problem.problem import Problem
from popgd.runs import origin
from popgd.theorem.base import Theorem
from popgd.theorem.readers import nearest
from popgd.theorem.registry import theorems

#: FILE.py or FILE.py:NAME.
_FILE = re.compile(r"(?P<file>.*?\.py)(:(?P<name>.*))?", re.DOTALL)
#: What to do about a file that needs what popgd no longer has.
BRING = "import it from where it is now (CONTRIBUTING, Layout of the code)"
#: The theorems of the files of this command, by file.
_LOADED: dict[Path, dict[str, Theorem]] = {}


def expand(values: Iterable[str]) -> list[str]:
    """These values of `theorem`, with FILE:NAME of every theorem for a file; the files are loaded.

    Raises SettingError if one cannot be, or holds no such theorem, or two theorems have one name.
    """
    _LOADED.clear()
    found: dict[str, str] = {}
    for value in values:
        for name, word in _theorems(value):
            if found.setdefault(name, word) != word:
                raise SettingError(
                    f"{found[name]} and {word}: two theorems of one name; rename one"
                )
    places = sorted({str(file.parent) for file in _LOADED})
    if len(places) > 1:  # where they import modules of one name, the second would get the first's
        raise SettingError(f"files in {' and '.join(places)}: run those of one directory at a time")
    return list(found.values())


def named(value: str) -> str:
    """The name of the theorem that FILE:NAME means, known from now on; of others, as it is."""
    ((name, _),) = _theorems(value)
    return name


def problem_in(value: str) -> Problem | None:
    """The one Problem that a file without theorems defines outside functions, or that of the name
    in FILE:NAME; None for whatever names a theorem. Raises SettingError for several.
    """
    match = _FILE.fullmatch(value)
    if match is None:
        return None
    file, name = Path(match["file"]).expanduser(), match["name"]
    made = vars(_run(file, file.stem, BRING))
    found = {each: x for each, x in made.items() if isinstance(x, Problem)}
    if name in found:
        return found[name]
    inside = (x if isinstance(x, tuple | list) else [x] for x in made.values())
    if name is not None or not found or any(isinstance(t, Theorem) for x in inside for t in x):
        return None
    if len(found) > 1:
        first = next(iter(found))
        raise SettingError(
            f"{file} holds several problems ({', '.join(found)}): name one, as in "
            f"theorem={file}:{first} explore=true"
        )
    return next(iter(found.values()))


def _theorems(value: str) -> list[tuple[str, str]]:
    """(name, FILE:NAME) of each theorem that a value of `theorem` means."""
    match = _FILE.fullmatch(value)
    if match is None:
        return [(value, value)]
    file, name = Path(match["file"]).expanduser(), match["name"]
    at = Path(os.path.abspath(file))  # not where a link leads, which may be called otherwise
    if at not in _LOADED:
        _LOADED[at] = load(file)
    found = _LOADED[at]
    theorems().update(found)
    if name is not None and name not in found:
        close = nearest(name, found) or f"; it holds {', '.join(found)}"
        raise SettingError(f"{file} holds no theorem {name}{close}")
    return [(each, f"{at}:{each}") for each in ([name] if name is not None else found)]


def load(file: Path, module: str = "", bring: str = BRING) -> dict[str, Theorem]:
    """The theorems in a file, by name; it is run as the module of that name, else of the file's.

    Raises SettingError, in one line, if it cannot be run or holds none; `bring` is what to do where
    it needs another popgd.
    """
    module = module or file.stem
    made = _run(file, module, bring)
    found: dict[str, tuple[str, Theorem]] = {}
    for variable, value in vars(made).items():
        for theorem in value if isinstance(value, tuple | list) else [value]:
            if not isinstance(theorem, Theorem) or origin.ours(theorem):
                continue
            at = f"{file}{_line(file, variable)}"
            if theorem.name in origin.names():
                raise SettingError(f"{at}: {theorem.name} is a theorem of popgd's own; rename it")
            other, known = found.setdefault(theorem.name, (variable, theorem))
            if known is not theorem:
                raise SettingError(
                    f"{at}: {other} and {variable} are both called {theorem.name}; rename one"
                )
    if not found:
        raise SettingError(
            f"{file} holds no theorem: a popgd.Theorem was wanted, outside any function"
        )
    return {name: theorem for name, (_, theorem) in found.items()}


def _run(file: Path, module: str, bring: str) -> ModuleType:
    """The module that running the file makes. Raises SettingError if it cannot be run."""
    if not file.is_file():
        raise SettingError(f"{file}: no such file; name a file that is there")
    top = module.partition(".")[0]
    if top in ("popgd", "__main__", "__init__") or origin.packaged(top):
        raise SettingError(f"{file} would hide the module {top} from all that import it: rename it")
    if module == file.stem != top:
        raise SettingError(f"{file} has two dots in its name, as no module can: rename it")
    spec = importlib.util.spec_from_file_location(module, file)
    assert spec and spec.loader
    made = sys.modules[module] = importlib.util.module_from_spec(spec)
    root = str(file.resolve().parents[module.count(".")])
    if sys.path[0] != root:  # what it imports stands beside it
        sys.path.insert(0, root)
    quiet, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(made)
    except (Exception, SystemExit) as error:
        sys.modules.pop(module, None)
        raise SettingError(f"{_place(error, file)}: {_cause(error, bring)}") from None
    finally:
        sys.dont_write_bytecode = quiet
    return made


def _place(error: BaseException, file: Path) -> str:
    """The file and line of the user's where running the file ended."""
    if isinstance(error, SyntaxError) and error.filename:
        name, line = error.filename, error.lineno
    else:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if origin.users(Path(frame.filename))]
        name, line = (ours[-1].filename, ours[-1].lineno) if ours else (str(file), None)
    shown = file if Path(name).resolve() == file.resolve() else name
    return f"{shown}, line {line}" if line else str(shown)


def _cause(error: BaseException, bring: str) -> str:
    """What ended it, and what to do."""
    if isinstance(error, SettingError):
        return str(error) if bring == BRING else f"{error}; {bring}"
    name = getattr(error, "name", None)
    owner = getattr(getattr(error, "obj", None), "__name__", None)
    if isinstance(error, ImportError) and name and f"{name}.".startswith("popgd."):
        lost = name if isinstance(error, ModuleNotFoundError) else _lost(error, name)
        return f"this popgd has no {lost}, it was written for an earlier one: {bring}"
    if isinstance(error, AttributeError) and owner and f"{owner}.".startswith("popgd."):
        return f"this popgd has no {owner}.{name}, it was written for an earlier one: {bring}"
    if isinstance(error, ModuleNotFoundError) and name:
        return f"there is no module {name}: install it, or put its file beside this one"
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {words}".removesuffix(": ") + "; correct it"


def _lost(error: ImportError, module: str) -> str:
    """The name that could not be imported from a module of popgd."""
    match = re.match(r"cannot import name '(\w+)'", str(error))
    return f"{module}.{match[1]}" if match else module


def _line(file: Path, variable: str) -> str:
    """Where in a file a variable is assigned, as ", line 3"; empty if it is not."""
    lines = [
        node.lineno
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.Name) and node.id == variable and isinstance(node.ctx, ast.Store)
    ]
    return f", line {max(lines)}" if lines else ""
