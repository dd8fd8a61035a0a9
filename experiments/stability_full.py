"""Descent of all entries of (P, Q) as one compiled loop, and variants of model and objective, for
`stability.py`.

`descend` records and checkpoints every step from Python; here a step takes a tenth of the time, on
one core.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from popgd.descent.gradient import population_average
from popgd.descent.recorded import compiled
from popgd.papers.power_method import kronecker, model
from popgd.papers.power_method.data import Sample
from popgd.papers.power_method.kronecker import ACTIVE, Kronecker
from popgd.papers.power_method.model import Weights
from popgd.problem.plane import distance


@dataclass(frozen=True)
class Variant:
    """An objective of a model with another normalisation: 'LN' (by sqrt(||z||^2 + eps)), 'none', or
    'centred LN' (the mean over a column's 2d entries is taken off first); with `unit` the output is
    divided by its norm before the loss.
    """

    objective: Any
    norm: str = "LN"
    eps: float = 0.0
    unit: bool = False

    @property
    def L(self) -> int:
        return self.objective.L

    @property
    def layer_norm(self) -> bool:
        return self.norm != "none"

    def output(self, weights: Weights, sample: Sample) -> jax.Array:
        Z = model.tokens(sample.X, sample.q)
        for _ in range(self.objective.L):
            Z = Z + model.attention(weights, Z)
            Z = Z - jnp.mean(Z, axis=0) if self.norm == "centred LN" else Z
            Z = Z / jnp.sqrt(jnp.sum(Z * Z, axis=0) + self.eps) if self.norm != "none" else Z
        return Z[sample.X.shape[0] :, -1]

    def __call__(self, weights: Weights, sample: Sample) -> jax.Array:
        f = self.output(weights, sample)
        f = f / jnp.linalg.norm(f) if self.unit else f
        return self.objective.of_output(f, sample.Sq, sample.V)


class Run(NamedTuple):
    """Weights at the recorded steps."""

    step: np.ndarray
    weights: Weights


def descend(
    objective: Any,
    optimiser: optax.GradientTransformation,
    law: Any,
    starts: list[Weights],
    grid: np.ndarray,
    batch: int,
    seed: int,
    bank: bool = False,
) -> list[Run]:
    """Descents from several starts on the same samples: fresh ones at each step, or with `bank`
    `batch` of them drawn once.
    """
    key = jax.random.key(seed)
    kept = draw(law, key, batch)

    def gradient(weights: Weights, key: jax.Array) -> Weights:
        samples = kept if bank else draw(law, key, batch)
        return jax.grad(
            lambda weights: jnp.mean(jax.vmap(lambda s: objective(weights, s))(samples))
        )(weights)

    def step(state: tuple) -> tuple:
        t, weights, inner = state
        update, inner = optimiser.update(
            gradient(weights, jax.random.fold_in(key, t)), inner, weights
        )
        return t + 1, optax.apply_updates(weights, update), inner

    def run(start: Weights) -> Weights:
        begun = (jnp.zeros((), int), start, optimiser.init(start))
        return compiled(step, lambda state: state[1], begun, grid)

    found = jax.jit(jax.vmap(run))(jax.tree.map(lambda *x: jnp.stack(x), *starts))
    return [
        Run(grid, jax.tree.map(lambda x, i=i: np.asarray(x[i]), found)) for i in range(len(starts))
    ]


def draw(law: Any, key: jax.Array, batch: int) -> Sample:
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(batch))
    return jax.vmap(lambda k: law.sample(k, jnp.dtype("float64")))(keys)


def training_loss(objective: Any, law: Any, run: Run, batch: int, seed: int) -> list[float]:
    """The mean loss over the samples that a descent with `bank` keeps, at every record."""
    kept = draw(law, jax.random.key(seed), batch)
    return jax.vmap(lambda weights: jnp.mean(jax.vmap(lambda s: objective(weights, s))(kept)))(
        run.weights
    ).tolist()


def beside(theta: jax.Array, d: int, size: float, seed: int) -> Weights:
    """The point theta of N plus Gaussian entries of standard deviation `size` in the six inactive
    blocks.
    """
    keys = jax.random.split(jax.random.key(seed), 8)
    noise = jnp.stack(
        [jnp.zeros((d, d)) if k in ACTIVE else jax.random.normal(keys[k], (d, d)) for k in range(8)]
    )
    halves = (
        x.reshape(2, 2, d, d).transpose(0, 2, 1, 3).reshape(2 * d, 2 * d)
        for x in (size * noise[:4], size * noise[4:])
    )
    return jax.tree.map(jnp.add, Kronecker(d).embed(theta), Weights(*halves))


@dataclass(frozen=True)
class _Look:
    """Statistic: loss and ||f||^2."""

    objective: Variant

    def __call__(self, weights: Weights, sample: Sample) -> tuple[jax.Array, jax.Array]:
        f = self.objective.output(weights, sample)
        return self.objective(weights, sample), f @ f


def look(objective: Variant, law: Any, run: Run, samples: int, seed: int) -> dict[str, list[float]]:
    """Loss and E||f||^2 on a test set of fresh samples, each with its standard error, the distances
    from the two manifolds, and the coordinates in N, at every record.
    """
    found: dict[str, list[Any]] = {
        name: []
        for name in ("step", "loss", "loss_error", "square", "square_error", "M", "N", "theta")
    }
    for i, step in enumerate(run.step):
        weights = jax.tree.map(lambda x, i=i: x[i], run.weights)
        mean, stderr, _ = population_average(
            _Look(objective), weights, law, jax.random.key(seed), samples
        )
        both = (model.Active(law.d), Kronecker(law.d))
        row = (int(step), *(float(x) for pair in zip(mean, stderr, strict=True) for x in pair),
               *(float(distance(manifold, weights)) for manifold in both),
               np.asarray(Kronecker(law.d).coordinates(weights)).tolist())  # fmt: skip
        for name, value in zip(found, row, strict=True):
            found[name].append(value)
    return found


def start_of(c: float) -> jax.Array:
    """a = b = sqrt c on the manifold."""
    return kronecker.point(c**0.5, c**0.5)
