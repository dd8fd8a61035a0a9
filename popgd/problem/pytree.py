"""Classes of pytrees that a compiled program never takes for one another.

In JAX 0.10 the structures of two classes registered by `jax.tree_util.register_dataclass` compare
equal wherever their fields do; only their hashes differ. So a program that was compiled for one is,
in some processes and not in others, run for the other (0.12 compares the classes; tests/
test_pytree.py has the rate). popgd registers its own classes here, and where a user's pytrees are
arguments of a compiled program, `classes` of them is one too.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax.tree_util import PyTreeDef
from jaxtyping import PyTree

C = TypeVar("C")


def registered(data: Sequence[str], meta: Sequence[str] = ()) -> Callable[[type[C]], type[C]]:
    """Make a dataclass a pytree: its fields `data` are children, `meta` belong to its structure and
    are hashable.
    """

    def register(cls: type[C]) -> type[C]:
        key = jax.tree_util.GetAttrKey
        of = lambda names, x: tuple(getattr(x, name) for name in names)
        jax.tree_util.register_pytree_with_keys(
            cls,
            lambda x: (tuple((key(name), getattr(x, name)) for name in data), of(meta, x)),
            lambda fixed, children: cls(
                **dict(zip(data, children, strict=True)), **dict(zip(meta, fixed, strict=True))
            ),
            lambda x: (of(data, x), of(meta, x)),
        )
        return cls

    return register


def classes(tree: PyTree) -> tuple[Any, ...]:
    """The class of every node of a tree, or of a tree's structure, nested as the nodes are; () for
    a leaf.
    """
    structure: Any = tree if isinstance(tree, PyTreeDef) else jax.tree.structure(tree)
    node = structure.node_data()
    return () if node is None else (node[0], *map(classes, structure.children()))
