"""Do the statistical claims err as often as they say? False alarms under the truth and power at
`detectable`, by seeds.

    python experiments/validation/calibration.py [seeds [CASE ...]]

repeats the Monte Carlo part of every theorem's study with as many seeds (1,000) beside one exact
part (as many, where it depends on the seed), judges every statistical claim alone at an inflated
level, and writes figures/calibration.md (the table), .json (the numbers), .png and .svg. Seeds run
side by side; the first is measured by popgd's own code as well and must agree. It fails (exit code
1) if a claim is not calibrated, is conservative without a reason given here, or is not looked at.
Finished cases are kept in runs/calibration and not done again, unless the code changed. With names
of cases only these are measured, and put into the numbers that are there.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import calibrate_in_context
import calibrate_layers
import calibrate_manifold
import calibrate_stability
import calibrate_vocabulary
from calibrate import NOMINAL, TAIL, Case, abreast, calibrate, check_same, statistical, uncalibrated
from calibrate_tails import tails
from calibration_picture import draw

import popgd
from popgd.runs import store
from popgd.theorem.verdict import POWER

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

SEEDS = 1000
#: Seeds measured at once.
TOGETHER = 200
CASES: tuple[Case, ...] = (
    *calibrate_manifold.CASES,
    *calibrate_in_context.CASES,
    *calibrate_stability.CASES,
    *calibrate_layers.CASES,
)
#: From this share of seeds on a claim is one that popgd does not judge at the sizes of its case.
EXCUSED = 0.9
KEPT = Path("runs/calibration")
AT_MOST = ("gradient-negative", "saddle")
#: Why a claim may refute the truth less often than its level: by the start of its name, and that of
#: its case.
CONSERVATIVE = {
    ("engines-agree-raw", ""): "all that noise in the blocks may have done is allowed for",
    (
        "engines-agree-descent",
        "",
    ): "between two records the larger of their noises counts, and the largest skewness of all "
    "points",
    (
        "engines-agree-descent",
        "4.2 unnormalised",
    ): "no sampling error: rounding alone, and that is bounded",
    (
        "engines-agree-descent",
        "bank",
    ): "the noise of a bank is added up in phase, with no damping counted",
    (
        "engines-agree-gradient",
        "uniform",
    ): "the same spectra stand behind all three points, and each counts as a test of its own",
    (
        "median-vanishes",
        "",
    ): "its error is that of a share of one half, the boundary; of real laws 0.97 and more of the "
    "prompts contract",
    (
        "growth",
        "",
    ): "its error is that of a tail of 1e-6 with 31 degrees of freedom, and the squares of errors "
    "are allowed for",
    (
        "engines-agree-hessian",
        "",
    ): "entries that are 0 by structure, and those that move together, count as tests of their own",
    ("saddle", ""): "its error is what no correlation of the three entries exceeds",
    ("engines-agree-descent-A", ""): "half the measured bias is allowed for",
    **{(claim, "layers"): why for claim, why in calibrate_layers.CONSERVATIVE.items()},
    **{(claim, "vocabulary"): why for claim, why in calibrate_vocabulary.CONSERVATIVE.items()},
}


def main(seeds: int, only: Sequence[str] = ()) -> int:
    code = version()
    numbers: dict[str, Any] = {"tail": TAIL.tolist(), "cases": [], "claims": [], "tails": []}
    if only:
        numbers = json.loads((common.FIGURES / "calibration.json").read_text())
        for part in ("cases", "claims", "tails"):
            numbers[part] = [row for row in numbers[part] if row["case"] not in only]
    for case in (case for case in CASES if not only or case.name in only):
        found = kept(case.name, seeds, code, lambda case=case: run(case, seeds))
        numbers["cases"].append(
            {"case": case.name, "theorem": case.theorem, "settings": case.sizes}
        )
        numbers["claims"] += [excused(row) for row in found["claims"]]
        # What is claimed to be at most 0 is refuted by its upper tail alone, and that is the
        # lighter one if skewness is positive.
        numbers["tails"] += [
            row for row in found["tails"] if not (row["claim"] in AT_MOST and row["skewness"] > 0)
        ]
    for toy in () if only else calibrate_vocabulary.TOYS:
        rows = partial(calibrate_vocabulary.rows, toy, seeds)
        numbers["claims"] += kept(f"vocabulary {toy.name}", seeds, code, rows)
    left = uncalibrated(numbers["claims"])
    table = report(numbers, left)
    print(table)
    store.write(common.FIGURES / "calibration.md", table.encode())
    common.save(draw(numbers), "calibration", numbers)
    return int(
        bool(left)
        or any(row["verdict"] == "not calibrated" for row in numbers["claims"])
        or "no reason" in table
    )


def excused(row: dict[str, Any]) -> dict[str, Any]:
    """What popgd itself would not judge at these sizes needs no calibration there, but is not
    calibrated either.
    """
    never = row["verdict"] == "not calibrated" and row["excused"] >= EXCUSED * row["seeds"]
    return {**row, "verdict": "excused"} if never else row


def version() -> str:
    """A digest of the code that the numbers come from."""
    files = sorted(
        file
        for top, names in (
            (Path(popgd.__file__).parent, "**/*.py"),
            (Path(__file__).parent, "calibrate*.py"),
            (Path(__file__).parent, "toys.py"),
        )
        for file in top.glob(names)
    )
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def kept(name: str, seeds: int, code: str, work: Callable[[], Any]) -> Any:
    """The numbers of one case, measured now unless the same code has done so."""
    path = KEPT / f"{name.replace(' ', '-').replace(',', '')}-{seeds}-{code}.json"
    if not path.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(work()))
    return json.loads(path.read_text())


def run(case: Case, seeds: int) -> dict[str, Any]:
    began = time.monotonic()
    study, found = case.study(), []
    while len(found) < seeds:
        studies = case.many(study, range(len(found), min(len(found) + TOGETHER, seeds)))
        if not found:
            check_same(studies[0], study)
        found += abreast(lambda each: list(statistical(each)), studies)
        print(
            f"{case.name}: {len(found)} of {seeds} seeds, {time.monotonic() - began:.0f} s",
            flush=True,
        )
    rows = [
        {"case": case.name, "theorem": case.theorem, **calibrate(claim)}
        for claim in zip(*found, strict=True)
    ]
    # The samples behind are those of the cases that have fresh ones and one spectrum.
    far = (
        tails(case, study, list(statistical(study)))
        if {"bank", "law"}.isdisjoint(case.sizes)
        else []
    )
    return {"claims": rows, "tails": [{"case": case.name, **row} for row in far]}


def reason(row: dict[str, Any]) -> str:
    if row["verdict"] != "conservative":
        return ""
    # The most particular reason stands last.
    found = [
        why
        for (claim, case), why in CONSERVATIVE.items()
        if row["claim"].startswith(claim) and case in row["case"]
    ]
    return ": " + (found[-1] if found else "no reason known")


def report(numbers: dict[str, Any], left: list[str]) -> str:
    """The table for readers."""
    rows, first = numbers["claims"], numbers["claims"][0]
    low, high = first["interval"]
    lines = [
        "# Calibration of the statistical claims",
        "",
        f"`python experiments/validation/calibration.py`: {first['seeds']} seeds a case, each "
        "claim judged alone at a nominal "
        f"{NOMINAL:.0%}. Under the truth a claim that keeps its level is refuted by {low} to "
        f"{high} of them, and a gap of "
        f"exactly `detectable` is caught by at least {first['at_least']} (promised: {POWER:.0%}); "
        "both are the central 99.9 % of "
        "the binomial law. Bias and spread are those of gap over standard error (0 and 1). "
        "Excused: seeds for which popgd itself "
        "would say INCONCLUSIVE, mostly as so few samples do not tell how heavy the tails are.",
        "",
        "| case | claim | entries | alarms | caught | bias | spread | excused | verdict |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['case']} | {row['claim']} | {row['entries']} | {row['alarms']} of "
            f"{row['seeds']} | {row['caught']} | "
            f"{row['bias']:+.3f} | {row['spread']:.3f} | {row['excused']} | "
            f"{row['verdict']}{reason(row)} |"
        )
    lines += ["", "Settings beside the defaults:", ""]
    for case in numbers["cases"]:
        told = " ".join(
            f"{name}={list(x) if isinstance(x, list | tuple) else x}"
            for name, x in case["settings"].items()
        )
        lines.append(f"* {case['case']}: `theorem={case['theorem']} {told}`")
    lines += [
        "",
        "How far the normal law, with the skewness that a claim states, holds at a default run's "
        "number of samples and tail of "
        "1e-6 for the whole report: the factor by which skewness raises the probability of a "
        "false alarm beyond what the claim "
        "allows for (P(T > z) = (1 - Phi(z)) exp(skewness z^3/3), Wang 2005), the largest of all "
        "points and entries.",
        "",
        "| claim | samples | largest skewness, kurtosis of one sample | factor |",
        "|---|---:|---:|---:|",
    ]
    for claim in dict.fromkeys(row["claim"] for row in numbers["tails"]):
        worst = max(
            (row for row in numbers["tails"] if row["claim"] == claim),
            key=lambda row: row["tail_factor"],
        )
        lines.append(
            f"| {claim} | {worst['n']} | {worst['skewness']:+.2f}, {worst['kurtosis']:.3g} "
            f"({worst['case']}) | "
            f"{worst['tail_factor']:.2g} |"
        )
    return "\n".join([*lines, *(f"\nNOT LOOKED AT: {name}" for name in left)]) + "\n"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS, sys.argv[2:]))
