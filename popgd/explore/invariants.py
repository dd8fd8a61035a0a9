"""Conserved quantities, as a reader would write them: A A^T - B^T B, norms of rows, squares.

What gradient flow conserves on every sample is found as a null space (`symmetry.conserved`); here
it is compared with combinations of A A^T and A^T A over the arrays A of the weights, and what is
left is told as polynomials.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from popgd import symmetry
from popgd.explore import words
from popgd.explore.conjecture import Conjecture, line
from popgd.explore.structure import Structure, moving
from popgd.explore.words import Leaf
from popgd.problem.errors import SettingError
from popgd.problem.problem import Problem
from popgd.symmetry import Conserved, _algebra
from popgd.symmetry.gradients import of_samples

#: Weights up to which all are searched: 44 have 990 products, some seconds.
WEIGHTS = 44
#: A combination lies in the null space up to this share of it: rounding of its basis is 1e-13.
INSIDE = 1e-9
#: On fresh samples theta^T M grad is 0 up to this share of its terms.
FRESH = 1e-10
#: Samples on which it is tried.
TRIALS = 64


class Quantity(NamedTuple):
    """What is conserved: code, words, and what holds of it on fresh samples."""

    of: str
    name: str
    gap: float


class Form(NamedTuple):
    """A quadratic function of one array, as code and as symmetric matrices on all weights, one for
    each of its entries.
    """

    of: str
    name: str
    matrices: Float[np.ndarray, "entries n n"]


def search(problem: Problem, found: Structure, key: PRNGKeyArray) -> tuple[list[Quantity], str]:
    """What is conserved, and a note where it was not searched. All weights are searched where they
    are few, else the coordinates of the plane that move.
    """
    n = len(found.plane.entries)
    planes = [symmetry.whole(problem.start)] if n <= WEIGHTS else []
    along = found.plane.directions[moving(found)]
    if len(along) and len(along) < n:
        planes.append(symmetry.Plane.of(problem.start, along, found.plane.origin))
    seen: list[Quantity] = []
    note = "" if n <= WEIGHTS else f"{n} weights: searched along the plane alone"
    if problem.tangent is not None:
        return [], "not searched: the weights obey a constraint"
    for number, plane in enumerate(planes):
        own = jax.random.fold_in(key, number)
        try:
            basis = symmetry.conserved(problem.loss, problem.sample, plane, own)
        except SettingError as error:
            note = str(error)
            continue
        fresh = jax.random.fold_in(own, 1)
        known = _span(seen, plane, problem)
        for quantity in named(problem, basis, plane, known):
            gap = _fresh(problem, plane, quantity.of, fresh)
            if gap <= FRESH:
                seen.append(quantity._replace(gap=gap))
    return seen, note


def _span(seen: Sequence[Quantity], plane: symmetry.Plane, problem: Problem) -> np.ndarray:
    """Those that are known, as matrices in the plane's coordinates."""
    rows = [_matrix(words.read(q.of), plane) for q in seen]
    return np.concatenate(rows) if rows else np.zeros((0, plane.k, plane.k))


def _matrix(of, plane: symmetry.Plane) -> Float[np.ndarray, "entries k k"]:
    """The second derivatives, halved, of each entry of a quadratic read-out on the plane."""
    flat = lambda x: jnp.ravel(of(plane.embed(x)))
    return np.asarray(jax.hessian(flat)(jnp.zeros(plane.k))) / 2


def named(
    problem: Problem, basis: Conserved, plane: symmetry.Plane, known: Float[np.ndarray, "c k k"]
) -> Iterator[Quantity]:
    """The conserved quantities beside those that are known: matrices first, then diagonals, then
    traces, and polynomials for the rest.
    """
    rows = _rows(basis.matrices)
    done = _orthonormal(_rows(known))
    full = plane.k == len(plane.entries) and len(rows) > 0
    for same in forms(problem.start) if full else ():
        for of, name, matrices in _combined(same, rows):
            new = _orthonormal(np.concatenate([done, _rows(matrices)]))
            if len(new) > len(done):
                done = new
                yield Quantity(of, name, np.nan)
    for M, row in zip(basis.matrices, rows, strict=True):
        new = _orthonormal(np.concatenate([done, row[None]]))
        if len(new) > len(done):
            done = new
            yield Quantity(_polynomial(M, plane, problem), _said(basis, M), np.nan)


