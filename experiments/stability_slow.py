"""(h) 4.3 beside the manifold, exact in N: the slow escape to an exact power step at finite
weights.
"""

from typing import Any

import numpy as np
from common import save
from matplotlib.figure import Figure
from stability_setting import KEY, LAYER, D, known

from popgd.descent.recursion import log_grid
from popgd.papers.power_method import kronecker, one_layer
from popgd.papers.power_method.stability import prediction
from popgd.papers.power_method.stability.prediction import P22, Q22
from popgd.theorem.plot import BLACK, BLUE, GREEN, GREY, ORANGE

#: p22 = -r22 at the start, and their colours; step size and steps.
SIZES = {0.0: BLACK, 1e-3: BLUE, 1e-2: "#56B4E9", 0.03: GREEN, 0.1: "#E69F00", 0.3: ORANGE}
ETA, STEPS = 0.5, 10**6


def slow() -> None:
    """c/(1 + m), on which alone the loss depends, from six sizes, and the first step with m < -1/2,
    to 5 %.
    """
    slope = one_layer.along_curve(prediction.slope_of(LAYER, known(LAYER)))
    start, grid = kronecker.point(1.0, 0.0), log_grid(STEPS, 48)
    numbers: dict[str, Any] = {
        "eta": ETA,
        "step": grid.tolist(),
        "paths": {},
        "steps to escape": [],
    }
    for size in SIZES:
        path = kronecker.descend(
            slope, start.at[P22].set(size).at[Q22].set(-size), ETA, D, grid, KEY
        )
        m, c = path.theta[:, P22] * path.theta[:, Q22], path.theta[:, 2] * path.theta[:, 5]
        numbers["paths"][f"{size:g}"] = {
            "c/(1+m)": path.loss.tolist(),
            "c": c.tolist(),
            "m": m.tolist(),
        }
        below = np.flatnonzero(m < -0.5)
        numbers["steps to escape"].append((size, int(grid[below[0]]) if below.size else None))
        print(size, "c", c[-1], "1 + m", 1 + m[-1], numbers["steps to escape"][-1], flush=True)
    save(draw(numbers), "stability_slow", numbers)


def draw(numbers: dict[str, Any]) -> Figure:
    """The position on the left, steps to escape on the right."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (size, path), colour in zip(numbers["paths"].items(), SIZES.values(), strict=True):
        position = np.array(path["c/(1+m)"])
        left.loglog(
            numbers["step"][1:],
            np.where(position > 0, position, np.nan)[1:],
            color=colour,
            lw=1.2,
            label=size,
        )
    left.set(
        xlabel="gradient step t", ylabel="c/(1 + m)", ylim=(0.01, 1e4), title=f"4.3, eta = {ETA}"
    )
    left.legend(fontsize=7, title="p22 = -r22 at the start", title_fontsize=7)
    escaped = [(size, step) for size, step in numbers["steps to escape"] if step]
    right.loglog(*zip(*escaped, strict=True), "o-", color=BLUE, ms=3)
    right.axhline(STEPS, color=GREY, lw=0.8)
    right.set(xlabel="p22 = -r22 at the start", ylabel="steps until m < -1/2")
    return figure
