"""The slope of l(a I), whose moments all else of this paper rests on, by sampled Wishart matrices.

    l'(a) = -2L E tr[S (I - a S)^(2L-1)],   S = W/n,   W = R R^T  Wishart(n, I)

R is lower triangular with independent entries: normal ones below the diagonal and roots of
chi-squared ones, of n, n - 1, ... degrees of freedom, on it (Bartlett 1933); for n < d the d x n
normal matrix itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from popgd.claims.evidence import Evidence, known
from popgd.descent import gradient
from popgd.descent.chunks import chunk_size
from popgd.descent.memory import Memory
from popgd.papers.in_context import model as in_context
from popgd.papers.in_context import wishart, wishart_loss
from popgd.papers.in_context.common import ROUNDED, Parts, Study, sampled_law
from popgd.papers.power_method import slopes
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.slopes import CHEAPER, Slopes
from popgd.papers.power_method.tilted import Slope
from popgd.problem.normal import normal
from popgd.problem.number import Number
from popgd.theorem.base import Progress, Setting

#: Points on the line, over a*: nearer to it, and for many loops, rare matrices carry the mean.
AT = (0.1, 0.3, 0.6)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Wishart:
    """S = W/n, W Wishart(n, I) of dimension d."""

    d: int
    n: int

    @property
    def columns(self) -> int:
        return min(self.n, self.d)

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Float[Array, "d d"]:
        of_normal, of_chi = jax.random.split(key)
        R = normal(of_normal, (self.d, self.columns), dtype)
        if self.n >= self.d:
            half = jnp.asarray((self.n - np.arange(self.d)) / 2, dtype)
            R = jnp.tril(R, -1) + jnp.diag(jnp.sqrt(2 * jax.random.gamma(of_chi, half)))
        return R @ R.T / self.n


@dataclass(frozen=True)
class SlopeOf:
    """The statistic: -2L tr[S (I - a S)^(2L-1)] at the weights of A = a I."""

    L: int

    def __call__(self, weights: Weights, S: Float[Array, "d d"]) -> Slope:
        M = jnp.eye(len(S), dtype=S.dtype) - weights.Q[0, 0] * S
        slope = (
            -2
            * self.L
            * jnp.sum(S * jax.lax.fori_loop(0, 2 * self.L - 2, lambda _, power: power @ M, M))
        )
        return Slope(slope, slope**2, slope**3)


def with_slopes(study: Callable[..., Study]) -> Callable[..., Study]:
    """The same study, and sampled slopes in its values."""

    def measured(setting: Setting, objective: Any, progress: Progress, memory: Memory) -> Study:
        found = study(setting, objective, progress, memory)
        sampled = lambda: measure(setting, progress, memory)._asdict()
        return replace(found, values=Parts({"slopes": sampled, "": lambda: found.values}))

    return measured


def measure(setting: Setting, progress: Progress, memory: Memory) -> Slopes:
    n, d, L = sampled_law(setting.law).n, setting.law.d, setting.L
    points = np.array(AT) * wishart.a_star(n, d, L)

    def draw(number: int, stage: int, samples: int) -> gradient.Estimate:
        weights = in_context.embed(points[number] * jnp.eye(d), jnp.zeros(d))
        law, R = Wishart(d, n), jax.ShapeDtypeStruct((d, min(n, d)), float)
        return gradient.population_average(
            SlopeOf(L),
            weights,
            law,
            setting.key(14, number, stage),
            samples,
            chunk_size(weights, R),
        )

    rows = []
    for number in range(points.size):
        progress("slopes", number, points.size)
        kept, what = memory.part(f"slope {number}"), f"the slope at a = {points[number]:.3g}"
        pilot = CHEAPER * setting.samples
        rows.append(slopes.examined(partial(draw, number), 0.0, pilot, kept, what))
    return Slopes(np.zeros(points.size), points, *np.array(rows).T)


def agreement(study: Study) -> Iterator[Evidence]:
    """Sampled slopes against those of the exact moments."""
    n, d, L = sampled_law(study.law).n, study.law.d, study.setting.L
    found = Slopes(*(study.values[f"slopes/{name}"] for name in Slopes._fields))
    exact = np.array([slope_on_the_line(n, d, L, Fraction(float(a))) for a in found.c])
    where = f"on the line A = a Sigma^-1, a = {', '.join(f'{a:.3g}' for a in found.c)}, n = {n}"
    exact = Number(exact, ROUNDED * abs(exact))
    yield slopes.agree(found, exact, 0.0, where, name="engines-agree-slope-a")


def slope_on_the_line(n: int, d: int, L: int, a: Fraction) -> float:
    """l'(a) from exact moments, rounded once."""
    m = wishart.moments(n, d, 2 * L)
    return float(-2 * L * d * sum(comb(2 * L - 1, j) * (-a) ** j * m[j + 1] for j in range(2 * L)))


def curvatures(study: Study) -> Iterator[Evidence]:
    """h_tr and h_sym by two routes, both exact."""
    n, d, L = study.sizes
    if d == 1:
        return
    h = wishart.hessian(n, d, L, wishart.minimiser(n, d, L))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.divide(_by_power_sums(n, d, L), [h.h_tr, h.h_sym])
    yield known(
        "curvatures-agree",
        "h_tr and h_sym of the loss as a polynomial in power sums of a* I - A are those of "
        "moments split by Schur's "
        "lemma: ratios",
        "derived: exact rational numbers",
        predicted=1.0,
        measured=ratio,
        error=2 * ROUNDED,
        resolution=1e-9,
        reason="both are rounded once",
        self_check="engines",
    )


def _by_power_sums(n: int, d: int, L: int) -> tuple[float, float]:
    """(h_tr, h_sym) at a* I from the terms of second order in a* I - A = e K, with q_k = tr (e
    K)^k.

    q_2 = e^2 for both K; q_1^2 = d e^2 for K = I/sqrt(d), and 0 for the other.
    """
    terms = wishart_loss.exact_polynomial(n, d, L, wishart.minimiser(n, d, L))
    square = terms[(2,)]
    return float(2 * (square + d * terms.get((1, 1), Fraction(0)))), float(2 * square)
