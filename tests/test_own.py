"""A theorem of the user's own, in her file: edited, upgraded, resumed and rechecked, as she would
do it.
"""

import dataclasses
import importlib.metadata
import json
import sys
from pathlib import Path

import jax
import pytest
from kills import contents

import popgd
from popgd.problem.errors import SettingError
from popgd.runs import checkpoint, code, digest, files, store
from popgd.runs import command as run
from popgd.theorem.registry import theorems
from popgd.theorem.settings import TABLE

MINE = '''"""A theorem."""
from helper import goes_on, measure
from popgd.papers.in_context.model import SquaredError
from popgd.theorem.base import Theorem
from popgd.papers.in_context.common import Study, hypotheses, make_law
from popgd.papers.in_context.options import LAW
from popgd.claims.evidence import Evidence


def study(setting, objective, progress, memory):
    """Two pieces."""
    (value,) = memory.part("first").once(lambda: [measure(setting)], (0,))
    goes_on()
    (other,) = memory.part("second").once(lambda: [measure(setting)], (0,))
    return Study(setting, objective, {"value": value, "other": other}, lambda study, title: {})


def is_d(study):
    """What she predicts."""
    # it is d
    yield Evidence("is-d", "The value is d", "exercise", 1 * study.law.d, study.values["value"],
                   0.0, 0.0, 0.1, "exact")


def more(study):
    yield Evidence("more", "More", "exercise", 0.0, 0.0, 0.0, 0.0, 0.1, "exact")


OWN = Theorem("own.small", "small", "The value is d.", "exercise", LAW, {},
              make_law, lambda law, L: 1.0, lambda setting, target: SquaredError(1), hypotheses,
              study, (is_d,), lambda s: {}, {"n": 5})
'''
HELPER = """import pathlib
import numpy as np
import hypothesis
def measure(setting):
    with open("measured", "a") as file:
        file.write(".")
    return np.float64(setting.law.d)
def goes_on():
    if pathlib.Path("stop").exists():
        raise RuntimeError("stopped")
"""
VALUES = {**dict.fromkeys(TABLE), "theorem": "own.small", "d": "2", "out": "run"}
AGAIN, AFRESH = (
    "judged again from the recorded path",
    "measured afresh; the old report stays until the new one is written",
)


class User:
    """Her files and what she does with them; `measured` counts pieces of measuring."""

    def __init__(self, capsys):
        self.capsys, self.out, self.error = capsys, "", ""
        Path("mine.py").write_text(MINE)
        Path("helper.py").write_text(HELPER)

    def runs(self):
        """Her file, as a new process would run it."""
        sys.modules.pop("helper", None)
        theorems()["own.small"] = files.load(Path("mine.py"))["own.small"]
        return self.told(
            run._job, VALUES, False
        )  # without Hydra, which takes longer than all the rest

    def does(self, *words):
        """The command line in another process, which knows none of her theorems unless it loads
        them.
        """
        theorems().pop("own.small", None)
        return self.told(run.main, list(words))

    def told(self, command, *arguments):
        code = command(*arguments)
        self.out, self.error = self.capsys.readouterr()
        return code

    def edits(self, old, new, file="mine.py"):
        text = Path(file).read_text()
        assert old in text
        Path(file).write_text(text.replace(old, new))

    @property
    def measured(self):
        return len(Path("measured").read_text()) if Path("measured").exists() else 0


