"""One style for the figures of the paper: colours and markers of the models, heat maps, growth,
losses and angles.

Measured values are markers or solid lines; what theory predicts is drawn over them, dashed or
black.
"""

import textwrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from trained import Trained

from popgd.papers.power_method.looping import inference
from popgd.theorem.plot import BLACK, BLUE, GREEN, GREY, ORANGE

#: Colour and marker of each model, so that neither alone has to tell them apart.
MODELS = {
    "LN": (BLUE, "o"),
    "looped": (BLUE, "o"),
    "no LN, norm.": (ORANGE, "s"),
    "no LN, unnorm.": (GREEN, "^"),
}
#: Snapshots or sizes in order: from light to dark, with different markers.
ORDER = (("#56B4E9", "o"), (ORANGE, "s"), (GREEN, "^"), (BLUE, "D"), ("#CC79A7", "v"))
SMALL = 8
#: Angles below this are not drawn: float64 and the noise of the active blocks end above it.
FLOOR = 1e-13


def sheet(
    rows: int, columns: int, title: str, height: float = 2.7, width: float = 3.3
) -> tuple[Figure, np.ndarray]:
    """A figure and its (rows, columns) panels; the title says what was trained, and for how
    long.
    """
    figure = Figure(figsize=(width * columns, height * rows + 0.5), layout="constrained")
    figure.suptitle(textwrap.fill(title, round(35 * width * columns / 3.3)), fontsize=10)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.ravel():
        axes.tick_params(labelsize=SMALL)
        axes.xaxis.label.set_fontsize(SMALL + 1)
        axes.yaxis.label.set_fontsize(SMALL + 1)
    return figure, panels


def about(run: Trained) -> str:
    """The sizes that the paper's text lost, in words."""
    s = run.sizes
    return (
        f"d = {run.d}, n = {run.n}, SGD on {s.train} matrices, batch {s.batch}, {s.iterations} "
        "iterations"
    )


def caption(axes: Any, text: str) -> None:
    axes.set_title(text, fontsize=SMALL + 1)


def heat(figure: Figure, axes: Any, matrix: np.ndarray, name: str) -> None:
    """A heat map of P or Q, its four blocks told apart by lines, zero white."""
    top = float(np.abs(matrix).max()) or 1.0
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-top, vmax=top)
    half = matrix.shape[0] / 2 - 0.5
    axes.axhline(half, color=BLACK, lw=0.6)
    axes.axvline(half, color=BLACK, lw=0.6)
    axes.set(xticks=[], yticks=[])
    caption(axes, name)
    figure.colorbar(image, ax=axes, shrink=0.85).ax.tick_params(labelsize=SMALL - 1)


def parameters(axes: Any, run: Trained, slope: int = 0) -> None:
    """a, b and c = ab of SGD as markers, of the exact population descent as lines; with the slope
    1/p of c if p is given.
    """
    records = run.exact.records
    exact = dict(zip("ab", records.weights, strict=True)) | {"c": records.c}
    styles = {"c": (BLUE, "o"), "a": (ORANGE, "s"), "b": (GREEN, "^")}
    late = run.step > 0
    for name, (colour, marker) in styles.items():
        seen = run.c if name == "c" else getattr(run, name)
        shown = f"{name} = ab" if name == "c" else name
        axes.plot(run.step[late], seen[late], marker, color=colour, ms=3.5, label=f"{shown}, SGD")
        old = records.step > 0
        t, value = records.step[old].astype(float), exact[name][old]
        if t[-1] < run.step[-1]:  # it has converged
            t, value = np.append(t, run.step[-1]), np.append(value, value[-1])
        axes.plot(t, value, color=colour, lw=1, label=f"{shown}, exact")
        if slope:
            p = slope if name == "c" else 2 * slope
            label = f"slopes 1/{slope}, 1/{2 * slope}" if name == "c" else None
            last = t >= t[-1] / 50
            axes.plot(
                t[last],
                1.25 * value[-1] * (t[last] / t[-1]) ** (1 / p),
                ":",
                color=GREY,
                lw=1.5,
                label=label,
            )
    axes.set(xscale="log", yscale="log", xlabel="iteration t")
    axes.legend(fontsize=SMALL - 1.5, ncols=2)


def loss(axes: Any, run: Trained, name: str, which: str, style: tuple[str, str]) -> None:
    """The training or the test loss of SGD as markers, the exact population loss as a dashed line
    of the same colour.
    """
    colour, marker = style
    axes.plot(run.step + 1, getattr(run, f"{which}_loss"), marker, color=colour, ms=3.5, label=name)
    records = run.exact.records
    t, value = records.step + 1.0, np.asarray(run.exact.losses)
    if t[-1] <= run.step[-1]:
        t, value = np.append(t, run.step[-1] + 1), np.append(value, value[-1])
    axes.plot(t, value, "--", color=colour, lw=1)


def angles(
    run: Trained, record: int, X: np.ndarray, q: np.ndarray, loops: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """sin of the angle after 1 ... loops loops of the SGD weights, the same by the exact formula at
    the population's c_t, and that c_t.
    """
    from popgd.papers.power_method.model import Weights

    S = inference.split(X)
    weights = Weights(run.P[record], run.Q[record])  # pyright: ignore
    out = np.asarray(inference.outputs(weights, X, q, loops, run.layer_norm))  # pyright: ignore
    c = float(np.interp(run.step[record], run.exact.records.step, run.exact.records.c))
    exact = inference.angles(S, inference.query(S, q), c, np.arange(1, loops + 1))
    return np.exp(inference.measured(S, out).sin), np.exp(exact.sin), c


def power_method(X: np.ndarray, q: np.ndarray, loops: int) -> np.ndarray:
    """sin of the angle after 1 ... loops steps of the power method."""
    S = inference.split(X)
    return np.exp(inference.angles(S, inference.query(S, q), np.inf, np.arange(1, loops + 1)).sin)


def angle_lines(
    axes: Any, seen: np.ndarray, exact: np.ndarray, label: str, style: tuple[str, str]
) -> None:
    """Measured angles as markers, the exact formula at the population's c_t as a dashed line."""
    k, (colour, marker) = np.arange(1, seen.size + 1), style
    axes.semilogy(
        k, np.where(seen > FLOOR, seen, np.nan), marker, color=colour, ms=3.5, label=label
    )
    axes.semilogy(k, np.where(exact > FLOOR, exact, np.nan), "--", color=colour, lw=1)


def power_line(axes: Any, X: np.ndarray, q: np.ndarray, loops: int) -> None:
    line = power_method(X, q, loops)
    axes.semilogy(
        np.arange(1, loops + 1),
        np.where(line > FLOOR, line, np.nan),
        "-",
        color=BLACK,
        lw=1,
        label="power method",
    )
