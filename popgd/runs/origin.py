"""Where the parts of a theorem come from: its functions, the modules that they are in, and the
files of those.
"""

import contextlib
import functools
import importlib.util
import linecache
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from popgd.theorem.base import Theorem
from popgd.theorem.registry import papers
from popgd.theorem.settings import Option

_HERE = Path(__file__).resolve().parent.parent


def ours(theorem: Theorem) -> bool:
    """Whether popgd itself has this theorem."""
    return any(theorem is own for own in _every())


def names() -> set[str]:
    """The names of popgd's own theorems."""
    return {theorem.name for theorem in _every()}


def _every() -> list[Theorem]:
    return [theorem for paper in papers().values() for theorem in paper]


def functions(value: Any) -> Iterator[Any]:
    """The functions and classes in a theorem or a field of one, inside tuples, partials and
    closures too.
    """
    if isinstance(value, Theorem):
        yield from functions(list(vars(value).values()))
    elif isinstance(value, functools.partial):
        yield from functions([value.func, *value.args, *value.keywords.values()])
    elif isinstance(value, tuple | list):
        for item in value:
            yield from functions(item)
    elif isinstance(value, Mapping):
        yield from functions(list(value.values()))
    elif hasattr(value, "__wrapped__"):
        yield from functions(value.__wrapped__)
    elif isinstance(value, FunctionType | type):
        yield value
        yield from functions(_kept(value))
    elif callable(value):
        yield getattr(value, "__func__", type(value))


def definitions(value: Any) -> set[tuple[str, str]]:
    """(module, top-level name) of those."""
    return {(_name_of(f.__module__), f.__qualname__.partition(".")[0]) for f in functions(value)}


def holders(theorem: Theorem) -> list[str]:
    """The modules outside popgd that have the theorem itself: of those that its functions are in,
    if any, else of all; then the file that Python was started with.
    """
    has = lambda value: (
        value is theorem
        or (isinstance(value, tuple | list) and any(item is theorem for item in value))
    )
    loaded = [
        (name, module) for name, module in list(sys.modules.items()) if not name.startswith("popgd")
    ]
    found = {
        _name_of(name)
        for name, module in loaded
        if any(has(value) for value in list(getattr(module, "__dict__", {}).values()))
    }
    found = {name for name in found if file_of(name)}
    inner = found & {module for module, _ in definitions(theorem)}
    main = _name_of("__main__")
    return sorted(inner or found) or [main] * bool(not main.startswith("popgd.") and file_of(main))


def told(value: Any) -> Any:
    """A field of a theorem as plain data that is the same in every process; of objects, their
    kinds.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Option):  # its help is for the reader
        return [told(value.default), told(value.read)]
    if isinstance(value, tuple | list):
        return [told(item) for item in value]
    if isinstance(value, Mapping):
        return [
            [str(name), told(item)]
            for name, item in sorted(value.items(), key=lambda pair: str(pair[0]))
        ]
    if isinstance(value, functools.partial):
        return ["partial", told(value.func), told(value.args), told(value.keywords)]
    if hasattr(value, "__wrapped__"):
        return told(value.__wrapped__)
    if isinstance(value, FunctionType):
        return [_name_of(value.__module__), value.__qualname__, told(_kept(value))]
    kind = value if isinstance(value, type) else type(value)
    return [_name_of(kind.__module__), kind.__qualname__]


def _kept(function: Any) -> list[Any]:
    """What a function has from where it was made: values that it closes over, and defaults; but for
    itself.
    """
    values = []
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # an empty one
            values.append(cell.cell_contents)
    defaults = (
        *(getattr(function, "__defaults__", None) or ()),
        *(getattr(function, "__kwdefaults__", None) or {}).values(),
    )
    return [value for value in (*values, *defaults) if value is not function]


def _name_of(module: str) -> str:
    """The name by which a module can be imported: __main__ is the file that Python was started
    with.
    """
    main = sys.modules.get("__main__")
    if module != "__main__" or main is None:
        return module
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return spec.name if spec else Path(file).stem if file else module


def file_of(name: str) -> Path | None:
    """The file of a module of popgd or of the user; None for other packages, Python's own modules
    and what is in no file.
    """
    if name == "popgd" or name.startswith("popgd."):
        base = _HERE.joinpath(*name.split(".")[1:])
        return next(
            (file for file in (base / "__init__.py", base.with_suffix(".py")) if file.is_file()),
            None,
        )
    found = _loaded_from(name)
    return found if found and found.suffix == ".py" and not _installed(found) else None


def packaged(name: str) -> bool:
    """Whether a module is Python's own, or that of an installed package, which has a version."""
    found = _loaded_from(name)
    return _installed(found) if found else name in sys.stdlib_module_names


def users(file: Path) -> bool:
    """Whether a file is the user's: neither popgd's, nor Python's or an installed package's."""
    return file.is_file() and not file.resolve().is_relative_to(_HERE) and not _installed(file)


def _loaded_from(name: str) -> Path | None:
    """Where a module is or would be loaded from."""
    module = sys.modules.get("__main__" if name == _name_of("__main__") else name)
    if module is not None:
        file = getattr(module, "__file__", None)
        return Path(file) if file else None
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or (top != name and file_of(top) is None):
        return None
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        spec = importlib.util.find_spec(name)
        if spec and spec.has_location and spec.origin:
            return Path(spec.origin)
    return None


@functools.cache
def _installed(file: Path) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    places = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    return bool({"site-packages", "dist-packages"} & set(file.parts)) or any(
        file.is_relative_to(place) for place in places
    )


def cells(theorem: Theorem) -> str:
    """The text that a theorem's functions were defined in where that is no file, cells of a
    notebook; empty if it is lost.
    """
    texts: dict[str, str] = {}
    for value in [*vars(sys.modules["__main__"]).values(), theorem]:
        for function in functions(value) if isinstance(value, Theorem | FunctionType) else ():
            if isinstance(function, FunctionType) and function.__module__ == "__main__":
                name = function.__code__.co_filename
                texts[name] = "".join(linecache.getlines(name))
    return "\n".join(texts.values())
