"""Small problems whose descent is known in closed form: what the vocabulary of claims is tried on.

Each takes about a second. `study(name)` is measured once; none may be changed.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from popgd import Problem, symmetry
from popgd.claims import examined
from popgd.claims.measured import Dynamics, Measured
from popgd.claims.recorded import recorded
from popgd.descent import replicas
from popgd.descent.memory import FORGETFUL
from popgd.theorem.problems import plane_of

jax.config.update("jax_enable_x64", True)  # the problems below are made on import

ETA = 0.1
SETTING = SimpleNamespace(
    steps=10**8,
    samples=2**12,
    key=lambda *purpose: jax.random.fold_in(jax.random.key(7), sum(purpose)),
)


def made(start: Any, exact: Callable[[Any], Any], **rest: Any) -> Problem:
    """Every sample has the population loss: for claims about the exact path."""
    return Problem(start, lambda w, x: exact(w), jax.random.normal, exact=exact, **rest)


def path_of(problem: Problem, steps: int, flow: bool = False, eta: float = ETA) -> Measured:
    """Its exact path, without samples."""
    dynamics = Dynamics(problem, plane_of(problem, SETTING.key(20)), eta, flow)
    path = dynamics.run(problem.start, steps, SETTING.key(22))
    return Measured(SETTING, dynamics, path, None, {})


def examined_of(problem: Problem, steps: int) -> Measured:
    """With sampled gradients."""
    study = path_of(problem, steps)
    assert study.path is not None
    points = study.path.x[examined.points_of(study.path.x)]
    return dataclasses.replace(
        study, checks=examined.examine(study.dynamics, SETTING, points, FORGETFUL)
    )


number = lambda x: jnp.array(float(x))

#: x <- x + eta/x: x^2 grows by 2 eta a step, in the end.
ROOT = made({"w": number(1)}, lambda w: -jnp.log(w["w"]))
#: dx/dt = e^-x: x = log(e^x0 + t).
LOGARITHM = made({"w": number(1)}, lambda w: jnp.exp(-w["w"]))
#: dx/dt = log x: x grows like t log t.
TIMES_LOG = made({"w": number(3)}, lambda w: w["w"] - w["w"] * jnp.log(w["w"]))
#: w_t = 2 (1 - (1 - eta)^t).
LINE = made({"w": number(0)}, lambda w: (w["w"] - 2) ** 2 / 2)
#: Flow keeps a^2 - b^2.
PRODUCT = made({"a": number(0.5), "b": number(0.3)}, lambda w: (w["a"] * w["b"] - 1) ** 2 / 2)
#: On the circle |w| = 1: the angle to the first axis falls, tan(angle/2) = tan(angle_0/2) e^-t.
CIRCLE = made(
    jnp.array([0.6, 0.8]),
    lambda w: -w[0],
    tangent=lambda w, g: g - (g @ w) * w,
    retraction=lambda w: w / jnp.sqrt(w @ w),
)
#: dw/dt = w - w^3: from s to 1/2 in log(1/s) + ...; dw/dt = w^2 (1 - 5/3 w^2 ...): in 1/s + ...
SADDLE = made({"w": number(0.1)}, lambda w: w["w"] ** 4 / 4 - w["w"] ** 2 / 2)
SQUARE = made({"w": number(0.1)}, lambda w: -(w["w"] ** 3) / (1 + w["w"] ** 2) / 3)


def identity(variances: tuple[float, float]) -> Problem:
    """W learns the covariance of x."""
    root = jnp.sqrt(jnp.array(variances))
    return Problem(
        {"W": 3.0 * jnp.eye(2)},
        lambda w, x: jnp.sum((w["W"] - jnp.outer(x, x)) ** 2) / 2,
        lambda key: root * jax.random.normal(key, (2,)),
        exact=lambda w: jnp.sum((w["W"] - jnp.diag(root**2)) ** 2) / 2,
    )


def mirrored(mean: float = 0.0, power: int = 1, factor: float = 1.0, declared: bool = True) -> Any:
    """`sym` is 0 by the sign of the second number, if that has mean 0; `dead` at itself 0 alone."""

    def loss(w: Any, x: Any) -> Any:
        return ((w["a"] - 1) * x[0] + w["sym"] * x[1]) ** 2 / 2 + jnp.abs(w["dead"]) ** power

    turn = lambda s, w: {**w, "sym": s[0] * w["sym"]}
    flip = symmetry.signs("second", 1, turn, lambda s, x: x * jnp.append(1.0, s))
    shift = jnp.array([mean, mean])
    size = 1 + mean**2
    return Problem(
        {"a": number(0.5), "dead": number(0), "sym": number(0)},
        loss,
        lambda key: shift + jax.random.normal(key, (2,)),
        [flip] if declared else [],
        exact=lambda w: (
            factor
            * (
                size * ((w["a"] - 1) ** 2 + w["sym"] ** 2) / 2
                + mean**2 * (w["a"] - 1) * w["sym"]
                + jnp.abs(w["dead"]) ** power
            )
        ),
    )


# --- sampled: w_(t+1) = (1 - eta) w_t + eta (mean of a batch), two of them and one that only drifts

SAMPLED_ETA, SAMPLED_STEPS, BATCH, REPLICAS = 0.5, 12, 1024, 32
SAMPLED = Problem(
    jnp.array([3.0, 0.0, 2.0]),
    lambda w, x: (w[0] - 1 - x[0]) ** 2 / 2 + w[1] * x[1] + (w[2] - x[0]) ** 2 / 2,
    lambda key: jax.random.normal(key, (2,)),
)


def sampled_slope(x: Any, key: Any) -> Any:
    """The gradient of `SAMPLED`, in all weights; one function, compiled once."""
    return jax.grad(SAMPLED.loss)(x, SAMPLED.sample(key))


def sampled(seed: int, eta: float = SAMPLED_ETA, batch: int = BATCH) -> Measured:
    """Its sampled descents."""
    found = replicas.descend(sampled_slope, np.asarray(SAMPLED.start), eta, SAMPLED_STEPS, batch,
                             REPLICAS, jax.random.key(seed))  # fmt: skip
    setting = SimpleNamespace(steps=SAMPLED_STEPS, key=lambda *purpose: jax.random.key(seed))
    dynamics = Dynamics(SAMPLED, symmetry.whole(SAMPLED.start), eta, False)
    return Measured(setting, dynamics, None, found, {})


def seeds(first: int, count: int = 16) -> Any:
    """Records of NumPy's own descents of the same: w_0 and w_2."""
    draw = np.random.default_rng(first)
    x, rows = np.tile([3.0, 2.0], (count, 1)), []
    for _ in range(SAMPLED_STEPS + 1):
        rows.append(x)
        noise = draw.normal(size=(count, 1)) / BATCH**0.5
        x = x - SAMPLED_ETA * (x - np.array([1.0, 0.0]) - noise)
    t = np.arange(SAMPLED_STEPS + 1)
    return recorded([{"step": t, "w": run} for run in np.stack(rows, axis=1)])


TOYS: dict[str, Callable[[], Any]] = {
    "root": lambda: path_of(ROOT, 10**10),
    "logarithm": lambda: path_of(LOGARITHM, 10**10),
    "times log": lambda: path_of(TIMES_LOG, 10**9, eta=1e-3),
    "line": lambda: path_of(LINE, 10**4),
    "line, rated": lambda: path_of(LINE, 200),
    "product": lambda: path_of(PRODUCT, 10**4, flow=True),
    "product by descent": lambda: path_of(PRODUCT, 10**4, eta=1e-3),
    "circle": lambda: path_of(CIRCLE, 100, flow=True),
    "saddle": lambda: path_of(SADDLE, 10, flow=True),
    "square": lambda: path_of(SQUARE, 10, flow=True),
    "identity": lambda: examined_of(identity((1.0, 1.0)), 100),
    "mirrored": lambda: examined_of(mirrored(power=2), 100),
    "undeclared": lambda: examined_of(mirrored(power=2, declared=False), 100),
    "sampled": lambda: sampled(0),
    "seeds": lambda: seeds(0),
}


@cache
def study(name: str) -> Any:
    """What is measured of a toy."""
    return TOYS[name]()
