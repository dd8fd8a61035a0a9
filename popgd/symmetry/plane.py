"""The plane of weights that population gradient descent does not leave, because of its symmetries.

    Fix(G) = {theta : rho(g) theta = theta for all g},   theta = origin + x J

rho orthogonal, l(rho(g) theta, tau(g) x) = l(theta, x) and tau(g) x ~ x: then the population
gradient on Fix(G) lies in it, and descent moves the coordinates x by (J J^T)^-1 J grad.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from popgd.problem.errors import SettingError, TooLarge
from popgd.problem.pytree import classes
from popgd.symmetry import _algebra
from popgd.symmetry.actions import Symmetry, draw, rows
from popgd.symmetry.averages import averaged

#: Random elements of each group. One lies in a given half of it (the rotations of O(d), the even
#: permutations) with probability 1/2, all with 2^-32.
DRAWS = 32
#: A dense null space of more weights takes longer than averages: ten seconds here.
DENSE = 1000
#: The most coordinates of a plane of more weights than that.
WIDEST = 512
#: Rounding of a basis vector that a fresh element moves: measured 3e-15.
FIXED = 1e-9


@dataclass(frozen=True, eq=False)
class Plane:
    """An affine plane of pytrees of weights: a hashable `problem.plane.Plane` with named
    coordinates.

    `directions` has a row for each coordinate, `origin` is orthogonal to them. Build it with
    `Plane.of` or `invariant`. Two planes of the same numbers are equal, so that a program compiled
    for one serves the other.
    """

    directions: Float[np.ndarray, "k n"]
    origin: Float[np.ndarray, " n"]
    names: tuple[str, ...]
    entries: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    treedef: Any

    @classmethod
    def of(
        cls,
        like: PyTree,
        directions: Float[np.ndarray, "k n"],
        origin: Float[np.ndarray, " n"] | None = None,
    ) -> "Plane":
        """The plane through `origin` (0) along the rows of `directions`, entries in the order of
        `ravel_pytree(like)`.

        Its basis is the reduced echelon form of theirs: each coordinate is the entry of the weights
        that it is named after, as far as the origin has 0 there. SettingError for rows that are
        not independent.
        """
        entries = _algebra.names(like)
        directions = np.asarray(directions, dtype=np.float64).reshape(-1, len(entries))
        orthonormal = np.linalg.qr(directions.T)[0].T
        rows, pivots = _algebra.echelon(orthonormal)
        if len(pivots) != len(directions) or np.linalg.matrix_rank(directions) != len(directions):
            raise SettingError(
                f"a plane along {len(directions)} directions, of which not all are independent: "
                "leave out what is a combination of others"
            )
        origin = np.zeros(len(entries)) if origin is None else np.asarray(origin, dtype=np.float64)
        origin = origin - orthonormal.T @ (orthonormal @ origin)
        leaves, treedef = jax.tree.flatten(like)
        shapes = tuple(np.shape(leaf) for leaf in leaves)
        return cls(rows, origin, tuple(entries[p] for p in pivots), entries, shapes, treedef)

    @property
    def k(self) -> int:
        return len(self.names)

    @cached_property
    def _identity(self) -> tuple:
        numbers = self.directions.tobytes(), self.origin.tobytes()
        structure = self.treedef, classes(self.treedef)
        return (*numbers, self.names, self.entries, self.shapes, *structure)

    def __hash__(self) -> int:
        return hash(self._identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plane) and self._identity == other._identity

    @cached_property
    def dual(self) -> Float[np.ndarray, "k n"]:
        """(J J^T)^-1 J: what makes coordinates of a gradient."""
        J = self.directions
        return np.linalg.solve(J @ J.T, J) if self.k else J

    @cached_property
    def free(self) -> np.ndarray:
        """Which entries change along the plane."""
        return np.any(self.directions != 0, axis=0)

    @partial(jax.jit, static_argnames="self")
    @jax.default_matmul_precision("highest")
    def coordinates(self, weights: PyTree) -> Float[Array, " k"]:
        """(J J^T)^-1 J of the entries: linear."""
        flat = ravel_pytree(weights)[0]
        return jnp.asarray(self.dual, flat.dtype) @ flat

    @partial(jax.jit, static_argnames="self")
    @jax.default_matmul_precision("highest")
    def embed(self, coordinates: Float[Array, " k"]) -> PyTree:
        """origin + x J."""
        dtype = coordinates.dtype
        moved = coordinates @ jnp.asarray(self.directions, dtype)
        return self._tree(jnp.asarray(self.origin, dtype) + moved)

    @partial(jax.jit, static_argnames="self")
    def inactive(self, weights: PyTree) -> Float[Array, ""]:
        """How far, at most, an entry is from what every point of the plane has there; 0 if there is
        no such entry.
        """
        flat = ravel_pytree(weights)[0]
        away = jnp.abs(flat - jnp.asarray(self.origin, flat.dtype))
        return jnp.max(away, where=jnp.asarray(~self.free), initial=0)

    def deviations(self, gradient: PyTree) -> PyTree:
        """What of a gradient is off the plane, entry by entry: 0 in the mean on the plane."""
        x = self.coordinates(gradient)
        along = x @ jnp.asarray(self.directions, x.dtype)
        return jax.tree.map(jnp.subtract, gradient, self._tree(along))

    def off(self, weights: PyTree) -> tuple[float, str]:
        """How far, at most, an entry is from the next point of the plane, and which."""
        flat = np.asarray(ravel_pytree(weights)[0])
        away = np.abs(flat - self.origin - (self.dual @ flat) @ self.directions)
        return float(away.max()), self.entries[int(away.argmax())]

    def describe(self, start: PyTree) -> str:
        """One line: the coordinates, and by how much a start is off the plane."""
        away, entry = self.off(start)
        said = f"{self.k} of {len(self.entries)} coordinates: {', '.join(self.names) or 'none'}"
        if away <= FIXED:
            return f"{said}; the start lies on the plane"
        return (
            f"{said}; the start is off the plane, at most by {away:.3g} in {entry}: descent has "
            "all weights, and nothing is claimed by symmetry"
        )

    def _tree(self, flat: Array) -> PyTree:
        """The pytree of these entries."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        parts = jnp.split(flat, ends[:-1])
        leaves = [part.reshape(s) for part, s in zip(parts, self.shapes, strict=True)]
        return jax.tree.unflatten(self.treedef, leaves)


