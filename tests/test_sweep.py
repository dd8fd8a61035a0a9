"""Sweeps: gathered into one table and one figure, and done by a launcher's processes, of which one
may die.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from popgd.claims.evidence import Evidence
from popgd.runs import collect, joint, store, sweep
from popgd.runs import command as run
from popgd.theorem import verdict

TINY = Path(__file__).parent / "data" / "tiny_run"


@pytest.fixture
def runs(tmp_path):
    """A finished run, one that is not finished, and one that is damaged."""
    for name in ("a", "b", "c"):
        shutil.copytree(TINY, tmp_path / name)
    (tmp_path / "b" / store.REPORT).unlink()
    (tmp_path / "c" / store.REPORT).write_text("{")
    settings = (tmp_path / "b" / store.SETTINGS).read_text()
    (tmp_path / "b" / store.SETTINGS).write_text(settings.replace('"seed": 0', '"seed": 1'))
    return tmp_path


def test_all_runs_are_gathered_and_none_is_hidden(runs, capsys):
    assert collect.main([str(runs)]) == 0
    shown = capsys.readouterr().out
    rows = {row["run"]: row for row in csv.DictReader((runs / collect.CSV).open())}
    assert [rows[name]["outcome"] for name in "abc"] == [
        store.read(TINY / store.REPORT)["outcome"],
        "UNFINISHED",
        "DAMAGED",
    ]
    quantity = store.read(TINY / store.REPORT)["quantities"]["c_star"]
    assert (
        float(rows["a"]["c_star"]) == quantity["value"]
        and float(rows["a"]["c_star error"]) == quantity["error"]
    )
    assert (
        rows["b"]["c_star"] == ""
        and rows["b"]["seed"] == "1"
        and rows["a"]["spectrum"] == "[3.0, 2.0, 1.0]"
    )
    assert (runs / collect.FIGURE).read_bytes().startswith(b"\x89PNG")
    lines = (runs / collect.TEX).read_text().splitlines()
    assert lines[3].startswith("seed & outcome & ") and len([x for x in lines if " & " in x]) == 4
    assert "UNFINISHED" in shown and "seed" in shown and "false_alarm" not in shown


def claim(sigmas, tail, error=0.1, **changes):
    """A stored claim with a normal error, that many errors off, judged at this tail."""
    judged = verdict.judge(
        Evidence("x", "", "", 0.0, sigmas * error, error, 0.0, 99.0, "", **changes), tail
    )
    return {**vars(judged), "outcome": str(judged.outcome)}


def test_a_claim_is_refuted_jointly_only_where_an_nth_of_the_rate_refutes_it():
    """Never where a run at false_alarm/N would not, for normal, skewed and Student's errors; and
    far off always.
    """
    for N in (2, 10, 1000):
        for share in (1e-6, 1e-7, 1e-9):
            for law in ({}, {"skewness": 0.1}, {"skewness": 1.0}, {"degrees": 15}, {"degrees": 31}):
                joint_ones = 0
                for sigmas in np.geomspace(4, 400, 200):
                    alone = claim(sigmas, share, **law)
                    jointly = joint.refuted_jointly(alone, 1e-6, N)
                    joint_ones += jointly
                    assert not jointly or claim(sigmas, share / N, **law)["outcome"] == "REFUTED"
                    assert jointly or sigmas < 400
                assert 0 < joint_ones < 200


def test_a_bound_that_is_broken_is_broken_in_any_number_of_runs():
    assert joint.refuted_jointly(claim(1.01, 1.0, statistical=False), 1e-6, 10**6)
    assert not joint.refuted_jointly(claim(0.99, 1.0, statistical=False), 1e-6, 1)


def test_a_sweep_tells_its_false_alarms(runs, capsys):
    for name, sigmas in (("d", 5.5), ("e", 9.0)):
        shutil.copytree(TINY, runs / name)
        report = json.loads((TINY / store.REPORT).read_text())
        report["claims"].append(claim(sigmas, 1e-7) | {"id": "far"})
        (runs / name / store.REPORT).write_text(json.dumps(report))
    assert collect.main([str(runs)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "any of 3 finished runs refutes a true theorem by chance has probability 3e-06" in shown
    assert "each at 1/3 of its own, at most 1e-06: REFUTED: e far" in shown
    assert "d far" not in shown.partition("REFUTED:")[2]


@pytest.mark.parametrize(
    ("words", "line"),
    [([], "one directory"), (["x", "y"], "one directory"), (["nowhere"], "no run is there")],
)
def test_nothing_to_gather_is_one_line(tmp_path, capsys, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    assert collect.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("popgd: ") and error.count("\n") == 1 and line in error
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_needs_a_sweep(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.main(["theorem=4.1", "hydra/launcher=submitit_local"]) == 2
    assert "add -m" in capsys.readouterr().err
    assert run.main(["-m", "theorem=4.1", "hydra/launcher=no_such_launcher"]) == 2
    assert "no_such_launcher" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_job_loses_no_other_and_is_made_up_for(tmp_path):
    """Two local workers, the first of which is killed in the middle of its descents."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install popgd[sweep]")
    command = [
        sys.executable,
        "-m",
        "popgd.run",
        "-m",
        "theorem=4.2",
        "target=unnormalised",
        "samples=64",
        "batch=8",
        "sampled_steps=3000",
        "seed=1,2",
        "hydra/launcher=submitit_local",
        "out=sweep",
    ]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(f"sweep/4.2-*/{store.CHECKPOINT}")):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.1)
    listed = subprocess.run(
        ["pgrep", "-f", f"submitit.core._submit {tmp_path}"], capture_output=True, text=True
    )
    os.kill(int(listed.stdout.split()[0]), signal.SIGKILL)
    assert first.wait(300) == run.INTERNAL
    assert "the same command, when those have ended, does what is missing" in first.communicate()[1]
    while len(list(tmp_path.glob("sweep/4.2-*/report.json"))) < 1:  # the other goes on by itself
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode in run.EXIT.values(), again.stderr
    assert len(list(tmp_path.glob("sweep/4.2-*/report.json"))) == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["theorem=4.1,4.3", "L=1,2"], "L=2: Theorem 4.3 does not take L"),
        (["theorem=4.1", "spectrum=[3,1],[3,1.5]"], "must be an integer"),
        (["theorem=4.1", "d=3", "n=9,1e12", "law=uniform"], "use less"),
    ],
)
def test_one_bad_job_stops_the_sweep_before_the_first(tmp_path, capsys, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    assert run.main(["-m", *words, "out=sweep"]) == run.BAD_INPUT
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_every_job_is_checked_as_it_will_run(tmp_path):
    settings = sweep.values_of(["theorem=4.1,4.3", "spectrum=[3,1],[2,2]", "seed=1"], True)
    done, checked = [], []
    job = lambda values: done.append(values) or 0
    codes = sweep.compose(settings, [], True, job, job, checked.append)
    assert codes == [0] * 4
    assert checked == done


def test_where_a_launcher_sends_jobs_there_may_be_more_memory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["-m", "theorem=4.1", "law=uniform", "d=3", "n=1e12", "hydra/launcher=no_such_launcher"]
    assert run.main(words) == run.BAD_INPUT
    assert "no_such_launcher" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word, found",
    [
        ("seed=range(1,4)", ["1", "2", "3"]),
        ("seed=range(5,0,-2)", ["5", "3", "1"]),
        ("eta=choice(0.1,auto)", ["0.1", "auto"]),
        ("spectrum=choice([3,1],[2,2])", ["[3,1]", "[2,2]"]),
        ("spectrum=[3,1],[2,2]", ["[3,1]", "[2,2]"]),
        ("theorem=glob(4.*)", ["glob(4.*)"]),
    ],
)
def test_words_of_a_sweep(word, found):
    assert sweep.values_of([word], True) == {word.partition("=")[0]: found}


