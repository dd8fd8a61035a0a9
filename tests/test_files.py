"""A theorem in a user's own file, with a setting of its own: judged, explained, swept, resumed and
rechecked by `theorem=FILE.py`, and what is wrong with it in one line.
"""

import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import popgd
from popgd import Option, SettingError
from popgd.runs import checkpoint, files, store
from popgd.runs import command as run
from popgd.theorem import settings
from popgd.theorem.report import resolve, restore
from popgd.theorem.settings import COMMANDS, PROCESSES, TABLE

MINE = """import pathlib

from popgd import Evidence, Option, Theorem
from popgd.papers.in_context.common import Study, hypotheses, make_law
from popgd.papers.in_context.model import SquaredError
from popgd.papers.in_context.options import LAW
import numpy as np


def measure(setting):
    with open("measured", "a") as file:
        file.write(".")
    return np.float64(setting["width"] * setting.law.d)


def study(setting, objective, progress, memory):
    (first,) = memory.part("first").once(lambda: [measure(setting)], (0,))
    if pathlib.Path("stop").exists():
        raise RuntimeError("stopped")
    (second,) = memory.part("second").once(lambda: [measure(setting)], (0,))
    return Study(setting, objective, {"first": first, "second": second}, lambda study, title: {})


def is_wide(study):
    predicted = study.setting["width"] * study.law.d
    yield Evidence("is-wide", "It is wide", "exercise", predicted, study.values["second"], 0.0,
                   0.0, 0.1, "exact")


def made(name, *claims):
    return Theorem(name, "wide", "It is wide.", "exercise", LAW,
                   {"width": Option(4, int, "hidden units")}, make_law, lambda law, L: 1.0,
                   lambda setting, target: SquaredError(1), hypotheses, study, claims, lambda s: {})


OWN = made("own.wide", is_wide)
"""
WORDS = ["theorem=mine.py", "d=2"]
#: What the theorem of an earlier popgd imported, each from where it was then.
FORMER = ("popgd.theory.base", "popgd.verdict", "popgd.data", "popgd.in_context")


class User:
    """Her file and what she types."""

    def __init__(self, capsys):
        self.capsys, self.out, self.error = capsys, "", ""
        Path("mine.py").write_text(MINE)

    def does(self, *words):
        code = run.main(list(words))
        self.out, self.error = self.capsys.readouterr()
        return code

    def edits(self, old, new):
        text = Path("mine.py").read_text()
        assert old in text
        Path("mine.py").write_text(text.replace(old, new))

    def adds(self, text):
        Path("mine.py").write_text(MINE + text)

    @property
    def measured(self):
        return len(Path("measured").read_text()) if Path("measured").exists() else 0