def _said(basis: Conserved, M: np.ndarray) -> str:
    return basis._replace(matrices=M[None]).describe()


def _rows(matrices: Float[np.ndarray, "c k k"]) -> Float[np.ndarray, "c kk"]:
    return matrices.reshape(len(matrices), matrices.shape[-1] ** 2)


def _orthonormal(rows: Float[np.ndarray, "c kk"]) -> Float[np.ndarray, "r kk"]:
    """An orthonormal basis of their span."""
    if not len(rows):
        return rows
    sizes = np.linalg.norm(rows, axis=1, keepdims=True)
    _, s, V = np.linalg.svd(rows / np.where(sizes > 0, sizes, 1), full_matrices=False)
    return V[s > INSIDE * max(s[0], 1e-300)]


def _combined(every: list[Form], rows: np.ndarray) -> Iterator[Form]:
    """Combinations of forms with entries of one shape, all of whose entries lie in the null space,
    in reduced echelon form.
    """
    Q = _orthonormal(rows)
    shapes = sorted({len(form.matrices) for form in every})
    for shape in shapes:
        same = [form for form in every if len(form.matrices) == shape]
        flat = np.stack([_rows(form.matrices) for form in same])
        outside = flat - (flat @ Q.T) @ Q
        system = outside.reshape(len(same), -1).T
        _, s, V = np.linalg.svd(system, full_matrices=False)
        null = V[s <= INSIDE * np.linalg.norm(flat)]
        for c in _algebra.echelon(null)[0]:
            if np.all(abs(c - np.round(c)) < INSIDE):
                yield _sum(same, np.round(c))


def _sum(forms: list[Form], c: Float[np.ndarray, " forms"]) -> Form:
    """The sum of c_i times form i, c whole numbers."""
    code, name = "", ""
    for share, form in zip(c, forms, strict=True):
        if share:
            sign = (" - " if share < 0 else " + ") if code else ("-" if share < 0 else "")
            size = "" if abs(share) == 1 else f"{int(abs(share))} * "
            code += f"{sign}{size}{form.of}"
            name += f"{sign}{size.replace(' * ', ' ')}{form.name}"
    matrices = sum(share * form.matrices for share, form in zip(c, forms, strict=True))
    return Form(code, name, np.asarray(matrices))


def forms(weights: Any) -> Iterator[list[Form]]:
    """A A^T and A^T A of every array; their diagonals; the sum of squares: in this order."""
    leaves = words.leaves(weights)
    n = sum(leaf.size for leaf in leaves)
    sides = [side for leaf in leaves for side in _sides(leaf)]
    yield [Form(of, name, _gram(index, n)) for of, name, _, index in sides]
    diagonals = []
    for _, name, of, index in sides:
        grams = _gram(index, n).reshape(len(index), len(index), n, n)
        diagonals.append(Form(of, f"diag {name}", grams[range(len(index)), range(len(index))]))
    yield diagonals
    yield [
        Form(_square(leaf), f"|{leaf.name}|^2", np.diag(_inside(leaf, n))[None]) for leaf in leaves
    ]


def _inside(leaf: Leaf, n: int) -> Float[np.ndarray, " n"]:
    return np.isin(np.arange(n), np.arange(n)[leaf.entries]).astype(float)


def _square(leaf: Leaf) -> str:
    return f"jnp.sum({leaf.code}**2)" if leaf.shape else f"{leaf.code}**2"


