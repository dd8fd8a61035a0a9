"""Drawing the figures of the paper from the command line: what `figures.py` and every `figure_N.py`
do.
"""

import argparse
import dataclasses
import importlib
import time

import jax
from common import save
from trained import FULL, QUICK, Sizes

NAMES = tuple(f"figure_{number}" for number in range(1, 8))


def main(*names: str) -> None:
    """Draw and save these figures, or those that the command line names, or all."""
    parser = argparse.ArgumentParser(description="The paper's figures.")
    parser.add_argument(
        "figures", nargs="*", choices=[*NAMES, []], help="which; all if none is named"
    )
    parser.add_argument("--quick", action="store_true", help="a little training only")
    parser.add_argument(
        "--epochs", action="store_true", help="2,000 epochs instead of 2,000 iterations"
    )
    given = parser.parse_args()
    jax.config.update(
        "jax_disable_most_optimizations", given.quick
    )  # compiling takes most of a quick run
    for name in names or given.figures or NAMES:
        began = time.monotonic()
        figure, numbers = importlib.import_module(name).draw(sizes(given.quick, given.epochs))
        save(figure, f"quick_{name}" if given.quick else name, numbers)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


def sizes(quick: bool, epochs: bool) -> Sizes:
    """How much training the command line asks for."""
    chosen = QUICK if quick else FULL
    per_epoch = chosen.train // chosen.batch
    return (
        dataclasses.replace(chosen, iterations=chosen.iterations * per_epoch) if epochs else chosen
    )
