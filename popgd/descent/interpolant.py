"""A slope l'(c) < 0 that falls like c^-power, as piecewise Chebyshev series cheap enough for 10^8
steps.

With u = log(1 + c/scale) the function y(u) = log(-(c + scale)^power l'(c)) is smooth on the whole
half line: u is linear in c near 0 and log c far out, and y stays bounded. [0, u_end] is cut into
panels of equal width, so that finding the panel is one multiplication; beyond u_end, y = y_oo +
const/(c + scale).

The singularities of y are some way off the real line, at an angle in c that falls with the number
of eigenvalues: for d - 1 equal ones next to lambda_1, (d - 1) ((1 + c lambda_d)/(1 + c
lambda_1))^{2L} = -1, the angle is near pi/log d for many loops L. So scale and width are sought,
not laid down.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from popgd.descent import chebyshev
from popgd.problem.pytree import registered

WIDTH = 1.5  # of a panel in u, at most
HALVINGS = 4  # of the width, at most
QUARTERS = 12  # of the scale, at most: L d to some 10^6
GOOD = 1e-12  # an error that needs no narrower panels
DEGREE = 24  # of the series on a panel
SAFETY = 2.0  # factor on the largest deviation seen at off-node points
ROUNDING = 2e-15  # of c + scale, its power and the exponential, relative to l'
TAIL_POINTS = (
    0.5,
    1.0,
    2.0,
    4.0,
    6.0,
)  # distances in u beyond the last panel where the tail is tested


class Unresolved(ValueError):
    """A curve that the series cannot follow to the accuracy asked for."""


@registered(["coefficients", "scale", "tail", "reach", "error"], ["power", "width"])
@dataclass(frozen=True)
class Interpolant:
    """The slope c -> l'(c) for c >= 0, as built by `interpolate`; NaN for c < 0.

    l'(c) = -exp(y(u)) / (c + scale)^power;  `error` bounds |l'_fit/l' - 1| for every c >= 0.
    A pytree: it may be an argument of a jitted function.
    """

    coefficients: Float[Array, "panels terms"]
    scale: Float[Array, ""]
    tail: Float[Array, ""]
    reach: Float[Array, ""]
    error: Float[Array, ""]
    power: int
    width: float = WIDTH

    def __call__(self, c: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        inverse = 1.0 / (c + self.scale)
        slope = -jnp.exp(self.smooth(c)) * inverse**self.power
        return jnp.where(c < 0, jnp.nan, slope)

    def smooth(self, c: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """y(u) = log(-(c + scale)^power l'(c)): Clenshaw on the panel of c, and the tail beyond the
        last one.

        y(u) = y_end + tail (1 - (c_end + scale)/(c + scale))  for c > c_end.
        """
        panels, terms = self.coefficients.shape
        place = jnp.log1p(c / self.scale) * (1.0 / self.width)
        panel = jnp.clip(place.astype(jnp.int32), 0, panels - 1)
        x = 2.0 * jnp.minimum(place - panel, 1.0) - 1.0
        if jnp.ndim(c) == 0:
            # One look-up per term: taking the row as a vector makes XLA's scalar loop 8 times
            # slower
            flat, first = self.coefficients.reshape(-1), panel * terms
            series = chebyshev.clenshaw(
                lambda n: flat.at[first + n].get(mode="promise_in_bounds"), terms, x
            )
        else:
            rows = self.coefficients.at[panel].get(mode="promise_in_bounds")
            series = chebyshev.clenshaw(lambda n: rows[..., n], terms, x)
        beyond = jnp.maximum(1.0 - (self.reach + self.scale) / (c + self.scale), 0.0)
        return series + self.tail * beyond


@jax.jit
def evaluate(slope: Interpolant, c: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """slope(c), compiled: one after the other its operations are some fifty small programs."""
    return slope(c)


@jax.jit
def _fitted(fit: Interpolant, c: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    return fit.smooth(c)


def interpolate(
    slope_log: Callable[[Float[Array, " points"]], Any],
    power: int,
    *,
    scale: float | None = None,
    width: float | None = None,
    largest: float = 1e15,
    degree: int = DEGREE,
    tolerance: float = 1e-12,
) -> Interpolant:
    """Fit l' from `slope_log`, c -> log(-l'(c)), vectorised, for curves with -c^power l'(c) ->
    const > 0.

    `scale` is the c over which l' changes near 0, and `width` that of a panel in u; both are found
    when not given, the width by halving it while `error` exceeds GOOD and gains by it. `largest` is
    where the tail takes over. `error` is SAFETY times the largest deviation from direct evaluations
    half-way between the nodes of every panel and at TAIL_POINTS, plus the trailing coefficients and
    rounding. It bounds the fit, not `slope_log`, which may be off by the rounding of its own large
    logarithms (1e-14 per 100).

    Raises Unresolved (a ValueError) if `error` exceeds `tolerance` or slope_log is not finite
    somewhere. Source: derived (Chebyshev interpolation at first-kind nodes).
    """
    scale = _scale(slope_log, degree) if scale is None else scale
    fit = _fit(slope_log, power, scale, WIDTH if width is None else width, largest, degree)
    for _ in range(HALVINGS if width is None else 0):
        if float(fit.error) <= GOOD:
            break
        finer = _fit(slope_log, power, scale, fit.width / 2, largest, degree)
        if not finer.error < fit.error / 2:
            break
        fit = finer
    if not float(fit.error) <= tolerance:
        raise Unresolved(
            f"interpolant error {fit.error:.1e} exceeds {tolerance:.0e}: raise `degree`, "
            "`largest` or `tolerance`"
        )
    return fit


def _fit(
    slope_log: Callable, power: int, scale: float, width: float, largest: float, degree: int
) -> Interpolant:
    """The series on panels of one width, with the error that is seen."""
    panels = max(3, int(np.ceil(np.log1p(largest / scale) / width)))

    def smooth(u):
        c = scale * np.expm1(u)
        return np.asarray(slope_log(c)) + power * np.log(c + scale)

    nodes, transform = chebyshev.points(degree)
    corners = width * np.arange(panels)
    values = np.stack([smooth(corner + width * (nodes + 1) / 2) for corner in corners])
    if not np.isfinite(values).all():
        raise Unresolved(
            f"slope_log is not finite on all of [0, {largest:.0e}]: lower `largest` or mend "
            "slope_log"
        )
    coefficients = values @ transform.T
    end = width * panels
    back = min(panels, round(3 * WIDTH / width))
    tail = (
        coefficients[-1].sum() - coefficients[-back] @ (-1.0) ** np.arange(degree + 1)
    ) / np.expm1(back * width)
    arrays = (jnp.asarray(v) for v in (coefficients, scale, tail, scale * np.expm1(end), 0.0))
    fit = Interpolant(*arrays, power=power, width=width)
    error = _error(fit, smooth, corners, np.cos(np.pi * np.arange(degree + 2) / (degree + 1)), end)
    return replace(fit, error=jnp.asarray(error))


def _error(
    fit: Interpolant, smooth: Callable, corners: np.ndarray, between: np.ndarray, end: float
) -> float:
    """SAFETY max|y_fit - y| + max over panels of the two trailing coefficients + ROUNDING."""
    scale = float(fit.scale)
    points = [corner + fit.width * (between[::-1] + 1) / 2 for corner in corners]
    points.append(end + np.asarray(TAIL_POINTS))
    fitted = np.asarray(_fitted(fit, scale * np.expm1(np.concatenate(points))))
    seen = np.max(np.abs(fitted - np.concatenate([smooth(u) for u in points])))  # a NaN stays one
    trailing = np.abs(np.asarray(fit.coefficients)[:, -2:]).sum(axis=1).max()
    return float(SAFETY * seen + trailing + ROUNDING)


def _scale(slope_log: Callable, degree: int) -> float:
    """A power of 2: where |l'| has fallen by e^{1/2}, then quartered while that helps the first
    panel.

    The first panel must be short against the distance of the nearest complex singularities of l':
    -1/lambda_1, and some at +-i/(L lambda_1) for L loops, which the fall of |l'| on the real line
    does not show. Its last coefficients may stand still before they fall, so all quarterings are
    looked at.
    """
    c = 2.0 ** np.arange(-60, 61)
    fall = np.asarray(slope_log(np.zeros(1)))[0] - np.asarray(slope_log(c))
    if not (fall > 0.5).any():
        raise Unresolved(
            "slope_log does not fall between c = 0 and 2^60: give `scale`, or mend slope_log"
        )
    nodes, transform = chebyshev.points(degree)
    scales = float(c[np.argmax(fall > 0.5)]) * 0.25 ** np.arange(QUARTERS)
    rows = [slope_log(scale * np.expm1(WIDTH * (nodes + 1) / 2)) for scale in scales]
    trailing = np.abs(np.stack(rows) @ transform.T)[:, -2:].sum(axis=1)
    least = np.minimum.accumulate(trailing[::-1])[::-1]
    return float(scales[np.argmax(trailing <= 16 * least)])
