"""Descent and flow of any exact gradient in few coordinates, with an estimate of what rounding did.

A step is x <- x + move(x), in compensated sums. Rounding is estimated by stochastic arithmetic
(Parker 1997): TWINS copies of the run see each gradient at a point that is off by a random unit in
the last place and change its result by a few, so that whatever the dynamics amplify (a saddle, long
growth) is seen in their spread. Beyond the steps that are taken one by one the map is followed as
the flow that interpolates it over unit time,

    dz/dt = sum_{n=1}^{ORDER} (-1)^{n+1}/n delta^n z,   delta z = move(z), delta^{n+1} z = delta^n(z
                                                        + move(z)) - delta^n z,

Newton's series of log(1 + delta) (see `leap`, which does this for the two coordinates of one paper,
with a proven bound).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from popgd.descent.recorded import Progress, columns, recorded
from popgd.descent.recursion import log_grid
from popgd.problem.numeric import UNIT

#: Copies of a run whose spread is the estimate of rounding: the largest of 8 deviations is below a
#: third of the standard deviation with probability 1e-5, if they are normal.
TWINS, SPREAD = 8, 3.0
#: Roundings of a gradient in units of its last place, beyond those of its argument.
ROUNDINGS = 4.0
#: Steps taken one by one, unless more are needed for the flow to be the map's; and at most.
BRUTE, MOST = 10**5, 10**7
#: Terms of Newton's series, and the part of a coordinate that the last may add up to where the flow
#: takes over.
ORDER, DEFECT = 6, 1e-12
#: Records in a row at which nothing may move before a path counts as at rest.
RESTING = 3
#: A curvature below this share of the largest is none: what rests there stays for as many times the
#: time in which the others settle.
UNSTABLE = 1e-9
#: Records whose errors count for the last of them: two tolerances may agree by chance at one.
WINDOW = 4
#: Relative tolerances of the integrator: the path's, and a coarser one whose difference is its
#: error.
TOLERANCE, COARSE = 1e-12, 1e-10
#: Products of smaller numbers underflow: a weight that falls to 0 stops somewhere below.
SMALLEST = 1e-300
#: Steps of the integrator at most. A span that takes more is halved, so often at most in one span,
#: and in all: where it is steep at one place a score of times, where it is stiff without end.
INTEGRATED, HALVINGS, ALL_HALVINGS = 2 * 10**4, 20, 60

Field = Callable[[Float[Array, " k"]], Float[Array, " k"]]
Enough = Callable[[Float[np.ndarray, " k"]], bool]


class Path(NamedTuple):
    """A path at the recorded times, in gradient steps, or in units of 1/eta steps for a flow.

    move is x_{t+1} - x_t of a descent, dx/dt of a flow. `error` estimates what rounding and the
    integrator did to x; it is no proven bound. A path that leaves the finite numbers, or could not
    be followed, ends at `stopped` for the reason `why`; the records end before it.
    """

    t: Float[np.ndarray, " records"]
    x: Float[np.ndarray, "records k"]
    error: Float[np.ndarray, "records k"]
    move: Float[np.ndarray, "records k"]
    stopped: float = np.inf
    why: str = ""


class _State(NamedTuple):
    x: Array
    low: Array


def _perturbed(move: Field, state: _State, key: Array, twin: Array) -> Array:
    """The move from a point that is off by up to a unit in the last place, off by ROUNDINGS itself;
    of twin 0, as it is.
    """
    size = jnp.where(twin > 0, UNIT, 0.0)
    inner, outer = jax.random.uniform(key, (2, *state.x.shape), minval=-1.0, maxval=1.0)
    moved = move(state.x * (1 + size * inner))
    return moved * (1 + ROUNDINGS * size * outer)


def _add(state: _State, moved: Array) -> _State:
    """The compensated sum (Neumaier)."""
    total = state.x + moved
    large = jnp.abs(state.x) >= jnp.abs(moved)
    lost = jnp.where(large, (state.x - total) + moved, (moved - total) + state.x)
    low = state.low + lost
    return _State(total + low, low - ((total + low) - total))


@partial(jax.jit, static_argnames=("move",))
def _advance(move: Field, key: Array, state: _State, first: Any, end: Any) -> _State:
    """Steps first ... end - 1 of all twins."""

    def one(state: _State, twin: Array) -> _State:
        def step(i: Array, now: _State) -> _State:
            here = jax.random.fold_in(jax.random.fold_in(key, i), twin)
            return _add(now, _perturbed(move, now, here, twin))

        return jax.lax.fori_loop(first, end, step, state)

    return jax.vmap(one)(state, jnp.arange(TWINS + 1))


@partial(jax.jit, static_argnames=("move",))
def _differences(move: Field, x: Array) -> Array:
    """delta^1 x ... delta^{ORDER+1} x, rows."""

    def along(x: Array, _: None) -> tuple[Array, Array]:
        moved = move(x)
        return x + moved, moved

    _, row = jax.lax.scan(along, x, None, length=ORDER + 1)
    rows = [row[0]]
    for _ in range(ORDER):
        row = row[1:] - row[:-1]
        rows.append(row[0])
    return jnp.stack(rows)


def _flow_of(move: Field, x: Array) -> Array:
    rows = _differences(move, x)[:-1]
    n = jnp.arange(1, ORDER + 1)
    return jnp.tensordot((-1.0) ** (n + 1) / n, rows, 1)


def descend(
    move: Field,
    start: Float[np.ndarray, " k"],
    steps: int,
    key: Array,
    per_decade: int = 8,
    progress: Progress | None = None,
    enough: Enough = lambda x: False,
) -> Path:
    """x <- x + move(x) from `start`, on a logarithmic grid of 0 ... `steps` <= 9e18, or to the
    first record x at which enough(x).

    `move` is a pure function of (k,) float64, hashable, -eta times a gradient; `key` draws the
    roundings of the twins alone. Raises ValueError on a start that is no finite vector of float64.
    """
    grid = log_grid(steps, per_decade)
    first = jnp.broadcast_to(jnp.asarray(_checked(start)), (TWINS + 1, len(start)))
    begun, advance = _State(first, jnp.zeros_like(first)), partial(_advance, move, key)
    rows: list[tuple] = []
    for t, state in recorded(advance, begun, grid, progress=progress):
        row = _row(move, float(t), state)
        if not np.all(np.isfinite(row[1])):
            return _path(rows, float(t), f"it left the finite numbers before step {t:.3g}")
        rows.append(row)
        left = grid[grid > t] if not enough(row[1]) else grid[:0]
        if not left.size:
            break
        if _at_rest(move, rows, key):
            return _path([*rows, *(_resting(rows, float(later)) for later in left)])
        if t >= BRUTE and _close(move, rows[-1]):
            return _path(rows, *_leap(move, state, float(t), left, rows, key, enough))
        if left[0] > MOST:
            return _path(rows, float(left[0]), f"after {MOST:.0e} steps it is not near a flow")
    return _path(rows)


def _row(move: Field, t: float, state: _State) -> tuple:
    """t, x, the spread of the twins and the next move."""
    x = np.asarray(state.x)
    return t, x[0], _spread(x), np.asarray(_moves(move, state.x[:1]))[0]


def _spread(x: Float[np.ndarray, "twins k"]) -> Float[np.ndarray, " k"]:
    return SPREAD * np.max(abs(x[1:] - x[0]), axis=0) + UNIT * abs(x[0])


def _path(rows: list[tuple], stopped: float = np.inf, why: str = "") -> Path:
    t, x, error, move = columns(rows)
    return Path(t, x, error + SMALLEST, move, stopped, why)


def _at_rest(move: Field, rows: list[tuple], key: Array) -> bool:
    """Whether nothing moves any more: moves are no more than their roundings, and the twins, which
    an instability would drive apart, stay together.
    """
    if len(rows) < RESTING + 1 or rows[-1][0] < 100:
        return False
    still = all(np.all(abs(m) <= 4 * _noise(move, x, key)) for _, x, _, m in rows[-RESTING:])
    return still and all(
        np.all(late[2] <= 2 * early[2] + 4 * UNIT * abs(late[1]))
        for early, late in zip(rows[-RESTING - 1 : -1], rows[-RESTING:], strict=True)
    )


def _integrated_to_rest(move: Field, rows: list[tuple], key: Array) -> bool:
    """Whether what the integrator follows has come to rest, around which it hovers: moves are no
    more than its tolerance makes of them, and nothing that small would grow there.
    """
    if len(rows) < RESTING + 1:
        return False
    hovers = (abs(m) <= 4 * _noise(move, x, key, TOLERANCE) for _, x, _, m in rows[-RESTING:])
    if not all(map(np.all, hovers)):
        return False
    jacobian = np.asarray(_jacobian(move, jnp.asarray(rows[-1][1])))
    if not np.all(np.isfinite(jacobian)):
        return False
    growth = np.linalg.eigvals(jacobian)
    return bool(np.max(growth.real) <= UNSTABLE * np.max(abs(growth)))


@partial(jax.jit, static_argnames="move")
def _jacobian(move: Field, x: Array) -> Array:
    return jax.jacfwd(move)(x)


def _noise(move: Field, x: np.ndarray, key: Array, size: float = UNIT) -> np.ndarray:
    """By how much a move is off through rounding: its spread over points a unit away; or over
    points that are off by another relative size.
    """
    off = jax.random.uniform(key, (TWINS, len(x)), minval=-1.0, maxval=1.0)
    beside = np.asarray(_moves(move, jnp.asarray(x) * (1 + size * off)))
    here = np.asarray(_moves(move, jnp.asarray(x)[None]))[0]
    return np.max(abs(beside - here), axis=0) + UNIT * abs(here)


@partial(jax.jit, static_argnames="move")
def _moves(move: Field, x: Array) -> Array:
    """The move at each of these points."""
    return jax.vmap(move)(x)


def _resting(rows: list[tuple], t: float) -> tuple:
    """A later record of a path at rest: what was left to come when it came to rest, a falling
    sequence, is below t moves.
    """
    then, _, _, move = rows[-RESTING]
    return t, rows[-1][1], rows[-1][2] + then * abs(move), rows[-1][3]


def _close(move: Field, row: tuple) -> bool:
    """Whether Newton's series ends early enough: its first omitted term, over the next t steps."""
    t, x, _, _ = row
    last = np.asarray(_differences(move, jnp.asarray(x)))[-1] / (ORDER + 1)
    scale = np.maximum(abs(x), np.finfo(float).eps * np.max(abs(x)))
    return bool(np.all(t * abs(last) <= DEFECT * scale))


