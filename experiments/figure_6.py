"""Figure 6: both models without LN on Task 1, their heat maps and their active parameters
converging to fixed points.

python experiments/figure_6.py [--quick]
"""

from typing import Any

from matplotlib.figure import Figure
from style import about, caption, heat, parameters, sheet
from trained import FULL, Sizes, train

from popgd.theorem.plot import BLACK

NAME = "figure_6"


def draw(sizes: Sizes = FULL, task: int = 1, number: int = 6) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers by model."""
    runs = {name: train(name, task, sizes) for name in ("no LN, norm.", "no LN, unnorm.")}
    first = next(iter(runs.values()))
    title = f"Figure {number}: one layer without LN, Task {task}, {about(first)}"
    figure, panels = sheet(2, 3, title)
    numbers = {}
    for row, (name, run), target in zip(
        panels, runs.items(), ("y = Sq/|Sq|", "y = Sq"), strict=True
    ):
        star = float(run.exact.curve.c_star().value)
        heat(figure, row[0], run.P[-1], f"{target}: P (inactive blocks are exactly 0)")
        heat(figure, row[1], run.Q[-1], f"{target}: Q")
        row[2].axhline(star, ls="--", color=BLACK, lw=1, label=f"c* = {star:.4g}")
        parameters(row[2], run)
        caption(row[2], f"{target}, step size {run.eta:.3g}: c -> c*")
        numbers[name] = run.numbers() | {
            "P": run.P[-1].tolist(),
            "Q": run.Q[-1].tolist(),
            "c_star": star,
        }
    return figure, numbers


if __name__ == "__main__":
    from gallery import main

    main(NAME)
