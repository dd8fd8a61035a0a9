"""The command line as a user meets it: bad input, run directories, exit codes, the report's
schema.
"""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from popgd import check
from popgd.papers.power_method.data import Rotated, UniformSphere
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.quadrature import Spectrum
from popgd.runs import command as run
from popgd.runs import screen, store
from popgd.runs.store import FORMAT
from popgd.theorem import readers
from popgd.theorem.settings import TABLE
from popgd.theorem.verdict import Claim, Outcome

#: A run of a few seconds: enough for the schema, not for every verdict. The shapes are those of
#: `runs.py`, compiled before.
SMALL = [
    "theorem=4.2",
    "target=unnormalised",
    "spectrum=[3,2,1]",
    "samples=1024",
    "sampled_steps=20",
    "batch=64",
]

BAD = [
    (["theorem=4.9"], "unknown theorem 4.9; did you mean 4."),
    (["theorem=4.10"], "unknown theorem 4.10"),
    (["theorem=power"], "4.1, 4.2, 4.3"),
    (["thorem=4.1"], "unknown setting thorem; did you mean theorem?"),
    (["theorem=4.1", "zzz=1"], "unknown setting zzz; theorem=4.1 --help lists all"),
    (["d=5"], "no theorem was given"),
    (["4.1"], "settings are key=value"),
    (["theorem=4.1", "d=0"], "d=0: an integer of at least 1 was wanted"),
    (["theorem=4.1", "d=-3"], "an integer of at least 1"),
    (["theorem=4.1", "d=2.5"], "an integer of at least 1"),
    (["theorem=4.1", "d=abc"], "d=abc: a number was wanted"),
    (["theorem=4.1", "n=0"], "n=0: an integer of at least 1"),
    (["theorem=4.1", "L=0"], "L=0: an integer of at least 1"),
    (["theorem=4.3", "L=3"], "Theorem 4.3 does not take L; leave it out"),
    (["theorem=4.1", "eta=0"], "eta=0: a positive number was wanted"),
    (["theorem=4.1", "eta=-1"], "a positive number was wanted"),
    (["theorem=4.1", "eta=nan"], "a finite number was wanted"),
    (["theorem=4.1", "eta=inf"], "a finite number was wanted"),
    (["theorem=4.1", "eta=1/0"], "a number was wanted"),
    (["theorem=4.1", "steps=0"], "an integer of at least 1"),
    (["theorem=4.1", "steps=1e19"], "an integer of at most 9e18"),
    (["theorem=4.1", "batch=1"], "an integer of at least 2"),
    (["theorem=4.1", "seed=-1"], "an integer of at least 0"),
    (["theorem=4.1", "spectrum=[3,-1]"], "a list of positive numbers"),
    (["theorem=4.1", "spectrum=[]"], "a list of positive numbers"),
    (["theorem=4.1", "spectrum=[3,x]"], "a number was wanted"),
    (["theorem=4.1", "spectrum=[3,1.5]"], "must be an integer"),
    (["theorem=4.1", "spectrum=[0.5,0.5]"], "n >= d is needed"),
    (["theorem=4.1", "spectrum=[3,1]", "n=5"], "n=5 contradicts spectrum"),
    (["theorem=4.1", "spectrum=[3,1]", "d=3"], "d=3 contradicts spectrum"),
    (["theorem=4.1", "spectrum=[3,1]", "law=uniform"], "leave out spectrum"),
    (["theorem=4.1", "law=rotated", "d=3"], "law=rotated needs its spectrum"),
    (["theorem=4.1", "law=unifrom"], "did you mean uniform?"),
    (["theorem=4.1", "target=normalised"], "does not take target"),
    (["theorem=4.2", "target=normalized"], "did you mean normalised?"),
    (["theorem=4.2", "claim.exponent=1/2"], "does not take claim.exponent"),
    (["theorem=4.1", "init=P12"], "one of P21, Q12 was wanted"),
    (["theorem=4.1", "dtype=float16"], "one of float64, float32"),
    (["theorem=4.1", "optimiser=lion"], "one of sgd, momentum, adam"),
    (["theorem=4.1", "bank=maybe"], "true or false was wanted"),
    (["theorem=4.1", "false_alarm=2"], "a number between 0 and 1"),
    (["theorem=4.1", "assume=yes"], "one of check, ignore"),
    (["theorem=4.1", "law=uniform", "d=5", "n=3", "assume=ignore"], "n >= d"),
    (["theorem=4.1", "d=1e6"], "use less"),
    (["theorem=4.1", "d=5", "n=1e12"], "use less"),
    (["theorem=4.1", "spectrum=[1e300,1]"], "sums to more than 2^53"),
    (["theorem=4.1", "law=uniform", "spectra=1e12"], "spectra=1000000000000 needs about"),
    (
        ["theorem=gatmiry.ood", "shift=[1,-1]"],
        "a list of positive numbers like [3,2,1] was wanted, and -1 is not positive",
    ),
    (["theorem=gatmiry.ood", "covariance=[1e200,1]"], "wanted a ratio above"),
    (["theorem=gatmiry.ood", "init=P21"], "does not take init"),
    (["theorem=4.1", "out=/dev/null/run"], "cannot be written"),
    (["theorem=4.1", "out=/dev/full"], "is a file"),
]