def _leap(
    move: Field,
    state: _State,
    t: float,
    later: np.ndarray,
    rows: list[tuple],
    key: Array,
    enough: Enough,
) -> tuple[float, str]:
    """The records after t, appended to the rows: the flow of the map in log t, for all twins."""
    fine = coarse = state.x
    solve = integrator(partial(_flow_of, move), 0.0)
    for when in later:
        span = jnp.asarray([t, when], dtype=float)
        fine, coarse, t = solve(fine, span, TOLERANCE), solve(coarse, span, COARSE), float(when)
        if not (np.all(np.isfinite(fine)) and np.all(np.isfinite(coarse))):
            return t, "the integrator of its flow gave up"
        x = np.asarray(fine)
        defect = np.asarray(_differences(move, fine[0]))[-1] / (ORDER + 1)
        moved = np.asarray(_moves(move, fine[:1]))[0]
        error = _spread(x) + abs(x[0] - np.asarray(coarse)[0]) + t * abs(defect)
        rows.append((t, x[0], error + _late(t, moved), moved))
        if enough(x[0]):
            break
        if _integrated_to_rest(move, rows, key):
            rows += [_resting(rows, float(rest)) for rest in later[later > when]]
            break
    return np.inf, ""


def _late(t: float, move: np.ndarray) -> np.ndarray:
    """What the rounding of log t, at both ends of a span, does to a time and so to x."""
    return 4 * UNIT * max(1.0, abs(np.log(t))) * t * abs(move)


