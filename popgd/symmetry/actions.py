"""Groups that act on weights and samples: declared by the user, then checked.

    l(rho(g) theta, tau(g) x) = l(theta, x),   tau(g) x ~ x,   rho linear and orthogonal

make the population loss invariant and its gradient equivariant, so that population gradient descent
does not leave Fix(G) = {theta : rho(g) theta = theta} (Palais). The same holds of flow, momentum
and weight decay; of Adam and sign descent only where rho permutes entries and changes signs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from popgd.problem.errors import SettingError
from popgd.problem.law import haar
from popgd.problem.normal import normal
from popgd.problem.numeric import UNIT
from popgd.problem.pytree import classes
from popgd.symmetry import _algebra

Action = Callable[[Any, Any], Any]
Loss = Callable[[Any, Any], Array]
Draw = Callable[[PRNGKeyArray], Any]

#: Random (g, weights, sample) at which a declared symmetry is tried. One g lies in a given half of
#: the group, that which does not show the mistake say, with probability 1/2.
TRIALS = 32
#: Weights and samples are moved by this share of their size to see what rounding does to a loss:
#: products with a g of d rows round by some sqrt(d) of 2^-53.
NUDGE = 2.0**-48
#: Nudges of one (weights, sample), and how far beyond the largest change of the loss by one of them
#: the two losses may be apart: measured 0.1 at most, and 1e7 and more for a symmetry broken by
#: 1e-6.
NUDGES, ALLOWED = 4, 8.0
#: Rounding of a linear map, relative to norms: measured 1e-15.
LINEAR = 1e-12


def unmoved(g: Any, x: Any) -> Any:
    """The action of a group that leaves samples alone."""
    return x


@dataclass(frozen=True, eq=False)
class Symmetry:
    """A group and its actions: `draw(key)` a uniformly random element g, any pytree, `weights(g,
    w)` and `sample(g, x)` what it does; all three are traced by JAX.

    `elements` are some that must not be missed, generators of a finite group say. By default
    samples stay as they are.
    """

    name: str
    draw: Draw
    weights: Action
    sample: Action = unmoved
    elements: tuple = ()


def rotations(name: str, d: int, weights: Action, sample: Action = unmoved) -> Symmetry:
    """O(d): g is a Haar-distributed orthogonal d x d matrix."""
    mirror = np.diag([-1.0] + [1.0] * (d - 1))
    draw = lambda key: haar(normal(key, (d, d), jnp.dtype("float64")))
    return Symmetry(name, draw, weights, sample, (mirror,))


def signs(name: str, count: int, weights: Action, sample: Action = unmoved) -> Symmetry:
    """{-1, 1}^count: g is a vector of independent signs."""
    flips = tuple(1 - 2 * np.eye(count))
    draw = lambda key: jax.random.rademacher(key, (count,), jnp.dtype("float64"))
    return Symmetry(name, draw, weights, sample, flips)


def permutations(name: str, count: int, weights: Action, sample: Action = unmoved) -> Symmetry:
    """All orders of count things: g is an array of indices, as in x[g]."""
    order = list(range(count))
    swaps = tuple(np.array([*order[:i], i + 1, i, *order[i + 2 :]]) for i in range(count - 1))
    draw = lambda key: jax.random.permutation(key, count)
    return Symmetry(name, draw, weights, sample, swaps)


def finite(name: str, elements: tuple, weights: Action, sample: Action = unmoved) -> Symmetry:
    """A finite group by the list of all of its elements, pytrees of one structure."""
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *elements)
    count = len(elements)

    def draw(key: PRNGKeyArray) -> Any:
        i = jax.random.randint(key, (), 0, count)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[i], stacked)

    return Symmetry(name, draw, weights, sample, tuple(elements))


@partial(jax.jit, static_argnames="symmetry")
def draw(symmetry: Symmetry, key: PRNGKeyArray) -> PyTree:
    """symmetry.draw(key), compiled."""
    return symmetry.draw(key)


@partial(jax.jit, static_argnames="symmetry")
def rows(
    symmetry: Symmetry, like: PyTree, g: PyTree, A: Float[Array, "r n"]
) -> Float[Array, "r n"]:
    """rho(g) of each row, weights flat as `ravel_pytree(like)`."""
    tree = ravel_pytree(like)[1]
    return jax.vmap(lambda w: ravel_pytree(symmetry.weights(g, tree(w)))[0])(A)


class _Trial(NamedTuple):
    """One (g, weights, sample): both losses, what rounding may do to them, and the gaps of
    linearity and orthogonality relative to norms.
    """

    before: Float[Array, ""] | float
    after: Float[Array, ""] | float
    rounding: Float[Array, ""] | float
    linear: Float[Array, ""] | float
    orthogonal: Float[Array, ""] | float


@partial(jax.jit, static_argnames=("symmetry", "loss", "law_sample", "known"))
def _trial(
    symmetry: Symmetry,
    loss: Loss,
    law_sample: Draw,
    weights: PyTree,
    key: PRNGKeyArray,
    g: PyTree,
    numbers: Float[Array, "3 n"],
    known: tuple[Any, ...],
) -> _Trial:
    """One trial at the weights plus a step, the first row of standard normal numbers; the others
    are the weights on which the action is tried. `known` are the classes of the weights.
    """
    tree = ravel_pytree(weights)[1]
    step, u, v = map(tree, numbers)
    w, x = jax.tree.map(jnp.add, weights, step), law_sample(key)
    moved = symmetry.weights(g, w), symmetry.sample(g, x)
    nudged = [jax.tree.map(partial(_nudged, sign), (w, x)) for sign in range(NUDGES)]
    at = jax.tree.map(lambda *leaves: jnp.stack(leaves), (w, x), moved, *nudged)
    before, after, *beside = jax.vmap(loss)(*at)  # one program, as each one is compiled
    rounding = jnp.max(jnp.abs(jnp.stack(beside) - before)) + UNIT * jnp.abs(before)
    rho = lambda w: ravel_pytree(symmetry.weights(g, w))[0]
    both = rho(jax.tree.map(lambda a, b: 0.7 * a - 1.3 * b, u, v))
    (a, b), (ru, rv) = numbers[1:], (rho(u), rho(v))
    size = jnp.linalg.norm(a) * jnp.linalg.norm(b)
    linear = jnp.max(jnp.abs(both - 0.7 * ru + 1.3 * rv)) / jnp.sqrt(size)
    orthogonal = jnp.maximum(jnp.abs(ru @ rv - a @ b), jnp.abs(ru @ ru - a @ a)) / size
    return _Trial(before, after, ALLOWED * rounding, linear, orthogonal)


def _nudged(number: int, x: Any) -> Any:
    """A leaf moved by NUDGE of its root mean square, up or down entry by entry, in a fixed order
    that differs from number to number.
    """
    if not _algebra.is_float(x):
        return x
    signs = np.random.default_rng(number).choice([-1.0, 1.0], size=jnp.shape(x))
    return x + NUDGE * jnp.sqrt(jnp.mean(x * x)) * signs


def check(
    symmetry: Symmetry,
    loss: Loss,
    law_sample: Draw,
    weights: PyTree,
    key: PRNGKeyArray,
    trials: int = TRIALS,
) -> None:
    """SettingError unless l(g w, g x) = l(w, x) up to rounding, sample by sample, and the action on
    weights is linear and orthogonal.

    Tried at `trials` random g and at every one of `elements`, at the weights plus standard normal
    numbers. What rounding may do is seen from the loss beside (w, x). The law's invariance is not
    checked here: `moments` may refute it.
    """
    weights = _algebra.float64(weights, "the weights")
    drawn = [("", draw(symmetry, k)) for k in jax.random.split(jax.random.fold_in(key, 0), trials)]
    listed = [(f", element {i}", g) for i, g in enumerate(symmetry.elements)]
    _same_shape(symmetry, weights, drawn[0][1])
    n = len(_algebra.names(weights))
    for i, (which, g) in enumerate(drawn + listed):
        now = jax.random.fold_in(key, i + 1)
        numbers = _algebra.gaussian(now, 3, n)
        trial = _trial(symmetry, loss, law_sample, weights, now, g, numbers, classes(weights))
        t = _Trial(*map(float, trial))
        where = f"symmetry {symmetry.name!r}, sample {i}{which}"
        for gap, word in ((t.linear, "linear"), (t.orthogonal, "orthogonal")):
            if not gap <= LINEAR:
                raise SettingError(
                    f"{where}: its action on weights is not {word}, by {gap:.2g} of their size: "
                    "give an orthogonal linear map"
                )
        if not np.isfinite(np.array([t.before, t.after], dtype=float)).all():
            raise SettingError(
                f"{where}: losses {t.before:g} and {t.after:g} are not finite: give weights beside "
                "which they are"
            )
        if not abs(t.after - t.before) <= t.rounding:
            raise SettingError(
                f"{where}: the loss is {t.before!r} and, with weights and sample moved, "
                f"{t.after!r}; rounding explains {t.rounding:.1g}: no symmetry of this loss"
            )


def _same_shape(symmetry: Symmetry, weights: PyTree, g: PyTree) -> None:
    """SettingError unless the moved weights have the structure of the weights."""
    moved = jax.eval_shape(symmetry.weights, g, weights)
    shapes = lambda tree: [x.shape for x in jax.tree.leaves(tree)]
    if jax.tree.structure(moved) != jax.tree.structure(weights) or shapes(moved) != shapes(weights):
        raise SettingError(
            f"symmetry {symmetry.name!r}: its action makes {jax.tree.structure(moved)} with "
            f"{shapes(moved)} of weights {jax.tree.structure(weights)} with {shapes(weights)}: "
            "return weights of the same structure"
        )