#: The same for the Python interface: ValueError, in one line.
BAD_CALLS = [
    (lambda: check("4.9"), "unknown theorem 4.9"),
    (lambda: check("4.1", colour="red"), "unknown setting colour"),
    (lambda: check("4.1", d=True), "d=True: a number was wanted"),
    (lambda: check("4.1", d=[5]), "d=[5]: a number was wanted"),
    (lambda: check("4.1", n=float("nan")), "n=nan: a finite number was wanted"),
    (lambda: check("4.1", spectrum=5), "a list of positive numbers"),
    (lambda: check("4.1", spectrum=[]), "a list of positive numbers"),
    (lambda: check("4.1", spectrum=[np.inf, 1]), "a finite number was wanted"),
    (lambda: check("4.1", steps=10**30), "an integer of at most 9e18"),
    (lambda: check("4.1", samples=1), "an integer of at least 2"),
    (lambda: check("4.1", law=UniformSphere(3, 9), d=3), "d was given beside a law object"),
    (lambda: check("4.2", claim_exponent=0.5), "does not take claim.exponent"),
    (lambda: check("4.1", claim_exponent=-1), "a positive number was wanted"),
    (lambda: check("4.1", out=""), "a name was wanted"),
    (lambda: UniformSphere(0, 3), "got d = 0, wanted a whole number >= 1"),
    (lambda: Rotated.matrix(np.zeros((2, 0))), "non-empty"),
    (lambda: Rotated.matrix(np.full((2, 2), np.nan)), "finite"),
    (
        lambda: Rotated.matrix(np.array([[1.0, 0.0], [0.0, 2.0]])),
        "column 1 of the matrix has norm 2",
    ),
    (lambda: Rotated.with_spectrum([2.0, -1.0]), "must be positive"),
    (lambda: Rotated.with_spectrum([1.5, 1.2]), "must be an integer"),
    (lambda: SubspaceDistance(0), "got L = 0, wanted a whole number >= 1"),
    (lambda: PowerIteration("sq", layer_norm=True), "target=sq: one of"),
    (lambda: Spectrum.of([1.0, -1.0]), "positive"),
    (lambda: Spectrum.of([]), "wanted at least 2"),
]


