"""(b) Growth of p22 - r22 and p11 beside the manifold, against the closed forms, the rate and the
laws of p11.

With LN, a = b = sqrt c at late times, p11 <- (1 - eta k11) p11 and dc/dt = -(l'/d) (a^2 + b^2) give
d log p11/dc = F_{p11,p11}(1, c)/(2 l'(c)). As c -> infinity, ||S q||^2/||v||^2 -> 1/c^2, -c^2 l' ->
K in 4.1 and -c^3 l' -> K, E[1 - cos] -> K/(4c^2) in 4.3 make of it

    l_inf/K   (4.1: p11 grows like exp(l_inf c/K)),        1/(4c)   (4.3: like c^(1/4), t^(1/12)),

in 4.1 with Delta = a^2 - b^2 > 0 like exp{(l_inf/K) (c - (Delta/2) asinh(2c/Delta))}, as 2b^2/(a^2
+ b^2) = 1 - Delta/sqrt(4c^2 + Delta^2). Source: derived; k11 as in
`popgd.papers.power_method.stability.hessian`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import save
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from stability_full import Variant, descend
from stability_setting import BATCH, KEY, LAM, LAW, LAYER, LINEAR, SPECTRUM, SUBSPACE, D, known

from popgd.descent.interpolant import interpolate
from popgd.descent.recursion import log_grid
from popgd.papers.power_method import kronecker, one_layer
from popgd.papers.power_method.stability import prediction
from popgd.papers.power_method.stability.prediction import P11, P22, Q22
from popgd.theorem.plot import BLACK, BLUE, GREEN, ORANGE
from popgd.theorem.report import resolve

#: Theorem, objective, p with -c^p l'(c) -> K (0 where c converges), step size, steps, those of p11
#: by nonlinear descent; block, steps and batches of the descents in all entries.
CASES = (
    ("4.1", SUBSPACE, 2, 0.2, 10**5, 4000, (P11, 1500, (BATCH,))),
    ("4.3", LAYER, 3, 1.0, 6 * 10**5, 1500, (P22, 6 * 10**5, (16, 64))),
    ("4.2, y = Sq", LINEAR["unnormalised"], 0, 0.02, 8000, 0, (P22, 8000, (BATCH,))),
)
#: The growth axis ends here; first order is compared below this amplitude, between records by
#: linear interpolation.
TOP, LINEAR_TO = 1e13, 1e-5
#: Amplitude at the start, exact in N and in all entries; seeds of the latter; where the laws of p11
#: are taken at their word.
EXACT, FULL, SEEDS, FAR = 1e-13, 1e-11, 2, 1e4


def growth() -> None:
    """(b) Growth of p22 - r22 and p11 by the nonlinear descent in N, against the closed form or the
    rate and first order.

    The dots descend in all entries. For 4.2 with y = Sq and for 4.3 they follow the lines; in 4.1
    sampling noise drives the active blocks off the multiples of I, p11 then grows along another
    path, and faster than on the manifold.
    """
    figure, numbers = Figure(figsize=(9.6, 4.8), layout="constrained"), {}
    for axes, case in zip(figure.subplots(1, 3), CASES, strict=True):
        name, eta = case[0], case[3]
        numbers[name] = {"eta": eta, **one(axes, *case)}
        axes.set(
            title=f"{name}, eta = {eta:g}",
            xlabel="gradient step t",
            ylabel="growth",
            ylim=(0.5, TOP),
            xscale="log",
            yscale="log",
        )
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    save(figure, "stability_growth", numbers)


def one(
    axes: Axes,
    name: str,
    objective: Any,
    power: int,
    eta: float,
    steps: int,
    short: int,
    dots: tuple,
) -> dict[str, Any]:
    """One panel and its numbers."""
    grid = log_grid(steps, 24)
    slope = cheap_slope(objective, power) if power else one_layer.slope(objective, SPECTRUM)
    start = kronecker.point(1.0, 0.0).at[jnp.array([P22, Q22])].set(jnp.array([EXACT, -EXACT]))
    path = kronecker.descend(slope, start, eta, D, grid, KEY)
    a, b, p, r = (path.theta[:, k] for k in (2, 5, P22, Q22))
    seen = abs(p - r) / abs(p - r)[0]
    axes.plot(grid[1:], seen[1:], color=BLUE, label="p22 - r22, descent")
    numbers: dict[str, Any] = {"step": grid.tolist(), "p22 - r22": seen.tolist()}
    if power:
        law = np.exp((np.hypot(2 * a * b, a * a - b * b) - abs(a * a - b * b)) / 4)
        axes.plot(grid[1:], law[1:], "--", color=BLACK, label="closed form, eta -> 0")
        numbers |= {
            "closed form": law.tolist(),
            "p11": upper(axes, name[:3], objective, eta, path, short),
        }
    else:
        rate = (
            eta
            * float(prediction.coupling(known(objective), objective, b[-1:] * a[-1:]).value[0])
            / D
        )
        late = grid > 200
        line = seen[late][0] * (1 + rate) ** (grid[late] - grid[late][0])
        axes.plot(grid[late], line, "--", color=BLACK, label="1 + 2 eta L*/d")
        numbers["rate"] = rate
    block, last, batches = dots
    word, wanted = (
        ("p11", numbers["p11"]["log, first order"]) if block == P11 else ("p22 - r22", np.log(seen))
    )
    numbers["full matrices"] = [
        full_growth(objective, eta, block, last, batch) for batch in batches
    ]
    numbers["exact"] = float(np.interp(last, grid, wanted))
    largest = numbers["full matrices"][-1]
    axes.plot(largest["step"], largest["growth"], "o", color=ORANGE if block == P11 else BLUE, ms=3,
              label=f"{word}, all entries, batch {batches[-1]}")  # fmt: skip
    print(
        name,
        word,
        "log growth",
        numbers["exact"],
        "all entries",
        [(x["batch"], x["logs"]) for x in numbers["full matrices"]],
        flush=True,
    )
    return numbers


def cheap_slope(objective: Any, power: int) -> Any:
    """The slope where p11 = p12 = 0, from the curve."""
    exact = known(objective)
    fit = interpolate(
        lambda c: np.asarray(exact.log_slope(c).value), power, largest=1e10, tolerance=1e-6
    )
    return one_layer.along_curve(fit)


def upper(
    axes: Axes, theorem: str, objective: Any, eta: float, path: kronecker.Path, short: int
) -> dict[str, Any]:
    """p11 by nonlinear descent for `short` steps, by first order for all, and its law, drawn from
    the last step backwards.
    """
    brief = log_grid(short, 24)
    start = kronecker.point(1.0, 0.0).at[P11].set(EXACT)
    p11 = (
        kronecker.descend(one_layer.slope(objective, SPECTRUM), start, eta, D, brief, KEY).theta[
            :, P11
        ]
        / EXACT
    )
    setting = resolve({"theorem": f"{theorem}.stability", "spectrum": LAM, "eta": eta})
    log = prediction.first_order(setting, objective, SPECTRUM, known(objective), path, path.step)[2]
    c, exact = path.theta[:, 2] * path.theta[:, 5], known(objective)
    rate = float(exact.limit().value) / float(exact.constant().value)
    delta = path.theta[:, 2] ** 2 - path.theta[:, 5] ** 2
    law = (
        rate * (c - delta / 2 * np.arcsinh(2 * c / delta))
        if theorem == "4.1"
        else np.log(np.maximum(c, 1e-3)) / 4
    )
    anchor = np.flatnonzero(log < np.log(TOP))[-1]
    law += log[anchor] - law[anchor]
    tail = c > 1
    axes.plot(brief[1:], p11[1:], color=ORANGE, label="p11, descent")
    axes.plot(
        path.step[1:], np.exp(np.minimum(log, 700))[1:], ":", color=ORANGE, label="p11, first order"
    )
    axes.plot(path.step[tail], np.exp(np.minimum(law, 700))[tail], "--", color=GREEN,
              label="its law, to O(log c)" if theorem == "4.1" else "its law, c^(1/4)")  # fmt: skip
    against, per, wanted = (
        (c, 1.0, rate) if theorem == "4.1" else (np.log(np.maximum(c, 1e-3)), FAR, 0.25)
    )
    seen = {
        "law": wanted,
        "at the end": float(np.polyfit(against[-12:], log[-12:], 1)[0]),
        f"at c = {FAR:g}": per * local_rate(objective, FAR),
    }
    print(
        theorem,
        "p11: d log p11/dc" if theorem == "4.1" else "p11: d log p11/d log c",
        seen,
        flush=True,
    )
    apart = np.abs(np.log(p11) - np.interp(brief, path.step, log))[p11 * EXACT < LINEAR_TO].max()
    return {
        "step": brief.tolist(),
        "growth": p11.tolist(),
        "log, first order": log.tolist(),
        "c": c.tolist(),
        "slopes": seen,
        "largest deviation of the logarithms": float(apart),
    }


def local_rate(objective: Any, c: float) -> float:
    """d log p11/dc at a = b = sqrt c, exact: the curvature by the loss on N, l' by the curve."""
    loss = one_layer.loss(objective, SPECTRUM)
    second = jax.grad(jax.grad(lambda x: loss(kronecker.point(c, 1.0).at[P11].set(x))))(0.0)
    return float(second) / (2 * float(known(objective).slope(c).value))


def full_growth(objective: Any, eta: float, block: int, steps: int, batch: int) -> dict[str, Any]:
    """Growth of tr(P11)/d, or of tr(P22 - Q22)/d, in descent of all entries on fresh samples: mean
    and logarithms at the end.
    """
    start = kronecker.point(1.0, 0.0).at[block].set(FULL)
    start = start if block == P11 else start.at[Q22].set(-FULL)
    plain, manifold = (
        Variant(objective, "LN" if objective.layer_norm else "none"),
        kronecker.Kronecker(D),
    )
    runs, grid = [], log_grid(steps, 6)[2:]
    for seed in range(SEEDS):
        (run,) = descend(
            plain, optax.sgd(eta), LAW, [manifold.embed(start)], grid, batch, 20 + seed
        )
        theta = np.array(jax.vmap(manifold.coordinates)(run.weights))
        runs.append(
            theta[:, P11] / FULL if block == P11 else (theta[:, P22] - theta[:, Q22]) / (2 * FULL)
        )
    logs = np.log(np.array(runs)[:, -1])
    return {
        "batch": batch,
        "step": grid.tolist(),
        "growth": np.mean(runs, axis=0).tolist(),
        "logs": logs.tolist(),
    }
