"""The reports of a sweep in one table and one figure: `python -m popgd.collect SWEEP_DIR`.

Writes SWEEP_DIR/sweep.csv (a row for every run directory below, one column for every setting,
quantity and its error) and SWEEP_DIR/sweep.png, and prints what differs between the runs, how often
chance alone refutes any of them, and what they refute jointly. Nothing is left out: runs that are
not finished, or damaged, are rows too. Exit code 0, or 2 if there is no run.
"""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from popgd.problem.errors import SettingError
from popgd.runs import joint, store

#: Settings on the horizontal axes of the figure, quantities on the vertical ones where reports have
#: them.
AGAINST = ("d", "L", "eta")
PLOTTED = (
    "exponent_c",
    "kappa",
    "C1",
    "c_star",
    "c_star_normalised",
    "c_star_unnormalised",
    "a_star",
)
CSV, FIGURE = "sweep.csv", "sweep.png"
UNFINISHED, DAMAGED = "UNFINISHED", "DAMAGED"


def rows_of(directory: Path) -> list[dict[str, Any]]:
    """One row for every run below the directory, by its path; settings, outcome and quantities by
    their names.
    """
    return [_row(path.parent, directory) for path in sorted(directory.rglob(store.SETTINGS))]


def _reports_of(directory: Path, rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The reports of the finished runs among the rows."""
    finished = [row["run"] for row in rows if row["outcome"] not in (UNFINISHED, DAMAGED)]
    return {run: store.read(directory / run / store.REPORT) for run in finished}


def _row(run: Path, directory: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": str(run.relative_to(directory)),
        "outcome": UNFINISHED,
        "reason": "",
        "not supported": "",
    }
    try:
        row |= {name: _plain(value) for name, value in store.read(run / store.SETTINGS).items()}
        if not (run / store.REPORT).exists():
            return row
        report = store.read(run / store.REPORT)
    except SettingError as error:
        return {**row, "outcome": DAMAGED, "reason": str(error)}
    row["outcome"], row["reason"] = report["outcome"], report["reason"]
    row["not supported"] = " ".join(
        f"{claim['id']}:{claim['outcome']}"
        for claim in report["claims"]
        if claim["outcome"] != "SUPPORTED"
    )
    row["self-checks not supported"] = " ".join(
        f"{check['id']}:{check['outcome']}"
        for check in report["self_checks"]
        if check["outcome"] != "SUPPORTED"
    )
    for name, quantity in report["quantities"].items():
        row |= {name: quantity["value"], f"{name} error": quantity["error"]}
    return row


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _columns_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _differing(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The settings that are not the same in all runs."""
    last = _columns_of(rows).index("not supported")
    quantities = {
        name.removesuffix(" error") for row in rows for name in row if name.endswith(" error")
    }
    names = [
        name
        for name in _columns_of(rows)[last + 1 :]
        if name not in quantities and not name.endswith(" error")
    ]
    return [name for name in names if len({row.get(name) for row in rows}) > 1]


def show(rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    from popgd.runs.screen import coloured, make_console

    settings = _differing(rows)
    plotted = [name for name in PLOTTED if any(name in row for row in rows)]
    shown = Table()
    for name in ("run", *settings, "outcome", *plotted, "not supported"):
        shown.add_column(name, justify="right" if name in plotted else "left")
    for row in rows:
        numbers = ["-" if row.get(name) is None else f"{row[name]:.10g}" for name in plotted]
        shown.add_row(
            row["run"],
            *(str(row.get(name, "")) for name in settings),
            coloured(row["outcome"]),
            *numbers,
            row["not supported"],
        )
    make_console().print(shown)


def _figure(rows: Sequence[dict[str, Any]]) -> Any:
    """Every quantity of PLOTTED that some run has, with its error bar, against d, L and eta; a
    colour for each theorem.
    """
    from matplotlib.figure import Figure

    from popgd.theorem.plot import BLUE, GREEN, GREY, ORANGE

    plotted = [name for name in PLOTTED if any(row.get(name) is not None for row in rows)]
    made = Figure(figsize=(9, 2.6 * max(1, len(plotted))), layout="constrained")
    panels = made.subplots(max(1, len(plotted)), len(AGAINST), squeeze=False)
    theorems = list(dict.fromkeys(row.get("theorem") for row in rows))
    colours = [BLUE, ORANGE, GREEN, GREY]
    for line, quantity in zip(panels, plotted, strict=False):
        for axes, setting in zip(line, AGAINST, strict=True):
            for number, theorem in enumerate(theorems):
                seen = [
                    row
                    for row in rows
                    if row.get("theorem") == theorem and row.get(quantity) is not None
                ]
                x, y = ([row[name] for row in seen] for name in (setting, quantity))
                error = [row[f"{quantity} error"] or 0.0 for row in seen]
                if seen:
                    axes.errorbar(
                        x,
                        y,
                        error,
                        fmt="o",
                        ms=4,
                        color=colours[number % 4],
                        label=f"Theorem {theorem}",
                    )
            axes.set(xlabel=setting, ylabel=quantity)
    if plotted:
        panels[0, 0].legend(fontsize=8)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if len(words) != 1 or words[0].startswith("-"):
            raise SettingError(
                f"{' '.join(words) or 'nothing'} was given; one directory of runs "
                "was wanted, as in runs"
            )
        directory = Path(words[0])
        rows = rows_of(directory)
        if not rows:
            raise SettingError(
                f"{directory}: no run is there or below; name the directory of a sweep"
            )
        store.write(directory / CSV, table(rows).encode())
        store.write_through(
            directory / FIGURE, lambda file: _figure(rows).savefig(file, format="png", dpi=150)
        )
    except SettingError as error:
        print(f"popgd: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"popgd: cannot write in {words[0]} ({error.strerror}): make room, or copy the runs "
            "elsewhere",
            file=sys.stderr,
        )
        return 2
    show(rows)
    print(*joint.told(_reports_of(directory, rows)), sep="\n")
    print(f"{len(rows)} runs; written to {directory / CSV} and {directory / FIGURE}")
    return 0
