"""The exact recursion at t = 10^12 ... 9 10^18, as a flow, and a bound on the error of a whole run.

The map M of the recursion is the flow over unit time of dz/dt = F(z). With E = "compose with M" we
have exp(d/dt) = E, so F = log(E) z = log(1 + (E - 1)) z, Newton's series in the forward differences
of the orbit:

    F(z) = sum_{n=1}^{N} (-1)^{n+1}/n delta^n z + O(delta^{N+1} z),   delta = E - 1,  delta z = M(z)
    - z

Expanded in f = delta z it is f - f'f/2 + f''(f,f)/12 + f'f'f/3 - ..., the modified equation of the
explicit Euler method; in differences every further order costs one more step of the map and no
derivative.
"""

from functools import partial
from math import comb
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from popgd.descent.interpolant import Interpolant
from popgd.descent.recorded import Progress, columns, recorded
from popgd.descent.recursion import (
    Records,
    State,
    add,
    as_pytree,
    checked_records,
    dimension,
    increments,
    log_grid,
    next_move,
    positive,
    sign_after,
    start_state,
)
from popgd.problem.numeric import UNIT

ORDER = 7  # terms N of Newton's series
STAGES = 5  # of the Gauss method, of order 2 STAGES
SWEEPS = 16  # fixed-point sweeps for its implicit stages
STEP = 0.25  # in log t, the first try
HALVINGS = 6  # of STEP at most
SHORTEST = 2048  # array of steps, so that few lengths are ever compiled
AGREED = 2e-14  # difference in log c between STEP and STEP/2 at which halving ends
BRUTE = 10**5  # steps taken one by one, unless more are needed
MOST = 10**8  # steps taken one by one at most
CLOSE = 1e-13  # relative defect of F below which the leap may start
SLACK = 2.0  # times the first omitted term: the rest of the series
STEP_ROUNDING = 8 * UNIT  # of one increment, beyond what the slope's own error holds
FLOW_ROUNDING = (
    64 * UNIT
)  # of log c <= 50 over the few steps of STEP that the contracting flow remembers


class Enclosed(NamedTuple):
    """A state of the descent with bounds on the absolute errors of c and Delta."""

    state: State
    error: Float[Array, ""]
    error_Delta: Float[Array, ""]

    @property
    def step(self):
        return self.state.step


def trajectory(
    slope: Interpolant,
    start: tuple[float, float],
    eta: float,
    d: int,
    steps: int,
    per_decade: int,
    *,
    brute: int = BRUTE,
    callback: Progress | None = None,
) -> Records:
    """The descent on a logarithmic grid up to `steps` <= 9e18: step by step first, then by `leap`.

    Step by step, the bounds follow |error+| <= |J| |error| + injected, J the Jacobian of the map
    and `injected` the slope's error and the rounding in one increment; after that, see `leap`.
    First order in the errors.

    Raises ValueError on a start with c0 < 0 or a0 = b0 = 0 or that `start_state` refuses, eta <= 0,
    d < 1, steps outside 1 ... 9e18.
    """
    records, size, d = log_grid(steps, per_decade), positive(float(eta)), dimension(d)
    now = _begin(start)
    limit, parts = min(max(brute, 1), steps), []
    while True:
        here = np.union1d(records[(records > int(now.step)) & (records <= limit)], limit)
        here = here if parts else np.union1d(here, 0)
        part, now = _step_by_step(slope, size, d, now, here, callback)
        parts.append(part)
        if part.stopped >= 0 or limit >= min(steps, MOST) or _close(slope, size, d, now.state):
            break
        limit = min(2 * limit, steps, MOST)
    if limit < steps and parts[-1].stopped < 0:
        parts.append(
            leap(slope, now, size, d, records[records > limit], slope_error=float(slope.error))
        )
        if callback is not None:
            callback(steps, steps)
    kept = np.isin(np.concatenate([part.step for part in parts]), records)
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])[kept]
        for name in Records._fields[:7]
    }
    return parts[-1]._replace(**columns)


def _begin(start: tuple[float, float]) -> Enclosed:
    state = start_state(start)
    if state.c.ndim or not (float(state.c) >= 0 and np.any(np.asarray(start) != 0)):
        raise ValueError(
            f"start (a0, b0) = {start}: wanted two numbers, not both 0, with a0 b0 >= 0"
        )
    return Enclosed(
        state,
        *(jnp.asarray(UNIT * abs(np.asarray(x))) for x in (state.c, 3 * np.asarray(state.Delta))),
    )


