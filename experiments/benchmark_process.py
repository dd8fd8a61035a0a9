"""What needs a process of its own: the cold start of the command line, and memory."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from popgd.runs import cache

#: Runs theorem=4.1 and prints where its time went. Pieces of compilation nest, so their union
#: counts.
COLD = """
import time
began = time.perf_counter()
import json, os, sys
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import jax
import matplotlib.figure, hydra
import popgd.run, popgd.theorem.report, popgd.runs.screen, popgd.runs.store
imported = time.perf_counter()
spans, functions = [], {}

def listen(event, seconds, fun_name="", **_):
    if event.startswith("/jax/core/compile/"):
        spans.append((time.perf_counter() - seconds, time.perf_counter()))
        if "backend" in event:
            count, total = functions.get(fun_name, (0, 0.0))
            functions[fun_name] = (count + 1, total + seconds)

jax.monitoring.register_event_duration_secs_listener(listen)
code = popgd.run.main(["theorem=4.1"])
ended, building, reached = time.perf_counter(), 0.0, 0.0
for start, end in sorted(spans):
    building += max(0.0, end - max(start, reached))
    reached = max(reached, end)
backend = sum(total for _, total in functions.values())
top = dict(sorted(functions.items(), key=lambda item: -item[1][1])[:12])
print(json.dumps({"code": code, "import": imported - began, "trace": building - backend,
                  "compile": backend, "run": ended - imported - building,
                  "programs": sum(n for n, _ in functions.values()), "functions": top}))
"""

#: A loop of the interpreter, as a measure of the machine: a start takes about as many of them on
#: another, or one that is busy.
ROUNDS = 10**7
LOOP = f"""
total = 0
for i in range({ROUNDS}):
    total += i * i
"""

#: Peak memory of a process after the gradient of ever larger batches.
MEMORY = """
import json, resource, sys, time
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import jax.numpy as jnp
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.objectives import SubspaceDistance
from popgd.papers.power_method.model import embed
from popgd import population_gradient
from popgd.papers.power_method.model import Active
law = Rotated.with_spectrum([8, 5, 4, 2, 1])
weights = embed(jnp.asarray(2.0, "float32"), jnp.asarray(0.25, "float32"), 5)
for power in range(12, 23, 2):
    began = time.perf_counter()
    jax.block_until_ready(population_gradient(SubspaceDistance(3), weights, law, jax.random.key(0),
        2**power, Active(5)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"batch": 2**power, "bytes": peak,
        "seconds": time.perf_counter() - began}), flush=True)
"""


def python(code: str, *arguments: str, **environment: str) -> tuple[float, float, list[Any]]:
    """Seconds of a new process in an empty directory, from start to end and of processors, and the
    JSON lines it printed.
    """
    root = str(Path(__file__).resolve().parent.parent)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    with tempfile.TemporaryDirectory() as where:
        began, used = time.perf_counter(), processors()
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=where,
            capture_output=True,
            text=True,
            env={**clean, "PYTHONPATH": root, **environment},
        )
        seconds, used = time.perf_counter() - began, processors() - used
    assert done.returncode == 0, done.stderr
    return (
        seconds,
        used,
        [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")],
    )


def processors() -> float:
    """Seconds of processors that the children of this process have taken."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def cold_start() -> dict[str, dict[str, Any]]:
    """theorem=4.1 in a new process, without and with what a run before has compiled."""
    found = {}
    with tempfile.TemporaryDirectory() as kept:
        for name, word in (("cold", cache.OFF), ("filling the cache", kept), ("cached", kept)):
            loop = min(python(LOOP)[1] for _ in range(3))
            seconds, used, [parts] = python(COLD, **{cache.WORD: word})
            found[name] = {"seconds": seconds, "processors": used, "loops": used / loop, **parts}
            told = ", ".join(
                f"{part} {parts[part]:.1f} s" for part in ("import", "trace", "compile", "run")
            )
            print(
                f"theorem=4.1 {name}: {seconds:.1f} s, {used:.1f} s of processors, "
                f"{used / loop:.1f} loops ({told}; "
                f"{parts['programs']} programs)",
                flush=True,
            )
    return found


def memory() -> list[dict[str, Any]]:
    *_, rows = python(MEMORY, str(os.cpu_count()))
    for row in rows:
        print(
            f"batch {row['batch']}: peak {row['bytes'] / 1e6:.0f} MB, {row['seconds']:.1f} s",
            flush=True,
        )
    return rows
