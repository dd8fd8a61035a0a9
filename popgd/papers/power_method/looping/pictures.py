"""Pictures of a trained layer looped on other data: angles against loops, and the contraction
factor against training.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from popgd.papers.power_method.looping import inference
from popgd.theorem.plot import BLACK, BLUE, GREEN, GREY, ORANGE

#: Angles below this are rounding; they are not drawn.
FLOOR = 1e-17
COLOURS = {"LN": BLUE, "looped": BLUE, "norm": ORANGE, "unnorm": GREEN}


def figures(study: Any, title: str) -> dict[str, Figure]:
    return {"angles": _angle_picture(study, title), "factors": _factor_picture(study, title)}


def _angle_picture(study: Any, title: str) -> Figure:
    """sin theta_k of the last snapshot and the first query on every matrix: dots measured, lines
    exact, bounds shaded.
    """
    count = len(next(iter(study.runs.values())))
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.4 * columns + 1, 2.9 * rows + 0.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
    for axes in panels[count:]:
        axes.set_visible(False)
    marker = "." if study.depths.size > 1 else "o"
    for trained, runs in study.pairs():
        for axes, run in zip(panels, runs, strict=False):
            seen, colour = run.trusted[-1, 0], COLOURS[trained.name]
            upper, lower = (
                np.exp(np.maximum(x[-1, 0], np.log(FLOOR)))
                for x in (run.bounds.upper, run.bounds.sharper)
            )
            axes.fill_between(
                study.depths, lower, np.minimum(upper, 1), color=colour, alpha=0.18, lw=0
            )
            axes.semilogy(
                study.depths,
                np.exp(np.maximum(run.exact.sin[-1, 0], np.log(FLOOR))),
                color=colour,
                lw=1,
            )
            axes.semilogy(
                study.depths[seen],
                np.exp(run.measured.sin[-1, 0])[seen],
                marker,
                color=colour,
                ms=4,
                label=trained.name,
            )
            axes.set(title=run.test.words, xlabel="loops", ylim=(FLOOR, 2))
            axes.title.set_fontsize(9)
    panels[0].set_ylabel("sin of the angle")
    panels[0].legend(fontsize=8)
    figure.suptitle(
        f"{title}: looped on other data (dots, while float64 lasts), exact (lines), bounds "
        "(shaded)",
        fontsize=10,
    )
    return figure


def _factor_picture(study: Any, title: str) -> Figure:
    """The factor a loop on the first matrix against training steps: dots measured, lines
    gamma(c_t), dashed the limit.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    spectrum = None
    for trained, runs in study.pairs():
        spectrum, records, colour = runs[0].test.spectrum, trained.records, COLOURS[trained.name]
        late = (records.step > 0) & np.isfinite(records.c)
        gamma = np.exp([inference.log_factor(spectrum, c) for c in records.c[late]])
        axes.semilogx(records.step[late], gamma, color=colour, label=f"{trained.name}: gamma(c_t)")
        axes.semilogx(
            trained.snapshots[0], runs[0].factors(study.depths).value, "o", color=colour, ms=5
        )
    if spectrum is not None:
        axes.axhline(spectrum.ratio, ls="--", color=GREY, label="power method")
    axes.axhline(1, lw=0.6, color=BLACK)
    axes.set(
        xlabel="training step t",
        ylabel="contraction factor a loop",
        title=f"{title}: {_runs_words(study)}",
    )
    axes.legend(fontsize=8)
    return figure


def _runs_words(study: Any) -> str:
    first: Any = next(iter(study.runs.values()))[0]
    return first.test.words
