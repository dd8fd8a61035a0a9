"""Which edits of popgd's own files change what of a run: its path, its verdict alone, or
nothing.
"""

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import popgd
from popgd.runs import code, digest, origin
from popgd.theorem.registry import theorems

PATH, VERDICT, NOTHING = {"path", "verdict"}, {"verdict"}, set()

#: (theorem, file, text, the same edited, what changes)
EDITS = [
    ("4.1", "descent/descent.py", "int(step[-1]) + 1", "int(step[-1]) + 2", PATH),
    pytest.param(
        "4.1",
        "papers/power_method/options.py",
        "Option(64, whole(2)",
        "Option(65, whole(2)",
        PATH,
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "4.1",
        "papers/power_method/options.py",
        '"data dimension"',
        '"dimension of the data"',
        VERDICT,
        marks=pytest.mark.slow,
    ),
    (
        "4.1",
        "papers/power_method/objectives.py",
        "class SubspaceDistance:",
        "class SubspaceDistance:\n    more = 0.5",
        PATH,
    ),
    pytest.param(
        "4.1",
        "descent/recursion.py",
        "def log_grid",
        "print()\n\n\ndef log_grid",
        PATH,
        marks=pytest.mark.slow,
    ),
    (
        "4.1",
        "papers/power_method/theorems.py",
        "SubspaceDistance(setting.L)",
        "SubspaceDistance(setting.L + 1)",
        PATH,
    ),
    ("4.1", "theorem/verdict.py", "POWER = 0.99", "POWER = 0.9", VERDICT),
    (
        "4.1",
        "papers/power_method/training/invariance.py",
        "SPREAD_RESOLUTION = 0.1",
        "SPREAD_RESOLUTION = 0.2",
        VERDICT,
    ),
    ("4.1", "papers/power_method/training/growth.py", '"exponent-c"', '"exponent of c"', VERDICT),
    (
        "4.1",
        "papers/power_method/theorems.py",
        "manifold.known_slope, *STRUCTURE",
        "manifold.known_slope",
        VERDICT,
    ),
    pytest.param(
        "4.1",
        "papers/power_method/training/pictures.py",
        "from popgd.theorem.plot import",
        "LOUD = 1\nfrom popgd.theorem.plot import",
        VERDICT,
        marks=pytest.mark.slow,
    ),
    (
        "4.1",
        "descent/descent.py",
        "        rows.append(",
        "        # why\n\n        rows.append(",
        NOTHING,
    ),
    ("4.1", "descent/descent.py", '"""The step before', '"""That before', NOTHING),
    pytest.param(
        "4.1",
        "papers/in_context/common.py",
        "HEAVY = 0.25",
        "HEAVY = 0.5",
        NOTHING,
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "gatmiry.minimiser",
        "papers/in_context/descents.py",
        "def study(",
        "def study(*, more=0, ",
        PATH,
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "4.1.stability",
        "papers/power_method/stability/measure.py",
        "def study(",
        "def study(*, more=0, ",
        PATH,
        marks=pytest.mark.slow,
    ),
]


def edited(monkeypatch, name, old, new):
    """From here on the file is read as if edited; nothing of it is run."""
    file = (Path(popgd.__file__).parent / name).resolve()
    plain = Path.read_text
    assert old in plain(file)
    read = lambda path, *a, **k: (
        plain(path, *a, **k).replace(old, new) if path == file else plain(path, *a, **k)
    )
    monkeypatch.setattr(Path, "read_text", read)


def now(theorem):
    """The digests of what the files hold now."""
    digest._KNOWN.clear()
    return digest.of(theorem)


def digests(theorem):
    found = now(theorems()[theorem])
    return {name: found[name] for name in ("path", "verdict")}


@pytest.fixture(scope="module")
def plain():
    """Of a theorem, before any edit; asked for once."""
    return functools.cache(digests)


@pytest.mark.parametrize(("theorem", "file", "old", "new", "changed"), EDITS)
def test_an_edit_changes_what_it_bears_on(monkeypatch, plain, theorem, file, old, new, changed):
    before = plain(theorem)
    edited(monkeypatch, file, old, new)
    found = digests(theorem)
    assert {name for name in found if found[name] != before[name]} == changed


