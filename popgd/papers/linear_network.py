"""A two-layer linear network learns the modes of its target one after the other.

Source: Saxe, McClelland, Ganguli, arXiv 1312.6120. x ~ N(0, I), y = diag(s) x, W1 (h, d),
W2 (d, h), loss |W2 W1 x - y|^2/2. From W1 = sqrt(a0) [I; 0], W2 = W1^T the modes a_i of W2 W1
decouple, and under gradient flow a(t) = s e^(2st)/(e^(2st) - 1 + s/a0). At a0 = 0 nothing moves.
"""

import jax
import jax.numpy as jnp
import numpy as np

from popgd import Hypothesis, Option, Problem, about, claims, symmetry


def problem(s, h, a0):
    d, s = len(s), jnp.array(s)
    loss = lambda w, x: jnp.sum((w["W2"] @ w["W1"] @ x - s * x) ** 2) / 2
    exact = lambda w: jnp.sum((w["W2"] @ w["W1"] - jnp.diag(s)) ** 2) / 2
    law = lambda key: jax.random.normal(key, (d,))

    def turn(sign, w):
        hidden = jnp.pad(sign[:d], (0, h - d), constant_values=1)
        return {"W1": hidden[:, None] * w["W1"] * sign, "W2": sign[:, None] * w["W2"] * hidden}

    flips = symmetry.signs("signs of modes", d, turn, lambda sign, x: sign * x)
    W = a0**0.5 * jnp.eye(h, d)
    return Problem({"W1": W, "W2": W.T}, loss, law, [flips], exact=exact)


modes = lambda w: jnp.diag(w["W2"] @ w["W1"])
balance = lambda w: w["W1"] @ w["W1"].T - w["W2"].T @ w["W2"]
of = lambda m, name: m.setting.law.options[name]
strengths = lambda m: np.array(of(m, "s"))


def curve(m, t):
    s, a0 = strengths(m), of(m, "a0")
    return s / (1 + (s / a0 - 1) * np.exp(-2 * s * t))


def half(m):
    """The last half-rise time over its closed form."""
    s, a0 = min(of(m, "s")), of(m, "a0")
    i = int(np.argmin(strengths(m)))
    closed = np.log(s / a0 - 1) / (2 * s)
    return m.crossing(lambda w: modes(w)[i], s / 2, m.path).over(closed)


def small(p):
    s, a0 = min(p.options["s"]), p.options["a0"]
    return [Hypothesis("small start", a0 < s / 2, f"a0 = {a0:.3g} < s/2 = {s / 2:.3g}")]


# fmt: off
FLOW = about(problem, "saxe.flow", flow=True, eta=0.05, steps=10**3, hypotheses=small,
    source="arXiv 1312.6120, equation 8", options={
        "s": Option((3.0, 2.0, 1.0), tuple, "strengths of the target's modes"),
        "h": Option(4, int, "hidden units, at least as many as modes"),
        "a0": Option(0.001, float, "of every mode at the start")},
    statement="Each mode follows its own sigmoid; W1 W1^T - W2^T W2 is conserved.",
    claims=[claims.follows(modes, curve, "modes"), claims.conserved(balance, name="balance"),
            claims.agrees("half-rise", "The weakest mode's half-rise time", half, 1.0, 1e-6),
            claims.at_rate(modes, strengths, lambda m: 2 * min(of(m, "s")), "modes"),
            claims.loss_limit(0.0),
            claims.stays_zero(lambda w: w["W2"] @ w["W1"] - jnp.diag(modes(w)), "off-diagonal")])
PAPER = {"arXiv 1312.6120, Exact solutions to the nonlinear dynamics of learning": (FLOW,)}
