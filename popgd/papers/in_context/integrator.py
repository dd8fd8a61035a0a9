"""Gradient flow of the exact loss from A = 0, by diffrax."""

from typing import Any

import jax
import jax.numpy as jnp

from popgd.papers.in_context import wishart_loss as exact

#: Relative tolerance of the integrator in a step, and a coarser one. The errors of steps and of the
#: interpolation between them fall with it: over all times the two losses differ by more than the
#: finer one is wrong (2 to 5 times, measured).
INTEGRATOR, COARSE = 1e-10, 1e-9
#: Steps at most; the default setting takes 441.
MOST_STEPS = 10**5


def integrate(n: int, lam: Any, L: int, times: Any, tolerance: float = INTEGRATOR) -> Any:
    """Losses at `times` of dA/dt = -grad l from 0, in the eigenbasis of Sigma = diag(lam), by
    diffrax in log(1 + t/unit), unit the time scale of the fastest: without it the steps run out
    where that is far from 1.

    What is integrated is b = 1 - lam a, which goes to 0 and is wanted to a relative precision. NaN
    where the steps run out.
    """
    import diffrax  # slow to import, and no other theorem needs it

    unit = 1 / jnp.max(lam) ** 2
    polynomial = exact.polynomial(n, len(lam), L)

    def field(log_t: Any, b: Any, polynomial: Any) -> Any:
        return unit * jnp.exp(log_t) * lam**2 * exact.gradient(polynomial, 1 - b)

    @jax.jit
    def solve(polynomial: Any, at: Any) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=0.0,
            t1=at[-1],
            dt0=1e-4,
            y0=jnp.ones_like(lam),
            args=polynomial,
            saveat=diffrax.SaveAt(ts=at),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=1e-14),
            adjoint=diffrax.ForwardMode(),
            max_steps=MOST_STEPS,
            throw=False,
        )
        losses = jax.vmap(lambda b: exact.loss(polynomial, 1 - b))(solution.ys)
        return jnp.where(solution.result == diffrax.RESULTS.successful, losses, jnp.nan)

    return solve(polynomial, jnp.log1p(times / unit))
