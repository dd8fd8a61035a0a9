"""Slopes to descend on, independent of the package: plain quadratures and closed forms."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np


def _vectorised(one, chunk=32):
    """`one` over any number of points in chunks of one shape, so that it is compiled once."""
    compiled = jax.jit(jax.vmap(one))

    def over(c):
        c = np.asarray(c)
        padded = np.pad(c, (0, -c.size % chunk), mode="edge").reshape(-1, chunk)
        return jnp.concatenate([compiled(part) for part in padded])[: c.size]

    return over


def looped_log(lam, L):
    """log(-l'(c)) of 4.1 for a simple largest eigenvalue, from E[w_i^2 w_j^2/D^2] = int t prod
    dt.
    """
    lam = jnp.asarray(sorted(lam, reverse=True), jnp.float64)
    h = 0.25
    s = jnp.arange(-45.0, float(2 * L * jnp.log(lam[0] / lam[-1])) + 80.0, h)

    def one(c):
        log_rho = 2 * L * (jnp.log1p(c * lam) - jnp.log1p(c * lam[0]))
        m = jnp.logaddexp(0.0, jnp.log(2.0) + s[:, None] + log_rho)
        common = 2 * s - 0.5 * m.sum(1) - m[:, 0]
        factor = (
            log_rho[1:] + jnp.log(lam[0] - lam[1:]) - jnp.log1p(c * lam[1:]) - jnp.log1p(c * lam[0])
        )
        return jax.nn.logsumexp(common[:, None] - m[:, 1:] + factor) + jnp.log(2 * L * h)

    return _vectorised(one)


def layer_log(lam, nodes=72):
    """log(-l'(c)) of 4.3, from 1/(|s||v|^3) = 4/pi int sin^2 / (cos^2 s's + sin^2 v'v)^2; mild
    spectra only.
    """
    lam = jnp.asarray(sorted(lam, reverse=True), jnp.float64)
    h, theta = 0.25, (np.arange(nodes) + 0.5) * np.pi / 2 / nodes
    sin2, cos2 = jnp.asarray(np.sin(theta) ** 2)[:, None], jnp.asarray(np.cos(theta) ** 2)[:, None]
    t = jnp.exp(jnp.arange(-40.0, 45.0, h))[:, None, None]

    def one(c):
        beta = cos2 * (lam / lam[0]) ** 2 + sin2 * ((1 + c * lam) / (1 + c * lam[0])) ** 2
        u = 1 / (1 + 2 * t * beta)
        mass = u.sum(-1)
        mean = (u * lam).sum(-1) / mass
        spread = mass * (u * (lam - mean[..., None]) ** 2).sum(-1) / lam[0]
        total = (sin2[:, 0] * t[..., 0] ** 2 * jnp.sqrt(u.prod(-1)) * spread).sum() * h * 2 / nodes
        return jnp.log(2 * total) - 3 * jnp.log1p(c * lam[0])

    return _vectorised(one)


def plane_looped(lam1, lam2):
    """l'(c) of 4.1 for d = 2, L = 1.

    With k = (1 + c lam2)/(1 + c lam1) and w = (cos, sin): l = E[k^2 s^2/(c^2 + k^2 s^2)] = k/(1 +
    k), because the mean of k^2 sin^2/(cos^2 + k^2 sin^2) over the circle is k/(1 + k). So l' =
    k'/(1 + k)^2,
    k' = (lam2 - lam1)/(1 + c lam1)^2:  l'(c) = -(lam1 - lam2)/(2 + c (lam1 + lam2))^2.
    """
    return lambda c: -(lam1 - lam2) / (2 + c * (lam1 + lam2)) ** 2


def mp_descent(slope, a, b, eta, d, steps, digits=30):
    """(c, Delta) after each of `steps`, iterating (a, b) themselves in `digits` digits."""
    with mpmath.workdps(digits):
        a, b, eta, found = mpmath.mpf(a), mpmath.mpf(b), mpmath.mpf(eta), {}
        for step in range(max(steps) + 1):
            if step in steps:
                found[step] = (a * b, a * a - b * b)
            g = eta * slope(a * b) / d
            a, b = a - b * g, b - a * g
        return found
