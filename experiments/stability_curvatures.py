"""(i) Is the manifold a saddle of the repaired losses? The lowest curvature across it, whatever a
descent had time for.

Optimisers do not change the loss, and momentum and gradient descent leave a point along every
direction of negative curvature. Weight decay w < -l'(0)/d, theta <- theta - eta (grad + w theta),
adds w to every curvature, and on the manifold a = b, l'(c) = -d w stands still. The curvature along
P22 - Q22 is there, with LN and for any L,

    -h/d + w = c l'(c)/d + w = w (1 - c):

no decay makes the manifold attract where it stops at c > 1. That is necessary, not enough: in 4.1
P11 has -(2 c/d) E[...] + w, positive near c = 0 only. A decay beyond -l'(0)/d leaves c = 0 alone.
Source: derived; h and P11 as in `stability.hessian`.

The active blocks P21 and Q12 do not mix with the others, and have curvatures of their own off the
multiples of I.

Mean-centred LN does not change with the data under rotations, and no Schur's lemma holds. There the
manifold is not invariant: the population gradient across it, along the direction of one estimate,
measured by another.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import save, table
from matplotlib.figure import Figure
from stability_full import Variant, start_of
from stability_setting import LAW, LAYER, LINEAR, SUBSPACE, D, known

from popgd.descent.gradient import population_average
from popgd.papers.power_method.kronecker import ACTIVE, Kronecker
from popgd.papers.power_method.model import Active, Weights
from popgd.papers.power_method.stability import hessian

#: Samples of each of two Hessians, and of each of two gradients.
SAMPLES, GRADIENTS = 2**14, 2**16
PLAIN = Variant(LINEAR["unnormalised"], "none")
STAR, SQUARE = (
    float(getattr(known(PLAIN.objective), name)().value) for name in ("c_star", "mean_square")
)
#: Theorem, change of the loss or layer, c; those of 4.2 are where no decay stops, and one of 0.05
#: and of 0.2: l' = 2 E||Sq||^2 (c - c*).
CASES = (
    ("4.1", "none", Variant(SUBSPACE), 0.02),
    ("4.1", "none", Variant(SUBSPACE), 0.5),
    ("4.1", "none", Variant(SUBSPACE), 2.0),
    ("4.1", "f normalised", Variant(SUBSPACE, unit=True), 2.0),
    ("4.1", "LN eps 1e-2", Variant(SUBSPACE, eps=1e-2), 2.0),
    *(
        ("4.2, y = Sq", "none", PLAIN, STAR - decay * D / (2 * SQUARE))
        for decay in (0.0, 0.05, 0.2)
    ),
    ("4.3", "none", Variant(LAYER), 0.5),
    ("4.3", "none", Variant(LAYER), 2.0),
    ("4.3", "f normalised", Variant(LAYER, unit=True), 2.0),
    ("4.3", "LN eps 1e-2", Variant(LAYER, eps=1e-2), 2.0),
)
CENTRED = (("4.1", Variant(SUBSPACE, "centred LN")), ("4.3", Variant(LAYER, "centred LN")))
#: A curvature or a slope is seen from so many standard errors.
SEEN = 4


def curvatures() -> None:
    """At a = b = sqrt c: eigenvectors of one sampled Hessian with their curvatures in another, but
    for motion along the manifold; and the gradients across it of mean-centred LN.
    """
    rows: list[dict[str, Any]] = []
    for theorem, change, variant, c in CASES:
        found, fresh = (
            hessian.population_hessian(variant, start_of(c), LAW, jax.random.key(k), SAMPLES)
            for k in (14, 15)
        )
        decay = (
            max(0.0, -float(known(variant.objective).slope(c).value) / D)
            if change == "none"
            else None
        )
        for sector, low, inside in zip(
            hessian.SECTORS, across_lowest(found, fresh), active_lowest(found, fresh), strict=True
        ):
            row = {
                "curvature": low.curvature,
                "error": low.error,
                "mode": low.name,
                "vector": low.vector.tolist(),
                **inside,
            }
            rows.append(
                {
                    "theorem": theorem,
                    "change": change,
                    "c": c,
                    "decay": decay,
                    "sector": sector,
                    **row,
                }
            )
            print(
                theorem,
                change,
                c,
                decay,
                sector,
                low.name,
                low.curvature,
                low.error,
                inside,
                flush=True,
            )
    gradients = [
        {"theorem": theorem, "c": 2.0, **leaves(variant, 2.0)} for theorem, variant in CENTRED
    ]
    save(
        summary(rows, gradients),
        "stability_curvatures",
        {"curvatures": rows, "mean-centred LN": gradients},
    )


def across_lowest(found: Any, fresh: Any) -> list[hessian.Mode]:
    """The lowest mode of each sector that does not move along the manifold."""
    modes = [
        m for m in hessian.modes(found, fresh) if m.sector != hessian.SECTORS[0] or not along(m)
    ]
    return [next(m for m in modes if m.sector == sector) for sector in hessian.SECTORS]


def along(mode: hessian.Mode) -> bool:
    """Whether a mode of multiples of I moves along the manifold rather than away from it."""
    return float(np.sum(mode.vector[list(ACTIVE)] ** 2)) > 0.5


def active_lowest(found: Any, fresh: Any) -> list[dict[str, float]]:
    """The lowest curvature of P21 and Q12 alone in each sector, its direction from one estimate and
    its value from the other.
    """
    rows = []
    for matrix, mean, stderr in zip(found.mean, fresh.mean, fresh.stderr, strict=True):
        pick = np.ix_(ACTIVE, ACTIVE)
        v = hessian.eigh(np.asarray(matrix)[pick])[1][:, 0]
        value, error = v @ np.asarray(mean)[pick] @ v, abs(v) @ np.asarray(stderr)[pick] @ abs(v)
        rows.append({"active": float(value), "active error": float(error)})
    return rows


def across(gradient: Weights) -> jax.Array:
    """The entries of a gradient less its part along the manifold."""
    manifold = Active(D)
    rest = jax.tree.map(jnp.subtract, gradient, manifold.embed(manifold.coordinates(gradient)))
    return jnp.concatenate([rest.P.ravel(), rest.Q.ravel()])


@dataclass(frozen=True, eq=False)
class _Across:
    """Statistic: one sample's gradient across the manifold, or with `direction` its component along
    that.
    """

    objective: Variant
    direction: Any = None

    def __call__(self, weights: Weights, sample: Any) -> jax.Array:
        found = across(jax.grad(self.objective)(weights, sample))
        return found if self.direction is None else found @ self.direction


def leaves(variant: Variant, c: float) -> dict[str, float]:
    """The norm of the population gradient across the manifold, from below, with its standard
    error.
    """
    at = Kronecker(D).embed(start_of(c))
    one = np.asarray(
        population_average(_Across(variant), at, LAW, jax.random.key(16), GRADIENTS).mean
    )
    found = population_average(
        _Across(variant, one / np.linalg.norm(one)), at, LAW, jax.random.key(17), GRADIENTS
    )
    print("gradient across M", variant, float(found.mean), float(found.stderr), flush=True)
    return {"gradient": float(found.mean), "error": float(found.stderr)}


def summary(rows: list[dict[str, Any]], gradients: list[dict[str, Any]]) -> Figure:
    """One line for each loss: the lowest curvature of each sector, the decay that stops there, and
    what it makes of them.
    """
    lines = []
    for theorem, change, _, c in CASES:
        mine = [
            row for row in rows if (row["theorem"], row["change"], row["c"]) == (theorem, change, c)
        ]
        words = [f"{row['curvature']:.2g} ± {row['error']:.1g}  {row['mode']}" for row in mine]
        words += [f"{row['active']:.2g} ± {row['active error']:.1g}" for row in mine[1:]]
        decay = mine[0]["decay"]
        with_it = (
            ["", ""] if decay is None or decay < 1e-12 else [f"{decay:.2g}", outcome(mine, decay)]
        )
        lines.append([theorem, change, f"{c:.3g}", *words, outcome(mine, 0.0), *with_it])
    for row in gradients:
        word = f"gradient across M {row['gradient']:.3g} ± {row['error']:.1g}"
        left = "not invariant" if row["gradient"] > SEEN * row["error"] else "cannot tell"
        lines.append(
            [row["theorem"], "mean-centred LN", f"{row['c']:.3g}", word, *[""] * 4, left, "", ""]
        )
    heads = [
        "theorem",
        "change",
        "c",
        *hessian.SECTORS,
        "P21, Q12: antisym.",
        "sym. traceless",
        "outcome",
    ]
    heads += ["decay that stops there", "with it"]
    return table(heads, lines, 13)


def outcome(rows: list[dict[str, Any]], decay: float) -> str:
    """What the lowest curvatures of the sectors, plus the decay, make of the manifold."""
    if any(row["curvature"] + decay < -SEEN * row["error"] for row in rows):
        return "saddle"
    return (
        "attracts"
        if all(row["curvature"] + decay > SEEN * row["error"] for row in rows)
        else "flat, or cannot tell"
    )