@lru_cache(maxsize=32)
def integrator(field: Field, unit: float) -> Callable[[Array, Array, float], Array]:
    """x at the end of a span of time from x at its beginning, for a batch of x, in log(unit + t):
    by explicit steps, and where those run out by BDF; NaN where it does too. It is kept, as it
    compiles for seconds and the paths from several starts need the same.
    """
    import diffrax  # slow to import

    def of_log(s: Array, x: Array, _: Any) -> Array:
        return jnp.exp(s) * field(x)

    @jax.jit
    def solve(x: Array, span: Array, tolerance: Any) -> Array:
        first, last = jnp.log(unit + span)

        def one(x: Array) -> Array:
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(of_log),  # pyright: ignore
                diffrax.Dopri8(),
                t0=first,
                t1=last,
                dt0=None,
                y0=x,
                stepsize_controller=diffrax.PIDController(
                    rtol=tolerance, atol=UNIT * jnp.max(jnp.abs(x))
                ),
                adjoint=diffrax.ForwardMode(),
                max_steps=INTEGRATED,
                throw=False,
            )
            done = solution.result == diffrax.RESULTS.successful
            return jnp.where(done, solution.ys[-1], jnp.nan)  # pyright: ignore

        return jax.vmap(one)(x)

    rate, jacobian = jax.jit(of_log), jax.jit(jax.jacfwd(of_log, argnums=1))

    def at_end(x: Array, span: Array, tolerance: float) -> Array:
        explicit = solve(x, span, tolerance)
        if np.all(np.isfinite(explicit)):
            return explicit
        ends = (float(s) for s in jnp.log(unit + span))
        whole = partial(_stiff, rate, jacobian, tuple(ends), tolerance)
        return jnp.asarray(np.stack([whole(np.asarray(row)) for row in x]))

    return at_end


