"""On which side tokens end, and of which eigenvector.

With residual the iteration matrix is I + F: tokens go to the line of the eigenvector with the
largest |1 + lam|, without to that of the largest |lam|. That is the principal eigenvector of F, the
one of the largest |lam|, unless a negative eigenvalue wins or loses by the residual. Attention that
mixes brings all tokens to one side of it if |1 + lam| > 1, else deviations, which it takes nothing
from, outgrow the mean and tokens part; without (identity), each stays on its own side, v.x_i < 0
going to -v. A dominant lam < 0 without residual (lam < -2 with) turns all around in each layer.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from popgd.claims.evidence import Evidence, known
from popgd.papers.layers import dynamics, matrices
from popgd.papers.layers.rate import moduli
from popgd.problem.law import Hypothesis
from popgd.problem.number import Number
from popgd.theorem.base import Progress, Setting
from popgd.theorem.observed import Observed, observing
from popgd.theorem.plot import panel
from popgd.theorem.readers import one_of, whole
from popgd.theorem.settings import Option

#: 1 - cos^2 counts as 0 below this, once the slowest deviation has fallen below DECAYED.
NEAR, DECAYED = 1e-6, 1e-5


def measure(setting: Setting, progress: Progress) -> dict[str, Any]:
    """v.x_i over |x_i| layer by layer, for the dominant and for the principal eigenvector, from
    random tokens on both sides.
    """
    F, residual, norm = matrices.matrix(setting), setting["residual"], setting["norm"]
    top, rng = matrices.dominant(F, residual, norm), matrices.rng_of(setting, 6)
    principal = matrices.dominant(F, "none", norm)
    X = rng.normal(size=(setting["n"], len(F)))
    X -= X.mean(axis=1, keepdims=True) * (norm == "layernorm")
    side = X @ top.v * np.where(np.arange(setting["n"]) % 3, 1, -1)
    X *= np.where(side < 0, -1, 1)[:, None]  # every third on the side of -v
    step = partial(dynamics.layer, residual=residual, norm=dynamics.NORMS[norm])
    attend = dynamics.FIXED[setting["attention"]]
    path = np.asarray(
        dynamics.stack(
            dynamics.NORMS[norm](jnp.asarray(X)), jnp.asarray(F), attend, setting.L, step
        )
    )
    path = path / np.linalg.norm(path, axis=2, keepdims=True)
    basis = principal.plane
    return {
        "along": path @ top.v,
        "principal": np.sum((path @ basis) ** 2, axis=2),
        "lam": [top.lam.real, principal.lam.real, principal.lam.imag],
        "slow": moduli(top, setting["attention"], setting["n"], residual)[0],
    }


def sides(found: Observed) -> Iterator[Evidence]:
    """The line, the principal eigenvector, and the side."""
    setting, along = found.setting, found["along"]
    lam, principal, _ = found["lam"]
    L, slow = setting.L, float(found["slow"])
    reason = f"the slowest deviation is multiplied by {slow:.4g} in a layer, {L} of them"
    excuse = "" if slow**L < DECAYED else f"too few layers for this gap ({reason}): take more L"
    common = {"error": 1e-12, "allowance": NEAR, "resolution": 1e-2, "reason": reason}
    of = "|lam|" if setting["residual"] == "none" else "|1 + lam|"
    yield known(
        "line",
        f"All tokens end on the line of v, the eigenvector of lam = {lam:.4g} with the largest {of}"
        ": 1 - cos^2",
        "derived: the iteration matrix is I + F, or F",
        measured=1 - along[-1] ** 2,
        excuse=excuse,
        **common,
    )
    yield known(
        "principal",
        f"They end on that of the principal eigenvector of F, of lam = {principal:.4g} with the "
        "largest |lam|: 1 - cos^2",
        "tokens tilt towards the principal eigenvector of F",
        measured=1 - found["principal"][-1],
        excuse=excuse,
        **common,
    )
    turns = np.sign(matrices.factor(lam, setting["residual"])) ** L
    if setting["attention"] == "identity":
        same = np.sign(along[-1]) == turns * np.sign(along[0])
        words = "Each token ends on the side that it started on, v.x_i < 0 at -v"
    else:
        same = np.sign(along[-1]) == np.sign(along[-1].sum())
        words = "All tokens end on one side of v"
    yield known(
        "side",
        f"{words}: the share of tokens{', turned around in each layer' if turns < 0 else ''}",
        "derived: attention that mixes makes one mean of all",
        predicted=1.0,
        measured=float(np.mean(same)),
        error=0.0,
        resolution=0.5 / setting["n"],
        reason="counted",
        excuse=excuse,
    )


def hypotheses(setting: Setting) -> list[Hypothesis]:
    F, residual, norm = matrices.matrix(setting), setting["residual"], setting["norm"]
    top = matrices.dominant(F, residual, norm)
    grows = float(moduli(top, setting["attention"], setting["n"], residual)[0])
    why = f"a layer multiplies deviations from consensus by {grows:.4g}: tokens part"
    return [
        *matrices.dominance(F, residual, norm),
        Hypothesis("consensus attracts", grows < 1, why),
    ]


def figures(found: Observed, title: str) -> Mapping[str, Any]:
    figure, axes = panel(title, "layer", "v.x over |x|")
    axes.plot(found["along"][:, : 2 * 16], lw=0.8)
    axes.set(xlim=(0, min(60, found.setting.L)), ylim=(-1.05, 1.05))
    return {"sides": figure}


def quantities(found: Observed) -> dict[str, Number]:
    return {"share_at_plus_v": Number(float(np.mean(found["along"][-1] > 0)))}


THEOREM = observing(
    measure,
    "layers.sign",
    title="on which side of which eigenvector tokens end",
    statement="Tokens end on the line of the eigenvector with the largest |1 + lam| (without "
    "residual |lam|), which is the principal eigenvector of F unless a negative eigenvalue is in "
    "the way, if consensus there attracts (with residual and attention that mixes |1 + lam| > 1); "
    "with identity attention each on its own side, with one that mixes all on one.",
    source=f"{dynamics.PAPER}; derived",
    transcribed=True,
    claims=(sides,),
    hypotheses=hypotheses,
    fill=matrices.fill,
    figures=figures,
    quantities=quantities,
    options={
        **matrices.MATRIX,
        **matrices.TOKENS,
        **matrices.NORM,
        "L": Option(400, whole(1, 10**6), "layers"),
        "residual": Option("post", one_of("post", "none"), "post-norm layers, or no residual"),
        "attention": Option("uniform", one_of(*dynamics.FIXED), "of every token"),
    },
)
