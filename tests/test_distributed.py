"""Devices and processes: the same bits for any number of them, on one host or several, and a clear
end if one is gone.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alone import WITHOUT_JAX

from popgd.descent import gradient
from popgd.descent.heartbeat import Peers
from popgd.papers.power_method.data import Rotated, UniformSphere
from popgd.papers.power_method.model import Active, embed, looped
from popgd.papers.power_method.objectives import SubspaceDistance
from popgd.problem.errors import SettingError
from popgd.runs import command as run
from popgd.runs import guard, store
from popgd.theorem.settings import peers

#: Enough for more than the FEWEST shards, for more than one round of them on four devices, and a
#: last one that is not full.
SAMPLES, FEW = 20_001, 1001
ROUNDING = 1e-12  # relative to the largest entry, between one device and several; worst seen 2e-15
#: Prints the bits of an estimate on the first `devices` devices of all processes; arguments:
#: samples, devices of this process, number of processes, this one, address, then the numbers of
#: devices.
ESTIMATE = """
import sys
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
from popgd.descent import processes
from popgd.descent.heartbeat import Peers
if int(sys.argv[3]) > 1:
    processes.start(Peers(int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
import jax.numpy as jnp
import numpy as np
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.objectives import SubspaceDistance
from popgd.papers.power_method.model import embed
from popgd.descent import gradient
from popgd.papers.power_method.model import Active
weights, law = embed(jnp.asarray(2.0), jnp.asarray(0.25), 2), Rotated.with_spectrum([3, 1])
for count in map(int, sys.argv[6:]):
    gradient._mesh = lambda: jax.sharding.Mesh(np.array(jax.devices()[:count]), (gradient.AXIS,))
    jax.clear_caches()
    found = gradient.population_gradient(SubspaceDistance(1), weights, law,
        jax.random.key(0), int(sys.argv[1]), Active(2))
    print("BITS", *(x.hex() for leaf in jax.tree.leaves(found[:2])
        for x in np.asarray(leaf).ravel().tolist()))
processes.part()
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def started(command, where=None, devices=None, **own):
    own |= {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    own |= {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"} if devices else {}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, *command], cwd=where, env={**os.environ, **own}, **pipes
    )


def estimates(devices, *counts, samples=SAMPLES, processes=1, **own):
    """The bits on each number of devices, as each process prints them; a tuple has the devices of
    each process.
    """
    place = f"127.0.0.1:{free_port()}"
    own_devices = devices if isinstance(devices, tuple) else (devices,) * processes
    numbers = [str(x) for x in counts]
    return bits(
        *(
            started(
                [
                    "-c",
                    ESTIMATE,
                    str(samples),
                    str(own_devices[k]),
                    str(processes),
                    str(k),
                    place,
                    *numbers,
                ],
                **own,
            )
            for k in range(processes)
        )
    )


def bits(*processes):
    said = [process.communicate(timeout=300) for process in processes]
    assert not any(process.returncode for process in processes), said
    return [re.findall("^BITS (.*)$", out, re.MULTILINE) for out, _ in said]


def agrees(line, other):
    values, others = (np.array([float.fromhex(x) for x in text.split()]) for text in (line, other))
    return np.abs(values - others).max() < ROUNDING * np.abs(others).max()


def test_the_number_of_devices_does_not_matter():
    """A gradient summed over devices once too often is a factor of their number, and invisible on
    the one here.
    """
    ((two, four),) = estimates(4, 2, 4, samples=FEW, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    assert two == four
    weights, law = embed(jnp.asarray(2.0), jnp.asarray(0.25), 2), Rotated.with_spectrum([3, 1])
    found = gradient.population_gradient(
        SubspaceDistance(1), weights, law, jax.random.key(0), FEW, Active(2)
    )
    one = " ".join(
        x.hex() for leaf in jax.tree.leaves(found[:2]) for x in np.asarray(leaf).ravel().tolist()
    )
    assert agrees(two, one)


@pytest.mark.slow
def test_any_number_of_devices_and_processes_gives_the_same_bits():
    """Three devices are no divisor of the number of shards, and none of them is idle."""
    ((two, three, four, one),) = estimates(4, 2, 3, 4, 1)
    assert two == three == four and agrees(one, two)
    for devices in ((1, 1), (1, 2)):
        assert estimates(devices, sum(devices), processes=2) == [[two], [two]]


def products(lowered):
    return [line for line in lowered.as_text().splitlines() if "dot_general" in line]


def test_products_have_all_digits_of_their_format():
    """A device that multiplies float32 with the digits of a shorter format by default is told not
    to, in the model too.
    """
    weights, law = embed(jnp.float32(2.0), jnp.float32(0.25), 2), UniformSphere(2, 4)
    statistic = gradient.GradientOf(SubspaceDistance(2), Active(2))
    X, q, _ = law.sample(jax.random.key(0), jnp.dtype("float32"))[:3]
    sampled = products(
        gradient._estimate.lower(statistic, weights, law, jax.random.key(0), 64, None)
    )
    forward = products(jax.jit(partial(looped, L=1)).lower(weights, X, q))
    assert len(sampled) > 10 and len(forward) == 4
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in sampled + forward)


# --- the words


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("theorem=4.1", None),
        ("processes=auto theorem=4.1", Peers(None, None, None)),
        ("processes=2 theorem=4.1 process=1 coordinator=node1:5555", Peers(2, 1, "node1:5555")),
        ("theorem=4.1 processes=1 process=0 coordinator=node1:5555", None),
        ("processes=auto theorem=4.1 peer_timeout=90", Peers(None, None, None, 90.0)),
        (
            "peer_timeout=2.5 processes=2 theorem=4.1 process=1 coordinator=node1:5555",
            Peers(2, 1, "node1:5555", 2.5),
        ),
    ],
)
def test_the_words_name_the_processes(words, wanted):
    assert peers(words.split()) == (wanted, ["theorem=4.1"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("processes=2", "process is missing"),
        ("process=1", "processes is missing"),
        ("processes=2 process=1", "coordinator is missing"),
        ("processes=auto process=1", "leave out process and coordinator"),
        ("processes=0 process=0 coordinator=a:1", "processes=0: an integer of at least 1"),
        ("processes=2 process=2 coordinator=a:1", "process=2: 0 to 1 was wanted"),
        ("processes=2 process=0 coordinator=here", "coordinator=here: HOST:PORT was wanted"),
        ("processes=2 process=0 coordinator=here:99999", "HOST:PORT was wanted"),
        ("peer_timeout=9", "processes is missing"),
        ("processes=auto peer_timeout=0", "peer_timeout=0: a positive number was wanted"),
        ("processes=auto peer_timeout=-3", "peer_timeout=-3: a positive number was wanted"),
        (
            "processes=2 process=0 coordinator=a:1 peer_timeout=soon",
            "peer_timeout=soon: a number was wanted",
        ),
        ("processes=2 process=0 coordinator=a:1 peer_timeout=inf", "a finite number was wanted"),
    ],
)
def test_bad_words_about_processes_are_one_line(words, line):
    with pytest.raises(SettingError) as caught:
        peers(words.split())
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("recheck=run processes=auto", "one process"),
        ("-m theorem=4.1 hydra/launcher=submitit_local processes=auto", "leave out processes"),
    ],
)
def test_what_one_process_does_is_not_done_by_several(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    assert run.main(words.split()) == run.BAD_INPUT
    assert line in capsys.readouterr().err


# --- whole runs, in real processes

TINY = [
    "theorem=4.2",
    "target=unnormalised",
    "spectrum=[3,2,1]",
    "samples=512",
    "batch=16",
    "out=run",
]


def together(where, words):
    """Two processes of one device each, in directories of their own: what process 0 reads it must
    tell the other.
    """
    address = f"127.0.0.1:{free_port()}"
    for name in "01":
        (where / name).mkdir(exist_ok=True)
    return [
        started(
            ["-m", "popgd.run", *words, "processes=2", f"process={k}", f"coordinator={address}"],
            where / str(k),
            1,
        )
        for k in (0, 1)
    ]


def finished(path):
    """All that a run directory holds, the devices of its report apart."""
    held = {file.name: file.read_bytes() for file in path.iterdir()}
    report = json.loads(held.pop(store.REPORT))
    del report["environment"]["devices"]
    return held, report


@pytest.mark.slow
def test_two_processes_judge_as_one_does(tmp_path):
    words = [*TINY, "sampled_steps=20"]
    alone = started(["-m", "popgd.run", *words], tmp_path, 2)
    assert alone.wait(300) in run.EXIT.values()
    both = together(tmp_path, words)
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [alone.returncode] * 2, said
    assert finished(tmp_path / "0" / "run") == finished(tmp_path / "run")
    assert "written to run" in said[0][0] and "Theorem" not in said[1][0]
    assert list((tmp_path / "1").iterdir()) == []  # process 1 writes nothing
    again = together(tmp_path, words)
    assert [process.wait(300) for process in again] == [alone.returncode] * 2
    assert "already finished" in again[0].communicate()[0]
    other = together(tmp_path, [*words[:-2], "out=other", "sampled_steps=20"])
    assert [process.wait(300) for process in other] == [alone.returncode] * 2


@pytest.mark.slow
def test_other_words_in_another_process_are_refused(tmp_path):
    both = together(tmp_path, TINY)
    both[1].kill()
    both[1].wait()
    both[0].kill()
    address = f"127.0.0.1:{free_port()}"
    words = [*TINY, "processes=2", f"coordinator={address}"]
    ends = [
        started(["-m", "popgd.run", *words, f"process={k}", f"seed={k}"], tmp_path / str(k), 1)
        for k in (0, 1)
    ]
    assert ends[1].wait(300) == run.BAD_INPUT
    assert "process 0 has settings" in ends[1].communicate()[1]
    assert ends[0].wait(300) == run.PEER_LOST


@pytest.mark.slow
def test_a_dead_peer_ends_the_run_and_one_process_goes_on(tmp_path):
    words = [*TINY, "sampled_steps=6000"]
    both = together(tmp_path, words)
    deadline = time.monotonic() + 400
    while not (tmp_path / "0" / "run" / store.CHECKPOINT).exists():
        assert time.monotonic() < deadline and both[0].poll() is None, both[0].communicate()
        time.sleep(0.05)
    both[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    assert both[0].wait(60) == run.PEER_LOST
    assert time.monotonic() - killed < 10
    error = both[0].communicate()[1]
    assert (
        "another process of this run has ended" in error
        and "resume=run" in error
        and "Traceback" not in error
    )
    left = set(Path(tmp_path / "0" / "run").iterdir())
    assert {file.name for file in left} == {store.SETTINGS, store.CHECKPOINT}
    unbroken = started(["-m", "popgd.run", *words], tmp_path, 2)
    resumed = started(["-m", "popgd.run", "resume=run"], tmp_path / "0", 2)
    assert resumed.wait(600) == unbroken.wait(600) in run.EXIT.values(), resumed.communicate()
    assert finished(tmp_path / "0" / "run") == finished(tmp_path / "run")


@pytest.mark.slow
def test_without_its_first_process_a_run_ends_too(tmp_path):
    both = together(tmp_path, [*TINY, "sampled_steps=1000000"])
    deadline = time.monotonic() + 400
    while not (tmp_path / "0" / "run" / store.CHECKPOINT).exists():
        assert time.monotonic() < deadline and both[0].poll() is None, both[0].communicate()
        time.sleep(0.05)
    both[0].send_signal(signal.SIGKILL)
    assert both[1].wait(60) == run.PEER_LOST
    last = both[1].communicate()[1].splitlines()[-1]
    assert last.startswith("popgd: ") and ("goes on" in last or "continue with" in last)


def child_of(process):
    """The process that does the work: a frozen host stops both, a debugger that one alone."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_peer_is_named_and_ends_the_run_in_time(tmp_path, stopped):
    words = [*TINY, "sampled_steps=1500"]
    both = together(tmp_path, [*words, "peer_timeout=9"])
    deadline = time.monotonic() + 400
    while not (tmp_path / "0" / "run" / store.CHECKPOINT).exists():
        assert time.monotonic() < deadline and both[0].poll() is None, both[0].communicate()
        time.sleep(0.05)
    frozen = [both[stopped].pid] * stopped + [child_of(both[stopped])]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    assert both[1 - stopped].wait(60) == run.PEER_LOST
    assert 8 < time.monotonic() - start < 14
    early, last = both[1 - stopped].communicate()[1].splitlines()
    name = f"popgd: process {stopped} on {socket.gethostname()} has not answered for"
    assert early == f"{name} 3 s; if it does not within 9 s, the run ends"
    assert last.startswith(name) and "what was done is saved, continue with resume=run" in last
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    assert both[stopped].wait(60) == run.PEER_LOST  # it wakes up, and nobody is there
    again = together(tmp_path, words)
    alone = started(["-m", "popgd.run", *words], tmp_path, 2)
    assert again[0].wait(600) == again[1].wait(600) == alone.wait(600) in run.EXIT.values()
    assert finished(tmp_path / "0" / "run") == finished(tmp_path / "run")


#: A process whose third step takes three times the peer_timeout, in a device.
SLOW = """
import runpy, sys, time
import jax
from popgd.descent import descent
steps, plain = [], descent._advance
def advance(*arguments):
    steps.append(0)
    if len(steps) == 3:
        shape = jax.ShapeDtypeStruct((), int)
        sleep = lambda: jax.pure_callback(lambda: time.sleep(12) or 0, shape)
        jax.jit(sleep)().block_until_ready()
    return plain(*arguments)
descent._advance = advance
sys.argv = ["popgd.run", *sys.argv[1:]]
runpy.run_module("popgd.run", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_slow_peer_is_not_taken_for_dead(tmp_path):
    words = [
        *TINY,
        "sampled_steps=20",
        "processes=2",
        f"coordinator=127.0.0.1:{free_port()}",
        "peer_timeout=4",
    ]
    both = [
        started([*how, *words, f"process={k}"], tmp_path, 1)
        for k, how in enumerate((["-m", "popgd.run"], ["-c", SLOW]))
    ]
    start = time.monotonic()
    said = [process.communicate(timeout=300) for process in both]
    assert all(process.returncode in run.EXIT.values() for process in both), said
    assert time.monotonic() - start > 12 and not any("answer" in error for _, error in said)


GUARDED = f"""
{WITHOUT_JAX}
import os, signal, time
from popgd.runs import guard
guard.PATIENCE = 1.5
heard = []
end = guard.in_child(lambda number, frame: heard.append(number))
if end:
    print("END", *end, flush=True)
else:
    print("READY", flush=True)
    while not heard:
        time.sleep(0.01)
    time.sleep(0.5)
    print("HEARD", *heard, flush=True)
    os.abort()
"""


def guarded(tmp_path):
    """A command that does its work in a child, which is there."""
    (tmp_path / "guarded.py").write_text(GUARDED)
    command = [sys.executable, str(tmp_path / "guarded.py")]
    parent = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout.readline() == "READY\n"
    return parent


def test_a_guarded_process_hears_a_signal_once_and_its_abort_is_told(tmp_path):
    """The signal goes to parent and child both, as launchers and terminals send it."""
    parent = guarded(tmp_path)
    os.killpg(parent.pid, signal.SIGTERM)
    said = parent.communicate(timeout=60)[0].split()
    assert said == [
        "HEARD",
        str(int(signal.SIGTERM)),
        "END",
        str(-signal.SIGABRT),
        str(int(signal.SIGTERM)),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_a_stopped_child_does_not_keep_its_guard(tmp_path):
    parent = guarded(tmp_path)
    os.kill(child_of(parent), signal.SIGSTOP)
    parent.terminate()
    assert parent.communicate(timeout=30)[0].split() == [
        "END",
        str(-signal.SIGKILL),
        str(int(signal.SIGTERM)),
    ]


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process of its parent's end"
)
def test_a_killed_guard_takes_its_child_along(tmp_path):
    parent = guarded(tmp_path)
    parent.kill()
    assert (
        parent.communicate(timeout=30)[0] == ""
    )  # comes when the child, which waits for a signal, has closed its end too


@pytest.mark.parametrize(
    ("end", "code", "line"),
    [
        (guard.End(3, 0), 3, ""),
        (guard.End(-signal.SIGABRT, 0), run.PEER_LOST, "process 0 is gone"),
        (guard.End(-signal.SIGABRT, signal.SIGTERM), 143, "terminated"),
        (guard.End(-signal.SIGKILL, 0), 137, "killed by signal 9"),
    ],
)
def test_the_end_of_a_guarded_process_is_one_line(monkeypatch, capsys, end, code, line):
    monkeypatch.setattr(run, "_WATCH", run.Watchdog())
    monkeypatch.setattr("popgd.descent.processes.leave", lambda code: code)
    assert run._ended(end) == code
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == bool(line)
