"""The reports of a sweep in one table and one figure: `python -m popgd.collect SWEEP_DIR`.

Writes SWEEP_DIR/sweep.csv (a row for every run directory below, one column for every setting,
quantity and its error), sweep.tex (what differs, for \\input) and sweep.png (quantities against the
settings that differ, and what came out), and prints what differs between the runs, how often
chance alone refutes any of them, and what they refute jointly. Nothing is left out: runs that are
not finished, or damaged, are rows too. Exit code 0, or 2 if there is no run.
"""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from popgd.problem.errors import SettingError
from popgd.runs import joint, store
from popgd.theorem import written

#: Quantities that are shown at most, those of most runs; and settings on horizontal axes.
SHOWN, AGAINST = 4, 3
CSV, TEX, FIGURE = "sweep.csv", "sweep.tex", "sweep.png"
UNFINISHED, DAMAGED = "UNFINISHED", "DAMAGED"
#: Shapes of outcomes in the figure; a setting over more than this factor has a logarithmic axis.
SHAPES, WIDE = {"SUPPORTED": "o", "REFUTED": "X", "INCONCLUSIVE": "s"}, 30


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
    others = {"self-checks not supported", *_quantities(rows)}
    names = [
        name
        for name in _columns_of(rows)[last + 1 :]
        if name not in others and not name.endswith(" error")
    ]
    return [name for name in names if len({row.get(name) for row in rows}) > 1]


def _quantities(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What was measured, that of most runs first."""
    count = Counter(
        name
        for row in rows
        for name, value in row.items()
        if f"{name} error" in row and value is not None
    )
    return [name for name, _ in count.most_common()]


def tex(rows: Sequence[dict[str, Any]]) -> str:
    """What differs between the runs, and what came out, as a table of booktabs."""
    settings, quantities = _differing(rows), _quantities(rows)[:SHOWN]
    head = [*map(written.in_latex, (*settings, "outcome", *quantities))]
    lines = [
        [
            *(written.in_latex(str(row.get(name, ""))) for name in settings),
            row["outcome"].lower(),
            *(written.scientific(row.get(name)) for name in quantities),
        ]
        for row in rows
    ]
    return "\n".join([
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{'l' * (len(settings) + 1)}{'r' * len(quantities)}}}",
        "\\toprule",
        " & ".join(head) + " \\\\",
        "\\midrule",
        *(" & ".join(line) + " \\\\" for line in lines),
        "\\bottomrule",
        "\\end{tabular}",
        "",
    ])  # fmt: skip


def show(rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    from popgd.runs.screen import coloured, make_console

    settings = _differing(rows)
    plotted = _quantities(rows)[:SHOWN]
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
    """Quantities with their error bars against the numbers that differ between the runs: a colour
    for each theorem, a shape for each outcome.
    """
    from matplotlib.figure import Figure

    from popgd.theorem.plot import BLUE, GREEN, GREY, ORANGE

    number = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    against = [name for name in _differing(rows) if sum(number(row.get(name)) for row in rows) > 1][
        :AGAINST
    ] or ["seed"]
    plotted = _quantities(rows)[:SHOWN]
    made = Figure(figsize=(3.4 * len(against), 2.6 * max(1, len(plotted))), layout="constrained")
    panels = made.subplots(max(1, len(plotted)), len(against), squeeze=False)
    theorems = list(dict.fromkeys(row.get("theorem") for row in rows))
    colours = dict(zip(theorems, cycle((BLUE, ORANGE, GREEN, GREY)), strict=False))
    for line, quantity in zip(panels, plotted, strict=False):
        for axes, setting in zip(line, against, strict=True):
            kinds: dict[Any, list[Any]] = {}
            for row in rows:
                if number(row.get(quantity)) and number(row.get(setting)):
                    kinds.setdefault((row.get("theorem"), row["outcome"]), []).append(row)
            for (theorem, outcome), seen in kinds.items():
                x, y = ([row[name] for row in seen] for name in (setting, quantity))
                error = [abs(row[f"{quantity} error"] or 0.0) for row in seen]
                axes.errorbar(
                    x, y, error, fmt=SHAPES.get(outcome, "D"), ms=4, color=colours[theorem],
                    label=f"Theorem {theorem}: {outcome}",
                )  # fmt: skip
            values = [row[setting] for row in rows if number(row.get(setting))]
            wide = values and min(values) > 0 and max(values) > WIDE * min(values)
            axes.set(xlabel=setting, ylabel=quantity, xscale="log" if wide else "linear")
    if plotted:
        panels[0, 0].legend(fontsize=6)
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
        store.write(directory / TEX, tex(rows).encode())
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
    print(f"{len(rows)} runs; written to {directory / CSV}, {TEX} and {FIGURE}")
    return 0
