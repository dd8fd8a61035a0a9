"""Runs that are killed, interrupted, met by a full disk or another process, and go on; and stored
runs judged again.
"""

import errno
import json
import os
import random
import signal
from pathlib import Path
from threading import Event, Thread

import fresh
import jax
import jax.numpy as jnp
import kills
import numpy as np
import optax
import pytest
from kills import contents

from popgd.descent import descent
from popgd.descent.memory import Memory
from popgd.papers.power_method import model
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.objectives import PowerIteration
from popgd.problem.errors import SettingError
from popgd.runs import checkpoint, store, watchdog
from popgd.runs import command as run
from popgd.runs.checkpoint import Checkpoint
from popgd.theorem.report import resolve, restore

#: Finished as soon as it is begun: a hypothesis fails.
EMPTY = ["theorem=4.1", "law=uniform", "d=5", "n=6"]


#: The clock has no say, however busy the machine is.
SHORT = [*fresh.LIGHT, "sampled_steps=20", "budget=1000"]


@pytest.fixture(scope="module")
def processes():
    server = fresh.Fresh(jax.config.jax_compilation_cache_dir)
    yield server
    server.close()


def at(place, count, *signals):
    return {"fault": {"place": place, "count": count, "signals": signals or (signal.SIGKILL,)}}


FULL = {"fault": {"place": "fsync", "count": 4, "errno": errno.ENOSPC}}
SAVED = "what was done is saved, continue with resume=run"


#: How a run is broken off, its exit code and what it says: killed at no particular moment and in
#: every phase of writing, half of it written, all of it, renamed; told to; without room to write.
WAYS = (
    (at("fsync", 1), -9, ""),
    ({"kill_after": random.uniform(0, 2)}, -9, ""),
    (at("step", 3, signal.SIGINT), 130, f"popgd: interrupted; {SAVED}\n"),
    (at("fsync", 4), -9, ""),
    (at("rename", 3), -9, ""),
    (
        FULL,
        2,
        "popgd: cannot write in run (No space left on device): make room there, then continue "
        "with resume=run\n",
    ),
    (at("renamed", 2), -9, ""),
)
FEW = WAYS[2], WAYS[3], WAYS[5]


@pytest.mark.parametrize(
    "ways", [pytest.param(FEW, id="few"), pytest.param(WAYS, id="all", marks=pytest.mark.slow)]
)
def test_broken_off_it_ends_bit_for_bit_as_if_never_broken(tmp_path, processes, ways):
    unbroken = processes.run(*SHORT, "out=unbroken", cwd=tmp_path, interval=1e9)
    assert unbroken.code in run.EXIT.values(), unbroken.error
    directory = tmp_path / "run"
    for how, code, error in ways:
        begun = (directory / store.SETTINGS).exists()
        command = ["resume=run", "budget=1000"] if begun else [*SHORT, "out=run"]
        ended = processes.run(*command, cwd=tmp_path, **how)
        assert ended.code == code, (how, ended)
        assert ended.error.startswith(error) and ended.error.count("\n") == (code != -9), (
            how,
            ended,
        )
        if code in (2, 130):
            assert set(contents(directory)) <= {store.SETTINGS, store.CHECKPOINT}
    last = processes.run(*SHORT, "out=run", cwd=tmp_path)
    assert last.code == unbroken.code, last.error
    assert 0 < last.steps < unbroken.steps - 5
    assert contents(directory) == contents(tmp_path / "unbroken")


@pytest.mark.slow
def test_killed_fifty_times(tmp_path, processes):
    """At random moments of a somewhat longer run, over and over."""
    found = kills.kill(processes, tmp_path, kills.KILLS, seed=random.randrange(2**32))
    assert found["kills"] == kills.KILLS and found["identical"] == found["runs finished"] > 0
    assert set(kills.WHILE_WRITING.values()) <= set(found["at"])


class Kept(Memory):
    def __init__(self, found=None):
        self.found, self.offers, self.packs = found, [], []

    def recall(self):
        return self.found

    def offer(self, pack):
        self.packs.append(pack)
        self.offers.append({name: array.copy() for name, array in pack().items()})


