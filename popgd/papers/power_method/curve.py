"""The population loss on the manifold as a function of c = ab, exact for a spectrum or a batch of
sampled spectra.

Three kinds, one interface: `loss(c)`, `slope(c)`, `log_slope(c)` over a vector of c, and the
constants `limit()`, `constant()`, `correction()`, `c_star()`, `mean_square()`. With K sampled
spectra every number is the average over them of the exact inner expectation: `bound` is the
quadrature bound, `stderr` the sampling error (0 for one fixed spectrum).

With uniform columns (Task 1) the outer variance of 4.3's C1 is infinite for d = 2 and n = 4 or 5,
and its stderr then means nothing: `heavy_tailed`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from popgd.descent.interpolant import Unresolved
from popgd.papers.power_method import quadrature as q
from popgd.papers.power_method.quadrature import Bounded, Spectrum
from popgd.papers.power_method.spectra import (
    Together,
    average,
    average_log,
    batched,
    exact,
    over,
    over_c,
    sample_condition,
    skewness,
    stderr,
    traces,
)
from popgd.problem.number import Number
from popgd.problem.numeric import UNIT

BLOCK = 8  # points in one call
MOST_LOOPS = 10**5  # nodes, and memory, grow with L log(condition)
LARGEST_C = 1e90  # beyond, the slopes of 4.3 are no normal numbers


class _Curve:
    """What 4.1 and 4.3 share: a slope that is negative everywhere and an expansion at c =
    infinity.
    """

    spectra: Spectrum
    functions: ClassVar[dict[str, Callable[..., Bounded]]]
    constants: ClassVar[dict[str, Callable[..., Bounded]]]

    def _options(self) -> tuple:
        raise NotImplementedError

    def _at(self, name: str, c) -> Bounded:
        """In blocks of one size, so that one program serves every number of points (compiling takes
        seconds).
        """
        c = _in_range(c)
        # A point of many spectra fills a block by itself, and a loss of 4.3 is a hundred slopes: no
        # padding there
        alone = name == "loss" or len(self.spectra.lam) >= BLOCK
        block = 1 if alone else BLOCK
        flat = c.ravel() if c.size else np.zeros(1)  # no points: the shapes of one, and none kept
        rows = np.pad(flat, (0, -flat.size % block), mode="edge").reshape(-1, block)
        parts = [over_c(self.functions[name], self._options(), self.spectra, row) for row in rows]
        joined = (
            np.concatenate([np.asarray(part[i]) for part in parts])[: c.size]
            for i in range(len(Bounded._fields))
        )
        return Bounded(*(x.reshape(*c.shape, x.shape[-1]) for x in joined))  # pyright: ignore[reportArgumentType]

    @cached_property
    def _numbers(self) -> dict[str, Number]:
        """All constants, by one program: compiling one for each takes longer than they do."""
        found = over(Together(tuple(self.constants.values())), self._options(), self.spectra)
        return {name: average(x) for name, x in zip(self.constants, found, strict=True)}

    def loss(self, c: Any) -> Number:
        """l(c), 0 <= c <= 1e90; ValueError beyond, NaN for a c that is not finite. So for `slope`
        and `log_slope`.
        """
        return average(self._at("loss", c))

    def slope(self, c: Any) -> Number:
        """l'(c) < 0 by its closed form."""
        return average(self._at("slope", c))

    def log_slope(self, c: Any) -> Number:
        """log(-l'(c)), for 4.1 also where l' is below the smallest normal float64."""
        return average_log(self._at("slope", c))

    def constant(self) -> Number:
        """kappa = lim -c^2 l'(c) for 4.1, C1 = lim -c^3 l'(c) for 4.3."""
        return self._numbers["constant"]

    def correction(self) -> Number:
        """K2 in -c^2 l' = kappa - K2/c + ... for 4.1, D in -c^3 l' = C1 - D/c + ... for 4.3."""
        return self._numbers["correction"]

    def mean_square(self) -> Number:
        """A = E||Sq||^2."""
        return exact(jax.vmap(q.moments)(self.spectra).A)


