"""L equal steps of gradient descent in context against L free ones: the price of looping tends to
the Catalan numbers.

    python experiments/looped_unlooped.py

draws figures/looped_unlooped.png and .svg and writes the numbers to figures/looped_unlooped.json.
Left: the least loss of L loops (lines) and of L free step sizes (dashed) for d = 10 against n,
exact rational numbers; both fall like n^-L. Right: their ratio at n = 10,000 d, against d, and the
Catalan numbers 1, 2, 5, 14 (dotted), its limit for d -> infinity and d/n -> 0.
"""

from math import comb

from common import save
from matplotlib.figure import Figure

from popgd.papers.in_context import wishart
from popgd.theorem.plot import BLACK, BLUE, GREEN, GREY, ORANGE

COLOURS = {1: GREY, 2: BLUE, 3: ORANGE, 4: GREEN}
D, LONG = 10, 10**4


def main() -> None:
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    examples, features = [round(10 ** (1 + k / 4)) for k in range(17)], [2**k for k in range(1, 15)]
    numbers = []
    for L, colour in COLOURS.items():
        looped = [wishart.least_loss(n, D, L) for n in examples]
        free = [wishart.unlooped(n, D, L) for n in examples]
        left.loglog(examples, looped, color=colour, label=f"L = {L}")
        left.loglog(examples, free, "--", color=colour)
        ratio = [
            wishart.least_loss(LONG * d, d, L) / wishart.unlooped(LONG * d, d, L) for d in features
        ]
        right.loglog(features, ratio, "o-", ms=3, color=colour, label=f"L = {L}")
        right.axhline(comb(2 * L, L) // (L + 1), ls=":", color=BLACK, lw=0.9)
        numbers.append(
            {"L": L, "n": examples, "looped": looped, "free": free, "d": features, "ratio": ratio}
        )
    left.set(xlabel="examples n", ylabel="least loss", title=f"d = {D}; dashed: free step sizes")
    right.set(
        xlabel="features d",
        ylabel="looped / free",
        title=f"n = {LONG:,} d; dotted: Catalan numbers",
    )
    for axes in (left, right):
        axes.legend(fontsize=8)
    save(figure, "looped_unlooped", numbers)


if __name__ == "__main__":
    main()
