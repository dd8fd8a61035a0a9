"""What the experiments share: an exact descent for a spectrum, and saving a figure beside its
numbers.
"""

import json
from pathlib import Path
from typing import Any

import jax
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from popgd.papers.power_method import curve
from popgd.papers.power_method.training import convergence, growth
from popgd.papers.power_method.training.study import Exact
from popgd.runs import store
from popgd.theorem.report import resolve

jax.config.update("jax_enable_x64", True)

FIGURES = Path(__file__).resolve().parent.parent / "figures"
#: The population curve of a growth theorem for (spectrum, L), and p with -c^p l'(c) -> constant.
CURVES: dict[str, Any] = {
    "4.1": (curve.Looped.of, 2),
    "4.3": (lambda spectra, L: curve.Layer.of(spectra), 3),
}


def records(
    theorem: str, spectrum: tuple[float, ...], L: int, steps: int
) -> tuple[Exact, int, float]:
    """The exact descent of a theorem at its automatic step size: (descent, d, eta)."""
    setting = resolve({"theorem": theorem, "spectrum": spectrum, "L": L, "steps": steps})
    make, power = CURVES[theorem]
    exact = growth.descend_exactly(
        setting, lambda s: make(s, L), power, lambda name, done, total: None
    )
    print(
        f"{theorem} {list(spectrum)} L={L}: c = {exact.records.c[-1]:.6g} at step {steps:.0e}",
        flush=True,
    )
    return exact, setting.law.d, setting.eta


def descend(setting: Any, target: str = "") -> Exact:
    """The exact population descent of a setting."""
    quiet = lambda name, done, total: None
    if setting.theorem == "4.2":
        return convergence.descend_exactly(setting, lambda s: curve.Linear.of(s, target), quiet)
    make, power = CURVES[setting.theorem]
    return growth.descend_exactly(setting, lambda s: make(s, setting.L), power, quiet)


def table(heads: list[str], lines: list[list[str]], width: float, height: float = 0.3) -> Figure:
    """A figure that is a table, so many inches wide, a line so high."""
    figure = Figure(figsize=(width, height * len(lines) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    drawn = axes.table(cellText=lines, colLabels=heads, loc="center", cellLoc="left")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7)
    drawn.auto_set_column_width(list(range(len(heads))))
    return figure


def save(figure: Figure, name: str, numbers: Any) -> None:
    """figures/NAME.png, .svg and .json."""
    FIGURES.mkdir(exist_ok=True)
    FigureCanvasAgg(figure)
    for ending in ("png", "svg"):
        store.write_through(
            FIGURES / f"{name}.{ending}",
            lambda file, e=ending: figure.savefig(file, format=e, dpi=150),
        )
    store.write(FIGURES / f"{name}.json", json.dumps(numbers, indent=1).encode())
    print(f"wrote {FIGURES.name}/{name}.png, .svg and .json")
