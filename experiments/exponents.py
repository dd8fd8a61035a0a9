"""The local exponent of c_t over eighteen decades of steps, exactly, for several L, d and spectra.

    python experiments/exponents.py

draws figures/exponents.png and .svg and writes the numbers to figures/exponents.json.
"""

from typing import Any

from common import CURVES, records, save
from matplotlib.figure import Figure

STEPS = 10**18
CASES = (
    ("4.1", (8, 5, 4, 2, 1), 3),
    ("4.1", (8, 5, 4, 2, 1), 1),
    ("4.1", (6, 6, 3, 3, 1, 1), 10),
    ("4.1", (30, 9.5, 0.4, 0.1), 3),
    ("4.3", (8, 5, 4, 2, 1), 1),
    ("4.3", (6, 6, 3, 3, 1, 1), 1),
    ("4.3", (30, 9.5, 0.4, 0.1), 1),
)


def main() -> None:
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    panels: dict[str, Any] = dict(zip(("4.1", "4.3"), figure.subplots(1, 2), strict=True))
    numbers = []
    for theorem, spectrum, L in CASES:
        exact, d, eta = records(theorem, spectrum, L, STEPS)
        p = CURVES[theorem][1]
        seen = exact.records.step >= 10
        t, c, dc = exact.records.step[seen], exact.records.c[seen], exact.records.dc[seen]
        slope = t * dc / c
        k2 = float(exact.curve.correction().value / exact.curve.constant().value)
        loops = f", L={L}" if theorem == "4.1" else ""
        line = panels[theorem].semilogx(t, slope, lw=1.3, label=f"{list(spectrum)}{loops}")[0]
        late = k2 / c < 0.3
        panels[theorem].semilogx(
            t[late], (1 / p) * (1 + k2 / c[late] / (p - 1)), ":", lw=2.2, color=line.get_color()
        )
        numbers.append(
            {
                "theorem": theorem,
                "spectrum": spectrum,
                "L": L,
                "d": d,
                "eta": eta,
                "step": t.tolist(),
                "exponent": slope.tolist(),
                "last": float(slope[-1]),
            }
        )
    for theorem, axes in panels.items():
        p = CURVES[theorem][1]
        axes.axhline(1 / p, color="#888888", ls="--", lw=1)
        axes.set(
            title=f"Theorem {theorem}: c grows like t^(1/{p})",
            xlabel="gradient step t",
            ylim=(0.15, 0.75),
        )
        axes.legend(fontsize=7, title="spectrum", title_fontsize=7)
    panels["4.1"].set_ylabel("local exponent t (c' - c)/c")
    save(figure, "exponents", numbers)


if __name__ == "__main__":
    main()