@pytest.mark.parametrize(
    ("call", "message"), BAD_CALLS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_bad_calls_are_one_line(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_bad_input_is_one_line_and_writes_nothing(here, capsys, arguments, message):
    assert run.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("popgd: ")
    assert error.count("\n") == 1
    assert message in error
    assert list(here.iterdir()) == []


def test_a_path_may_have_a_number_sign(tmp_path):
    """Only what looks like a checksum is one."""
    path = tmp_path / "points #1.npy"
    path.write_bytes(b"1")
    told = readers.file(str(path))
    assert (
        readers.named(told) == (str(path), told[-readers.CHECKSUM :]) and readers.file(told) == told
    )
    path.write_bytes(b"2")
    with pytest.raises(ValueError, match="the file has changed"):
        readers.file(told)
    with pytest.raises(ValueError, match="cannot be read"):
        readers.file(f"{tmp_path / 'points '}#{told[-readers.CHECKSUM :]}")


def test_no_arguments_and_help_list_settings_and_theorems(here, capsys):
    for arguments in ([], ["--help"]):
        assert run.main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in (*TABLE, "4.1", "4.2", "4.3", "exit codes"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One small finished run of 4.2, the quickest to compile, through the command line."""
    path = tmp_path_factory.mktemp("runs") / "a=b, c"
    before = signal.getsignal(signal.SIGTERM)
    code = run.main([*SMALL, f"out={path}"])
    signal.signal(signal.SIGTERM, before)
    return path, code


CLAIM_KEYS = {
    "id",
    "statement",
    "source",
    "predicted",
    "measured",
    "error",
    "allowance",
    "resolution",
    "detectable",
    "outcome",
    "reason",
    "origin",
    "self_check",
}


def test_report_has_the_published_schema(finished):
    path, code = finished
    report = json.loads(
        (path / "report.json").read_text(), parse_constant=lambda x: pytest.fail(f"bare {x}")
    )
    assert report["format"] == FORMAT
    assert code == run.EXIT[report["outcome"]]
    assert {
        "theorem",
        "outcome",
        "settings",
        "environment",
        "claims",
        "self_checks",
        "quantities",
    } <= set(report)
    assert {"jax", "numpy", "python", "popgd", "devices", "seed", "revision"} <= set(
        report["environment"]
    )
    assert report["claims"] and report["self_checks"]
    for claim in (*report["claims"], *report["self_checks"]):
        assert bool(claim["self_check"]) is (claim in report["self_checks"])
        assert set(claim) == CLAIM_KEYS
        assert claim["origin"] in ("paper", "derived")
        assert claim["outcome"] in run.EXIT
    named = {
        "c_star",
        "loss_min",
        "contraction",
        "stability",
        "c_final",
        "a_final",
        "b_final",
        "loss_final",
    }
    assert named <= set(report["quantities"])
    assert all(
        set(q) == {"value", "error"} and q["error"] >= 0 for q in report["quantities"].values()
    )


def test_run_directory_holds_trajectory_and_figures(finished):
    path, _ = finished
    assert {
        "report.json",
        "settings.json",
        "trajectory.npz",
        "path.npz",
        "weights.png",
        "growth.png",
        "increments.png",
        "loss.png",
    } == {file.name for file in path.iterdir()}
    arrays = np.load(path / "trajectory.npz")
    assert arrays["raw/inactive"].max() == 0
    assert arrays["exact/step"][-1] > 100 and np.all(np.diff(arrays["exact/c"]) >= 0)
    assert (path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_run_again_prints_the_stored_report(finished, capsys):
    path, code = finished
    written = (path / "report.json").stat().st_mtime_ns
    assert run.main([*SMALL, f"out={path}"]) == code
    assert "already finished" in capsys.readouterr().out
    assert (path / "report.json").stat().st_mtime_ns == written


def test_a_different_run_does_not_overwrite(finished, capsys):
    path, _ = finished
    assert run.main([*SMALL, "seed=1", f"out={path}"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_foreign_and_corrupt_directories_are_refused(here, capsys):
    foreign = here / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    assert run.main(["theorem=4.3", "out=foreign"]) == 2
    assert "holds no run" in capsys.readouterr().err
    (foreign / store.SETTINGS).write_text("{half")
    assert run.main(["theorem=4.3", "out=foreign"]) == 2
    assert "settings.json is damaged" in capsys.readouterr().err
    assert (foreign / "thesis.tex").read_text() == "years of work"


def test_not_applicable_is_exit_code_4_with_the_reason(here, capsys):
    assert run.main(["theorem=4.1", "law=uniform", "d=5", "n=6"]) == 4
    assert "needs n >= d + 2" in capsys.readouterr().out
    assert run.main(["theorem=4.2", "spectrum=[2,2]"]) == 4
    assert "r = 2" in capsys.readouterr().out


def test_sweep_runs_every_job_and_returns_the_worst(here, capsys):
    assert run.main(["-m", "theorem=4.1,4.3", "spectrum=[2,2],[3,3,3]", "out=sweep"]) == 4
    names = sorted(path.name for path in (here / "sweep").iterdir())
    assert len(names) == 4
    assert [name[:3] for name in names] == ["4.1", "4.1", "4.3", "4.3"]
    assert sorted(path.name for path in here.iterdir()) == ["sweep"]
    assert run.main(["-m", "theorem=4.1,4.9", "spectrum=[2,2]"]) == 2
    assert "unknown theorem 4.9" in capsys.readouterr().err


def test_internal_error_is_one_line_and_the_traceback_a_file(here, capsys, monkeypatch):
    monkeypatch.setattr("popgd.runs.perform.check_setting", lambda *_: 1 / 0)
    assert run.main(["theorem=4.3", "out=broken"]) == 70
    error = capsys.readouterr().err
    assert "internal error (ZeroDivisionError" in error
    assert error.count("\n") == 1
    assert "ZeroDivisionError" in (here / "broken" / "popgd-error.txt").read_text()


def test_failed_write_leaves_no_half_file(tmp_path):
    target = tmp_path / "report.json"
    store.write(target, b"old")
    with pytest.raises(TypeError):
        store.write(target, "not bytes")  # pyright: ignore
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)],
)
def test_signals_end_with_a_line_and_their_code(tmp_path, number, code):
    command = [sys.executable, "-m", "popgd.run", "theorem=4.3", "out=run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    deadline = time.monotonic() + 60
    while not (Path(tmp_path) / "run" / "settings.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "what was done is saved, continue with resume=run" in error
    assert not (tmp_path / "run" / "report.json").exists()


# --- claims as they are judged

CLAIM = Claim("x", "", "", "paper", 1.0, 1.25, 0.01, 0.0, 0.5, 0.1, Outcome.REFUTED, "")


def test_each_claim_is_a_line_at_once_where_there_is_no_terminal(capsys):
    with screen.live(lambda *told: None) as (_, judged):
        judged(CLAIM)
        line = "x: predicted 1, measured 1.25, error 0.01: REFUTED\n"
        assert capsys.readouterr() == (line, "")
        judged(dataclasses.replace(CLAIM, self_check="slope"))
        assert capsys.readouterr().out == f"self-check {line}"
    with screen.live(lambda *told: None, quiet=True) as (_, judged):
        judged(CLAIM)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_claims_stand_above_the_bars(monkeypatch):
    shown = io.StringIO()
    console = partial(Console, force_terminal=True, file=shown)
    monkeypatch.setattr(screen, "Console", lambda **how: console(**{**how, "width": 120}))
    with screen.live(lambda *told: None) as (report, judged):
        report("sampling", 1, 2)
        judged(CLAIM)
        text = shown.getvalue()
        assert "judged so far" in text and "REFUTED" in text and "sampling" in text
        assert "x: predicted" not in text
