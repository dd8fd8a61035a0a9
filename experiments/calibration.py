"""Do the statistical claims err as often as they say? False alarms under the truth and power at `detectable`, by seeds.

    python experiments/calibration.py [seeds]

repeats the Monte Carlo half of every theorem's study with as many seeds (1,000) beside one exact half, judges every
statistical claim alone at an inflated level, and draws figures/calibration.png and .svg and writes the numbers to
figures/calibration.json. Seeds run side by side under vmap; the first is measured by popgd's own `sampled` as well and
must agree.
"""

import sys
import time
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import common
import numpy as np
from calibrate import NOMINAL, TAIL, calibrate, check_same, measure, quiet, statistical, tails
from matplotlib.figure import Figure

from popgd.memory import FORGETFUL
from popgd.plot import BLACK, BLUE, GREEN, GREY, ORANGE
from popgd.report import resolve
from popgd.theory import THEOREMS
from popgd.verdict import POWER, Evidence

SEEDS = 1000
#: Seeds measured at once.
TOGETHER = 40
#: Small sizes are the harder ones: the normal approximation is the worse, the fewer samples there are.
SIZES: dict[str, Any] = {"spectrum": (3, 2, 1), "steps": 1000, "samples": 2**11, "sampled_steps": 40, "batch": 256}
CASES = (("4.1", "", {"L": 2}), ("4.2", "normalised", {}), ("4.2", "unnormalised", {}), ("4.3", "", {}))


def main(seeds: int) -> None:
    numbers: dict[str, Any] = {"sizes": SIZES, "tail": TAIL.tolist(), "claims": [], "tails": []}
    for theorem, target, own in CASES:
        name, began = f"{theorem} {target}".strip(), time.monotonic()
        setting = resolve({"theorem": theorem, **SIZES, **own})
        study = THEOREMS[theorem].study(setting, THEOREMS[theorem].objective(setting, target), quiet, FORGETFUL)
        found: list[list[Evidence]] = []
        while len(found) < seeds:
            block = range(len(found), min(len(found) + TOGETHER, seeds))
            studies = measure(study, block)
            if not found:
                check_same(studies[0], study)
            found += [list(statistical(each)) for each in studies]
            print(f"{name}: {len(found)} of {seeds} seeds, {time.monotonic() - began:.0f} s", flush=True)
        for claim in zip(*found, strict=True):
            numbers["claims"].append({"theorem": name, **calibrate(claim)})
        for sizes in ({"samples": 2, "batch": 2, "steps": 1000}, {"steps": 1000, **SIZES, **own}):
            numbers["tails"] += [{"theorem": name, **row} for row in tails_at(theorem, target, sizes)]
    report(numbers)


def tails_at(theorem: str, target: str, sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """`tails` at the points of a run with these sizes, for the numbers of samples of a default run."""
    setting = resolve({"theorem": theorem, **sizes, "sampled_steps": 1000, "samples": 2, "batch": 2})
    study = THEOREMS[theorem].study(setting, THEOREMS[theorem].objective(setting, target), quiet, FORGETFUL)
    default = resolve({"theorem": theorem, "spectrum": sizes.get("spectrum"), "L": sizes.get("L")})
    return tails(replace(study, setting=default), list(statistical(study)))


def report(numbers: dict[str, Any]) -> None:
    for row in numbers["claims"]:
        low, high = row["interval"]
        print(
            f"{row['theorem']:<17} {row['claim']:<23} alarms {row['alarms']:4d} of {row['seeds']} ({low} to {high} expected), "
            f"caught {row['caught']} (at least {row['at_least']}), spread {row['spread']:.2f}: {row['verdict']}"
        )
    worst: dict[str, float] = {}
    for row in numbers["tails"]:
        worst[row["claim"]] = max(worst.get(row["claim"], 1.0), row["tail_factor"])
    print(
        "by the normal law alone a tail of 1e-6 is off by at most: "
        + ", ".join(f"{claim} {factor:.2g}" for claim, factor in worst.items())
    )
    common.save(draw(numbers), "calibration", numbers)


def draw_tail(tail: Any, numbers: dict[str, Any], names: list[str]) -> None:
    z = np.asarray(numbers["tail"])
    normal = np.array([2 * NormalDist().cdf(-x) for x in z])
    tail.semilogy(z, normal, "--", color=GREY, lw=2, label="normal")
    for name, colour, mark in zip(names, (BLUE, ORANGE, GREEN, BLACK, "#CC79A7"), "os^Dv", strict=True):
        mine = [row for row in numbers["claims"] if row["claim"] == name]
        share = np.sum([row["beyond"] for row in mine], axis=0) / sum(row["all"] for row in mine)
        tail.semilogy(z[share > 0], share[share > 0], mark, color=colour, ms=4, label=name)
    tail.set(
        title="Gaps over standard error, all seeds and entries", xlabel="z", ylabel="share beyond z standard errors", xlim=(0, 5)
    )
    tail.legend(fontsize=8)


def draw(numbers: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(12.5, 4.8), layout="constrained")
    rates, powers, tail = figure.subplots(1, 3, width_ratios=(1.0, 1.0, 1.25))
    rows = numbers["claims"]
    names = list(dict.fromkeys(row["claim"] for row in rows))
    colours = dict(zip(dict.fromkeys(row["theorem"] for row in rows), (BLUE, ORANGE, GREEN, BLACK), strict=False))
    marks = dict(zip(colours, "os^D", strict=False))
    for k, (theorem, colour) in enumerate(colours.items()):
        mine = [row for row in rows if row["theorem"] == theorem]
        at = [names.index(row["claim"]) + 0.15 * (k - 1.5) for row in mine]
        style: dict[str, Any] = {"color": colour, "marker": marks[theorem], "ls": "", "ms": 6, "label": theorem}
        rates.plot([row["alarms"] / row["seeds"] for row in mine], at, **style)
        powers.plot([row["caught"] / row["seeds"] for row in mine], at, **style)
    low, high = (x / rows[0]["seeds"] for x in rows[0]["interval"])
    rates.axvspan(low, high, color=GREY, alpha=0.25, lw=0)
    rates.axvline(NOMINAL, color=GREY, ls="--", lw=1)
    rates.set(title=f"False alarms, nominal {NOMINAL:.0%}", xlabel="share of seeds refuted under the truth")
    rates.set(yticks=range(len(names)), yticklabels=names)
    powers.axvspan(rows[0]["at_least"] / rows[0]["seeds"], 1.0, color=GREY, alpha=0.25, lw=0)
    powers.axvline(POWER, color=GREY, ls="--", lw=1)
    powers.set(title="Power at the detectable gap", xlabel="share of seeds caught", xlim=(0.965, 1.002))
    powers.set(yticks=range(len(names)), yticklabels=[])
    powers.legend(fontsize=8, title="theorem, target", title_fontsize=8, loc="lower left")
    for axes in (rates, powers):
        axes.set_ylim(len(names) - 0.5, -0.5)
    draw_tail(tail, numbers, names)
    return figure


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS)
