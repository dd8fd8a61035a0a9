"""Figure 3: the one-layer model with LN: training and test loss against iterations for several (d,
n).

python experiments/figure_3.py [--quick]
"""

from typing import Any

from matplotlib.figure import Figure
from style import ORDER, caption, sheet
from trained import FULL, Sizes, train

from popgd.theorem.plot import GREY

NAME = "figure_3"
#: The laws of each task; Task 2's multiplicities sum to n.
SIZES: dict[int, tuple[dict[str, Any], ...]] = {
    1: tuple({"law": "uniform", "d": d, "n": n} for d, n in ((5, 20), (5, 50), (10, 40))),
    2: tuple(
        {"law": "rotated", "spectrum": m}
        for m in ((8, 5, 4, 2, 1), (20, 12, 10, 5, 3), (12, 8, 6, 4, 3, 2, 2, 1, 1, 1))
    ),
}


def draw(sizes: Sizes = FULL) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers by task and size."""
    title = (
        f"Figure 3: one layer with LN, SGD on {sizes.train} matrices, batch {sizes.batch}: "
        "training loss (filled), "
        "test loss (open), exact population loss (dashed)"
    )
    figure, panels = sheet(1, 2, title, height=3.6, width=4.6)
    numbers: dict[str, Any] = {}
    for axes, (task, laws) in zip(panels[0], SIZES.items(), strict=True):
        for law, (colour, marker) in zip(laws[: sizes.variants], ORDER, strict=False):
            run = train("LN", task, sizes, law=law)
            size = f"d = {run.d}, n = {run.n}"
            axes.plot(
                run.step + 1,
                run.train_loss,
                marker,
                color=colour,
                ms=3.5,
                label=f"{size}, step {run.eta:.2g}",
            )
            axes.plot(run.step + 1, run.test_loss, marker, color=colour, ms=6, mfc="none", mew=0.7)
            axes.plot(run.exact.records.step + 1, run.exact.losses, "--", color=colour, lw=1)
            numbers[f"{task} {size}"] = run.numbers()
        t = run.exact.records.step[-10:] + 1.0
        axes.plot(
            t,
            run.exact.losses[-1] * 0.5 * (t / t[-1]) ** (-2 / 3),
            ":",
            color=GREY,
            lw=1.5,
            label="slope -2/3",
        )
        axes.set(xscale="log", yscale="log", xlabel="iteration t + 1")
        axes.legend(fontsize=7.5)
        caption(axes, f"Task {task}: loss")
    return figure, numbers


if __name__ == "__main__":
    from gallery import main

    main(NAME)