def _in_range(c: Any) -> np.ndarray:
    """c as float64; ValueError for c < 0 and c > 1e90, where l' of 4.3 underflows. NaN and inf, of
    a descent that broke off, pass: their numbers are NaN.
    """
    c = np.asarray(c, dtype=float)
    if (c < 0).any() or ((c > LARGEST_C) & (c < np.inf)).any():
        raise Unresolved(
            f"got c from {np.nanmin(c):.3g} to {np.nanmax(c):.3g}, wanted 0 <= c <= "
            f"{LARGEST_C:.0e}, as c = ab is"
        )
    return np.where(c < np.inf, c, np.nan)


@dataclass(frozen=True)
class Looped(_Curve):
    """Theorem 4.1: the L-layer looped model with layer normalisation, loss dist^2 to the leading
    subspace.
    """

    spectra: Spectrum
    L: int
    cond: float
    functions: ClassVar = {"loss": q.looped_loss, "slope": q.looped_slope}
    constants: ClassVar = {
        "limit": q.looped_limit,
        "constant": q.looped_kappa,
        "correction": q.looped_correction,
    }

    @classmethod
    def of(cls, spectra: Spectrum, L: int) -> "Looped":
        """Raises ValueError for L that is no integer >= 1, for a single distinct eigenvalue and for
        rows out of order.
        """
        if L < 1 or int(L) != L:
            raise ValueError(f"got L = {L}, wanted at least 1 loop: give the number of layers")
        if L > MOST_LOOPS:
            raise Unresolved(f"L = {L}: integrals are laid out for at most {MOST_LOOPS} loops")
        spectra = _with_gap(batched(*spectra))
        return cls(spectra, L, sample_condition(spectra))

    def _options(self) -> tuple:
        return (("L", self.L), ("cond", self.cond))

    def limit(self) -> Number:
        """l_inf, the loss of the L-step power method."""
        return self._numbers["limit"]


@dataclass(frozen=True)
class Layer(_Curve):
    """Theorem 4.3: one layer with layer normalisation, target Sq/||Sq||."""

    spectra: Spectrum
    cond: float
    functions: ClassVar = {"loss": q.layer_loss, "slope": q.layer_slope}
    constants: ClassVar = {
        "constant": q.layer_C1,
        "correction": q.layer_correction,
        "inverse_square": q.mean_inverse_square_norm,
    }

    @classmethod
    def of(cls, spectra: Spectrum) -> "Layer":
        """Raises ValueError for a single distinct eigenvalue (the loss is 0) and for rows out of
        order.
        """
        spectra = _with_gap(batched(*spectra))
        return cls(spectra, sample_condition(spectra))

    def _options(self) -> tuple:
        return (("cond", self.cond),)

    def mean_inverse_square(self) -> Number:
        """E[1/||Sq||^2]: l(c) <= 2 E[1/||Sq||^2]/c^2."""
        return self._numbers["inverse_square"]

    def limit(self) -> Number:
        """0: the layer learns the power step itself."""
        return Number(np.zeros(()), np.zeros(()), np.zeros(()))


def _with_gap(spectra: Spectrum) -> Spectrum:
    if spectra.lam.shape[-1] < 2:
        raise ValueError(
            "got one distinct eigenvalue, wanted r < d: every direction is leading, nothing to "
            "learn"
        )
    return spectra


class _Parts(NamedTuple):
    """Per spectrum: A, the numerator N of c* = N/A, and its bound."""

    A: Any
    N: Any
    N_bound: Any


