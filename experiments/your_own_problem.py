"""A theorem from a model, a law and a loss: a product of two weights learns a slope.

python -m popgd.run theorem=experiments/your_own_problem.py slope=2
"""

import jax
import jax.numpy as jnp

from popgd import Option, Problem, about, claims


def problem(slope):
    start = {"a": jnp.array(0.5), "b": jnp.array(0.1)}
    loss = lambda w, x: (w["a"] * w["b"] * x - slope * x) ** 2 / 2
    law = lambda key: jax.random.normal(key)
    exact = lambda w: (w["a"] * w["b"] - slope) ** 2 / 2
    return Problem(start, loss, law, exact=exact)


product = lambda w: w["a"] * w["b"]
slope = lambda measured: measured.setting["slope"]
THEOREM = about(
    problem,
    "own.product",
    statement="Gradient flow keeps a^2 - b^2, and a b converges to the slope.",
    eta=0.1,
    steps=10**4,
    flow=True,
    options={"slope": Option(1.0, float, "that of the data")},
    claims=[
        claims.converges(product, slope, name="ab"),
        claims.conserved(lambda w: w["a"] ** 2 - w["b"] ** 2, name="balance"),
        claims.loss_limit(0.0),
        claims.monotone(product, name="ab"),
    ],
)
