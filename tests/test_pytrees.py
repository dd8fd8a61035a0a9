"""Any pytree of weights, of samples, and a plain function of a key for a law: averages and
descent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from popgd.descent import gradient
from popgd.descent.descent import Descent, descend
from popgd.descent.memory import Memory

D, H, N = 3, 4, 5


class Net(NamedTuple):
    W: jax.Array
    v: jax.Array


def net_loss(net, sample):
    x, y = sample["x"], sample["y"]
    return (net.v @ jnp.tanh(net.W @ x) - y) ** 2


def net_law(key):
    x = jax.random.normal(key, (D,))
    return {"x": x, "y": jnp.sin(x[0])}


def head_loss(weights, sample):
    X, q = sample
    scores = jax.nn.softmax(X @ weights["KQ"][0] @ q)
    return jnp.sum((weights["KQ"][1] @ (scores @ X) - q) ** 2)


def head_law(key):
    G = jax.random.normal(key, (N + 1, D))
    return [G[:-1], G[-1]]


def net():
    rng = np.random.default_rng(0)
    return Net(jnp.asarray(rng.normal(size=(H, D))), jnp.asarray(rng.normal(size=H)))


def head():
    rng = np.random.default_rng(1)
    return {"KQ": [jnp.asarray(rng.normal(size=(D, D))), jnp.asarray(rng.normal(size=(D, D)))]}


def drawn(law, key, samples):
    """The samples of a key, in the order in which they are numbered."""
    return [law(jax.random.fold_in(key, i)) for i in range(samples)]


def net_gradient(net, samples):
    """The mean gradient in NumPy, by hand."""
    W, v = map(np.asarray, net)
    dW, dv = np.zeros_like(W), np.zeros_like(v)
    for s in samples:
        x, y = np.asarray(s["x"]), float(s["y"])
        h = np.tanh(W @ x)
        r = 2 * (v @ h - y) / len(samples)
        dW, dv = dW + r * np.outer(v * (1 - h**2), x), dv + r * h
    return dW, dv


def head_gradient(weights, samples):
    A, B = map(np.asarray, weights["KQ"])
    dA, dB = np.zeros_like(A), np.zeros_like(B)
    for X, q in samples:
        X, q = np.asarray(X), np.asarray(q)
        e = np.exp(X @ A @ q - np.max(X @ A @ q))
        p = e / e.sum()
        z = p @ X
        r = 2 * (B @ z - q) / len(samples)
        back = X @ (B.T @ r)  # by the softmax's outputs
        dA, dB = dA + np.outer(X.T @ (p * (back - p @ back)), q), dB + np.outer(r, z)
    return dA, dB


CASES = [(net, net_loss, net_law, net_gradient), (head, head_loss, head_law, head_gradient)]


@pytest.mark.parametrize("make, loss, law, by_hand", CASES)
def test_the_mean_gradient_is_that_by_hand(make, loss, law, by_hand):
    weights, key = make(), jax.random.key(3)
    found = gradient.population_gradient(loss, weights, law, key, 50)
    for leaf, wanted in zip(jax.tree.leaves(found.mean.weights),
                            by_hand(weights, drawn(law, key, 50)), strict=True):  # fmt: skip
        np.testing.assert_allclose(leaf, wanted, rtol=1e-12, atol=1e-14)
    assert jax.tree.structure(found.stderr.weights) == jax.tree.structure(weights)


@pytest.mark.parametrize("make, loss, law, by_hand", CASES)
def test_descent_is_that_by_hand(make, loss, law, by_hand):
    weights, key = make(), jax.random.key(4)
    found = descend(Descent(loss, optax.sgd(0.1), None), law, weights, 3, 16, key)
    assert found.coordinates.shape == (4, 0) and not np.any(found.distance)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(weights)]
    for step in range(3):
        at = jax.tree.unflatten(jax.tree.structure(weights), leaves)
        slope = by_hand(at, drawn(law, jax.random.fold_in(key, step), 16))
        leaves = [leaf - 0.1 * g for leaf, g in zip(leaves, slope, strict=True)]
    for leaf, wanted in zip(jax.tree.leaves(found.weights), leaves, strict=True):
        np.testing.assert_allclose(leaf[-1], wanted, rtol=1e-11)


class Kept(Memory):
    def __init__(self, stop):
        self.stop, self.kept = stop, None

    def recall(self):
        return self.kept

    def offer(self, pack):
        self.stop -= 1
        if self.stop == 0:
            self.kept = pack()
            raise KeyboardInterrupt


def test_a_broken_descent_goes_on_bit_for_bit():
    how, arguments = Descent(head_loss, optax.adam(0.1), None), (head_law, head(), 5, 8)
    whole = descend(how, *arguments, jax.random.key(5))
    memory = Kept(3)
    with pytest.raises(KeyboardInterrupt):
        descend(how, *arguments, jax.random.key(5), memory=memory)
    again = descend(how, *arguments, jax.random.key(5), memory=memory)
    same = jax.tree.map(
        np.array_equal, whole._replace(diverged_at=0), again._replace(diverged_at=0)
    )
    assert all(jax.tree.leaves(same))


def test_float32_stays_float32():
    weights = jax.tree.map(lambda x: x.astype(jnp.float32), net())
    law = lambda key: jax.tree.map(lambda x: x.astype(jnp.float32), net_law(key))
    found = gradient.population_gradient(net_loss, weights, law, jax.random.key(6), 32)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.mean.weights)} == {np.dtype("float32")}


@pytest.mark.parametrize(
    "weights, said",
    [
        (Net(jnp.ones((H, D), int), jnp.ones(H)), "float64 and int64"),
        (Net(jnp.ones((H, D), jnp.float32), jnp.ones(H)), "float32 and float64"),
        ((), "no arrays"),
    ],
)
def test_weights_of_no_one_format_are_one_line(weights, said):
    with pytest.raises(ValueError, match=said) as caught:
        gradient.population_gradient(net_loss, weights, net_law, jax.random.key(0), 8)
    assert "\n" not in str(caught.value)


def test_a_law_that_is_none_is_one_line():
    with pytest.raises(ValueError, match="a function of a key was wanted"):
        gradient.population_gradient(net_loss, net(), 3, jax.random.key(0), 8)