def _step_by_step(slope, eta, d, begun: Enclosed, records, callback) -> tuple[Records, Enclosed]:
    rows, now, advance = [], begun, partial(_advance_bounded, slope, eta, d)
    first = int(begun.step)
    for _, now in recorded(advance, begun, records, first=first, progress=callback):
        c, Delta = float(now.state.c), float(now.state.Delta)
        without_low = UNIT * abs(c), UNIT * abs(Delta)
        bounds = [float(error) + low for error, low in zip(now[1:], without_low, strict=True)]
        dc = next_move(slope, eta, d, now.state.c, now.state.Delta)[0]
        rows.append((c, Delta, dc, *bounds, now.state.sign))
    finite = int(now.state.finite)
    stopped = np.asarray(-1 if finite == int(now.step) else finite + 1)
    c, Delta, dc, bound, bound_Delta, sign = columns(rows)
    return Records(records, c, Delta, dc, bound, bound_Delta, sign, stopped, now.state), now


@jax.jit
def _advance_bounded(slope: Interpolant, eta, d, now: Enclosed, first, end) -> Enclosed:
    one = jnp.ones_like(now.error)
    # l' enters dc once and twice, dDelta twice: (1 + error)^2 - 1
    share = slope.error * (2 + slope.error) + STEP_ROUNDING

    def step(_, now):
        (at, c, c_low, Delta, Delta_low, sign, finite), error, error_Delta = now
        h, h_c = jax.jvp(lambda c: eta * slope(c) / d, (c,), (one,))
        dc, dDelta = increments(h, c, Delta)
        root = jnp.sqrt(4 * c * c + Delta * Delta)
        dc_c, dc_D = h_c * (2 * h * c - root) + h * (h - 4 * c / root), -h * Delta / root
        dDelta_c, dDelta_D = -2 * h * h_c * Delta, -h * h
        injected, injected_Delta = (share * jnp.abs(v) for v in (dc, dDelta))
        error, error_Delta = (
            jnp.abs(1 + dc_c) * error + jnp.abs(dc_D) * error_Delta + injected,
            jnp.abs(dDelta_c) * error + jnp.abs(1 + dDelta_D) * error_Delta + injected_Delta,
        )
        sign = sign_after(sign, h, c, Delta)
        c, c_low = add(c, c_low, dc)
        Delta, Delta_low = add(Delta, Delta_low, dDelta)
        state = State(at + 1, c, c_low, Delta, Delta_low, sign, finite + jnp.isfinite(c))
        return Enclosed(state, error, error_Delta)

    return jax.lax.fori_loop(first, end, step, now)


def leap(
    slope,
    now: Enclosed,
    eta: float | np.ndarray,
    d: int,
    records: np.ndarray,
    *,
    slope_error: float,
    order: int = ORDER,
) -> Records:
    """Records after `now.step`, by integrating d log c/d log t = t F with Gauss's method of order 2
    STAGES.

    Every error but the integrator's is a shift of time: |delta c_t| = |dc_t| tau_t,
      tau_t = error/|dc| at the start + (2 slope_error + rounding)(t - start)
              + int SLACK |delta^{N+1} log c|/((N+1) |F|) dt + int |delta Delta/Delta| Delta^2/(4c^2
              + Delta^2) dt,
    and the integrator's is the difference between two step sizes. `order` is N. Only where the map
    is close to the identity. Source: derived (the Abel function of the flow; first omitted term of
    Newton's series).
    """
    slope, t0 = as_pytree(slope), int(now.step)
    records = checked_records(records, t0 + 1)
    log_t = np.log(np.concatenate([[t0], records]).astype(np.float64))
    c0, Delta0 = (
        float(now.state.c) + float(now.state.c_low),
        float(now.state.Delta) + float(now.state.Delta_low),
    )
    relative_Delta = float(now.error_Delta) / abs(Delta0) if Delta0 else 0.0
    z = np.array([np.log(c0), 0.0, 0.0])

    def flow(width):
        starts, widths, ends = _mesh(log_t, width)
        return np.asarray(
            _flow(slope, eta, d, z, Delta0, relative_Delta, starts, widths, ends[-1] + 1, order)
        )[ends]

    fine, gap = flow(STEP), np.full((len(records), 2), np.nan)
    for halving in range(1, HALVINGS + 1):
        coarse, fine = fine, flow(STEP / 2**halving)
        gap = np.abs(fine - coarse)[:, :2]
        if np.max(gap) <= AGREED:
            break
    c, Delta = np.exp(fine[:, 0]), Delta0 * np.exp(fine[:, 1])
    dc, dDelta = (np.asarray(v) for v in next_move(slope, eta, d, c, Delta))
    slope_term = 2 * slope_error + STEP_ROUNDING
    first = float(next_move(slope, eta, d, now.state.c, now.state.Delta)[0])
    tau = float(now.error) / first + slope_term * (records - t0) + fine[:, 2]
    bound = dc * tau + c * (gap[:, 0] + FLOW_ROUNDING)
    change = slope_term * np.abs(fine[:, 1]) + gap[:, 1] + 4 * UNIT + relative_Delta
    bound_Delta = np.abs(Delta) * change + np.abs(dDelta) * tau
    last, zero = jnp.asarray(records[-1]), jnp.zeros(())
    sign = now.state.sign  # l' < 0: a + b grows at every step
    state = State(last, jnp.asarray(c[-1]), zero, jnp.asarray(Delta[-1]), zero, sign, last)
    signs = np.full(c.shape, float(sign))
    return Records(records, c, Delta, dc, bound, bound_Delta, signs, np.asarray(-1), state)


