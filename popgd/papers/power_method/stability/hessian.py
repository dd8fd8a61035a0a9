"""The population Hessian at a point of the Kronecker manifold, reduced by Schur's lemma to three
symmetric 8 x 8 matrices.

There the Hessian commutes with the conjugation M -> O M O^T of all eight d x d blocks at once, O
orthogonal. A block splits into three irreducible parts of real type, no two alike: multiples of I
(dimension 1), antisymmetric (d(d-1)/2) and symmetric traceless matrices (d(d+1)/2 - 1). So for
directions D_s (x) M, D_t (x) N, blocks s and t, unit matrices M, N,

    Hessian(D_s (x) M, D_t (x) N) = H^sector_st <M, N>   if M, N lie in one part,   0 if in
    different ones,

and since E over O of (O M O^T) (x) (O M O^T) is the projector on M's part over its dimension, for
any one M in it,

    H^sector_st = E[ sample Hessian(D_s (x) M, D_t (x) M) ]   for a law of (X, q) that does not
    change under O.

So a fixed M in each part is enough, and 24 Hessian-vector products a sample give all of it.
Directions have unit Frobenius norm: a gradient step multiplies a mode of curvature k by 1 - eta k,
whatever d is.

Closed forms, on the manifold P21 = a I, Q12 = b I, c = ab, l(c) the loss there:

* active blocks, multiples of I: the loss at (a + x/sqrt d, b + y/sqrt d) is l(ab + ...), so H_aa =
  b^2 l''/d, H_bb = a^2 l''/d, H_ab = (l' + c l'')/d.
* active and inactive blocks do not mix: the inactive gradient is exactly 0 for all active blocks
  and all samples.
* (P22, Q22), multiples of I, with LN, any L: with P11 = P12 = 0 and m = p22 r22 a layer makes (1 +
  m) q + c S q out of q, which LN makes the same as q + (c/(1 + m)) S q: the loss is l(c/(1 + m)),
  and H_{P22,Q22} = -c l'(c)/d, H_{P22,P22} = H_{Q22,Q22} = 0. P22 - Q22 is an eigenvector for L = 1
  only: for L > 1 what Q11 moves into the lower halves of the data tokens, and P11 into the upper
  half of the query, is read through P22 and Q22 in the next layer, and the four mix. The curvature
  along P22 - Q22, -h/d, is then an upper bound of the lowest one.
* the same without LN, one layer: f = (1 + m) q + c S q, so H_{P22,Q22} = 2 E[(f - y).q]/d. At c*
  E[(f - y).Sq] = 0, so for y = Sq it is 2 E[(f - y).(q + (c* - 1) Sq)]/d = 2 L*/d.
* P11 = M, one layer with LN: the upper half b M S q makes ||v||^2 larger by b^2 ||M S q||^2 and f
  shorter, no more. So the second derivative is -2 b^2 E[dist^2(f, V) ||M S q||^2/||v||^2] in 4.1,
  -2 b^2 E[(1 - cos) ||M S q||^2/||v||^2] in 4.3, v = q + c S q, and in every sector, as E over O of
  O M^T M O^T = I/d,

      H_{P11,P11} = -(2 b^2/d) E[dist^2(f, V) ||S q||^2/||v||^2]  (4.1),    -(2 b^2/d) E[(1 - cos)
      ||S q||^2/||v||^2]  (4.3).

* (P12, Q21), any L, with LN: neither of them alone does anything, as the upper half of the query
  token is 0. P12 = x M with Q21 = y M lets the query token q_l move the data tokens of layer l + 1,
  x_i <- LN(x_i + x y M q_l (q_l^T M x_i)), and nothing else. So H_{P12,P12} = H_{Q21,Q21} = 0, the
  two mix with no other block, and H_{P12,Q21} = d/d eps E[loss] at eps = 0 for

      q_(l+1) = LN(q_l + c X_l X_l^T q_l),   X_(l+1) = LN(X_l + eps M q_l (q_l^T M X_l)),   l = 0 ..
                                             L - 1:

  0 for L = 1, and otherwise a saddle whichever its sign, with curvatures +-H_{P12,Q21} along P12 +-
  Q21. For multiples of I, M = I/sqrt d, LN takes dX_l = eps (q_l q_l^T X_l - X_l diag(X_l^T
  q_l)^2)/d: it needs fourth moments of the columns, not S only.

Source: derived.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from popgd.descent import gradient
from popgd.papers.power_method.data import Sample, UnitColumns
from popgd.papers.power_method.kronecker import BLOCKS, Kronecker
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import PowerIteration
from popgd.problem.law import Objective

#: The irreducible parts of a block, in the order of the three matrices.
SECTORS = ("multiples of I", "antisymmetric", "symmetric traceless")
#: What rounding may make of a curvature: a hundredth of a sampling error of 1%. ||S|| <= n for
#: columns of norm 1.
LOST = 1e-4
#: A block belongs to the name of a mode if its share in the unit vector is at least this.
NAMED = 0.3


def directions(d: int) -> Float[Array, "3 d d"]:
    """One unit matrix of each sector. Raises ValueError for d < 2, where there is one sector
    only.
    """
    if d < 2:
        raise ValueError(f"d={d}: a block of size 1 has multiples of I only; use d >= 2")
    unit = jnp.zeros((d, d)).at[0, 1].set(1.0)
    return jnp.stack(
        [jnp.eye(d) / jnp.sqrt(d), (unit - unit.T) / jnp.sqrt(2), (unit + unit.T) / jnp.sqrt(2)]
    )


def dimensions(d: int) -> tuple[int, int, int]:
    """How many independent directions each sector of a block has."""
    return 1, d * (d - 1) // 2, d * (d + 1) // 2 - 1


def moved(weights: Weights, x: Float[Array, "8"], M: Float[Array, "d d"]) -> Weights:
    """The weights plus x_s M in block s."""
    P, Q = (jnp.kron(half.reshape(2, 2), M) for half in (x[:4], x[4:]))
    return Weights(weights.P + P, weights.Q + Q)


@dataclass(frozen=True)
class SectorHessian:
    """Statistic: one sample's Hessian along one direction of each sector in every block, (3, 8,
    8).
    """

    objective: Objective

    def __call__(self, weights: Weights, sample: Sample) -> Float[Array, "3 8 8"]:
        # Made from the weights, see population_average.
        here = jnp.zeros(8, weights.P.dtype) * weights.P[0, 0]

        def along(M: Float[Array, "d d"]) -> Float[Array, "8 8"]:
            return jax.hessian(lambda x: self.objective(moved(weights, x, M), sample))(here)

        return jax.vmap(along)(directions(weights.P.shape[0] // 2).astype(weights.P.dtype))


def population_hessian(
    objective: Objective,
    theta: Float[Array, "8"],
    law: UnitColumns,
    key: PRNGKeyArray,
    samples: int,
) -> gradient.Estimate:
    """The three matrices H^sector (3, 8, 8) at the point theta of N, by Monte Carlo, each entry
    with its standard error.

    The law and the loss must not change under (X, q) -> (O X, O q). Raises ValueError for fewer
    than 2 samples, for d < 2, and for 4.3's loss where c = p21 r12 is so large that its differences
    have no digits: the output is within 1/c of its target, and a curvature along P11 is a second
    order in that, so that eps (c ||S||)^2 of it is rounding; `kronecker.population_hessian` has
    multiples of I for any c.
    """
    rounding = float(jnp.finfo(theta.dtype).eps * (theta[2] * theta[5] * getattr(law, "n", 1)) ** 2)
    if objective == PowerIteration("normalised") and rounding > LOST:
        c = float(theta[2] * theta[5])
        raise ValueError(
            f"c = {c:.3g}: rounding may be {rounding:.1g} of a curvature along P11; lower c, as "
            "by fewer or smaller steps"
        )
    # One sample at a time: its 24 products fill the cache, and larger chunks took up to twice as
    # long.
    return gradient.population_average(
        SectorHessian(objective), Kronecker(law.d).embed(theta), law, key, samples, chunk=1
    )


def eigh(H: Float[np.ndarray, "k k"]) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k k"]]:
    """Eigenvalues, increasing, and eigenvectors as columns; NaN for a matrix that is not finite,
    where a descent diverged.
    """
    if not np.isfinite(H).all():
        return np.full(len(H), np.nan), np.full(H.shape, np.nan)
    return np.linalg.eigh(H)


class Mode(NamedTuple):
    """A curvature with its error, its sector, its unit vector over the blocks, and the blocks that
    make it up.
    """

    sector: str
    curvature: float
    error: float
    vector: Float[np.ndarray, "8"]
    name: str


def modes(found: gradient.Estimate, fresh: gradient.Estimate) -> Iterator[Mode]:
    """Eigenvectors of one estimate with their Rayleigh quotients in another, independent one:
    lowest first in each sector.

    An eigenvalue of a noisy matrix is biased away from the others, the lowest downwards; the
    quotient of a fixed vector is not, and it is never below the true lowest eigenvalue. Its error
    is sum_st |v_s v_t| stderr_st, which no correlation of the entries exceeds.
    """
    for sector, matrix, mean, stderr in zip(
        SECTORS, found.mean, fresh.mean, fresh.stderr, strict=True
    ):
        for v in eigh(np.asarray(matrix))[1].T:
            v = v * np.sign(v[np.argmax(abs(v))])
            size = abs(v)
            yield Mode(
                sector,
                float(v @ np.asarray(mean) @ v),
                float(size @ np.asarray(stderr) @ size),
                v,
                name(v),
            )


def name(vector: Float[np.ndarray, "8"]) -> str:
    """The blocks of a mode with their signs, as in 'P22 - Q22'."""
    words = [
        ("- " if x < 0 else "+ ") + block
        for x, block in zip(vector, BLOCKS, strict=True)
        if abs(x) >= NAMED
    ]
    return " ".join(words).removeprefix("+ ")


def manifold_curvature(
    a: float, b: float, slope: float, second: float, d: int
) -> Float[np.ndarray, "2 2"]:
    """The block (P21, Q12) of the scalar sector by the chain rule, from l'(c) and l''(c): see the
    module's docstring.
    """
    mixed = slope + a * b * second
    return np.array([[b * b * second, mixed], [mixed, a * a * second]]) / d


@jax.default_matmul_precision("highest")
def p11_curvature(
    b: float | Float[Array, ""], c: float | Float[Array, ""], target: str, sample: Sample
) -> Float[Array, ""]:
    """One sample's -(2 b^2/d) w ||S q||^2/||v||^2, w = dist^2(f, V) for target 'subspace', 1 -
    cos(f, S q) for 'power'.
    """
    q, V, s = sample.q, sample.V, sample.Sq
    v = q + c * s
    f = v / jnp.linalg.norm(v)
    # What of v is orthogonal to s is what of q is; 1 - cos = sin^2/(1 + cos) has no cancellation
    away = q - s * (q @ s) / (s @ s)
    power = (away @ away) / (v @ v) / (1 + f @ s / jnp.linalg.norm(s))
    weight = {"subspace": jnp.sum((f - V @ (V.T @ f)) ** 2), "power": power}[target]
    return -2 * b**2 / q.shape[0] * weight * (s @ s) / (v @ v)


@jax.default_matmul_precision("highest")
def p12_q21_coupling(
    objective: Any, c: float | Float[Array, ""], M: Float[Array, "d d"], sample: Sample
) -> Float[Array, ""]:
    """One sample's d/d eps of the loss, whose mean is H_{P12,Q21} in M's sector: see the module's
    docstring.

    `objective` is a function of the output of a layer with LN (`kronecker.OfOutput`). The data must
    have unit columns.
    """
    norm = lambda Z: Z / jnp.linalg.norm(Z, axis=0)

    def loss(eps: Float[Array, ""]) -> Float[Array, ""]:
        X, q = sample.X, sample.q
        for _ in range(objective.L):
            Sq = sample._replace(X=X, q=q).Sq
            X, q = norm(X + eps * jnp.outer(M @ q, q @ M @ X)), norm(q + c * Sq)
        return objective.of_output(q, sample.Sq, sample.V)

    return jax.jvp(loss, (jnp.zeros_like(sample.q[0]),), (jnp.ones_like(sample.q[0]),))[1]


@partial(jax.jit, static_argnames="objective")
def full_hessian(
    objective: Objective, weights: Weights, sample: Sample
) -> Float[Array, "8 d d 8 d d"]:
    """One sample's whole Hessian, block by block: for small d, to check the reduced one against."""
    d = weights.P.shape[0] // 2

    def loss(x: Float[Array, "8 d d"]) -> Float[Array, ""]:
        P, Q = (
            half.reshape(2, 2, d, d).transpose(0, 2, 1, 3).reshape(2 * d, 2 * d)
            for half in (x[:4], x[4:])
        )
        return objective(Weights(weights.P + P, weights.Q + Q), sample)

    return jax.hessian(loss)(jnp.zeros((8, d, d), weights.P.dtype))
