"""(d) The layer without LN learns y = Sq: all entries by Monte Carlo."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import save
from matplotlib.figure import Figure
from stability_full import Variant, beside, descend, look
from stability_setting import LAM, LAW, LINEAR, TEST, D, known

from popgd.descent.recursion import log_grid
from popgd.papers.power_method import kronecker, model
from popgd.theorem.plot import BLUE, GREEN, GREY, ORANGE

#: Samples of a step.
BATCH = 128


def learns() -> None:
    """(d) The layer without LN on y = Sq, all entries by Monte Carlo: loss, (m, c), and the angle
    error when looped.
    """
    objective, eta, steps = LINEAR["unnormalised"], 0.02, 12_000
    plain = Variant(objective, "none")
    figure, numbers = (
        Figure(figsize=(10, 3.6), layout="constrained"),
        {"eta": eta, "batch": BATCH, "runs": {}},
    )
    left, middle, right = figure.subplots(1, 3)
    limit, star = float(known(objective).limit().value), float(known(objective).c_star().value)
    for size, start, colour in (
        (0.1, kronecker.point(1.0, 0.0), BLUE),
        (0.01, kronecker.point(1.0, 0.0), GREEN),
        (0.2, jnp.zeros(8), ORANGE),
    ):
        label = (
            f"size {size:g} beside (I, 0)" if bool(start.any()) else f"no structure, size {size:g}"
        )
        weights = beside(start, D, size, 7)
        if not start.any():
            noise = jax.random.normal(jax.random.key(9), (2, 2 * D, 2 * D))
            weights = jax.tree.map(lambda x, n, s=size: s * n, weights, type(weights)(*noise))
        (run,) = descend(plain, optax.sgd(eta), LAW, [weights], log_grid(steps, 8)[2:], BATCH, 8)
        seen = look(plain, LAW, run, TEST, 4)
        numbers["runs"][label] = seen
        theta = np.array(seen["theta"])
        left.loglog(np.array(seen["step"]) + 1, seen["loss"], color=colour, label=label)
        middle.semilogx(
            np.array(seen["step"]) + 1, 1 + theta[:, 3] * theta[:, 7], color=colour, ls="--"
        )
        middle.semilogx(np.array(seen["step"]) + 1, theta[:, 2] * theta[:, 5], color=colour)
        last = jax.tree.map(lambda x: x[-1], run.weights)
        angles = [looped_angle(last, loops) for loops in range(1, 13)]
        numbers["runs"][label]["sin of the angle to V, by loops"] = angles
        right.semilogy(range(1, 13), [mean for mean, _ in angles], "o", color=colour, ms=3)
    left.axhline(limit, ls="--", color=GREY, label=f"L* of the theorem, {limit:.4g}")
    left.set(
        xlabel="gradient step t + 1",
        ylabel="loss on a test set",
        title="full matrices, no LN, y = Sq",
    )
    left.legend(fontsize=7)
    middle.set(
        xlabel="gradient step t + 1",
        ylabel="c (solid), 1 + m (dashed)",
        title="f = (1 + m) q + c Sq",
    )
    loops = np.arange(1, 13)
    for c, label, style in ((star, "c* of the theorem", "--"), (np.inf, "power method", "-")):
        exact = [angle_of(c, int(k)) for k in loops]
        right.semilogy(loops, exact, style, color=GREY, label=label)
        numbers[label] = exact
    right.set(
        xlabel="loops at inference",
        ylabel="mean sin of the angle to V",
        title="the learned layer, looped",
        xticks=range(1, 13),
    )
    right.legend(fontsize=7)
    save(figure, "stability_learns", numbers)


def looped_angle(weights: Any, loops: int) -> tuple[float, float]:
    """Mean sin of the angle between the looped layer's output and V over 1,000 fresh samples, and
    its standard error. The query token is scaled to norm 1 between loops, as its length, not its
    direction, would overflow.
    """

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
    """The same of q -> q + c Sq, or of the power method, over the same queries' law: a quadrature
    would do, 10^5 draws here.
    """
    w = np.random.default_rng(0).normal(size=(100_000, D))
    factor = (
        np.array(LAM) / LAM[0] if np.isinf(c) else (1 + c * np.array(LAM)) / (1 + c * LAM[0])
    ) ** loops
    v = w * factor
    return float((np.linalg.norm(v[:, 1:], axis=1) / np.linalg.norm(v, axis=1)).mean())
