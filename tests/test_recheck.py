"""A stored run judged again: whatever is changed in its report or its trajectory is told, and an
honest one passes.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from kills import contents

from popgd.descent import gradient
from popgd.problem.errors import SettingError
from popgd.runs import command as run
from popgd.runs import older, store
from popgd.runs.recheck import APART, _allowed, _trajectory, recheck
from popgd.theorem.report import check_setting, restore

#: A finished run, without its trajectory: `python -m popgd.run resume=` with its settings alone.
TINY = Path(__file__).parent / "data" / "tiny_run"
#: The same of older code, by its format.
OLDER = {form: TINY.with_name(f"tiny_run_{form}") for form in (2, 3, 4, 5, 6)}
TRUST = ("error", "allowance", "detectable", "resolution")


def again(path):
    return recheck(path, lambda *told: None)


@pytest.fixture(scope="module")
def judged():
    """What this code makes of the stored settings, computed once."""
    return check_setting(restore(store.read(TINY / store.SETTINGS)))


@pytest.fixture(scope="module")
def whole(judged, tmp_path_factory):
    """A run directory of this code, but for the figures."""
    path = tmp_path_factory.mktemp("whole")
    shutil.copy(TINY / store.SETTINGS, path)
    np.savez_compressed(path / store.TRAJECTORY, **store.trajectories(judged))
    (path / store.REPORT).write_text(json.dumps(store.content_of(judged), allow_nan=False))
    return path


@pytest.fixture
def tiny(tmp_path, monkeypatch, judged, whole):
    """A copy of it to forge, whose settings need not be judged again every time."""
    content, arrays = store.content_of(judged), store.trajectories(judged)
    monkeypatch.setattr("popgd.runs.recheck.check_setting", lambda *_: judged)
    monkeypatch.setattr("popgd.runs.store.content_of", lambda _: content)
    monkeypatch.setattr("popgd.runs.store.trajectories", lambda _: arrays)
    return shutil.copytree(whole, tmp_path / "run")


def forge(path, plant):
    report = json.loads((path / store.REPORT).read_text())
    plant(report)
    (path / store.REPORT).write_text(json.dumps(report))


def told(path):
    """The names of what differs."""
    return [row.name for row in again(path).differences]


def claim_of(report, name):
    return next(claim for claim in report["claims"] if claim["id"] == name)


def check_of(report, name):
    return next(check for check in report["self_checks"] if check["id"] == name)


def test_a_run_of_this_code_comes_out_as_it_was(tiny, capsys):
    before = contents(tiny)
    assert run.main([f"recheck={tiny}"]) == 0
    shown = capsys.readouterr().out
    assert (
        "then: popgd 0.1.0" in shown and f"now:  popgd 0.1.0, revision {store.revision()}" in shown
    )
    assert "0 of " in shown
    assert contents(tiny) == before
    found = again(tiny)
    assert found.moved == 0
    report = json.loads((tiny / store.REPORT).read_text())
    with np.load(tiny / store.TRAJECTORY) as arrays:
        judged = len(report["claims"]) + len(report["self_checks"])
        assert found.compared == 6 + 12 * judged + 2 * len(report["quantities"]) + len(arrays.files)


@pytest.mark.parametrize("form", OLDER)
def test_a_run_of_older_code_has_the_same_outcomes_and_values(tmp_path, monkeypatch, judged, form):
    """Its bounds may be others, and it has no trajectory: that is told, and nothing else but what
    was meant.
    """
    monkeypatch.setattr("popgd.runs.recheck.check_setting", lambda *_: judged)
    found = again(shutil.copytree(OLDER[form], tmp_path / "run"))
    corrected = {name.rpartition(": ")[2] for name, _ in found.corrections}
    assert (
        corrected
        >= {
            2: {"digests", "detectable"},
            3: {"detectable"},
            4: {"reason"},
            5: {"reason"},
            6: set(),
        }[form]
    )
    assert all(older.meant(name, form) == why for name, why in found.corrections)
    names = [row.name for row in found.differences if store.TRAJECTORY not in row.name]
    # Slopes are sampled to a tenth in these tests (conftest)
    others = [name for name in names if not name.startswith("engines-agree-slope")]
    assert all(name.endswith(TRUST) for name in others) and len(others) < 10, found.differences


@pytest.fixture
def before(tiny):
    """An honest report of this code, as format 2 had it."""

    def as_it_was(report):
        del report["digests"]
        report["format"] = 2
        new = ("engines-agree-slope", "engines-agree-samples")
        report["claims"] += [check for check in report.pop("self_checks") if check["id"] not in new]
        back = {today: then for then, today in older.RENAMED[2].items()}
        for claim in report["claims"]:
            del claim["self_check"]
            claim["id"] = back.get(claim["id"], claim["id"])

    forge(tiny, as_it_was)
    return tiny


def test_an_older_report_is_read_in_todays_words(before, capsys, monkeypatch):
    """Names that were changed since, and differences that were meant, are told from all others."""
    assert told(before) == []
    forge(before, lambda r: claim_of(r, "limit-c").update(id="c-limit"))
    forge(before, lambda r: r["quantities"].update(c_end=r["quantities"].pop("c_star")))
    both = ["claim c-limit", "claim limit-c", "quantity c_end", "quantity c_star"]
    assert told(before) == both
    monkeypatch.setitem(
        older.RENAMED, 2, {**older.RENAMED[2], "c-limit": "limit-c", "c_end": "c_star"}
    )
    assert told(before) == []
    FORGERY["c_star"](before_todays := {"quantities": {"c_star": {}}})
    forge(before, lambda r: r["quantities"]["c_end"].update(before_todays["quantities"]["c_star"]))
    assert told(before) == ["c_star", "c_star: error"]
    monkeypatch.setitem(
        older.CORRECTED, 2, {**older.CORRECTED[2], "c_star: error": "it was too large"}
    )
    assert run.main([f"recheck={before}"]) == 1
    shown = capsys.readouterr().out
    assert "a correction since then: c_star: error: it was too large" in shown and "1 of " in shown


def test_a_correction_excuses_no_report_of_today(tiny):
    forge(tiny, lambda r: r["digests"].clear())
    assert again(tiny).corrections == []


def test_an_array_that_is_not_recorded_any_more_is_meant_in_older_reports_alone(tiny):
    names = ["projected/window", "raw/window_stderr"]
    with np.load(tiny / store.TRAJECTORY) as arrays:
        kept = {**arrays, **{name: arrays["raw/slope"] for name in names}}
        assert not any("window" in name for name in arrays) and {"raw/P", "raw/Q"} <= set(arrays)
    np.savez_compressed(tiny / store.TRAJECTORY, **kept)
    shown = [f"{store.TRAJECTORY} {name}" for name in names]
    assert told(tiny) == shown
    forge(tiny, lambda r: r.update(format=3))
    assert told(tiny) == []
    assert again(tiny).corrections == [(name, *older.WINDOW.values()) for name in shown]


FORGERY = {
    "c_star": lambda r: r["quantities"]["c_star"].update(value=123.0, error=1e6),
    "limit-c": lambda r: claim_of(r, "limit-c").update(predicted=77.0, measured=-5.0, error=1e9),
}


def test_a_forged_error_excuses_nothing(tiny, capsys):
    for plant in FORGERY.values():
        forge(tiny, plant)
    names = ["c_star", "c_star: error", "limit-c: predicted", "limit-c: measured", "limit-c: error"]
    assert sorted(told(tiny)) == sorted(names)
    assert run.main([f"recheck={tiny}"]) == 1
    shown = capsys.readouterr().out
    assert "5 of " in shown and all(name in shown for name in names)


@pytest.mark.parametrize("name", [*FORGERY, "exponent"])
def test_a_report_forged_in_its_versions_too_is_told(tiny, capsys, name):
    forge(tiny, lambda r: r["environment"].update(revision="0" * 40, jax="0"))
    assert told(tiny) == []
    forge(tiny, FORGERY.get(name, lambda r: r.update(outcome="REFUTED")))
    assert run.main([f"recheck={tiny}"]) == 1
    assert "Other code may draw other samples" in capsys.readouterr().out


def number_fields(report):
    """(entry, key, row) of every number of a report."""
    for claim in (*report["claims"], *report["self_checks"]):
        yield from (
            (claim, key, f"{claim['id']}: {key}") for key in ("predicted", "measured", *TRUST)
        )
    for name, quantity in report["quantities"].items():
        yield from (
            (quantity, key, name + suffix) for key, suffix in (("value", ""), ("error", ": error"))
        )


def least(entry, key):
    """What is just beyond rounding, and for values beyond 4 sqrt(2) errors."""
    size = max(1.0, *(abs(x or 0.0) for x in entry.values() if not isinstance(x, str)))
    error = (
        1.01 * APART * (entry["error"] or 0.0) if key in ("predicted", "measured", "value") else 0.0
    )
    return 100 * math.ulp(1.0) * size + 1e-8 * abs(entry[key] or 0.0) + error


CHANGES = {
    "a little larger": lambda x, unit: 0.0 if x is None else x + unit,
    "a little smaller": lambda x, unit: 0.0 if x is None else x - unit,
    "of the other sign": lambda x, unit: 0.0 if x is None else -x - 2 * unit,
    "out of all bounds": lambda x, unit: 1e300,
    "no number": lambda x, unit: 0.0 if x is None else None,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_number_of_every_claim_and_quantity_is_compared(tiny, change):
    """All of them forged at once, and each kind by itself: no stored number excuses another."""
    kept = json.loads((tiny / store.REPORT).read_text())
    fields = [
        (entry, key, row, entry[key], change(entry[key], least(entry, key)))
        for entry, key, row in number_fields(kept)
    ]
    for kind in (None, "predicted", "measured", "value", *TRUST):
        chosen = [field for field in fields if kind in (None, field[1])]
        for entry, key, _, _, new in chosen:
            entry[key] = new
        (tiny / store.REPORT).write_text(json.dumps(kept))
        assert sorted(told(tiny)) == sorted(row for _, _, row, _, _ in chosen)
        for entry, key, _, old, _ in chosen:
            entry[key] = old
    assert len(fields) >= 100


TEXTS = [
    (lambda r: r.update(outcome="SUPPORTED"), ["outcome"]),
    (lambda r: r.update(theorem="4.1"), ["theorem"]),
    (
        lambda r: r.update(statement=r["statement"].replace("a positive L*", "a negative L*")),
        ["statement"],
    ),
    (lambda r: r.update(source=r["source"].replace("4.2", "4.3")), ["source"]),
    (lambda r: r.update(reason="heavy tails"), ["reason"]),
    (
        lambda r: check_of(r, "engines-agree-raw").update(
            reason=check_of(r, "engines-agree-raw")["reason"].replace(
                "1024 samples", "10240 samples"
            )
        ),
        ["engines-agree-raw: reason"],
    ),
    (
        lambda r: check_of(r, "engines-agree-raw").update(self_check="slope"),
        ["engines-agree-raw: self_check"],
    ),
    (lambda r: r["environment"].update(seed=7), ["seed"]),
    (lambda r: r.update(signed="by me"), ["signed"]),
    (lambda r: r["claims"].pop(3), ["claim contraction"]),
    (lambda r: r["claims"].append({**r["claims"][0], "id": "new"}), ["claim new"]),
    (lambda r: r["claims"][0].update(note="x"), ["limit-c: note"]),
    (lambda r: r["quantities"].pop("c_star"), ["quantity c_star"]),
    (lambda r: r["quantities"].update(extra={"value": 1.0, "error": 9.0}), ["quantity extra"]),
    (lambda r: r["quantities"]["c_star"].update(unit="m"), ["c_star: unit"]),
    (
        lambda r: claim_of(r, "contraction").update(id="expansion"),
        ["claim contraction", "claim expansion"],
    ),
]


@pytest.mark.parametrize(("plant", "names"), TEXTS)
def test_a_forged_text_or_entry_is_told(tiny, plant, names):
    forge(tiny, plant)
    assert told(tiny) == names


@pytest.mark.parametrize("key", ["outcome", "statement", "source", "origin", "reason"])
def test_every_text_of_every_claim_is_compared(tiny, key):
    kept = json.loads((tiny / store.REPORT).read_text())
    for claim in kept["claims"]:
        claim[key] = "REFUTED" if key == "outcome" else claim[key] + "."
    (tiny / store.REPORT).write_text(json.dumps(kept))
    assert told(tiny) == [f"{claim['id']}: {key}" for claim in kept["claims"]]


@pytest.mark.parametrize(
    ("key", "change", "same"),
    [
        (
            "statement",
            ("0.8018417486", "0.8018417487"),
            True,
        ),  # the last of the digits shown, and rounding
        ("statement", ("0.8018417486", "0.8018417586"), False),
        ("reason", ("-1.1e-04", "-1.2e-04"), False),
        ("reason", ("-1.1e-04", "1.1e-04"), False),
        ("reason", ("-1.1e-04", "-1.1e-4"), True),
        ("reason", ("-1.1e-04", "1.1e-04."), False),
    ],
)
def test_numbers_in_texts_are_compared_as_numbers(tiny, key, change, same):
    text = claim_of(json.loads((tiny / store.REPORT).read_text()), "contraction")[key]
    assert change[0] in text
    forge(tiny, lambda r: claim_of(r, "contraction").update({key: text.replace(*change)}))
    assert told(tiny) == [f"contraction: {key}"] * (not same)


def test_a_difference_within_the_errors_is_none(tiny):
    def move(report, errors):
        claim = claim_of(report, "active-gradient-scalar")
        claim["measured"] += errors * claim["error"]

    forge(tiny, lambda r: move(r, 0.99 * APART))
    assert told(tiny) == [] and again(tiny).moved == 1
    forge(tiny, lambda r: move(r, 0.02 * APART))
    assert told(tiny) == ["active-gradient-scalar: measured"]


DAMAGED = [
    lambda r: r["quantities"]["c_star"].update(value=float("nan")),
    lambda r: r["quantities"]["c_star"].update(error=float("inf")),
    lambda r: r["quantities"]["c_star"].update(value="1.5"),
    lambda r: r["quantities"]["c_star"].update(value=True),
    lambda r: r["quantities"]["c_star"].update(value=10**400),
    lambda r: r["quantities"]["c_star"].pop("error"),
    lambda r: r["quantities"].update(c_star=1.5),
    lambda r: r.update(quantities=[]),
    lambda r: r["claims"][0].update(measured=[0.0]),
    lambda r: r["claims"][0].update(allowance=False),
    lambda r: r["claims"][0].update(reason=None),
    lambda r: r["claims"][0].update(id=["x"]),
    lambda r: r["claims"].append(r["claims"][0]),
    lambda r: r.update(reason=0),
    lambda r: r.update(environment="here"),
    lambda r: r.pop("statement"),
]


@pytest.mark.parametrize("plant", DAMAGED)
def test_a_damaged_report_is_one_line(tiny, capsys, plant):
    forge(tiny, plant)
    assert run.main([f"recheck={tiny}"]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith(f"popgd: recheck={tiny}: report.json is damaged")
        and error.count("\n") == 1
    )


def test_recheck_wants_a_finished_run_with_its_own_settings(tiny):
    forge(tiny, lambda r: r["settings"].update(seed=1))
    with pytest.raises(SettingError, match=r"report\.json is not that of settings\.json"):
        again(tiny)
    (tiny / store.REPORT).unlink()
    with pytest.raises(SettingError, match="not finished"):
        again(tiny)


# --- the trajectory


def save(path, arrays):
    np.savez_compressed(path / store.TRAJECTORY, **arrays)


def arrays_of(path):
    with np.load(path / store.TRAJECTORY) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("entry", [0, -1])
def test_every_array_of_the_trajectory_is_compared(tiny, entry):
    """At any entry, and by anything beyond rounding."""
    kept = arrays_of(tiny)
    assert {
        "exact/step",
        "exact/a",
        "exact/b",
        "exact/c",
        "exact/dc",
        "exact/bound",
        "raw/P",
    } <= kept.keys()
    for array in kept.values():
        at = array.reshape(-1)
        if array.dtype.kind == "i":
            at[entry] += 1
        else:
            at[entry] = (
                at[entry] + 1e-8 * max(1.0, abs(at[entry])) if np.isfinite(at[entry]) else 0.0
            )
    save(tiny, kept)
    assert [name.partition(" [")[0] for name in told(tiny)] == [
        f"trajectory.npz {name}" for name in kept
    ]


def test_a_trajectory_of_other_arrays_is_told(tiny):
    kept = arrays_of(tiny)
    rest = {name: array for name, array in kept.items() if name != "exact/c"}
    for arrays, name in (
        (rest, "trajectory.npz exact/c"),
        ({**kept, "more": np.zeros(3)}, "trajectory.npz more"),
        ({**kept, "exact/c": kept["exact/c"][:-1]}, "trajectory.npz exact/c"),
        ({**kept, "exact/c": kept["exact/c"].astype(np.float32)}, "trajectory.npz exact/c"),
        ({**kept, "exact/c": kept["exact/c"].astype(str)}, "trajectory.npz exact/c"),
    ):
        save(tiny, arrays)
        assert told(tiny) == [name]
    hole = kept["exact/c"].copy()
    hole[2] = np.nan
    save(tiny, {**kept, "exact/c": hole})
    assert told(tiny) == ["trajectory.npz exact/c [2]"]
    (tiny / store.TRAJECTORY).unlink()
    assert len(told(tiny)) == len(kept)


def test_rounding_of_a_trajectory_is_no_difference(tiny):
    kept = arrays_of(tiny)
    moved = {name: x * (1 + 1e-13) if x.dtype.kind == "f" else x for name, x in kept.items()}
    moved["exact/c"] = kept["exact/c"] + np.nan_to_num(kept["exact/bound"])
    save(tiny, moved)
    found = again(tiny)
    assert found.differences == [] and found.moved > 5


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_no_number_is_compared_too(number):
    """A descent that diverged, forged to have ended well, or the other way round."""
    for then in (0.5, *({np.nan, np.inf, -np.inf, 1e300} - {number})):
        a, b = np.array([1.0, then]), np.array([1.0, number])
        (found,) = _trajectory({"raw/c": a}, {"raw/c": b})
        assert not _allowed(found) and found.name == "trajectory.npz raw/c [1]"
    (found,) = _trajectory({"raw/c": b}, {"raw/c": b.copy()})
    assert found.then == found.now


@pytest.mark.parametrize(
    ("bound", "same"), [(0.0, False), (0.04, False), (0.06, True), (np.inf, True)]
)
def test_an_array_with_a_bound_may_move_by_two_of_them_as_they_are_now(bound, same):
    """The stored bound is of no account, and an infinite one excuses no other entry."""
    then = {"x/log_sin": np.array([-36.0, -1.1]), "x/rounding": np.array([1e9, 1e9])}
    now = {"x/log_sin": np.array([-36.0, -1.0]), "x/rounding": np.array([np.inf, bound])}
    found, _ = _trajectory(then, now)
    assert _allowed(found) == same or found.then == found.now


@pytest.mark.parametrize("content", [b"", b"PK", None])
def test_a_damaged_trajectory_is_one_line(tiny, content):
    stored = (tiny / store.TRAJECTORY).read_bytes()
    (tiny / store.TRAJECTORY).write_bytes(
        stored[: len(stored) // 2] if content is None else content
    )
    with pytest.raises(SettingError, match=r"trajectory\.npz is damaged") as caught:
        again(tiny)
    assert "\n" not in str(caught.value)


# --- honest runs of other shapes


def run_on(devices, path):
    """The stored settings judged in a process with this many devices."""
    shutil.copytree(TINY, path)
    (path / store.REPORT).unlink()
    flags = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    subprocess.run(
        [sys.executable, "-m", "popgd.run", f"resume={path}"],
        env=flags,
        capture_output=True,
        timeout=300,
    )
    assert (path / store.REPORT).exists()
    return path


@pytest.mark.slow
def test_a_run_on_other_devices_comes_out_as_it_was(tmp_path, to_a_percent):
    """On one where there are several here, else on two: programs for one round in another way."""
    found = again(run_on(2 if jax.device_count() == 1 else 1, tmp_path / "run"))
    assert found.differences == [] and found.then != found.now


@pytest.mark.slow
def test_a_run_in_other_chunks_comes_out_as_it_was(whole, monkeypatch):
    """Its sums are added in another order."""
    monkeypatch.setattr(gradient, "LARGEST_CHUNK", 4)
    jax.clear_caches()
    found = again(whole)
    jax.clear_caches()
    assert found.differences == [] and found.moved > 0


@pytest.mark.slow
def test_other_seeds_differ(whole, tmp_path, monkeypatch):
    """The same settings with other samples, as other code may draw them: most of what is sampled is
    told on this code.
    """
    settings = store.read(TINY / store.SETTINGS)
    other = check_setting(restore({**settings, "seed": 1}))
    monkeypatch.setattr("popgd.runs.recheck.check_setting", lambda *_: other)
    shutil.copytree(whole, tmp_path / "run")
    assert len(told(tmp_path / "run")) > 10