def _sides(leaf: Leaf) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """The rows of an array, and its columns: code and name of their products, code of their
    squares, and where their entries stand, a row each.
    """
    index = leaf.first + np.arange(leaf.size).reshape(leaf.shape)
    A, name = leaf.code, leaf.name
    if len(leaf.shape) == 1:
        yield f"jnp.outer({A}, {A})", f"{name} {name}^T", f"{A}**2", index[:, None]
    if len(leaf.shape) == 2:
        yield f"{A} @ {A}.T", f"{name} {name}^T", f"jnp.sum({A}**2, axis=1)", index
        yield f"{A}.T @ {A}", f"{name}^T {name}", f"jnp.sum({A}**2, axis=0)", index.T


def _gram(index: Int[np.ndarray, "r m"], n: int) -> Float[np.ndarray, "rr n n"]:
    """The symmetric matrices of sum_k w[index[i, k]] w[index[j, k]], entry by entry."""
    r = len(index)
    found = np.zeros((r, r, n, n))
    for i, j in np.ndindex(r, r):
        found[i, j, index[i], index[j]] += 0.5
        found[i, j, index[j], index[i]] += 0.5
    return found.reshape(-1, n, n)


def _polynomial(M: Float[np.ndarray, "k k"], plane: symmetry.Plane, problem: Problem) -> str:
    """The code of x^T M x, x the entries that the coordinates are named after."""
    code = [words.entry(problem.start, plane.entries.index(name)) for name in plane.names]
    said = ""
    for i, j in zip(*np.triu_indices(len(M)), strict=True):
        if value := float(M[i, j] * (1 if i == j else 2)):
            sign = (" - " if value < 0 else " + ") if said else ("-" if value < 0 else "")
            size = "" if abs(value) == 1 else f"{abs(value):.12g} * "
            said += sign + size + (f"{code[i]}**2" if i == j else f"{code[i]} * {code[j]}")
    return said


def _fresh(problem: Problem, plane: symmetry.Plane, of: str, key: PRNGKeyArray) -> float:
    """The largest grad Q . grad l of fresh samples at fresh points, over the size of its terms."""
    of_points, of_rows = jax.random.split(key)
    points = np.asarray(jax.random.normal(of_points, (TRIALS, plane.k)))
    flat = plane.origin + points @ plane.directions
    like = plane.embed(jnp.zeros(plane.k))
    gradients = of_samples(problem.loss, problem.sample, like, flat, of_rows) @ plane.dual.T
    read = words.read(of)
    along = jax.jacfwd(lambda x: jnp.ravel(read(plane.embed(x))))
    slopes = np.asarray(jax.jit(jax.vmap(along))(jnp.asarray(points)))
    terms = slopes * gradients[:, None]
    size = np.max(np.sum(abs(terms), axis=2))
    return float(np.max(abs(np.sum(terms, axis=2))) / size) if size else 0.0


def pairs(seen: Sequence[Quantity], plane: Any) -> Iterator[tuple[int, int]]:
    """Coordinates x, y of the plane of which s x^2 - r y^2 is conserved: all that the loss sees of
    them is their product, but for a power.
    """
    for quantity in seen:
        for M in _matrix(words.read(quantity.of), plane):
            on = np.argwhere(np.triu(abs(M) > INSIDE * max(abs(M).max(), 1e-300)))
            if (
                len(on) == 2
                and all(i == j for i, j in on)
                and M[on[0, 0]][on[0, 0]] * M[on[1, 0]][on[1, 0]] < 0
            ):
                yield int(on[0, 0]), int(on[1, 0])


def conjectures(seen: Sequence[Quantity]) -> Iterator[Conjecture]:
    """Lines for what is conserved."""
    for quantity in seen:
        why = f"theta^T M grad = 0 for every sample, to {quantity.gap:.1g} on {TRIALS} fresh ones"
        code = line("conserved", quantity.of, quantity.name)
        yield Conjecture(code, f"{quantity.name} is conserved", why=why, flow=True)
