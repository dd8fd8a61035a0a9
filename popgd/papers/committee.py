"""A soft committee machine learns a teacher: a plateau that is a saddle, then each unit one of its.

Source: Saad, Solla, Phys. Rev. E 52 (1995) 4225, in population. x ~ N(0, I), student sum_i
g(J_i.x), teacher sum_n g(B_n.x) with orthonormal B, g(h) = erf(h/sqrt(2)), K units each; loss
(difference)^2/2. With Q = J J^T and R = J B^T the population loss is a sum of arcsines (`exact`);
it cancels near 0, and no loss below 1e-15 is claimed.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf

from popgd import Option, Problem, about, claims, symmetry

ETA = 0.5


def problem(K, N, size, equal=False):
    """Every unit starts at .1 beside the teacher's span; (size, -size, ...) in it, or all equal."""
    g = lambda h: jnp.sum(erf(h / 2**0.5))
    units = symmetry.permutations("units", K, lambda p, J: J[p], lambda p, x: x)
    teacher = symmetry.permutations("teacher", K, lambda p, J: J.at[:, :K].set(J[:, p]),
                                    lambda p, x: x.at[:K].set(x[p]))  # fmt: skip
    i, own = jnp.arange(K)[:, None], size * jnp.diag((-1.0) ** jnp.arange(K))
    beside = jnp.where(jnp.arange(N - K) == 0, 0.1, 0.05 * (-0.4) ** (0 * i if equal else i))
    start = jnp.hstack([jnp.full((K, K), size) if equal else own, beside])
    loss = lambda J, x: (g(J @ x) - g(x[:K])) ** 2 / 2
    law = lambda key: jax.random.normal(key, (N,))
    return Problem(start, loss, law, [units, teacher], exact=partial(exact, K))


def exact(K, J):
    Q, R = J @ J.T, J[:, :K]
    q = 1 + jnp.diag(Q)
    angles = jnp.sum(jnp.arcsin(Q / jnp.sqrt(jnp.outer(q, q))))
    return (
        angles + K * jnp.pi / 6 - 2 * jnp.sum(jnp.arcsin(R / jnp.sqrt(2 * q)[:, None]))
    ) / jnp.pi


def plateau(m):
    """All R_in = 1/sqrt(K (2K - 1)): the weights, the loss there, and the curvatures."""
    K, N = m.problem.start.shape[0], m.problem.start.shape[1]
    J = jnp.zeros((K, N)).at[:, :K].set((K * (2 * K - 1)) ** -0.5)
    loss = K / np.pi * (np.pi / 6 - K * np.arcsin(1 / (2 * K)))
    return J, loss, curvatures(m, J)


def curvatures(m, J):
    H = jax.hessian(lambda flat: m.problem.exact(flat.reshape(J.shape)))(J.ravel())
    return np.linalg.eigvalsh(H)


def nearest(m):
    """How near, at most, the loss comes to the plateau's, as a share of that."""
    reading, loss = m.loss(), plateau(m)[1]
    return np.min(abs(reading.value / loss - 1)), np.max(reading.error) / loss


def lowest(m):
    return plateau(m)[2][0], 1e-13


best = lambda J: jnp.max(J[:, : len(J)], axis=1)  # of unit i, the overlap with its teacher's
span = lambda J: jnp.sum((best(J) - 1) ** 2)
rate = lambda m: -np.log1p(-ETA * curvatures(m, jnp.eye(*m.problem.start.shape))[0])
apart = lambda J: jnp.max(jnp.std(J[:, : len(J)], axis=0))
options = {"K": Option(2, int, "units"), "N": Option(4, int, "inputs"),
           "size": Option(0.001, float, "of the start in the teacher's span")}  # fmt: skip
common = {"eta": ETA, "options": options, "source": "Saad, Solla 1995; derived in population"}

LEARNS = about(
    problem,
    "committee.learns",
    steps=10**5,
    **common,
    statement="Descent waits at the plateau, a saddle, and then learns the teacher exponentially.",
    claims=[
        claims.agrees("plateau", "The loss comes near the plateau's", nearest, 0.0, 1e-3),
        claims.agrees(
            "saddle", "Lowest curvature of the plateau", lowest, 0.0, 1e-3, sense="at most"
        ),
        claims.loss_limit(0.0),
        claims.converges(best, lambda m: np.ones(len(m.problem.start)), "overlap"),
        claims.at_rate(lambda J: J, lambda m: np.eye(*m.problem.start.shape), rate, "J"),
    ],
)
STAYS = about(partial(problem, equal=True), "committee.stays", steps=10**4, **common,
    statement="Units that start equal never leave the plateau.",
    claims=[
        claims.loss_limit(lambda m: plateau(m)[1]),
        claims.converges(lambda J: J, lambda m: plateau(m)[0], "J"),
        claims.monotone(lambda J: exact(len(J), J), falls=True, name="loss"),
    ])  # fmt: skip
PAPER = {"Saad and Solla 1995, On-line learning in soft committee machines": (LEARNS, STAYS)}
