"""Fresh processes for the command line, forked from one that has imported everything: `Fresh.run`.

This file is also that process: it takes requests, one a line, and answers with exit code (less the
signal's number if one ended the child), output and the number of Monte Carlo steps. A fault happens
at its `count`-th `place`: "fsync" (of a file cut in half, as a crash leaves it), "rename",
"renamed", or "step"; it sends the child signals, or raises an OSError.
"""

import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

#: A run of seconds. "light" children leave out everything but one exact and three sampled descents,
#: one picture and files.
LIGHT = ["theorem=4.2", "spectrum=[3,2,1]", "samples=64", "batch=8", "optimiser=adam",
         "dtype=float32", "assume=ignore"]  # fmt: skip


class Ended(NamedTuple):
    code: int
    out: str
    error: str
    steps: int


class Fresh:
    def __init__(self, cache: str) -> None:
        own = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        command = [sys.executable, "-W", "ignore", __file__]
        self._server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **own},
        )

    def run(self, *arguments: str, cwd: Path, **how: Any) -> Ended:
        """how: light (default true), interval (seconds between checkpoints), fault, kill_after
        (seconds).
        """
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(
            json.dumps({"arguments": arguments, "cwd": str(cwd), **how}) + "\n"
        )
        self._server.stdin.flush()
        return Ended(*json.loads(self._server.stdout.readline()))

    def close(self) -> None:
        self._server.communicate()


def serve() -> None:
    import hydra  # noqa: F401
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryDirectory() as scratch:
            names = [os.path.join(scratch, name) for name in ("out", "error", "steps")]
            if (pid := os.fork()) == 0:
                _child(request, *names)
            if "kill_after" in request:
                time.sleep(request["kill_after"])
                os.kill(pid, 9)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            out, error, steps = (
                Path(name).read_text() if os.path.exists(name) else "" for name in names
            )
        print(json.dumps([code, out, error, len(steps)]), flush=True)


def _child(request: dict[str, Any], out: str, error: str, steps: str) -> None:
    import runpy

    for number, name in ((1, out), (2, error)):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY), number)
    os.chdir(request["cwd"])
    _prepare(request, os.open(steps, os.O_CREAT | os.O_WRONLY))
    sys.argv = ["popgd.run", *request["arguments"]]
    code: Any = 0
    try:
        runpy.run_module("popgd.run", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _prepare(request: dict[str, Any], steps: int) -> None:
    import dataclasses

    from popgd.descent import descent
    from popgd.papers.power_method.training import pictures
    from popgd.runs import checkpoint
    from popgd.theorem.registry import theorems

    checkpoint.INTERVAL = request.get("interval", 0.0)
    if request.get("light", True):
        old = theorems()["4.2"]
        theorems()["4.2"] = dataclasses.replace(old, claims=(), targets=("unnormalised",))
        pictures.figures = lambda study, title: {"growth": pictures.growth(study, title)}
    fault = request.get("fault", {})
    left = {fault.get("place"): fault.get("count", 1)}

    def reached(place: str, file: int | None = None) -> None:
        left[place] = left.get(place, 0) - 1
        if left[place] == 0:
            if file is not None:
                os.ftruncate(file, os.fstat(file).st_size // 2)
            if "errno" in fault:
                raise OSError(fault["errno"], os.strerror(fault["errno"]))
            for number in fault["signals"]:
                os.kill(os.getpid(), number)

    def advance(*arguments: Any, plain: Any = descent._advance) -> Any:
        os.write(steps, b".")
        reached("step")
        return plain(*arguments)

    def fsync(file: int, plain: Any = os.fsync) -> None:
        if stat.S_ISREG(os.fstat(file).st_mode):
            reached("fsync", file)
        plain(file)

    def replace(old: Any, new: Any, plain: Any = os.replace) -> None:
        reached("rename")
        plain(old, new)
        reached("renamed")

    descent._advance, os.fsync, os.replace = advance, fsync, replace


if __name__ == "__main__":
    serve()
