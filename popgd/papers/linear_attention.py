"""One layer of linear self-attention learns linear regression in context, by gradient flow.

Source: Zhang, Frei, Bartlett, arXiv 2306.09927. x_i, x_q ~ N(0, Lambda), w ~ N(0, I), y = w.x;
tokens E = [[X, x_q], [y, 0]], f = E + PV E E^T KQ E/N; loss (f[-1, -1] - w.x_q)^2/2. Flow starts at
KQ = [[U, 0], [0, 0]], PV = u e e^T with U = size I/sqrt(d), u = size, and with
Gamma = (1 + 1/N) Lambda + tr(Lambda)/N I converges to u* = tr(Gamma^-2)^(1/4), U* = Gamma^-1/u*.
"""

import jax
import jax.numpy as jnp
import numpy as np

from popgd import Hypothesis, Option, Problem, about, claims, symmetry


def loss(weights, sample):
    X, x, w = sample
    E = jnp.block([[X, x[:, None]], [w @ X, jnp.zeros(1)]])
    f = E + weights["PV"] @ E @ E.T @ weights["KQ"] @ E / X.shape[1]
    return (f[-1, -1] - w @ x) ** 2 / 2


U, u = (lambda w: w["KQ"][:-1, :-1]), (lambda w: w["PV"][-1, -1])
point = lambda U, u: {"KQ": jnp.pad(U, (0, 1)), "PV": jnp.pad(jnp.array([[u]]), (len(U), 0))}
balance = lambda w: jnp.sum(U(w) ** 2) - u(w) ** 2
gamma = lambda lam, N: (1 + 1 / N) * lam + jnp.sum(lam) / N


def problem(covariance, N, size):
    lam, d = jnp.array(covariance), len(covariance)

    def law(key):
        G = jax.random.normal(key, (d, N + 2))
        X = jnp.sqrt(lam)[:, None] * G[:, :-1]
        return X[:, :-1], X[:, -1], G[:, -1]

    def exact(w):
        G, L = jnp.diag(gamma(lam, N)), jnp.diag(lam)
        return jnp.trace(u(w) ** 2 * G @ L @ U(w) @ L @ U(w).T - 2 * u(w) * L @ L @ U(w) + L) / 2

    turn = lambda s, w: {name: s[:, None] * W * s for name, W in w.items()}
    move = lambda s, x: (s[:-1, None] * x[0], s[:-1] * x[1], s[-1] * s[:-1] * x[2])
    flips = symmetry.signs("signs of each x_i and of y", d + 1, turn, move)
    return Problem(point(size * jnp.eye(d) / d**0.5, size), loss, law, [flips], exact=exact)


def limits(m):
    """U*, u* and the loss there."""
    G = gamma(lam := jnp.array(m.setting.law.options["covariance"]), m.setting.law.options["N"])
    high = jnp.sum(G**-2) ** 0.25
    return jnp.diag(1 / G / high), high, jnp.sum(lam - lam * lam / G) / 2


def rate(m):
    """The least curvature at the limit beside that of the rescaling of u and U, which is 0."""
    on = lambda x: m.problem.exact(point(jnp.diag(x[:-1]), x[-1]))
    at = jnp.append(jnp.diag(limits(m)[0]), limits(m)[1])
    return float(np.linalg.eigvalsh(jax.hessian(on)(at))[1])


def small(p):
    lam, size = np.array(p.options["covariance"]), p.options["size"]
    value = size**2 * float(jnp.max(gamma(lam, p.options["N"]))) * len(lam) ** 0.5
    return [Hypothesis("small start", value < 2, f"size^2 |Gamma| sqrt(d) = {value:.3g} < 2")]


# fmt: off
FLOW = about(problem, "zhang.flow", flow=True, eta=0.05, steps=10**5, hypotheses=small,
    source="arXiv 2306.09927, Theorem 4.1", options={
        "covariance": Option((2.0, 1.0, 0.5), tuple, "eigenvalues of Lambda"),
        "N": Option(20, int, "examples in a prompt"), "size": Option(0.1, float, "of the start")},
    statement="Gradient flow converges to U*, u*, linearly in the end; tr U^T U = u^2 all along.",
    claims=[claims.converges(U, lambda m: limits(m)[0], "U"),
            claims.converges(u, lambda m: limits(m)[1], "u"),
            claims.loss_limit(lambda m: limits(m)[2]), claims.conserved(balance, name="balance"),
            claims.at_rate(U, lambda m: limits(m)[0], rate, "U"),
            claims.stays_zero(lambda w: w["PV"][:-1], "PV-but-its-last-row"),
            claims.stays_zero(lambda w: w["PV"][-1, :-1], "PV21"),
            claims.stays_zero(lambda w: w["KQ"][-1], "KQ21")])
PAPER = {"arXiv 2306.09927, Trained Transformers Learn Linear Models In-Context": (FLOW,)}
