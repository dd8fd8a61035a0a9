"""(e) Which changes of loss, layer and optimiser keep the manifold attracting."""

from typing import Any

import numpy as np
import optax
from common import save
from matplotlib.figure import Figure
from stability_full import Variant, beside, descend, look
from stability_setting import BATCH, LAW, LAYER, LINEAR, SUBSPACE, TEST, D

from popgd import kronecker


def repair() -> None:
    """(e) Which changes keep the manifold attracting: all entries from 1e-2 beside it, on fresh samples."""
    steps, size, rows = 1500, 1e-2, []
    for theorem, objective, norm, eta in (("4.1", SUBSPACE, "LN", 0.5), ("4.2, y = Sq", LINEAR["unnormalised"], "none", 0.04),
                                          ("4.3", LAYER, "LN", 0.5)):  # fmt: skip
        plain, sgd = Variant(objective, norm), optax.sgd(eta)
        decayed = optax.chain(optax.add_decayed_weights(1e-2), sgd)
        adam, momentum = optax.adam(1e-3), optax.sgd(eta / 10, momentum=0.9)
        changes = [("none", plain, sgd), ("Adam, 1e-3", plain, adam), ("weight decay 1e-2", plain, decayed)]
        changes.append(("momentum 0.9, eta/10", plain, momentum))
        if norm == "LN":
            changes.append(("f normalised", Variant(objective, norm, unit=True), sgd))
            changes.append(("LN eps 1e-2", Variant(objective, norm, 1e-2), sgd))
            changes.append(("mean-centred LN", Variant(objective, "centred LN"), sgd))
        for change, variant, optimiser in changes:
            starts = [beside(kronecker.point(1.0, 0.1), D, start, 12) for start in (0.0, size)]
            runs = descend(variant, optimiser, LAW, starts, np.array([1, steps // 4, steps]), BATCH, 13)
            for start, run in zip((0.0, size), runs, strict=True):
                seen = look(variant, LAW, run, TEST, 4)
                rows.append({"theorem": theorem, "change": change, "size": start, "eta": eta, **seen})
                print(theorem, change, start, [round(x, 4) for x in seen["loss"]], seen["square"][-1], seen["M"], flush=True)
    save(table(rows), "stability_repair", rows)


def table(rows: list[dict[str, Any]]) -> Figure:
    """One line for each change: loss and ||f||^2 at the end from on and from beside the manifold, and the distance from it."""
    lines = []
    for on, off in zip(rows[::2], rows[1::2], strict=True):
        grew = off["M"][-1] / off["M"][0]
        collapse = off["square"][-1] < 0.1 and on["theorem"] != "4.2, y = Sq"
        verdict = "collapse" if collapse else "leaves" if grew > 10 else "stays near" if grew < 2 else "drifts"
        ends = [f"{on['loss'][-1]:.4f}", f"{off['loss'][-1]:.4f} ± {off['loss_error'][-1]:.1g}", f"{off['square'][-1]:.3f}"]
        ways = [f"{on['M'][-1]:.2g}", f"{off['M'][0]:.2g} to {off['M'][-1]:.2g}"]
        lines.append([on["theorem"], on["change"], *ends, *ways, verdict])
    figure = Figure(figsize=(10, 0.3 * len(lines) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    heads = [
        "theorem",
        "change",
        "loss, from M",
        "loss, from 1e-2 beside",
        "E|f|^2",
        "distance, from M",
        "distance, from beside",
        "outcome",
    ]
    drawn = axes.table(cellText=lines, colLabels=heads, loc="center", cellLoc="left")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7)
    drawn.auto_set_column_width(list(range(len(heads))))
    return figure
