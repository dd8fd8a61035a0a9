"""A soft committee machine learns a teacher: a plateau that is a saddle, then each unit one of it.

Source: Saad, Solla, Phys. Rev. E 52 (1995) 4225, in population. x ~ N(0, I), student
sum_i g(J_i.x), teacher sum_n g(B_n.x), B orthonormal, g(h) = erf(h/sqrt(2)), K units each; loss
(difference)^2/2. With Q = J J^T, R = J B^T the population loss is a sum of arcsines (`exact`); it
cancels near 0, and no loss below 1e-15 is claimed.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf

from popgd import Option, Problem, about, claims, symmetry

ETA = 0.5


def problem(K, N, size, equal=False):
    """Every unit starts .1 beside the teacher's span; in it at (size, -size, ...), or all equal."""
    g = lambda h: jnp.sum(erf(h / 2**0.5))
    swap = lambda p, J: J.at[:, :K].set(J[:, p])
    units = symmetry.permutations("units", K, lambda p, J: J[p], lambda p, x: x)
    teacher = symmetry.permutations("teacher", K, swap, lambda p, x: x.at[:K].set(x[p]))
    i, own = jnp.arange(K)[:, None], size * jnp.diag((-1.0) ** jnp.arange(K))
    beside = jnp.where(jnp.arange(N - K) == 0, 0.1, 0.05 * (-0.4) ** (0 * i if equal else i))
    start = jnp.hstack([jnp.full((K, K), size) if equal else own, beside])
    loss = lambda J, x: (g(J @ x) - g(x[:K])) ** 2 / 2
    law = lambda key: jax.random.normal(key, (N,))
    return Problem(start, loss, law, [units, teacher], exact=exact)


def exact(J):
    Q, R, K = J @ J.T, J[:, : len(J)], len(J)
    q = 1 + jnp.diag(Q)
    cross = 2 * jnp.sum(jnp.arcsin(R / jnp.sqrt(2 * q)[:, None]))
    return (jnp.sum(jnp.arcsin(Q / jnp.sqrt(jnp.outer(q, q)))) + K * jnp.pi / 6 - cross) / jnp.pi


def plateau(m):
    """All R_in = 1/sqrt(K (2K - 1)): the weights, and the loss there."""
    K, N = m.problem.start.shape
    J = jnp.zeros((K, N)).at[:, :K].set((K * (2 * K - 1)) ** -0.5)
    return J, K / np.pi * (np.pi / 6 - K * np.arcsin(1 / (2 * K)))


def curvatures(J):
    return np.linalg.eigvalsh(jax.hessian(lambda x: exact(x.reshape(J.shape)))(J.ravel()))


def nearest(m):
    """How near, at most, the loss comes to the plateau's, as a share of that."""
    reading, loss = m.loss(), plateau(m)[1]
    return np.min(abs(reading.value / loss - 1)), np.max(reading.error) / loss


teacher = lambda m: np.eye(*m.problem.start.shape)
rate = lambda m: -np.log1p(-ETA * curvatures(jnp.asarray(teacher(m)))[0])
loss = lambda J: exact(J)
# fmt: off
common = {"eta": ETA, "source": "Saad, Solla 1995; derived in population", "options": {
    "K": Option(2, int, "units"), "N": Option(4, int, "inputs"),
    "size": Option(0.001, float, "of the start in the teacher's span")}}
LEARNS = about(problem, "committee.learns", steps=10**5, **common,
    statement="Descent waits at the plateau, a saddle, and then learns the teacher exponentially.",
    claims=[
        claims.agrees("plateau", "Nearest to the plateau's loss", sense="at most", to=1e-3,
                      of=nearest, resolution=1e-3),
        claims.agrees("saddle", "Lowest curvature of the plateau", sense="at most", to=0.0,
                      of=lambda m: (curvatures(plateau(m)[0])[0], 1e-13), resolution=1e-3),
        claims.loss_limit(0.0), claims.monotone(loss, falls=True),
        claims.at_rate(lambda J: J, teacher, rate, "J")])
STAYS = about(partial(problem, equal=True), "committee.stays", steps=10**4, **common,
    statement="Units that start equal never leave the plateau.",
    claims=[claims.loss_limit(lambda m: plateau(m)[1]), claims.monotone(loss, falls=True),
            claims.converges(lambda J: J, lambda m: plateau(m)[0], "J")])
PAPER = {"Saad, Solla 1995, On-line learning in soft committee machines": (LEARNS, STAYS)}
