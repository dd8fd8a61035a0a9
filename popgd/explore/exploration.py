"""What was found about a problem, to be read and to be pasted."""

import html
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from popgd.claims.measured import Measured
from popgd.explore.conjecture import Conjecture
from popgd.explore.curvature import Across
from popgd.explore.fixed import Fixed
from popgd.explore.invariants import Quantity
from popgd.explore.path import Courses
from popgd.explore.structure import Structure

#: Columns of what is printed.
WIDTH = 120
WORDS = {
    "still": "does not move",
    "limit": "converges",
    "towards": "nears a limit slowly, extrapolated",
    "power": "grows like t^p: p",
    "logarithm": "grows like A log t: A",
    "unknown": "not told: more steps would help",
}


@dataclass(frozen=True)
class Exploration:
    """What `explore` found: symmetries, plane and zeros (`structure`), conserved quantities, where
    read-outs go (`courses`), fixed points, curvatures across the plane at the start and at the
    end, and `conjectures`, whose lines make claims. Conjectures, until judged on fresh samples.
    `measured` is the path that was followed, if any.
    """

    horizon: str
    structure: Structure
    conserved: tuple[Quantity, ...]
    courses: Courses
    fixed: tuple[Fixed, ...]
    across_start: tuple[Across, ...]
    across_end: tuple[Across, ...]
    conjectures: tuple[Conjecture, ...]
    notes: tuple[str, ...]
    measured: Measured | None

    @property
    def lines(self) -> tuple[str, ...]:
        """The claims, as lines of code."""
        return tuple(c.line for c in self.conjectures)

    @property
    def saddle(self) -> bool:
        """Whether the end of the path is a saddle: on the plane or across it."""
        on = any(f.falling for f in self.fixed if f.end)
        return on or any(a.kind == "saddle" for a in self.across_end)

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to claim."""
        saddles = [a for a in (*self.across_start, *self.across_end) if a.kind == "saddle"]
        return not (self.conjectures or saddles or any(f.falling for f in self.fixed))

    def __repr__(self) -> str:
        plane = self.structure.plane
        return (
            f"Exploration({plane.k} of {len(plane.entries)} weights free, "
            f"{len(self.conserved)} conserved, {len(self.conjectures)} conjectures)"
        )

    def __str__(self) -> str:
        out = io.StringIO()
        self.show(Console(file=out, width=WIDTH, color_system=None, force_jupyter=False))
        return out.getvalue()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def figures(self) -> dict[str, Any]:
        """Pictures: the coordinates, the loss, what grows, and curvatures across the plane."""
        from popgd.explore import pictures

        return pictures.figures(self)

    def show(self, console: Console) -> None:
        """Print all of it: tables, then the lines to paste."""
        say = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)
        for table in (self._symmetries(), self._read_outs(), self._across()):
            if table.row_count:
                console.print(table)
        for text in self._texts():
            say(text)
        if self.nothing:
            say("nothing was found that could be claimed")
            return
        if self.conjectures:
            say("conjectures, until judged on fresh samples (w: the weights; exact: your loss):")
        for each in self.conjectures:
            say(f"    {each.line},")
            say(f"        # {_comment(each)}")

    def _symmetries(self) -> Table:
        table = Table("symmetry", "holds", "seen", title="declared symmetries")
        for tested in self.structure.tested:
            table.add_row(escape(tested.name), "yes" if tested.holds else "NO", escape(tested.said))
        return table

    def _read_outs(self) -> Table:
        table = Table("read-out", "where it goes", "value", "error", title=self.horizon)
        courses = [(r.name, r.course) for r in self.courses.every if r.course.kind != "still"]
        courses += [("loss", self.courses.loss)] if self.courses.loss else []
        for name, course in courses:
            row = (_number(course.value, 10), _number(course.error, 2))
            table.add_row(escape(name), WORDS[course.kind], *row)
        q, error = self.courses.loss_power
        if np.isfinite(q):
            table.add_row("loss", "falls to its limit like t^-q: q", f"{q:.8g}", f"{error:.2g}")
        return table

    def _across(self) -> Table:
        table = Table("point", "sector", "lowest curvature", "error", "", "along",
                      title="curvature across the plane")  # fmt: skip
        for point, found in (("start", self.across_start), ("end", self.across_end)):
            for a in found:
                table.add_row(point, f"{a.multiplicity} x {a.dimension}", f"{a.lowest:.6g}",
                              "exact" if a.exact else f"{a.error:.2g}", a.kind,
                              escape(a.direction))  # fmt: skip
        return table

    def _texts(self) -> Iterator[str]:
        plane, zeros = self.structure.plane, self.structure.zeros
        if plane.k < len(plane.entries):
            names = ", ".join(plane.names)
            yield f"the plane has {plane.k} of {len(plane.entries)} coordinates: {names}"
        if zeros is not None:
            yield from (line for line in zeros.describe().splitlines() if "moves:" not in line)
        yield from (f"conserved by gradient flow: {q.name}" for q in self.conserved)
        yield from (f"fixed point, {f.describe()}" for f in self.fixed)
        yield from self.notes


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}g}" if np.isfinite(value) else "-"


def _comment(each: Conjecture) -> str:
    """What stands behind a line."""
    estimate = f": {each.value:.10g} ± {each.error:.2g}" if np.isfinite(each.value) else ""
    why = f" ({each.why})" if each.why else ""
    flow = "; of flow, descent moves it by O(eta^2) a step" if each.flow else ""
    return f"{each.says}{estimate}{why}{flow}"