def test_from_each_state_offered_a_descent_ends_the_same():
    """One that diverges, and so knows when it has ended."""
    law = Rotated.with_spectrum([8, 4])
    how = descent.Descent(
        PowerIteration("unnormalised", layer_norm=False), optax.sgd(1.0), model.Active(2)
    )
    start, whole = model.embed(*jnp.asarray([1.0, 0.0]), 2), Kept()
    wanted = descent.descend(how, law, start, 100, 16, jax.random.key(0), memory=whole)
    for found in whole.offers[::4] + whole.offers[-1:]:
        got = descent.descend(how, law, start, 100, 16, jax.random.key(0), memory=Kept(found))
        assert got.diverged_at == wanted.diverged_at is not None
        for x, y in zip(*map(jax.tree.leaves, (got[:-1], wanted[:-1])), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def test_a_state_offered_stays_that_of_its_moment():
    """It may be saved later, by the thread that watches, while the descent has gone half a step
    on.
    """
    start, memory = model.embed(*jnp.asarray([1.0, 0.0]), 2), Kept()
    how = descent.Descent(
        PowerIteration("unnormalised", layer_norm=False), optax.sgd(0.1), model.Active(2)
    )
    descent.descend(
        how, Rotated.with_spectrum([8, 4]), start, 12, 16, jax.random.key(0), memory=memory
    )
    assert len({len(found["row0"]) for found in memory.offers}) > 1
    for pack, offered in zip(memory.packs, memory.offers, strict=True):
        jax.tree.map(np.testing.assert_array_equal, pack(), offered)


def test_another_thread_saves_what_was_offered(tmp_path):
    """And nothing is offered while it does: a dictionary that grows under it would break off the
    saving.
    """
    memory, saving, go_on = (
        Checkpoint(tmp_path / "checkpoint.npz", {"settings": "abc", "jax": "1"}),
        Event(),
        Event(),
    )

    def pack():
        saving.set()
        assert go_on.wait(30)
        return ARRAYS

    memory.part("slow").offer(pack)
    threads = [
        Thread(target=memory.flush),
        Thread(target=memory.part("late").offer, args=(ARRAYS.copy,)),
    ]
    threads[0].start()
    assert saving.wait(30)
    threads[1].start()
    threads[1].join(0.1)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(30)
    found = Checkpoint(tmp_path / "checkpoint.npz", {"settings": "abc", "jax": "1"})
    assert (
        found.part("slow").recall().keys() == ARRAYS.keys() and found.part("late").recall() is None
    )


def test_a_signal_ends_the_whole_sweep(tmp_path, processes):
    ended = processes.run(
        "-m", *EMPTY, "seed=1,2,3", "out=sweep", cwd=tmp_path, **at("renamed", 1, signal.SIGTERM)
    )
    assert ended.code == 143
    assert "the same command goes on with the sweep" in ended.error
    assert len(list((tmp_path / "sweep").iterdir())) == 1


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def empty(here, capsys):
    """A finished run, in run/."""
    assert run.main([*EMPTY, "out=run"]) == 4
    capsys.readouterr()
    return here / "run"


def refused(capsys, arguments, *words):
    assert run.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("popgd: ")
    for word in words:
        assert word in error


def test_resume_of_a_finished_run_prints_it(empty, capsys):
    before = contents(empty)
    assert run.main(["resume=run"]) == 4
    assert "already finished in run" in capsys.readouterr().out
    assert contents(empty) == before


@pytest.mark.parametrize("command", ["resume", "recheck"])
def test_stored_runs_that_are_none_are_refused(empty, capsys, command):
    refused(capsys, [f"{command}=run", "seed=1"], "stands alone")
    refused(capsys, ["-m", f"{command}=run"], "stands alone")
    refused(capsys, [f"{command}="], "stands alone")
    refused(capsys, [f"{command}=nowhere"], f"{command}=nowhere: no run is there")
    settings = json.loads((empty / store.SETTINGS).read_text())
    for changed, words in (
        ({**settings, "format": 99}, ("format 99, of a newer popgd", f"to {store.FORMAT}")),
        ({**settings, "format": 1}, ("format 1, of an older popgd",)),
        (
            {name: value for name, value in settings.items() if name != "format"},
            ("not a run's, it has no format",),
        ),
        ({**settings, "batch": "many"}, ("batch=many",)),
        ({**settings, "batch": 2.0}, ()),
        ({**settings, "colour": "red"}, ("unknown setting colour",)),
        ({"format": store.FORMAT}, ("damaged",)),
        ([], ("not a run's",)),
    ):
        (empty / store.SETTINGS).write_text(json.dumps(changed))
        if changed != settings and words:
            refused(capsys, [f"{command}=run"], *words)
    (empty / store.SETTINGS).write_text(json.dumps(settings))
    report = json.loads((empty / store.REPORT).read_text())
    (empty / store.REPORT).write_text(json.dumps({**report, "format": 99}))
    refused(capsys, [f"{command}=run"], "format 99", f"to {store.FORMAT}")
    for broken in (
        {"outcome": "MAYBE"},
        {"claims": None},
        {"claims": [{"id": "x"}]},
        {"digests": None},
    ):
        (empty / store.REPORT).write_text(json.dumps({**report, **broken}))
        refused(capsys, [f"{command}=run"], "report.json is damaged")


@pytest.mark.parametrize(
    "values",
    [
        {"theorem": "4.1"},
        {
            "theorem": "4.1",
            "law": "uniform",
            "d": 3,
            "n": 9,
            "L": 1,
            "seed": 9 * 10**18,
            "claim.exponent": "1/3",
        },
        {
            "theorem": "4.2",
            "spectrum": [2.5, 1.2, 0.3],
            "target": "normalised",
            "dtype": "float32",
            "bank": True,
        },
        {
            "theorem": "4.2",
            "eta": 0.1 + 0.2,
            "optimiser": "adam",
            "init": "Q12",
            "false_alarm": 1e-300,
        },
        {"theorem": "4.3", "steps": 9 * 10**18, "assume": "ignore"},
    ],
)
def test_every_setting_survives_being_stored(values):
    setting = resolve(values)
    again = restore(json.loads(json.dumps(setting.describe())))
    assert again.describe() == setting.describe()
    for name in setting.__dataclass_fields__:
        x, y = getattr(setting, name), getattr(again, name)
        assert type(x) is type(y)
        if name == "law":
            for u, v in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
                np.testing.assert_array_equal(u, v)
        else:
            assert x == y


def test_two_processes_do_not_share_a_directory(here, capsys):
    """A lock on a deleted file is none; one on the file that is there is exclusive, and vanishes
    when it is let go.
    """
    settings = resolve(dict(word.split("=") for word in EMPTY)).describe()
    with store.claimed(here / "run", settings, ""):
        refused(capsys, [*EMPTY, "out=run"], "in use by another process")
        refused(capsys, ["resume=run"], "in use by another process")
    assert set(contents(here / "run")) == {store.SETTINGS}
    first = store.lock(here)
    (here / store.LOCK).unlink()
    second = store.lock(here)
    with pytest.raises(SettingError):
        store.lock(here)
    os.close(first)
    os.close(second)
    os.close(store.lock(here))
    assert run.main([*EMPTY, "out=run"]) == 4
    assert set(contents(here / "run")) == {store.SETTINGS, store.REPORT}


def test_what_a_kill_in_the_first_moments_leaves_is_taken_over(here):
    (here / "run").mkdir()
    for name in (store.LOCK, f".{store.SETTINGS}.123{store.PART}"):
        (here / "run" / name).touch()
    assert run.main([*EMPTY, "out=run"]) == 4
    assert set(contents(here / "run")) == {store.SETTINGS, store.REPORT}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_directory_that_cannot_be_written_is_one_line(here, capsys, monkeypatch, number):
    def failing(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        refused(capsys, [*EMPTY, "out=run"], "cannot be written", os.strerror(number))
    assert run.main([*EMPTY, "out=run"]) == 4
    (here / "run" / store.REPORT).unlink()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        refused(capsys, ["resume=run"], "continue with resume=run", os.strerror(number))
    assert set(contents(here / "run")) == {store.SETTINGS}
    assert run.main(["resume=run"]) == 4


def test_a_signal_before_a_run_ends_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    run.Watchdog().told(signal.SIGTERM, None)
    assert ended == [143]
    watch = run.Watchdog()
    with watch.later(Path("run")):
        watch.told(signal.SIGINT, None)
        watch.told(signal.SIGINT, None)  # the same, for a launcher's way of sending it
        assert ended == [143] and watch.code == 130
        monkeypatch.setattr(watchdog, "SAME", 0.0)
        watch.told(signal.SIGINT, None)
    assert ended == [143, 130]


ARRAYS = {"x": np.arange(12.0).reshape(3, 4), "n": np.array(3), "small": np.float32([0.1])}


@pytest.fixture
def kept(tmp_path):
    memory = Checkpoint(tmp_path / "checkpoint.npz", {"settings": "abc", "jax": "1"})
    memory.part("").part("raw").offer(ARRAYS.copy)
    memory.flush()
    return tmp_path / "checkpoint.npz"


def recalled(path, **identity):
    return (
        Checkpoint(path, {"settings": "abc", "jax": "1", **identity}).part("").part("raw").recall()
    )


def test_a_checkpoint_gives_back_what_it_got(kept):
    found = recalled(kept)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert Checkpoint(kept, {"settings": "abc", "jax": "1"}).part("other").recall() is None


def test_a_damaged_checkpoint_is_refused(kept):
    """Cut anywhere or with any byte changed."""
    content, rng = kept.read_bytes(), np.random.default_rng(0)
    damaged = [content[:k] for k in (0, 1, 100, len(content) // 2, len(content) - 1)]
    for k in rng.integers(0, len(content), 200):
        damaged.append(
            content[:k] + bytes([content[k] ^ int(rng.integers(1, 256))]) + content[k + 1 :]
        )
    for bad in damaged:
        kept.write_bytes(bad)
        with pytest.raises(SettingError, match="delete it to start the run afresh"):
            recalled(kept)


def test_a_foreign_checkpoint_is_refused(kept):
    with pytest.raises(SettingError, match="of a run with other settings"):
        recalled(kept, settings="xyz")
    np.savez(kept, x=np.arange(3))
    with pytest.raises(SettingError, match="no checkpoint"):
        recalled(kept)
    np.savez(kept, identity=np.array([{"a": object}]))  # a pickle is not even opened
    with pytest.raises(SettingError, match="no checkpoint"):
        recalled(kept)


@pytest.mark.parametrize("other", [{"jax": "2"}, {"format": 99}])
def test_a_checkpoint_of_another_path_is_put_aside(kept, monkeypatch, other):
    """And not a byte of it is used."""
    content = kept.read_bytes()
    monkeypatch.setattr(checkpoint, "FORMAT", other.pop("format", checkpoint.FORMAT))
    memory = Checkpoint(kept, {"settings": "abc", "jax": "1", **other})
    assert memory.before is not None and memory.before.parts == ["raw"]
    assert ("jax (1 -> 2)" if other else "-> 99") in memory.before.changed
    assert memory.part("").part("raw").recall() is None and memory.parts == []
    assert contents(kept.parent) == {store.BEFORE: content}


def test_a_failed_save_leaves_the_last_one(kept, monkeypatch):
    memory = Checkpoint(kept, {"settings": "abc", "jax": "1"})
    before = kept.read_bytes()
    assert memory.parts == ["raw"] and memory.before is None
    memory.part("more").offer(ARRAYS.copy)
    monkeypatch.setattr(os, "fsync", lambda _: os.write(-1, b""))
    with pytest.raises(OSError):
        memory.flush()
    assert contents(kept.parent) == {kept.name: before}
