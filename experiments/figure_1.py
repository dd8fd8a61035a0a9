"""Figure 1: the looped model after SGD on both tasks, its heat maps and the growth of its active
parameters.

python experiments/figure_1.py [--quick]
"""

from typing import Any

from matplotlib.figure import Figure
from style import about, caption, heat, parameters, sheet
from trained import FULL, TASKS, Sizes, train

NAME, MODEL, SLOPE = "figure_1", "looped", 2


def draw(
    sizes: Sizes = FULL, model: str = MODEL, slope: int = SLOPE, number: int = 1
) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers by task."""
    runs = {task: train(model, task, sizes) for task in TASKS}
    first = runs[1]
    loops = f"L = {first.L} loops, " if model == "looped" else ""
    words = {"looped": "looped transformer with LN", "LN": "one layer with LN"}[model]
    title = f"Figure {number}: {words}, {loops}{about(first)}"
    figure, panels = sheet(2, 3, title)
    for row, (task, run) in zip(panels, runs.items(), strict=True):
        heat(figure, row[0], run.P[-1], f"Task {task}: P (inactive blocks are exactly 0)")
        heat(figure, row[1], run.Q[-1], f"Task {task}: Q")
        parameters(row[2], run, slope)
        caption(row[2], f"Task {task}, step size {run.eta:.3g}: c grows like t^(1/{slope})")
    return figure, {
        str(task): run.numbers() | {"P": run.P[-1].tolist(), "Q": run.Q[-1].tolist()}
        for task, run in runs.items()
    }


if __name__ == "__main__":
    from gallery import main

    main(NAME)
