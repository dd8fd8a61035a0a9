"""The picture of a calibration: false alarms, power and the tail of all gaps, claim by claim."""

from statistics import NormalDist
from typing import Any

import numpy as np
from calibrate import NOMINAL
from matplotlib.figure import Figure

from popgd.theorem.plot import BLACK, BLUE, GREEN, GREY, ORANGE
from popgd.theorem.verdict import POWER

#: Colour and marker of the kinds of cases.
KINDS = {
    "fixed spectrum": (BLUE, "o"),
    "random spectra": (ORANGE, "s"),
    "bank": (GREEN, "^"),
    "in context": (BLACK, "D"),
    "Hessians": ("#CC79A7", "v"),
}


def kind(case: str) -> str:
    for word, name in (
        ("uniform", "random spectra"),
        ("bank", "bank"),
        ("gatmiry", "in context"),
        ("stability", "Hessians"),
    ):
        if word in case:
            return name
    return "fixed spectrum"


def draw(numbers: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(13.5, 5.6), layout="constrained")
    rates, powers, tail = figure.subplots(1, 3, width_ratios=(1.0, 1.0, 1.1))
    rows = numbers["claims"]
    names = list(dict.fromkeys(row["claim"] for row in rows))
    for k, (name, (colour, mark)) in enumerate(KINDS.items()):
        mine = [row for row in rows if kind(row["case"]) == name]
        at = [names.index(row["claim"]) + 0.12 * (k - 2) for row in mine]
        style: dict[str, Any] = {
            "color": colour,
            "marker": mark,
            "ls": "",
            "ms": 5,
            "label": name,
            "alpha": 0.8,
        }
        rates.plot([row["alarms"] / row["seeds"] for row in mine], at, **style)
        powers.plot([row["caught"] / row["seeds"] for row in mine], at, **style)
        if mine:
            z, share = (
                np.asarray(numbers["tail"]),
                np.sum([row["beyond"] for row in mine], axis=0) / sum(r["all"] for r in mine),
            )
            tail.semilogy(z[share > 0], share[share > 0], mark, color=colour, ms=4, label=name)
    low, high = (x / rows[0]["seeds"] for x in rows[0]["interval"])
    rates.axvspan(low, high, color=GREY, alpha=0.25, lw=0)
    rates.axvline(NOMINAL, color=GREY, ls="--", lw=1)
    rates.set(
        title=f"False alarms, nominal {NOMINAL:.0%}",
        xlabel="share of seeds refuted under the truth",
    )
    powers.axvspan(rows[0]["at_least"] / rows[0]["seeds"], 1.0, color=GREY, alpha=0.25, lw=0)
    powers.axvline(POWER, color=GREY, ls="--", lw=1)
    powers.set(
        title="Power at the detectable gap", xlabel="share of seeds caught", xlim=(0.965, 1.002)
    )
    for axes, labels in ((rates, names), (powers, [])):
        axes.set(yticks=range(len(names)), yticklabels=labels, ylim=(len(names) - 0.5, -0.5))
    z = np.asarray(numbers["tail"])
    tail.semilogy(z, [2 * NormalDist().cdf(-x) for x in z], "--", color=GREY, lw=2, label="normal")
    tail.set(title="Gaps over standard error", xlabel="z", xlim=(0, 5))
    tail.set(ylabel="share beyond z standard errors")
    tail.legend(fontsize=8)
    return figure
