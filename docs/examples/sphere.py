"""Full-batch descent on a data set, with weights that stay on a sphere."""

import jax.numpy as jnp
import numpy as np

from popgd import Finite, Problem, about, claims

rows = np.random.default_rng(0).normal(size=(50, 3)) * [2.0, 1.0, 0.5]
leading = np.linalg.eigh(rows.T @ rows)[1][:, -1]  # where the rows vary most

problem = Problem(
    start=jnp.array([0.6, 0.0, 0.8]),
    loss=lambda w, x: -((w @ x) ** 2) / 2,
    law=Finite(rows),  # its mean over the rows is the exact loss
    tangent=lambda w, gradient: gradient - (gradient @ w) * w,
    retraction=lambda w: w / jnp.sqrt(w @ w),
)
THEOREM = about(
    problem,
    "sphere",
    statement="Descent on the sphere finds the direction in which the data vary most.",
    eta=0.1,
    claims=[
        claims.converges(lambda w: jnp.abs(w @ leading), 1.0, name="overlap"),
        claims.conserved(lambda w: w @ w, name="length"),
    ],
)
