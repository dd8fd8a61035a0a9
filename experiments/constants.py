"""Increments of c^2 (4.1) and c^3 (4.3) over eighteen decades against their limits 4 eta kappa/d
and 6 eta C1/d.

    python experiments/constants.py

draws figures/constants.png and .svg and writes the numbers to figures/constants.json.
"""

import numpy as np
from common import CURVES, records, save
from matplotlib.figure import Figure

STEPS = 10**18
CASES = (
    ("4.1", (8, 5, 4, 2, 1), 3),
    ("4.1", (6, 6, 3, 3, 1, 1), 3),
    ("4.1", (30, 9.5, 0.4, 0.1), 3),
    ("4.3", (8, 5, 4, 2, 1), 1),
    ("4.3", (6, 6, 3, 3, 1, 1), 1),
    ("4.3", (30, 9.5, 0.4, 0.1), 1),
)


def main() -> None:
    figure = Figure(figsize=(6.8, 4.4), layout="constrained")
    axes = figure.subplots()
    numbers = []
    for theorem, spectrum, L in CASES:
        exact, d, eta = records(theorem, spectrum, L, STEPS)
        p = CURVES[theorem][1]
        limit = 2 * p * eta * float(exact.curve.constant().value) / d
        step = exact.records.dc2 if p == 2 else exact.records.dc3
        seen = exact.records.step >= 1
        t, gap = exact.records.step[seen], np.abs(step[seen] / limit - 1)
        style = "-" if theorem == "4.1" else "--"
        axes.loglog(t, gap, style, lw=1.3, label=f"{theorem}, {list(spectrum)}")
        numbers.append(
            {
                "theorem": theorem,
                "spectrum": spectrum,
                "L": L,
                "d": d,
                "eta": eta,
                "limit": limit,
                "step": t.tolist(),
                "relative_gap": gap.tolist(),
            }
        )
    axes.set(xlabel="gradient step t", ylabel="|increment / limit - 1|",
             title="Increments of c^2 (4.1) and c^3 (4.3) approach their constants")  # fmt: skip
    axes.legend(fontsize=7, title="theorem, spectrum", title_fontsize=7)
    save(figure, "constants", numbers)


if __name__ == "__main__":
    main()
