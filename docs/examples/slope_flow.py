import jax
import jax.numpy as jnp

from popgd import Option, Problem, about, claims


def problem(slope):
    start = {"a": jnp.array(0.5), "b": jnp.array(0.1)}  # the weights, where descent starts
    loss = lambda w, x: (w["a"] * w["b"] * x - slope * x) ** 2 / 2  # on one sample x
    law = lambda key: jax.random.normal(key)  # draws one sample
    exact = lambda w: (w["a"] * w["b"] - slope) ** 2 / 2  # the mean of the loss over the law
    return Problem(start, loss, law, exact=exact)


product = lambda w: w["a"] * w["b"]
balance = lambda w: w["a"] ** 2 - w["b"] ** 2
THEOREM = about(
    problem,
    "slope.flow",
    statement="Gradient flow keeps a^2 - b^2, and a b converges to the slope.",
    eta=0.1,
    steps=10**4,
    flow=True,
    options={"slope": Option(1.0, float, "that of the data")},
    claims=[
        claims.converges(product, lambda measured: measured.setting["slope"], name="ab"),
        claims.conserved(balance, name="balance"),
        claims.loss_limit(0.0),
    ],
)
