"""What a user sees on the screen: progress bars, claims as they are judged, and tables."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from popgd.theorem.base import Progress as Report
from popgd.theorem.registry import called, theorems
from popgd.theorem.report import typed
from popgd.theorem.verdict import Claim
from popgd.theorem.written import number

#: A part of a run that takes longer than this many seconds is announced with its estimated time.
LONG = 60
#: The budget that is proposed, over the time that what was cut is estimated to take.
MARGIN = 2


class _Live(Progress):
    """Progress bars below a table of the claims that have been judged."""

    def __init__(self, *columns: Any, **how: Any) -> None:
        self.judged: list[dict[str, Any]] = []
        super().__init__(*columns, **how)

    def get_renderables(self) -> Iterator[Any]:
        if self.judged:
            yield _table("judged so far", "claim", self.judged)
        yield from super().get_renderables()


@contextlib.contextmanager
def live(told: Report, quiet: bool = False) -> Iterator[tuple[Report, Callable[[Claim], None]]]:
    """How progress is shown, and claims as they are judged: on a terminal by bars below a table of
    them; elsewhere by a line for each claim, and a word about parts that take long. `told` hears
    all progress too.
    """
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TimeRemainingColumn(compact=True))
    console, lines = Console(stderr=True, quiet=quiet), make_console(quiet)
    terminal = console.is_terminal and lines.is_terminal
    with _Live(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, tuple[Any, float, int]] = {}
        compiled: set[str] = set()
        announced: set[str] = set()

        def report(name: str, done: int, total: int) -> None:
            told(name, done, total)
            if name not in tasks or done < tasks[name][2]:
                for task, *_ in tasks.values():
                    bars.update(task, visible=False)
                tasks[name] = (bars.add_task(name), time.monotonic(), done)
            task, start, first = tasks[name]
            if done > first and name not in compiled:  # compiling was in the first step's time
                compiled.add(name)
                tasks[name] = task, start, first = task, time.monotonic(), done
            bars.update(task, completed=done, total=total)
            spent = time.monotonic() - start
            left = spent * (total - done) / (done - first) if done > first else 0.0
            if spent > 2 and left > LONG and name not in announced:
                announced.add(name)
                console.print(f"{name}: {total:,} steps, about {left / 60:.0f} more minutes")

        def judged(claim: Claim) -> None:
            row = {**vars(claim), "outcome": str(claim.outcome)}
            if terminal:
                bars.judged.append(row)
                bars.refresh()
            else:
                lines.print(_line(row), markup=False, highlight=False, soft_wrap=True)

        yield report, judged


def make_console(quiet: bool = False) -> Console:
    return Console(width=None if sys.stdout.isatty() else 150, quiet=quiet)


def _line(claim: dict[str, Any]) -> str:
    numbers = [
        f"{name} {number(claim[name], digits)}"
        for name, digits in (("predicted", 10), ("measured", 10), ("error", 2))
    ]
    kind = "self-check " if claim["self_check"] else ""
    return f"{kind}{claim['id']}: {', '.join(numbers)}: {claim['outcome']}"


def show(content: dict[str, Any], path: Path, stored: bool) -> None:
    """A judged run: its claims, popgd's checks of itself, and where it is."""
    console = make_console()
    name, settings = content["theorem"], content["settings"]
    shown = typed(theorems()[name], settings) if name in theorems() else ""
    claims, checks = content["claims"], content["self_checks"]
    if claims:
        console.print(_table(f"{called(name)}: {shown}", "claim", claims))
    if checks:
        console.print(_table("popgd's checks of itself", "self-check", checks))
    for claim in claims:
        if claim["outcome"] != "SUPPORTED":
            console.print(
                f"{claim['id']}: {claim['outcome']}. {claim['statement']}. {claim['reason']}",
                markup=False,
            )
    reason = f": {content['reason']}" if content["reason"] else ""
    console.print(f"{called(name)}: {content['outcome']}{reason}", markup=False)
    for check in checks:
        if check["outcome"] != "SUPPORTED":
            console.print(
                f"self-check {check['id']}: {check['outcome']}. {check['reason']}", markup=False
            )
    for cut in content.get("unfinished", []):
        console.print(
            f"unfinished: {cut['samples']:.2g} samples, {_duration(cut['seconds'])}, would settle "
            f"{cut['what']}",
            markup=False,
        )
    if content.get("unfinished"):
        wanted = MARGIN * sum(cut["seconds"] for cut in content["unfinished"])
        command = f"python -m popgd.run resume={path} budget={math.ceil(wanted)}"
        console.print(f"to go on with it: {command}", markup=False, soft_wrap=True)
    console.print(f"{'already finished in' if stored else 'written to'} {path}", markup=False)


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    return f"some {seconds / 60:.0f} minutes" if seconds > 90 else f"some {seconds:.0f} seconds"


def _table(title: str, kind: str, judged: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    for column in (
        kind,
        "predicted",
        "measured",
        "error",
        "allowance",
        "detectable",
        "resolution",
        "outcome",
    ):
        table.add_column(
            column,
            justify="left" if column in (kind, "outcome") else "right",
            no_wrap=column != kind,
        )
    for claim in judged:
        numbers = [number(claim["predicted"], 10), number(claim["measured"], 10)]
        numbers += [
            number(claim[name], 2) for name in ("error", "allowance", "detectable", "resolution")
        ]
        table.add_row(claim["id"], *numbers, coloured(claim["outcome"]))
    return table


def show_differences(found: Any, path: Path) -> None:
    """The outcome of a recheck: versions then and now, and what differs."""
    console = make_console()
    console.print(f"then: {found.then}\nnow:  {found.now}", markup=False)
    table = Table("what", "then", "now", "difference", "allowed", title=f"{path}, judged again")
    for row in found.differences:
        values = [
            escape(value) if isinstance(value, str) else number(value, 17)
            for value in (row.then, row.now)
        ]
        table.add_row(escape(row.name), *values, number(row.difference, 2), number(row.allowed, 2))
    if found.differences:
        console.print(table)
    console.print(
        f"{len(found.differences)} of {found.compared} texts and numbers differ by more than "
        "errors and rounding, "
        f"{found.moved} others within them; the rest are the same bit for bit",
        markup=False,
    )
    for name, meant in found.corrections:
        console.print(f"a correction since then: {name}: {meant}", markup=False)
    if found.differences and found.then != found.now:
        console.print(
            "Other code may draw other samples, whose errors and trajectory are others: recheck "
            "with the versions of then"
        )


def coloured(outcome: str) -> str:
    colour = {"SUPPORTED": "green", "REFUTED": "red", "NOT TRUSTED": "red"}.get(outcome, "yellow")
    return f"[{colour}]{outcome}[/{colour}]"
