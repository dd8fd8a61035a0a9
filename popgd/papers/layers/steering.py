"""Steering: adding kappa u u^T to F turns the tokens of a shared-weight stack towards u.

F symmetric, |u| = 1. The new dominant pair (mu, v) of F' = F + kappa u u^T solves the secular
equation 1 = kappa u^T (mu - F)^-1 u, mu > lam_1, with

    cos^2 angle(v, u) = (u^T (mu - F)^-1 u)^2 / u^T (mu - F)^-2 u.

For F of the Gaussian orthogonal ensemble with spectrum [-2 sigma, 2 sigma] and kappa > sigma, mu ->
kappa + sigma^2/kappa and cos^2 -> 1 - (sigma/kappa)^2 as D grows; below the threshold mu -> 2 sigma
and cos^2 -> 0 (Baik, Ben Arous, Peche 2005; Peche 2006).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from popgd.claims.evidence import Evidence, estimated, known
from popgd.papers.layers import dynamics, matrices
from popgd.papers.layers.rate import moduli
from popgd.problem.number import Number
from popgd.theorem.base import Progress, Setting
from popgd.theorem.observed import Observed, observing
from popgd.theorem.plot import panel
from popgd.theorem.readers import positive, whole
from popgd.theorem.settings import Option

#: Bisections of the secular equation, to the last bit.
BISECTIONS = 200
#: Of eigenvalues and squared cosines by two routes; of limits of random matrices.
EXACT, LIMIT = 1e-6, 0.03
#: The relative distance to the threshold that limits are judged from.
OFF = 0.2
#: Tokens are followed for so many layers of the slowest decay, and must then be this near.
DECAYS, NEAR = 25.0, 1e-8


def goe(rng: np.random.Generator, D: int, sigma: float) -> np.ndarray:
    """A symmetric Gaussian matrix whose spectrum tends to [-2 sigma, 2 sigma]."""
    G = rng.normal(size=(D, D))
    return sigma * (G + G.T) / (2 * D) ** 0.5


def secular(lam: np.ndarray, shares: np.ndarray, kappa: float) -> tuple[float, float]:
    """mu and cos^2 from the eigenvalues of F and the squared components of u along their
    eigenvectors, by bisection of 1 = kappa sum shares/(mu - lam).
    """
    gap = lam.max() - lam
    low, high = 0.0, float(kappa)  # of mu - lam_1
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = middle <= 0 or kappa * np.sum(shares / (middle + gap)) > 1
        low, high = (middle, high) if above else (low, middle)
    inverse = 1 / (high + gap)
    return float(lam.max() + high), float(
        np.sum(shares * inverse) ** 2 / np.sum(shares * inverse**2)
    )


def limits(kappa: float, sigma: float) -> tuple[float, float]:
    """mu and cos^2 at D = infinity."""
    if kappa <= sigma:
        return 2 * sigma, 0.0
    return kappa + sigma**2 / kappa, 1 - (sigma / kappa) ** 2


def _controls(F: np.ndarray, u: np.ndarray, sigma: float) -> list[float]:
    """u^T (F/sigma)^k u less its mean, k = 1, 2, 3: what most of the fluctuation is made of."""
    F, D = F / sigma, len(u)
    Fu = F @ u
    return [float(x) for x in (u @ Fu, Fu @ Fu - (1 + 1 / D), Fu @ F @ Fu)]


def _cleared(values: np.ndarray, beside: np.ndarray) -> tuple[float, float]:
    """The mean of values (draws,) and its standard error, regressed on controls (draws, k) whose
    expectation is 0.
    """
    columns = np.column_stack([np.ones(len(values)), beside])
    fit = np.linalg.lstsq(columns, values, rcond=None)[0]
    rest = values - columns @ fit
    spread = np.sqrt(np.sum(rest**2) / (len(values) - columns.shape[1]))
    inverse = np.linalg.inv(columns.T @ columns)[0, 0]
    return float(fit[0]), float(spread * np.sqrt(inverse))


def widths(setting: Setting) -> tuple[int, int, int]:
    return setting["D"] // 2, setting["D"], 2 * setting["D"]


def measure(setting: Setting, progress: Progress) -> dict[str, Any]:
    """mu and cos^2 of `draws` matrices of each width by the secular equation and by the
    eigenvectors of F', with their `_controls`; and tokens of the first one of width D.
    """
    rng, sigma, kappa = matrices.rng_of(setting, 5), setting["sigma"], setting["kappa"]
    found_by = ("secular", "eigen", "controls")
    found: dict[str, Any] = {name: [] for name in found_by}
    for width in widths(setting):
        drawn: list[Any] = []
        for done in range(setting["draws"]):
            progress(f"matrices, D = {width}", done, setting["draws"])
            F, u = goe(rng, width, sigma), rng.normal(size=width)
            u /= np.linalg.norm(u)
            lam, V = np.linalg.eigh(F)
            steered = F + kappa * np.outer(u, u)
            mu, W = np.linalg.eigh(steered)
            pair = secular(lam, (V.T @ u) ** 2, kappa)
            drawn.append((pair, (mu[-1], (W[:, -1] @ u) ** 2), _controls(F, u, sigma)))
            if done == 0 and width == setting["D"]:
                found |= stack(setting, steered, u, rng)
        for name, rows in zip(
            ("secular", "eigen", "controls"), zip(*drawn, strict=True), strict=True
        ):
            found[name].append(rows)
    return found


def stack(
    setting: Setting, F: np.ndarray, u: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Tokens of a post-norm stack with F' and uniform attention: cos^2 to v, and to u."""
    top = matrices.dominant(F, "post")
    slow = float(moduli(top, "uniform", setting["n"], "post")[0])
    L = min(setting.L, int(np.ceil(DECAYS / -np.log(slow))))
    X = dynamics.unit(jnp.asarray(rng.normal(size=(setting["n"], len(F)))))
    step = lambda X, F, P: dynamics.layer(X, F, P)
    path = np.asarray(dynamics.stack(X, jnp.asarray(F), dynamics.uniform, L, step))
    return {
        "to v": (path @ top.v) ** 2,
        "to u": (path @ u) ** 2,
        "v to u": (top.v @ u) ** 2,
        "slow": slow,
    }