@pytest.fixture
def user(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield User(capsys)
    theorems().pop("own.small", None)
    for name in ("mine", "helper", "typed"):
        sys.modules.pop(name, None)


@pytest.fixture
def finished(user):
    assert user.runs() == 0 and user.measured == 2 and user.error == ""
    return user


def test_a_false_prediction_is_refuted_from_the_recorded_path(finished):
    finished.edits("1 * study", "2 * study")
    finished.edits(
        'raise RuntimeError("stopped")', "raise", "helper.py"
    )  # of the path, were it the file's
    finished.edits("raise", 'raise RuntimeError("stopped")', "helper.py")
    before = contents(Path("run") / "sources")
    assert finished.runs() == 1
    assert (
        AGAIN in finished.error
        and finished.error.count("\n") == 1
        and "is-d: REFUTED" in finished.out
    )
    assert finished.measured == 2
    assert contents(Path("run") / "sources") != before  # the copy is that of the code that judged
    assert finished.runs() == 1 and "already finished" in finished.out and finished.error == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# it is d", "# it is not d"),
        ('"""What she predicts."""', '"""What was predicted."""'),
        pytest.param('    """Two pieces."""\n', "", marks=pytest.mark.slow),
        pytest.param("def is_d", "\n\n\ndef is_d", marks=pytest.mark.slow),
        ('"exercise", 1 * study.law.d,', '"exercise",\n        1 * study.law.d,'),
    ],
)
def test_words_about_the_code_change_nothing(finished, old, new):
    before = contents(Path("run") / "sources")
    finished.edits(old, new)
    assert finished.runs() == 0 and "already finished" in finished.out and finished.error == ""
    assert finished.measured == 2 and contents(Path("run") / "sources") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(is_d,)", "(is_d, more)"),
        ("from popgd.claims", "import math\nfrom popgd.claims"),
        pytest.param("The value is d.", "The value is d", marks=pytest.mark.slow),
        pytest.param("lambda s: {}", 'lambda s: {"d": (2.0, 0.0)}', marks=pytest.mark.slow),
        pytest.param("def more", "def less(): pass\n\n\ndef more", marks=pytest.mark.slow),
    ],
)
def test_what_only_judges_is_judged_again(finished, old, new):
    finished.edits(old, new)
    assert finished.runs() == 0 and AGAIN in finished.error and finished.measured == 2