@pytest.fixture
def user(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield User(capsys)
    for name in ("own.wide", "own.narrow"):
        popgd.theorems().pop(name, None)
    sys.modules.pop("mine", None)


def stored(path):
    return json.loads((Path(path) / store.SETTINGS).read_text())


def test_it_is_judged_stored_and_finished(user):
    assert user.does(*WORDS, "width=8", "out=run") == 0 and user.error == ""
    assert stored("run")["width"] == 8 and stored("run")["theorem"] == "own.wide"
    report = popgd.load("run")
    assert report.path["second"] == 16 and report.settings["width"] == 8
    assert user.does(*WORDS, "width=8", "out=run") == 0 and "already finished" in user.out
    assert user.measured == 2
    assert user.does(*WORDS, "width=4", "out=run") == run.BAD_INPUT
    assert "other settings" in user.error
    assert user.does(*WORDS) == 0 and user.measured == 4  # the default
    (own,) = Path("runs").iterdir()
    assert own.name.startswith("own.wide-") and stored(own)["width"] == 4
    Path("below").mkdir()
    words = ["theorem=below/../mine.py:own.wide", "d=2"]
    assert user.does(*words) == 0 and "already finished" in user.out


@pytest.mark.slow
def test_a_false_prediction_is_refuted(user):
    user.edits('predicted = study.setting["width"]', 'predicted = 1 + study.setting["width"]')
    assert user.does(*WORDS) == 1 and "is-wide: REFUTED" in user.out


def test_help_of_a_theorem_is_of_its_own_settings(user):
    assert user.does("theorem=mine.py", "--help") == 0
    assert "width           hidden units [default 4]" in user.out
    assert "Theorem own.wide: wide" in user.out and "claim.exponent" not in user.out
    assert all(f"  {name} " in user.out for name in TABLE.keys() - {"theorem"})
    assert user.does("theorem=4.1,4.3", "-m", "--help") == 0
    assert user.out.count("claim.exponent") == 2 and user.out.count("  L   ") == 1
    assert user.does("--help") == 0
    assert "claim.exponent" not in user.out and "FILE.py" in user.out and "4.3" in user.out
    assert user.does("theorem=4.9", "--help") == run.BAD_INPUT


def test_its_setting_is_swept(user):
    assert user.does("-m", *WORDS, "width=4,8", "out=sweep") == 0
    assert sorted(stored(path)["width"] for path in Path("sweep").iterdir()) == [4, 8]
    assert user.does("-m", *WORDS, "width=4,x", "out=other") == run.BAD_INPUT
    assert not Path("other").exists() and "width=x: a number was wanted" in user.error


def test_every_theorem_of_a_file_has_a_run_of_its_own(user):
    user.adds('THEOREMS = (OWN, made("own.narrow", lambda study: is_narrow(study)))\n')
    user.edits(
        "def made", 'def is_narrow(study):\n    yield next(is_wide(study))._replace(predicted=9.0)'
        "\n\n\ndef made",
    )  # fmt: skip
    user.edits("next(is_wide(study))._replace(", "dataclasses.replace(next(is_wide(study)), ")
    user.edits("import pathlib", "import dataclasses\nimport pathlib")
    assert user.does(*WORDS, "out=both") == 1
    names = {stored(path)["theorem"]: path for path in Path("both").iterdir()}
    assert names.keys() == {"own.wide", "own.narrow"}
    assert {name: popgd.load(path).outcome for name, path in names.items()} == {
        "own.wide": "SUPPORTED",
        "own.narrow": "REFUTED",
    }
    assert user.does("theorem=mine.py", "--help") == 0 and user.out.count("hidden units") == 2


def test_it_goes_on_after_a_break_and_is_rechecked(user, monkeypatch):
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    Path("stop").touch()
    assert user.does(*WORDS, "width=8", "out=run") == run.INTERNAL and user.measured == 1
    Path("stop").unlink()
    popgd.theorems().pop("own.wide")  # as in a new process
    assert user.does("resume=run") == 0 and user.measured == 2
    assert "own.wide is that of" in user.error and stored("run")["width"] == 8
    popgd.theorems().pop("own.wide")
    assert user.does("recheck=run") == 0 and user.measured == 4
    report = json.loads((Path("run") / store.REPORT).read_text())
    report["claims"][0]["measured"] = 15.0
    (Path("run") / store.REPORT).write_text(json.dumps(report))
    assert user.does("recheck=run") == 1 and "is-wide: measured" in user.out


@pytest.mark.slow
def test_help_is_for_the_reader_and_a_default_measures(user):
    assert user.does(*WORDS, "width=4", "out=run") == 0
    user.edits("hidden units", "units that are hidden")
    assert user.does(*WORDS, "width=4", "out=run") == 0 and user.measured == 2
    user.edits("Option(4, int", "Option(5, int")
    assert user.does(*WORDS, "width=4", "out=run") == 0 and user.measured == 4


def longer(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


SLIPS = [
    (["widht=4"], "unknown setting widht; did you mean width?"),
    (["width=2.5"], "width=2.5: an integer was wanted"),
    (["init=P21"], "init=P21: Theorem own.wide does not take init; leave it out"),
    longer(["stps=4"], "unknown setting stps; did you mean steps?"),
    longer(["zzz=4"], "unknown setting zzz; theorem=own.wide --help lists all"),
    longer(["width=wide"], "width=wide: a number was wanted"),
    longer(["L=2"], "L=2: Theorem own.wide does not take L; leave it out"),
    longer(["width.more=4"], "unknown setting width.more"),
    (["width=4", "width.more=4"], "unknown setting width"),
    (["+width=4"], "unknown setting +width"),
    (["hydra.run.dir=x"], "unknown setting hydra.run.dir"),
]


@pytest.mark.parametrize(("words", "line"), SLIPS)
def test_a_slip_is_one_line(user, words, line):
    assert user.does(*WORDS, *words) == run.BAD_INPUT
    assert line in user.error and user.error.count("\n") == 1 and not Path("runs").exists()


def line_of(text):
    """The number of the first line of the file with this in it."""
    return MINE[: MINE.index(text)].count("\n") + 1


#: (what stands in the file, the line that it gives)
BROKEN = [
    ("x = 1", "mine.py holds no theorem: a popgd.Theorem was wanted, outside any function"),
    ("\n\ndef (", "mine.py, line 3: SyntaxError: invalid syntax; correct it"),
    ("x = 1\nx / 0", "mine.py, line 2: ZeroDivisionError: division by zero; correct it"),
    ("raise SystemExit(3)", "mine.py, line 1: SystemExit: 3; correct it"),
    ("x = '\0'", "mine.py: "),
    (
        "\nimport no_such_module",
        "mine.py, line 2: there is no module no_such_module: install it, or put its file beside",
    ),
    ("import other", "other.py, line 2: KeyError: 'a'; correct it"),
    (
        "from popgd.theory.base import Theorem",
        "mine.py, line 1: this popgd has no popgd.theory, it was written for an earlier one: ",
    ),
    ("from popgd.theorem.base import Theory", "has no popgd.theorem.base.Theory, it was written"),
    ("import popgd\n\npopgd.verdict", "mine.py, line 3: this popgd has no popgd.verdict, it was"),
    (
        MINE.replace('"width": Option(4', '"steps": Option(4'),
        f"line {line_of('return Theorem')}: Theorem own.wide: option steps hides the setting "
        "steps that every run has: choose another name",
    ),
    (
        MINE + 'SAME = made("own.wide")',
        f"mine.py, line {line_of('OWN') + 1}: OWN and SAME are both called own.wide; rename one",
    ),
    (
        MINE.replace("own.wide", "4.1"),
        f"mine.py, line {line_of('OWN')}: 4.1 is a theorem of popgd's own; rename it",
    ),
]


@pytest.mark.parametrize(("text", "line"), BROKEN)
def test_a_broken_file_is_one_line_with_its_cause(user, text, line):
    Path("mine.py").write_text(text)
    Path("other.py").write_text("x = {}\nx['a']")
    assert user.does(*WORDS) == run.BAD_INPUT
    sys.modules.pop("other", None)
    assert line in user.error and user.error.count("\n") == 1 and "Traceback" not in user.error
    assert not Path("runs").exists() and not Path("popgd-error.txt").exists()


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("nowhere.py", "nowhere.py: no such file; name a file that is there"),
        ("mine.py:own.wode", "mine.py holds no theorem own.wode; did you mean own.wide?"),
        ("mine.py:zzz", "mine.py holds no theorem zzz; it holds own.wide"),
        ("json.py", "json.py would hide the module json from all that import it: rename it"),
        ("my.own.py", "my.own.py has two dots in its name"),
        ("mine.py,below/there.py", "run those of one directory at a time"),
        ("mine.py,there.py", "two theorems of one name; rename one"),
    ],
)
def test_a_file_that_cannot_be_meant_is_one_line(user, value, line):
    Path("below").mkdir()
    for name in ("json.py", "my.own.py", "there.py", "below/there.py"):
        text = MINE.replace("own.wide", "own.narrow") if "/" in name else MINE
        Path(name).write_text(text)
    assert user.does("-m", f"theorem={value}", "d=2") == run.BAD_INPUT
    sys.modules.pop("there", None)
    assert line in user.error and user.error.count("\n") == 1


