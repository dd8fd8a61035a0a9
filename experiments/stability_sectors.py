"""(f) Growth of a perturbation of all entries, sector by sector, against first order: rates,
amplitudes, noise.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import save
from matplotlib.figure import Figure
from stability_full import draw as draw_samples
from stability_setting import LAM, LAW, LAYER, LINEAR, SUBSPACE, D, known

from popgd.descent.recursion import log_grid
from popgd.papers.power_method import kronecker, model
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.kronecker import BLOCKS
from popgd.papers.power_method.objectives import SubspaceDistance
from popgd.papers.power_method.stability import hessian, prediction
from popgd.papers.power_method.stability.growth import lowest, sector_growth
from popgd.papers.power_method.stability.hessian import SECTORS
from popgd.papers.power_method.stability.measure import INACTIVE
from popgd.papers.power_method.training.study import curves_of
from popgd.theorem.plot import BLACK, BLUE, GREEN, GREY, ORANGE
from popgd.theorem.report import resolve

#: Growth is followed so far, where the steps do not end it before.
DECADES = 6.0
#: Theorem, L, spectrum, step size, target, steps at most, and the perturbation in each sector.
CASES = (
    ("4.1", 1, LAM, 0.5, "", 500, ("P11", "P11", "P11")),
    ("4.1", 1, (3.0, 2.0, 1.0), 1.5, "", 500, ("P11", "P11", "P11")),
    ("4.1", 2, (4.0, 2.0, 1.0), 0.5, "", 300, ("P12 - Q21", "Q11", "P11")),
    ("4.1", 3, LAM, 1e-3, "", 200, ("P12 - Q21", "Q11", "P11")),
    ("4.2", 1, LAM, 0.1, "unnormalised", 1500, ("P22 - Q22", "P22 - Q22", "P22 - Q22")),
    ("4.3", 1, LAM, 0.5, "", 500, ("P22 - Q22", "P11", "P22 - Q22")),
)
#: Theorem, objective, spectrum, step size of the descents from many sizes.
AMPLITUDES = (
    ("4.1", SUBSPACE, LAM, 0.5),
    ("4.1, L = 2", SubspaceDistance(2), (4.0, 2.0, 1.0), 0.05),
    ("4.1, L = 3", SubspaceDistance(3), LAM, 1e-3),
    ("4.2, y = Sq", LINEAR["unnormalised"], LAM, 0.02),
    ("4.2, y = Sq/|Sq|", LINEAR["normalised"], (3.0, 2.0, 1.0), 0.1),
    ("4.3", LAYER, LAM, 0.5),
)
#: Samples of a Hessian; the series has as many.
SAMPLES = 2**13
#: Products of random maps whose mean is not known to this are not drawn: where another sector grows
#: faster, noise leaks there.
RESOLVED = 0.5
COLOURS = (BLUE, ORANGE, GREEN)


def sectors() -> None:
    """Six cases; amplitudes 1e-12 to 0.1; batch sizes; the active blocks under sampling noise."""
    numbers = {
        "rates": [rates(*case) for case in CASES],
        "amplitudes": [amplitudes(*case) for case in AMPLITUDES],
        "batches": batches(),
        "active": active(),
    }
    save(draw(numbers), "stability_sectors", numbers)


def rates(
    theorem: str, L: int, lam: tuple, eta: float, target: str, steps: int, modes: tuple[str, ...]
) -> dict[str, Any]:
    """Log growth by first order and by tangent maps of full matrices on fresh samples, and the
    sharpest direction.
    """
    given = {"L": L} if theorem == "4.1" else {"target": target} if target else {}
    setting = resolve(
        {
            "theorem": f"{theorem}.stability",
            "spectrum": lam,
            "eta": eta,
            "samples": SAMPLES,
            **given,
        }
    )
    objective = {
        "4.1": SUBSPACE.__class__(L),
        "4.2": LINEAR.get(target),
        "4.3": LINEAR["normalised"].__class__("normalised"),
    }[theorem]
    curve, _ = curves_of(setting, partial(prediction.curve_of, objective))
    slope, start = prediction.slope_of(objective, curve), kronecker.point(1.0, 0.0)
    along = lambda theta, key: (
        jnp.zeros(()),
        jnp.zeros(8).at[2].set(theta[5]).at[5].set(theta[2]) * slope(theta[2] * theta[5]),
    )
    base = kronecker.descend(along, start, eta, len(lam), log_grid(steps, 16), setting.key(6))
    growth = sector_growth(
        setting, objective, slope, base, np.array([vector(mode) for mode in modes]), steps, DECADES
    )
    rows = {}
    for k, sector in enumerate(SECTORS):
        runs, sets = growth.measured[-1, :, k], growth.predicted[-1, :, k] / growth.mean[-1, k]
        rows[sector] = {
            "mode": modes[k],
            "predicted": float(np.log(abs(growth.mean[-1, k]))),
            "predicted_error": float(sets.std(ddof=1) / len(sets) ** 0.5),
            "measured": float(np.log(abs(runs.mean()))),
            "measured_error": float(runs.std(ddof=1) / len(runs) ** 0.5 / abs(runs.mean())),
        }
    last = int(growth.step[-1])
    row = {
        "theorem": theorem,
        "L": L,
        "spectrum": lam,
        "target": target,
        "eta": eta,
        "steps": last,
        "sectors": rows,
        "eta times the sharpest curvature": growth.sharpest,
        "stable below eta": 2 * eta / growth.sharpest,
    }
    print(
        theorem,
        target,
        L,
        lam,
        last,
        f"{growth.sharpest:.3g}",
        [
            (
                r["mode"],
                round(r["predicted"], 3),
                round(r["measured"], 3),
                round(float(np.hypot(r["predicted_error"], r["measured_error"])), 3),
            )
            for r in rows.values()
        ],
        flush=True,
    )
    return row


def vector(mode: str) -> np.ndarray:
    """The unit vector over the blocks that a mode names: 'P12 - Q21'."""
    plus, _, minus = mode.partition(" - ")
    x = np.zeros(8)
    x[BLOCKS.index(plus)] = 1.0
    if minus:
        x[BLOCKS.index(minus)] = -1.0
    return x / np.linalg.norm(x)


def slope_on(objective: Any, samples: Any) -> Any:
    return jax.grad(lambda weights: jnp.mean(jax.vmap(lambda s: objective(weights, s))(samples)))


def amplitudes(
    name: str, objective: Any, lam: tuple, eta: float, batch: int = 16, steps: int = 260
) -> dict[str, Any]:
    """Descents from size (x (x) M) beside (I, 0) on the very samples of the one from (I, 0) and of
    its tangent.

    The growth along x (x) M over that of the tangent, at all amplitudes that the perturbation
    passes through.
    """
    sizes, d, law = (
        [10.0**-k for k in (12, 10, 8, 6, 4, 3, 2, 1)],
        len(lam),
        Rotated.with_spectrum(lam),
    )
    manifold = kronecker.Kronecker(d)
    found = hessian.population_hessian(
        objective, kronecker.point(1.0, 0.5), law, jax.random.key(7), 512
    )
    units, x = hessian.directions(d), jnp.asarray(lowest(found, INACTIVE))
    base = manifold.embed(kronecker.point(1.0, 0.0))
    zero = jax.tree.map(jnp.zeros_like, base)
    deltas = jax.vmap(lambda x, M: hessian.moved(zero, x, M))(x, units)
    spread = jax.tree.map(
        lambda w, e: w + jnp.einsum("a,k...->ak...", jnp.array(sizes), e), base, deltas
    )

    def step(t: Any, state: tuple) -> tuple:
        base, deltas, spread = state
        gradient = slope_on(
            objective, draw_samples(law, jax.random.fold_in(jax.random.key(31), t), batch)
        )
        down, push = jax.linearize(gradient, base)
        move = lambda w, g: jax.tree.map(lambda w, g: w - eta * g, w, g)
        return (
            move(base, down),
            move(deltas, jax.vmap(push)(deltas)),
            move(spread, jax.vmap(jax.vmap(gradient))(spread)),
        )

    def along(W: Any, x: jax.Array, M: jax.Array) -> jax.Array:
        return x @ jnp.tensordot(
            jnp.stack([*model.blocks(W.P), *model.blocks(W.Q)]), M, ([1, 2], [0, 1])
        )

    def piece(state: tuple, start: Any) -> tuple:
        state = jax.lax.fori_loop(start, start + 20, step, state)
        base, deltas, spread = state
        gaps = jax.tree.map(lambda s, b: s - b, spread, base)
        return state, (
            jax.vmap(along)(deltas, x, units),
            jax.vmap(jax.vmap(along), (0, None, None))(gaps, x, units),
        )

    starts = jnp.arange(0, steps, 20)
    tangent, seen = jax.jit(lambda s: jax.lax.scan(piece, s, starts)[1])((base, deltas, spread))
    tangent, ratio = (
        np.asarray(tangent),
        np.asarray(seen) / np.array(sizes)[:, None] / np.asarray(tangent)[:, None],
    )
    reached = np.array(sizes)[:, None] * abs(tangent)[:, None]
    small, moderate = (
        np.where(reached < end, abs(ratio - 1), 0).max(axis=(0, 1)).tolist() for end in (1e-6, 1e-3)
    )
    print(
        "amplitudes",
        name,
        "growth",
        tangent[-1],
        "largest deviation below 1e-6, 1e-3:",
        small,
        moderate,
        flush=True,
    )
    return {
        "case": name,
        "spectrum": lam,
        "eta": eta,
        "batch": batch,
        "step": (np.asarray(starts) + 20).tolist(),
        "sizes": sizes,
        "x": np.asarray(x).tolist(),
        "tangent": tangent.tolist(),
        "over the tangent": ratio.tolist(),
        "largest deviation below 1e-6": small,
        "largest deviation below 1e-3": moderate,
    }


def batches(eta: float = 0.03, steps: int = 4300, runs: int = 4) -> list[dict[str, Any]]:
    """4.2, y = Sq, p22 - r22 from 1e-12 in raw full-matrix descent with fresh samples: its log
    growth for two batch sizes.

    Sampling noise moves tr(P21 Q12)/d off c by O(eta/batch); as h = 2 (1 + (n/d) tr(P21 Q12)/d -
    n/d) whatever the active blocks, the growth along a run's own path is known: `path`. `manifold`
    is that along the exact path.
    """
    objective, mean, rows = LINEAR["unnormalised"], sum(LAM) / D, []
    manifold, small = (
        kronecker.Kronecker(D),
        jnp.zeros(8).at[jnp.array([3, 7])].set(jnp.array([1e-12, -1e-12])),
    )
    A, star = float(known(objective).mean_square().value), float(known(objective).c_star().value)
    rate = lambda c: jnp.log1p(eta * 2 * (1 + mean * c - mean) / D)

    def exact(_: Any, state: tuple) -> tuple:
        a, b, log = state
        g = 2 * A * (a * b - star) / D
        return a - eta * b * g, b - eta * a * g, log + rate(a * b)

    wanted = float(jax.lax.fori_loop(0, steps, exact, (1.0, 0.0, 0.0))[2])
    for batch in (16, 32):

        def one(key: jax.Array, batch: int = batch) -> jax.Array:
            def step(t: Any, state: tuple) -> tuple:
                W, log = state
                g = slope_on(objective, draw_samples(LAW, jax.random.fold_in(key, t), batch))(W)
                c = jnp.trace(model.blocks(W.P).b21 @ model.blocks(W.Q).b12) / D
                return jax.tree.map(lambda w, g: w - eta * g, W, g), log + rate(c)

            start = manifold.embed(kronecker.point(1.0, 0.0) + small)
            W, log = jax.lax.fori_loop(0, steps, step, (start, 0.0))
            theta = manifold.coordinates(W)
            return jnp.stack([jnp.log((theta[3] - theta[7]) / 2e-12), log])

        found = np.asarray(
            jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(40 + batch), runs))
        )
        error = found.std(axis=0, ddof=1) / runs**0.5
        gap = found[:, 0] - found[:, 1]
        rows.append(
            {
                "batch": batch,
                "manifold": wanted,
                "measured": float(found[:, 0].mean()),
                "error": float(error[0]),
                "path": float(found[:, 1].mean()),
                "less path": float(gap.mean()),
                "less path, error": float(gap.std(ddof=1) / runs**0.5),
            }
        )
        print("batches", rows[-1], flush=True)
    return rows


def active(eta: float = 0.1, steps: int = 400, runs: int = 6) -> list[dict[str, Any]]:
    """4.1, one layer, from exactly (I, 0): what sampling noise makes of the symmetric traceless and
    antisymmetric active parts.

    First order: per direction, V <- (I - eta H) V (I - eta H) + (eta^2/batch) C, with H and C, the
    covariance of one sample's gradient, 2 x 2 for (P21, Q12), sampled along the path; measured: the
    mean square over directions and runs.
    """
    grid = log_grid(steps, 10)[1:]
    slope = prediction.slope_of(SUBSPACE, known(SUBSPACE))
    H, C = response(slope, eta, steps)
    rows = []
    for batch in (64, 256):
        V, at = np.zeros((3, 2, 2)), []
        for t in range(steps):
            move = np.eye(2) - eta * H[t]
            V = move @ V @ move.transpose(0, 2, 1) + eta**2 / batch * C[t]
            at.append(np.trace(V, axis1=1, axis2=2))
        predicted = np.array(at)[grid - 1]
        seen = spread_of(eta, batch, grid, runs)
        mean, error = seen.mean(axis=0), seen.std(axis=0, ddof=1) / runs**0.5
        rows.append(
            {
                "batch": batch,
                "step": grid.tolist(),
                "predicted": predicted.tolist(),
                "measured": mean.tolist(),
                "error": error.tolist(),
            }
        )
        print("active", batch, predicted[-1], mean[-1], error[-1], flush=True)
    return rows


def response(slope: Any, eta: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """H and C (steps, 3, 2, 2) along the exact path, interpolated linearly in log(1 + 8c) between
    12 points.
    """
    path: list[tuple[float, ...]] = [(1.0, 0.0)]
    one = jax.jit(lambda a, b: (a - eta * b * slope(a * b) / D, b - eta * a * slope(a * b) / D))
    for _ in range(steps - 1):
        path.append(tuple(map(float, one(*path[-1]))))
    ab = np.array(path)
    place = np.log1p(8 * ab[:, 0] * ab[:, 1])
    nodes = np.unique(np.searchsorted(place, np.linspace(0, place[-1], 12)).clip(0, steps - 1))
    units = hessian.directions(D)

    @jax.jit
    def moments(a: Any, b: Any) -> tuple:
        def one(i: Any) -> tuple:
            s = LAW.sample(jax.random.fold_in(jax.random.key(50), i), jnp.dtype("float64"))
            W = model.embed(a, b, D)
            loss = lambda y, M: SUBSPACE(
                hessian.moved(W, jnp.zeros(8).at[jnp.array([2, 5])].set(y), M), s
            )
            g = jax.vmap(lambda M: jax.grad(loss)(jnp.zeros(2), M))(units)
            return jax.vmap(lambda M: jax.hessian(loss)(jnp.zeros(2), M))(units), jnp.einsum(
                "ki,kj->kij", g, g
            )

        return jax.tree.map(
            lambda x: x.mean(axis=0), jax.lax.map(one, jnp.arange(2048), batch_size=32)
        )

    found = [np.array(x) for x in zip(*[moments(*ab[i]) for i in nodes], strict=True)]
    grow = lambda x: np.stack(
        [np.interp(place, place[nodes], y) for y in x.reshape(len(nodes), -1).T], -1
    ).reshape(steps, 3, 2, 2)
    return grow(found[0]), grow(found[1])


def spread_of(eta: float, batch: int, grid: np.ndarray, runs: int) -> np.ndarray:
    """Mean square per direction of each sector of P21 and Q12 together, (runs, records, 3); of
    multiples of I it is 0 here.
    """

    def one(key: jax.Array) -> jax.Array:
        def step(t: Any, W: Any) -> Any:
            g = slope_on(SUBSPACE, draw_samples(LAW, jax.random.fold_in(key, t), batch))(W)
            return jax.tree.map(lambda w, g: w - eta * g, W, g)

        def piece(W: Any, ends: jax.Array) -> tuple:
            W = jax.lax.fori_loop(ends[0], ends[1], step, W)
            square = jnp.zeros(3)
            for B in (model.blocks(W.P).b21, model.blocks(W.Q).b12):
                B = B - jnp.trace(B) / D * jnp.eye(D)
                square = square + jnp.stack(
                    [0.0, jnp.sum((B - B.T) ** 2) / 4, jnp.sum((B + B.T) ** 2) / 4]
                )
            return W, square / jnp.array(hessian.dimensions(D))

        ends = jnp.stack(
            [jnp.concatenate([jnp.zeros(1, int), jnp.asarray(grid[:-1])]), jnp.asarray(grid)],
            axis=1,
        )
        return jax.lax.scan(piece, model.embed(jnp.asarray(1.0), jnp.asarray(0.0), D), ends)[1]

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(60 + batch), runs)))


def draw(numbers: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(10, 7.4), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    for sector, colour in zip(SECTORS, COLOURS, strict=True):
        rows = [row["sectors"][sector] for row in numbers["rates"]]
        rows = [row for row in rows if row["measured_error"] < RESOLVED]
        error = [2 * np.hypot(row["predicted_error"], row["measured_error"]) for row in rows]
        x, y = ([row[name] for row in rows] for name in ("predicted", "measured"))
        first.errorbar(x, y, error, fmt="o", color=colour, ms=4, label=sector)
    top = DECADES * np.log(10)
    first.plot([0, top], [0, top], color=GREY, lw=0.8)
    first.set(
        xlabel="log growth by the reduced Hessian along the path",
        ylabel="on fresh samples, all entries (2 s.e.)",
        title="six cases of theorem, L, spectrum, eta",
    )
    first.legend(fontsize=7)
    for seen, colour in zip(
        numbers["amplitudes"], (BLUE, "#56B4E9", BLACK, ORANGE, "#E69F00", GREEN), strict=True
    ):
        ratio, tangent, sizes = (
            np.array(seen[k]) for k in ("over the tangent", "tangent", "sizes")
        )
        reached = sizes[None, :, None] * abs(tangent)[:, None]
        second.loglog(
            reached.ravel(),
            np.maximum(abs(ratio - 1).ravel(), 1e-16),
            ".",
            color=colour,
            ms=3,
            label=seen["case"],
        )
    second.set(
        xlabel="amplitude reached",
        ylabel="deviation from the tangent, same samples",
        title="all sectors, 260 steps",
    )
    second.set(xlim=(1e-12, 10.0), ylim=(None, 10.0))
    second.legend(fontsize=7)
    rows = numbers["batches"]
    inverse = [1 / row["batch"] for row in rows]
    third.errorbar(
        inverse,
        [r["measured"] - r["manifold"] for r in rows],
        [2 * r["error"] for r in rows],
        fmt="o",
        color=BLUE,
        label="less that of the exact path",
    )
    third.errorbar(
        inverse,
        [r["less path"] for r in rows],
        [2 * r["less path, error"] for r in rows],
        fmt="s",
        color=ORANGE,
        label="less that of the run's own path",
    )
    third.axhline(0, color=GREY, lw=0.8)
    third.set(
        xlabel="1/batch",
        ylabel="log growth of p22 - r22",
        title=f"4.2, y = Sq: log growth {rows[0]['manifold']:.4f}",
        xlim=(0, None),
    )
    third.legend(fontsize=7, loc="lower left")
    for row, mark in zip(numbers["active"], "os", strict=True):
        for k, colour in ((1, ORANGE), (2, GREEN)):
            measured, error = np.array(row["measured"])[:, k], np.array(row["error"])[:, k]
            fourth.errorbar(
                row["step"],
                measured,
                2 * error,
                fmt=mark,
                color=colour,
                ms=3,
                label=f"{SECTORS[k]}, batch {row['batch']}",
            )
            fourth.plot(row["step"], np.array(row["predicted"])[:, k], color=BLACK, lw=0.8)
    fourth.set(
        xscale="log",
        yscale="log",
        xlabel="gradient step",
        ylabel="mean square per direction",
        title="4.1 from exactly (I, 0): P21 and Q12 under noise",
    )
    fourth.legend(fontsize=7)
    return figure