PATHS = [
    (
        "mine.py",
        "once(lambda: [measure(setting)], (0,))\n    goes_on",
        "once(lambda: [1 * measure(setting)], (0,))\n    goes_on",
    ),
    ("helper.py", "np.float64(setting.law.d)", "np.float64(1 * setting.law.d)"),
    (
        "mine.py",
        "lambda setting, target: SquaredError(1)",
        "lambda setting, target: SquaredError(2)",
    ),
    pytest.param("mine.py", '"n": 5', '"n": 5, "samples": 2**15', marks=pytest.mark.slow),
    pytest.param(
        "helper.py", "import pathlib", "import pathlib\nprint('late')", marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("file", "old", "new"), PATHS)
def test_what_measures_is_run_afresh(finished, file, old, new):
    finished.edits(old, new, file)
    assert (
        finished.runs() == 0
        and "the code that measures" in finished.error
        and AFRESH in finished.error
    )
    assert finished.measured == 4
    assert finished.runs() == 0 and "already finished" in finished.out


def test_other_versions_and_another_processor_are_run_afresh(finished, monkeypatch):
    plain, measured = importlib.metadata.version, 2
    old = plain("jax")
    for name, other, told in (
        (
            "importlib.metadata.version",
            lambda name: "9.9" if name == "jax" else plain(name),
            f"versions (jax {old} -> 9.9)",
        ),
        (
            "importlib.metadata.version",
            lambda name: "0" if name == "hypothesis" else plain(name),
            "hypothesis",
        ),  # she imports it
        ("popgd.runs.digest.cpu", lambda: "Z80", "the processor ("),
    ):
        monkeypatch.setattr(name, other)
        assert finished.runs() == 0 and told in finished.error and AFRESH in finished.error
        assert "the code" not in finished.error and finished.measured == measured + 2
        measured += 2


def test_the_old_report_stays_until_the_new_one_is_there(finished, monkeypatch):
    report = (Path("run") / store.REPORT).read_bytes()
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    finished.edits("np.float64(", "-np.float64(", "helper.py")
    Path("stop").touch()
    assert finished.runs() == run.INTERNAL and (Path("run") / store.REPORT).read_bytes() == report
    assert finished.measured == 3
    Path("stop").unlink()
    assert (
        finished.runs() == 1
        and finished.measured == 4
        and "gone on with from its recorded path" in finished.error
    )
    assert (Path("run") / store.REPORT).read_bytes() != report and not (
        Path("run") / store.BEFORE
    ).exists()


@pytest.fixture
def stopped(user, monkeypatch):
    """A run that ended after its first piece."""
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    Path("stop").touch()
    assert user.runs() == run.INTERNAL and user.measured == 1
    Path("stop").unlink()
    return user


def test_a_changed_comment_or_claim_kills_no_unfinished_run(stopped):
    stopped.edits("# it is d", "# it is not d")
    stopped.edits("1 * study", "2 * study")
    assert stopped.runs() == 1 and stopped.measured == 2 and stopped.error == ""


def test_an_unfinished_run_of_other_code_is_begun_afresh(stopped):
    stopped.edits("np.float64(", "1 * np.float64(", "helper.py")
    assert stopped.runs() == 0 and stopped.measured == 3
    assert (
        "the code that measures: begun afresh; what was done (first) is kept in path-before.npz"
        in stopped.error
    )
    assert not (Path("run") / store.BEFORE).exists()


def test_what_an_older_popgd_went_on_from_is_not_used_in_silence(stopped):
    (Path("run") / store.CHECKPOINT).rename(Path("run") / store.FORMER)
    assert (
        stopped.runs() == 0 and stopped.measured == 3 and "checkpoint.npz is older" in stopped.error
    )
    assert not (Path("run") / store.FORMER).exists()


@pytest.mark.parametrize("command", ["resume", "recheck"])
def test_a_users_run_is_resumed_and_rechecked(finished, command):
    assert finished.does(f"{command}=run") == 0
    assert finished.error == f"popgd: own.small is that of {Path('mine.py').absolute()}\n"
    assert finished.measured == (2 if command == "resume" else 4)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    finished.edits("1 * study", "2 * study")
    assert finished.does(f"{command}=run") == 0
    copy = Path("run") / "sources" / "mine.py"
    assert (
        f"mine.py has been edited since (or what it imports): the copy {copy} is run"
        in finished.error
    )
    Path("mine.py").unlink()
    assert finished.does(f"{command}=run") == 0
    assert (
        f"own.small is foreign, its file is not here: the code in {copy} is run" in finished.error
    )
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_an_unfinished_one_goes_on_without_its_file(stopped):
    Path("mine.py").unlink()
    Path("helper.py").unlink()
    assert (
        stopped.does("resume=run") == 0 and stopped.measured == 2 and "is foreign" in stopped.error
    )


def test_a_recheck_with_the_copy_still_tells_a_forged_report(finished):
    report = json.loads((Path("run") / store.REPORT).read_text())
    report["claims"][0]["predicted"] = 7.0
    (Path("run") / store.REPORT).write_text(json.dumps(report))
    Path("mine.py").unlink()
    assert finished.does("recheck=run") == 1 and "is-d: predicted" in finished.out


def test_damaged_foreign_older_and_edited_are_four_things(finished):
    lines = []

    def says(code, *words):
        assert finished.does(*words) == code
        lines.append(finished.error)

    finished.edits("# it is d", "# it is not d")
    says(0, "resume=run")
    assert "has been edited since" in lines[-1]
    report = json.loads((Path("run") / store.REPORT).read_text())
    (Path("run") / store.REPORT).write_text(
        json.dumps({**{k: v for k, v in report.items() if k != "digests"}, "format": 2})
    )
    (Path("run") / store.CHECKPOINT).unlink()
    assert finished.runs() == 0 and finished.measured == 4
    lines.append(finished.error)
    assert "is older, it does not tell what code it rests on: measured afresh" in lines[-1]
    Path("mine.py").unlink()
    (Path("run") / "sources" / "mine.py").write_text(MINE + "# forged")
    says(2, "recheck=run")
    assert "sources is damaged (mine.py is not what was kept)" in lines[-1]
    for file in (Path("run") / "sources").iterdir():
        file.unlink()
    (Path("run") / "sources").rmdir()
    says(2, "resume=run")
    assert "is of own.small, no theorem of popgd, and its source was not kept" in lines[-1]
    assert len(set(lines)) == 4 and all(
        line.startswith("popgd: ") and line.count("\n") == 1 for line in lines
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1", "holds no theorem"),
        ("\n1 / 0", r"^mine.py, line 2: ZeroDivisionError: division by zero; correct it$"),
        ("import sys; sys.exit(3)", r"^mine.py, line 1: SystemExit: 3"),
        ("\n\ndef (", r"^mine.py, line 3: SyntaxError: invalid syntax"),
    ],
)
def test_a_file_without_a_theorem_is_one_line(user, text, told):
    Path("mine.py").write_text(text)
    with pytest.raises(SettingError, match=told):
        files.load(Path("mine.py"))
    with pytest.raises(SettingError, match="no such file"):
        files.load(Path("nowhere.py"))


