"""Population gradient descent on the invariant manifold, as the exact recursion of (c, Delta) = (a
b, a^2
- b^2).

    g = l'(c)/d,   c+ = c - eta g sqrt(4 c^2 + Delta^2) + eta^2 g^2 c,   Delta+ = (1 - eta^2 g^2)
                   Delta

It follows from a+ = a - eta b g, b+ = b - eta a g and a^2 + b^2 = sqrt(4 c^2 + Delta^2).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from popgd.descent.recorded import Progress, columns, recorded

Slope = Callable[[Float[Array, "*batch"]], Float[Array, "*batch"]]

LARGEST_STEP = 9 * 10**18  # int64
EXTREME = (
    1e70  # the larger of |a0| and |b0| lies between 1/this and this, or float64 loses (a^2 + b^2)^2
)


class State(NamedTuple):
    """Where a descent is: everything needed to go on bit-identically.

    c + c_low and Delta + Delta_low are the values (compensated sums: eta^2 g^2 falls below half an
    ulp of 1 at about 10^7 steps, while what is still to come of Delta is 10^-9 of it); `sign` is
    that of a + b, or where a = -b of a; `finite` counts the steps whose c was finite.
    """

    step: Int[Array, ""]
    c: Float[Array, "*batch"]
    c_low: Float[Array, "*batch"]
    Delta: Float[Array, "*batch"]
    Delta_low: Float[Array, "*batch"]
    sign: Float[Array, "*batch"]
    finite: Int[Array, "*batch"]


class Records(NamedTuple):
    """The descent at the recorded steps.

    `dc` is c_{t+1} - c_t from the map. `bound` and `bound_Delta` are absolute bounds on the errors
    of c and Delta: NaN where nobody has stated one. `sign` tells (a, b) from (-a, -b), as in
    `State`. `stopped` is the first step whose c is not finite, -1 if all are. `state` is the last
    record's, to go on from.
    """

    step: Int[np.ndarray, " records"]
    c: Float[np.ndarray, "records *batch"]
    Delta: Float[np.ndarray, "records *batch"]
    dc: Float[np.ndarray, "records *batch"]
    bound: Float[np.ndarray, "records *batch"]
    bound_Delta: Float[np.ndarray, "records *batch"]
    sign: Float[np.ndarray, "records *batch"]
    stopped: Int[np.ndarray, "*batch"]
    state: Any

    @property
    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """(a, b) of `weights_of`."""
        return weights_of(self.c, self.Delta, self.sign)

    @property
    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """(a + b, a - b), without cancellation: their product is Delta."""
        a, b = self.weights
        with np.errstate(invalid="ignore", divide="ignore"):
            larger = np.where(self.c >= 0, a + b, a - b)
            smaller = np.divide(self.Delta, larger, out=np.zeros_like(larger), where=larger != 0)
        return np.where(self.c >= 0, larger, smaller), np.where(self.c >= 0, smaller, larger)

    @property
    def dc2(self) -> np.ndarray:
        """c_{t+1}^2 - c_t^2 = dc (2c + dc)."""
        return self.dc * (2 * self.c + self.dc)

    @property
    def dc3(self) -> np.ndarray:
        """c_{t+1}^3 - c_t^3 = dc (3c^2 + 3c dc + dc^2)."""
        return self.dc * (3 * self.c**2 + 3 * self.c * self.dc + self.dc**2)

    @property
    def imbalance(self) -> np.ndarray:
        """Delta^2/(8c^2), which the growth laws of the theorems need << 1.

        Until then sqrt(4c^2 + Delta^2) ~ |Delta| and c ~ t^{1/(p+1)} for l' ~ c^-p: t^{1/3} in 4.1,
        t^{1/4} in 4.3.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return (self.Delta / self.c) ** 2 / 8


def increments(h, c, Delta) -> tuple[Array, Array]:
    """(c+ - c, Delta+ - Delta) = (-h sqrt(4c^2 + Delta^2) + h^2 c, -h^2 Delta),  h = eta g = eta
    l'(c)/d.
    """
    return h * (h * c - jnp.sqrt(4 * c * c + Delta * Delta)), -h * h * Delta


