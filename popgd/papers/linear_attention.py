"""One layer of linear self-attention learns linear regression in context, by gradient flow.

Source: Zhang, Frei, Bartlett, arXiv 2306.09927. x_i, x_q ~ N(0, Lambda), w ~ N(0, I), y = w.x;
tokens E = [[X, x_q], [y, 0]], f = E + PV E E^T KQ E/N; loss (f[-1, -1] - w.x_q)^2/2. Flow starts at
KQ = [[U, 0], [0, 0]], PV = u e e^T with U = size I/sqrt(d), u = size, and with Gamma = (1 + 1/N)
Lambda + tr(Lambda)/N I converges to u* = tr(Gamma^-2)^(1/4), U* = Gamma^-1/u*.
"""

import jax
import jax.numpy as jnp
import numpy as np

from popgd import Option, Problem, about, claims, symmetry


def loss(weights, sample):
    X, x, w = sample
    E = jnp.block([[X, x[:, None]], [w @ X, jnp.zeros(1)]])
    f = E + weights["PV"] @ E @ E.T @ weights["KQ"] @ E / X.shape[1]
    return (f[-1, -1] - w @ x) ** 2 / 2


def gamma(lam, N):
    return (1 + 1 / N) * lam + jnp.sum(lam) / N


def problem(covariance, N, size):
    lam, d = jnp.array(covariance), len(covariance)

    def law(key):
        G = jax.random.normal(key, (d, N + 2))
        X = jnp.sqrt(lam)[:, None] * G[:, :-1]
        return X[:, :-1], X[:, -1], G[:, -1]

    def exact(weights):
        U, u, L = weights["KQ"][:-1, :-1], weights["PV"][-1, -1], jnp.diag(lam)
        G = jnp.diag(gamma(lam, N))
        return jnp.trace(u * u * G @ L @ U @ L @ U.T - 2 * u * L @ L @ U + L) / 2

    flips = symmetry.signs("signs of each x_i and of y", d + 1,
        lambda s, w: {name: s[:, None] * W * s for name, W in w.items()},
        lambda s, x: (s[:-1, None] * x[0], s[:-1] * x[1], s[-1] * s[:-1] * x[2]))  # fmt: skip
    start = {"PV": jnp.zeros((d + 1, d + 1)).at[d, d].set(size),
             "KQ": jnp.diag(jnp.append(jnp.full(d, size / d**0.5), 0.0))}  # fmt: skip
    return Problem(start, loss, law, [flips], exact=exact)


def of(measured, name):
    return measured.setting.law.options[name]


def limits(measured):
    """u*, U* and the loss there."""
    lam = jnp.array(of(measured, "covariance"))
    G = gamma(lam, of(measured, "N"))
    u = jnp.sum(G**-2) ** 0.25
    return u, jnp.diag(1 / G / u), jnp.sum(lam - lam * lam / G) / 2


def rate(measured):
    """The least curvature at the limit beside that of the rescaling of u and U, which is 0."""
    u, U, _ = limits(measured)
    lam, d = jnp.array(of(measured, "covariance")), len(U)
    on = lambda x: measured.problem.exact(
        {
            "KQ": jnp.diag(jnp.append(x[:-1], 0.0)),
            "PV": jnp.zeros((d + 1, d + 1)).at[d, d].set(x[-1]),
        }
    )
    return float(np.linalg.eigvalsh(jax.hessian(on)(jnp.append(jnp.diag(U), u)))[1])


def small(p):
    """Their condition size^2 |Gamma| sqrt(d) < 2, Gamma read off the start."""
    return []


U, u = (lambda w: w["KQ"][:-1, :-1]), (lambda w: w["PV"][-1, -1])
balance = lambda w: jnp.sum(U(w) ** 2) - u(w) ** 2
options = {
    "covariance": Option((2.0, 1.0, 0.5), tuple, "eigenvalues of Lambda"),
    "N": Option(20, int, "examples in a prompt"),
    "size": Option(0.1, float, "of the start"),
}

THEOREM = about(problem, "zhang.flow", flow=True, eta=0.05, steps=10**5, options=options,
    statement="Gradient flow converges to u*, U*, linearly in the end; tr U^T U = u^2 all along.",
    source="arXiv 2306.09927, Theorem 4.1", hypotheses=small,
    claims=[
        claims.converges(u, lambda m: limits(m)[0], "u"),
        claims.converges(U, lambda m: limits(m)[1], "U"),
        claims.loss_limit(lambda m: limits(m)[2]),
        claims.conserved(balance, name="balance"),
        claims.at_rate(U, lambda m: limits(m)[1], rate, "U"),
        claims.stays_zero(lambda w: w["PV"][:-1], "PV-but-its-last-row"),
        claims.stays_zero(lambda w: w["PV"][-1, :-1], "PV21"),
        claims.stays_zero(lambda w: w["KQ"][-1], "KQ21"),
        claims.monotone(lambda w: w["PV"][-1, -1], name="u"),
    ])  # fmt: skip
PAPER = {"arXiv 2306.09927, Trained Transformers Learn Linear Models In-Context": (THEOREM,)}