@partial(jax.jit, static_argnames="order")
def _velocity(slope, eta, d, c, Delta, order: int) -> tuple[Array, Array, Array]:
    """d/dt of (log c, log |Delta|) along the flow, and |first omitted term / F| of log c.

    F = sum_k weight_k f(M^k z),  f = the map's increment of (log c, log |Delta|)   (delta^n z =
    delta^{n-1} f).
    """

    def move(z, _):
        c, Delta = z
        h = eta * slope(c) / d
        dc, dDelta = increments(h, c, Delta)
        return (c + dc, Delta + dDelta), (jnp.log1p(dc / c), jnp.log1p(-h * h))

    # A scan, not a Python loop: eight slopes in one kernel take ten seconds to compile
    _, (f, f_Delta) = jax.lax.scan(move, (c, Delta), length=order + 1)
    weights = jnp.asarray([*newton_weights(order), 0.0])
    F, F_Delta = jnp.tensordot(weights, f, 1), jnp.tensordot(weights, f_Delta, 1)
    difference = jnp.asarray([(-1.0) ** k * comb(order, k) / (order + 1) for k in range(order + 1)])
    return F, F_Delta, jnp.abs(jnp.tensordot(difference, f, 1) / F)


def newton_weights(order: int) -> list[float]:
    """weight_k = (-1)^k sum_{n=k+1}^{order} binom(n-1, k)/n:  sum_n (-1)^{n+1}/n (E - 1)^{n-1} in
    powers of E.
    """
    return [
        (-1) ** k * sum(comb(n - 1, k) / n for n in range(k + 1, order + 1)) for k in range(order)
    ]


@partial(jax.jit, static_argnames="order")
def _flow(slope, eta, d, z, Delta0, relative_Delta, log_t, widths, steps, order):
    """z = (log c, log |Delta/Delta0|, tau) after each of `steps` Gauss steps of the widths given,
    from log_t.
    """
    nodes, matrix, weights = (jnp.asarray(v) for v in gauss(STAGES))

    def field(s, z):
        c, Delta, t = jnp.exp(z[0]), Delta0 * jnp.exp(z[1]), jnp.exp(s)
        F, F_Delta, defect = _velocity(slope, eta, d, c, Delta, order)
        lag = SLACK * defect + relative_Delta * Delta**2 / (4 * c**2 + Delta**2)
        return t * jnp.stack([F, F_Delta, lag])

    def step(k, carry):
        z, found = carry
        s, h = log_t[k], widths[k]
        sweep = lambda _, rate: field(s + h * nodes, z[:, None] + h * rate @ matrix.T)
        z = z + h * jax.lax.fori_loop(0, SWEEPS, sweep, jnp.zeros((3, STAGES))) @ weights
        return z, found.at[k].set(z)

    # Not a scan: the arrays are longer than `steps`, so that one length is compiled for all
    return jax.lax.fori_loop(0, steps, step, (z, jnp.zeros((log_t.size, 3))))[1]


def _mesh(log_t: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts and widths of steps no longer than `width` that hit every log_t, and the step that
    ends at each.
    """
    counts = np.ceil(np.diff(log_t) / width).astype(int)
    widths = np.repeat(np.diff(log_t) / counts, counts)
    ends = np.cumsum(counts) - 1
    within = np.arange(widths.size) - np.repeat(ends + 1 - counts, counts)
    starts = np.repeat(log_t[:-1], counts) + within * widths
    spare = max(SHORTEST, 1 << int(widths.size - 1).bit_length()) - widths.size
    return np.pad(starts, (0, spare)), np.pad(widths, (0, spare)), ends


def gauss(stages: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, matrix and weights of Gauss's implicit Runge-Kutta method on [0, 1]: A c^{k-1} =
    c^k/k.
    """
    x, w = np.polynomial.legendre.leggauss(stages)
    nodes, powers = (x + 1) / 2, np.arange(1, stages + 1)
    matrix = (nodes[:, None] ** powers / powers) @ np.linalg.inv(nodes[:, None] ** (powers - 1))
    return nodes, matrix, w / 2


def _close(slope, eta, d, state: State) -> bool:
    """Whether the first omitted term of F is small enough at this state to leap from it."""
    return float(_velocity(slope, eta, d, state.c, state.Delta, ORDER)[2]) <= CLOSE