def _stiff(
    rate: Callable[..., Array],
    jacobian: Callable[..., Array],
    ends: tuple[float, ...],
    tolerance: float,
    x: np.ndarray,
) -> np.ndarray:
    """The end of one span from x at its beginning, by BDF; NaN if it takes more than INTEGRATED
    evaluations of the rate.
    """
    from scipy.integrate import solve_ivp

    evaluated = 0

    def counted(s: float, x: np.ndarray) -> np.ndarray:
        nonlocal evaluated
        evaluated += 1
        if evaluated > INTEGRATED:
            raise _TooLong
        return np.asarray(rate(s, x, None))

    try:
        found = solve_ivp(
            counted,
            ends,
            x,
            method="BDF",
            jac=lambda s, x: np.asarray(jacobian(s, x, None)),
            rtol=tolerance,
            atol=max(UNIT * float(np.max(abs(x))), SMALLEST),
        )
    except _TooLong:
        return np.full_like(x, np.nan)
    return found.y[:, -1] if found.success else np.full_like(x, np.nan)


class _TooLong(Exception):
    """An integration that takes more evaluations than it may."""


def flow(
    field: Field,
    start: Float[np.ndarray, " k"],
    times: Float[np.ndarray, " records"],
    key: Array,
    enough: Enough = lambda x: False,
) -> Path:
    """dx/dt = field(x) from `start` at the `times`, the first of which is 0, or to the first x at
    which enough(x).

    Runge-Kutta with relative tolerance TOLERANCE; the error is what COARSE does beside it, at this
    record or one of WINDOW, and a unit of the largest coordinate, the absolute tolerance. Raises
    ValueError as `descend`.
    """
    fine = coarse = jnp.asarray(_checked(start))[None]
    solve = integrator(field, float(times[1]))
    moved = lambda: np.asarray(_moves(field, fine))[0]
    rows = [(0.0, np.asarray(fine)[0], UNIT * abs(np.asarray(fine)[0]), moved())]
    gaps: list[np.ndarray] = []
    halved = 0
    for t, when in pairwise(map(float, times)):
        now, ahead, before = t, [when], halved
        while ahead and not (now > t and enough(np.asarray(fine)[0])):
            span = jnp.asarray([now, ahead[-1]])
            both = solve(fine, span, TOLERANCE), solve(coarse, span, COARSE)
            if np.all(np.isfinite(both)):
                (fine, coarse), now = both, ahead.pop()
            elif halved - before >= HALVINGS or halved >= ALL_HALVINGS:
                return _path(rows, when, "the integrator gave up")
            else:
                ahead.append((now + ahead[-1]) / 2)
                halved += 1
        x, move = np.asarray(fine)[0], moved()
        gaps = [*gaps, abs(x - np.asarray(coarse)[0])][-WINDOW:]
        error = np.max(gaps, axis=0) + UNIT * np.max(abs(x)) + _late(now, move)
        rows.append((now, x, error, move))
        if enough(x):
            break
        if _integrated_to_rest(field, rows, key):
            rows += [_resting(rows, float(rest)) for rest in times[times > when]]
            break
    return _path(rows)


def _checked(start: Any) -> np.ndarray:
    start = np.asarray(start)
    if start.dtype != np.float64 or start.ndim != 1 or not np.all(np.isfinite(start)):
        raise ValueError(
            f"a start of shape {start.shape} and {start.dtype} was given; a finite vector of "
            "float64 was wanted"
        )
    return start