def sign_of(a, b) -> np.ndarray:
    """`State.sign` of weights (a, b)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return np.asarray(np.sign(np.where(a == -b, a, a + b)))


def sign_after(sign, h, c, Delta) -> Array:
    """The sign after a step, h = eta l'(c)/d, which multiplies a + b by 1 - h and a - b by 1 +
    h.
    """
    opposite = (Delta == 0) & (c < 0)  # a = -b, and stays so
    return jnp.where(jnp.where(opposite, 1 + h, 1 - h) < 0, -sign, sign)


def weights_of(c: np.ndarray, Delta: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) with a b = c, a^2 - b^2 = Delta and the sign of `State`, without cancellation.

    larger^2 = (sqrt(4c^2 + Delta^2) + |Delta|)/2, smaller = c/larger; (a, b) and (-a, -b) have the
    same (c, Delta) for ever. a + b has the sign of the larger of the two, where it is not 0.
    """
    with np.errstate(
        invalid="ignore", over="ignore", divide="ignore"
    ):  # a diverged descent is not finite, and says so
        larger = sign * np.sqrt((np.hypot(2 * c, Delta) + np.abs(Delta)) / 2)
        smaller = np.divide(c, larger, out=np.zeros_like(larger), where=larger != 0)
        smaller = np.where(
            Delta == 0, np.sign(c) * larger, smaller
        )  # a = b or a = -b, to the last bit
    return np.where(Delta >= 0, larger, smaller), np.where(Delta >= 0, smaller, larger)


def log_grid(steps: int, per_decade: int) -> np.ndarray:
    """0, then the whole numbers nearest to 10^{j/per_decade}, increasing, up to and including
    `steps`.
    """
    if not (
        1 <= steps <= LARGEST_STEP
        and per_decade >= 1
        and steps == int(steps)
        and per_decade == int(per_decade)
    ):
        raise ValueError(
            f"log_grid({steps}, {per_decade}): wanted whole numbers, 1 <= steps <= 9e18 and "
            "per_decade >= 1"
        )
    steps, per_decade = int(steps), int(per_decade)
    exponents = (divmod(j, per_decade) for j in range(19 * per_decade))
    grid = {round(10**whole * 10 ** (part / per_decade)) for whole, part in exponents}
    return np.array(sorted({0, steps} | {step for step in grid if step <= steps}), dtype=np.int64)


def start_state(start: tuple, batch: tuple[int, ...] = ()) -> State:
    """State at step 0 from (a0, b0): c = a0 b0, Delta = (a0 - b0)(a0 + b0).

    Raises ValueError unless both are 0 or the larger is between 1e-70 and 1e70 in size.
    """
    if jnp.zeros(()).dtype != jnp.float64:
        raise ValueError(
            'float32 is on, float64 is needed: call jax.config.update("jax_enable_x64", True)'
        )
    a, b = (np.asarray(value, dtype=np.float64) for value in start)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"start (a0, b0) = ({a}, {b}) is not finite: give finite numbers")
    larger = np.maximum(np.abs(a), np.abs(b))
    if not ((larger == 0) | ((larger >= 1 / EXTREME) & (larger <= EXTREME))).all():
        raise ValueError(
            f"start (a0, b0) = ({a}, {b}): wanted the larger in size between 1e-70 and 1e70, or "
            "both 0"
        )
    shape = np.broadcast_shapes(a.shape, b.shape, batch)
    values = (a * b, (a - b) * (a + b), np.zeros(()), sign_of(a, b))
    c, Delta, zero, sign = (jnp.asarray(np.broadcast_to(value, shape)) for value in values)
    return State(jnp.zeros((), jnp.int64), c, zero, Delta, zero, sign, jnp.zeros(shape, jnp.int64))


