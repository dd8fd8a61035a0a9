"""A problem: what descends, on which data, and what is known of both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from popgd.problem.errors import SettingError
from popgd.problem.law import Finite

#: Weights and one sample -> the loss, a scalar. No factor is added to it.
Loss = Callable[[Any, Any], Any]
#: Weights -> the population loss, or that and a bound on its error.
Exact = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Problem:
    """Population gradient descent of E loss(weights, sample) from `start`.

    start       weights: any pytree of float64 arrays
    loss        loss(weights, sample) -> scalar, of one sample; pure, written in JAX
    law         law.sample(key, dtype) -> a sample, any pytree; or a plain function of a key
    symmetries  `popgd.symmetry.Symmetry`s under which loss and law do not change
    plane       an affine plane of weights that descent stays on; None: that of the symmetries, if
                the start lies on it, else all weights
    exact       the population loss of the weights, alone or with a bound on its error; None:
                descent is by Monte Carlo, but for a law that is a `Finite` data set, of which it is
                the mean
    tangent     (weights, gradient) -> the gradient along a constraint such as |w| = 1
    retraction  weights -> the next weights that obey it

    Raises SettingError for a start that is no float64 (integers, float32), or empty; a loss or an
    exact loss that is no finite scalar at the start.
    """

    start: PyTree
    loss: Loss
    law: Any
    symmetries: Sequence[Any] = ()
    plane: Any = None
    exact: Exact | None = None
    tangent: Callable[[Any, Any], Any] | None = None
    retraction: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        leaves = jax.tree_util.tree_leaves_with_path(self.start)
        if not leaves:
            raise SettingError("start has no arrays: give the weights that descent starts from")
        for path, leaf in leaves:
            kind = jnp.result_type(leaf)
            if kind != jnp.float64:
                name = jax.tree_util.keystr(path, simple=True, separator=".") or "start"
                raise SettingError(
                    f"start: {name} is {kind}; float64 is wanted throughout: write 1.0 for 1, or "
                    "astype(float), with jax_enable_x64 on"
                )
        if (self.tangent is None) != (self.retraction is None):
            raise SettingError(
                "a constraint has both a tangent and a retraction: give the other too"
            )
        _scalar(self.loss(self.start, self.sample(jax.random.key(0))), "loss")
        if self.exact is None and isinstance(self.law, Finite):
            object.__setattr__(self, "exact", partial(self.law.mean, self.loss))
        if self.exact is not None:
            _scalar(self.exact_of(self.start)[0], "exact")

    def sample(self, key: Any, dtype: Any = jnp.float64) -> Any:
        """One sample of the law."""
        draw = getattr(self.law, "sample", None)
        return self.law(key) if draw is None else draw(key, jnp.dtype(dtype))

    def exact_of(self, weights: PyTree) -> tuple[Any, Any]:
        """The exact population loss and a bound on its error, 0 where none is given."""
        assert self.exact is not None
        found = self.exact(weights)
        return found if isinstance(found, tuple) else (found, jnp.zeros(()))


def _scalar(value: Any, name: str) -> None:
    shape = np.shape(value)
    if shape != ():
        raise SettingError(f"{name} returns an array of shape {shape}: a scalar was wanted")
    if not np.isfinite(value):
        raise SettingError(f"{name} is {float(value)} at the start: a finite number was wanted")
