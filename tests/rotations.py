"""Rotations that are not Haar-distributed, from the Gaussian matrix that `haar` takes."""

import jax
import jax.numpy as jnp


def of_positive_entries(G):
    O, R = jnp.linalg.qr(jax.scipy.special.ndtr(G))
    return O * jnp.sign(jnp.diagonal(R))


def one_plane(G):
    x, y = G[:2, 0] / jnp.linalg.norm(G[:2, 0])
    return jnp.eye(len(G), dtype=G.dtype).at[:2, :2].set(jnp.array([[x, -y], [y, x]]))
