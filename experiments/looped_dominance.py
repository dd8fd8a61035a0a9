"""Gradient dominance: the squared gradient over l^((2L-1)/L) against the loss, for random symmetric
A.

    python experiments/looped_dominance.py

draws figures/looped_dominance.png and .svg and writes the numbers to figures/looped_dominance.json.
d = 5, L = 2 and 3, exact. At n = 10^14 the ratio stays between 4 L^2 d^(-(L-1)/L) and 4 L^2
(dotted). With fewer examples it falls to 0 as the loss comes to its least (at the left end of each
curve): the inequality with 1/16 (dashed) fails only within the factor 1 + l_min^((L-1)/L)/(32
h_sym) of the least loss.
"""

import jax.numpy as jnp
import numpy as np
from common import save
from matplotlib.figure import Figure

from popgd.papers.in_context import wishart
from popgd.papers.in_context import wishart_loss as exact
from popgd.papers.in_context.dominance import DOMINANCE, losses_and_slopes
from popgd.theorem.plot import BLACK, BLUE, GREEN, GREY, ORANGE

D = 5
COLOURS = {10**14: GREY, 10**4: GREEN, 50: BLUE}
MATRICES = 1000


def matrices(star: float) -> np.ndarray:
    """Symmetric matrices from the size of I down to 1e-5 of it away from a* I."""
    rng = np.random.default_rng(0)
    R = np.linalg.qr(rng.normal(size=(MATRICES, D, D)))[0]
    values = star + rng.uniform(-1, 2, (MATRICES, 1, D)) * 10 ** rng.uniform(
        -5, 0, (MATRICES, 1, 1)
    )
    A = (R * values) @ R.transpose(0, 2, 1)
    return (A + A.transpose(0, 2, 1)) / 2


def main() -> None:
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    numbers = []
    for axes, L in zip(figure.subplots(1, 2), (2, 3), strict=True):
        for n, colour in COLOURS.items():
            loss, square = losses_and_slopes(
                exact.polynomial(n, D, L), jnp.asarray(matrices(wishart.a_star(n, D, L)))
            )
            ratio = np.asarray(square) / np.asarray(loss) ** ((2 * L - 1) / L)
            axes.loglog(
                loss,
                ratio,
                ".",
                ms=2,
                rasterized=True,
                color=colour,
                label=f"n = {n:,}" if n < 1e6 else "n = 10^14",
            )
            numbers.append(
                {
                    "L": L,
                    "n": n,
                    "least": wishart.least_loss(n, D, L),
                    "loss": np.asarray(loss).tolist(),
                    "ratio": ratio.tolist(),
                }
            )
        axes.axhline(DOMINANCE, ls="--", color=ORANGE, label="1/16")
        for level in (4 * L * L * D ** (-(L - 1) / L), 4 * L * L):
            axes.axhline(level, ls=":", color=BLACK, lw=1)
        axes.set(
            xlabel="loss",
            ylabel=r"$\|\nabla l\|^2 \, / \, l^{(2L-1)/L}$",
            title=f"L = {L}, d = {D}",
            ylim=(1e-4, 1e3),
            xlim=(1e-12, 1e3),
        )
        axes.legend(fontsize=8, loc="lower right", markerscale=4)
    save(figure, "looped_dominance", numbers)


if __name__ == "__main__":
    main()
