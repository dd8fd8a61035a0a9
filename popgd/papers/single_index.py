"""A single-index model on the sphere: how long descent takes is told by its information exponent k.

Source: Ben Arous, Gheissari, Jagannath, arXiv 2003.10409, in population. x ~ N(0, I), student
h(w.x) with |w| = 1, teacher h(w*.x), h = He_k/sqrt(k!), loss (difference)^2/2: on the sphere it is
1 - m^k, m = w.w*, and under gradient flow dm/dt = k m^(k-1) (1 - m^2).
"""

from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import hermite_e

from popgd import Hypothesis, Option, Problem, about, claims, symmetry

LEVEL = 0.5
SIZES = tuple(0.1 / 4.0**i for i in range(5))
overlap = lambda w: w[0]
length = lambda w: jnp.sum(w**2)
of = lambda m, name: m.setting.law.options[name]


def start(m, d):
    """At overlap m, and else along the second axis."""
    return jnp.zeros(d).at[:2].set(jnp.array([m, np.sqrt(1 - m * m)]))


def problem(k, d, m0):
    he = hermite_e.herme2poly([0] * k + [1])[::-1] / factorial(k) ** 0.5
    loss = lambda w, x: (jnp.polyval(he, w @ x) - jnp.polyval(he, x[0])) ** 2 / 2
    law = lambda key: jax.random.normal(key, (d,))
    turn = lambda s, w: jnp.append(w[:2], s * w[2:])
    flips = symmetry.signs("signs of the axes that are neither", d - 2, turn, turn)
    return Problem(start(m0, d), loss, law, [flips], exact=lambda w: 1 - w[0] ** k,
                   tangent=lambda w, g: g - (g @ w) * w,
                   retraction=lambda w: w / jnp.sqrt(w @ w))  # fmt: skip


def rise(m):
    """The time to LEVEL over its integral."""
    from scipy.integrate import quad  # slow to import

    k, m0 = of(m, "k"), of(m, "m0")
    whole, _ = quad(lambda u: 1 / (k * u ** (k - 1) * (1 - u * u)), m0, LEVEL, epsrel=1e-12)
    return m.crossing(overlap, LEVEL, m.path).over(whole).moved(1e-11)


def escape(m):
    """The time to LEVEL grows like m0^-(k - 2), for k = 2 like log(1/m0)/2."""
    law: dict = {"rate": 2.0} if of(m, "k") == 2 else {"like": 2.0 - of(m, "k")}
    begin = lambda size: start(size, of(m, "d"))
    yield from claims.time_to(overlap, LEVEL, begin, SIZES, name="m", **law)(m)


def meant(p):
    k, d, m0 = (p.options[name] for name in ("k", "d", "m0"))
    return [
        Hypothesis("information exponent", k >= 2, f"k = {k}, and 2 at least is meant"),
        Hypothesis("dimension", d >= 3, f"d = {d}, and 3 at least is meant"),
        Hypothesis("start", 0 < m0 < LEVEL, f"m0 = {m0:.3g}, and 0 < m0 < {LEVEL} is meant"),
    ]


# fmt: off
FLOW = about(problem, "benarous.flow", flow=True, eta=0.05, steps=10**8, hypotheses=meant,
    source="arXiv 2003.10409, in population", options={
        "k": Option(3, int, "information exponent"), "d": Option(5, int, "inputs"),
        "m0": Option(0.2, float, "overlap of the start")},
    statement="Flow on the sphere finds the teacher in a time like m0^-(k-2); log(1/m0) for k = 2.",
    claims=[claims.converges(overlap, 1.0, "m"), claims.monotone(overlap, name="m"),
            claims.conserved(length, name="length"), claims.loss_limit(0.0),
            claims.agrees("time-of-m0", "Time to m = 1/2 over its integral", rise, 1.0, 1e-6),
            escape, claims.at_rate(overlap, 1.0, lambda m: 2.0 * of(m, "k"), "m"),
            claims.stays_zero(lambda w: w[2:], "others")])
PAPER = {"arXiv 2003.10409, Online stochastic gradient descent on non-convex losses": (FLOW,)}
