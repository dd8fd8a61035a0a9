"""What a user hands in, checked: weights, a law, a loss. Each fault is one line that says what
came, what was wanted and what to do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from popgd.problem.errors import SettingError
from popgd.problem.law import Law, Objective

#: What JAX raises where a program asks for a value that is not known before it runs.
UNKNOWN = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def number_format(weights: PyTree) -> np.dtype:
    """The format that all arrays of the weights have in common.

    Raises SettingError where there are none, where one is not of floating numbers, and where they
    have several formats.
    """
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    if not leaves:
        raise SettingError(
            f"weights={weights!r} have no arrays: give a pytree with at least one array of floats"
        )
    formats: dict[np.dtype, str] = {}
    for path, leaf in leaves:
        name = "weights" + jax.tree_util.keystr(path)
        kind = _kind(leaf)
        if kind is None or not jnp.issubdtype(kind, jnp.floating):
            what = type(leaf).__name__ if kind is None else f"of {kind}"
            raise SettingError(
                f"{name} is {what}: wanted floats, as there is a gradient in every weight; make it "
                "floats, or keep it out of the weights"
            )
        formats.setdefault(kind, name)
    if len(formats) > 1:
        shown = ", ".join(f"{name} of {kind}" for kind, name in formats.items())
        raise SettingError(
            f"weights of several formats ({shown}): wanted one; cast them, as in "
            "jax.tree.map(lambda x: x.astype('float64'), weights)"
        )
    return next(iter(formats))


def _kind(leaf: Any) -> Any:
    """The format of an array or a number, None for anything else."""
    try:
        return None if isinstance(leaf, str) else jnp.result_type(leaf)
    except TypeError:
        return None


@dataclass(frozen=True)
class Scalar:
    """The same loss, once it is known to give one number. Raises SettingError otherwise."""

    objective: Objective

    def __call__(self, weights: PyTree, sample: Any) -> Float[Array, ""]:
        loss = self.objective(weights, sample)
        kind = _kind(loss) if jax.tree_util.all_leaves([loss]) else None
        if kind is None or jnp.shape(loss) != () or not jnp.issubdtype(kind, jnp.floating):
            what = type(loss).__name__ if kind is None else f"{kind} of shape {jnp.shape(loss)}"
            raise SettingError(
                f"the loss of one sample is {what}: wanted one float; take the mean or the sum"
            )
        return jnp.asarray(loss)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Drawn:
    """The law of a function of the key: its floats in the format of the weights, all else as it is.

    Build it with `as_law`.
    """

    function: Callable[[PRNGKeyArray], Any]

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Any:
        def cast(x: Any) -> Array:
            x = jnp.asarray(x)
            return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

        return jax.tree.map(cast, self.function(key))


@jax.tree_util.register_static
@dataclass(frozen=True)
class Fixed:
    """A law whose class is no pytree: it counts as a constant of the compiled program."""

    law: Any

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Any:
        return self.law.sample(key, dtype)


def as_law(law: Any) -> Any:
    """The law itself, or that of a plain function of the key.

    A function is known by its identity: one that is made anew for every call is compiled anew, and
    what it reads from outside must not change. The same holds for a law whose class is no pytree.
    Raises SettingError for anything else, where the sample's shapes or formats depend on the key,
    and where it is no function of the key alone.
    """
    if isinstance(law, Drawn | Fixed):
        return law
    if not hasattr(law, "sample") and not callable(law):
        raise SettingError(
            f"law={law!r}: wanted a function of a random key, or an object with sample(key, dtype)"
        )
    if hasattr(law, "sample") and not jax.tree_util.all_leaves([law]):
        return law
    try:
        hash(law)
    except TypeError:
        raise SettingError(
            f"law={law!r} cannot be hashed: make its class a frozen dataclass, or register it as "
            "a pytree"
        ) from None
    return _examined(law)


@lru_cache(maxsize=256)
def _examined(law: Any) -> Law:
    """The law, once its draws are of one form, and the same again for the same key."""
    made = Fixed(law) if hasattr(law, "sample") else Drawn(law)
    keys, dtype = [jax.random.key(number) for number in (0, 0, 1)], jnp.dtype(float)
    told = form(sample_shapes(made, keys[0], dtype))
    if not told:
        raise SettingError(f"{_name(law)} draws no arrays: return a pytree with at least one")
    draws = [made.sample(key, dtype) for key in keys]
    for found in map(form, draws):
        if found != told:
            raise SettingError(
                f"{_name(law)} draws {_shown(found)} with one key and {_shown(told)} with another: "
                "wanted the same shapes and formats; pad what is shorter, and say how long it is"
            )
    once, again = (jax.tree.leaves(draw) for draw in draws[:2])
    if not all(np.array_equal(*both, equal_nan=True) for both in zip(once, again, strict=True)):
        raise SettingError(
            f"{_name(law)} draws another sample with the same key: wanted a function of the key "
            "alone; draw by jax.random, not by numpy.random"
        )
    return made


def sample_shapes(law: Law, key: PRNGKeyArray, dtype: jnp.dtype) -> Any:
    """What the law draws, without drawing it. Raises SettingError where that depends on the key."""
    try:
        return jax.eval_shape(lambda key: law.sample(key, dtype), key)
    except (TypeError, jax.errors.NonConcreteBooleanIndexError) as error:
        if not isinstance(error, UNKNOWN) and "concrete" not in str(error):
            raise
        of = law.function if isinstance(law, Drawn) else law.law if isinstance(law, Fixed) else law
        why = str(error).splitlines()[0].rstrip(".")
        raise SettingError(
            f"{_name(of)} asks for the value of its key ({why}): wanted samples of one shape and "
            "format for all keys, by jax.random and jax.numpy; pad what is shorter"
        ) from error


def form(tree: PyTree) -> list[tuple[str, str]]:
    """Where a pytree has arrays, and of what format and shape."""
    return [
        (jax.tree_util.keystr(path), f"{jnp.result_type(x)}{list(jnp.shape(x))}")
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _shown(found: list[tuple[str, str]]) -> str:
    return ", ".join(" ".join(filter(None, pair)) for pair in found)


def _name(law: Any) -> str:
    return f"law={getattr(law, '__name__', None) or type(law).__name__}"
