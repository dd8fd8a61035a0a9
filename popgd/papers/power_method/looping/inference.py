"""A trained layer looped on other data: the angle of its output to the leading principal subspace.

With P21 = a I, Q12 = b I, c = a b, k loops take a unit query q to (I + cS)^k q (over its norm, with
LN). S = X X^T has eigenvalues lam_1 = ... = lam_r > lam_{r+1} >= ... and eigenvectors v_i; alpha_i
= v_i.q, rho = |(alpha_1 ... alpha_r)|:

    tan^2 theta_k = sum_{i>r} w_i^{2k} alpha_i^2 / sum_{i<=r} w_i^{2k} alpha_i^2,     w_i = (1 + c
    lam_i)/(1 + c lam_1)
    |alpha_{r+1}| gamma^k <= sin theta_k <= sqrt(1 - rho^2)/rho gamma^k,              gamma =
    w_{r+1}

Everything is kept as logarithms: k reaches 10^4 and more, where sin theta_k is far below the least
float64. Source: arXiv 2606.00605, Definition 4.5, Theorems 4.6 and 4.7, Lemma A.1.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from popgd.papers.power_method import model
from popgd.papers.power_method.model import Weights
from popgd.problem.number import Number
from popgd.problem.numeric import UNIT, multiplicities

#: Roundings of the singular value decomposition, per dimension.
DECOMPOSITION = 8
#: Roundings of a logarithm of a length, in units of itself: as much the length is off, relatively.
EXPONENT = 4


@dataclass(frozen=True, eq=False)
class Split:
    """The spectrum of S: eigenvalues descending, eigenvectors as columns, r = multiplicity of the
    largest, next_r = that of lam_{r+1} (0 if r = d), by `numeric.multiplicities`.

    rounding bounds what float64 adds to one loop, in units of (1 + c lam_1)|q|: the sums over n
    columns and d rows, and the decomposition.
    """

    lam: Float[np.ndarray, " d"]
    vectors: Float[np.ndarray, "d d"]
    r: int
    next_r: int
    rounding: float

    @property
    def d(self) -> int:
        return self.lam.size

    @property
    def spread(self) -> float:
        """How far eigenvalues that count as equal lie apart, relative to lam_1: 0 but for rounding,
        if they are equal.
        """
        lam, r = self.lam, self.r
        second = lam[r] - lam[r + self.next_r - 1] if r < self.d else 0.0
        return float((lam[0] - lam[r - 1] + second) / lam[0])

    @property
    def ratio(self) -> float:
        """lam_{r+1}/lam_1, the power method's factor. Raises ValueError if all eigenvalues are
        equal.
        """
        return float(np.exp(log_factor(self, np.inf)))


class Query(NamedTuple):
    """A unit query in the eigenbasis of S: alpha, rho = |its part in V|, rest = |the other part| =
    sqrt(1 - rho^2).

    first = |alpha_{r+1}|, and plane = |the projection on the whole lam_{r+1}-eigenspace| >= first.
    rho = 0 is read as such where its rounding hides its sign.
    """

    alpha: Float[np.ndarray, " d"]
    rho: float
    rest: float
    first: float
    plane: float


class Angles(NamedTuple):
    """Logarithms of tan, sin and cos of theta_k, one entry a loop."""

    tan: Float[np.ndarray, " loops"]
    sin: Float[np.ndarray, " loops"]
    cos: Float[np.ndarray, " loops"]


class Rounding(NamedTuple):
    """Bounds, to first order, of relative errors of output vector, angles and bounds, a loop each.

    tan is how far loop and formula may part: both take the same computed eigenvectors, whose error
    is not in it. angle is how far tan, sin and cos of either, and the upper bound, may be from
    those of X itself, and lower the same of `Bounds.sharper`: inf where its plane is 0.
    """

    output: Float[np.ndarray, " loops"]
    tan: Float[np.ndarray, " loops"]
    angle: Float[np.ndarray, " loops"]
    lower: Float[np.ndarray, " loops"]


class Bounds(NamedTuple):
    """Logarithms of the bounds on sin theta_k; `sharper` has the whole lam_{r+1}-eigenspace in
    place of |alpha_{r+1}|.
    """

    lower: Float[np.ndarray, " loops"]
    sharper: Float[np.ndarray, " loops"]
    upper: Float[np.ndarray, " loops"]


def split(X: Float[np.ndarray, "d n"]) -> Split:
    """The spectrum of X X^T from the singular values of X, whose squares keep small eigenvalues
    apart from rounding.

    Raises ValueError unless X is a finite, non-zero matrix.
    """
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or X.size == 0 or not np.all(np.isfinite(X)) or not np.any(X):
        raise ValueError(f"a finite, non-zero (d, n) matrix was wanted, not one of shape {X.shape}")
    d, n = X.shape
    vectors, sigma, _ = np.linalg.svd(X, full_matrices=n < d)
    lam = np.zeros(d)
    lam[: sigma.size] = sigma**2
    r, next_r = [*multiplicities(lam), 0][:2]
    magnitude = float(np.linalg.norm(abs(X), 2)) ** 2 / float(
        lam[0]
    )  # |X||X|^T bounds what the sums can round
    return Split(lam, vectors, r, next_r, UNIT * magnitude * (n + (2 + DECOMPOSITION) * d + 4))


def query(spectrum: Split, q: Float[np.ndarray, " d"]) -> Query:
    """A unit query in the eigenbasis. Raises ValueError unless q is a finite vector of norm 1 with
    d entries.
    """
    q = np.asarray(q, dtype=np.float64)
    if q.shape != (spectrum.d,) or not abs(np.linalg.norm(q) - 1) <= 1e-12:
        raise ValueError(
            f"the query has shape {q.shape} and norm {np.linalg.norm(q):.6g}: a unit vector of "
            f"{spectrum.d} was wanted"
        )
    alpha = spectrum.vectors.T @ q
    r, upto = spectrum.r, spectrum.r + spectrum.next_r
    rho = float(np.linalg.norm(alpha[:r]))
    rho = rho if rho > uncertainty(spectrum) else 0.0
    first = float(abs(alpha[r])) if r < spectrum.d else 0.0
    return Query(
        alpha, rho, float(np.linalg.norm(alpha[r:])), first, float(np.linalg.norm(alpha[r:upto]))
    )


def uncertainty(spectrum: Split, m: int = 0) -> float:
    """How far rounding can turn the space of the first m eigenvectors, the leading one if m = 0.

    rounding lam_1/(lam_m - lam_{m+1}), and 0 for the whole space (Davis and Kahan 1970).
    """
    m, lam = m or spectrum.r, spectrum.lam
    return 0.0 if m == spectrum.d else float(spectrum.rounding * lam[0] / (lam[m - 1] - lam[m]))


def worst_query(spectrum: Split) -> Float[np.ndarray, " d"]:
    """(v_1 + v_{r+1})/sqrt(2): its tan theta falls by exactly gamma(c) at every loop."""
    q = spectrum.vectors[:, 0] + spectrum.vectors[:, spectrum.r]
    return q / np.linalg.norm(q)


def log_weights(spectrum: Split, c: float) -> Float[np.ndarray, " d"]:
    """log((1 + c lam_i)/(1 + c lam_1)), to a few roundings of the larger of it and 1; c = inf is
    the power method.

    Where the ratio is near 1 its distance from 1 is computed, not the difference of two near
    numbers.
    """
    lam = spectrum.lam
    if c < 0:
        raise ValueError(f"c={c}: the bounds need c >= 0")
    scale = 0.0 if np.isinf(c) else 1 / c if c else np.inf
    if np.isinf(scale):
        return np.zeros_like(lam)
    short = (lam[0] - lam) / (scale + lam[0])
    with np.errstate(divide="ignore"):
        return np.where(
            short < 0.5, np.log1p(-np.minimum(short, 0.5)), np.log((scale + lam) / (scale + lam[0]))
        )


def log_factor(spectrum: Split, c: float) -> float:
    """log gamma(c), gamma = (1 + c lam_{r+1})/(1 + c lam_1); c = inf gives log(lam_{r+1}/lam_1).

    Raises ValueError if all eigenvalues are equal.
    """
    if spectrum.r == spectrum.d:
        raise ValueError(
            f"all eigenvalues of S are {spectrum.lam[0]:.6g}: there is no gap, so no leading "
            "direction to find"
        )
    return float(log_weights(spectrum, c)[spectrum.r])


def factor(spectrum: Split, c: float) -> Number:
    """gamma(c) and a bound on what float64 does to it. Raises ValueError as `log_factor`.

    Both eigenvalues may be off by e lam_1, e = `Split.rounding` (Weyl): d log gamma = c
    dlam_{r+1}/(1 + c lam_{r+1}) - c dlam_1/ (1 + c lam_1) gives gamma (1/gamma + 1) e c lam_1/(1 +
    c lam_1). The first term stays where gamma is small.
    """
    log_gamma = log_factor(spectrum, c)
    gamma, top = float(np.exp(log_gamma)), spectrum.lam[0]
    share = 1.0 if np.isinf(c) else c * top / (1 + c * top)
    return Number(
        gamma, (1 + gamma) * spectrum.rounding * share + 4 * UNIT * gamma * (1 - log_gamma)
    )


def _log_norm(terms: Float[np.ndarray, "loops m"]) -> Float[np.ndarray, " loops"]:
    """log of the Euclidean norm of exp(terms), row by row."""
    return (
        np.logaddexp.reduce(2 * terms, axis=1) / 2
        if terms.shape[1]
        else np.full(terms.shape[0], -np.inf)
    )


def angles(spectrum: Split, at: Query, c: float, loops: np.ndarray) -> Angles:
    """theta_k at the given numbers of loops, exactly but for k times the rounding of log w_i.

    Not to be asked for a query with rho = 0, which never turns: tan is then infinite.
    """
    loops = np.asarray(loops, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = log_weights(spectrum, c)
        # 0 loops leave the query alone, whatever an infinite log w_i says.
        powers = np.where(loops[:, None] > 0, loops[:, None] * w, 0.0)
        terms = powers + np.log(abs(at.alpha))
    inside, outside = _log_norm(terms[:, : spectrum.r]), _log_norm(terms[:, spectrum.r :])
    whole = np.logaddexp(2 * inside, 2 * outside) / 2
    return Angles(outside - inside, outside - whole, inside - whole)


def bounds(spectrum: Split, at: Query, c: float, loops: np.ndarray) -> Bounds:
    """Both sides of Theorems 4.6 and 4.7 at these numbers of loops. Raises ValueError if rho = 0,
    or there is no gap.
    """
    if at.rho == 0:
        raise ValueError(
            "the query is orthogonal to the leading subspace (rho = 0): the loop can never find it"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        fall = np.where(
            np.asarray(loops) > 0,
            np.asarray(loops, dtype=np.float64) * log_factor(spectrum, c),
            0.0,
        )
        lower, sharper, upper = (np.log(x) for x in (at.first, at.plane, at.rest / at.rho))
    return Bounds(lower + fall, sharper + fall, upper + fall)


def rounding(spectrum: Split, at: Query, c: float, last: int) -> Rounding:
    """What float64 does to k = 1 ... last loops, and to the logarithms of `angles`.

    One loop errs by e (1 + c lam_1)|q| in some direction, e = `Split.rounding`; its part in V is (1
    + c lam_1)|q| cos theta_{k-1} long. So tan moves by e/cos theta_{k-1} relative to itself and by
    as much absolutely; an error outside V shrinks by gamma at every later loop, one inside V stays
    for ever. Where rho is small, the first loops err most. tan holds k errors of log gamma too:
    each is e/gamma, and e/(gamma sin theta) of every loop is in it.

    The formula and the bounds are those of a matrix within e lam_1 of S, with the eigenvectors
    computed, and the loop's output is measured against the same. So claims that compare these need
    tan alone: its e a loop holds the difference of the two matrices. But the eigenvectors are
    turned against those of S, by u = `uncertainty`: theta_k moves by u, so tan theta_k by
    u (tan theta_k + 1/tan theta_k) relative to itself. tan theta_0 >= tan theta_k covers rho and
    rest in the upper bound as well. In `plane` V mixes by u, and what lies below by its own
    uncertainty.
    """
    found = angles(spectrum, at, c, np.arange(last + 1))
    each = spectrum.rounding * np.exp(-found.cos[:-1])
    gamma = np.exp(log_factor(spectrum, c))
    outside, so_far = np.empty(last), 0.0
    for k in range(last):
        outside[k] = so_far = each[k] + gamma * so_far
    logs = log_weights(spectrum, c)
    formula = 4 * UNIT * np.arange(1, last + 1) * (1 + float(np.max(-logs[np.isfinite(logs)])))
    inside = formula + np.cumsum(each)
    with np.errstate(over="ignore", divide="ignore"):
        tan = inside + outside * np.exp(-found.tan[1:])
        turned = uncertainty(spectrum) * (np.exp(found.tan[0]) + np.exp(-found.tan[1:]))
        return Rounding(inside, tan, tan + turned, tan + np.divide(_mixed(spectrum, at), at.plane))


def _mixed(spectrum: Split, at: Query) -> float:
    """How far rounding can move `Query.plane`."""
    upto = spectrum.r + spectrum.next_r
    below = float(np.linalg.norm(at.alpha[upto:]))
    return uncertainty(spectrum) * at.rho + uncertainty(spectrum, upto) * below


@partial(jax.jit, static_argnames=("loops", "normalise"))
def outputs(
    weights: Weights, X: Float[Array, "d n"], q: Float[Array, " d"], loops: int, normalise: bool
) -> Float[Array, "loops d"]:
    """The output of the transformer itself after 1, 2, ..., `loops` loops: `model.looped` at every
    depth.
    """

    def once(Z: Float[Array, "D N"], _: None) -> tuple[Float[Array, "D N"], Float[Array, " d"]]:
        Z = model.layer(weights, Z, normalise)
        return Z, Z[X.shape[0] :, -1]

    return jax.lax.scan(once, model.tokens(X, q), length=loops)[1]


def measured(spectrum: Split, outputs: Float[np.ndarray, "loops d"]) -> Angles:
    """Logarithms of tan, sin and cos of the angle between each output and V. NaN where an output is
    not finite.
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        along = outputs / np.max(abs(outputs), axis=1, keepdims=True) @ spectrum.vectors
        inside, outside = (
            np.linalg.norm(x, axis=1) for x in (along[:, : spectrum.r], along[:, spectrum.r :])
        )
        whole = np.hypot(inside, outside)
        return Angles(np.log(outside / inside), np.log(outside / whole), np.log(inside / whole))


def direction(
    spectrum: Split, at: Query, c: float, loops: np.ndarray
) -> Float[np.ndarray, "loops d"]:
    """(I + cS)^k q over its norm, from the eigenbasis: what the loop must return with LN."""
    with np.errstate(invalid="ignore"):
        powers = np.where(loops[:, None] > 0, loops[:, None] * log_weights(spectrum, c), 0.0)
    vector = np.exp(powers) * at.alpha
    return vector / np.linalg.norm(vector, axis=1, keepdims=True) @ spectrum.vectors.T


def log_length(
    spectrum: Split, at: Query, c: float, loops: np.ndarray
) -> Float[np.ndarray, " loops"]:
    """log |(I + cS)^k q|, the length that the output has without LN. Where it passes 354 (1e154),
    its square overflows.
    """
    with np.errstate(divide="ignore"):
        terms = loops[:, None] * np.log1p(c * spectrum.lam) + np.log(abs(at.alpha))
    return _log_norm(terms)
