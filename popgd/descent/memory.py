"""What is done of a piece of work, so that it need not be done again. Where it is kept is not the
business of the core.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from popgd.descent.budget import Budget

#: One piece of work, finished or under way, as named arrays.
Arrays = dict[str, np.ndarray]


class Memory:
    """The memory of one piece of work. This one forgets; `checkpoint.Checkpoint` keeps a file.

    `budget` is the time that what is not done yet may take, where that is limited.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()

    def part(self, name: str) -> "Memory":
        """The memory of the part with this name."""
        return self

    def recall(self) -> Arrays | None:
        """What was offered last, by this process or by one that ended before."""
        return None

    def offer(self, pack: Callable[[], Arrays]) -> None:
        """`pack` gives the state that the work has now, to go on from, whenever it is called, and
        in whatever thread.
        """

    def once(self, work: Callable[[], Any], like: Any) -> Any:
        """The arrays of work(), a tree with the structure of `like`, computed once."""
        found = self.recall()
        if found is None:
            found = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(work()))}
            self.offer(found.copy)
        return jax.tree.unflatten(
            jax.tree.structure(like), [found[str(i)] for i in range(len(found))]
        )


FORGETFUL = Memory()
