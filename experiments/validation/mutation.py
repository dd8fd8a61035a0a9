"""The mutation score: does every planted mistake turn the claim that is there to see it?

    python experiments/validation/mutation.py

plants every mutant of the `mutants_*.py` here, prints the table with the score and writes it to
figures/mutation.md and .csv. The tests run the same lists.
"""

import csv
import io
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import jax
import toys
from mutant import PARTS, refuted, sizes
from mutants_exact import EXACT
from mutants_in_context import IN_CONTEXT
from mutants_inference import INFERENCE
from mutants_layers import LAYERS
from mutants_sampled import SAMPLED
from mutants_vocabulary import VOCABULARY

from popgd import Report, check
from popgd.runs import store

FIGURES = Path(__file__).resolve().parents[2] / "figures"


@cache
def report(theorem: str) -> Report:
    return check(theorem, **sizes(theorem))


def study(name: str) -> Any:
    """What a theorem and a target measure, or a toy of the vocabulary."""
    theorem, _, target = name.partition(" ")
    if theorem == "vocabulary":
        return toys.study(target)
    return report(theorem).studies[f"@{target}" if target else ""]


def main() -> None:
    # Most mutants change a few programs: what they leave alone is compiled once.
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="popgd-mutants-"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # Those that empty the compiler's caches last.
    mutants = sorted(
        SAMPLED + EXACT + INFERENCE + IN_CONTEXT + VOCABULARY + LAYERS,
        key=lambda mutant: mutant.compiled,
    )
    rows = []
    for mutant in mutants:
        unbroken = study(mutant.theorem)
        began = time.monotonic()
        found = refuted(mutant, unbroken)
        missed = sorted(set(mutant.claims) - found)
        outcome = (
            "caught"
            if not missed
            else "survives: " + (mutant.survives or "MISSED by " + ", ".join(missed))
        )
        rows.append((mutant.part, mutant.name, mutant.theorem, ", ".join(mutant.claims), outcome))
        print(
            f"{len(rows):2d}/{len(mutants)} {time.monotonic() - began:5.1f} s  "
            f"{' | '.join(rows[-1])}",
            flush=True,
        )
    counted = [mutant for mutant in mutants if not mutant.survives]
    score = sum(row[-1] == "caught" for row in rows)
    line = (
        f"{score} of {len(counted)} mutants caught; {len(rows) - len(counted)} more survive "
        "for the reason given."
    )
    head = ("part", "mutant", "theorem", "claims that must refute it", "outcome")
    rows.sort(key=lambda row: PARTS.index(row[0]))
    table = "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))
    store.write(FIGURES / "mutation.md", f"# Mutation score\n\n{line}\n\n{table}\n".encode())
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    store.write(FIGURES / "mutation.csv", text.getvalue().encode())
    print(line)


if __name__ == "__main__":
    main()