def keeps(text):
    """A run directory of an earlier popgd, with this source."""
    kept = Path("run") / "sources"
    kept.mkdir(parents=True)
    (kept / "mine.py").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    told = {"module": "mine", "files": {"mine.py": ["/nowhere/mine.py", digest]}}
    (kept / "origin.json").write_text(json.dumps(told))
    (Path("run") / store.SETTINGS).write_text(json.dumps({"format": 3, "theorem": "own.wide"}))
    return kept / "mine.py"


@pytest.mark.parametrize("former", FORMER)
@pytest.mark.parametrize("command", ["resume", "recheck"])
def test_a_source_kept_by_an_earlier_popgd_is_one_line(user, command, former):
    kept = keeps(f"import pathlib\nfrom {former} import Theorem\n")
    assert user.does(f"{command}=run") == run.BAD_INPUT
    lost = former if former.count(".") == 1 else "popgd.theory"
    assert user.error == (
        f"popgd: {kept}, line 2: this popgd has no {lost}, it was written for an "
        "earlier one: use that one, or bring a copy of it up to date and run that by "
        "theorem=FILE.py\n"
    )


WRONG = [
    ({name: Option(1, int, "")}, f"option {name} hides the setting {name}")
    for name in [*TABLE, *COMMANDS, *PROCESSES, "cache", "progress"]
] + [
    ({"steps.more": Option(1, int, "")}, "option steps.more hides the setting steps"),
    ({"a": Option(1, int, ""), "a.b": Option(1, int, "")}, "option a hides a.b"),
    ({"d": Option(1, int, "")}, "d is declared twice, in law_options and options"),
    ({"a b": Option(1, int, "")}, "an option cannot be called 'a b'"),
    ({"größe": Option(1, int, "")}, "an option cannot be called 'größe'"),
    ({"a": Option("x", int, "")}, "the default of a=x: a number was wanted"),
    ({"a": Option(1, lambda x: {int(x)}, "")}, "which is not read as the same again"),
    ({"a": Option(1, lambda x: 2 * float(x), "")}, "which is not read as the same again"),
    ({"a": Option(1, lambda x: float("nan"), "")}, "which is not read as the same again"),
]


