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


def time_of(measured: Any) -> str:
    """What its time axis shows."""
    return "time" if measured.dynamics.flow else "gradient step"


def _loss(measured: Any, title: str) -> Figure:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes, loss = figure.subplots(), measured.loss()
    late = loss.t > 0
    t, value, error = (x[late] for x in (loss.t, loss.value, loss.error))
    # A loss below its error, 0 above all, is drawn a decade below what can be told from it
    known = np.maximum(value, error)
    floor = np.min(known[known > 0], initial=1.0) / 10
    axes.loglog(t, np.maximum(value, floor), "o-", ms=3)
    axes.fill_between(t, *(np.maximum(value + s * error, floor) for s in (-1, 1)), alpha=0.2)
    axes.set(xlabel=time_of(measured), ylabel="population loss", title=title)
    return figure


def _coordinates(measured: Any, title: str) -> Figure:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes, reading = figure.subplots(), measured.read(measured.plane.coordinates)
    late = reading.t > 0
    for i, name in enumerate(measured.plane.names[:MOST]):
        axes.semilogx(reading.t[late], reading.value[late, i], "-", label=name)
    axes.set(xlabel=time_of(measured), ylabel="weights", title=title)
    axes.legend(fontsize=7)
    return figure
