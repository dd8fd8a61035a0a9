"""Tokens of any attention contract onto the dominant eigenvector of a symmetric F.

F = F^T, lam_1 > rho = max_{k >= 2} |lam_k|, v_1.x_i > 0 for all i. With T = max_i tan angle(x_i,
v_1) and c = 1/sqrt(1 + T^2), for every row-stochastic P

    T+ <= T (1 + rho c)/(1 + lam_1 c)   post-norm,       T+ <= T rho/lam_1   without residual,

also where layers have different F that share v_1. Proof: with a_i = v_1.x_i in [c, 1] and m = sum_j
P_ij a_j >= c, T_i+ <= T (a_i + rho m)/(a_i + lam_1 m), which falls with m/a_i >= c.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from popgd.claims.evidence import Evidence, known
from popgd.papers.layers import dynamics, matrices
from popgd.problem.law import Hypothesis
from popgd.problem.number import Number
from popgd.theorem.base import Progress, Setting
from popgd.theorem.observed import Observed, observing
from popgd.theorem.plot import GREY, panel
from popgd.theorem.readers import one_of, whole
from popgd.theorem.settings import Option

#: Angles below this, at which rounding is a share of ERROR, are not judged.
FLOOR, ERROR = 1e-5, 1e-9
#: A violation by this share is seen: a draw must come as near to what is possible.
SEEN = 1e-3
ATTENTIONS = ("identity", "uniform", "causal", "softmax", "random")
#: Angles at which tokens start: from nearly orthogonal to v_1 to where the bound is sharp.
ANGLES = (1e3, 10.0, 1.0, 1e-2, 3e-4)


def hypotheses(setting: Setting) -> list[Hypothesis]:
    F = matrices.matrix(setting)
    if not matrices.symmetric(F):
        return [Hypothesis("F symmetric", False, "F is not its transpose")]
    lam = np.linalg.eigvalsh(F)
    rho = max(abs(lam[0]), abs(lam[-2]))
    return [
        Hypothesis("lam_1 > rho", bool(lam[-1] > rho), f"lam_1 = {lam[-1]:.4g}, rho = {rho:.4g}")
    ]


def starts(rng: np.random.Generator, lam: np.ndarray, setting: Setting) -> np.ndarray:
    """Token matrices in the eigenbasis of F, v_1 first: at each of the ANGLES `draws` random ones,
    and one whose tokens lean towards the eigenvector that shrinks least.
    """
    n, D, found = setting["n"], len(lam), []
    slow = 1 + int(np.argmax(abs(matrices.factor(lam[1:], setting["residual"]))))
    for T in ANGLES:
        side = rng.normal(size=(setting["draws"] + 1, n, D))
        side[..., 0], side[-1] = 0, np.eye(D)[slow]
        side *= T / np.linalg.norm(side, axis=2, keepdims=True)
        side[:-1] *= rng.uniform(0, 1, (setting["draws"], n, 1))
        side[..., 0] = 1
        found.append(side / np.linalg.norm(side, axis=2, keepdims=True))
    return np.concatenate(found)


def measure(setting: Setting, progress: Progress) -> dict[str, Any]:
    """For each attention, with F shared and varying: the largest T+ over its bound; the same of
    small angles, where the bound is sharp; and T of the first draw, layer by layer.
    """
    L, residual, n = setting.L, setting["residual"], setting["n"]
    lam = np.linalg.eigvalsh(matrices.matrix(setting))[::-1]
    rng, D = matrices.rng_of(setting, 1), len(lam)
    X, v = jnp.asarray(starts(rng, lam, setting)), jnp.eye(D)[0]
    rho = max(abs(lam[1]), abs(lam[-1]))
    M = jnp.asarray(3 * rng.normal(size=(D, D)) / D**0.5)
    P = rng.exponential(size=(L, n, n)) * (rng.random((L, n, n)) < 0.3) + 1e-9
    P = jnp.asarray(P / P.sum(axis=2, keepdims=True))
    attend = {**dynamics.FIXED, "softmax": dynamics.softmax(M)}
    shared = np.broadcast_to(np.diag(lam), (L, D, D)), np.ones(L)
    found = {}
    for number, name in enumerate(ATTENTIONS):
        progress("attentions", number, len(ATTENTIONS))
        for kind, (F, scale) in (("shared", shared), ("varying", varying(rng, lam, L))):

            def path(X: Any, F: Any, name: str = name) -> Any:
                def go(X: Any, layer: Any) -> Any:
                    F, P = layer
                    P = P if name == "random" else attend[name](X)
                    new = dynamics.layer(X, F, P, residual)
                    return new, jnp.max(dynamics.tangent(new, v))

                T = jax.lax.scan(go, X, (F, P))[1]
                return jnp.concatenate([jnp.max(dynamics.tangent(X, v))[None], T])

            T = np.asarray(jax.jit(jax.vmap(path, (0, None)))(X, jnp.asarray(F)))
            with np.errstate(divide="ignore", invalid="ignore"):  # a bound of 0, where rho is
                most = T[:, :-1] * bound(T[:, :-1], lam[0] * scale, rho * scale, residual)
                over = T[:, 1:] / most
            judged = (T[:, :-1] > FLOOR) & (T[:, 1:] > FLOOR / 10)
            found[f"{kind}/{name}"] = np.max(over[judged], initial=-np.inf)
            found[f"least/{kind}/{name}"] = np.min(over[judged], initial=np.inf)
            if kind == "shared":
                found[f"angle/{name}"] = T[0]
    return {**found, "lam": lam, "rho": rho}


def bound(T: Any, lam: Any, rho: Any, residual: str) -> Any:
    """T+ is at most T times this."""
    c = 1 / np.sqrt(1 + T**2)
    return rho / lam + 0 * c if residual == "none" else (1 + rho * c) / (1 + lam * c)


def varying(rng: np.random.Generator, lam: np.ndarray, L: int) -> tuple[np.ndarray, np.ndarray]:
    """F of each layer, from the second on rotated around v_1, and scaled; and the scales."""
    F, scale = np.zeros((L, len(lam), len(lam))), rng.uniform(0.3, 1.7, L)
    for l in range(L):
        R = matrices.orthogonal(rng, len(lam) - 1) if l else np.eye(len(lam) - 1)
        F[l, 0, 0], F[l, 1:, 1:] = lam[0], (R * lam[1:]) @ R.T
    return F * scale[:, None, None], scale


def _never_above(found: Observed) -> Iterator[Evidence]:
    """The bound holds whatever the attention."""
    lam, rho, residual = found["lam"], float(found["rho"]), found.setting["residual"]
    for kind, words in (("shared", "one F"), ("varying", "layers of other F with the same v_1")):
        over = np.array([found[f"{kind}/{name}"] for name in ATTENTIONS])
        # The bound is sharp for angles that go to 0, along an eigenvalue +rho (or -rho, of `none`)
        sharp = max(abs(matrices.factor(lam[1:], residual))) / matrices.factor(rho, residual)
        near = np.max(over) >= sharp * (1 - SEEN)
        yield known(
            f"contraction-{kind}",
            f"T+ over its bound, {words}: the largest of {found.setting.L} layers, for each of "
            f"{', '.join(ATTENTIONS)} attention",
            "derived: a token's side component grows by rho at most, its v_1 component by lam_1",
            measured=over,
            predicted=1.0,
            error=ERROR,
            resolution=SEEN,
            sense="at most",
            reason=f"angles below {FLOOR:g} left out, where rounding shows",
            excuse=""
            if near
            else "no draw comes near the bound before its angles "
            f"are below {FLOOR:g}: take more draws, or a larger lam_2",
        )


def quantities(found: Observed) -> dict[str, Number]:
    """How near to the bound the draws come: 1 minus the largest, and minus the least."""
    slack = {}
    for kind in ("shared", "varying"):
        most, least = ([found[f"{way}{kind}/{name}"] for name in ATTENTIONS]
                       for way in ("", "least/"))  # fmt: skip
        slack |= {
            f"least_slack_{kind}": Number(1 - max(most), ERROR),
            f"most_slack_{kind}": Number(1 - min(least), ERROR),
        }
    return slack


def figures(found: Observed, title: str) -> Mapping[str, Any]:
    figure, axes = panel(title, "layer", "T, the largest tangent of an angle to $v_1$")
    for name in ATTENTIONS:
        axes.semilogy(found[f"angle/{name}"], lw=1.2, label=name)
    T = [float(found["angle/identity"][0])]
    for _ in range(found.setting.L):
        lam, rho = float(found["lam"][0]), float(found["rho"])
        T.append(T[-1] * float(bound(T[-1], lam, rho, found.setting["residual"])))
    axes.semilogy(T, color=GREY, ls="--", label="the bound, iterated")
    axes.set_ylim(bottom=1e-14)
    axes.legend(fontsize=8)
    return {"contraction": figure}


THEOREM = observing(
    measure,
    "layers.contraction",
    title="post-norm layers contract all tokens onto the dominant eigenvector of a symmetric F",
    statement="For symmetric F with lam_1 > rho and tokens on the side of v_1 the largest tangent "
    "T of an angle to v_1 falls by (1 + rho c)/(1 + lam_1 c) at least in a post-norm layer, c = "
    "(1 + T^2)^(-1/2), and by rho/lam_1 without residual, for every row-stochastic attention.",
    source=f"{dynamics.PAPER}; derived",
    claims=(_never_above,),
    hypotheses=hypotheses,
    fill=matrices.fill,
    figures=figures,
    quantities=quantities,
    options={
        **matrices.MATRIX,
        **matrices.TOKENS,
        "L": Option(40, whole(1, 10**4), "layers"),
        "residual": Option("post", one_of("post", "none"), "post-norm layers, or no residual"),
        "draws": Option(32, whole(1, 10**4), "random token matrices at each of five angles"),
    },
)
