"""What gradient descent does beside the manifold of Theorems 4.1-4.3: the figures of "What the theorems do not say".

    python experiments/stability.py            # all, about a quarter of an hour
    python experiments/stability.py growth     # one of: escape growth spectra learns repair

draws figures/stability_NAME.png, .svg and writes the numbers, with their errors, to figures/stability_NAME.json. Spectrum
(8, 5, 4, 2, 1), r = 1, one layer unless said; full matrices by Monte Carlo, the rest exact.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import save
from matplotlib.figure import Figure
from stability_full import Variant, beside, descend, look, start_of

from popgd import hessian, kronecker, one_layer
from popgd.data import Rotated
from popgd.interpolant import interpolate
from popgd.objectives import PowerIteration, SubspaceDistance
from popgd.plot import BLACK, BLUE, GREEN, GREY, ORANGE
from popgd.quadrature import Spectrum
from popgd.recursion import log_grid
from popgd.theory import stability

LAM = (8.0, 5.0, 4.0, 2.0, 1.0)
LAW, SPECTRUM, D = Rotated.with_spectrum(LAM), Spectrum.of(LAM), len(LAM)
P11, P22, Q22 = 0, 3, 7
SUBSPACE, LAYER = SubspaceDistance(1), PowerIteration("normalised")
LINEAR = {target: PowerIteration(target, layer_norm=False) for target in ("normalised", "unnormalised")}
COLOURS = (BLACK, BLUE, "#56B4E9", GREEN, "#E69F00", ORANGE, "#CC79A7")
#: Samples of a test set, and of a Hessian; a step's batch where all entries descend.
TEST, HESSIAN, BATCH = 2**13, 2**11, 64
KEY = jax.random.key(0)


def known(objective: Any) -> Any:
    return stability.curve_of(objective, SPECTRUM)


def cheap_slope(objective: Any, power: int) -> Any:
    """The slope where p11 = p12 = 0, from the curve."""
    exact = known(objective)
    fit = interpolate(lambda c: np.asarray(exact.log_slope(c).value), power, largest=1e10, tolerance=1e-6)
    return one_layer.along_curve(fit)


def gaussian(seed: int) -> jax.Array:
    """A Gaussian scalar in each inactive block."""
    return jnp.zeros(8).at[jnp.array(stability.INACTIVE)].set(jax.random.normal(jax.random.key(seed), (6,)))


def escape() -> None:
    """(a) Loss against step for several sizes, exact in N and with all entries by Monte Carlo; steps to escape against size."""
    figure, numbers = Figure(figsize=(10, 6.4), layout="constrained"), {}
    rows = figure.subplots(2, 3)
    cases = (("4.1", SUBSPACE, 0.5, 3000), ("4.2, y = Sq", LINEAR["unnormalised"], 0.03, 20_000),
             ("4.2, y = Sq/|Sq|", LINEAR["normalised"], 0.05, 20_000))  # fmt: skip
    for (name, objective, eta, steps), top, bottom in zip(cases, rows[0], rows[1], strict=True):
        limit, grid = float(known(objective).limit().value), log_grid(steps, 24)
        start, slope = kronecker.point(1.0, 0.0), one_layer.slope(objective, SPECTRUM)
        sizes, escapes = [0.0] + [10.0**-k for k in (12, 9, 6, 3, 1)], []
        numbers[name] = {"eta": eta, "limit": limit, "step": grid.tolist(), "exact in N": {}}
        for size, colour in zip(sizes, COLOURS, strict=False):
            path = kronecker.descend(slope, start + size * gaussian(1), eta, D, grid, KEY)
            top.semilogx(path.step + 1, path.loss, color=colour, lw=1.2, label=f"{size:g}")
            numbers[name]["exact in N"][f"{size:g}"] = {"loss": path.loss.tolist(), "theta": path.theta[-1].tolist()}
        for size in (10.0**-k for k in range(1, 13)):
            dense = kronecker.descend(slope, start + size * gaussian(1), eta, D, np.arange(0, steps, 10), KEY)
            below = np.flatnonzero(dense.loss < 0.9 * limit)
            escapes.append((size, int(dense.step[below[0]]) if below.size else None))
        plain = Variant(objective, "LN" if objective.layer_norm else "none")
        starts = [beside(start, D, size, 2) for size in (0.0, 1e-3)]
        for kind, bank, marks in (("fresh samples", False, "+o"), ("fixed training set", True, "1x")):
            batch = 4 * BATCH if bank else BATCH
            runs = descend(plain, optax.sgd(eta), LAW, starts, log_grid(min(steps // 2, 6000), 6)[2:], batch, 3, bank)
            for run, size, mark in zip(runs, ("0", "1e-3"), marks, strict=True):
                seen = look(plain, LAW, run, TEST, 4)
                numbers[name][f"full matrices, size {size}, {kind}, batch {batch}"] = seen
                top.plot(np.array(seen["step"]) + 1, seen["loss"], mark, color=GREY, ms=4, label=f"full, {size}, {kind}")
        top.axhline(limit, ls="--", color=GREY, lw=1)
        top.set(
            title=f"{name}, eta = {eta:g}", xlabel="gradient step t + 1", ylabel="population loss", ylim=(0, min(3 * limit, 0.85))
        )
        shown = [(size, t) for size, t in escapes if t]
        bottom.semilogx(*zip(*shown, strict=True), "o-", color=BLUE, ms=3)
        bottom.set(xlabel="size of the perturbation", ylabel="steps until the loss is 0.9 of the limit", ylim=(0, None))
        numbers[name]["steps to escape"] = escapes
    rows[0][0].legend(fontsize=6, title="size of the perturbation", title_fontsize=6)
    save(figure, "stability_escape", numbers)


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
        slope = exact
        if power:
            slope = cheap_slope(objective, power)
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
            rate = eta * float(stability.coupling(known(objective), objective, SPECTRUM, b[-1:] * a[-1:])[0]) / D
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


def spectra() -> None:
    """(c) The lowest and the highest curvature of each sector along a = b = sqrt c."""
    numbers = []
    cases = (
        ("4.1, L = 1", SUBSPACE),
        ("4.1, L = 3", SubspaceDistance(3)),
        ("4.3", LAYER),
        ("4.2, y = Sq", LINEAR["unnormalised"]),
    )
    for name, objective in cases:
        samples = HESSIAN * (1 if objective.L == 3 else 2)
        places = (0.1, 0.3, 1.0, 2.0, 6.0) if objective.layer_norm else (0.1, 0.3, 0.6, float(known(objective).c_star().value))
        for c in places:
            found, fresh = (hessian.population_hessian(objective, start_of(c), LAW, jax.random.key(k), samples) for k in (5, 6))
            for mode in hessian.modes(found, fresh):
                numbers.append({"case": name, "c": c, **mode._asdict(), "vector": mode.vector.tolist()})
    save(draw_spectra(numbers), "stability_spectra", numbers)


def draw_spectra(numbers: list[dict[str, Any]]) -> Figure:
    """One panel for each case."""
    cases = list(dict.fromkeys(m["case"] for m in numbers))
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(cases)), cases, strict=True):
        places = list(dict.fromkeys(m["c"] for m in numbers if m["case"] == name))
        for sector, colour in zip(hessian.SECTORS, (BLUE, ORANGE, GREEN), strict=True):
            for pick, line in ((min, "-"), (max, ":")):
                rows = [[m for m in numbers if (m["case"], m["c"], m["sector"]) == (name, c, sector)] for c in places]
                modes = [pick(row, key=lambda m: m["curvature"]) for row in rows]
                axes.errorbar(places, [m["curvature"] for m in modes], [2 * m["error"] for m in modes], ls=line, color=colour,
                              lw=1.2, label=sector if pick is min else None)  # fmt: skip
        axes.axhline(0, color=GREY, lw=0.6)
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.set(xscale="log" if max(places) > 1 else "linear", title=name, xlabel="c")
    figure.axes[0].set_ylabel("curvature, lowest (solid), highest (dotted)")
    figure.axes[0].legend(fontsize=7)
    return figure


def learns() -> None:
    """(d) The layer without LN on y = Sq, all entries by Monte Carlo: loss, (m, c), and the angle error when looped."""
    objective, eta, steps = LINEAR["unnormalised"], 0.02, 12_000
    plain = Variant(objective, "none")
    figure, numbers = Figure(figsize=(10, 3.6), layout="constrained"), {"eta": eta, "batch": BATCH, "runs": {}}
    left, middle, right = figure.subplots(1, 3)
    limit, star = float(known(objective).limit().value), float(known(objective).c_star().value)
    for size, start, colour in (
        (0.1, kronecker.point(1.0, 0.0), BLUE),
        (0.01, kronecker.point(1.0, 0.0), GREEN),
        (0.2, jnp.zeros(8), ORANGE),
    ):
        label = f"size {size:g} beside (I, 0)" if bool(start.any()) else f"no structure, size {size:g}"
        weights = beside(start, D, size, 7)
        if not start.any():
            noise = jax.random.normal(jax.random.key(9), (2, 2 * D, 2 * D))
            weights = jax.tree.map(lambda x, n, s=size: s * n, weights, type(weights)(*noise))
        (run,) = descend(plain, optax.sgd(eta), LAW, [weights], log_grid(steps, 8)[2:], BATCH, 8)
        seen = look(plain, LAW, run, TEST, 4)
        numbers["runs"][label] = seen
        theta = np.array(seen["theta"])
        left.loglog(np.array(seen["step"]) + 1, seen["loss"], color=colour, label=label)
        middle.semilogx(np.array(seen["step"]) + 1, 1 + theta[:, 3] * theta[:, 7], color=colour, ls="--")
        middle.semilogx(np.array(seen["step"]) + 1, theta[:, 2] * theta[:, 5], color=colour)
        last = jax.tree.map(lambda x: x[-1], run.weights)
        angles = [looped_angle(last, loops) for loops in range(1, 13)]
        numbers["runs"][label]["sin of the angle to V, by loops"] = angles
        right.semilogy(range(1, 13), [mean for mean, _ in angles], "o", color=colour, ms=3)
    left.axhline(limit, ls="--", color=GREY, label=f"L* of the theorem, {limit:.4g}")
    left.set(xlabel="gradient step t + 1", ylabel="loss on a test set", title="full matrices, no LN, y = Sq")
    left.legend(fontsize=7)
    middle.set(xlabel="gradient step t + 1", ylabel="c (solid), 1 + m (dashed)", title="f = (1 + m) q + c Sq")
    loops = np.arange(1, 13)
    for c, label, style in ((star, "c* of the theorem", "--"), (np.inf, "power method", "-")):
        exact = [angle_of(c, int(k)) for k in loops]
        right.semilogy(loops, exact, style, color=GREY, label=label)
        numbers[label] = exact
    right.set(
        xlabel="loops at inference", ylabel="mean sin of the angle to V", title="the learned layer, looped", xticks=range(1, 13)
    )
    right.legend(fontsize=7)
    save(figure, "stability_learns", numbers)


def looped_angle(weights: Any, loops: int) -> tuple[float, float]:
    """Mean sin of the angle between the looped layer's output and V over 1,000 fresh samples, and its standard error. The
    query token is scaled to norm 1 between loops, as its length, not its direction, would overflow."""
    from popgd import model

    def one(key: jax.Array) -> jax.Array:
        sample = LAW.sample(key, jnp.dtype("float64"))
        q = sample.q
        for _ in range(loops):
            q = model.looped(weights, sample.X, q, 1, False)
            q = q / jnp.linalg.norm(q)
        return jnp.linalg.norm(q - sample.V @ (sample.V.T @ q))

    sines = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(11), 1000)))
    return float(sines.mean()), float(sines.std(ddof=1) / len(sines) ** 0.5)


def angle_of(c: float, loops: int) -> float:
    """The same of q -> q + c Sq, or of the power method, over the same queries' law: a quadrature would do, 10^5 draws here."""
    w = np.random.default_rng(0).normal(size=(100_000, D))
    factor = (np.array(LAM) / LAM[0] if np.isinf(c) else (1 + c * np.array(LAM)) / (1 + c * LAM[0])) ** loops
    v = w * factor
    return float((np.linalg.norm(v[:, 1:], axis=1) / np.linalg.norm(v, axis=1)).mean())


