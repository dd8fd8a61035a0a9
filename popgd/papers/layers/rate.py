"""How fast tokens reach consensus: the local rate of a layer at x_1 = ... = x_n = v.

v is the eigenvector of F with the largest |1 + lam|, mu = 1 + lam (without residual |lam|, mu =
lam). A deviation along another eigenvector of F and an eigenvector of the attention P* at consensus
is multiplied by (1 + lam_k p)/mu, or lam_k p/mu, p in spec(P*): {1} of identity, {1, 0} of uniform
and softmax, {1, 1/2, ..., 1/n} of causal attention. What softmax attention changes by moving with
the tokens is along F v, which the normalisation removes.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from popgd.claims.evidence import Evidence, known
from popgd.papers.layers import dynamics, matrices
from popgd.problem.number import Number
from popgd.problem.numeric import UNIT
from popgd.theorem.base import Progress, Setting
from popgd.theorem.observed import Observed, observing
from popgd.theorem.plot import panel
from popgd.theorem.readers import one_of, whole
from popgd.theorem.settings import Option

ATTENTIONS = ("identity", "uniform", "causal", "softmax")
#: The deviation that a layer starts from, again and again; its square is what the next order does.
SMALL = 1e-6
#: Of a rate; its rounding at least; rates below VANISHES are lost in it.
RESOLUTION, ROUNDING, VANISHES = 1e-3, 1e-8, 1e-12
#: How much larger than the slowest deviation another may be at the start: random ones are within
#: UNEQUAL; those of a complex pair differ by the angle between their vectors.
UNEQUAL, BEATING = 100.0, 10.0
#: Layers of the picture, and how far beside consensus its tokens start.
SHOWN, BESIDE = 60, 0.1


def _spectrum_of(attention: str, n: int) -> np.ndarray:
    """spec(P*) of an attention."""
    return {
        "identity": np.ones(1),
        "causal": 1 / np.arange(1, n + 1),
    }.get(attention, np.array([1.0, 0.0]))


def moduli(found: matrices.Dominant, attention: str, n: int, residual: str) -> np.ndarray:
    """What deviations are multiplied by, largest first."""
    p = _spectrum_of(attention, n)
    rates = matrices.factor(np.outer(found.others, p), residual)
    return np.sort(abs(rates / matrices.factor(found.lam, residual)).ravel())[::-1]


def growth(step: Any, v: Any, delta: Any, layers: int) -> Any:
    """log of what each of so many layers multiplies a deviation from consensus by, which is made
    SMALL again after each: by the layer itself, and by its derivative.
    """
    n, D = delta.shape
    here = jnp.broadcast_to(v, (n, D))
    there = step(here)
    sign = jnp.sign(jnp.vdot(there, here))  # lam < -1 turns the consensus around

    def go(deltas: Any, _: None) -> Any:
        own, linear = deltas
        moved = sign * (step(here + SMALL * own) - there) / SMALL
        along = sign * jax.jvp(step, (here,), (linear,))[1]
        sizes = jnp.linalg.norm(moved), jnp.linalg.norm(along)
        # A layer that takes a deviation to 0 has no direction to go on with
        return (moved / sizes[0], along / sizes[1]), jnp.log(jnp.stack(sizes))

    start = delta / jnp.linalg.norm(delta)
    return jax.lax.scan(go, (start, start), None, length=layers)[1].T


def measure(setting: Setting, progress: Progress) -> dict[str, Any]:
    """For each attention the rate over the last half of the layers and over the quarter before, by
    the layer and by its derivative; and T of tokens that start BESIDE consensus.
    """
    F = matrices.matrix(setting)
    residual, norm, n, D = setting["residual"], setting["norm"], setting["n"], len(F)
    top = matrices.dominant(F, residual, norm)
    rng = matrices.rng_of(setting, 2)
    scores = jnp.asarray(rng.normal(size=(D, D)) / D)
    attend = {**dynamics.FIXED, "softmax": dynamics.softmax(scores)}
    scale = 1.0 if norm == "l2" else D**0.5
    found: dict[str, Any] = {}
    for number, name in enumerate(ATTENTIONS):
        progress("attentions", number, len(ATTENTIONS))
        step = partial(one_layer, jnp.asarray(F), attend[name], residual, norm)
        delta = rng.normal(size=(n, D)) * scale
        delta -= (delta @ top.v)[:, None] * top.v
        grow = jax.jit(lambda v, delta, step=step: growth(step, v, delta, setting.L))
        own, linear = (np.asarray(x) for x in grow(scale * top.v, delta))
        half = setting.L // 2
        found[f"rate/{name}"] = np.exp([np.mean(own[half:]), np.mean(own[half // 2 : half])])
        found[f"linear/{name}"] = np.exp(np.mean(linear[half:]))
        found[f"moduli/{name}"] = moduli(top, name, n, residual)
        X = scale * top.v + BESIDE * delta
        again = partial(dynamics.layer, residual=residual, norm=dynamics.NORMS[norm])
        path = dynamics.stack(jnp.asarray(X), jnp.asarray(F), attend[name], SHOWN, again)
        angles = jax.vmap(dynamics.tangent, (0, None))(path, jnp.asarray(top.v))
        found[f"angle/{name}"] = np.max(abs(np.asarray(angles)), axis=1)
    return {**found, "D": D, "lam": np.array([top.lam.real, top.lam.imag])}


def one_layer(F: Any, attend: Any, residual: str, norm: str, X: Any) -> Any:
    return dynamics.layer(X, F, attend(X), residual, dynamics.NORMS[norm])


def _left_over(found: Observed, name: str) -> float:
    """What other deviations may do to the mean log rate of the last half of the layers.

    A deviation sum_j c_j r_j^l has log |c_1| + l log r_1 + log(1 + sum_j (c_j/c_1) (r_j/r_1)^l):
    what the last term changes is at most its value before, with c_j/c_1 <= UNEQUAL, or BEATING for
    moduli that are the same (a complex pair).
    """
    moduli, half = found[f"moduli/{name}"], found.setting.L // 2
    ratio = moduli[1:] / moduli[0] if moduli[0] else np.zeros(0)
    tied = ratio > 1 - matrices.TIED
    beside = BEATING * np.any(tied) + UNEQUAL * np.sum(ratio[~tied] ** half)
    return float(np.log1p(beside) / (found.setting.L - half))


def _rounding(found: Observed, size: float, predicted: float) -> float:
    """What rounding of tokens, to a few units, is of a deviation of this size after one layer."""
    off = 4 * UNIT * np.sqrt(found.setting["n"] * float(found["D"]))
    return max(ROUNDING, float(np.divide(off, size * predicted)))


def rates(found: Observed) -> Iterator[Evidence]:
    """The measured rate over the predicted one, attention by attention."""
    what = "|lam_k p/lam|" if found.setting["residual"] == "none" else "|(1 + lam_k p)/(1 + lam)|"
    for name in ATTENTIONS:
        predicted = float(found[f"moduli/{name}"][0])
        if predicted < VANISHES:
            for kind in ("rate", "linear"):
                yield known(
                    f"{kind}-{name}",
                    f"{name} attention: a layer takes every deviation from consensus away",
                    "derived: the derivative of a layer at consensus",
                    measured=np.nan,
                    resolution=RESOLUTION,
                    reason="the rate is 0",
                    excuse=f"the predicted rate is {predicted:.2g}: there is no ratio to measure; "
                    "take a larger lam_2",
                )
            continue
        rest = _left_over(found, name)
        late, before = found[f"rate/{name}"]
        for kind, value in (("rate", late), ("linear", found[f"linear/{name}"])):
            by = "the layer" if kind == "rate" else "its derivative"
            yield known(
                f"{kind}-{name}",
                f"{name} attention: a deviation from consensus is multiplied by max {what} = "
                f"{predicted:.6g} in a layer, measured by {by}: ratio",
                "derived: the derivative of a layer at consensus",
                predicted=1.0,
                measured=float(value) / predicted,
                error=_rounding(found, SMALL if kind == "rate" else 1.0, predicted),
                allowance=SMALL * (kind == "rate") + rest,
                resolution=RESOLUTION,
                reason=f"other deviations that {found.setting.L} layers have not outgrown; the "
                f"layers before gave {before / predicted:.6g}",
            )


def quantities(found: Observed) -> dict[str, Number]:
    return {
        f"rate_{name}": Number(float(found[f"rate/{name}"][0]), SMALL + _left_over(found, name))
        for name in ATTENTIONS
    }


def figures(found: Observed, title: str) -> Mapping[str, Any]:
    figure, axes = panel(title, "layer", "T, the largest tangent of an angle to v")
    for name in ATTENTIONS:
        T, r = found[f"angle/{name}"], float(found[f"moduli/{name}"][0])
        (line,) = axes.semilogy(
            np.where(T > 1e-14, T, np.nan), lw=1.2, label=f"{name}, rate {r:.4g}"
        )
        fit = r ** np.arange(len(T)) * T[len(T) // 3] / r ** (len(T) // 3)
        axes.semilogy(fit, ls="--", lw=0.8, color=line.get_color())
    axes.set_ylim(bottom=1e-15)
    axes.legend(fontsize=8, title="dashed: predicted rate")
    return {"rate": figure}


THEOREM = observing(
    measure,
    "layers.rate",
    title="the local rate at consensus is max |1 + lam_k p|/|1 + lam_1|",
    statement="At consensus on the dominant eigenvector a post-norm layer multiplies deviations by "
    "max |1 + lam_k p|/|1 + lam_1| over the other eigenvalues of F and p in the spectrum of the "
    "attention there, a layer without residual by max |lam_k p|/|lam_1|.",
    source=f"{dynamics.PAPER}; derived",
    claims=(rates,),
    hypotheses=lambda setting: matrices.dominance(
        matrices.matrix(setting), setting["residual"], setting["norm"]
    ),
    fill=matrices.fill,
    figures=figures,
    quantities=quantities,
    options={
        **matrices.MATRIX,
        **matrices.TOKENS,
        **matrices.NORM,
        "L": Option(8000, whole(40, 10**6), "layers"),
        "residual": Option("post", one_of("post", "none"), "post-norm layers, or no residual"),
    },
)