def pairs(found: Observed) -> Iterator[Evidence]:
    """The secular equation against the eigenvectors; limits; tokens."""
    setting, sigma, kappa = found.setting, found.setting["sigma"], found.setting["kappa"]
    secular, eigen = found["secular"], found["eigen"]
    for i, (name, words) in enumerate((("value", "mu"), ("vector", "cos^2 angle(v, u)"))):
        size = 2 * sigma + kappa if name == "value" else 1.0
        yield known(
            f"secular-{name}",
            f"{words} of F + kappa u u^T by the secular equation less that by its eigenvectors, "
            f"{3 * setting['draws']} matrices",
            "derived: rank-one update",
            measured=(secular[..., i] - eigen[..., i]).ravel() / size,
            error=1e-9,
            resolution=EXACT,
            reason="rounding of the eigenvectors",
        )
    shown = " and ".join(str(D) for D in widths(setting)[1:])
    for i, (name, words) in enumerate((("value", "mu"), ("vector", "cos^2"))):
        limit = limits(kappa, sigma)[i]
        means, errors = np.array(
            [_cleared(x[:, i], y) for x, y in zip(eigen, found["controls"], strict=True)]
        ).T
        # Below the threshold mu is the largest of a spectrum, off by the order of D^(-2/3)
        by = 2 ** (2 / 3 if name == "value" and kappa < sigma else 1)
        first, second = (by * means[1:] - means[:-1]) / (by - 1)
        yield estimated(
            f"limit-{name}",
            f"GOE: {words} -> {limit:.6g} as D grows: mean over {setting['draws']} matrices, D = "
            f"{shown} extrapolated",
            "derived: Baik, Ben Arous, Peche 2005",
            predicted=limit,
            measured=second,
            error=float(np.hypot(by * errors[2], errors[1])) / (by - 1),
            allowance=abs(second - first),
            degrees=setting["draws"] - 4.0,
            resolution=LIMIT * (1 if name == "vector" else 2 * sigma),
            reason=f"finite D: what an extrapolation from half of both gives, {first:.5g}, "
            f"allowed; {means[2]:.5g} at D = {widths(setting)[2]}",
            excuse=""
            if abs(kappa / sigma - 1) > OFF
            else "too near to the threshold kappa = "
            "sigma, where finite D shows at any size: take kappa further off",
            drawn=("draws", setting["draws"]),
        )
    away = 1 - found["to v"][-1]
    slow = float(found["slow"])
    yield known(
        "tokens-follow",
        f"All tokens of a shared-weight stack end on the line of v: 1 - cos^2 after "
        f"{len(found['to v']) - 1} layers",
        "derived: contraction",
        measured=away,
        error=1e-12,
        allowance=NEAR,
        resolution=1e-3,
        reason=f"|1 + lam_2|/|1 + mu| = {slow:.4g} of the slowest deviation",
        excuse=""
        if slow ** (len(found["to v"]) - 1) < 1e-5
        else "too few layers for this gap: take more L",
    )


def quantities(found: Observed) -> dict[str, Number]:
    kappa, sigma = found.setting["kappa"], found.setting["sigma"]
    last = found["eigen"][-1]
    spread = last.std(axis=0, ddof=1) / len(last) ** 0.5
    return {
        "mu": Number(last[:, 0].mean(), stderr=spread[0]),
        "cos2_v_u": Number(last[:, 1].mean(), stderr=spread[1]),
        "cos2_limit": Number(limits(kappa, sigma)[1]),
        "cos2_tokens_u": Number(found["to u"][-1].mean(), 1e-12),
    }


def figures(found: Observed, title: str) -> Mapping[str, Any]:
    figure, axes = panel(title, "layer", r"cos$^2$, mean over tokens")
    axes.plot(found["to v"].mean(axis=1), label="to v, the new dominant eigenvector")
    axes.plot(found["to u"].mean(axis=1), label="to u, where F was steered")
    axes.axhline(float(found["v to u"]), ls="--", lw=0.8, color="0.5", label="between v and u")
    axes.legend(fontsize=8)
    return {"steering": figure}


THEOREM = observing(
    measure,
    "layers.steering",
    title="kappa u u^T added to F turns tokens towards u, beyond a threshold",
    statement="F + kappa u u^T has the dominant pair (mu, v) of the secular equation; for a "
    "Gaussian F of spectrum [-2 sigma, 2 sigma] and kappa > sigma, mu -> kappa + sigma^2/kappa and "
    "cos^2 angle(v, u) -> 1 - (sigma/kappa)^2, and 0 below; tokens of layers with the same F go to "
    "v.",
    source=f"{dynamics.PAPER}; derived",
    claims=(pairs,),
    figures=figures,
    quantities=quantities,
    sampled=("limit-value", "limit-vector"),
    options={
        "kappa": Option(2.0, positive, "how strongly F is steered"),
        "sigma": Option(1.0, positive, "F has the spectrum [-2 sigma, 2 sigma]"),
        "D": Option(128, whole(8, 1024), "width: the dimension of a token"),
        "draws": Option(160, whole(16, 10**5), "random matrices of each width: D/2, D, 2 D"),
        "L": Option(2000, whole(1, 10**5), "layers at most"),
        **matrices.TOKENS,
    },
)