def test_theorems_that_a_glob_chooses():
    names = ["4.1", "4.2", "4.1.stability", "own"]
    assert sweep.chosen(["own", "glob(4.?)"], names) == ["own", "4.1", "4.2"]
    assert sweep.chosen(["glob([4*, own], exclude=*.stability)"], names) == ["4.1", "4.2", "own"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["theorem=4.1", "seed=range(1,3)"], "range(...) gives several values; add -m"),
        (["-m", "theorem=4.1", "seed=interval(0,1)"], "seed=interval(0,1): "),
        (["-m", "theorem=4.1", "seed=range(1,3"], "a bracket is not closed"),
        (["-m", "theorem=4.1", "spectrum=[8,5,4"], "a bracket is not closed"),
        (["theorem=4.1", "spectrum=[8,5"], "a bracket is not closed"),
        (["theorem=4.1", "spectrum=8,5]"], "a bracket is not closed"),
        (["-m", "theorem=4.1", "spectrum=8,5,4"],
         "one list, 'spectrum=[8,5,4]', or 3 runs, 'spectrum=[8],[5],[4]'?"),
        (["-m", "theorem=glob(9.*)"], "theorem=glob(9.*): no theorem is called that"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_asked_in_one_line(words, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run.main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line and not list(tmp_path.iterdir())


def test_settings_are_shown_and_nothing_is_done(capsys, monkeypatch, tmp_path):
    """As they are typed: typed again they are the same."""
    monkeypatch.chdir(tmp_path)
    words = ["theorem=4.1", "spectrum=choice([3,1],[2,1])", "eta=1/4"]
    assert run.main(["-m", *words, "--cfg", "job"]) == 0
    pages = [page.splitlines() for page in capsys.readouterr().out.strip().split("\n\n")]
    assert [line for page in pages for line in page if "spectrum" in line] == [
        "spectrum=[3,1]",
        "spectrum=[2,1]",
    ]
    assert run.main([*pages[0], "--cfg=job"]) == 0
    assert capsys.readouterr().out.strip().splitlines() == pages[0]
    assert not list(tmp_path.iterdir())


def test_the_version(capsys):
    assert run.main(["--version"]) == 0
    assert re.fullmatch(r"popgd \S+, jax \S+, jaxlib \S+, Python \S+\n", capsys.readouterr().out)
