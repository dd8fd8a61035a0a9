"""The style of every picture. Colours live here only."""

from typing import Any

#: Okabe and Ito's colours, told apart by the colour-blind.
BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#888888", "#000000"


def sheet(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # slow to import, and wanted at the end of a run

    return Figure(figsize=(width, height), layout="constrained")


def panel(title: str, xlabel: str, ylabel: str) -> tuple[Any, Any]:
    """A figure with one set of axes, and these."""
    figure = sheet(6.4, 4.4)
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes
