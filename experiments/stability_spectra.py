"""(c) The lowest and the highest curvature of each sector of the Hessian, on the manifold."""

from typing import Any

import jax
from common import save
from matplotlib.figure import Figure
from stability_full import start_of
from stability_setting import LAW, LAYER, LINEAR, SUBSPACE, known

from popgd.papers.power_method.objectives import SubspaceDistance
from popgd.papers.power_method.stability import hessian
from popgd.theorem.plot import BLUE, GREEN, GREY, ORANGE

#: Samples of a Hessian of three layers; of one layer twice as many.
HESSIAN = 2**11


def spectra() -> None:
    """(c) The lowest and the highest curvature of each sector along a = b = sqrt c."""
    numbers = []
    cases = (
        ("4.1, L = 1", SUBSPACE),
        ("4.1, L = 3", SubspaceDistance(3)),
        ("4.3", LAYER),
        ("4.2, y = Sq", LINEAR["unnormalised"]),
    )
    for name, objective in cases:
        samples = HESSIAN * (1 if objective.L == 3 else 2)
        places = (
            (0.1, 0.3, 1.0, 2.0, 6.0)
            if objective.layer_norm
            else (0.1, 0.3, 0.6, float(known(objective).c_star().value))
        )
        for c in places:
            found, fresh = (
                hessian.population_hessian(objective, start_of(c), LAW, jax.random.key(k), samples)
                for k in (5, 6)
            )
            for mode in hessian.modes(found, fresh):
                numbers.append(
                    {"case": name, "c": c, **mode._asdict(), "vector": mode.vector.tolist()}
                )
    save(draw_spectra(numbers), "stability_spectra", numbers)


def draw_spectra(numbers: list[dict[str, Any]]) -> Figure:
    """One panel for each case."""
    cases = list(dict.fromkeys(m["case"] for m in numbers))
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(cases)), cases, strict=True):
        places = list(dict.fromkeys(m["c"] for m in numbers if m["case"] == name))
        for sector, colour in zip(hessian.SECTORS, (BLUE, ORANGE, GREEN), strict=True):
            for pick, line in ((min, "-"), (max, ":")):
                rows = [
                    [m for m in numbers if (m["case"], m["c"], m["sector"]) == (name, c, sector)]
                    for c in places
                ]
                modes = [pick(row, key=lambda m: m["curvature"]) for row in rows]
                axes.errorbar(
                    places,
                    [m["curvature"] for m in modes],
                    [2 * m["error"] for m in modes],
                    ls=line,
                    color=colour,
                    lw=1.2,
                    label=sector if pick is min else None,
                )
        axes.axhline(0, color=GREY, lw=0.6)
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.set(xscale="log" if max(places) > 1 else "linear", title=name, xlabel="c")
    figure.axes[0].set_ylabel("curvature, lowest (solid), highest (dotted)")
    figure.axes[0].legend(fontsize=7)
    return figure
