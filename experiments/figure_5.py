"""Figure 5: the angle against loops, for snapshots of the LN layer (4.6) and for looped models on
other data (4.7).

python experiments/figure_5.py [--quick]
"""

from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from style import FLOOR, ORDER, angle_lines, angles, caption, power_line, sheet
from trained import FULL, TASKS, Sizes, test_point, train

from popgd.papers.power_method.looping.data import TEST_LAWS

NAME = "figure_5"
LOOPS = 30
#: Training steps of the snapshots, numbers of loops of the looped models, and the law of the data
#: these are run on.
SNAPSHOTS, DEPTHS, OTHER = (10, 100, 562, 2000), (3, 2, 5), "clustered"


def draw(sizes: Sizes = FULL) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers by task, model and snapshot or L."""
    title = (
        f"Figure 5: sin of the angle against loops, d = 5, n = 20, SGD on {sizes.train} "
        f"matrices, batch {sizes.batch}; "
        "dashed: exact formula at the population's c_t"
    )
    figure, panels = sheet(2, 2, title, height=3.1, width=4.6)
    numbers: dict[str, Any] = {"loops": np.arange(1, LOOPS + 1).tolist()}
    for column, task in enumerate(TASKS):
        top, bottom = panels[:, column]
        X, q = test_point(task)
        run = train("LN", task, sizes)
        wanted = dict.fromkeys(int(np.argmin(abs(run.step - step))) for step in SNAPSHOTS)
        for record, style in zip(wanted, ORDER, strict=False):
            seen, exact, c = angles(run, record, X, q, LOOPS)
            step = int(run.step[record])
            angle_lines(top, seen, exact, f"t = {step}", style)
            numbers[f"{task} LN {step}"] = plain(seen, exact, c, run.c[record])
        power_line(top, X, q, LOOPS)
        caption(top, f"Layer with LN trained on Task {task}, on a test point of it")
        X, q = other_point(run.d, run.n)
        for L, style in zip(sorted(DEPTHS[: sizes.variants]), ORDER, strict=False):
            run = train("looped", task, sizes, L=L)
            seen, exact, c = angles(run, -1, X, q, LOOPS)
            angle_lines(bottom, seen, exact, f"L = {L}, t = {run.step[-1]}", style)
            bottom.plot(
                L, max(seen[L - 1], FLOOR), "*", ms=13, color=style[0], mec="black", mew=0.6
            )
            numbers[f"{task} looped {L}"] = plain(seen, exact, c, run.c[-1])
        power_line(bottom, X, q, LOOPS)
        caption(bottom, f"Looped models of Task {task}, on clustered columns (star: own L)")
        for axes in (top, bottom):
            axes.set(xlabel="loops")
            axes.legend(fontsize=7)
    return figure, numbers


def plain(seen: np.ndarray, exact: np.ndarray, c_exact: float, c: float) -> dict[str, Any]:
    return {"sin": seen.tolist(), "sin_exact": exact.tolist(), "c_exact": c_exact, "c": float(c)}


def other_point(d: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """One matrix of a law that is not rotation-invariant, and a query."""
    key = jax.random.key(11)
    q = np.asarray(jax.random.normal(jax.random.fold_in(key, 1), (d,)))
    return TEST_LAWS[OTHER].sample(key, d, n), q / np.linalg.norm(q)


if __name__ == "__main__":
    from gallery import main

    main(NAME)
