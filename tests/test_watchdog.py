"""Runs whose main thread waits inside C code, where Python handles no signal: they say so, and end when they are told to."""

import os
import signal
import subprocess
import sys
import time

import fresh
import jax
import pytest
from alone import WITHOUT_JAX

from popgd import heartbeat, run, store, watchdog

#: A process whose main thread waits for a lock that it holds itself, in C and for ever. Argument: what saving does.
HANGS = f"""
{WITHOUT_JAX}
import contextlib, ctypes, signal, threading
from pathlib import Path
from popgd import watchdog
watchdog.QUIET, watchdog.GRACE, watchdog.SAVING, watchdog.TICK = 0.4, 1.0, 0.5, 0.05
watch = watchdog.Watchdog()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, watch.told)
watch.listen({{signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM}})
held = contextlib.ExitStack()
if sys.argv[1] != "outside":
    held.enter_context(watch.later(Path("run")))
    watch.saves(dict(saves=lambda: print("SAVED"), fails=lambda: 1 / 0, hangs=threading.Event().wait)[sys.argv[1]])
watch.report("raw descent", 3, 20)
print("READY", flush=True)
lock = ctypes.create_string_buffer(256)
for _ in range(2):
    ctypes.CDLL(None).pthread_mutex_lock(lock)
"""
SAVED, STAYS = "what was done is saved, continue with resume=run", "the last checkpoint stays, continue with resume=run"


def hanging(how, script=HANGS, **own):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", script, how], env={**os.environ, **own}, **pipes)
    assert process.stdout.readline() == "READY\n"
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="no pthreads to hang in")
@pytest.mark.parametrize(
    ("how", "numbers", "line"),
    [
        ("saves", [signal.SIGINT], f"interrupted; {SAVED}"),
        ("saves", [signal.SIGTERM, signal.SIGTERM], f"terminated; {SAVED}"),  # as `timeout` does
        ("fails", [signal.SIGTERM], f"terminated; {STAYS}"),
        ("hangs", [signal.SIGINT], f"interrupted; {STAYS}"),
        ("outside", [signal.SIGTERM], "terminated; no run was under way"),
        ("saves", [signal.SIGINT, 0.4, signal.SIGINT], "interrupted; at once, the same command goes on from the last checkpoint"),
    ],
)
def test_a_process_that_hangs_ends_with_its_line(how, numbers, line):
    process, start = hanging(how), time.monotonic()
    for number in numbers:
        time.sleep(number) if isinstance(number, float) else process.send_signal(number)
    out, error = process.communicate(timeout=20)
    assert process.returncode == 128 + numbers[0]
    assert [text for text in error.splitlines() if "no progress" not in text] == [f"popgd: {line}"]
    assert out == ("SAVED\n" if SAVED in line else "") or how != "saves"
    assert time.monotonic() - start < 5  # 1.5 where it may save, 1 where it need not


def test_the_longest_end_is_within_ten_seconds():
    assert 2 * watchdog.TICK + watchdog.GRACE + watchdog.SAVING + watchdog.SAYING < run.guard.PATIENCE < 10


@pytest.mark.skipif(sys.platform == "win32", reason="no pthreads to hang in")
def test_a_process_that_hangs_says_so_less_and_less_often():
    process = hanging("saves")
    time.sleep(2.4)  # 0.4, 0.8, 1.6, and not yet 3.2
    process.kill()
    lines = process.communicate()[1].splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("popgd: no progress for ") and "raw descent, 3 of 20 steps done" in line
        assert time.strftime("since %Y-%m-%d") in line and "Ctrl-C ends it, and what was done is saved" in line