def test_versions_and_processor_are_of_the_path(monkeypatch, plain):
    plain("4.1")
    for name, other in (
        ("versions", lambda packages: {"jax": "9.9"}),
        ("cpu", lambda: "Z80"),
        ("devices", lambda: "abacus"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(digest, name, other)
            found = now(theorems()["4.1"])
        assert found["path"] != plain("4.1")["path"] and found["verdict"] != plain("4.1")["verdict"]
    assert {"python", "jax", "jaxlib", "numpy", "scipy", "optax"} <= digest.versions(
        set()
    ).keys() and digest.cpu()


def test_everything_a_study_reaches_is_of_its_path():
    """Read off what it runs: no function that measures may be among those that are only of
    judging.
    """
    theorem = theorems()["4.1"]
    known = code.sources(theorem, ("popgd.theorem.report", digest.JUDGE))
    path = digest.path_of(known, theorem)
    run = {
        ("popgd.papers.power_method.training.measure", "sampled"),
        ("popgd.papers.power_method.training.growth", "descend_exactly"),
        ("popgd.papers.power_method.curve", "Looped"),
        ("popgd.descent.gradient", "population_average"),
        ("popgd.papers.power_method.data", "Rotated"),
        ("popgd.theorem.base", "examine"),
        ("popgd.descent.leap", "leap"),
        ("popgd.descent.processes", "here"),
        ("popgd.papers.power_method.training.laws", "make_law"),
    }
    assert run <= path
    assert (
        not {
            ("popgd.theorem.verdict", "judge"),
            ("popgd.papers.power_method.training.manifold", "negative_slope"),
        }
        & path
    )


TEXT = """
import math, late
from registry import noted
from everything import *
N = 3
def measured(): return N
def shared(): return 1
def only(): return shared() + math.pi
def claim(study): yield only()
@noted
def listed(): return 2
nothing = noted(7)
def other(study): return listed(), globals
def study(setting): return measured(), shared(), starred, box.inner.deep
from boxes import box
OWN = Theorem("x", "t", "s", "p", (), (), law, step, objective, (hypothesis,), study,
    (claim, other), lambda s: only())
"""
TEXTS = {
    "mine": TEXT,
    "registry": "def noted(f): return f",
    "late": "print(1)\nK = 1",
    "everything": "starred = 1\nunused = 2",
    "boxes": "from inner import thing as box",
    "inner": "thing = 1\ndef hidden(): pass",
}


@pytest.mark.parametrize(
    ("old", "new", "more"),
    [
        ("", "", set()),
        ("return 1", "return late", {"late", "K"}),  # a module as a value
        (
            "return N",
            "return globals()['only']()",
            {"math", "late", "K", "only", "claim", "other", "unused", "hidden"},
        ),
        ("measured(), ", "measured(), only(), ", {"math", "only"}),
        ("print(1)", "import mine\nprint(mine.claim)", {"math", "mine", "only", "claim"}),
    ],
)
def test_the_path_is_what_a_measurement_may_use(monkeypatch, old, new, more):
    """Shared, star-imported, decorated by somebody who may keep it, or a statement: never less."""
    monkeypatch.setattr(code, "file_of", lambda name: Path(name) if name in TEXTS else None)
    monkeypatch.setattr(
        code, "_parsed", lambda file, name: code.parse(TEXTS[name].replace(old, new), "")
    )
    known = code.Sources(["mine"])
    path = digest.path_of(known, dataclasses.replace(theorems()["4.1"]))
    least = {
        "N",
        "OWN",
        "measured",
        "shared",
        "study",
        "listed",
        "nothing",
        "noted",
        "starred",
        "box",
        "thing",
    }
    assert {name for _, name in path if name.isidentifier()} == least | more
    apart = {"math", "late", "K", "only", "claim", "other", "unused", "hidden"} - more
    assert {name for _, name in known.keys - path if name.isidentifier()} == apart
    assert ("late", "1" if "import" in new else "0") in path


def test_what_closes_over_other_values_is_another():
    def make(value, more=()):
        return lambda: (value, more)

    same, other = origin.told(make(1)), origin.told(make(2))
    assert same == origin.told(make(1)) != other and origin.told(make(1, (3,))) != same


@pytest.mark.slow
def test_digests_are_the_same_in_every_process(tmp_path):
    """Whatever the order of its sets, and wherever it is started."""
    command = (
        "import popgd, json; from popgd.runs import digest; "
        "print(digest.of(popgd.theorems()['4.1'])['of']['code'])"
    )
    root = str(Path(code.__file__).parents[2])
    found = set()
    for seed in "0", "1", "2":
        own = tmp_path / seed
        own.mkdir()
        ended = subprocess.run(
            [sys.executable, "-c", command],
            cwd=own,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": root, "PYTHONHASHSEED": seed, "HOME": str(tmp_path)},
        )
        assert ended.returncode == 0, ended.stderr
        found.add(ended.stdout.strip())
    assert found == {now(theorems()["4.1"])["of"]["code"]}
