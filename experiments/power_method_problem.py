"""Theorems 4.1 and 4.3 of arXiv 2606.00605 as problems: one layer, with nothing claimed of it.

    python -m popgd.run theorem=experiments/power_method_problem.py:power.distance explore=true

Weights are all of P and Q, of 2d rows each; the exact loss is that of the Kronecker manifold, whose
coordinates are the means of the diagonals of the eight blocks. Declared are rotations, and the
mirror (q, P, Q) -> (-q, -JPJ, -JQJ), J = diag(I, -I), which the paper does not name.
"""

import jax
import jax.numpy as jnp

from popgd import Option, Problem, about, symmetry
from popgd.papers.power_method import model, one_layer
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.quadrature import Spectrum

SPECTRUM = (4.0, 2.0, 1.0)


def coordinates(w):
    """p11, p12, p21, p22, q11, q12, q21, q22: the multiples of I in the blocks of P and Q."""
    halves = [[jnp.trace(block) / len(block) for block in model.blocks(M)] for M in (w.P, w.Q)]
    return jnp.stack([*halves[0], *halves[1]])


def problem(objective, spectrum):
    d, law = len(spectrum), Rotated.with_spectrum(spectrum)
    exact = one_layer.loss(objective, Spectrum.of(spectrum))
    halves = jnp.repeat(jnp.array([1.0, -1.0]), d)

    def turned(O, w):
        R = jnp.kron(jnp.eye(2), O)
        return Weights(R @ w.P @ R.T, R @ w.Q @ R.T)

    def mirrored(g, w):
        J = jnp.where(g > 0, 1.0, -jnp.outer(halves, halves))
        return Weights(J * w.P, J * w.Q)

    turn = lambda O, x: x._replace(X=O @ x.X, q=O @ x.q, V=O @ x.V)
    symmetries = [
        symmetry.rotations("rotations", d, turned, turn),
        symmetry.finite("mirror", (1.0, -1.0), mirrored, lambda g, x: x._replace(q=g * x.q)),
    ]
    start = model.embed(jnp.array(1.0), jnp.array(0.0), d)
    sample = lambda key: law.sample(key, jnp.dtype("float64"))
    return Problem(
        start, objective, sample, symmetries, exact=jax.jit(lambda w: exact(coordinates(w)))
    )


def named(objective, name, statement):
    return about(
        lambda spectrum: problem(objective, spectrum), name, statement=statement, claims=[],
        eta=0.1, steps=10**10, flow=True, source="arXiv 2606.00605",
        options={"spectrum": Option(SPECTRUM, tuple, "eigenvalues of X X^T")},
    )  # fmt: skip


DISTANCE = named(
    SubspaceDistance(1), "power.distance", "One layer with LN, distance to the leading subspace."
)
ITERATION = named(
    PowerIteration("normalised"),
    "power.iteration",
    "One layer with LN, one step of power iteration.",
)