def repair() -> None:
    """(e) Which changes keep the manifold attracting: all entries from 1e-2 beside it, on fresh samples."""
    steps, size, rows = 1500, 1e-2, []
    for theorem, objective, norm, eta in (("4.1", SUBSPACE, "LN", 0.5), ("4.2, y = Sq", LINEAR["unnormalised"], "none", 0.04),
                                          ("4.3", LAYER, "LN", 0.5)):  # fmt: skip
        plain, sgd = Variant(objective, norm), optax.sgd(eta)
        decayed = optax.chain(optax.add_decayed_weights(1e-2), sgd)
        adam, momentum = optax.adam(1e-3), optax.sgd(eta / 10, momentum=0.9)
        changes = [("none", plain, sgd), ("Adam, 1e-3", plain, adam), ("weight decay 1e-2", plain, decayed)]
        changes.append(("momentum 0.9, eta/10", plain, momentum))
        if norm == "LN":
            changes.append(("f normalised", Variant(objective, norm, unit=True), sgd))
            changes.append(("LN eps 1e-2", Variant(objective, norm, 1e-2), sgd))
            changes.append(("mean-centred LN", Variant(objective, "centred LN"), sgd))
        for change, variant, optimiser in changes:
            starts = [beside(kronecker.point(1.0, 0.1), D, start, 12) for start in (0.0, size)]
            runs = descend(variant, optimiser, LAW, starts, np.array([1, steps // 4, steps]), BATCH, 13)
            for start, run in zip((0.0, size), runs, strict=True):
                seen = look(variant, LAW, run, TEST, 4)
                rows.append({"theorem": theorem, "change": change, "size": start, "eta": eta, **seen})
                print(theorem, change, start, [round(x, 4) for x in seen["loss"]], seen["square"][-1], seen["M"], flush=True)
    save(table(rows), "stability_repair", rows)


def table(rows: list[dict[str, Any]]) -> Figure:
    """One line for each change: loss and ||f||^2 at the end from on and from beside the manifold, and the distance from it."""
    lines = []
    for on, off in zip(rows[::2], rows[1::2], strict=True):
        grew = off["M"][-1] / off["M"][0]
        collapse = off["square"][-1] < 0.1 and on["theorem"] != "4.2, y = Sq"
        verdict = "collapse" if collapse else "leaves" if grew > 10 else "stays near" if grew < 2 else "drifts"
        ends = [f"{on['loss'][-1]:.4f}", f"{off['loss'][-1]:.4f} ± {off['loss_error'][-1]:.1g}", f"{off['square'][-1]:.3f}"]
        ways = [f"{on['M'][-1]:.2g}", f"{off['M'][0]:.2g} to {off['M'][-1]:.2g}"]
        lines.append([on["theorem"], on["change"], *ends, *ways, verdict])
    figure = Figure(figsize=(10, 0.3 * len(lines) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    heads = [
        "theorem",
        "change",
        "loss, from M",
        "loss, from 1e-2 beside",
        "E|f|^2",
        "distance, from M",
        "distance, from beside",
        "outcome",
    ]
    drawn = axes.table(cellText=lines, colLabels=heads, loc="center", cellLoc="left")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7)
    drawn.auto_set_column_width(list(range(len(heads))))
    return figure


if __name__ == "__main__":
    made = {f.__name__: f for f in (escape, growth, spectra, learns, repair)}
    for name in sys.argv[1:] or made:
        made[name]()
