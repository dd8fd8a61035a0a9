"""The house: which room may use which, no import circle, and what is public."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from zipfile import ZipFile

import pytest

import popgd

ROOT = Path(popgd.__file__).parent
#: From the ground floor up: a room uses its own files and those of the rooms before it.
ROOMS = ("problem", "symmetry", "descent", "claims", "theorem", "explore", "runs", "papers")
EXPERIMENTS = ROOT.parent / "experiments"


def imported(file: Path, known: dict[str, Path]) -> set[str]:
    """The modules among the known ones that a file imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & known.keys() or {node.module}
            found |= {node.module} if inner - known.keys() else set()
    return found & known.keys()


def modules(top: Path, prefix: str) -> dict[str, Path]:
    """Every module below a folder by its dotted name."""
    files = {file: file.relative_to(top).with_suffix("").parts for file in top.rglob("*.py")}
    names = {file: [p for p in parts if p != "__init__"] for file, parts in files.items()}
    return {".".join([prefix, *parts] if prefix else parts): file for file, parts in names.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty if none do."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) and not circle({"a": {"b"}, "b": set()})


def test_no_file_of_popgd_is_part_of_a_circle():
    known = modules(ROOT, "popgd")
    assert circle({name: imported(file, known) - {"popgd"} for name, file in known.items()}) == []


def test_no_experiment_is_part_of_a_circle():
    known = modules(EXPERIMENTS, "")
    known = {name.rpartition(".")[2]: file for name, file in known.items() if name}
    assert circle({name: imported(file, known) for name, file in known.items()}) == []


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_use_what_is_below_them(room):
    known = modules(ROOT, "popgd")
    floors = {name: ROOMS.index(name) for name in ROOMS}
    wrong = [
        (name, used)
        for name, file in known.items()
        if name.split(".")[1:2] == [room]
        for used in imported(file, known)
        if len(used.split(".")) > 1 and floors.get(used.split(".")[1], 99) > floors[room]
    ]
    assert wrong == []


def test_public_names_are_the_instruments():
    assert set(popgd.__all__) <= set(vars(popgd)) and len(popgd.__all__) <= 22
    assert not [n for n in popgd.__all__ if getattr(popgd, n).__module__.startswith("popgd.papers")]


def test_the_wheel_says_that_popgd_is_typed(tmp_path, monkeypatch):
    build = pytest.importorskip("hatchling.build", reason="pip install popgd[test]")
    monkeypatch.chdir(ROOT.parent)
    with ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        assert {"popgd/py.typed", "popgd/__init__.py"} <= set(wheel.namelist())


def test_pytrees_are_registered_where_their_classes_are_told_apart():
    """JAX 0.10 runs programs of one class of `register_dataclass` for another (problem/pytree)."""
    files = [*ROOT.rglob("*.py"), *EXPERIMENTS.rglob("*.py")]
    own = ROOT / "problem" / "pytree.py"
    found = [file for file in files if "register_dataclass" in file.read_text(encoding="utf-8")]
    assert found == [own]


def test_tolerances_are_stated():
    """pytest.approx(rel=...) allows 1e-12 beside that, for whoever does not say abs=0: of numbers
    that are smaller it would say nothing.
    """
    for file in Path(__file__).parent.glob("*.py"):
        calls = [n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.Call)]
        for call in calls:
            if ast.unparse(call.func) == "pytest.approx":
                assert "abs" in {k.arg for k in call.keywords}, f"{file.name}:{call.lineno}"


def used_elsewhere(file: Path) -> set[str]:
    """Names that a file imports, looks up in a module or says in a string."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value.rpartition(".")[2])
    return found


def test_functions_of_one_file_alone_are_private():
    """But for papers of a single file, which read like a user's."""
    files = [*ROOT.rglob("*.py"), *EXPERIMENTS.rglob("*.py"), *Path(__file__).parent.glob("*.py")]
    used = {file: used_elsewhere(file) for file in files}
    for file in ROOT.rglob("*.py"):
        if file.name == "__init__.py" or file.parent.name == "papers" or file.parent == ROOT:
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert any(node.name in used[other] for other in files), f"{file.name}: {node.name}"
