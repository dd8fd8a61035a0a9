"""The Kronecker manifold: every block of P and Q a multiple of I, eight scalars in all.

    N = { P = p (x) I_d, Q = r (x) I_d },   p, r real 2 x 2,   theta = (p11, p12, p21, p22, r11,
    r12, r21, r22)

It contains the manifold of the theorems (p21 = a, r12 = b, the others 0). If the law of the sample
does not change under (X, q) -> (O X, O q) and the loss neither, the population gradient at a point
of N commutes with every orthogonal O, so by Schur's lemma every block of it is a multiple of I:
population gradient descent stays in N, and moves theta by

    theta <- theta - (eta/d) grad F(theta),   F(theta) = the population loss at that point,

as the gradient in a block is (dF/dtheta_k / d) I.
Source: derived; arXiv 2606.00605 has the smaller manifold only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from popgd.descent import gradient
from popgd.descent.recorded import compiled
from popgd.papers.power_method.data import Rotated, Sample
from popgd.papers.power_method.model import UNROLL, Weights, blocks, layer_norm
from popgd.papers.power_method.objectives import OfOutput, PowerIteration
from popgd.problem.law import Law, sphere
from popgd.problem.pytree import registered

#: The blocks in the order of the coordinates.
BLOCKS = ("P11", "P12", "P21", "P22", "Q11", "Q12", "Q21", "Q22")
#: Where the two active ones stand: P21 and Q12.
ACTIVE = (2, 5)


def point(a: float | Float[Array, ""], b: float | Float[Array, ""]) -> Float[Array, "8"]:
    """The coordinates of P21 = a I, Q12 = b I, all other blocks 0."""
    return jnp.zeros(8).at[jnp.array(ACTIVE)].set(jnp.array([a, b]))


def factors(theta: Float[Array, "8"]) -> tuple[Float[Array, "2 2"], Float[Array, "2 2"]]:
    """(p, r) of coordinates theta."""
    return theta[:4].reshape(2, 2), theta[4:].reshape(2, 2)


@dataclass(frozen=True)
class Kronecker:
    """The manifold in dimension d; its coordinates are theta."""

    d: int

    def coordinates(self, weights: Weights) -> Float[Array, "8"]:
        """The traces of the eight blocks over d: the nearest point of the manifold."""
        every = (*blocks(weights.P), *blocks(weights.Q))
        return jnp.stack([jnp.trace(block) for block in every]) / self.d

    def embed(self, coordinates: Float[Array, "8"]) -> Weights:
        p, r = factors(coordinates)
        eye = jnp.eye(self.d, dtype=coordinates.dtype)
        return Weights(jnp.kron(p, eye), jnp.kron(r, eye))

    def inactive(self, weights: Weights) -> Float[Array, ""]:
        """The largest absolute off-diagonal entry of a block."""
        every = jnp.stack([*blocks(weights.P), *blocks(weights.Q)])
        return jnp.max(jnp.abs(every * (1 - jnp.eye(self.d))))

    def deviations(self, gradient: Weights) -> Float[Array, "8 d"]:
        """The diagonals of the eight blocks less their means: 0 in the mean by Schur's lemma."""
        every = jnp.stack([*blocks(gradient.P), *blocks(gradient.Q)])
        return jnp.diagonal(every, axis1=1, axis2=2) - self.coordinates(gradient)[:, None]