@pytest.mark.parametrize(("options", "line"), WRONG)
def test_what_is_no_option_is_refused_at_construction(options, line):
    theorem = popgd.theorems()["gatmiry.minimiser"]
    with pytest.raises(SettingError, match=r"^Theorem gatmiry\.minimiser: ") as raised:
        dataclasses.replace(theorem, options=options)
    assert line in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("options", [("L", "d"), {"a": (1, int, "")}, None])
def test_names_alone_declare_nothing(options):
    for both in ((options, {}), ({}, options)):
        with pytest.raises(SettingError, match="a dict of Options was wanted") as raised:
            settings.declared(*both, {})
        assert "\n" not in str(raised.value)


def test_a_default_of_no_setting_is_refused():
    theorem = popgd.theorems()["gatmiry.minimiser"]
    with pytest.raises(SettingError, match="a default is given of widht, which is no setting"):
        dataclasses.replace(theorem, defaults={"widht": 1})


@pytest.mark.parametrize(
    ("read", "given", "value"),
    [
        (int, "1e3", 1000),
        (float, "1/4", 0.25),
        (bool, "true", True),
        (str, "a b", "a b"),
        (lambda x: tuple(map(float, x)) if x != "none" else (0.0,), [1, 2], (1.0, 2.0)),
    ],
)
def test_settings_are_read_by_their_readers_and_restored(user, read, given, value):
    theorem = dataclasses.replace(files.load(Path("mine.py"))["own.wide"], name="own.narrow")
    option = Option(None, read, "")
    popgd.theorems()["own.narrow"] = dataclasses.replace(theorem, options={"x.y": option})
    setting = resolve({"theorem": "own.narrow", "x.y": given})
    assert setting["x.y"] == value and type(setting["x.y"]) is type(value)
    again = json.loads(json.dumps(setting.describe()))
    assert again == setting.describe() and restore(again)["x.y"] == value


@pytest.mark.parametrize("name", ["tiny_run", "tiny_run_2"])
def test_settings_that_were_stored_before_are_read(name):
    told = store.read(Path(__file__).parent / "data" / name / store.SETTINGS)
    assert restore(told).describe() == told
    with pytest.raises(SettingError, match="unknown setting widht"):
        restore({**told, "widht": 1})


def test_a_list_is_stored_and_restored_as_it_was_given():
    setting = resolve({"theorem": "gatmiry.ood", "d": 2, "shift": "[0.9,1.1]"})
    told = json.loads(json.dumps(setting.describe()))
    assert told == setting.describe() and restore(told).describe() == told


def popgd_run(tmp_path, *words):
    root = str(Path(popgd.__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", "popgd.run", *words]
    return subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_launcher_loads_the_file_in_every_job(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install popgd[sweep]")
    (tmp_path / "mine.py").write_text(MINE)
    words = ["-m", *WORDS, "width=4,8", "hydra/launcher=submitit_local", "out=sweep"]
    process = popgd_run(tmp_path, *words)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    reports = (tmp_path / "sweep").glob("own.wide-*/report.json")
    assert sorted(popgd.load(file.parent).settings["width"] for file in reports) == [4, 8]


@pytest.mark.slow
def test_a_source_with_names_alone_for_options_is_one_line(user):
    """In a process of its own: here jaxtyping refuses such a Theorem before it refuses itself."""
    kept = keeps(MINE.replace('{"width": Option(4, int, "hidden units")}', '("width",)'))
    process = popgd_run(Path.cwd(), "resume=run")
    _, error = process.communicate(timeout=300)
    line = line_of("return Theorem")
    assert process.returncode == run.BAD_INPUT and error.count("\n") == 1, error
    assert error.startswith(f"popgd: {kept}, line {line}: Theorem own.wide: options=('width',): a ")
    assert error.endswith("bring a copy of it up to date and run that by theorem=FILE.py\n")


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_several_processes_load_the_file(tmp_path, broken):
    (tmp_path / "mine.py").write_text(MINE + "1 / 0\n" * broken)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = [*WORDS, "width=8", "out=run", "processes=2", f"coordinator=localhost:{port}"]
    both = [popgd_run(tmp_path, *words, f"process={number}") for number in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [2 * broken] * 2, errors
    if broken:
        line = line_of("OWN") + 1
        assert all(f"mine.py, line {line}: ZeroDivisionError" in error for error in errors)
    else:
        assert stored(tmp_path / "run")["width"] == 8 and np.all(
            popgd.load(tmp_path / "run").path["second"] == 16
        )
