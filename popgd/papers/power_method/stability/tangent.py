"""The tangent map of gradient descent along its path on the manifold {P21 = a I, Q12 = b I}: growth
of small perturbations.

A perturbation delta of all entries of (P, Q) moves, to first order, by delta <- delta - eta Hessian
delta. By Schur's lemma the population Hessian is one symmetric 8 x 8 matrix H for each irreducible
part of a block (`hessian`), so delta = x (x) M, M in one part, stays of this form:

    x <- (I - eta H(a_t, b_t)) x,     a <- a - eta b l'(c)/d,  b <- b - eta a l'(c)/d,  c = ab.

`predicted` multiplies these out, `sampled` pushes delta itself, all entries, through Hessian-vector
products of fresh batches: E[delta] obeys the population's map exactly, whatever the batch, as the
path is exact and batches are independent. (In a raw descent the path is noisy too, and growth is
off by O(eta/batch).)

(P, Q) -> (P/s, s Q) leaves the model as it is, so with D = diag(1/s on P's blocks, s on Q's)

    H(a, b) = D H(1, c) D  for s = a,     H(a, b) = D H(c, 1) D  for s = 1/b:

H is needed as a function of c only, from 0 on, where descent starts. Source: derived.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from popgd.descent import chebyshev, gradient
from popgd.descent.recorded import compiled
from popgd.papers.power_method import kronecker, model
from popgd.papers.power_method.data import Sample, UnitColumns
from popgd.papers.power_method.kronecker import Kronecker
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.stability import hessian
from popgd.papers.power_method.stability.hessian import SectorHessian, directions
from popgd.problem.law import Objective

#: Chebyshev nodes in log(1 + lam c); the last two coefficients, which say what more of them would
#: change, are kept in sight.
NODES = 8
#: Independent sampled series: their scatter is the standard error, with 31 degrees of freedom.
SETS = 32

Slope = Any  # c -> l'(c), a pytree that jit takes as an argument


class Series(NamedTuple):
    """H(1, c), or H(c, 1), on 0 <= c <= top: a Chebyshev series in log(1 + lam c) for each of SETS
    independent samples.

    NaN elsewhere.
    """

    coefficients: Float[Array, "sets nodes 3 8 8"]
    lam: Float[Array, ""]
    top: Float[Array, ""]

    def __call__(self, c: Float[Array, ""]) -> Float[Array, "sets 3 8 8"]:
        x = 2 * jnp.log1p(self.lam * c) / jnp.log1p(self.lam * self.top) - 1
        terms = self.coefficients.shape[1]
        found = chebyshev.clenshaw(lambda n: self.coefficients[:, n], terms, x)
        return jnp.where((c >= 0) & (c <= self.top), found, jnp.nan)

    def shorter(self) -> "Series":
        """Without the last two coefficients."""
        return self._replace(coefficients=self.coefficients.at[:, -2:].set(0.0))

    def mean(self) -> "Series":
        return self._replace(coefficients=self.coefficients.mean(axis=0, keepdims=True))


def series(
    objective: Objective,
    law: UnitColumns,
    lam: float,
    top: float,
    key: PRNGKeyArray,
    samples: int,
    first: bool = True,
) -> Series:
    """Sample H(1, c) (`first`) or H(c, 1): `samples` for each set, the same at every node, so that
    noise is smooth in c.

    Raises ValueError for d < 2. Valid for a law and a loss that do not change under (X, q) -> (O X,
    O q).
    """
    nodes, transform = chebyshev.points(NODES - 1)
    places = jnp.asarray(np.expm1((1 + nodes) / 2 * np.log1p(lam * top)) / lam)
    average = partial(
        gradient.population_average,
        _AtNodes(objective, first),
        Weights(places, places),
        law,
        chunk=1,
    )
    values = np.stack([average(jax.random.fold_in(key, k), samples).mean for k in range(SETS)])
    return Series(
        jnp.tensordot(values, transform, (1, 1)).transpose(0, 4, 1, 2, 3),
        jnp.asarray(lam),
        jnp.asarray(top),
    )


@dataclass(frozen=True)
class _AtNodes:
    """Statistic: one sample's Hessian at each c of a vector, which stands for the weights: H(1, c)
    (`first`) or H(c, 1).
    """

    objective: Objective
    first: bool

    def __call__(self, weights: Weights, sample: Sample) -> Float[Array, "nodes 3 8 8"]:
        def at(c: Float[Array, ""]) -> Float[Array, "3 8 8"]:
            theta = kronecker.point(*((1.0, c) if self.first else (c, 1.0)))
            return SectorHessian(self.objective)(Kronecker(sample.q.shape[0]).embed(theta), sample)

        return jax.lax.map(at, weights.P)


def scales(a: Array, b: Array, first: bool) -> Float[Array, "8"]:
    """The diagonal of D."""
    s = a if first else 1 / b
    return jnp.concatenate([jnp.full(4, 1 / s), jnp.full(4, s)])


@partial(jax.jit, static_argnames=("d", "first"))
def predicted(
    found: Series, slope: Slope, start: Float[Array, "2"], eta: Any, d: int, x: Float[Array, "3 8"],
    grid: Int[Array, " records"], first: bool = True,
) -> Float[Array, "records sets 3 8"]:  # fmt: skip
    """x_t of each sector at the steps of an increasing `grid` by the product of the reduced maps,
    for every set of `found`.
    """

    def step(state: tuple) -> tuple:
        a, b, x = state
        c = a * b
        D = scales(a, b, first)
        moved = x - eta * D * jnp.einsum("ksij,ksj->ksi", found(c), D * x)
        g = slope(c) / d
        return a - eta * b * g, b - eta * a * g, moved

    every = jnp.broadcast_to(x, (found.coefficients.shape[0], *x.shape))
    return compiled(step, lambda state: state[2], (*start, every), grid)


@partial(jax.jit, static_argnames=("objective", "batch", "runs"))
def sampled(
    objective: Objective,
    law: UnitColumns,
    slope: Slope,
    start: Float[Array, "2"],
    eta: Any,
    x: Float[Array, "3 8"],
    grid: Int[Array, " records"],
    key: PRNGKeyArray,
    batch: int,
    runs: int,
) -> Float[Array, "records runs 3 8"]:
    """x_t by the tangent map of full matrices, `batch` fresh samples a step; `runs` independent
    ones.

    delta starts at x (x) M and moves in all entries; given is what it has along each block's M.
    """
    d = law.d
    units = directions(d)
    zero = model.embed(jnp.zeros(()), jnp.zeros(()), d)
    deltas = jax.vmap(lambda x, M: hessian.moved(zero, x, M))(x, units)

    def products(a: Array, b: Array, deltas: Any, key: PRNGKeyArray) -> Any:
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(batch))
        samples = jax.vmap(lambda k: law.sample(k, jnp.dtype("float64")))(keys)
        mean_loss = lambda weights: jnp.mean(jax.vmap(lambda s: objective(weights, s))(samples))
        _, push = jax.linearize(jax.grad(mean_loss), model.embed(a, b, d))
        return jax.vmap(push)(deltas)

    def step(state: tuple) -> tuple:
        t, a, b, deltas = state
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, t)))(jnp.arange(runs))
        change = jax.vmap(products, (None, None, 0, 0))(a, b, deltas, keys)
        g = slope(a * b) / d
        return (
            t + 1,
            a - eta * b * g,
            b - eta * a * g,
            jax.tree.map(lambda x, y: x - eta * y, deltas, change),
        )

    def along(delta: Any, M: Array) -> Array:
        every = jnp.stack([*model.blocks(delta.P), *model.blocks(delta.Q)])
        return jnp.tensordot(every, M, ([1, 2], [0, 1]))

    look = lambda state: jax.vmap(jax.vmap(along), (0, None))(state[3], units)
    deltas = jax.tree.map(lambda x: jnp.broadcast_to(x, (runs, *x.shape)), deltas)
    return compiled(step, look, (jnp.zeros((), int), *start, deltas), grid)
