"""Batches of K spectra, and averages over them: each with a deterministic bound and a standard
error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from popgd.papers.power_method.quadrature import Bounded, Spectrum
from popgd.problem.number import Number
from popgd.problem.numeric import UNIT

CHUNK = 8  # evaluations in flight: keeps the nodes of one chunk in cache


def sample_condition(spectra: Spectrum) -> float:
    """The largest condition number in the batch, rounded up to a power of ten, so that few shapes
    are compiled.
    """
    lam = np.asarray(spectra.lam)
    return float(10.0 ** max(1.0, np.ceil(np.log10(lam[..., 0] / lam[..., -1]).max() - 1e-9)))


def batched(lam, mult) -> Spectrum:
    """A (K, m) batch from lam (m,) or (K, m) and mult (m,) or (K, m), every row descending and
    positive.

    Raises ValueError as `Spectrum` does. Outside jit only.
    """
    lam, mult = np.atleast_2d(np.asarray(lam, dtype=np.float64)), np.asarray(mult, dtype=np.float64)
    if lam.ndim != 2:
        raise ValueError(
            f"got lam of shape {lam.shape}, wanted (m,) or (K, m): one row of distinct "
            "eigenvalues each"
        )
    lam, mult = Spectrum(lam, mult)
    return Spectrum(jnp.asarray(lam), jnp.asarray(np.broadcast_to(mult, lam.shape)))


def traces(spectra: Spectrum) -> Float[Array, " K"] | None:
    """tr S = n of each row, an integer for n unit columns, where all sums of eigenvalues are one
    but for their own rounding; None elsewhere: then S has other columns, or its eigenvalues are not
    known to the last digit.
    """
    sums = (np.asarray(spectra.lam) * np.asarray(spectra.mult)).sum(axis=1)
    whole = np.round(sums)
    return jnp.asarray(whole) if (abs(sums - whole) <= 4.0 * UNIT * whole).all() else None


# Averages are NumPy's: a dozen small JAX programs for every new number of points would take seconds
# to compile.


def stderr(x: Float[np.ndarray, "*c K"]) -> Float[np.ndarray, "*c"]:
    """Standard error of the mean over the last axis; 0 for one row, which is then the law
    itself.
    """
    K = x.shape[-1]
    return np.std(x, axis=-1, ddof=1) / K**0.5 if K > 1 else np.zeros(x.shape[:-1])


def skewness(x: Float[np.ndarray, "*c K"]) -> Float[np.ndarray, "*c"]:
    """Of the mean over the last axis: that of one row over the root of their number; 0 where all
    are alike.
    """
    K = x.shape[-1]
    away = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((away**2).mean(-1))
    return np.divide(
        (away**3).mean(-1), spread**3 * K**0.5, out=np.zeros(x.shape[:-1]), where=spread > 0
    )


def average(x: Bounded) -> Number:
    """The mean of x over its last axis, the spectra."""
    value, bound = np.asarray(x.value), np.asarray(x.bound)
    return Number(value.mean(-1), bound.mean(-1), stderr(value), skewness(value))


def average_log(x: Bounded) -> Number:
    """log of the mean of |x|, from the logarithms; stderr by the delta method."""
    log, log_bound = np.asarray(x.log), np.asarray(x.log_bound)
    top = log.max(-1, keepdims=True)
    size = np.exp(log - top)
    mean = size.mean(-1)
    return Number(
        np.log(mean) + top[..., 0], (size * log_bound).mean(-1) / mean, stderr(size) / mean
    )


@dataclass(frozen=True)
class Together:
    """Several functions of a spectrum as one, for `over`; each valid where it is by itself."""

    functions: tuple[Callable[..., Bounded], ...]

    def __call__(self, spectrum: Spectrum, **options: Any) -> tuple[Bounded, ...]:
        return tuple(function(spectrum, **options) for function in self.functions)


# Unoptimised: it runs once for each constant of a curve, and takes half the time to compile.
@partial(jax.jit, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 0})
def over(function: Callable[..., Any], options: tuple, spectra: Spectrum, **rows: Any) -> Any:
    """function(spectrum, **options) for every row, a `Bounded` or several: fields (K,). `rows`:
    more of them, (K,) each.
    """
    one = lambda row: function(row[0], **row[1], **dict(options))
    return lax.map(one, (spectra, rows), batch_size=CHUNK)


@partial(jax.jit, static_argnums=(0, 1))
def over_c(
    function: Callable[..., Bounded], options: tuple, spectra: Spectrum, c: Float[Array, "*c"]
) -> Bounded:
    """function(spectrum, c, **options) for every c and row: fields (*c, K)."""
    K, m = spectra.lam.shape
    rows = Spectrum(*(jnp.broadcast_to(x, (c.size, K, m)).reshape(-1, m) for x in spectra))
    pairs = (rows, jnp.repeat(c.ravel(), K))
    result = lax.map(lambda pair: function(*pair, **dict(options)), pairs, batch_size=CHUNK)
    return Bounded(*(x.reshape(*c.shape, K) for x in result))


def exact(x: Any) -> Number:
    """Average over K of closed forms with positive terms only, good to 16 units."""
    x = np.asarray(x)
    return Number(x.mean(), 16.0 * UNIT * np.abs(x).mean(), stderr(x))
