"""Finite samples: SGD with mini-batches on 10,000 matrices, beside the exact population descent at
the same step size.

Source: arXiv 2606.00605, Section 5. Its sizes d, n, L, the step size and the batch size are not
legible; those here show every effect it speaks of. The model, the objectives and the laws are
popgd's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax

from popgd.descent.recursion import log_grid
from popgd.papers.power_method import model
from popgd.papers.power_method.training.study import start_of
from popgd.theorem.registry import theorems
from popgd.theorem.report import resolve

#: theorem and target behind each of the paper's models.
MODELS = {
    "looped": ("4.1", ""),
    "LN": ("4.3", ""),
    "no LN, norm.": ("4.2", "normalised"),
    "no LN, unnorm.": ("4.2", "unnormalised"),
}
SPECTRUM = (8, 5, 4, 2, 1)
#: The law of each task, at the size that most figures use.
TASKS: dict[int, dict[str, Any]] = {
    1: {"law": "uniform", "d": 5, "n": 20},
    2: {"law": "rotated", "spectrum": SPECTRUM},
}
LOOPS = 3
#: Step sizes other than the automatic ones. At that of 4.1, 0.23, noise in the active blocks hides
#: the growth of c.
ETA = {"looped": 0.05}
#: Samples put through the model at once: a core's cache holds them.
CHUNK = 50


@dataclass(frozen=True)
class Sizes:
    """How much training. test and train are numbers of matrices; batch divides train. spectra is
    how many sampled ones the exact descent of Task 1 averages over, variants how many sizes and
    numbers of loops a figure compares at most.
    """

    train: int = 10_000
    test: int = 2_000
    batch: int = 250
    iterations: int = 2_000
    per_decade: int = 8
    spectra: int = 32
    variants: int = 3


FULL = Sizes()
QUICK = Sizes(train=500, test=100, batch=50, iterations=60, per_decade=4, spectra=4, variants=1)


class Trained(NamedTuple):
    """One SGD run, its losses on all training and test matrices, and the exact population descent.

    inactive is the largest absolute entry that the inactive blocks had at a recorded step; scatter
    the Frobenius norm of what keeps the active blocks from being multiples of I, relative to
    theirs. gap_stderr is the standard error of (test loss - training loss), as of two independent
    samples.
    """

    eta: float
    sizes: Sizes
    d: int
    n: int
    L: int
    layer_norm: bool
    step: np.ndarray
    P: np.ndarray
    Q: np.ndarray
    a: np.ndarray
    b: np.ndarray
    train_loss: np.ndarray
    test_loss: np.ndarray
    gap_stderr: np.ndarray
    inactive: float
    scatter: np.ndarray
    exact: Any

    @property
    def c(self) -> np.ndarray:
        return self.a * self.b

    def numbers(self) -> dict[str, Any]:
        """What a figure stores of it, as plain data: no full matrices but the last."""
        arrays = {
            name: getattr(self, name).tolist()
            for name in ("step", "a", "b", "train_loss", "test_loss", "gap_stderr", "scatter")
        }
        at = np.searchsorted(self.exact.records.step, self.step).clip(
            max=self.exact.records.step.size - 1
        )
        theory = {
            "step": self.exact.records.step.tolist(),
            "c": self.exact.records.c.tolist(),
            "loss": population_loss(self).tolist(),
        }
        return {
            **self.sizes.__dict__,
            "d": self.d,
            "n": self.n,
            "L": self.L,
            "eta": self.eta,
            **arrays,
            "c": self.c.tolist(),
            "c_exact": self.exact.records.c[at].tolist(),
            "inactive": self.inactive,
            "gap": (self.test_loss - self.train_loss).tolist(),
            "exact": theory,
        }


def population_loss(run: Trained) -> np.ndarray:
    """The exact population loss at the recorded steps of the exact descent."""
    return np.asarray(run.exact.losses)


@partial(jax.jit, static_argnames=("optimiser", "objective", "batch"))
def _epoch(
    optimiser: Any, objective: Any, batch: int, state: Any, data: Any, key: jax.Array
) -> tuple[Any, Any]:
    """One pass over the training data in a fresh random order: the new state, and the weights after
    every step.
    """
    count = data.q.shape[0]
    order = jax.random.permutation(key, count).reshape(count // batch, batch)

    def step(state: Any, rows: jax.Array) -> tuple[Any, Any]:
        weights, inner = state
        mean = jax.grad(lambda w: _mean_loss(objective, w, jax.tree.map(lambda x: x[rows], data)))(
            weights
        )
        updates, inner = optimiser.update(mean, inner, weights)
        weights = optax.apply_updates(weights, updates)
        return (weights, inner), weights

    return jax.lax.scan(step, state, order)


def _mean_loss(objective: Any, weights: Any, samples: Any) -> jax.Array:
    return jnp.mean(
        jax.lax.map(lambda sample: objective(weights, sample), samples, batch_size=CHUNK)
    )


@partial(jax.jit, static_argnames="objective")
def _losses(objective: Any, weights: Any, samples: Any) -> tuple[jax.Array, jax.Array]:
    """Mean and standard error of the loss over samples."""
    values = jax.lax.map(lambda sample: objective(weights, sample), samples, batch_size=CHUNK)
    return jnp.mean(values), jnp.std(values, ddof=1) / jnp.sqrt(values.size)


def train(
    name: str, task: int, sizes: Sizes = FULL, L: int = LOOPS, law: Mapping[str, Any] | None = None
) -> Trained:
    """SGD from the paper's start on one data set, and the exact descent, once; `law` replaces the
    task's.
    """
    return _train(name, task, sizes, L, tuple((law or TASKS[task]).items()))


@cache
def _train(name: str, task: int, sizes: Sizes, L: int, law: tuple) -> Trained:
    theorem, target = MODELS[name]
    values = {
        **dict(law),
        "theorem": theorem,
        "steps": sizes.iterations,
        "spectra": sizes.spectra,
        "eta": ETA.get(name),
    }
    setting = resolve({**values, "L": L} if theorem == "4.1" else values)
    objective: Any = theorems()[theorem].objective(setting, target)
    key = jax.random.key(task)
    data = _draw(setting.law, jax.random.fold_in(key, 0), sizes.train)
    test = _draw(setting.law, jax.random.fold_in(key, 1), sizes.test)
    grid = log_grid(sizes.iterations, sizes.per_decade)
    kept = _descend(setting, objective, data, jax.random.fold_in(key, 2), sizes, grid)
    fit, unseen = (
        [np.array(_losses(objective, w, samples)) for w in kept] for samples in (data, test)
    )
    (train_loss, train_error), (test_loss, test_error) = np.transpose(fit), np.transpose(unseen)
    P, Q = (np.stack([np.asarray(w[i]) for w in kept]) for i in range(2))
    d = setting.law.d
    A, B = P[:, d:, :d], Q[:, :d, d:]
    a, b = (np.trace(M, axis1=1, axis2=2) / d for M in (A, B))
    off = np.hypot(
        *(
            np.linalg.norm(M - m[:, None, None] * np.eye(d), axis=(1, 2))
            for M, m in ((A, a), (B, b))
        )
    )
    shape = (d, setting.law.n, objective.L, objective.layer_norm)
    run = Trained(
        setting.eta,
        sizes,
        *shape,
        grid,
        P,
        Q,
        a,
        b,
        train_loss,
        test_loss,
        np.hypot(train_error, test_error),
        _inactive(P, Q, d),
        off / np.sqrt(d * (a**2 + b**2)),
        common.descend(setting, target),
    )
    gap = test_loss[-1] - train_loss[-1]
    print(
        f"{name}, task {task}, d={d}, n={run.n}, L={run.L}: test loss {test_loss[-1]:.4g}, gap "
        f"{gap:+.2g} "
        f"+- {run.gap_stderr[-1]:.1g}, population {population_loss(run)[-1]:.4g}",
        flush=True,
    )
    return run


@cache
def test_point(task: int) -> tuple[np.ndarray, np.ndarray]:
    """One fixed matrix and query of a task, of no training or test set."""
    sample = resolve({"theorem": "4.3", **TASKS[task]}).law.sample(
        jax.random.key(100 + task), jnp.dtype("float64")
    )
    return np.asarray(sample.X), np.asarray(sample.q)


def _draw(law: Any, key: jax.Array, count: int) -> Any:
    return jax.jit(
        lambda keys: jax.lax.map(
            lambda k: law.sample(k, jnp.dtype("float64")), keys, batch_size=CHUNK
        )
    )(jax.random.split(key, count))


def _descend(
    setting: Any, objective: Any, data: Any, key: jax.Array, sizes: Sizes, grid: np.ndarray
) -> list[Any]:
    """The weights at the steps of the grid."""
    start = model.active_weights(*(x * jnp.eye(setting.law.d) for x in start_of(setting)))
    optimiser = setting.make_optimiser()
    state, kept, done = (start, optimiser.init(start)), [start], 0
    per_epoch = sizes.train // sizes.batch
    for number in range(-(-sizes.iterations // per_epoch)):
        state, weights = _epoch(
            optimiser, objective, sizes.batch, state, data, jax.random.fold_in(key, number)
        )
        inside = grid[(grid > done) & (grid <= done + per_epoch)]
        kept += [jax.tree.map(lambda x, i=step - done - 1: x[i], weights) for step in inside]
        done += per_epoch
    return kept


def _inactive(P: np.ndarray, Q: np.ndarray, d: int) -> float:
    """The largest absolute entry of the six inactive blocks at the recorded steps."""
    P, Q = abs(P), abs(Q)
    return float(max(P[:, :d].max(), P[:, d:, d:].max(), Q[:, :d, :d].max(), Q[:, d:].max()))