@dataclass(frozen=True)
class Linear:
    """Theorem 4.2: one layer without normalisation, l(c) = L* + A (c - c*)^2, target Sq/||Sq|| or
    Sq.

    Valid for every real c (l overflows to infinity with its bound); a single distinct eigenvalue is
    no special case. S is the one of unit columns, tr S = n: a sum of eigenvalues that is an integer
    to its rounding is taken as that integer.
    """

    spectra: Spectrum
    target: str
    cond: float

    @classmethod
    def of(cls, spectra: Spectrum, target: str) -> "Linear":
        """Raises ValueError for a target other than "normalised" and "unnormalised" and for rows
        out of order.
        """
        q.check_target(target)
        spectra = batched(*spectra)
        return cls(spectra, target, sample_condition(spectra))

    @cached_property
    def _parts(self) -> _Parts:
        trace = traces(self.spectra)
        star = jax.device_get(
            over(
                q.c_star, self._options, self.spectra, **({} if trace is None else {"trace": trace})
            )
        )
        A = np.asarray(jax.vmap(q.moments)(self.spectra).A)
        return _Parts(A, A * star.value, A * (star.bound + 8 * UNIT * abs(star.value)))

    @cached_property
    def _least(self) -> Bounded:
        """Per spectrum: the loss at its own c*, a hundred times the work of c* itself."""
        return jax.device_get(over(q.loss_min, self._options, self.spectra))

    @property
    def _options(self) -> tuple:
        return (("target", self.target), ("cond", self.cond))

    def of_each(self) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
        """A and N of each spectrum: l'(c) = 2 (A c - N)."""
        return self._parts[:2]

    def mean_square(self) -> Number:
        """A = E||Sq||^2; l''(c) = 2A."""
        return exact(jax.vmap(q.moments)(self.spectra).A)

    def c_star(self) -> Number:
        """The ratio of averages N/A; stderr from the residuals N_k - c* A_k (delta method)."""
        A, N, N_bound = self._parts
        value = N.mean() / A.mean()
        return Number(
            value,
            N_bound.mean() / A.mean() + 16 * UNIT * abs(value),
            stderr(N - value * A) / A.mean(),
        )

    def limit(self) -> Number:
        """L* = l(c*): the averaged loss at the c* of the whole law, not the average of the
        spectra's own minima.
        """
        return self.loss(self.c_star().value)

    def loss(self, c: Any) -> Number:
        """l(c), the average of L*_k + A_k (c - c*_k)^2: no cancellation at c*."""
        (A, N, N_bound), least = self._parts, self._least
        away = np.asarray(c, dtype=float)[..., None] - N / A
        value = least.value + A * away**2
        slip = N_bound + 4 * UNIT * A * np.abs(away)
        bound = least.bound + 2 * np.abs(away) * slip + slip**2 / A + 8 * UNIT * value
        return Number(value.mean(-1), bound.mean(-1), stderr(value))

    def slope(self, c: Any) -> Number:
        """l'(c) = 2A (c - c*)."""
        A, N, N_bound = self._parts
        c = np.asarray(c, dtype=float)[..., None]
        bound = 2 * N_bound + 8 * UNIT * (np.abs(c) * A + np.abs(N))
        slopes = 2 * (c * A - N)
        return Number(slopes.mean(-1), bound.mean(-1), stderr(slopes), skewness(slopes))


def uniform_c_star(d: int, n: int) -> float:
    """c*_unnorm = (n-1)/(d+n-1) for n columns uniform on the sphere of R^d. ValueError unless d, n
    >= 1.

    Source: arXiv 2606.00605, Task 1 with Theorem 4.2.
    """
    if min(d, n) < 1:
        raise ValueError(f"got d = {d}, n = {n}, wanted both at least 1")
    return (n - 1) / (d + n - 1)


def heavy_tailed(d: int, n: int) -> bool:
    """Whether the variance of C1 over uniform columns is infinite: d = 2 and n = 4 or 5.

    For d = 2, C1 = (lam_1 - lam_2)^2/(lam_1 lam_2 (lam_1 + lam_2)^2) and lam_2 has density
    lam^{(n-3)/2} near 0, so E[1/lam_2^2] is infinite for n <= 5 (for n <= 3 already the mean). D is
    worse by one more power. Source: derived.
    """
    return d == 2 and n <= 5
