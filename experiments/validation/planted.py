"""Planted models, with what is true of them, and near misses of which that is not true.

Each is a problem of a few weights whose exact loss is right everywhere, so that an integrator of
SciPy's can follow all weights. `must` are findings that there are, `grows` the exponents that may
be claimed, by name of the read-out; every other line is examined on SciPy's path.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from popgd import Finite, Problem, symmetry

#: The size of what breaks a symmetry or a conservation law in a near miss.
SMALL = 1e-3


number = lambda x: jnp.array(float(x))


def made(start: Any, exact: Callable[[Any], Any], **rest: Any) -> Problem:
    """Every sample has the population loss."""
    return Problem(start, lambda w, x: exact(w), jax.random.normal, exact=exact, **rest)


class Planted(NamedTuple):
    """A model: what must be found ("kind name", "saddle" or "symmetry broken"), exponents that may
    be, limits that SciPy's path does not reach, whether the end is a saddle (None: does not
    matter), and whether nothing may be claimed.
    """

    problem: Callable[[], Problem]
    must: tuple[str, ...] = ()
    grows: Mapping[str, float] = {}
    limits: Mapping[str, float] = {}
    saddle: bool | None = None
    silent: bool = False
    near_miss: bool = False


def one(loss: Callable[[Any], Any], start: float = 1.0) -> Callable[[], Problem]:
    """A loss of one weight w."""
    return lambda: made({"w": number(start)}, lambda w: loss(w["w"]))


def two(loss: Callable[[Any, Any], Any], a: float = 0.5, b: float = 0.3) -> Callable[[], Problem]:
    """A loss of two weights a, b."""
    return lambda: made({"a": number(a), "b": number(b)}, lambda w: loss(w["a"], w["b"]))


def three(loss: Callable[..., Any]) -> Callable[[], Problem]:
    start = lambda: {"a": number(0.9), "b": number(0.7), "c": number(0.4)}
    return lambda: made(start(), lambda w: loss(w["a"], w["b"], w["c"]))


def power(p: float) -> Callable[[Any], Any]:
    """The loss under whose flow w grows like t^p."""
    q = 2 - 1 / p
    return lambda w: -(w**q) / q


def network(bent: float = 0.0) -> Problem:
    """Two layers, linear but for `bent` of a cube, on four rows."""
    keys = jax.random.split(jax.random.key(5), 4)
    X, Y = jax.random.normal(keys[0], (4, 2)), jax.random.normal(keys[1], (4, 2))
    start = {
        "W1": 0.5 * jax.random.normal(keys[2], (3, 2)),
        "W2": 0.5 * jax.random.normal(keys[3], (2, 3)),
    }

    def loss(w: Any, row: Any) -> Any:
        h = w["W1"] @ row[0]
        return jnp.sum((w["W2"] @ (h + bent * h**3) - row[1]) ** 2) / 2

    return Problem(start, loss, Finite(X, Y))


def rectified() -> Problem:
    """A network of rectified units, without an exact loss."""
    start = {"W": jax.random.normal(jax.random.key(1), (3, 2)), "v": jnp.array([0.5, -0.4, 0.3])}
    loss = lambda w, x: (w["v"] @ jax.nn.relu(w["W"] @ x) - x[0] * x[1]) ** 2 / 2
    return Problem(start, loss, lambda key: jax.random.normal(key, (2,)))


def mirror(broken: float = 0.0, mean: float = 0.0, curve: float = 1.0, power: int = 2) -> Problem:
    """s -> -s with the second number of a sample: broken in the loss, or in the law by its mean.
    curve s^power is the loss across.
    """

    def loss(w: Any, x: Any) -> Any:
        a, s = w["a"], w["s"]
        across = curve * (s**power if power > 2 else s**2) / 2 + s**4 / 4
        return (a - 1) ** 2 / 2 + across + s * x[1] + broken * s

    exact = lambda w: loss(w, jnp.array([0.0, mean]))
    turn = lambda g, w: {**w, "s": g[0] * w["s"]}
    flip = symmetry.signs("mirror", 1, turn, lambda g, x: x * jnp.append(1.0, g))
    law = lambda key: jnp.array([0.0, mean]) + jax.random.normal(key, (2,))
    return Problem({"a": number(0.5), "s": number(0)}, loss, law, [flip], exact=exact)


def covariance(second: float = 1.0) -> Problem:
    """W learns the second moments of x, with declared rotations."""
    root = jnp.sqrt(jnp.array([1.0, second]))
    turn = lambda O, W: O @ W @ O.T
    turns = symmetry.rotations("rotations", 2, turn, lambda O, x: O @ x)
    loss = lambda W, x: jnp.sum((W - jnp.outer(x, x)) ** 2) / 2
    exact = lambda W: jnp.sum((W - jnp.diag(root**2)) ** 2) / 2
    law = lambda key: root * jax.random.normal(key, (2,))
    return Problem(3.0 * jnp.eye(2), loss, law, [turns], exact=exact)


def units(broken: float = 0.0) -> Problem:
    """Two equal units that may be exchanged; apart they would do better."""
    exact = lambda w: (w[0] + w[1] - 2) ** 2 / 2 - 0.1 * (w[0] - w[1]) ** 2 + broken * w[0] ** 2
    quartic = lambda w: exact(w) + (w[0] - w[1]) ** 4
    swap = symmetry.permutations("units", 2, lambda p, w: w[p])
    return made(jnp.array([0.3, 0.3]), quartic, symmetries=[swap])


def dead(kind: str, mean: float = 0.0) -> Problem:
    """A weight d that starts at 0 and stays there: silent, structural, or in expectation; with a
    mean it does not.
    """
    terms = {"silent": lambda d, x: 0 * d, "structural": lambda d, x: (d * x[0]) ** 2,
             "expectation": lambda d, x: d * x[1] + d**2}  # fmt: skip
    second = {"silent": 0.0, "structural": 1.0, "expectation": 1.0}[kind]
    loss = lambda w, x: (w["a"] - 1) ** 2 / 2 + terms[kind](w["d"], x)
    exact = lambda w: (w["a"] - 1) ** 2 / 2 + second * w["d"] ** 2 + mean * w["d"]
    law = lambda key: jnp.array([0.0, mean]) + jax.random.normal(key, (2,))
    return Problem({"a": number(0.5), "d": number(0)}, loss, law, exact=exact)


def without_exact(loss: Callable[[Any, Any], Any]) -> Callable[[], Problem]:
    start = lambda: jnp.array([0.7, -0.4, 1.3])
    return lambda: Problem(start(), loss, lambda key: jax.random.normal(key, (3,)))


def rows() -> Problem:
    """Least squares with fewer rows than weights: flat along one direction."""
    X, y = jnp.array([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]]), jnp.array([1.0, 2.0])
    return Problem(
        jnp.array([0.3, -0.2, 0.5]), lambda w, r: (w @ r[0] - r[1]) ** 2 / 2, Finite(X, y)
    )


#: a b is all that the loss sees.
PAIR = ("conserved |a|^2 - |b|^2",)
MODELS: dict[str, Planted] = {
    "w like t^1/2": Planted(one(lambda w: -jnp.log(w)), ("grows w",), {"w": 1 / 2}),
    "w like t^1/3": Planted(
        one(power(1 / 3)), ("grows w", "grows loss"), {"w": 1 / 3, "loss": -1 / 3}
    ),
    "w like t^1/4": Planted(
        one(power(1 / 4)), ("grows w", "grows loss"), {"w": 1 / 4, "loss": -1 / 2}
    ),
    "w like t^0.51, next to 1/2": Planted(
        one(power(0.51)), ("grows w",), {"w": 0.51, "loss": 0.02}, near_miss=True
    ),
    "w like t^0.3, next to 1/3": Planted(
        one(power(0.3)), ("grows w", "grows loss"), {"w": 0.3, "loss": -0.4}, near_miss=True
    ),
    "w like t^-1/10": Planted(
        one(lambda w: w**12 / 12), ("grows w",), {"w": -1 / 10, "loss": -6 / 5}
    ),
    "w like log t": Planted(
        one(lambda w: jnp.exp(-w)), ("grows loss",), {"loss": -1}, near_miss=True
    ),
    "logistic loss, w like log t": Planted(
        one(lambda w: jnp.logaddexp(0.0, -w)), (), {"loss": -1}, near_miss=True
    ),
    "w like t log t": Planted(one(lambda w: w - w * jnp.log(w), 3.0), near_miss=True),
    "w like (t log t)^1/2": Planted(one(lambda w: -(jnp.log(w) ** 2) / 2, 3.0), near_miss=True),
    "w like (log t)^1/2": Planted(
        # dw/dt = e^(-w^2): w^2 = log t + ...
        one(lambda w: -jax.scipy.special.erf(w)), limits={"loss": -1}, near_miss=True
    ),
    "two close powers, 1/2 and 0.45": Planted(
        one(lambda w: -jnp.log(w) + 10 * w**-0.1), (), {"w": 1 / 2}, near_miss=True
    ),
    "two close powers, 1/2 and 0.48": Planted(
        one(lambda w: -jnp.log(w) + 25 * w**-0.04), (), {"w": 1 / 2}, near_miss=True
    ),
    "w like e^t": Planted(one(lambda w: -(w**2) / 2), near_miss=True),
    "a b like t^1/2": Planted(
        two(lambda a, b: 1 / (1 + a * b)), ("grows a b", *PAIR),
        {"a b": 1 / 2, "a": 1 / 4, "b": 1 / 4, "loss": -1 / 2},
    ),
    "a b like t^1/3": Planted(
        two(lambda a, b: 1 / (1 + a * b) ** 2), ("grows a b", *PAIR),
        {"a b": 1 / 3, "a": 1 / 6, "b": 1 / 6, "loss": -2 / 3},
    ),
    "a line": Planted(
        one(lambda w: (w - 2) ** 2 / 2, 0.0), ("converges w", "at_rate w"), saddle=False
    ),
    "a b to 1": Planted(two(lambda a, b: (a * b - 1) ** 2 / 2), PAIR),
    "a b to 1, nearly": Planted(
        # Then b^2 = 1/a^2 grows like (6 SMALL t)^(1/3)
        two(lambda a, b: (a * b - 1) ** 2 / 2 + SMALL * a**4 / 4),
        grows={"b": 1 / 6, "a": -1 / 6, "loss": -2 / 3}, near_miss=True,
    ),
    "a^2 b to 1": Planted(
        two(lambda a, b: (a**2 * b - 1) ** 2 / 2), ("conserved |a|^2 - 2 |b|^2",)
    ),
    "a^2.001 b to 1": Planted(
        two(lambda a, b: (jnp.abs(a) ** 2.001 * b - 1) ** 2 / 2), ("conserved a^2 - 2.001 b^2",),
        near_miss=True,
    ),
    "a b c to 1": Planted(
        three(lambda a, b, c: (a * b * c - 1) ** 2 / 2), ("conserved 2 quantities",)
    ),
    "a b c to 1, nearly": Planted(
        # One of two is left, b^2 + c^2 - 2 a^2; with it c = 2^(1/2) a in the end, b = 1/(a c), the
        # loss is SMALL/(2 a^3), and 3 da/dt = 3 SMALL/(2 a^4)
        three(lambda a, b, c: (a * b * c - 1) ** 2 / 2 + SMALL * a * b**2),
        ("conserved 1 quantities", "grows a"),
        {"a": 1 / 5, "b": -2 / 5, "c": 1 / 5, "a b": -1 / 5, "b c": -1 / 5, "a c": 2 / 5,
         "loss": -3 / 5}, near_miss=True,
    ),
    "two linear layers": Planted(network, ("conserved W1 W1^T - W2^T W2",)),
    "two layers, nearly linear": Planted(
        lambda: network(SMALL), ("conserved 0 quantities",), near_miss=True
    ),
    "rectified units": Planted(rectified, ("conserved diag W W^T - diag v v^T",)),
    "zero by a mirror": Planted(mirror, ("stays_zero s", "converges a"), saddle=False),
    "a mirror, broken in the loss": Planted(
        lambda: mirror(broken=SMALL), ("symmetry broken",), near_miss=True
    ),
    "a mirror, broken in the law": Planted(
        lambda: mirror(mean=SMALL), ("converges a",), near_miss=True
    ),
    "a saddle across a mirror": Planted(
        lambda: mirror(curve=-1.0), ("stays_zero s", "saddle"), saddle=True
    ),
    "a shallow saddle across a mirror": Planted(
        lambda: mirror(curve=-SMALL), ("stays_zero s", "saddle"), saddle=True, near_miss=True
    ),
    "a shallow minimum across a mirror": Planted(
        lambda: mirror(curve=SMALL), ("stays_zero s",), saddle=False, near_miss=True
    ),
    "flat across a mirror": Planted(
        lambda: mirror(power=4), ("stays_zero s",), saddle=False, near_miss=True
    ),
    "a multiple of I": Planted(covariance, ("multiple_of_identity w",), saddle=False),
    "nearly a multiple of I": Planted(
        lambda: covariance(1 + SMALL), ("converges w",), near_miss=True
    ),
    "two equal units": Planted(units, ("saddle",), saddle=True),
    "two units, nearly equal": Planted(
        lambda: units(SMALL), ("symmetry broken",), near_miss=True
    ),
    "silent": Planted(lambda: dead("silent"), ("stays_zero d",)),
    "structural zero": Planted(lambda: dead("structural"), ("stays_zero d",)),
    "zero in expectation": Planted(lambda: dead("expectation"), ("stays_zero d",)),
    "nearly zero in expectation": Planted(
        lambda: dead("expectation", SMALL), ("converges a",), near_miss=True
    ),
    "a plateau at a saddle": Planted(
        one(lambda w: w**4 / 4 - w**2 / 2, 1e-4), ("converges w", "plateau"), saddle=False
    ),
    "fewer rows than weights": Planted(rows, ("loss_limit loss",), saddle=False),
    "no weight matters": Planted(
        lambda: made(jnp.array([0.3, 1.0]), lambda w: 0 * w[0] + 1.0), silent=True
    ),
    "noise alone": Planted(without_exact(lambda w, x: w @ x), silent=True),
    "a generic model without an exact loss": Planted(
        without_exact(lambda w, x: (jnp.sin(w @ x) + w[0] * x[1] - jnp.cos(x[2] - w[1])) ** 2),
        silent=True,
    ),
}  # fmt: skip
