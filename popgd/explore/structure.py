"""What needs no path: symmetries tested, the plane, zeros and why, multiples of I."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, PRNGKeyArray

from popgd import symmetry
from popgd.claims.measured import ON
from popgd.explore import words
from popgd.explore.conjecture import Conjecture, line
from popgd.explore.words import Leaf
from popgd.problem.errors import SettingError
from popgd.problem.problem import Problem
from popgd.symmetry.gradients import in_coordinates
from popgd.symmetry.silent import SIGMAS, VISIBLE, Zeros

#: What the exact gradient has off the plane, relative to its size, is rounding below this: measured
#: 1e-16 to 1e-13 of quadrature; an asymmetry of 1e-3 of the law shows at 1e-3.
ROUNDED = 1e-9
#: Points at which an exact gradient is tried.
POINTS = 8
#: A mean that is 0 is claimed where a tenth of the largest mean gradient would have been visible.
CLAIMED = 0.1
WORDS = {
    "silent": "silent, never reaches the output",
    "symmetry": "by symmetry",
    "structural": "structural, 0 for every sample where it starts at 0",
    "expectation": "in expectation only",
}


class Tested(NamedTuple):
    """A declared symmetry: whether it holds, and what was seen."""

    name: str
    holds: bool
    said: str


class Structure(NamedTuple):
    """What is known before anything descends. `zeros` is None where the gradient cannot be tried;
    `notes` are what a reader must know.
    """

    tested: tuple[Tested, ...]
    symmetries: tuple[Any, ...]
    plane: Any
    fixed: Any
    zeros: Zeros | None
    notes: tuple[str, ...]

    @property
    def numbered(self) -> Any:
        """The weights, each the number of its entry: what a read-out reads."""
        like = self.plane.embed(jnp.zeros(self.plane.k))
        flat, tree = ravel_pytree(like)
        return tree(jnp.arange(flat.size, dtype=float))


def examine(problem: Problem, key: PRNGKeyArray, samples: int) -> Structure:
    """Test the symmetries, sample by sample and by moments of the law; find the plane; and why
    entries of the weights stay zero. What does not hold is left out, and said.
    """
    of_tests, of_plane, of_zeros, of_points = jax.random.split(key, 4)
    tested, holding = [], []
    for number, each in enumerate(problem.symmetries):
        found = _test(problem, each, jax.random.fold_in(of_tests, number), samples)
        tested.append(found)
        holding += [each] if found.holds else []
    notes: list[str] = []
    fixed = plane = None
    try:
        fixed = symmetry.invariant(holding, problem.start, of_plane) if holding else None
    except SettingError as error:
        notes.append(f"no plane: {error}")
        holding = []
    plane = problem.plane or fixed or symmetry.whole(problem.start)
    away, entry = plane.off(problem.start)
    if away > ON or not plane.k:
        notes.append(
            f"the start is off the plane by {away:.3g} in {entry}: descent has all weights, and "
            "nothing is claimed by symmetry"
        )
        plane = symmetry.whole(problem.start)
    elif problem.exact is not None and (said := _beside(problem, plane, of_points)):
        notes.append(said)
        plane = symmetry.whole(problem.start)
    zeros = None
    if problem.tangent is None:
        try:
            zeros = _zeros(problem, plane, of_zeros, samples)
        except SettingError as error:
            notes.append(f"zeros: {error}")
    return Structure(tuple(tested), tuple(holding), plane, fixed, zeros, tuple(notes))


def _test(problem: Problem, each: Any, key: PRNGKeyArray, samples: int) -> Tested:
    try:
        symmetry.check(each, problem.loss, problem.sample, problem.start, key)
    except SettingError as error:
        return Tested(each.name, False, str(error))
    found = symmetry.moments(each, problem.sample, jax.random.fold_in(key, 1), samples)
    if not found.difference.size:
        return Tested(each.name, True, "holds sample by sample")
    i = found.worst
    gap = f"{found.names[i]} differs by {found.difference[i]:.3g} ± {found.error[i]:.2g}"
    if found.sigmas[i] > SIGMAS:
        return Tested(each.name, False, f"no symmetry of the law: the mean of {gap}")
    if not np.any(found.error):
        return Tested(each.name, True, "holds sample by sample; it leaves samples as they are")
    visible = VISIBLE * float(np.max(found.error[: len(found.names)]))
    return Tested(
        each.name,
        True,
        f"holds sample by sample; moments of the law agree (to {visible:.2g} or better)",
    )


def _beside(problem: Problem, plane: Any, key: PRNGKeyArray) -> str:
    """Whether the exact loss has a gradient off the plane: empty if not, else what that means."""
    grad = jax.jit(jax.grad(lambda w: problem.exact_of(w)[0]))
    x = np.asarray(plane.coordinates(problem.start))
    worst, where = 0.0, ""
    for k in jax.random.split(key, POINTS):
        beside = jnp.asarray(x + 0.1 * np.asarray(jax.random.normal(k, x.shape)))
        w = plane.embed(beside)
        g = grad(w) if problem.tangent is None else problem.tangent(w, grad(w))
        off, whole = (np.abs(ravel_pytree(t)[0]) for t in (plane.deviations(g), g))
        if np.all(np.isfinite(whole)) and whole.max() > 0 and off.max() / whole.max() > worst:
            worst, where = float(off.max() / whole.max()), plane.entries[int(off.argmax())]
    if worst <= ROUNDED:
        return ""
    return (
        f"the exact loss has a gradient off the plane, {worst:.2g} of its size in {where}: the law "
        "is not invariant, or exact= is right on the plane alone and must be written so that it "
        "reads the plane's coordinates; nothing is claimed by symmetry"
    )


def _zeros(problem: Problem, plane: Any, key: PRNGKeyArray, samples: int) -> Zeros:
    """`why_zero`, and where a weight is 0 in expectation only, what the exact loss says, or whether
    the smallest visible gap is small enough: else it `moves`.
    """
    found = symmetry.why_zero(problem.loss, problem.sample, plane, problem.start, key, samples)
    doubtful = np.array([why == "expectation" for why in found.why])
    if not doubtful.any():
        return found
    if problem.exact is not None:
        moving = _moving(problem, plane, found, key)
    else:
        flat = np.asarray(ravel_pytree(problem.start)[0])
        means = symmetry.Means(plane.entries, *_mean(problem, flat, key, samples))
        moving = found.gap > CLAIMED * np.max(abs(means.mean))
    why = ["moves" if d and m else w for w, d, m in zip(found.why, doubtful, moving, strict=True)]
    return found._replace(why=tuple(why))


def _mean(problem: Problem, flat: np.ndarray, key: PRNGKeyArray, samples: int) -> tuple:
    """Mean gradient at the start and its standard error, by entry."""
    whole = symmetry.whole(problem.start)
    found = in_coordinates(problem.loss, problem.sample, whole, flat, key, samples)
    return found.mean, found.error


def _moving(problem: Problem, plane: Any, zeros: Zeros, key: PRNGKeyArray) -> Bool[np.ndarray, "n"]:
    """Which entries have a gradient of the exact loss where all that stay 0 are 0."""
    free = np.array([why == "moves" for why in zeros.why])
    along = np.array([free[plane.entries.index(name)] for name in plane.names])
    x = np.asarray(plane.coordinates(problem.start))
    slope = jax.jit(
        lambda x: plane.coordinates(jax.grad(lambda w: problem.exact_of(w)[0])(plane.embed(x)))
    )
    moves = np.zeros(plane.k, dtype=bool)
    for k in jax.random.split(key, POINTS):
        beside = x + 0.1 * along * np.asarray(jax.random.normal(k, x.shape))
        g = np.abs(np.asarray(slope(jnp.asarray(beside))))
        moves |= ~(g <= ROUNDED * g.max())
    return np.any(plane.directions[moves] != 0, axis=0)


def blocks(leaf: Leaf, directions: Float[np.ndarray, "k n"]) -> Iterator[tuple[slice, slice]]:
    """The square blocks of a matrix that are multiples of I on the plane, and not 0: of the
    largest equal size, 2 at least, of which all blocks of the matrix are multiples of I.
    """
    if len(leaf.shape) != 2:
        return
    rows, columns = leaf.shape
    parts = directions[:, leaf.entries].reshape(-1, rows, columns)
    for b in range(min(rows, columns), 1, -1):
        if rows % b or columns % b:
            continue
        cut = parts.reshape(-1, rows // b, b, columns // b, b).transpose(0, 1, 3, 2, 4)
        trace = np.trace(cut, axis1=3, axis2=4)[..., None, None] / b
        if np.array_equal(cut, trace * np.eye(b)):
            for i, j in np.argwhere(np.any(cut != 0, axis=(0, 3, 4))):
                yield slice(i * b, (i + 1) * b), slice(j * b, (j + 1) * b)
            return


def moving(found: Structure) -> Bool[np.ndarray, " k"]:
    """Which coordinates of the plane may change."""
    plane, zeros = found.plane, found.zeros
    if zeros is None:
        return np.ones(plane.k, dtype=bool)
    return np.array([zeros.why[plane.entries.index(name)] == "moves" for name in plane.names])


def conjectures(problem: Problem, found: Structure) -> Iterator[Conjecture]:
    """Lines for the zeros and the multiples of I."""
    plane, zeros = found.plane, found.zeros
    start = np.asarray(ravel_pytree(problem.start)[0])
    spoken = np.zeros(start.size, dtype=bool)
    along = plane.directions[moving(found)]
    for leaf in words.leaves(problem.start):
        for rows, columns in blocks(leaf, along):
            here = np.zeros(leaf.shape, dtype=bool)
            here[rows, columns] = True
            spoken[leaf.entries] |= here.ravel()
            ((of, name),) = words.patterns(leaf, here.ravel())
            code = line("multiple_of_identity", of, name)
            why = "by symmetry" if problem.plane is None else "on the plane that was given"
            yield Conjecture(code, f"{name} is a multiple of I", why=why)
    if zeros is None:
        return
    why = np.array(zeros.why, dtype=object)
    zero = (start == 0) & ~spoken & np.isin(why, list(WORDS))
    for leaf in words.leaves(problem.start):
        for of, name in words.patterns(leaf, zero[leaf.entries]):
            here = np.asarray(words.read(of)(found.numbered)).ravel().astype(int)
            reasons = [r for r in WORDS if np.any(why[here] == r)]
            said = "; ".join(WORDS[r] for r in reasons)
            gap = float(np.max(zeros.gap[here]))
            said += f" (a mean of {gap:.2g} would show)" if gap else ""
            yield Conjecture(line("stays_zero", of, name), f"{name} stays 0", why=said)
