"""Figure 2: with LN and without: training loss, test loss, and the angle against loops at
inference.

python experiments/figure_2.py [--quick]
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from style import MODELS, about, angle_lines, angles, caption, loss, power_line, sheet
from trained import FULL, TASKS, Sizes, test_point, train

NAME = "figure_2"
THREE = ("LN", "no LN, norm.", "no LN, unnorm.")
LOOPS = 30


def draw(sizes: Sizes = FULL) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers by task and model."""
    runs = {(task, model): train(model, task, sizes) for task in TASKS for model in THREE}
    first = runs[1, "LN"]
    title = (
        f"Figure 2: one layer with and without LN, {about(first)}; dashed: exact population descent"
    )
    figure, panels = sheet(2, 3, title)
    numbers: dict[str, Any] = {}
    for row, task in zip(panels, TASKS, strict=True):
        X, q = test_point(task)
        for model in THREE:
            run = runs[task, model]
            seen, exact, c = angles(run, -1, X, q, LOOPS)
            for axes, which in zip(row, ("train", "test"), strict=False):
                loss(axes, run, model, which, MODELS[model])
            angle_lines(row[2], seen, exact, model, MODELS[model])
            numbers[f"{task} {model}"] = run.numbers() | {
                "sin": seen.tolist(),
                "sin_exact": exact.tolist(),
                "c_inference": c,
            }
        power_line(row[2], X, q, LOOPS)
        for axes, which in zip(row, ("training", "test"), strict=False):
            axes.set(xscale="log", yscale="log", xlabel="iteration t + 1")
            caption(axes, f"Task {task}: {which} loss")
        row[2].set(xlabel="loops at inference")
        caption(row[2], f"Task {task}: sin of the angle on one test point")
        row[0].legend(fontsize=7)
        row[2].legend(fontsize=7)
    return figure, numbers | {"loops": np.arange(1, LOOPS + 1).tolist()}


if __name__ == "__main__":
    from gallery import main

    main(NAME)
