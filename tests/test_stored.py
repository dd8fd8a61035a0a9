"""A finished run read back: what `check` found, its arrays and figures; and what is no finished
run.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import popgd
from popgd import SettingError
from popgd.runs import store
from popgd.runs.store import save_report
from popgd.theorem.report import restore
from popgd.theorem.verdict import Claim

OLDER = Path(__file__).parent / "data" / "tiny_run_2"
SETTINGS = {
    "theorem": "4.2",
    "target": "unnormalised",
    "spectrum": [3, 2, 1],
    "samples": 64,
    "batch": 8,
    "sampled_steps": 4,
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    found = popgd.check(**SETTINGS)
    (path / store.SETTINGS).write_text(
        json.dumps({"format": store.FORMAT, **found.setting.describe()})
    )
    save_report(path, found)
    return found, path


@pytest.fixture
def run(judged, tmp_path):
    return shutil.copytree(judged[1], tmp_path / "run")


def test_a_run_is_read_as_it_was_judged(judged):
    found, path = judged
    read = popgd.load(path)
    assert (read.theorem, read.outcome, read.reason) == ("4.2", found.outcome, found.reason)
    assert (
        read.claims == found.claims
        and read.self_checks == found.self_checks
        and read.claims
        and read.self_checks
    )
    told = lambda quantities: {name: (x.value, x.error) for name, x in quantities.items()}
    assert told(read.quantities) == told(found.quantities)
    assert restore(read.settings).describe() == found.setting.describe()
    wanted = store.trajectories(found)
    assert read.path.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(read.path[name], array)
    assert set(read.figures) == set(found.figures()) and all(
        file.exists() for file in read.figures.values()
    )


def test_a_run_of_an_earlier_version_is_read_in_todays_words():
    read = popgd.load(str(OLDER))
    assert {check.id for check in read.self_checks} >= {
        "reduced-dynamics",
        "engines-agree-gradient",
    }
    assert (
        all(isinstance(claim, Claim) and not claim.self_check for claim in read.claims)
        and read.path == {}
    )


DAMAGES = {
    "no run is there": lambda run: shutil.rmtree(run),
    "the run is not finished": lambda run: (run / store.REPORT).unlink(),
    "report.json is damaged": lambda run: (run / store.REPORT).write_text("{"),
    "trajectory.npz is damaged": lambda run: (run / store.TRAJECTORY).write_bytes(b"PK"),
}


@pytest.mark.parametrize("said", DAMAGES)
def test_what_is_no_finished_run_is_said_in_one_line(run, said):
    DAMAGES[said](run)
    with pytest.raises(SettingError, match=said) as raised:
        popgd.load(run)
    assert "\n" not in str(raised.value)


def test_an_outcome_that_there_is_not_is_damage(run):
    report = json.loads((run / store.REPORT).read_text())
    report["claims"][0]["outcome"] = "PROVED"
    (run / store.REPORT).write_text(json.dumps(report))
    with pytest.raises(SettingError, match="damaged"):
        popgd.load(run)
