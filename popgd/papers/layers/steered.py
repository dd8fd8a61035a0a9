"""Steering a trained layer: F' = F + kappa u u^T, u towards the embedding of a chosen token.

For any F, symmetric or not, an eigenvalue mu of F' that is none of F solves 1 = kappa u^T (mu -
F)^-1 u, and its right eigenvector is v ~ (mu - F)^-1 u. Tokens of one idealised layer, looped with
kappa u u^T added to what its heads do, go to the line of v if mu dominates I + F' and consensus
attracts; how far they follow u is cos^2 angle(v, u).
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from popgd.claims.evidence import Evidence, known
from popgd.papers.layers import dynamics, matrices, real, weights
from popgd.papers.layers.rate import moduli
from popgd.problem.errors import SettingError
from popgd.problem.number import Number
from popgd.problem.numeric import UNIT
from popgd.theorem.base import Progress, Setting
from popgd.theorem.observed import Observed, observing
from popgd.theorem.plot import panel
from popgd.theorem.readers import positive, whole
from popgd.theorem.settings import Option

#: Strengths, as shares of kappa.
SHARES = (0.125, 0.25, 0.5, 1.0)
#: Of the secular equation, which loses digits as mu nears the spectrum; of cos^2.
SECULAR, FOLLOW = 1e-6, 1e-3
#: Tokens have arrived once the slowest deviation has fallen by this.
ARRIVED = 1e-5


def direction(setting: Setting, model: weights.Model) -> np.ndarray:
    """u: what the chosen token enters the first layer with, alone, over its length."""
    token = setting["token"]
    if token >= len(model.words):
        raise SettingError(f"token={token}: the model knows {len(model.words)}, from 0 on")
    u = model.enter(model.words[[token]] + model.positions[:1])[0]
    return u / np.linalg.norm(u)


def measure(setting: Setting, progress: Progress) -> dict[str, Any]:
    """For each different layer and strength: whether one real mu dominates and attracts, the gap of
    the secular equation and of its vector, cos^2 angle(v, u), the same of tokens at the end (the
    one that is furthest from it), the slowest deviation there, the mean cos^2 without steering, and
    what rounding of mu does to the secular equation.
    """
    model = real.model_of(setting)
    if model.residual != "post":
        raise SettingError("weights: a pre-norm model; loops of post-norm layers were wanted")
    u, rows = direction(setting, model), []
    X = jnp.asarray(real.tokens(setting, model, draws=2)[0])
    different = list({id(layer): layer for layer in model.layers}.values())
    for number, layer in enumerate(different):
        progress("layers", number, len(different))
        F = weights.head_matrices(layer, model.heads)[0].sum(axis=0)
        go = jax.jit(partial(_looped, model, layer, jnp.asarray(u), L=setting.L))
        free = np.mean(_squares(go(X, 0.0), u))
        for share in SHARES:
            kappa = share * setting["kappa"]
            top = matrices.dominant(F + kappa * np.outer(u, u), "post")
            slow = float(moduli(top, "uniform", setting["n"], "post")[0])
            if not (top.real and top.simple and slow < 1):
                rows.append([0.0, *[np.nan] * 4, slow, free, np.nan])
                continue
            inverse = np.linalg.solve(top.lam.real * np.eye(len(F)) - F, u)
            left = np.linalg.solve(top.lam.real * np.eye(len(F)) - F.T, u)
            v = inverse / np.linalg.norm(inverse)
            # mu is known to a few roundings of F' over the cosine between its eigenvectors
            known_to = 8 * UNIT * len(F) ** 0.5 * float(np.linalg.norm(F, 2) + kappa)
            rounding = kappa * np.linalg.norm(inverse) * np.linalg.norm(left) * known_to
            ends = _squares(go(X, kappa), u)
            wanted = float(v @ u) ** 2
            rows.append([
                1.0, kappa * (u @ inverse) - 1, 1 - abs(v @ top.v), wanted,
                ends[np.argmax(abs(ends - wanted))], slow, free, rounding,
            ])  # fmt: skip
    return {"steered": np.array(rows).reshape(len(different), len(SHARES), 8)}


def _looped(model: Any, layer: Any, u: Any, X: Any, kappa: Any, L: int) -> Any:
    """Tokens after L loops of an idealised layer that is steered."""

    def step(_: Any, X: Any) -> Any:
        added = real.attention(model, layer, X, False) + kappa * jnp.mean(X @ u) * u
        return dynamics.NORMS["rms"](X + added)

    return jax.lax.fori_loop(0, L, step, X)


def _squares(X: Any, u: np.ndarray) -> np.ndarray:
    """cos^2 between each token and u."""
    X = np.asarray(X)
    return (X @ u) ** 2 / np.sum(X**2, axis=1)


def followed(found: Observed) -> Iterator[Evidence]:
    """The secular equation of any F, and how far tokens follow."""
    rows = found["steered"].reshape(-1, 8)
    seen = rows[:, 0] > 0
    secular, vector, wanted, ends, slow = rows[seen, 1:6].T
    counted = f"{int(seen.sum())} of {len(rows)} layers and strengths, those that one real mu rules"
    for name, gap, words in (
        ("steered-value", secular, "kappa u^T (mu - F)^-1 u less 1"),
        ("steered-vector", vector, "1 less |cos| between (mu - F)^-1 u and the eigenvector"),
    ):
        yield known(
            name,
            f"The dominant pair of F + kappa u u^T by the secular equation of any F: {words}",
            "derived: rank-one update",
            measured=gap,
            error=np.maximum(1e-9, rows[seen, 7]),
            resolution=SECULAR,
            reason=f"rounding; {counted}",
        )
    arrived = slow**found.setting.L < ARRIVED
    yield known(
        "tokens-follow-u",
        "Tokens of an idealised layer, looped and steered, end at the predicted cos^2 to u: the "
        "difference of the one that is furthest off",
        "derived: contraction",
        measured=(ends - wanted)[arrived],
        error=1e-9,
        allowance=10 * slow[arrived] ** found.setting.L,
        resolution=FOLLOW,
        reason=f"what {found.setting.L} loops leave; {counted}, {int(arrived.sum())} of them "
        "there after the loops",
    )


def quantities(found: Observed) -> dict[str, Number]:
    """The mean over layers of cos^2 to u, without steering and at full strength."""
    rows = found["steered"]
    full = rows[:, -1, 4]
    return {
        "cos2_free": Number(float(rows[:, 0, 6].mean()), 1e-9),
        "cos2_steered": Number(float(np.mean(full[np.isfinite(full)])), 1e-9),
    }


def figures(found: Observed, title: str) -> Mapping[str, Any]:
    figure, axes = panel(title, r"$\kappa$", r"cos$^2$ to the chosen token's embedding")
    kappa = np.array(SHARES) * found.setting["kappa"]
    for number, layer in enumerate(found["steered"]):
        axes.plot(kappa, layer[:, 4], "o", ms=4, color=f"C{number}", label=f"layer {number}")
        axes.plot(kappa, layer[:, 3], lw=0.8, color=f"C{number}")
    axes.set(xscale="log", ylim=(0, 1.02))
    axes.legend(fontsize=8, title="lines: predicted")
    return {"steered": figure}


THEOREM = observing(
    measure,
    "layers.steered",
    title="a trained layer that is steered takes tokens to where the secular equation says",
    statement="With kappa u u^T added to its F, one idealised layer of a trained model, looped, "
    "takes tokens to the line of v ~ (mu - F)^-1 u, mu the solution of 1 = kappa u^T (mu - F)^-1 u "
    "that dominates.",
    source=f"{dynamics.PAPER}; derived",
    claims=(followed,),
    figures=figures,
    quantities=quantities,
    options={
        **{name: real.THEOREM.options[name] for name in ("weights", "text", "n")},
        "token": Option(7, whole(0), "number of the token that is steered towards"),
        "kappa": Option(8.0, positive, "largest strength; an eighth, a quarter and half too"),
        "L": Option(400, whole(1, 10**5), "loops of one layer"),
    },
)
