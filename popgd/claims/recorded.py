"""A path that another program recorded, read by claims as popgd's own paths are.

A record is an .npz file, or a mapping, of `step`, the increasing numbers of steps (times, of a
flow) at which it was made, shape (records,), and of every leaf of the weights by its name, shape
(records, ...), of floats. A read-out gets the weights of one record as a dict of the leaves in
float64.

    np.savez("seed0.npz", step=steps, W1=np.stack(W1s), W2=np.stack(W2s))
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from popgd.claims.measured import Measured, Reading, ReadOut, read_out
from popgd.problem.errors import SettingError
from popgd.problem.number import Number

#: A record this near to a point of an even grid in log t, relatively, counts as on it.
ON_GRID = 5e-3
#: Points of that grid in a decade: as many as popgd's own paths have.
PER_DECADE = 8
#: Random directions in which weights are moved by their rounding, and the multiple of the largest
#: change that counts: as of the twins of `descent.exact`.
NUDGES, SPREAD = 8, 3.0
#: What a claim may ask of a study, that no record tells.
UNTOLD = {"setting": "settings: give the claim numbers, not functions of what was measured"}
OTHER = "loss, no law, no single step and no other start: judge a Problem"


class Unrecorded(SettingError):
    """What a claim asks for is in no record."""


class Recorded(Measured):
    """What a record tells: read-outs at its steps, and nothing else. Build it with `recorded`.

    Of one run the error of a read-out is what rounding may have done to weights that are sums of
    t steps: t roundings of a leaf's largest entry so far, if descent does not amplify them. Of
    several runs, one a seed, the mean is read, with its standard error.
    """

    def __init__(
        self, t: Float[np.ndarray, " records"], runs: Sequence[dict[str, np.ndarray]], exact: bool
    ) -> None:
        self.__dict__.update(t=t, weights=runs, exact=exact, checks={})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Unrecorded(f"a record tells no {UNTOLD.get(name, OTHER)}")

    @property
    def start(self) -> dict[str, Any]:
        """The weights of the first record, of the first run."""
        return {name: leaf[0] for name, leaf in self.weights[0].items()}

    @property
    def unfinished(self) -> str:
        """Why nothing can be concluded, or empty."""
        if len(self.weights) > 1 or self.exact:
            return ""
        return (
            "the noise of one run is unknown: record several seeds, or say exact=True if every "
            "step had the population gradient"
        )

    @property
    def without_exact(self) -> str:
        """Why nothing can be said of the loss, of single steps and of other starts."""
        return f"a record tells no {OTHER}"

    @property
    def unknown(self) -> tuple[str, ...]:
        """What no claim about this record can know, one line each."""
        first, last = self.t[0], self.t[-1]
        lines = [
            "whether the weights are those of the descent that is meant: no gradient is recorded",
            f"what happened between the records, and after {last:g}",
        ]
        if first > 0:
            lines.append(f"what happened before {first:g}, which counts as the start")
        if len(self.weights) > 1:
            lines.append("the bias that noise causes, of order eta/batch: the mean run is judged")
        elif self.exact:
            lines.append("whether descent amplified its rounding: t roundings are allowed for")
        return (*lines, *filter(None, [self.unfinished]))

    def read(self, of: ReadOut) -> Reading:
        """A read-out of the weights at the recorded steps."""
        reads = read_out(self.start, of)
        wide = [jax.tree.map(lambda leaf: leaf.astype(float), run) for run in self.weights]
        values = np.stack([_at_each(reads, run) for run in wide])
        if len(values) == 1:
            found = Number(values[0], self._rounding(reads, wide[0], values[0]))
            return Reading(self.t, found, even=_even(self.t))
        spread = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        found = Number(values.mean(axis=0), stderr=spread, degrees=len(values) - 1.0)
        return Reading(self.t, found, even=_even(self.t))

    def _rounding(self, reads: Any, run: dict[str, np.ndarray], value: np.ndarray) -> np.ndarray:
        """What random roundings of the weights do to a read-out."""
        draw, moved = np.random.default_rng(0), np.zeros_like(value)
        size = {name: _roundings(self.t, leaf) for name, leaf in self.weights[0].items()}
        for _ in range(NUDGES):
            signs = {name: draw.choice([-1.0, 1.0], size=leaf.shape) for name, leaf in run.items()}
            nudged = {name: run[name] + size[name] * signs[name] for name in run}
            moved = np.maximum(moved, abs(_at_each(reads, nudged) - value))
        return SPREAD * moved + np.finfo(float).eps * abs(value)


def _at_each(reads: Any, run: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(_mapped(reads, run))


@partial(jax.jit, static_argnames="reads")
def _mapped(reads: Any, run: Any) -> Any:
    return jax.lax.map(lambda w: jnp.asarray(reads(w), dtype=float), run)


def _roundings(t: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    """max(t, 1) roundings of the leaf's largest entry so far, at each record."""
    axes = (slice(None), *[None] * (leaf.ndim - 1))
    largest = np.maximum.accumulate(abs(leaf).reshape(len(t), -1).max(axis=1))
    return (np.maximum(t, 1) * np.finfo(leaf.dtype).eps / 2 * largest.astype(float))[axes]


