"""Over all matrices a* I is a saddle: an antisymmetric perturbation grows, and descent finds a
lower loss.

    python experiments/looped_saddle.py

draws figures/looped_saddle.png and .svg and writes the numbers to figures/looped_saddle.json. d =
4, n = 100, eta = 0.5, from a* I + 1e-4 K, K antisymmetric, exact. Left: the antisymmetric part;
dotted, its growth by 1 - eta h_asym a step, from the Hessian. Right: the loss over that at a* I,
the least among symmetric matrices. For L = 1 the perturbation dies out instead.
"""

import numpy as np
from common import save
from matplotlib.figure import Figure

from popgd import check
from popgd.papers.in_context import wishart
from popgd.theorem.plot import BLUE, GREEN, GREY, ORANGE

SIZES = {"d": 4, "n": 100, "eta": 0.5}
COLOURS = {1: GREY, 2: BLUE, 3: ORANGE, 4: GREEN}


def main() -> None:
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = []
    for L, colour in COLOURS.items():
        values = check("gatmiry.minimiser-all", L=L, **SIZES).studies[""].values
        step, blocks, ratio = (values[f"escape/{name}"] for name in ("step", "blocks", "ratio"))
        size = np.sqrt(2 * (blocks[:, 1] ** 2).sum(axis=1))
        h = wishart.hessian(
            SIZES["n"], SIZES["d"], L, wishart.minimiser(SIZES["n"], SIZES["d"], L)
        ).h_asym
        early = step <= 1500
        left.semilogy(step[early], size[early], "o-", ms=3, color=colour, label=f"L = {L}")
        t = np.linspace(0, 400, 100)
        left.semilogy(t, size[0] * abs(1 - SIZES["eta"] * h) ** t, ":", color=colour)
        right.plot(step, ratio, color=colour, label=f"L = {L}")
        print(f"L = {L}: h_asym = {h:.6g}, loss {ratio[-1]:.6f} of that at a* I", flush=True)
        numbers.append(
            {
                "L": L,
                "h_asym": h,
                "step": step.tolist(),
                "antisymmetric": size.tolist(),
                "ratio": ratio.tolist(),
            }
        )
    left.set(
        xlabel="gradient step t",
        ylabel="norm of the antisymmetric part",
        ylim=(1e-8, 1),
        title="dotted: 1 - eta h_asym a step",
    )
    right.set(
        xlabel="gradient step t",
        ylabel="loss / loss at a* I",
        xscale="symlog",
        title="d = 4, n = 100",
    )
    for axes in (left, right):
        axes.legend(fontsize=8)
    save(figure, "looped_saddle", numbers)


if __name__ == "__main__":
    main()
