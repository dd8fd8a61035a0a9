"""What the theorems of this paper share: its name, and panels to draw on."""

from typing import Any

PAPER = "arXiv 2605.25619"


def panel(title: str, xlabel: str, ylabel: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # slow to import, and wanted at the end of a run

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes
