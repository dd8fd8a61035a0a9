"""(i) Is the manifold a saddle of the repaired losses? The lowest curvature across it, whatever a descent had time for."""

from typing import Any

import jax
import numpy as np
from common import save
from matplotlib.figure import Figure
from stability_full import Variant, start_of
from stability_setting import LAW, LAYER, LINEAR, SUBSPACE, known

from popgd import hessian
from popgd.kronecker import ACTIVE

#: Samples of each of two Hessians.
SAMPLES = 2**11
STAR = float(known(LINEAR["unnormalised"]).c_star().value)
#: Theorem, change of the loss or layer, c. Optimisers do not change the loss; weight decay w adds w to every curvature.
CASES = (
    ("4.1", "none", Variant(SUBSPACE), 2.0),
    ("4.1", "f normalised", Variant(SUBSPACE, unit=True), 2.0),
    ("4.1", "LN eps 1e-2", Variant(SUBSPACE, eps=1e-2), 2.0),
    ("4.3", "none", Variant(LAYER), 2.0),
    ("4.3", "f normalised", Variant(LAYER, unit=True), 2.0),
    ("4.3", "LN eps 1e-2", Variant(LAYER, eps=1e-2), 2.0),
    ("4.2, y = Sq", "none", Variant(LINEAR["unnormalised"], "none"), STAR),
)


def curvatures() -> None:
    """At a = b = sqrt c: eigenvectors of one sampled Hessian with their curvatures in another, but for motion along the manifold.

    Mean-centred LN is missing: it is not invariant under rotations, and Schur's lemma does not hold.
    """
    rows: list[dict[str, Any]] = []
    for theorem, change, variant, c in CASES:
        found, fresh = (hessian.population_hessian(variant, start_of(c), LAW, jax.random.key(k), SAMPLES) for k in (14, 15))
        for sector in hessian.SECTORS:
            modes = [m for m in hessian.modes(found, fresh) if m.sector == sector and not along(m)]
            for mode in (modes[0], modes[-1]):
                row = {"curvature": mode.curvature, "error": mode.error, "mode": mode.name, "vector": mode.vector.tolist()}
                rows.append({"theorem": theorem, "change": change, "c": c, "sector": sector, **row})
            print(theorem, change, sector, modes[0].name, modes[0].curvature, modes[0].error, flush=True)
    save(table(rows), "stability_curvatures", rows)


def along(mode: hessian.Mode) -> bool:
    """Whether a mode moves along the manifold rather than away from it."""
    return mode.sector == hessian.SECTORS[0] and float(np.sum(mode.vector[list(ACTIVE)] ** 2)) > 0.5


def table(rows: list[dict[str, Any]]) -> Figure:
    """One line for each loss: the lowest curvature of each sector."""
    lines = []
    for theorem, change, _, c in CASES:
        mine = [row for row in rows if (row["theorem"], row["change"]) == (theorem, change)]
        low = mine[::2]
        words = [f"{row['curvature']:.2g} ± {row['error']:.1g}  {row['mode']}" for row in low]
        saddle = any(row["curvature"] < -4 * row["error"] for row in low)
        worst = min(row["curvature"] for row in low)
        lines.append([theorem, change, f"{c:.3g}", *words, "saddle" if saddle else "none seen", f"{max(0.0, -worst):.2g}"])
    figure = Figure(figsize=(10, 0.3 * len(lines) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    heads = ["theorem", "change", "c", *hessian.SECTORS, "outcome", "decay needed"]
    drawn = axes.table(cellText=lines, colLabels=heads, loc="center", cellLoc="left")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7)
    drawn.auto_set_column_width(list(range(len(heads))))
    return figure
