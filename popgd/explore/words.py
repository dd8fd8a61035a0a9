"""Python for parts of the weights, as a user would write it: an entry, a leaf, a block, a pattern.

What is printed is what was measured: every read-out here is made by evaluating its text.
"""

import ast
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from popgd import claims as vocabulary
from popgd.problem.problem import Problem

#: Rectangles that a pattern of entries is made of at most; else its entries are listed.
RECTANGLES = 4
#: Denominators of the fractions that an exponent is compared with, and the share of the numbers
#: between 0 and 1 that may be as near to one of them by accident.
DENOMINATOR, ACCIDENT = 12, 0.01


class Leaf(NamedTuple):
    """One array of the weights: how to write it, what to call it, and where its entries stand in
    `ravel_pytree`.
    """

    code: str
    name: str
    shape: tuple[int, ...]
    first: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def entries(self) -> slice:
        return slice(self.first, self.first + self.size)

    def entry(self, i: int) -> str:
        """The code of entry number i of the flat leaf."""
        if not self.shape:
            return self.code
        index = ", ".join(map(str, np.unravel_index(i, self.shape)))
        return f"{self.code}[{index}]"


def leaves(weights: Any) -> list[Leaf]:
    """The arrays of the weights in the order of `ravel_pytree`."""
    found, first = [], 0
    for path, x in jax.tree_util.tree_leaves_with_path(weights):
        code = "w" + "".join(map(_step, path))
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "w"
        found.append(Leaf(code, name, np.shape(x), first))
        first += int(np.size(x))
    return found


def _step(key: Any) -> str:
    """One step of a path into a pytree, as code."""
    if hasattr(key, "name"):
        return f".{key.name}"
    return f"[{key.key!r}]" if hasattr(key, "key") else f"[{key.idx}]"


def entry(weights: Any, i: int) -> str:
    """The code of entry number i of the flat weights."""
    leaf = next(leaf for leaf in leaves(weights) if i < leaf.first + leaf.size)
    return leaf.entry(i - leaf.first)


@lru_cache(maxsize=4096)
def read(code: str) -> Callable[[Any], Any]:
    """The function of the weights w that an expression is; one for all who ask, so that it is
    compiled once.
    """
    return eval(f"lambda w: {code}", {"jnp": jnp, "np": np})


@lru_cache(maxsize=64)
def exact_loss(problem: Problem) -> Callable[[Any], Any]:
    """The problem's exact loss without its bound, which `exact` in a line stands for."""
    return lambda w: problem.exact_of(w)[0]


class _Shared(ast.NodeTransformer):
    """Each lambda of a line by the name of the one function that `read` makes of its body."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        name = f"_{len(self.names)}"
        self.names[name] = read(ast.unparse(node.body))
        return ast.copy_location(ast.Name(name, ast.Load()), node)


def claim(line: str, problem: Problem) -> Any:
    """The claim that a line makes; `exact` in it is the problem's population loss."""
    shared = _Shared()
    tree = ast.fix_missing_locations(shared.visit(ast.parse(line, mode="eval")))
    names = {"claims": vocabulary, "jnp": jnp, "np": np, "exact": exact_loss(problem)}
    return eval(compile(tree, line, "eval"), {**names, **shared.names})


def patterns(leaf: Leaf, mask: Bool[np.ndarray, " size"]) -> Iterator[tuple[str, str]]:
    """Code and name of the entries of a leaf where the mask holds: the leaf, all but its diagonal,
    rectangles, or a list. Nothing for an empty mask.
    """
    M = mask.reshape(leaf.shape)
    if M.all():
        yield leaf.code, leaf.name
    elif M.any() and M.ndim == 2 and np.array_equal(M, ~np.eye(*M.shape, dtype=bool)):
        rows, columns = M.shape
        yield f"{leaf.code}[~np.eye({rows}, {columns}, dtype=bool)]", f"{leaf.name} off-diagonal"
    elif M.any():
        parts = list(_rectangles(M))
        if len(parts) > RECTANGLES:
            where = ", ".join(str(list(map(int, axis))) for axis in np.nonzero(M))
            yield f"{leaf.code}[{where}]", f"{leaf.name}, {int(M.sum())} entries"
            return
        for part in parts:
            yield f"{leaf.code}[{part}]", f"{leaf.name}[{part.replace(' ', '')}]"


def _rectangles(M: Bool[np.ndarray, "..."]) -> Iterator[str]:
    """Slices that the mask is made of, each grown along the last axis, then along those before."""
    left = M.copy()
    while left.any():
        at = [int(i) for i in np.argwhere(left)[0]]
        ends = [i + 1 for i in at]
        inside = lambda at=at, ends=ends: tuple(map(slice, at, ends))
        for axis in reversed(range(M.ndim)):
            while ends[axis] < M.shape[axis]:
                ends[axis] += 1
                if not left[inside()].all():
                    ends[axis] -= 1
                    break
        left[inside()] = False
        yield ", ".join(map(_slice, at, ends, M.shape))


def _slice(first: int, end: int, length: int) -> str:
    if end == first + 1:
        return str(first)
    return f"{first or ''}:{end if end < length else ''}"


def number(value: float) -> str:
    """A number in code, all of its digits."""
    return repr(float(value))


def numbers(value: Float[np.ndarray, "..."]) -> str:
    """An array in code."""
    if np.ndim(value) == 0:
        return number(float(value))
    return "[" + ", ".join(numbers(np.asarray(row)) for row in value) + "]"


def exponent(value: float, error: float) -> str:
    """An exponent in code: a fraction, if its error leaves one that is not there by accident."""
    near = Fraction(value).limit_denominator(DENOMINATOR)
    fractions = sum(1 for q in range(1, DENOMINATOR + 1) for p in range(q) if np.gcd(p, q) == 1)
    singled_out = 2 * error * fractions < ACCIDENT
    if singled_out and abs(value - near) <= error:
        return str(near) if near.denominator == 1 else f"{near.numerator}/{near.denominator}"
    digits = max(1, int(np.ceil(-np.log10(max(error, 1e-15) / max(abs(value), 1e-300)))))
    return f"{value:.{digits}g}"
