"""(g) Where descent of all entries ends: step sizes, layers, dimensions, batches, and starts with
no structure at all.
"""

from typing import Any

import jax
import numpy as np
import optax
from common import save, table
from matplotlib.figure import Figure
from stability_full import Variant, beside, descend, look
from stability_setting import LAM, LAYER, LINEAR, SUBSPACE, TEST

from popgd.papers.power_method import kronecker
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import SubspaceDistance
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.stability import prediction

#: Objective, spectrum, step size, batch, steps.
CASES = (
    ("4.1, L = 1", SUBSPACE, LAM, 0.1, 64, 1500),
    ("4.1, L = 1", SUBSPACE, LAM, 0.5, 16, 1000),
    ("4.1, L = 1", SUBSPACE, LAM, 0.5, 128, 1000),
    ("4.1, L = 1", SUBSPACE, LAM, 2.0, 64, 300),
    ("4.1, L = 1", SUBSPACE, (3.0, 2.0, 1.0), 0.5, 64, 1000),
    ("4.1, L = 2", SubspaceDistance(2), LAM, 0.2, 64, 1000),
    ("4.1, L = 3", SubspaceDistance(3), LAM, 1e-3, 64, 1000),
    ("4.1, L = 3", SubspaceDistance(3), LAM, 0.1, 64, 200),
    ("4.3", LAYER, LAM, 0.5, 64, 1000),
    ("4.2, y = Sq", LINEAR["unnormalised"], (3.0, 2.0, 1.0), 0.1, 64, 2000),
)
#: Sizes of the starts: exactly (I, 0), Gaussian entries beside it, and Gaussian entries only.
BESIDE, GENERIC = 1e-3, 0.2


def ends() -> None:
    """All cases from three starts each, with the loss on fresh samples, E|f|^2, and the distances
    from the two manifolds.
    """
    rows = [row for case in CASES for row in run(*case)]
    save(summary(rows), "stability_ends", rows)


def run(
    name: str, objective: Any, lam: tuple, eta: float, batch: int, steps: int
) -> list[dict[str, Any]]:
    law, plain = (
        Rotated.with_spectrum(lam),
        Variant(objective, "LN" if objective.layer_norm else "none"),
    )
    point, d = kronecker.point(1.0, 0.0), len(lam)
    generic = Weights(*(GENERIC * jax.random.normal(jax.random.key(9), (2, 2 * d, 2 * d))))
    starts = [beside(point, d, size, 2) for size in (0.0, BESIDE)] + [generic]
    limit = float(prediction.curve_of(objective, Spectrum.of(lam)).limit().value)
    grid = np.unique(np.array([1, 10, steps // 10, steps // 3, steps]))
    rows = []
    runs = descend(plain, optax.sgd(eta), law, starts, grid, batch, 3)
    for start, found in zip(("(I, 0)", f"{BESIDE:g} beside", "no structure"), runs, strict=True):
        seen = look(plain, law, found, TEST // 2, 4)
        rows.append(
            {
                "case": name,
                "spectrum": lam,
                "eta": eta,
                "batch": batch,
                "steps": steps,
                "limit": limit,
                "start": start,
                **seen,
            }
        )
        print(
            name,
            lam,
            eta,
            batch,
            start,
            [round(x, 5) for x in seen["loss"]],
            seen["square"][-1],
            seen["M"][-1],
            seen["N"][-1],
            flush=True,
        )
    return rows


def summary(rows: list[dict[str, Any]]) -> Figure:
    """One line for each start."""
    lines = []
    for row in rows:
        size = "(" + ",".join(f"{x:g}" for x in row["spectrum"]) + ")"
        how = [
            f"{row['eta']:g}",
            str(row["batch"]),
            str(row["steps"]),
            row["start"],
            f"{row['limit']:.4f}",
        ]
        reached = f"{row['loss'][-1]:.3g} ± {row['loss_error'][-1]:.1g}"
        lines.append(
            [
                row["case"],
                size,
                *how,
                reached,
                *(f"{row[name][-1]:.2g}" for name in ("square", "M", "N")),
            ]
        )
    heads = [
        "theorem",
        "spectrum",
        "eta",
        "batch",
        "steps",
        "start",
        "its limit",
        "loss, test",
        "E|f|^2",
    ]
    heads += ["distance from M", "from N"]
    return table(heads, lines, 10, 0.24)
