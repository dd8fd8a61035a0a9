"""Kill runs at random moments, go on with them, and compare what they end with, byte by byte:
`python experiments/validation/kills.py`.

Every step writes a checkpoint. SIGKILL comes at a random time, or at a random step, or while a file
is being written: half of it on disk, all of it but under a temporary name, or just renamed. Each
process goes on with the run that the one before left. Writes figures/kills.json.
"""

import json
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import fresh

from popgd.runs import store

FIGURES = Path(__file__).resolve().parents[2] / "figures"
KILLS = 50
#: A checkpoint at every step, so that any moment may meet one being written.
ARGUMENTS = [*fresh.LIGHT, "sampled_steps=200"]
WHILE_WRITING = {
    "fsync": "half of a file written",
    "rename": "a file not yet renamed",
    "renamed": "a file just renamed",
}


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def kill(processes: fresh.Fresh, where: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill `kills` processes, each of which goes on with a run; a finished run is compared, and the
    next one begun.
    """
    draw, moments, finished, repeated = random.Random(seed), Counter(), 0, 0
    unbroken = processes.run(*ARGUMENTS, "out=unbroken", cwd=where)
    wanted = contents(where / "unbroken")
    steps = 0
    while moments.total() < kills or steps:
        place = draw.choice((*WHILE_WRITING, "step", "time"))
        fault = {"place": place, "count": draw.randint(1, 20), "signals": (signal.SIGKILL,)}
        how = {"kill_after": draw.uniform(0, 5)} if place == "time" else {"fault": fault}
        ended = processes.run(
            *ARGUMENTS, f"out=run{finished}", cwd=where, **(how if moments.total() < kills else {})
        )
        steps += ended.steps
        if ended.code == -9:
            moments[WHILE_WRITING.get(place, f"a random {place}")] += 1
            continue
        assert ended.code == unbroken.code, ended.error
        assert contents(where / f"run{finished}") == wanted, (
            f"run{finished} in {where} is not the unbroken run"
        )
        repeated += steps - unbroken.steps
        finished, steps = finished + 1, 0
    return {
        "kills": moments.total(),
        "at": dict(moments),
        "runs finished": finished,
        "identical": finished,
        "steps of a run": unbroken.steps,
        "steps done again": repeated,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        processes = fresh.Fresh(str(Path(scratch) / "cache"))
        try:
            found = kill(processes, Path(scratch), KILLS)
        finally:
            processes.close()
    store.write(FIGURES / "kills.json", json.dumps(found, indent=1).encode())
    print(found)


if __name__ == "__main__":
    main()
