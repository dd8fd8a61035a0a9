"""One layer tilts random tokens towards v_1.

Tokens x_j independent and uniform on the unit sphere, z_i = x_i + F sum_j P_ij x_j: with p = P_ii
and s = sum_j P_ij^2, as E x x^T = I/D, exactly

    D E(v.z_i)^2 = 1 + 2 p v^T F v + s |F^T v|^2,      E|z_i|^2 = 1 + 2 p tr F/D + s |F|_F^2/D,

and D E cos^2 angle(z_i, v) tends to their ratio; chance level is 1. Here v = v_1 with v^T F v =
lam_1, and |F^T v| = lam_1 for symmetric F. With a and b the two over their means, the ratio misses
E (b - 1)^2 - E (a - 1)(b - 1) at finite D, which is estimated, and next orders, the squares of
these. For P = I tokens are as good as Gaussian, and for symmetric F the expectation is an integral:
of g_1^2 m_1^2/sum m_k^2 g_k^2, m_k = 1 + lam_k.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from popgd.claims.evidence import Evidence, estimated
from popgd.papers.layers import dynamics, matrices
from popgd.problem.law import Hypothesis
from popgd.problem.number import Number
from popgd.theorem.base import Progress, Setting
from popgd.theorem.observed import Observed, observing
from popgd.theorem.plot import panel

ATTENTIONS = ("identity", "uniform", "causal")
#: Widths, as multiples of D, where F is drawn.
WIDTHS = (1, 1.5, 2)
#: Of a ratio to the prediction; and next orders over the square of the first one.
RESOLUTION, NEXT = 0.05, 4.0
#: Numbers in one batch of tokens.
BATCH = 2**18


def predicted(F: np.ndarray, v: np.ndarray, P: np.ndarray) -> float:
    """D E(v.z)^2 over E|z|^2, the mean over tokens."""
    p, s, D = np.diag(P), (P**2).sum(axis=1), len(F)
    top = 1 + 2 * p * (v @ F @ v) + s * np.sum((F.T @ v) ** 2)
    return float(np.mean(top / (1 + 2 * p * np.trace(F) / D + s * np.sum(F**2) / D)))


def exactly(F: np.ndarray, v: np.ndarray) -> float:
    """D E cos^2 angle((I + F) x, v) for symmetric F: the integral over t of m_1^2 (1 + 2 m_1^2
    t)^-1 prod_k (1 + 2 m_k^2 t)^-1/2, by the trapezoidal rule in log t.
    """
    m = (1 + np.linalg.eigvalsh(F)) ** 2
    m1 = float((1 + v @ F @ v) ** 2)
    u = np.linspace(-40, 40, 4001)
    t = np.exp(u) / np.sum(m)
    log = u - np.log1p(2 * m1 * t) - 0.5 * np.log1p(2 * np.outer(t, m)).sum(axis=1)
    return len(F) * m1 / np.sum(m) * float(np.sum(np.exp(log)) * (u[1] - u[0]))


def _summary(along: np.ndarray, size: np.ndarray, value: float) -> list[float]:
    """From D (v.z)^2 and |z|^2, (token matrices, n): the prediction, the mean of D cos^2 over it
    with its standard error and skewness, the same less the next order, and the size of that.
    """
    a, b = (x / x.mean(axis=0) for x in (along, size))
    ratio = (along / size).mean(axis=1) / value
    next_order = ((b - 1) ** 2 - (a - 1) * (b - 1)).mean(axis=1)
    largest = float(((b - 1) ** 2).mean() + abs(((a - 1) * (b - 1)).mean()))
    return [value, *_mean(ratio), *_mean(ratio - next_order), largest]


def _mean(x: np.ndarray) -> list[float]:
    """A mean with its standard error and its skewness."""
    off, count = x - x.mean(), len(x) ** 0.5
    skewness = np.mean(off**3) / np.mean(off**2) ** 1.5 / count
    return [float(y) for y in (x.mean(), x.std(ddof=1) / count, abs(skewness))]


@partial(jax.jit, static_argnames=("samples", "n"))
def sampled(F: Any, v: Any, key: Any, samples: int, n: int) -> Any:
    """D (v.z)^2 and |z|^2 for each attention, (samples, attentions, 2, n)."""
    D = len(F)

    def one(key: Any) -> Any:
        # In float32, which is faster to draw, tokens are uniform as far as samples can tell
        X = dynamics.unit(jax.random.normal(key, (n, D), "float32").astype(F.dtype))
        FX = X @ F.T
        Z = jnp.stack([X + dynamics.FIXED[name](X) @ FX for name in ATTENTIONS])
        return jnp.stack([D * (Z @ v) ** 2, jnp.sum(Z**2, axis=2)], axis=1)

    return jax.lax.map(one, jax.random.split(key, samples), batch_size=max(1, BATCH // (n * D)))


def measure(setting: Setting, progress: Progress) -> dict[str, Any]:
    """For each attention and width its `_summary`; and the integrals."""
    found: dict[str, Any] = {name: [] for name in ATTENTIONS}
    integrals, n = [], setting["n"]
    widths = [len(matrices.matrix(setting))]
    if not setting["F"]:
        widths = [int(w * setting["D"]) for w in WIDTHS]
    for done, D in enumerate(widths):
        progress("widths", done, len(widths))
        F = matrices.matrix(setting, D)
        v = matrices.dominant(F, "post").v
        drawn = np.asarray(sampled(F, v, setting.key(1, done), setting.samples, n))
        for number, name in enumerate(ATTENTIONS):
            value = predicted(F, v, np.asarray(dynamics.FIXED[name](jnp.zeros((n, D)))))
            found[name].append(_summary(drawn[:, number, 0], drawn[:, number, 1], value))
        integrals.append(exactly(F, v) if matrices.symmetric(F) else np.nan)
    return {**found, "D": widths, "integral": integrals}


def _tilts(found: Observed) -> Iterator[Evidence]:
    """Attention by attention, at every width, over the prediction; and the integral, for one's own
    token alone.
    """
    widths = ", ".join(str(int(D)) for D in found["D"])
    for name in ATTENTIONS:
        value, _, _, _, mean, error, skewness, size = found[name].T
        yield estimated(
            f"tilt-{name}",
            f"{name} attention: D E cos^2 after one layer, chance 1, is {value[-1]:.5g}: ratio of "
            f"the sampled one, next order removed, D = {widths}",
            "derived: E x x^T = I/D",
            predicted=1.0,
            measured=mean,
            error=error,
            allowance=NEXT * size**2,
            skewness=skewness,
            resolution=RESOLUTION,
            reason=f"finite D: squares of the next order, {size[-1]:.2g} for the last",
            drawn=("samples", found.setting.samples),
        )
    integral = found["integral"]
    if np.all(np.isfinite(integral)):
        value, mean, error, skewness = found["identity"].T[:4]
        yield estimated(
            "tilt-finite",
            f"identity attention at finite D: an integral, {integral[-1]:.6g} for the last: ratio "
            f"of the sampled D E cos^2, D = {widths}",
            "derived: a uniform token is a Gaussian one over its length",
            predicted=1.0,
            measured=mean * value / integral,
            error=error * value / integral,
            skewness=skewness,
            resolution=RESOLUTION,
            reason="sampling error alone; the integral is known to 1e-10",
            drawn=("samples", found.setting.samples),
        )


def quantities(found: Observed) -> dict[str, Number]:
    last = {name: found[name][-1] for name in ATTENTIONS}
    return {f"tilt_{name}": Number(v * m, stderr=v * e) for name, (v, m, e, *_) in last.items()}


def figures(found: Observed, title: str) -> Mapping[str, Any]:
    figure, axes = panel(title, "D", r"D E cos$^2$ after one layer (chance: 1)")
    for number, name in enumerate(ATTENTIONS):
        value, mean, error = found[name].T[:3]
        axes.errorbar(
            found["D"], value * mean, 3 * value * error, fmt="o", ms=4, color=f"C{number}",
            label=f"{name}: sampled, 3 standard errors",
        )  # fmt: skip
        axes.plot(found["D"], value, ls="--", lw=0.8, color=f"C{number}")
    axes.set(xscale="log", yscale="log")
    axes.legend(fontsize=8, title="dashed: predicted for large D")
    return {"tilt": figure}


def hypotheses(setting: Setting) -> list[Hypothesis]:
    return matrices.dominance(matrices.matrix(setting), "post")


THEOREM = observing(
    measure,
    "layers.tilt",
    title="one layer tilts random tokens towards the dominant eigenvector",
    statement="After one layer random unit tokens of large D have D E cos^2 angle(z, v_1) = (1 + 2 "
    "lam_1 p + lam_1^2 s)/(1 + 2 p tr F/D + s |F|_F^2/D) for symmetric F, p = s = 1 of identity "
    "attention and 1/n of uniform attention; chance level is 1.",
    source=f"{dynamics.PAPER}; derived",
    claims=(_tilts,),
    hypotheses=hypotheses,
    fill=lambda settings: matrices.fill(settings, D=128),
    figures=figures,
    quantities=quantities,
    options={**matrices.MATRIX, **matrices.TOKENS},
    uses=("samples",),
    sampled=(*(f"tilt-{name}" for name in ATTENTIONS), "tilt-finite"),
    samples=2**14,
    n=8,
)