def whole(like: PyTree) -> Plane:
    """The plane of all weights, each entry a coordinate. For small models: n^2 numbers."""
    return Plane.of(like, np.eye(len(_algebra.names(like))))


def invariant(symmetries: Sequence[Symmetry], start: PyTree, key: PRNGKeyArray) -> Plane:
    """Fix(G) for the group that the symmetries generate.

    A dense null space for up to DENSE weights, above that the span of averages over the group,
    which has at most WIDEST coordinates (TooLarge) and does without `elements`. A start off the
    plane is no error: see `Plane.describe`. SettingError for no symmetry, and for one whose draws
    are not random or whose action is not orthogonal and linear, as far as that shows (see `check`).
    """
    start = _algebra.float64(start, "the start")
    if not symmetries:
        raise SettingError("no symmetry was given: name one, or use plane.whole for all weights")
    what = f"the plane of {', '.join(symmetry.name for symmetry in symmetries)}"
    found = _dense if len(_algebra.names(start)) <= DENSE else _averages
    plane = Plane.of(start, found(symmetries, start, key, what))
    for number, symmetry in enumerate(symmetries):
        _fixes(plane, symmetry, start, jax.random.fold_in(key, number))
    return plane


def _dense(
    symmetries: Sequence[Symmetry], start: PyTree, key: PRNGKeyArray, what: str
) -> Float[np.ndarray, "k n"]:
    """The null space of 1 - mean rho(g), over DRAWS random g of each group and its `elements`: a
    mean of orthogonal maps moves a vector unless every one of them leaves it alone.
    """
    n = len(_algebra.names(start))
    mean, count = np.zeros((n, n)), 0
    for number, symmetry in enumerate(symmetries):
        keys = jax.random.split(jax.random.fold_in(key, number), DRAWS)
        mean = mean + np.asarray(_sum(symmetry, start, keys))
        for g in symmetry.elements:
            mean = mean + np.asarray(rows(symmetry, start, g, np.eye(n))).T
        count += DRAWS + len(symmetry.elements)
    # scale 1: where every g is the identity only rounding is left, none of which counts
    return _algebra.null_space(np.eye(n) - mean / count, what, scale=1.0).basis


def _averages(
    symmetries: Sequence[Symmetry], start: PyTree, key: PRNGKeyArray, what: str
) -> Float[np.ndarray, "k n"]:
    """The span of random vectors averaged over the group, more of them until some are superfluous;
    rho(g) is never written out.
    """
    n, width = len(_algebra.names(start)), 16
    while width <= 2 * WIDEST:
        of_vectors, of_draws = jax.random.split(jax.random.fold_in(key, width))
        vectors = _algebra.gaussian(of_vectors, width, n)
        kept = averaged(symmetries, start, vectors, of_draws)
        basis = _algebra.row_space(kept, what, scale=float(np.linalg.norm(vectors, 2))).basis
        if len(basis) < width:
            return basis
        width *= 2
    raise TooLarge(
        f"{what} has more than {WIDEST} coordinates of {n} weights: give plane=Plane.of(...)"
    )


@partial(jax.jit, static_argnames="symmetry")
def _sum(symmetry: Symmetry, like: PyTree, keys: Any) -> Float[Array, "n n"]:
    """The sum of rho(g) over a random g for each key."""
    n = len(_algebra.names(like))
    of = lambda key: rows(symmetry, like, symmetry.draw(key), jnp.eye(n)).T
    return jax.lax.scan(lambda total, key: (total + of(key), None), jnp.zeros((n, n)), keys)[0]


def _fixes(plane: Plane, symmetry: Symmetry, start: PyTree, key: PRNGKeyArray) -> None:
    """SettingError unless a fresh element of the group leaves every point of the plane alone."""
    g = draw(symmetry, key)
    moved = rows(symmetry, start, g, plane.directions)
    gap = float(np.max(np.abs(np.asarray(moved) - plane.directions), initial=0.0))
    if not gap <= FIXED:
        raise SettingError(
            f"symmetry {symmetry.name!r} moves what {DRAWS} of its elements leave alone by "
            f"{gap:.2g}: draw(key) must give random elements, and an orthogonal linear action"
        )
