"""(b) Growth of p22 - r22 and p11 beside the manifold, against the closed form or the rate."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import save
from matplotlib.figure import Figure
from stability_full import Variant, descend
from stability_setting import BATCH, KEY, LAW, LAYER, LINEAR, SPECTRUM, SUBSPACE, D, known

from popgd import kronecker, one_layer
from popgd.interpolant import interpolate
from popgd.plot import BLACK, BLUE, ORANGE
from popgd.recursion import log_grid
from popgd.theory.stability import prediction
from popgd.theory.stability.prediction import P11, P22, Q22


def cheap_slope(objective: Any, power: int) -> Any:
    """The slope where p11 = p12 = 0, from the curve."""
    exact = known(objective)
    fit = interpolate(lambda c: np.asarray(exact.log_slope(c).value), power, largest=1e10, tolerance=1e-6)
    return one_layer.along_curve(fit)


def growth() -> None:
    """(b) Growth of p22 - r22 and p11 from 1e-13 by the nonlinear descent in N, against the closed form or the rate.

    The dots descend in all entries, batch BATCH. For 4.2 with y = Sq they follow the rate; in 4.1 sampling noise drives the
    active blocks off the multiples of I, p11 then grows along another path, and faster than on the manifold.
    """
    figure, numbers = Figure(figsize=(9.6, 3.6), layout="constrained"), {}
    cases = (
        ("4.1", SUBSPACE, 2, 0.2, 10**5),
        ("4.3", LAYER, 3, 0.2, 4 * 10**6),
        ("4.2, y = Sq", LINEAR["unnormalised"], 0, 0.02, 8000),
    )
    for axes, (name, objective, power, eta, steps) in zip(figure.subplots(1, 3), cases, strict=True):
        grid, exact = log_grid(steps, 24), one_layer.slope(objective, SPECTRUM)
        slope = cheap_slope(objective, power) if power else exact
        start = kronecker.point(1.0, 0.0).at[jnp.array([P22, Q22])].set(jnp.array([1e-13, -1e-13]))
        path = kronecker.descend(slope, start, eta, D, grid, KEY)
        a, b, p, r = (path.theta[:, k] for k in (2, 5, P22, Q22))
        seen = abs(p - r) / abs(p - r)[0]
        axes.loglog(grid[1:], seen[1:], color=BLUE, label="p22 - r22, descent")
        numbers[name] = {"eta": eta, "step": grid.tolist(), "p22 - r22": seen.tolist()}
        if power:
            law = np.exp((np.hypot(2 * a * b, a * a - b * b) - abs(a * a - b * b)) / 4)
            axes.loglog(grid[1:], law[1:], "--", color=BLACK, label="closed form, eta -> 0")
            numbers[name]["closed form"] = law.tolist()
            short = log_grid(min(steps, 1500 if power == 3 else 4000), 24)
            p11 = kronecker.descend(exact, kronecker.point(1.0, 0.0).at[P11].set(1e-13), eta, D, short, KEY).theta[:, P11] / 1e-13
            axes.loglog(short[1:], p11[1:], color=ORANGE, label="p11, descent")
            numbers[name]["p11"] = {"step": short.tolist(), "growth": p11.tolist()}
        else:
            rate = eta * float(prediction.coupling(known(objective), objective, b[-1:] * a[-1:])[0][0]) / D
            late = grid > 200
            axes.loglog(
                grid[late], seen[late][0] * (1 + rate) ** (grid[late] - grid[late][0]), "--", color=BLACK, label="1 + 2 eta L*/d"
            )
            numbers[name]["rate"] = rate
        if name != "4.3":
            block, last, colour = (P11, 1500, ORANGE) if power else (P22, steps, BLUE)
            numbers[name]["full matrices"] = full_growth(objective, eta, block, log_grid(last, 6)[2:])
            dots = numbers[name]["full matrices"]
            axes.loglog(dots["step"], dots["growth"], "o", color=colour, ms=3, label="the same, full matrices, sampled")
        axes.set(title=f"{name}, eta = {eta:g}", xlabel="gradient step t", ylabel="growth", ylim=(0.5, 1e13))
        axes.legend(fontsize=7)
    save(figure, "stability_growth", numbers)


def full_growth(objective: Any, eta: float, block: int, grid: np.ndarray) -> dict[str, list]:
    """Growth of tr(P11)/d, or of tr(P22 - Q22)/d, from 1e-11 in descent of all entries on fresh samples; three seeds."""
    start = kronecker.point(1.0, 0.0).at[block].set(1e-11)
    start = start if block == P11 else start.at[Q22].set(-1e-11)
    plain, manifold = Variant(objective, "LN" if objective.layer_norm else "none"), kronecker.Kronecker(D)
    runs = []
    for seed in range(3):
        (run,) = descend(plain, optax.sgd(eta), LAW, [manifold.embed(start)], grid, BATCH, 20 + seed)
        theta = np.array(jax.vmap(manifold.coordinates)(run.weights))
        runs.append(theta[:, P11] / 1e-11 if block == P11 else (theta[:, P22] - theta[:, Q22]) / 2e-11)
    return {"step": grid.tolist(), "growth": np.mean(runs, axis=0).tolist(), "seeds": np.array(runs).tolist()}
