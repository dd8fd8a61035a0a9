"""How one rule makes verdicts of numbers: a true claim, a false one, and one that cannot be told.

    python experiments/verdict_picture.py

claims what the mean of x^2 is for normal x, three times, lets popgd judge, draws
figures/verdict.png and .svg and writes the numbers to figures/verdict.json.
"""

from typing import Any

import numpy as np
from common import save
from matplotlib.figure import Figure

from popgd.claims.evidence import estimated
from popgd.theorem.plot import BLACK, BLUE, GREEN, GREY, ORANGE
from popgd.theorem.verdict import POWER, Claim, Outcome, judge, z_score

RESOLUTION = 0.1
FALSE_ALARM = 1e-6
#: detectable is the threshold and so many standard errors.
BEYOND = z_score(1 - POWER)
#: What is claimed of the mean of x^2, which is 1, and how many x are drawn.
CASES = ((1.0, 20_000), (1.2, 20_000), (1.0, 2_000))
COLOURS = {Outcome.SUPPORTED: GREEN, Outcome.REFUTED: ORANGE, Outcome.INCONCLUSIVE: GREY}


def case(predicted: float, count: int) -> Claim:
    """The claim that the mean of x^2 is `predicted`, judged from so many x."""
    squares = np.random.default_rng(0).normal(size=count) ** 2
    evidence = estimated(
        "mean-square",
        "the mean of x^2",
        "derived",
        predicted=predicted,
        measured=squares.mean(),
        error=squares.std(ddof=1) / np.sqrt(count),
        skewness=np.sqrt(8 / count),
        resolution=RESOLUTION,
        reason="sampling error",
    )
    return judge(evidence, FALSE_ALARM)


def main() -> None:
    judged = [case(*each) for each in CASES]
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    axes = figure.subplots()
    for row, (claim, (predicted, _)) in enumerate(zip(judged, CASES, strict=True)):
        numbers: Any = claim
        gap, error = abs(numbers.measured - predicted), numbers.error
        threshold = numbers.detectable - BEYOND * error
        axes.barh(row, threshold, height=0.5, color=BLUE, alpha=0.25)
        axes.barh(row, BEYOND * error, left=threshold, height=0.5, color=BLUE, alpha=0.1,
                  hatch="//", edgecolor=BLUE, lw=0)  # fmt: skip
        axes.errorbar(gap, row, xerr=error, fmt="o", color=BLACK, ms=5, capsize=3)
        axes.text(0.262, row, str(claim.outcome), va="center", color=COLOURS[claim.outcome],
                  fontweight="bold", fontsize=10)  # fmt: skip
    axes.axvline(RESOLUTION, color=BLACK, ls="--", lw=1)
    axes.text(RESOLUTION, -0.62, " resolution", va="center", fontsize=9)
    top: Any = judged[0]
    ends = {"threshold": (top.detectable - BEYOND * top.error, 0.042, "right")}
    ends["detectable"] = (top.detectable, 0.053, "left")
    for word, (at, x, side) in ends.items():
        line = {"arrowstyle": "-", "lw": 0.6}
        axes.annotate(word, (at, -0.25), (x, -0.62), fontsize=9, ha=side, va="center",
                      arrowprops=line)  # fmt: skip
    labels = [f"claimed {p:g}, from {n:,}" for p, n in CASES]
    axes.set_yticks(range(len(CASES)), labels)
    axes.set(xlim=(0, 0.335), ylim=(len(CASES) - 0.5, -0.85), xlabel="gap: |measured - predicted|")
    axes.set_xticks(np.arange(0, 0.26, 0.05))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    names = ("predicted", "measured", "error", "allowance", "detectable", "resolution")
    rows = [
        {"claimed": p, "samples": n, **{name: getattr(c, name) for name in names}}
        | {"outcome": str(c.outcome)}
        for c, (p, n) in zip(judged, CASES, strict=True)
    ]
    save(figure, "verdict", rows)


if __name__ == "__main__":
    main()
