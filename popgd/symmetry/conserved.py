"""Quadratic quantities that gradient flow conserves, found as a null space.

    theta^T M grad l(theta; x) = 0 for all theta and x, M symmetric,

says that theta^T M theta is conserved by gradient flow on every sample, hence on the population.
M solves a linear system with a row for each random (theta, x). Descent moves the quantity by
eta^2 g^T M g a step, exactly. On a plane theta and g are its coordinates, and g moves these:
(J J^T)^-1 J grad.

Source: Marcotte, Gribonval, Peyre, arXiv 2307.00144, who find all conserved functions, by Lie
algebras; only quadratic ones are found here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from popgd.problem.errors import TooLarge
from popgd.symmetry import _algebra
from popgd.symmetry.actions import Draw, Loss
from popgd.symmetry.gradients import of_samples
from popgd.symmetry.plane import Plane

#: Rows beyond the number of unknowns: one would do, more make a clearer gap.
MORE = 64
#: A dense null space of more unknowns takes minutes. So many has a plane of 77 coordinates.
UNKNOWNS = 3000


class Conserved(NamedTuple):
    """Symmetric matrices M, one for each conserved quantity, in reduced echelon form: the first
    product that one has, no other has.

    `silent` counts what was left out: products of directions without a gradient, conserved
    whatever the loss. `gap` is the least singular value that is not zero over
    the largest that is, or over one rounding where that is less.
    """

    matrices: Float[np.ndarray, "count k k"]
    names: tuple[str, ...]
    silent: int
    gap: float

    def values(self, coordinates: Float[Array, " k"]) -> Float[Array, " count"]:
        """theta^T M theta."""
        return jnp.einsum("cij,i,j->c", jnp.asarray(self.matrices), coordinates, coordinates)

    def describe(self) -> str:
        """One line for each quantity, as a polynomial in the coordinates."""
        return "\n".join(self._polynomial(M) for M in self.matrices)

    def _polynomial(self, M: Float[np.ndarray, "k k"]) -> str:
        said = ""
        for i, j in zip(*np.triu_indices(len(M)), strict=True):
            if value := float(M[i, j] * (1 if i == j else 2)):
                sign = " - " if value < 0 else " + "
                size = "" if abs(value) == 1 else f"{abs(value):.10g} "
                power = f"{self.names[i]}^2" if i == j else f"{self.names[i]} {self.names[j]}"
                said += sign + size + power
        return said.removeprefix(" + ").strip()


def conserved(loss: Loss, law_sample: Draw, plane: Plane, key: PRNGKeyArray) -> Conserved:
    """What gradient flow on the plane conserves on every sample, tried at standard normal
    coordinates; all weights: `plane.whole`.

    A perturbation of relative size 1e-10 or less is not told from none, one up to some 1e-7 is
    refused: SettingError without a gap of the singular values or where a gradient is not finite.
    TooLarge beyond UNKNOWNS.
    """
    points, of_rows = _points(plane, key)
    flat = plane.origin + points @ plane.directions
    like = plane.embed(jnp.zeros(plane.k))
    gradients = of_samples(loss, law_sample, like, flat, of_rows) @ plane.dual.T
    return _found(plane, points, gradients)


def conserved_in_population(
    gradient: Callable[[Any], Any], plane: Plane, key: PRNGKeyArray
) -> Conserved:
    """What flow on the population conserves: `gradient(weights)` is its exact gradient, as
    `jax.grad` of an exact loss. Raises as `conserved`; an estimated gradient leaves no gap.
    """
    points, _ = _points(plane, key)
    one = lambda x: plane.coordinates(gradient(plane.embed(x)))
    return _found(plane, points, np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(points))))


def drift(
    M: Float[np.ndarray, "k k"], gradient: Float[Array, " k"], eta: float
) -> Float[Array, ""]:
    """eta^2 g^T M g: by how much a step of descent changes theta^T M theta, for a conserved M and a
    gradient in coordinates.
    """
    return eta**2 * (gradient @ jnp.asarray(M) @ gradient)


def _points(plane: Plane, key: PRNGKeyArray) -> tuple[Float[np.ndarray, "r k"], PRNGKeyArray]:
    """Standard normal coordinates, more than there are unknowns, and a key for the samples."""
    unknowns = plane.k * (plane.k + 1) // 2
    if unknowns > UNKNOWNS:
        raise TooLarge(
            f"{plane.k} coordinates have {unknowns} products, where up to {UNKNOWNS} are tried: "
            "give a smaller plane or a smaller model"
        )
    of_points, of_rows = jax.random.split(key)
    return _algebra.gaussian(of_points, unknowns + MORE, plane.k), of_rows


def _found(
    plane: Plane, points: Float[np.ndarray, "r k"], gradients: Float[np.ndarray, "r k"]
) -> Conserved:
    """The null space of these rows, less the products of silent directions."""
    what = "conserved quantities"
    i, j = np.triu_indices(plane.k)
    # coordinates of a symmetric matrix in an orthonormal basis
    root = np.where(i == j, 1.0, 2**0.5)
    row = lambda x, g: root * (x[:, i] * g[:, j] + x[:, j] * g[:, i]) / 2
    sizes = np.linalg.norm(gradients, axis=1, keepdims=True)
    unit = gradients / np.where(sizes > 0, sizes, 1)
    rows = row(points / np.linalg.norm(points, axis=1, keepdims=True), unit)
    null = _algebra.null_space(rows, what)
    silent = _algebra.null_space(unit, "silent directions").basis
    a, b = np.triu_indices(len(silent))
    trivial = row(silent[a], silent[b])
    if len(trivial):
        trivial = np.linalg.svd(trivial, full_matrices=False)[2]
    left = null.basis - (null.basis @ trivial.T) @ trivial
    count = len(null.basis) - len(trivial)
    left = np.linalg.svd(left, full_matrices=False)[2][:count] if count else null.basis[:0]
    # echelon form of the coefficients of x_i x_j
    orthonormal = np.linalg.qr((left * root).T)[0].T
    polynomials, _ = _algebra.echelon(orthonormal)
    M = np.zeros((count, plane.k, plane.k))
    M[:, i, j] += polynomials / 2
    M[:, j, i] += polynomials / 2
    return Conserved(M, plane.names, len(trivial), null.gap)
