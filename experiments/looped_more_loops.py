"""More loops at test than in training: the median error goes to 0, the mean falls and then
diverges.

    python experiments/looped_more_loops.py

draws figures/looped_more_loops.png and .svg and writes the numbers to
figures/looped_more_loops.json. d = 10, n = 50, A = a* Sigma^-1 for L = 1, 2, 3 loops in training
(ticks on the curves). The mean squared error over prompts is exact; the rare prompts with an
eigenvalue of a* S above 2 carry it. The median over 4,096 prompts is sampled, with its 99 %
interval from order statistics (shaded); it hardly depends on L.
"""

import numpy as np
from common import save
from matplotlib.figure import Figure

from popgd.papers.in_context import wishart
from popgd.papers.in_context.prompts import PROMPTS, mean_errors, wishart_spectra
from popgd.theorem.plot import BLUE, GREEN, ORANGE

D, N, LOOPS = 10, 50, np.unique(np.geomspace(1, 60, 40).astype(int))
COLOURS = {1: GREEN, 2: BLUE, 3: ORANGE}


def medians(a: float) -> np.ndarray:
    """(loops, 3): the median squared error and its interval."""
    rng = np.random.default_rng(0)
    s, V = wishart_spectra(rng, N, D, PROMPTS)
    left, right = (np.einsum("pij,pi->pj", V, rng.normal(size=(PROMPTS, D))) for _ in range(2))
    errors = np.stack([np.sum(left * right * (1 - a * s) ** int(T), axis=1) ** 2 for T in LOOPS])
    half = 2.576 * 0.5 / PROMPTS**0.5
    return np.quantile(errors, [0.5, 0.5 - half, 0.5 + half], axis=1).T


def main() -> None:
    figure = Figure(figsize=(6.8, 4.4), layout="constrained")
    axes = figure.subplots()
    numbers = []
    for L, colour in COLOURS.items():
        a = wishart.a_star(N, D, L)
        mean, middle = mean_errors(N, D, a), medians(a)
        axes.loglog(
            range(1, len(mean) + 1),
            mean,
            color=colour,
            label=f"trained for {L}: mean, least at {np.argmin(mean) + 1}",
        )
        axes.plot(L, mean[L - 1], "|", ms=14, color=colour)
        axes.loglog(LOOPS, middle[:, 0], "--", color=colour, label=f"trained for {L}: median")
        axes.fill_between(LOOPS, middle[:, 1], middle[:, 2], color=colour, alpha=0.2, lw=0)
        print(f"L = {L}: the mean is least at {np.argmin(mean) + 1} loops", flush=True)
        numbers.append(
            {"L": L, "a_star": a, "mean": mean, "loops": LOOPS.tolist(), "median": middle.tolist()}
        )
    axes.set(
        xlabel="loops at test",
        ylabel="squared error",
        xlim=(0.9, 60),
        ylim=(1e-12, 1e3),
        title=f"d = {D}, n = {N}",
    )
    axes.legend(fontsize=8, loc="upper right")
    save(figure, "looped_more_loops", numbers)


if __name__ == "__main__":
    main()