def test_what_was_typed_is_never_taken_for_finished(user, monkeypatch):
    """Into a notebook: its text is kept, or the run says that it is not; what else was typed nobody
    knows.
    """
    text = MINE.replace("from helper import goes_on, measure", HELPER)
    made = {"__name__": "typed_here"}
    exec(compile(text, "<cell 1>", "exec"), made)
    theorems()["own.small"] = made["OWN"]
    words = ["theorem=own.small", "d=2", "out=run"]
    assert user.told(run.main, words) == 0 and "Theorem own.small is in no file" in user.error
    monkeypatch.setattr(digest, "_KNOWN", {})
    assert user.told(run.main, words) == 0 and AFRESH in user.error and user.measured == 4


def test_digests_do_not_depend_on_where_a_file_is(user):
    found = []
    for place in ("here", "there/below"):
        Path(place).mkdir(parents=True)
        Path("mine.py").rename(Path(place) / "mine.py")
        Path("helper.py").rename(Path(place) / "helper.py")
        sys.modules.pop("helper", None)
        found.append(digest.of(files.load(Path(place) / "mine.py")["own.small"]))
        assert code.sources(files.load(Path(place) / "mine.py")["own.small"], ()).files.keys() == {
            "mine",
            "helper",
        }
        (Path(place) / "mine.py").rename("mine.py")
        (Path(place) / "helper.py").rename("helper.py")
    assert found[0] == found[1]


def line(limit):
    """A theorem about (w - 2)^2/2, made in Python."""
    exact = lambda w: (w["w"] - 2) ** 2 / 2
    problem = popgd.Problem(
        {"w": jax.numpy.array(1.0)}, lambda w, x: exact(w), jax.random.normal, exact=exact
    )
    claim = popgd.claims.converges("w", limit, "w")
    return popgd.about(problem, "own.line", statement="w -> 2.", claims=[claim], eta=0.1)


def test_a_theorem_made_in_python_is_judged_and_may_be_made_again():
    """As in the cells of a notebook; popgd's own names stay its own."""
    outcomes = {limit: popgd.check(line(limit), samples=2**10).outcome for limit in (2.0, 2.1)}
    assert [str(outcome) for outcome in outcomes.values()] == ["SUPPORTED", "REFUTED"]
    with pytest.raises(popgd.SettingError, match=r"popgd is called 4\.1: give yours"):
        popgd.check(dataclasses.replace(line(2.0), name="4.1"))
    assert (
        popgd.check(popgd.theorems()["saxe.flow"], steps=1, samples=2).theorem.name == "saxe.flow"
    )