def recurse(
    slope: Slope,
    start: tuple,
    eta,
    d: int,
    records: np.ndarray,
    *,
    state: State | None = None,
    callback: Progress | None = None,
) -> Records:
    """Iterate the exact recursion and record it at the given steps.

    `slope` is any jittable elementwise c -> l'(c): an Interpolant, or a function (a
    jax.tree_util.Partial of one with array arguments is compiled once for all their values). eta,
    a0, b0 may be arrays of one batch shape: one run each. `state` (of earlier Records) goes on from
    there and ignores `start`. The work is cut in pieces of under a second, after each of which
    callback(step, last step) is called; they do not change a bit of the result.

    Raises ValueError on records that do not increase, lie before the state or exceed 9e18, on eta
    <= 0, d < 1 and a start that `start_state` refuses. Not to be trusted beyond about 1e10 steps,
    for want of time: see `trajectory`. Source: arXiv 2606.00605, proofs of Theorems 4.1-4.3;
    derived in the head of this file.
    """
    eta, d = jnp.asarray(positive(eta)), dimension(d)
    begun = now = start_state(start, eta.shape) if state is None else state
    records = checked_records(records, first := int(begun.step))
    slope = as_pytree(slope)
    rows, advance = [], partial(_advance, slope, eta, d)
    for _, now in recorded(advance, begun, records, first=first, progress=callback):
        rows.append((now.c, now.Delta, next_move(slope, eta, d, now.c, now.Delta)[0], now.sign))
    c, Delta, dc, sign = columns(rows)
    unknown = np.full(c.shape, np.nan)
    finite = np.asarray(now.finite)
    stopped = np.where(finite == int(now.step), -1, finite + 1)
    return Records(records, c, Delta, dc, unknown, unknown, sign, stopped, now)


@jax.jit
def next_move(slope, eta, d, c, Delta) -> tuple[Array, Array]:
    """`increments` at (c, Delta)."""
    return increments(eta * slope(c) / d, c, Delta)


@jax.jit
def _advance(slope, eta, d, state: State, first, end) -> State:
    def step(_, now):
        h = eta * slope(now.c) / d
        dc, dDelta = increments(h, now.c, now.Delta)
        c, c_low = add(now.c, now.c_low, dc)
        Delta, Delta_low = add(now.Delta, now.Delta_low, dDelta)
        sign = sign_after(now.sign, h, now.c, now.Delta)
        return State(now.step + 1, c, c_low, Delta, Delta_low, sign, now.finite + jnp.isfinite(c))

    return jax.lax.fori_loop(first, end, step, state)


def add(high, low, increment):
    """Kahan: (high + low) + increment as a rounded sum and what rounding left over."""
    increment = increment + low
    total = high + increment
    return total, increment - (total - high)


def checked_records(records, first: int) -> np.ndarray:
    """The records as int64, if they increase from `first` on."""
    records = np.atleast_1d(np.asarray(records))
    if not (np.issubdtype(records.dtype, np.integer) and (np.diff(records) > 0).all()):
        raise ValueError(
            f"records of type {records.dtype}: wanted increasing whole numbers (log_grid)"
        )
    if not (first <= records[0] and records[-1] <= LARGEST_STEP):
        raise ValueError(
            f"records from {records[0]} to {records[-1]}: wanted them between {first} and 9e18"
        )
    return records.astype(np.int64)


def as_pytree(slope: Slope) -> Slope:
    """The slope as something that may be an argument of a jitted function."""
    return jax.tree_util.Partial(slope) if jax.tree_util.all_leaves([slope]) else slope


def dimension(d) -> int:
    if not (np.ndim(d) == 0 and np.isfinite(d) and d >= 1 and d == int(d)):
        raise ValueError(f"dimension d = {d}: wanted a whole number of at least 1")
    return int(d)


def positive(eta) -> np.ndarray:
    eta = np.asarray(eta, dtype=np.float64)
    if not (np.isfinite(eta).all() and (eta > 0).all()):
        raise ValueError(f"step size eta = {eta}: wanted positive finite numbers")
    return eta