@jax.default_matmul_precision("highest")
def output(
    theta: Float[Array, "8"],
    X: Float[Array, "d n"],
    q: Float[Array, " d"],
    L: int = 1,
    normalise: bool = True,
    copies: Float[Array, " n"] | None = None,
) -> Float[Array, " d"]:
    """f(X, q; p (x) I, r (x) I) without the 2d x 2d matrices: 2 x 2 algebra on the two halves of
    the tokens.

    Tokens Z = (2, d, N), scores W_km = sum_st r_st z_sk . z_tm, layer Z_s <- LN(Z_s + sum_t p_st
    Z_t W). The query that enters the last layer is all that matters there. Up to rounding equal to
    `model.looped`.
    """
    p, r = factors(theta)
    zero = jnp.zeros_like(q)
    Z = jnp.stack([jnp.column_stack([X, zero]), jnp.column_stack([jnp.zeros_like(X), q])])

    def normed(Z: Array) -> Array:
        return layer_norm(Z.reshape(2 * q.size, -1)).reshape(Z.shape) if normalise else Z

    def update(Z: Array, columns: Array) -> Array:
        scores = jnp.einsum("sdk,st,tdm->km", Z, r, columns)
        scores = scores if copies is None else jnp.append(copies, 1)[:, None] * scores
        return normed(columns + jnp.einsum("st,tdk,km->sdm", p, Z, scores))

    Z, _ = jax.lax.scan(
        lambda Z, _: (update(Z, Z), None), Z, length=L - 1, unroll=max(1, min(L - 1, UNROLL))
    )
    return update(Z, Z[:, :, -1:])[1, :, 0]


@jax.default_matmul_precision("highest")
def one_layer(
    theta: Float[Array, "8"], S: Float[Array, "d d"], q: Float[Array, " d"], normalise: bool = True
) -> Float[Array, " d"]:
    """The same for L = 1 by the closed form: with alpha = p11 r12, beta = p12 r22, m = p22 r22, c =
    p21 r12, ||q|| = 1,

    v = (alpha S q + beta q; (1 + m) q + c S q),   f = the lower half of v/||v|| (of v without LN).
    """
    p, r = factors(theta)
    above = p[0, 0] * r[0, 1] * (S @ q) + p[0, 1] * r[1, 1] * q
    below = (1 + p[1, 1] * r[1, 1]) * q + p[1, 0] * r[0, 1] * (S @ q)
    return layer_norm(jnp.concatenate([above, below])[:, None])[q.size :, 0] if normalise else below


@registered(["U", "V", "copies"], ["spectrum"])
@dataclass(frozen=True, eq=False)
class Unrotated(Rotated):
    """X = U without the rotation, q uniform: has not (A2), but the same expectations of
    rotation-invariant functions.

    On N, and for traces over whole blocks, E over O and q equals E over q alone: O moves into q.
    """

    def sample(self, key: PRNGKeyArray, dtype: jnp.dtype) -> Sample:
        q = sphere(jax.random.normal(key, (self.d, 1), dtype))[:, 0]
        copies = None if self.copies is None else jnp.asarray(self.copies, dtype)
        return Sample(jnp.asarray(self.U, dtype), q, jnp.asarray(self.V, dtype), copies)


def without_rotation(law: Law) -> Law:
    """The cheapest law with the same expectations of rotation-invariant functions."""
    return Unrotated(law.U, law.V, law.spectrum, law.copies) if isinstance(law, Rotated) else law


@jax.default_matmul_precision("highest")
def _power_loss(theta: Float[Array, "8"], sample: Sample) -> Float[Array, ""]:
    """4.3's sample loss ||f - e||^2, e = Sq/||Sq||, without the cancellation of f - e, which is of
    the order of 1/c.

    With v of `one_layer`, x = v.e and the rest of v, ||rest||^2 = ||v||^2 - x^2, the part of f - e
    across e is (1 + m) times that of q over ||v||, and the part along it x/||v|| - 1 =
    -||rest||^2/(||v|| (||v|| + x)) for x > 0. Good to some eps of itself, and so are its
    derivatives, for any c; NaN for Sq = 0. Source: derived.
    """
    p, r = factors(theta)
    s, q = sample.Sq, sample.q
    length = jnp.sqrt(s @ s)
    e = s / length
    above = p[0, 0] * r[0, 1] * s + p[0, 1] * r[1, 1] * q
    across = (1 + p[1, 1] * r[1, 1]) * (q - e * (e @ q))
    x = (1 + p[1, 1] * r[1, 1]) * (e @ q) + p[1, 0] * r[0, 1] * length
    rest = above @ above + across @ across
    size = jnp.sqrt(rest + x * x)
    short = jnp.where(x > 0, rest / (size * (size + jnp.abs(x))), 1 - x / size)
    return across @ across / size**2 + short**2


