"""The mutation score: does every planted mistake turn the claim that is there to see it?

    python experiments/validation/mutation.py

plants every mutant of the `mutants_*.py` here, prints the table with the score and writes it to
figures/mutation.md and .csv. The tests run the same lists.
"""

import csv
import io
import tempfile
import time
from pathlib import Path

import jax
from mutant import PARTS, refuted, sizes
from mutants_exact import EXACT
from mutants_in_context import IN_CONTEXT
from mutants_inference import INFERENCE
from mutants_sampled import SAMPLED

from popgd import check, theorems
from popgd.runs import store

FIGURES = Path(__file__).resolve().parents[2] / "figures"


def main() -> None:
    # Most mutants change a few programs: what they leave alone is compiled once.
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="popgd-mutants-"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    reports = {theorem: check(theorem, **sizes(theorem)) for theorem in theorems()}
    rows = []
    # Those that empty the compiler's caches last.
    mutants = sorted(SAMPLED + EXACT + INFERENCE + IN_CONTEXT, key=lambda mutant: mutant.compiled)
    for mutant in mutants:
        theorem, _, target = mutant.theorem.partition(" ")
        began = time.monotonic()
        found = refuted(mutant, reports[theorem].studies[f"@{target}" if target else ""])
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
