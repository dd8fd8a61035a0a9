"""Pictures of what was found: the path, what grows, curvature across the plane."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from popgd.claims import pictures
from popgd.explore import words
from popgd.theorem.plot import BLUE, GREY, ORANGE

#: Read-outs that are drawn at most.
MOST = 6


def figures(found: Any) -> dict[str, Figure]:
    """Of an Exploration: coordinates and loss, `growth` where something grows, `curvature`."""
    made = {}
    if found.measured is not None:
        made |= pictures.figures(found.measured, found.horizon)
        growing = [r for r in found.courses.every if r.course.kind == "power"]
        if growing:
            made["growth"] = _growth(found, growing[-MOST:])
    if found.across_start or found.across_end:
        made["curvature"] = _curvature(found)
    return made


def _growth(found: Any, growing: list[Any]) -> Figure:
    """Read-outs that grow or fall like powers, with the power beside each as a dashed line."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for each in growing:
        reading = found.measured.read(words.read(each.of))
        late = reading.t > 0
        t, x = reading.t[late], abs(reading.value[late])
        p = words.exponent(each.course.value, each.course.error)
        (line,) = axes.loglog(t, x, label=f"{each.name}, beside t^{p}")
        guide = x[-1] * (t / t[-1]) ** each.course.value
        axes.loglog(t, guide, "--", color=line.get_color(), lw=0.8)
    axes.set(xlabel=pictures.time_of(found.measured), ylabel="size", title=found.horizon)
    axes.legend(fontsize=7)
    return figure


def _curvature(found: Any) -> Figure:
    """The lowest curvature of each sector, with three standard errors."""
    rows = [("start", a) for a in found.across_start] + [("end", a) for a in found.across_end]
    figure = Figure(figsize=(6.4, 0.35 * len(rows) + 1.3), layout="constrained")
    axes, y = figure.subplots(), np.arange(len(rows))[::-1]
    colours = {"saddle": ORANGE, "minimum": BLUE}
    for at, (_, a) in zip(y, rows, strict=True):
        share = a.lowest / a.scale if a.scale else 0.0
        error = 3 * a.error / a.scale if a.scale else 0.0
        colour = colours.get(a.kind, GREY)
        axes.errorbar(share, at, xerr=error, fmt="o", ms=4, color=colour, capsize=2)
    names = [f"{point}, {a.multiplicity} x {a.dimension}: {a.kind}" for point, a in rows]
    axes.set_yticks(y, names, fontsize=7)
    axes.axvline(0.0, color=GREY, lw=0.6)
    axes.set(xlabel="lowest curvature of a sector, over the largest entry of the Hessian",
             title="curvature across the plane")  # fmt: skip
    return figure
