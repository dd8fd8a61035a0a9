"""Pictures of this paper's studies, one or two each."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from popgd.papers.in_context import wishart
from popgd.papers.in_context import wishart_loss as exact
from popgd.theorem.plot import BLUE, GREEN, GREY, ORANGE, panel, sheet


def minimiser(study: Any, title: str) -> dict[str, Any]:
    """Eigenvalues of the descent from 0 against a*, and the loss against the least."""
    n, d, L = study.sizes
    values = study.values
    step, a = values["exact/step"], wishart.a_star(n, d, L)
    first, axes = panel(
        title, "gradient step t + 1", r"eigenvalues of $\Sigma^{1/2} A_t \Sigma^{1/2}$"
    )
    axes.semilogx(step + 1, values["exact/eigenvalues"], color=BLUE, lw=1.2)
    axes.axhline(a, ls="--", color=GREY, label=f"a* = {a:.10g}")
    axes.legend(fontsize=8)
    second, axes = panel(title, "gradient step t + 1", "population loss less the least")
    least = wishart.least_loss(n, d, L)
    gap = values["exact/loss"] - least
    seen = gap > values["exact/loss_error"]
    axes.loglog(step[seen] + 1, gap[seen], color=BLUE, label=f"exact; least {least:.10g}")
    axes.legend(fontsize=8)
    return {"eigenvalues": first, "loss": second}


def escape(study: Any, title: str) -> dict[str, Any]:
    """The antisymmetric part and the loss of the descent over all matrices."""
    step, blocks, ratio = (study.values[f"escape/{name}"] for name in ("step", "blocks", "ratio"))
    figure = sheet(8.6, 4.0)
    left, right = figure.subplots(1, 2)
    left.semilogy(step, np.sqrt(2 * (blocks[:, 1] ** 2).sum(axis=1)), color=ORANGE)
    left.set(xlabel="gradient step t", ylabel="norm of the antisymmetric part", xscale="symlog")
    right.plot(step, ratio, color=BLUE)
    right.axhline(1, ls="--", color=GREY)
    right.set(xlabel="gradient step t", ylabel="loss / loss at a* I", xscale="symlog")
    figure.suptitle(title)
    return {"escape": figure}


def dominance(study: Any, title: str) -> dict[str, Any]:
    """The ratio of gradient dominance against the loss."""
    n, d, L = study.sizes
    figure, axes = panel(title, "loss", r"$\|\nabla l\|^2 \, / \, l^{(2L-1)/L}$")
    power = (2 * L - 1) / L
    for name, colour, label in (("infinite", GREY, "n = 1e14"), ("own", BLUE, f"n = {n:,}")):
        loss, square = study.values[f"{name}/loss"], study.values[f"{name}/square"]
        axes.loglog(loss, square / loss**power, ".", ms=2, color=colour, label=label)
    axes.axhline(1 / 16, ls="--", color=ORANGE, label="1/16")
    for level in (4 * L * L * d ** (-(L - 1) / L), 4 * L * L):
        axes.axhline(level, ls=":", color=GREEN)
    axes.legend(fontsize=8)
    return {"dominance": figure}


def flow(study: Any, title: str) -> dict[str, Any]:
    """The loss of gradient flow and its solution at n = infinity."""
    L = study.setting.L
    t, loss = study.values["flow/t"], study.values["flow/loss"]
    lam = jnp.asarray(np.linalg.eigvalsh(study.law.Sigma))
    figure, axes = panel(title, "time t", "population loss")
    axes.loglog(t[1:], loss[1:], color=BLUE, lw=2, label="gradient flow")
    axes.loglog(
        t[1:],
        exact.flow_loss_infinite(lam, L, jnp.asarray(t[1:])),
        ":",
        color=ORANGE,
        lw=2,
        label="n = infinity",
    )
    axes.legend(fontsize=8)
    return {"flow": figure}


def loops(study: Any, title: str) -> dict[str, Any]:
    """Mean and median error against the loops at test."""
    T, errors, mean = (study.values[name] for name in ("loops", "errors", "mean"))
    figure, axes = panel(title, "loops at test", "squared error")
    axes.loglog(range(1, len(mean) + 1), mean, color=ORANGE, label="mean over prompts, exact")
    middle = np.median(errors, axis=1) ** 2
    seen = middle > 1e-30
    axes.loglog(T[seen], middle[seen], "o-", color=BLUE, ms=4, label="median over prompts")
    axes.axvline(study.setting.L, ls="--", color=GREY, label="loops in training")
    axes.legend(fontsize=8)
    return {"loops": figure}


def ood(study: Any, title: str) -> dict[str, Any]:
    """How much of its bound each prompt's error is."""
    figure, axes = panel(title, r"error / ($\rho^T \|A^{-1/2} w\| \|A^{1/2} x_q\|$)", "prompts")
    axes.hist(study.values["share"], 40, color=BLUE)
    axes.axvline(1, ls="--", color=GREY)
    return {"bound": figure}
