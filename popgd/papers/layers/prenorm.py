"""Pre-norm layers align tokens only polynomially: x_i <- x_i + F sum_j P_ij N(x_j).

Near consensus on v_1 a token grows by lam_1 in a layer, |x| ~ lam_1 l, so that its component along
v_k is multiplied by 1 + lam_k/(lam_1 l): it grows like l^(lam_k/lam_1), and the tangent of the
angle falls like l^-(1 - lam_2/lam_1). The mean token's component along v_2 over that along v_1 has
corrections of the order of 1/l and of the squared angle alone; the mean angle has others, of
l^(-lam_2/lam_1) and l^(-(lam_2 - lam_3)/lam_1), and shows the exponent late.
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
from popgd.theorem.plot import panel
from popgd.theorem.readers import one_of, whole
from popgd.theorem.settings import Option

#: Records in a factor of ten of the layers; the exponent is read over the last factor.
PER_DECADE = 8
#: Of an exponent; angles beyond LARGE are none of the asymptotic range.
RESOLUTION, LARGE = 0.01, 0.1


def hypotheses(setting: Setting) -> list[Hypothesis]:
    F = matrices.matrix(setting)
    found = matrices.dominant(F, "pre", setting["norm"])
    lam = found.lam.real
    return [
        Hypothesis("lam_1 > 0", bool(lam > 0), f"the largest Re lam is {lam:.4g}: tokens shrink"),
        *matrices.dominance(F, "pre", setting["norm"]),
    ]


def measure(setting: Setting, progress: Progress) -> dict[str, Any]:
    """At recorded layers the mean token's component along the second eigenvector over that along
    the first, and the mean tangent.
    """
    F, norm = matrices.matrix(setting), dynamics.NORMS[setting["norm"]]
    attend = dynamics.FIXED[setting["attention"]]
    top = matrices.dominant(F, "pre", setting["norm"])
    rows = np.linalg.pinv(top.right)  # the left eigenvectors, dual to the right ones
    X = matrices.rng_of(setting, 3).normal(size=(setting["n"], len(F)))
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    X *= np.where(X @ top.v < 0, -1, 1)[:, None]
    count = int(np.log10(setting.L) * PER_DECADE)
    layers = np.unique(np.round(10 ** (np.arange(count + 1) / PER_DECADE)).astype(int))
    run = jax.jit(
        lambda X, k: jax.lax.fori_loop(
            0, k, lambda _, X: dynamics.layer(X, jnp.asarray(F), attend(X), "pre", norm), X
        )
    )
    ratio, angle, X, done = [], [], jnp.asarray(X), 0
    for l in layers:
        progress("layers", done, int(layers[-1]))
        X, done = run(X, l - done), l
        mean = np.asarray(X).mean(axis=0)
        ratio.append(abs(rows[1] @ mean) / abs(rows[0] @ mean))
        angle.append(np.mean(abs(np.asarray(dynamics.tangent(X, jnp.asarray(top.v))))))
    slow = np.real(top.others).max() / top.lam.real
    return {"layer": layers, "ratio": ratio, "angle": angle, "slow": slow}


def exponents(found: Observed, of: str) -> tuple[float, float]:
    """d log/d log l over the last factor of ten, and over the one before."""
    log, l = np.log(found[of]), np.log(found["layer"])
    at = [-1, -1 - PER_DECADE, -1 - 2 * PER_DECADE]
    late, before = np.diff(log[at]) / np.diff(l[at])
    return float(late), float(before)


def polynomial(found: Observed) -> Iterator[Evidence]:
    """The exponent with which the second component falls."""
    slow = float(found["slow"])
    late, before = exponents(found, "ratio")
    angle = float(found["angle"][-1 - PER_DECADE])
    # Corrections fall like 1/l or the squared angle: by this in a factor of ten
    falls = 10 ** min(1.0, 2 * (1 - slow), 2.0)
    yield known(
        "prenorm-exponent",
        f"The mean token's component along v_2 over that along v_1 falls like l^-(1 - Re lam_2/"
        f"lam_1): the exponent over the layers {found['layer'][-1 - PER_DECADE]:.3g} to "
        f"{found['layer'][-1]:.3g}",
        "derived: |x| grows by lam_1 in a layer",
        predicted=slow - 1,
        measured=late,
        error=1e-9,
        allowance=2 * abs(late - before) / (falls - 1),
        resolution=RESOLUTION,
        reason=f"the factor of ten before gave {before:.6g}; corrections of 1/l and of the squared "
        "angle fall on",
        excuse="" if angle < LARGE else f"the mean tangent is still {angle:.2g}: take more layers",
    )


def quantities(found: Observed) -> dict[str, Number]:
    late, before = exponents(found, "angle")
    return {"exponent_of_mean_angle": Number(late, abs(late - before))}


def figures(found: Observed, title: str) -> Mapping[str, Any]:
    figure, axes = panel(title, "layer l", "tangent")
    l, slow = found["layer"], float(found["slow"])
    axes.loglog(l, found["ratio"], lw=1.2, label="mean token, $v_2$ over $v_1$")
    axes.loglog(l, found["angle"], lw=1.2, label="mean over tokens")
    guide = found["ratio"][-1] * (l / l[-1]) ** (slow - 1)
    axes.loglog(l, guide, ls="--", lw=0.8, color="0.5", label=f"$l^{{{slow - 1:.3g}}}$")
    axes.legend(fontsize=8)
    return {"prenorm": figure}


THEOREM = observing(
    measure,
    "layers.prenorm",
    title="pre-norm layers align tokens like a power of their number, not exponentially",
    statement="Without normalisation of the residual stream (pre-norm) the tangent of the angle to "
    "v_1 falls like l^-(1 - lam_2/lam_1) with the number l of layers: polynomially, not "
    "exponentially.",
    source=f"{dynamics.PAPER}; derived",
    claims=(polynomial,),
    hypotheses=hypotheses,
    fill=matrices.fill,
    figures=figures,
    quantities=quantities,
    options={
        **matrices.MATRIX,
        **matrices.TOKENS,
        **matrices.NORM,
        "L": Option(10**5, whole(1000, 10**7), "layers"),
        "attention": Option("uniform", one_of("uniform", "identity"), "of every token"),
    },
    n=8,
)
