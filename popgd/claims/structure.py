"""Claims about the structure that descent keeps: stays_zero, multiple_of_identity."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from popgd.claims.evidence import Evidence, estimated
from popgd.claims.examined import OFF, scale_of
from popgd.claims.limits import Claim, _source, flat
from popgd.claims.measured import Measured, ReadOut, called, read_out
from popgd.problem.errors import SettingError
from popgd.symmetry.silent import REASONS

#: What rounding leaves of a zero, as a share of the slope or of the largest weight.
ROUNDED = 1e-12
NEEDED = ("along", "stderr", "off", "off_stderr")
#: What `symmetry.why_zero` finds, in words; of a plane that was given there is another reason.
WORDS = {
    "silent": "silent: it never reaches the output",
    "symmetry": "0 by symmetry",
    "structural": "structural: 0 sample by sample where it starts at 0",
    "expectation": "in expectation only: sampling error of the gradient",
    "moves": "0 on the path alone: beside it, it has a gradient",
}
GIVEN = "0 on the plane that was given"
UNRECORDED = "of the recorded weights; no gradient is recorded"


def stays_zero(of: ReadOut, name: str = "", source: str = "") -> Claim:
    """An array of the weights starts at 0 and stays there: its population gradient is 0 at points
    of the path, and it is 0 at all of its records. The reason is the one that `symmetry.why_zero`
    gives for its entries (silent, symmetry, structural, in expectation), if it is linear in the
    weights and these have no constraint; else whether it is 0 sample by sample.
    """

    def claim(measured: Measured) -> Iterator[Evidence]:
        reads = read_out(measured.start, of)
        rest = lambda w: jnp.ravel(reads(w))
        yield _judged(measured, of, rest, "zero", "stays 0", name, source, _why(measured, rest))

    claim.sampled = (f"zero-{name or called(of)}",)
    return claim


def _why(measured: Measured, rest: Any) -> str:
    """Why the entries that a linear read-out depends on stay zero, the strongest reason first;
    empty where that cannot be said.
    """
    if not measured.checks or measured.problem.tangent is not None:
        return ""
    x, tree = ravel_pytree(measured.start)
    jac = jax.jit(jax.jacrev(lambda x: rest(tree(x))))
    here, there = (np.asarray(jac(at)) for at in (x, x + 1.0))
    if not np.array_equal(here, there):
        return ""
    try:
        zeros = measured.zeros
    except SettingError:  # a loss without a gradient at random weights
        return ""
    found = np.array(zeros.why)[np.any(here != 0, axis=0)]
    counts = {reason: int(np.sum(found == reason)) for reason in REASONS}
    words = {**WORDS, **({"symmetry": GIVEN} if measured.problem.plane is not None else {})}
    several = sum(count > 0 for count in counts.values()) > 1
    shown = lambda reason: words[reason] + (f" ({counts[reason]} entries)" if several else "")
    return "; ".join(shown(reason) for reason in REASONS if counts[reason])


def multiple_of_identity(of: ReadOut, name: str = "", source: str = "") -> Claim:
    """A square array of the weights is a multiple of I and stays one: so is its population gradient
    at points of the path, and it at all records.
    """

    def claim(measured: Measured) -> Iterator[Evidence]:
        reads = read_out(measured.start, of)

        def rest(weights: Any) -> Any:
            M = reads(weights)
            return (M - jnp.eye(len(M)) * jnp.trace(M) / len(M)).ravel()

        yield _judged(measured, of, rest, "identity", "is a multiple of I", name, source)

    claim.sampled = (f"identity-{name or called(of)}",)
    return claim


def _judged(
    measured: Measured,
    of: ReadOut,
    rest: Any,
    kind: str,
    words: str,
    name: str,
    source: str,
    why: str = "",
) -> Evidence:
    """Zero is what `rest` makes of the path, and its derivative of the gradients."""
    word = name or called(of)
    gap, noise, reason = _of_gradients(measured, rest)
    reading = measured.read(rest)
    largest = np.max(abs(measured.read(flat).value)) or 1.0
    along = np.max(abs(reading.value), axis=0) / largest
    spread = np.max(reading.error, axis=0) / largest
    return estimated(
        f"{kind}-{word}",
        f"{word} {words}: largest entry beside it, of gradient and path",
        measured=np.concatenate([gap.ravel(), along]),
        error=np.concatenate([noise.ravel(), spread * reading.statistical]),
        allowance=ROUNDED,
        resolution=OFF,
        reason=why or reason,
        degrees=reading.number.degrees,
        excuse=measured.unfinished,
        **_source(source),
    )


def _of_gradients(measured: Measured, rest: Any) -> tuple[np.ndarray, np.ndarray, str]:
    """What `rest` makes of the gradients at points of the path, as shares of the slope, with
    standard errors and what these rest on.
    """
    checks, plane = measured.checks, measured.plane if measured.checks else None
    if plane is None:
        return np.zeros(0), np.zeros(0), UNRECORDED
    tree = ravel_pytree(measured.start)[1]
    slope = jax.jit(jax.jacfwd(lambda x: rest(tree(x))))
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
    mean, error, scale = np.stack(mean), np.stack(error), scale_of(measured)
    exactly = not np.any(abs(mean) + error)
    reason = "0 by symmetry" if symmetric else "0 sample by sample"
    return mean / scale, error / scale, reason if exactly else "sampling error of the gradient"
