"""(a) Leaving the manifold: loss against step for several sizes of the perturbation, and steps to
escape against size.

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
from stability_full import Variant, beside, descend, look, training_loss
from stability_setting import BATCH, KEY, LAW, LINEAR, SPECTRUM, SUBSPACE, TEST, D, known

from popgd.descent.recursion import log_grid
from popgd.papers.power_method import kronecker, one_layer
from popgd.papers.power_method.stability.measure import INACTIVE
from popgd.theorem.plot import BLACK, BLUE, GREEN, GREY, ORANGE

COLOURS = (BLACK, BLUE, "#56B4E9", GREEN, "#E69F00", ORANGE)
#: Step size and steps of each theorem.
CASES = (
    ("4.1", SUBSPACE, 0.5, 3000),
    ("4.2, y = Sq", LINEAR["unnormalised"], 0.03, 20_000),
    ("4.2, y = Sq/|Sq|", LINEAR["normalised"], 0.05, 20_000),
)
#: Samples kept of a fixed training set.
BANK = 4 * BATCH
SEED = 3
#: Sizes from which descents of all entries are followed until they escape, and at how many steps
#: they are looked at.
SIZES, LOOKS = tuple(10.0**-k for k in (1, 3, 5, 7, 9, 11)), 60
#: Escaped is what has a loss below this share of the limit: noise alone reaches 0.88 of it in 4.1.
ESCAPED = 0.5
#: The loss axis ends at this many limits: the first losses of 4.2, y = Sq, are 50 times its own.
SHOWN = 3


def gaussian(seed: int) -> jax.Array:
    """A Gaussian scalar in each inactive block."""
    return jnp.zeros(8).at[jnp.array(INACTIVE)].set(jax.random.normal(jax.random.key(seed), (6,)))


def escape() -> None:
    """All three theorems, measured and drawn."""
    numbers = {
        name: {
            "eta": eta,
            **inside(objective, eta, steps),
            **full(objective, eta, steps),
            **escapes(objective, eta, steps),
        }
        for name, objective, eta, steps in CASES
    }
    save(draw(numbers), "stability_escape", numbers)


def inside(objective: Any, eta: float, steps: int) -> dict[str, Any]:
    """Exact in N: the loss for six sizes; for twelve, the first multiple of ten steps with less
    than ESCAPED of the limit.
    """
    limit, grid = float(known(objective).limit().value), log_grid(steps, 24)
    start, slope, exact, left = (
        kronecker.point(1.0, 0.0),
        one_layer.slope(objective, SPECTRUM),
        {},
        [],
    )
    for size in [0.0] + [10.0**-k for k in (12, 9, 6, 3, 1)]:
        path = kronecker.descend(slope, start + size * gaussian(1), eta, D, grid, KEY)
        exact[f"{size:g}"] = {"loss": path.loss.tolist(), "theta": path.theta[-1].tolist()}
    for size in (10.0**-k for k in range(1, 13)):
        dense = kronecker.descend(
            slope, start + size * gaussian(1), eta, D, np.arange(0, steps, 10), KEY
        )
        below = np.flatnonzero(dense.loss < ESCAPED * limit)
        left.append((size, int(dense.step[below[0]]) if below.size else None))
    return {"limit": limit, "step": grid.tolist(), "exact in N": exact, "steps to escape": left}


def full(objective: Any, eta: float, steps: int) -> dict[str, Any]:
    """All entries, from (I, 0) and from 1e-3 beside it, for half of the steps and at most 6,000;
    losses on a test set, those of the training set where that is fixed, too.
    """
    plain, found = Variant(objective, "LN" if objective.layer_norm else "none"), {}
    starts = [beside(kronecker.point(1.0, 0.0), D, size, 2) for size in (0.0, 1e-3)]
    for kind, bank, batch in (("fresh samples", False, BATCH), ("fixed training set", True, BANK)):
        runs = descend(
            plain,
            optax.sgd(eta),
            LAW,
            starts,
            log_grid(min(steps // 2, 6000), 6)[2:],
            batch,
            SEED,
            bank,
        )
        for run, size in zip(runs, ("0", "1e-3"), strict=True):
            seen = look(plain, LAW, run, TEST, 4)
            found[f"full matrices, size {size}, {kind}, batch {batch}"] = seen
            if bank:
                seen["training loss"] = training_loss(plain, LAW, run, batch, SEED)
    return found


def escapes(objective: Any, eta: float, steps: int) -> dict[str, Any]:
    """All entries on fresh samples, from Gaussian entries of SIZES beside (I, 0): the first look
    with a loss below ESCAPED.
    """
    plain, limit = (
        Variant(objective, "LN" if objective.layer_norm else "none"),
        float(known(objective).limit().value),
    )
    starts = [beside(kronecker.point(1.0, 0.0), D, size, 2) for size in SIZES]
    runs = descend(
        plain,
        optax.sgd(eta),
        LAW,
        starts,
        np.arange(1, LOOKS + 1) * (steps // 2 // LOOKS),
        BATCH,
        SEED,
    )
    left = []
    for size, run in zip(SIZES, runs, strict=True):
        below = np.flatnonzero(
            np.array(look(plain, LAW, run, TEST // 4, 4)["loss"]) < ESCAPED * limit
        )
        left.append((size, int(run.step[below[0]]) if below.size else None))
    print("steps to escape, all entries", left, flush=True)
    return {"steps to escape, all entries": left}


def draw(numbers: dict[str, Any]) -> Figure:
    """Losses above, steps to escape below, one column for each theorem."""
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    rows = figure.subplots(2, 3)
    for (name, case), top, bottom in zip(numbers.items(), rows[0], rows[1], strict=True):
        draw_losses(top, case)
        top.set(title=f"{name}, eta = {case['eta']:g}")
        for what, label, mark, colour in (
            ("steps to escape", "multiples of I, exact", "o-", BLUE),
            ("steps to escape, all entries", "all entries, sampled", "s", GREY),
        ):
            escaped = [pair for pair in case[what] if pair[1]]
            bottom.semilogx(*zip(*escaped, strict=True), mark, color=colour, ms=4, label=label)
        bottom.legend(fontsize=7)
        bottom.set(
            xlabel="size of the perturbation",
            ylabel="steps until the loss is half of the limit",
            ylim=(0, None),
        )
    handles, labels = rows[0][0].get_legend_handles_labels()
    title = (
        "size of the perturbation; lines: exact, all blocks multiples of I; marks: all "
        "entries, sampled"
    )
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=4,
        fontsize=7,
        title=title,
        title_fontsize=8,
    )
    return figure


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
    top = min(
        SHOWN * case["limit"], 1.05 * max(path["loss"][0] for path in case["exact in N"].values())
    )
    # Below 0, so that a loss of 0 is seen.
    axes.set(xlabel="gradient step t + 1", ylabel="population loss", ylim=(-top / 50, top))
