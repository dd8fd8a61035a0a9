"""Pictures of what was measured of a problem: its loss and its coordinates."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

#: Coordinates that are drawn at most.
MOST = 12


def figures(measured: Any, title: str) -> dict[str, Figure]:
    made = {"coordinates": _coordinates(measured, title)}
    if measured.path is not None:
        made["loss"] = _loss(measured, title)
    return made


def _time(measured: Any) -> str:
    return "time" if measured.dynamics.flow else "gradient step"


def _loss(measured: Any, title: str) -> Figure:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes, loss = figure.subplots(), measured.loss()
    late = loss.t > 0
    axes.loglog(loss.t[late], np.maximum(loss.value[late], 1e-300), "o-", ms=3)
    axes.fill_between(
        loss.t[late], *(np.maximum(loss.value + s * loss.error, 1e-300)[late] for s in (-1, 1)),
        alpha=0.2,
    )  # fmt: skip
    axes.set(xlabel=_time(measured), ylabel="population loss", title=title)
    return figure


def _coordinates(measured: Any, title: str) -> Figure:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes, reading = figure.subplots(), measured.read(measured.plane.coordinates)
    late = reading.t > 0
    for i, name in enumerate(measured.plane.names[:MOST]):
        axes.semilogx(reading.t[late], reading.value[late, i], "-", label=name)
    axes.set(xlabel=_time(measured), ylabel="weights", title=title)
    axes.legend(fontsize=7)
    return figure
