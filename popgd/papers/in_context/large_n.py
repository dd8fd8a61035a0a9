"""Claims about the minimiser among symmetric A for many examples: its bracket and its laws."""

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import numpy as np

from popgd.claims.evidence import Evidence, known
from popgd.papers.in_context import wishart
from popgd.papers.in_context.common import ROUNDED, Study

#: n, in units of d, of the laws for many examples: their next order is 1e-8 d.
MANY = 10**8
#: d of the proportional limit, and its two ratios d/n.
PROPORTIONAL, RATIOS = 256, (Fraction(1, 10), Fraction(1))


def _bracket_width(n: int, d: int, L: int) -> float:
    """c = 8 delta d^{1/2L},   delta = (8Ld/sqrt n)^{1/2L}."""
    return 8 * (8 * L * d / float(n) ** 0.5 * d) ** (1 / (2 * L))


def bracket(study: Study) -> Iterator[Evidence]:
    """Row 4: Theorem 3.2 as transcribed, at an n where it says something."""
    n, d, L = study.sizes
    while _bracket_width(n, d, L) > 0.5:
        n = 10 ** len(str(n))
    yield known(
        "minimiser-bracket",
        f"(1 - c) Sigma^-1 <= A <= (1 + c) Sigma^-1 at n = {n:.0e}, c = "
        f"{_bracket_width(n, d, L):.4g}: |1 - a*|/c",
        "Theorem 3.2, as transcribed; empty (c > 1) at smaller n",
        predicted=1.0,
        measured=abs(1 - wishart.a_star(n, d, L)) / _bracket_width(n, d, L),
        error=ROUNDED,
        resolution=0.01,
        reason="rounded once",
        sense="at most",
    )


def gaussian_trace(d: int, k: int) -> int:
    """E tr H^k of the symmetric Gaussian matrix E H_ab H_ce = 1_ac 1_be + 1_ae 1_bc, the limit of
    sqrt(n) (S - I).

    E[tr H^k R] = (k-1) E[tr H^{k-2} R] + sum_{l=0}^{k-2} E[tr H^l tr H^{k-2-l} R] + sum_{m in R} 2m
    E[tr H^{k+m-2} R/tr H^m]
    """

    @cache
    def mean(powers: tuple[int, ...]) -> int:
        if not powers:
            return 1
        rest, k = powers[:-1], powers[-1]
        if k == 0:
            return d * mean(rest)
        terms: Counter[tuple[int, ...]] = Counter({(*rest, k - 2): k - 1} if k > 1 else {})
        terms.update((*rest, l, k - 2 - l) for l in range(k - 1))
        for i, m in enumerate(rest):
            if m:
                terms[(*rest[:i], *rest[i + 1 :], k + m - 2)] += 2 * m
        return sum(factor * mean(tuple(sorted(term))) for term, factor in terms.items())

    return mean((k,))


def asymptotics(study: Study) -> Iterator[Evidence]:
    """Rows 5 and 6: a* and the least loss for n much larger than d, and for d/n fixed."""
    _, d, L = study.sizes
    n = MANY * d
    kappa = {1: Fraction(d + 1), 2: Fraction(3 * d * d + 8 * d + 9, 3 * (d + 1))}.get(L)
    exact = {"predicted": 1.0, "error": 1e-12, "resolution": 1e-4}
    if kappa is not None:
        rate = [float((1 - wishart.minimiser(m, d, L)) * m / kappa) for m in (n, 4 * n)]
        yield known(
            "a-star-rate",
            f"1 - a* ~ kappa/n, kappa = {float(kappa):.10g}: ratio at n = {n:.0e}",
            "derived: expansion in 1/n",
            measured=rate[0],
            allowance=2 * abs(rate[0] - rate[1]),
            reason="next order in 1/n, twice what four times the examples change",
            **exact,
        )
    constant = gaussian_trace(d, 2 * L)
    ratio = [wishart.least_loss(m, d, L) / constant * float(m) ** L for m in (n, 4 * n)]
    yield known(
        "least-loss-rate",
        f"The least loss is {constant}/n^{L} for large n, E tr H^{2 * L} of a symmetric Gaussian "
        f"matrix: ratio at n = {n:.0e}",
        "derived: sqrt(n) (S - I) -> H",
        measured=ratio[0],
        allowance=2 * abs(ratio[0] - ratio[1]),
        reason="next order in 1/n, twice what four times the examples change",
        **exact,
    )
    size = PROPORTIONAL * L
    gaps = np.array(
        [
            [wishart.a_star(int(m / y), m, L) - float(1 / (1 + y)) for y in RATIOS]
            for m in (size, 4 * size)
        ]
    )
    yield known(
        "proportional-limit",
        f"a* -> 1/(1 + d/n) for d/n = 1/10 and 1: its error falls fourfold from d = {size} to "
        f"{4 * size}",
        "derived: Marchenko-Pastur",
        measured=gaps[0] / gaps[1] / 4,
        allowance=0.15,
        reason="next order in 1/d",
        **{**exact, "resolution": 0.25},
    )