def sample_loss(objective: OfOutput, theta: Float[Array, "8"], sample: Sample) -> Float[Array, ""]:
    """The sample loss at a point of N: relative to itself good to rounding for 4.3, else to that
    of the output.
    """
    if objective == PowerIteration("normalised"):
        return _power_loss(theta, sample)
    f = output(theta, sample.X, sample.q, objective.L, objective.layer_norm, sample.copies)
    return objective.of_output(f, sample.Sq, sample.V)


@dataclass(frozen=True)
class _Derivative:
    """Statistic: what `derive` makes of one sample's loss in theta. The weights it is given are the
    factors (p, r).
    """

    objective: OfOutput
    derive: Callable[[Any], Callable[..., Any]]

    def __call__(self, weights: Weights, sample: Sample) -> Any:
        theta = jnp.concatenate([weights.P.ravel(), weights.Q.ravel()])
        return self.derive(partial(sample_loss, self.objective))(theta, sample)


def population_gradient(
    objective: OfOutput, theta: Float[Array, "8"], law: Law, key: PRNGKeyArray, samples: int
) -> gradient.Estimate:
    """(F(theta), grad F(theta)) by Monte Carlo, each entry with its standard error. Divide the
    gradient by d for a block's.

    Raises ValueError for fewer than 2 samples.
    """
    slope = _Derivative(objective, jax.value_and_grad)
    return gradient.population_average(
        slope, Weights(*factors(theta)), without_rotation(law), key, samples
    )


def population_hessian(
    objective: OfOutput, theta: Float[Array, "8"], law: Law, key: PRNGKeyArray, samples: int
) -> gradient.Estimate:
    """The Hessian of F at theta (8, 8), by Monte Carlo. Over d it is that of the multiples of I in
    `hessian`.

    Raises ValueError for fewer than 2 samples.
    """
    curvature = _Derivative(objective, jax.hessian)
    return gradient.population_average(
        curvature, Weights(*factors(theta)), without_rotation(law), key, samples
    )


class Path(NamedTuple):
    """A descent in N at its recorded steps; the loss is that of the step's own batch, exact where
    the slope is.
    """

    step: Int[np.ndarray, " records"]
    theta: Float[np.ndarray, "records 8"]
    loss: Float[np.ndarray, " records"]


def sampled_slope(objective: OfOutput, law: Law, batch: int) -> Any:
    """theta, key -> (loss, gradient) of one batch of fresh samples, for `descend`."""
    law = without_rotation(law)

    def slope(theta: Float[Array, "8"], key: PRNGKeyArray) -> tuple[Array, Array]:
        def mean_loss(theta: Array) -> Array:
            keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(batch))
            return jnp.mean(
                jax.vmap(lambda k: sample_loss(objective, theta, law.sample(k, theta.dtype)))(keys)
            )

        return jax.value_and_grad(mean_loss)(theta)

    return slope


def descend(
    slope: Any,
    start: Float[Array, "8"],
    eta: float,
    d: int,
    grid: Int[np.ndarray, " records"],
    key: PRNGKeyArray,
) -> Path:
    """theta <- theta - (eta/d) gradient, recorded at the steps of an increasing `grid`.

    `slope(theta, key)` gives (loss, gradient): sampled, or exact with the key unused. Not finite
    from where the descent diverges.
    """
    found = _descend(jax.tree_util.Partial(slope), start, eta / d, jnp.asarray(grid), key)
    return Path(np.asarray(grid), *map(np.asarray, found))


@jax.jit
def _descend(
    slope: Any, start: Array, rate: Any, grid: Array, key: PRNGKeyArray
) -> tuple[Array, Array]:
    def step(state: tuple) -> tuple:
        t, theta = state
        return t + 1, theta - rate * slope(theta, jax.random.fold_in(key, t))[1]

    def look(state: tuple) -> tuple:
        t, theta = state
        return theta, slope(theta, jax.random.fold_in(key, t))[0]

    return compiled(step, look, (jnp.zeros((), int), start), grid)
