"""(a) Leaving the manifold: loss against step for several sizes of the perturbation, and steps to escape against size.

Exact in N, and with all entries by Monte Carlo on fresh samples and on a fixed training set.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import save
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from stability_full import Variant, beside, descend, look
from stability_setting import BATCH, KEY, LAW, LAYER, LINEAR, SPECTRUM, SUBSPACE, TEST, D, known

from popgd import kronecker, one_layer
from popgd.plot import BLACK, BLUE, GREEN, GREY, ORANGE
from popgd.recursion import log_grid
from popgd.theory.stability import prediction
from popgd.theory.stability.measure import INACTIVE
from popgd.theory.stability.prediction import P22, Q22

COLOURS = (BLACK, BLUE, "#56B4E9", GREEN, "#E69F00", ORANGE)
#: Step size and steps of each theorem.
CASES = (
    ("4.1", SUBSPACE, 0.5, 3000),
    ("4.2, y = Sq", LINEAR["unnormalised"], 0.03, 20_000),
    ("4.2, y = Sq/|Sq|", LINEAR["normalised"], 0.05, 20_000),
)
#: Samples kept of a fixed training set.
BANK = 2 * BATCH
#: The loss axis ends at this many limits: the first losses of 4.2, y = Sq, are 50 times its own.
SHOWN = 3


def gaussian(seed: int) -> jax.Array:
    """A Gaussian scalar in each inactive block."""
    return jnp.zeros(8).at[jnp.array(INACTIVE)].set(jax.random.normal(jax.random.key(seed), (6,)))


def escape() -> None:
    """All three theorems, measured and drawn."""
    numbers: dict[str, Any] = {
        name: {"eta": eta, **inside(objective, eta, steps), **full(objective, eta, steps)}
        for name, objective, eta, steps in CASES
    }
    numbers["4.3"] = slow()
    save(draw(numbers), "stability_escape", numbers)


def inside(objective: Any, eta: float, steps: int) -> dict[str, Any]:
    """Exact in N: the loss for six sizes; for twelve, the first multiple of ten steps at which it is below 0.9 of the limit."""
    limit, grid = float(known(objective).limit().value), log_grid(steps, 24)
    start, slope, exact, escapes = kronecker.point(1.0, 0.0), one_layer.slope(objective, SPECTRUM), {}, []
    for size in [0.0] + [10.0**-k for k in (12, 9, 6, 3, 1)]:
        path = kronecker.descend(slope, start + size * gaussian(1), eta, D, grid, KEY)
        exact[f"{size:g}"] = {"loss": path.loss.tolist(), "theta": path.theta[-1].tolist()}
    for size in (10.0**-k for k in range(1, 13)):
        dense = kronecker.descend(slope, start + size * gaussian(1), eta, D, np.arange(0, steps, 10), KEY)
        below = np.flatnonzero(dense.loss < 0.9 * limit)
        escapes.append((size, int(dense.step[below[0]]) if below.size else None))
    return {"limit": limit, "step": grid.tolist(), "exact in N": exact, "steps to escape": escapes}


def slow(eta: float = 0.5, steps: int = 10**6) -> dict[str, Any]:
    """4.3, exact in N from p22 = -r22 = size: c/(1 + m), on which alone the loss depends, and the first step with m < -1/2."""
    start, grid, found, escapes = kronecker.point(1.0, 0.0), log_grid(steps, 48), {}, []
    slope = one_layer.along_curve(prediction.slope_of(LAYER, known(LAYER)))
    for size in (0.0, 1e-3, 1e-2, 0.03, 0.1, 0.3):
        path = kronecker.descend(slope, start.at[P22].set(size).at[Q22].set(-size), eta, D, grid, KEY)
        m = path.theta[:, P22] * path.theta[:, Q22]
        found[f"{size:g}"] = {"c/(1+m)": path.loss.tolist(), "c": (path.theta[:, 2] * path.theta[:, 5]).tolist(), "m": m.tolist()}
        below = np.flatnonzero(m < -0.5)
        if size:
            escapes.append((size, int(grid[below[0]]) if below.size else None))
    return {"eta": eta, "step": grid.tolist(), "paths": found, "steps to escape": escapes}


def full(objective: Any, eta: float, steps: int) -> dict[str, Any]:
    """All entries, from (I, 0) and from 1e-3 beside it, for half of the steps and at most 6,000."""
    plain, found = Variant(objective, "LN" if objective.layer_norm else "none"), {}
    starts = [beside(kronecker.point(1.0, 0.0), D, size, 2) for size in (0.0, 1e-3)]
    for kind, bank, batch in (("fresh samples", False, BATCH), ("fixed training set", True, BANK)):
        runs = descend(plain, optax.sgd(eta), LAW, starts, log_grid(min(steps // 2, 6000), 4)[2:], batch, 3, bank)
        for run, size in zip(runs, ("0", "1e-3"), strict=True):
            seen = look(plain, LAW, run, TEST, 4)
            if bank:  # the very samples of the set: number 0, 1, ... of its key
                training = look(plain, LAW, run, batch, 3)
                seen |= {
                    "training loss": training["loss"],
                    "generalisation gap": float(np.subtract(seen["loss"], training["loss"])[-1]),
                }
            found[f"full matrices, size {size}, {kind}, batch {batch}"] = seen
    return found


def draw(numbers: dict[str, Any]) -> Figure:
    """Losses above, steps to escape below, one column for each theorem."""
    figure = Figure(figsize=(13, 7.2), layout="constrained")
    rows = figure.subplots(2, 4)
    for (name, case), top, bottom in zip(numbers.items(), rows[0], rows[1], strict=True):
        (draw_slow if name == "4.3" else draw_losses)(top, case)
        top.set(title=f"{name}, eta = {case['eta']:g}")
        bottom.semilogx(*zip(*[pair for pair in case["steps to escape"] if pair[1]], strict=True), "o-", color=BLUE, ms=3)
        bottom.set(xlabel="size of the perturbation", ylabel="steps until the loss is 0.9 of the limit", ylim=(0, None))
    rows[1][3].set(ylabel="steps until m < -1/2", yscale="log", ylim=(None, None))
    handles, labels = rows[0][0].get_legend_handles_labels()
    title = "size of the perturbation; lines: exact, all blocks multiples of I; marks: all entries, sampled"
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, title=title, title_fontsize=8)
    return figure


def draw_slow(axes: Axes, case: dict[str, Any]) -> None:
    """c/(1 + m): infinite is the exact power step."""
    for (size, path), colour in zip(case["paths"].items(), COLOURS, strict=True):
        position = np.array(path["c/(1+m)"])
        axes.loglog(np.array(case["step"][1:]), np.where(position > 0, position, np.nan)[1:], color=colour, lw=1.2, label=size)
    axes.set(xlabel="gradient step t", ylabel="c/(1 + m)", ylim=(0.01, 1e4))
    axes.legend(fontsize=7, title="p22 = -r22", title_fontsize=7)


def draw_losses(axes: Axes, case: dict[str, Any]) -> None:
    """Lines exact in N, marks with all entries."""
    for (size, path), colour in zip(case["exact in N"].items(), COLOURS, strict=True):
        axes.semilogx(
            np.array(case["step"]) + 1,
            path["loss"],
            color=colour,
            lw=1.2,
            label=f"exact, {float(size):.0e}" if float(size) else "exact, 0",
        )
    full = {name: seen for name, seen in case.items() if name.startswith("full matrices")}
    for (name, seen), mark in zip(full.items(), "+o1x", strict=True):
        axes.plot(np.array(seen["step"]) + 1, seen["loss"], mark, color=GREY, ms=4, label=name)
    axes.axhline(case["limit"], ls="--", color=GREY, lw=1, label="limit of the theorem")
    top = min(SHOWN * case["limit"], 1.05 * max(path["loss"][0] for path in case["exact in N"].values()))
    # Below 0, so that a loss of 0 is seen.
    axes.set(xlabel="gradient step t + 1", ylabel="population loss", ylim=(-top / 50, top))