#: A run whose fourth step computes for hours on the device.
STUCK = """
import runpy, sys
import jax, jax.numpy as jnp
from popgd import descent, watchdog
watchdog.QUIET, steps, plain = 2.0, [], descent._advance
def advance(*arguments):
    steps.append(0)
    if len(steps) == 4:
        print("READY", flush=True)
        jax.jit(lambda x: jax.lax.fori_loop(0, 10**13, lambda _, x: 1.5 - x, x))(jnp.zeros(3)).block_until_ready()
    return plain(*arguments)
descent._advance = advance
sys.argv = ["popgd.run", *sys.argv[1].split()]
runpy.run_module("popgd.run", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_in_a_computation_without_end(tmp_path, monkeypatch, number, code):
    monkeypatch.chdir(tmp_path)
    words = [*fresh.LIGHT, "target=unnormalised", "sampled_steps=20"]
    process = hanging(" ".join([*words, "out=run"]), STUCK, TF_CPP_MIN_LOG_LEVEL="3")
    time.sleep(4)
    start = time.monotonic()
    process.send_signal(number)
    error = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == code and time.monotonic() - start < 10
    assert error[-1] == f"popgd: {'interrupted' if number == signal.SIGINT else 'terminated'}; {SAVED}"
    assert "no progress for" in error[-2] and "of 20 steps done (in popgd.descent.descend)" in error[-2]
    assert {store.SETTINGS, store.CHECKPOINT} <= {file.name for file in (tmp_path / "run").iterdir()}
    own = {**os.environ, "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir, "TF_CPP_MIN_LOG_LEVEL": "3"}
    for command in (["resume=run"], [*words, "out=whole"]):
        subprocess.run([sys.executable, "-m", "popgd.run", *command], env=own, timeout=300, capture_output=True)
    resumed, whole = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("run", "whole"))
    assert store.REPORT in whole and resumed == whole


# --- signs of life, of processes that share a dictionary


class Shared(dict):
    def key_value_set(self, key, value, allow_overwrite):
        self[key] = value

    def key_value_dir_get(self, key):
        return [(name, value) for name, value in self.items() if name.startswith(key)]


def lives(seconds, *moments, timeout=60.0):
    """The hearts of three processes after so many seconds; moments: (from, to, which of them is stopped). What each said."""
    shared, said = Shared(), {k: [] for k in range(3)}
    hearts = {k: heartbeat.Heart(heartbeat.Board(shared, k, 3), timeout) for k in range(3)}
    for now in range(1, seconds + 1):
        stopped = {k for begin, end, k in moments if begin < now <= end}
        for work in ("exchange", "judge"):
            for k in sorted(hearts.keys() - stopped):
                if 0 in stopped and work == "exchange":
                    continue  # the service does not answer
                if work == "exchange":
                    hearts[k].exchange(now)
                else:
                    said[k] += [(now, line) for line in hearts[k].judge(1.0)]
    return hearts, said


HOST = heartbeat.socket.gethostname()


def test_nobody_is_missed_who_gives_signs_of_life():
    hearts, said = lives(1000)
    assert said == {0: [], 1: [], 2: []} and not any(heart.overdue() for heart in hearts.values())


def test_a_stopped_process_is_named_by_all_and_lost_in_time():
    early = f"process 2 on {HOST} has not answered for 20 s; if it does not within 60 s, the run ends"
    hearts, said = lives(70, (10, 1000, 2))
    assert said[0] == [(31, early)] and said[1] == [(32, early)]
    assert not any(heart.overdue() for heart in hearts.values())
    hearts, _ = lives(72, (10, 1000, 2))
    assert hearts[1].lost() == f"process 2 on {HOST} has not answered for 60 s" and hearts[0].overdue()
    assert hearts[0].lost() == ""  # without it, process 1 could not have read that
    hearts, _ = lives(73, (10, 1000, 2))
    assert hearts[0].lost() == f"process 2 on {HOST} has not answered for 62 s"


def test_without_process_0_the_others_notice_it_by_themselves():
    hearts, said = lives(71, (10, 1000, 0))
    for k in (1, 2):
        assert said[k] == [(30, f"process 0 on {HOST} has not answered for 20 s; if it does not within 60 s, the run ends")]
        assert hearts[k].lost() == f"process 0 on {HOST} has not answered for 61 s"


def test_a_process_that_wakes_up_is_there_again_and_blames_nobody():
    for k in range(3):
        hearts, said = lives(100, (10, 50, k))
        assert not any(heart.overdue() for heart in hearts.values())
        assert said[k] == []
        for other in {0, 1, 2} - {k}:
            assert [line for _, line in said[other]][1:] == [f"process {k} on {HOST} answers again"]


def test_a_short_timeout_has_many_signs_of_life():
    heart = heartbeat.Heart(heartbeat.Board(Shared(), 0, 2), 3.0)
    assert heart._beat == pytest.approx(0.3) and heart._early == 1.0
