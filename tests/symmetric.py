"""Small models with symmetries, written as users would."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from popgd import symmetry
from popgd.papers.power_method import model
from popgd.papers.power_method.data import Rotated, UniformSphere
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance

F64 = jnp.dtype("float64")


class Model(NamedTuple):
    start: Any
    loss: Any
    law: Any
    symmetries: tuple = ()


def conjugation(d: int, sample=symmetry.unmoved):
    """O(d) on P and Q by conjugation with diag(O, O)."""

    def weights(O, w):
        R = jnp.kron(jnp.eye(2), O)
        return Weights(R @ w.P @ R.T, R @ w.Q @ R.T)

    return symmetry.rotations("rotations", d, weights, sample)


def mirror(d: int):
    """q -> -q with (P, Q) -> (-JPJ, -JQJ), J = diag(I, -I); the other element is the identity."""
    halves = jnp.repeat(jnp.array([1.0, -1.0]), d)

    def weights(g, w):
        J = jnp.where(g > 0, 1.0, -jnp.outer(halves, halves))
        return Weights(J * w.P, J * w.Q)

    return symmetry.finite("mirror", (1.0, -1.0), weights, lambda g, x: x._replace(q=g * x.q))


def transformer(theorem: str, d: int = 3) -> Model:
    """The models of Theorems 4.1 (two loops), 4.2 and 4.3."""
    loss = {
        "4.1": SubspaceDistance(2),
        "4.2": PowerIteration("unnormalised", layer_norm=False),
        "4.3": PowerIteration("normalised"),
    }[theorem]
    law = Rotated.with_spectrum([4, 2, 1][:d]) if theorem == "4.1" else UniformSphere(d, 6)
    turn = lambda O, x: x._replace(X=O @ x.X, q=O @ x.q, V=O @ x.V)
    start = model.embed(jnp.array(1.0), jnp.array(0.0), d)
    sample = lambda key: law.sample(key, F64)
    return Model(start, loss, sample, (conjugation(d, turn), mirror(d)))


def network(d: int = 2, h: int = 2) -> Model:
    """A two-layer linear network with a diagonal teacher (Saxe, McClelland, Ganguli); signs of
    inputs, hidden units and outputs together, for d = h.
    """
    singular = 1.0 + jnp.arange(d)
    loss = lambda w, x: 0.5 * jnp.sum((w["W2"] @ (w["W1"] @ x) - singular * x) ** 2)
    start = {"W1": 0.3 * jnp.eye(h, d), "W2": 0.3 * jnp.eye(d, h)}
    flip = lambda s, w: {k: s[:, None] * v * s for k, v in w.items()}
    signs = (symmetry.signs("signs", d, flip, lambda s, x: s * x),) if d == h else ()
    return Model(start, loss, lambda key: jax.random.normal(key, (d,)), signs)


def hidden_rotations(h: int):
    """(W2, W1) -> (W2 R^T, R W1): weights alone."""
    weights = lambda R, w: {"W1": R @ w["W1"], "W2": w["W2"] @ R.T}
    return symmetry.rotations("hidden", h, weights)


class Prompt(NamedTuple):
    X: Any
    w: Any
    query: Any


def attention(d: int = 2, n: int = 4, mean: float = 0.0) -> Model:
    """Linear self-attention (Zhang, Frei, Bartlett): x ~ N(0, diag(2, 1, ...)), w ~ N(mean, I). Its
    symmetries: signs of coordinates, and w -> -w.
    """
    root = jnp.sqrt(jnp.array([2.0, 1.0, 0.5, 0.25][:d]))

    def law(key):
        z = jax.random.normal(key, (d, n + 2))
        return Prompt(root[:, None] * z[:, :n], mean + z[:, n], root * z[:, n + 1])

    def loss(weights, x):
        top = jnp.concatenate([x.X, x.query[:, None]], axis=1)
        E = jnp.concatenate([top, jnp.append(x.w @ x.X, 0)[None]])
        f = weights["PV"] @ E @ (E.T @ (weights["KQ"] @ E[:, -1])) / n
        return 0.5 * (f[-1] - x.w @ x.query) ** 2

    start = {"KQ": jnp.zeros((d + 1, d + 1)).at[:d, :d].set(0.1 * jnp.eye(d))}
    start["PV"] = jnp.zeros((d + 1, d + 1)).at[d, d].set(0.1)

    def conjugated(s, w):
        return {k: s[:, None] * v * s for k, v in w.items()}

    axes = symmetry.signs(
        "axes",
        d,
        lambda s, w: conjugated(jnp.append(s, 1.0), w),
        lambda s, x: Prompt(s[:, None] * x.X, s * x.w, s * x.query),
    )
    label = symmetry.finite(
        "label",
        (1.0, -1.0),
        lambda g, w: conjugated(jnp.ones(d + 1).at[d].set(g), w),
        lambda g, x: x._replace(w=g * x.w),
    )
    return Model(start, loss, law, (axes, label))


def committee(K: int = 2, N: int = 3) -> Model:
    """The soft committee machine (Saad, Solla), teacher the first K axes; permutations of student
    units, weights alone.
    """
    g = lambda h: jax.scipy.special.erf(h / 2**0.5)
    loss = lambda J, x: 0.5 * (jnp.sum(g(J @ x)) - jnp.sum(g(x[:K]))) ** 2
    units = symmetry.permutations("units", K, lambda p, J: J[p])
    start = 0.1 * jnp.ones((K, N))
    return Model(start, loss, lambda key: jax.random.normal(key, (N,)), (units,))
