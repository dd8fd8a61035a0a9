"""Claims about the structure that descent keeps: stays_zero, multiple_of_identity."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from popgd.claims.evidence import Evidence
from popgd.claims.examined import OFF, scale_of
from popgd.claims.limits import Claim, _source
from popgd.claims.measured import Measured, ReadOut, called, read_out

#: What rounding leaves of a zero, as a share of the slope or of the largest weight.
ROUNDED = 1e-12
NEEDED = ("along", "stderr", "off", "off_stderr")


def stays_zero(of: ReadOut, name: str = "", source: str = "") -> Claim:
    """An array of the weights starts at 0 and stays there: its population gradient is 0 at points
    of the path, and it is 0 at all of its records. The reason says whether it is 0 sample by
    sample.
    """

    def claim(measured: Measured) -> Iterator[Evidence]:
        reads = read_out(measured.problem, of)
        yield _judged(measured, of, lambda w: jnp.ravel(reads(w)), "zero", "stays 0", name, source)

    claim.sampled = (f"zero-{name or called(of)}",)
    return claim


def multiple_of_identity(of: ReadOut, name: str = "", source: str = "") -> Claim:
    """A square array of the weights is a multiple of I and stays one: so is its population gradient
    at points of the path, and it at all records.
    """

    def claim(measured: Measured) -> Iterator[Evidence]:
        reads = read_out(measured.problem, of)

        def rest(weights: Any) -> Any:
            M = reads(weights)
            return (M - jnp.eye(len(M)) * jnp.trace(M) / len(M)).ravel()

        yield _judged(measured, of, rest, "identity", "is a multiple of I", name, source)

    claim.sampled = (f"identity-{name or called(of)}",)
    return claim


def _judged(
    measured: Measured, of: ReadOut, rest: Any, kind: str, words: str, name: str, source: str
) -> Evidence:
    """Zero is what `rest` makes of the path, and its derivative of the gradients."""
    checks, plane, word = measured.checks, measured.plane, name or called(of)
    tree = ravel_pytree(measured.problem.start)[1]
    slope = jax.jit(jax.jacfwd(lambda flat: rest(tree(flat))))
    # What is off the plane of declared symmetries, each tested sample by sample, is 0 by them; what
    # samples show of it is plane-holds.
    symmetric = bool(measured.problem.symmetries) and measured.problem.plane is None
    mean, error = [], []
    for x, *parts in zip(*(checks[n] for n in ("x", *NEEDED)), strict=True):
        along, stderr, off, off_stderr = parts
        matrix = np.asarray(slope(ravel_pytree(plane.embed(jnp.asarray(x)))[0]))
        lift = matrix @ plane.directions.T
        if symmetric:
            off, off_stderr = 0 * off, 0 * off_stderr
        mean.append(lift @ along + matrix @ off)
        # Both parts of one sample's gradient: their standard errors added up bound that of the sum.
        error.append(abs(lift) @ stderr + abs(matrix) @ off_stderr)
    mean, error = np.stack(mean), np.stack(error)
    scale = scale_of(measured)
    reading = measured.read(rest)
    largest = np.max(abs(measured.read(lambda w: ravel_pytree(w)[0]).value)) or 1.0
    along = np.max(abs(reading.value), axis=0) / largest
    noise = np.max(reading.error, axis=0) / largest if reading.statistical else np.zeros_like(along)
    reason = "0 by symmetry" if symmetric else "0 sample by sample"
    exactly = not np.any(abs(mean) + error)
    return Evidence(
        f"{kind}-{word}",
        f"{word} {words}: largest entry beside it, of gradient and path",
        predicted=0.0,
        measured=np.concatenate([(mean / scale).ravel(), along]),
        error=np.concatenate([(error / scale).ravel(), noise]),
        allowance=ROUNDED,
        resolution=OFF,
        reason=reason if exactly else "sampling error of the gradient",
        excuse=measured.unfinished,
        **_source(source),
    )
