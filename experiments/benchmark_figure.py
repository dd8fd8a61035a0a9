"""The picture of the benchmark: gradients a second, digits, cold start, memory."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from popgd.theorem.plot import BLACK, BLUE, GREEN, GREY, ORANGE

COLOURS = {
    "popgd": BLUE,
    "popgd with sampling": "#56B4E9",
    "one vmap": ORANGE,
    "PyTorch": GREEN,
    "NumPy loop, forward": GREY,
}
PARTS = {"import": GREY, "trace": ORANGE, "compile": GREEN, "run": BLUE}


def rates(axes: Any, rows: list[dict[str, Any]], batch: int) -> None:
    """Samples a second in float32."""
    rows = [row for row in rows if row["dtype"] == "float32"]
    names = list(rows[0]["seconds"])
    at, width = np.arange(len(rows)), 0.8 / len(names)
    for i, name in enumerate(names):
        heights = [batch / row["seconds"][name] for row in rows]
        axes.bar(
            at + (i - (len(names) - 1) / 2) * width, heights, width, color=COLOURS[name], label=name
        )
    axes.set_xticks(at, [f"{row['d']}, {row['n']}, {row['L']}" for row in rows])
    axes.set(
        yscale="log",
        xlabel="d, n, L",
        ylabel="samples a second",
        title="gradient of every block, float32",
    )
    axes.legend(fontsize=7)


def digits(axes: Any, found: dict[str, Any]) -> None:
    """Time to a relative error of l'(c)."""
    errors = np.geomspace(1e-2, 1e-13, 50)
    seconds = found["Monte Carlo seconds"] * (found["Monte Carlo error"] / errors) ** 2
    measured = errors >= found["Monte Carlo error"]
    axes.plot(errors[measured], seconds[measured], color=ORANGE, label="Monte Carlo")
    axes.plot(
        errors[~measured],
        seconds[~measured],
        "--",
        color=ORANGE,
        label="the same, by the root of its samples",
    )
    axes.plot([1e-2, found["exact bound"]], [found["exact seconds"]] * 2, color=BLUE, label="exact")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="relative error of l'(c)",
        ylabel="seconds",
        title="digits: d = 5, L = 3",
    )
    axes.invert_xaxis()
    axes.legend(fontsize=7)


def start(axes: Any, found: dict[str, dict[str, Any]]) -> None:
    """Where the time of a cold start goes."""
    names = ("cold", "cached")
    left = np.zeros(len(names))
    for part, colour in PARTS.items():
        width = np.array([found[name][part] for name in names])
        axes.barh(names, width, left=left, color=colour, label=part, height=0.5)
        left += width
    axes.plot([20, 20], [-0.4, 0.4], color=BLACK, lw=1)
    axes.plot([10, 10], [0.6, 1.4], color=BLACK, lw=1, label="target")
    axes.set(xlabel="seconds", title="theorem=4.1 in a new process", ylim=(1.5, -1))
    axes.legend(fontsize=7, ncols=5, loc="upper center")


def memory(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Peak memory against the batch."""
    axes.plot(
        [row["batch"] for row in rows], [row["bytes"] / 1e6 for row in rows], "o-", color=BLUE
    )
    axes.axhline(1000, color=BLACK, lw=1)
    axes.set_xscale("log", base=2)
    axes.set(
        ylim=(0, 1100), xlabel="batch", ylabel="MB", title="peak memory of the process (line: 1 GB)"
    )


def draw(found: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(10, 7), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    rates(first, found["gradient"], 4096)
    digits(second, found["exact"]["digits"])
    start(third, found["cold start"])
    memory(fourth, found["memory"])
    return figure
