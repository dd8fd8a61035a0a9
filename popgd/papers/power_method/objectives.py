"""Per-sample losses of the weights. No factor 1/2: with one, every step size doubles.

Source: arXiv 2606.00605, Section 3 and equations (4.3)-(4.5).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from popgd.papers.power_method import model
from popgd.papers.power_method.data import Sample
from popgd.papers.power_method.model import Weights
from popgd.problem.law import Objective
from popgd.problem.numeric import whole

TARGETS = ("normalised", "unnormalised")


@runtime_checkable
class OfLoops(Objective, Protocol):
    """An objective of the looped transformer of `model`, and that transformer's shape: L >= 1
    loops.
    """

    @property
    def L(self) -> int: ...
    @property
    def layer_norm(self) -> bool: ...


@runtime_checkable
class OfOutput(OfLoops, Protocol):
    """An objective that is a function of the model's output."""

    def of_output(
        self, f: Float[Array, " d"], Sq: Float[Array, " d"], V: Float[Array, "d r"]
    ) -> Float[Array, ""]: ...


@dataclass(frozen=True)
class SubspaceDistance:
    """Theorem 4.1: dist^2(f_L, V), the squared distance of the L-loop output to the principal
    subspace, any r.

    The subspace is data: no gradient flows through the eigenvectors. Raises ValueError unless L is
    a whole number >= 1. Valid for outputs of norm up to 1e154, in float32 1e19, and columns of V
    that are orthonormal; not checked.
    """

    L: int
    layer_norm: bool = True

    def __post_init__(self) -> None:
        whole(L=self.L)

    def __call__(self, weights: Weights, sample: Sample) -> Float[Array, ""]:
        f = model.looped(weights, sample.X, sample.q, self.L, self.layer_norm, sample.copies)
        return self.of_output(f, sample.Sq, sample.V)

    @jax.default_matmul_precision("highest")
    def of_output(
        self, f: Float[Array, " d"], Sq: Float[Array, " d"], V: Float[Array, "d r"]
    ) -> Float[Array, ""]:
        """The loss of an output f, whatever model it came from; S q is not needed. Valid as the
        class.
        """
        V = jax.lax.stop_gradient(V)
        return jnp.sum((f - V @ (V.T @ f)) ** 2)


@dataclass(frozen=True)
class PowerIteration:
    """Theorems 4.2 and 4.3: ||f - y||^2 for one layer, y = S q / ||S q|| (normalised) or y = S q
    (unnormalised).

    Raises ValueError for another target, or an L that is no whole number >= 1.
    Valid for |f - y| up to 1e154 and, normalised, |Sq| of 2e-154 to 1e154, in float32 1e19 and
    2e-19 to 1e19; Sq = 0 has NaN.
    """

    target: str = "normalised"
    layer_norm: bool = True
    L: int = 1

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"target={self.target}: one of {', '.join(TARGETS)} was wanted")
        whole(L=self.L)

    def __call__(self, weights: Weights, sample: Sample) -> Float[Array, ""]:
        f = model.looped(weights, sample.X, sample.q, self.L, self.layer_norm, sample.copies)
        return self.of_output(f, sample.Sq, sample.V)

    @jax.default_matmul_precision("highest")
    def of_output(
        self, f: Float[Array, " d"], Sq: Float[Array, " d"], V: Float[Array, "d r"]
    ) -> Float[Array, ""]:
        """The loss of an output f, whatever model it came from; V is not needed. Valid as the
        class.
        """
        y = Sq / jnp.sqrt(jnp.sum(Sq * Sq)) if self.target == "normalised" else Sq  # 0/0 is NaN
        return jnp.sum((f - y) ** 2)
