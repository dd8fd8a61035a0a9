"""Normal numbers: JAX's own, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from popgd.problem.normal import normal, threefry


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [0, 2**40 + 7])
def test_they_are_those_of_jax(seed, dtype):
    key, dtype = jax.random.fold_in(jax.random.key(seed), 3), jnp.dtype(dtype)
    wanted = jax.random.normal(key, (64, 65), dtype)
    found = jax.jit(normal, static_argnums=(1, 2))(key, (64, 65), dtype)
    assert found.dtype == dtype and np.array_equal(found, wanted)
    assert not np.array_equal(found, jax.random.normal(key, (65, 64), dtype).reshape(64, 65) + 1)


def test_the_generator_has_the_published_values():
    """Known answers of Random123 1.09 (kat_vectors, threefry2x32, 20 rounds), and JAX's own on
    other words.
    """
    zeros, ones = (np.full(2, word, np.uint32) for word in (0, 0xFFFFFFFF))
    for key, x, wanted in [
        (zeros, zeros, (0x6B200159, 0x99BA4EFE)),
        (ones, ones, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ]:
        found = threefry(
            jnp.asarray(key, jnp.uint32), *(jnp.asarray(word, jnp.uint32) for word in x)
        )
        assert tuple(int(word) for word in found) == wanted
    key, words = jnp.asarray([5, 6], jnp.uint32), jnp.arange(8, dtype=jnp.uint32)
    assert np.array_equal(
        np.concatenate(threefry(key, words[:4], words[4:])), threefry_2x32(key, words)
    )


def test_a_key_of_another_generator_has_its_own():
    key = jax.random.key(0, impl="rbg")
    assert np.array_equal(
        normal(key, (3, 4), jnp.dtype("float32")), jax.random.normal(key, (3, 4), "float32")
    )
