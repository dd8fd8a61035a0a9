"""Runs whose main thread waits inside C code, where Python handles no signal: they say so, and end
when they are told to; and processes that miss each other's signs of life.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import fresh
import pytest
from alone import WITHOUT_JAX
from kills import contents

from popgd.descent import heartbeat
from popgd.runs import guard, store, watchdog

#: A process whose main thread waits for a lock that it holds itself, in C and for ever. Argument:
#: what saving does.
HANGS = f"""
{WITHOUT_JAX}
import contextlib, ctypes, signal, threading
from pathlib import Path
from popgd.runs import watchdog
watchdog.QUIET, watchdog.GRACE, watchdog.SAVING, watchdog.TICK = 0.4, 1.0, 0.5, 0.05
watch = watchdog.Watchdog()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, watch.told)
watch.listen({{signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM}})
held = contextlib.ExitStack()
if sys.argv[1] != "outside":
    held.enter_context(watch.later(Path("run")))
    saves, hangs = lambda: print("SAVED", flush=True), threading.Event().wait
    watch.saves(dict(saves=saves, fails=lambda: 1 / 0, hangs=hangs)[sys.argv[1]])
watch.report("raw descent", 3, 20)
print("READY", flush=True)
lock = ctypes.create_string_buffer(256)
for _ in range(2):
    ctypes.CDLL(None).pthread_mutex_lock(lock)
"""
SAVED = "what was done is saved, continue with resume=run"
STAYS = "the last checkpoint stays, continue with resume=run"
AT_ONCE = "interrupted; at once, the same command goes on from the last checkpoint"


def hanging(how, script=HANGS, **own):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", script, how]
    process = subprocess.Popen(command, env={**os.environ, **own}, **pipes)
    # Beside what is printed of the claims before
    assert "READY\n" in iter(process.stdout.readline, "")
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
        ("saves", [signal.SIGINT, 0.4, signal.SIGINT], AT_ONCE),
    ],
)
def test_a_process_that_hangs_ends_with_its_line(how, numbers, line):
    process, start = hanging(how), time.monotonic()
    for number in numbers:
        time.sleep(number) if isinstance(number, float) else process.send_signal(number)
    out, error = process.communicate(timeout=20)
    assert process.returncode == 128 + numbers[0]
    assert [text for text in error.splitlines() if "no progress" not in text] == [f"popgd: {line}"]
    assert out == ("SAVED\n" if SAVED in line else "")
    assert time.monotonic() - start < 5  # 1.5 where it may save, 1 where it need not


def test_the_longest_end_is_within_ten_seconds():
    longest = 2 * watchdog.TICK + watchdog.GRACE + watchdog.SAVING + watchdog.SAYING
    assert longest < guard.PATIENCE < 9  # and a second for what is slow


@pytest.mark.skipif(sys.platform == "win32", reason="no pthreads to hang in")
def test_a_process_that_hangs_says_so_less_and_less_often():
    process = hanging("saves")
    time.sleep(2.4)  # 0.4, 0.8, 1.6, and not yet 3.2
    process.kill()
    lines = process.communicate()[1].splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("popgd: no progress for ")
        assert "raw descent, 3 of 20 steps done" in line and time.strftime("since %Y-%m-%d") in line
        assert line.endswith("; Ctrl-C ends it, and what was done is saved")


#: A run whose fourth step computes for hours on the device.
STUCK = """
import runpy, sys
import jax, jax.numpy as jnp
from popgd.descent import descent
from popgd.runs import watchdog
watchdog.QUIET, steps, plain = 2.0, [], descent._advance
def advance(*arguments):
    steps.append(0)
    if len(steps) == 4:
        print("READY", flush=True)
        endless = lambda x: jax.lax.fori_loop(0, 10**13, lambda _, x: 1.5 - x, x)
        jax.jit(endless)(jnp.zeros(3)).block_until_ready()
    return plain(*arguments)