def _even(t: np.ndarray) -> np.ndarray:
    """The first record, and those that are on an even grid in log t."""
    late = t[t > 0]
    if not late.size:
        return np.array([0])
    ends = np.log10(late[[0, -1]]) * PER_DECADE
    grid = 10 ** (np.arange(np.ceil(ends[0]), np.floor(ends[1]) + 1) / PER_DECADE)
    nearest = np.argmin(abs(np.log(late)[:, None] - np.log(grid)), axis=0) + len(t) - len(late)
    allowed = ON_GRID * grid + (0.5 if np.all(t == np.round(t)) else 0.0)
    return np.unique([0, *nearest[abs(t[nearest] - grid) <= allowed]])


def recorded(path: Any, exact: bool = False) -> Recorded:
    """The record at `path`, or those of several seeds.

    exact says that every step of the one run had the population gradient, so that rounding is its
    only noise. Raises SettingError, in one line, for a file that is none, no `step`, steps that do
    not increase, leaves of another length than `step`, of no floats, or that are not finite; for
    seeds of other steps or leaves, or with the same numbers.
    """
    if isinstance(path, Sequence) and not isinstance(path, str):
        runs = [_checked(one, f"seed {i}: ") for i, one in enumerate(path)]
    else:
        runs = [_checked(path, "")]
    if not runs:
        raise SettingError("no record: give a file, or one for each seed")
    if exact and len(runs) > 1:
        raise SettingError(
            f"exact=True of {len(runs)} seeds: a path without noise has one; leave out either"
        )
    t, first = runs[0]
    form = lambda run: {name: leaf.shape[1:] for name, leaf in run.items()}
    for i, (other, run) in enumerate(runs[1:], 1):
        if not np.array_equal(t, other):
            raise SettingError(f"seed {i} is recorded at other steps than seed 0: wanted the same")
        if form(run) != form(first):
            raise SettingError(f"seed {i} has leaves {form(run)}, seed 0 {form(first)}")
        for j, (_, before) in enumerate(runs[:i]):
            if all(np.array_equal(run[name], before[name]) for name in run):
                raise SettingError(
                    f"seeds {j} and {i} are the same numbers: give runs with samples of their own"
                )
    return Recorded(t, [run for _, run in runs], exact)


def _checked(path: Any, seed: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Steps and leaves of one record."""
    arrays, name = _arrays(path)
    where = seed + name
    if "step" not in arrays:
        have = ", ".join(arrays) or "nothing"
        raise SettingError(
            f"{where} has no array `step` (it has {have}): save the steps of the records by it"
        )
    step = arrays.pop("step")
    if step.ndim != 1 or len(step) < 2 or step.dtype.kind not in "iuf":
        raise SettingError(
            f"{where}: step is {step.dtype} of shape {step.shape}: wanted a row of two numbers or "
            "more"
        )
    t = step.astype(float)
    bad = np.flatnonzero(~np.isfinite(t[1:]) | ~(np.diff(t) > 0))
    if bad.size or not t[0] >= 0:
        i = int(bad[0]) if bad.size else -1
        raise SettingError(
            f"{where}: step is {t[i + 1]:g} at record {i + 1}"
            + (f" after {t[i]:g}" if i >= 0 else "")
            + ": wanted increasing numbers from 0 on"
        )
    if not arrays:
        raise SettingError(f"{where} has steps and no weights: save each leaf by its name")
    for leaf, x in arrays.items():
        if x.dtype.kind != "f":
            raise SettingError(f"{where}: {leaf} is {x.dtype}: wanted floats, one leaf a name")
        if x.shape[:1] != t.shape:
            count = x.shape[0] if x.ndim else "no"
            raise SettingError(f"{where}: {leaf} has {count} records and step {len(t)}")
        bad = np.flatnonzero(~np.isfinite(x.reshape(len(t), -1)).all(axis=1))
        if bad.size:
            raise SettingError(
                f"{where}: {leaf} is not finite at step {t[bad[0]]:g}: end the record before"
            )
    return t, arrays


def _arrays(path: Any) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a file or a mapping, and what to call it."""
    if isinstance(path, Mapping):
        return {str(name): np.asarray(x) for name, x in path.items()}, "the record"
    if not isinstance(path, str | os.PathLike):
        raise SettingError(
            f"a record is a file or a mapping of arrays: {type(path).__name__} was given"
        )
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}, str(path)
    except (OSError, ValueError, BadZipFile, AttributeError, TypeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingError(
            f"{path} is no .npz file of arrays ({why}): save it by np.savez"
        ) from None
