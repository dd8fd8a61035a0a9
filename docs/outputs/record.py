"""Runs the commands of the tutorial and keeps what they print, in this folder.

python docs/outputs/record.py [NAME ...]
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
#: What is printed, and the exit code, by the file that keeps it; in this order, as one goes on with
#: another's run.
COMMANDS = {
    "theorem": ("theorem=4.1", 0),
    "help": ("theorem=4.1 --help", 0),
    "exponent": ("theorem=4.1 claim.exponent=1/3", 1),
    "few": ("theorem=4.1 samples=1024", 3),
    "enough": ("theorem=4.1 samples=7400", 0),
    "wrong": ("theorem=4.1 eta=-1", 2),
    "slope": ("theorem=slope.py", 1),
    "flow": ("theorem=slope_flow.py", 0),
    "two": ("theorem=slope_flow.py slope=2", 0),
    "again": ("theorem=slope_flow.py slope=2", 0),
    "recheck": ("recheck=RUN", 0),
    "sphere": ("theorem=sphere.py", 0),
    "explore": ("theorem=slope_flow.py explore=true", 0),
}

#: The width of what popgd prints where it is no terminal that it prints to.
WIDTH = 150
BOX = "┏┃┡│└ "


def joined(lines: list[str]) -> list[str]:
    """The same with sentences on one line."""
    whole: list[str] = []
    full, length = False, 0
    for line in lines:
        word = line.split(" ")[0]
        if full and word and line[0] not in BOX and length + 1 + len(word) > WIDTH:
            whole[-1] += " " + line
        else:
            whole.append(line)
        full, length = bool(line) and line[0] not in BOX, len(line)
    return whole


def main() -> None:
    wanted, run = sys.argv[1:] or list(COMMANDS), ""
    with tempfile.TemporaryDirectory() as place:
        for file in (HERE.parent / "examples").glob("*.py"):
            shutil.copy(file, place)
        for name in wanted:
            command, code = COMMANDS[name]
            words = command.replace("RUN", run).split()
            done = subprocess.run(
                [sys.executable, "-m", "popgd.run", *words],
                cwd=place,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode != code:
                sys.exit(
                    f"{name}: exit code {done.returncode}, not {code}; nothing is kept. On a busy "
                    f"machine there may be too little time to sample.\n{done.stdout}"
                )
            printed = done.stdout.replace(place + os.sep, "").splitlines()
            lines = [line.rstrip() for line in printed]
            for line in lines:
                run = line.removeprefix("written to ") if line.startswith("written to ") else run
            shown = " ".join(words)
            text = "\n".join(
                [f"python -m popgd.run {shown}", *joined(lines), f"exit code {done.returncode}"]
            )
            (HERE / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
            print(f"{name}: exit code {done.returncode}", flush=True)
            for picture in Path(place).glob("runs/*/growth.png") if name == "theorem" else ():
                shutil.copy(picture, HERE.parent / "assets" / "growth.png")


if __name__ == "__main__":
    main()
