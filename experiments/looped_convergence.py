"""Gradient descent in context is learned: the eigenvalues of A against a*, and the loss against its
floor, L = 1, ..., 5.

    python experiments/looped_convergence.py

draws figures/looped_convergence.png and .svg and writes the numbers to
figures/looped_convergence.json. d = 5, n = 50, covariance (2, 1.5, 1, 0.75, 0.5), descent from A =
0, exact. Left, L = 3: every eigenvalue of Sigma^1/2 A Sigma^1/2 goes to the same a* < 1, those of
large variance first, and past it. Right: the loss falls to the least loss (dashed), lower and more
slowly for more loops.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from common import save
from matplotlib.figure import Figure

from popgd.descent.recorded import columns, recorded
from popgd.descent.recursion import log_grid
from popgd.papers.in_context import wishart
from popgd.papers.in_context import wishart_loss as exact
from popgd.papers.in_context.common import COVARIANCE, step_size
from popgd.papers.in_context.model import InContext
from popgd.theorem.plot import BLACK, BLUE, GREEN, GREY, ORANGE

N, STEPS = 50, 10**5
COLOURS = (GREY, BLUE, ORANGE, GREEN, BLACK)


@jax.jit
def advance(polynomial: Any, lam: Any, eta: Any, a: Any, first: Any, end: Any) -> Any:
    """Descent in the eigenbasis of Sigma = diag(lam), a the eigenvalues in whitened coordinates."""
    return jax.lax.fori_loop(
        first, end, lambda _, a: a - eta * lam**2 * exact.gradient(polynomial, a), a
    )


def descent(L: int) -> tuple[Any, Any, Any]:
    """(step, eigenvalues, loss less the least) along the exact descent."""
    law, lam = InContext.gaussian(len(COVARIANCE), N, COVARIANCE), jnp.asarray(COVARIANCE)
    polynomial, eta = exact.polynomial(N, law.d, L), step_size(law, L)
    loss = jax.jit(exact.loss)
    run, rows = partial(advance, polynomial, lam, eta), []
    for step, a in recorded(run, jnp.zeros(law.d), log_grid(STEPS, 16)):
        rows.append((step, a, loss(polynomial, a)))
    steps, eigenvalues, losses = columns(rows)
    return steps, eigenvalues, losses


def main() -> None:
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = []
    for L in range(1, 6):
        step, a, loss = descent(L)
        star, least = (
            wishart.a_star(N, len(COVARIANCE), L),
            wishart.least_loss(N, len(COVARIANCE), L),
        )
        print(f"L = {L}: loss {loss[-1]:.12g}, least {least:.12g}", flush=True)
        if L == 3:
            for i, variance in enumerate(COVARIANCE):
                left.semilogx(
                    step + 1,
                    a[:, i],
                    color=BLUE,
                    alpha=1 - 0.16 * i,
                    label=f"variance {variance:g}",
                )
            left.axhline(star, ls="--", color=GREY, label=f"a* = {star:.6g}")
        line = right.loglog(step + 1, loss, lw=1.4, color=COLOURS[L - 1], label=f"L = {L}")[0]
        right.axhline(least, ls="--", lw=0.9, color=line.get_color())
        numbers.append(
            {
                "L": L,
                "a_star": star,
                "least": least,
                "step": step.tolist(),
                "loss": loss.tolist(),
                "eigenvalues": a.tolist(),
            }
        )
    left.set(
        xlabel="gradient step t + 1",
        ylabel=r"eigenvalues of $\Sigma^{1/2} A_t \Sigma^{1/2}$",
        title="L = 3",
    )
    right.set(
        xlabel="gradient step t + 1",
        ylabel="population loss",
        title="d = 5, n = 50; dashed: least loss",
    )
    for axes in (left, right):
        axes.legend(fontsize=8)
    save(figure, "looped_convergence", numbers)


if __name__ == "__main__":
    main()
