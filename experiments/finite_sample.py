"""SGD on finite samples beside population descent: losses, generalisation gaps, two models that
leave their plateau.

    python experiments/finite_sample.py

trains the four models of the paper on both tasks, and for longer the two that leave their theorem's
plateau, draws figures/finite_sample.png and .svg and writes the numbers to
figures/finite_sample.json.
"""

import dataclasses

import common
from style import MODELS as STYLES
from style import about, caption, loss, sheet
from trained import FULL, MODELS, TASKS, train

#: Models whose active blocks leave multiples of I under SGD though they start exactly there, with
#: the loops of the first; the steps of sampling noise add up, so that they are trained for longer.
LEAVING = (("looped", 1), ("no LN, norm.", 1))
LONGER = 10_000


def main() -> None:
    """Losses of the four models and their generalisation gaps, and the two models that leave their
    plateau.
    """
    runs = {(name, task): train(name, task) for name in MODELS for task in TASKS}
    longer = dataclasses.replace(FULL, iterations=LONGER)
    away = {name: train(name, 2, longer, L=L) for name, L in LEAVING}
    figure, panels = sheet(
        2, 3, f"SGD and population descent: {about(next(iter(runs.values())))}", height=2.9
    )
    for row, task in zip(panels, TASKS, strict=True):
        for name in MODELS:
            run = runs[name, task]
            style = ("#CC79A7", "v") if name == "looped" else STYLES[name]
            loss(row[0], run, name, "test", style)
            gap, error = (
                x / run.test_loss for x in (run.test_loss - run.train_loss, 2 * run.gap_stderr)
            )
            row[1].errorbar(
                run.step + 1, gap, error, fmt=style[1], color=style[0], ms=3.5, lw=0.7, label=name
            )
        row[0].set(xscale="log", yscale="log", xlabel="iteration t + 1")
        row[1].set(xscale="log", xlabel="iteration t + 1", ylim=(-0.2, 0.2))
        row[1].axhline(0, color="black", lw=0.6)
        caption(row[0], f"Task {task}: test loss (dashed: exact population)")
        caption(row[1], f"Task {task}: 1 - training loss/test loss, 2 se")
    panels[0, 0].legend(fontsize=7)
    for axes, (name, run) in zip(panels[:, 2], away.items(), strict=True):
        for which, style in (
            ("train", (STYLES["looped"][0], "o")),
            ("test", (STYLES["no LN, norm."][0], "s")),
        ):
            loss(axes, run, f"{which} loss, SGD", which, style)
        limit = float(run.exact.curve.limit().value)
        axes.axhline(limit, color="black", lw=1, label=f"limit of the theorem, {limit:.4g}")
        axes.set(xscale="log", xlabel="iteration t + 1")
        axes.legend(fontsize=7)
        caption(
            axes,
            f"Task 2: {'one loop with LN' if name == 'looped' else name}, step size {run.eta:.2g}",
        )
    numbers = {f"{task} {name}": run.numbers() for (name, task), run in runs.items()}
    common.save(
        figure,
        "finite_sample",
        numbers | {f"2 {name}, longer": run.numbers() for name, run in away.items()},
    )


if __name__ == "__main__":
    main()