descent._advance = advance
sys.argv = ["popgd.run", *sys.argv[1].split()]
runpy.run_module("popgd.run", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "word"), [(2, "interrupted"), (15, "terminated")])
def test_a_run_in_a_computation_without_end(tmp_path, monkeypatch, number, word):
    monkeypatch.chdir(tmp_path)
    words = [*fresh.LIGHT, "target=unnormalised", "sampled_steps=20"]
    process = hanging(" ".join([*words, "out=run"]), STUCK, TF_CPP_MIN_LOG_LEVEL="3")
    time.sleep(4)
    start = time.monotonic()
    process.send_signal(number)
    error = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 128 + number and time.monotonic() - start < 10
    assert error[-1] == f"popgd: {word}; {SAVED}"
    assert "no progress for" in error[-2]
    assert re.search(
        r"\d of \d+ steps done \(in popgd\.descent\.descent\.step_to\)", error[-2]
    )  # whichever descent was under way
    assert {store.SETTINGS, store.CHECKPOINT} <= contents(tmp_path / "run").keys()
    for arguments in (["resume=run"], [*words, "out=whole"]):
        command = [sys.executable, "-m", "popgd.run", *arguments]
        subprocess.run(command, timeout=300, capture_output=True, check=False)
    whole = contents(tmp_path / "whole")
    assert store.REPORT in whole and contents(tmp_path / "run") == whole


# --- signs of life, of processes that share a dictionary


class Shared(dict):
    def key_value_set(self, key, value, allow_overwrite):
        self[key] = value

    def key_value_dir_get(self, key):
        return [(name, value) for name, value in self.items() if name.startswith(key)]


def lives(seconds, *moments, timeout=60.0):
    """The hearts of three processes after so many seconds, and what each has said, and when.

    moments: (from, to, which of them is stopped).
    """
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


HOST = socket.gethostname()
SILENT = f"process {{}} on {HOST} has not answered for"
EARLY = SILENT + " 20 s; if it does not within 60 s, the run ends"


def test_nobody_is_missed_who_gives_signs_of_life():
    hearts, said = lives(1000)
    assert said == {0: [], 1: [], 2: []} and not any(heart.overdue() for heart in hearts.values())


def test_a_stopped_process_is_named_by_all_and_lost_in_time():
    early = EARLY.format(2)
    hearts, said = lives(70, (10, 1000, 2))
    assert said[0] == [(31, early)] and said[1] == [(32, early)]
    assert not any(heart.overdue() for heart in hearts.values())
    hearts, _ = lives(72, (10, 1000, 2))
    assert hearts[1].lost() == f"process 2 on {HOST} has not answered for 60 s"
    assert hearts[0].overdue()
    assert hearts[0].lost() == ""  # without it, process 1 could not have read that
    hearts, _ = lives(73, (10, 1000, 2))
    assert hearts[0].lost() == f"process 2 on {HOST} has not answered for 62 s"


def test_without_process_0_the_others_notice_it_by_themselves():
    hearts, said = lives(71, (10, 1000, 0))
    for k in (1, 2):
        assert said[k] == [(30, EARLY.format(0))]
        assert hearts[k].lost() == f"process 0 on {HOST} has not answered for 61 s"


def test_a_process_that_wakes_up_is_there_again_and_blames_nobody():
    for k in range(3):
        hearts, said = lives(100, (10, 50, k))
        assert not any(heart.overdue() for heart in hearts.values())
        assert said[k] == []
        for other in {0, 1, 2} - {k}:
            assert [line for _, line in said[other]][1:] == [f"process {k} on {HOST} answers again"]


def test_one_process_alone_misses_nobody():
    """As `processes=auto` finds where a launcher has started one."""
    heart = heartbeat.Heart(heartbeat.Board(Shared(), 0, 1), 60.0)
    heart.exchange(1)
    assert list(heart.judge(100.0)) == [] and heart.lost() == ""


def test_a_short_timeout_has_many_signs_of_life():
    heart = heartbeat.Heart(heartbeat.Board(Shared(), 0, 2), 3.0)
    assert heart._beat == pytest.approx(0.3, rel=1e-6, abs=0) and heart._early == 1.0
