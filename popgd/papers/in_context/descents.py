"""What is measured for the minimiser: exact descents on A and on (A, u), and Monte Carlo ones on
the full (P, Q).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from popgd.descent import descent, gradient
from popgd.descent.memory import Memory
from popgd.descent.recorded import columns, recorded
from popgd.descent.recursion import log_grid
from popgd.papers.in_context import model as in_context
from popgd.papers.in_context import pictures, wishart
from popgd.papers.in_context import wishart_bias as bias
from popgd.papers.in_context import wishart_loss as exact
from popgd.papers.in_context.common import Parts, Study, sampled_law
from popgd.papers.in_context.model import InContext, SquaredError
from popgd.theorem.base import Progress, Setting

#: Random symmetric starts beside 0; their eigenvalues, in whitened coordinates, are up to WIDTH a*.
STARTS, WIDTH = 3, 1.2
#: Monte Carlo descents at each of two batch sizes, each that many times shorter than sampled_steps:
#: their scatter is the error of their mean.
REPLICAS = 16
#: Size of u at the start of descents on (A, u), in whitened coordinates.
BIAS = 0.5
#: A descent has ended when nothing moves by more than this between two records, relative to A.
STILL = 1e-14
#: Prompts of the samplewise claims.
PROMPTS = 64


class Descents(NamedTuple):
    """Exact descents, recorded at `step`: A from 0 and from random starts, (A, u) from (0, BIAS
    e_i) for each i.
    """

    step: Any
    A: Any  # (records, 1 + STARTS, d, d)
    eigenvalues: Any  # (records, d), of the descent from 0, in whitened coordinates
    loss: Any  # (records,), the same
    loss_error: Any
    u: Any  # (records, d), |u_i| of the i-th descent on (A, u)
    diverged_at: Any  # -1 if it did not


class Sampled(NamedTuple):
    """Monte Carlo: loss and gradient at three points with the exact ones; descents from (0, BIAS
    e_1).
    """

    loss: Any  # (points, 3): mean, standard error, exact
    grad_A: Any  # (points, 3, d, d): the same
    # (points,): relative standard error of the second moment of the gradient's entries, the largest
    heavy: Any
    skewness: Any  # (points, d^2 + d + 1): of those entries and of the loss
    odd: Any  # largest entry that changing the sign of w cancels, over prompts, relative
    scaling: Any  # largest relative gap between the gradient of P22 and <A, grad_A>, over prompts
    identity: Any  # largest relative gap between the transformer and its reduction, over prompts
    # (2, REPLICAS, 2): tr A/d and u_1, whitened, at the end of descents of one and of twice the
    # batch
    ends: Any
    exact_end: Any  # (2,): the same of the exact descent


@jax.jit
def _advance(
    polynomial: exact.Polynomial, root: Any, eta: Any, A: Any, first: Any, end: Any
) -> Any:
    """The steps first ... end - 1 of gradient descent on A, for many A at once."""
    slope = jax.grad(exact.loss_with_covariance, argnums=1)

    def one(A: Any) -> Any:
        return jax.lax.fori_loop(first, end, lambda _, A: A - eta * slope(polynomial, A, root), A)

    return jax.vmap(one)(A)


@partial(jax.jit, static_argnames="L")
def _advance_both(
    polynomial: Any, form: Any, L: int, lam: Any, eta: Any, state: Any, first: Any, end: Any
) -> Any:
    """The same on (A, u), A = diag(a), u along one axis, in whitened coordinates and the eigenbasis
    of Sigma = diag(lam).
    """

    def loss(state: Any) -> Any:
        return exact.loss(polynomial, state[0]) + bias.bias_loss(form, L, *state)

    def step(_: Any, state: Any) -> Any:
        a, u = jax.grad(loss)(state)
        return state[0] - eta * lam**2 * a, state[1] - eta * lam * u

    return jax.vmap(lambda state: jax.lax.fori_loop(first, end, step, state))(state)


@jax.jit
def _recorded(polynomial: exact.Polynomial, root: Any, A: Any) -> tuple[Any, Any, Any]:
    """A in whitened coordinates, its loss, and the rounding of that."""
    inside = root @ (A + A.T) @ root / 2
    return inside, exact.loss(polynomial, inside), exact.rounding(polynomial, inside)


@jax.jit
def loss_and_slope(polynomial: exact.Polynomial, root: Any, A: Any) -> tuple[Any, Any]:
    return jax.value_and_grad(exact.loss_with_covariance, argnums=1)(polynomial, A, root)


def starts(setting: Setting, law: InContext) -> Any:
    """0, and random symmetric matrices, in the coordinates of the inputs."""
    n, d, L = law.n, law.d, setting.L
    rng = np.random.default_rng([setting.seed, 7])
    rotations = np.linalg.qr(rng.normal(size=(STARTS, d, d)))[0]
    values = rng.uniform(0, WIDTH * wishart.a_star(n, d, L), (STARTS, 1, d))
    inverse = np.asarray(law.inverse_root)
    random = inverse @ (rotations * values) @ rotations.transpose(0, 2, 1) @ inverse
    return jnp.asarray(
        np.concatenate([np.zeros((1, d, d)), (random + random.transpose(0, 2, 1)) / 2])
    )


def descend(setting: Setting, law: InContext, progress: Progress) -> Descents:
    """The exact descents, up to `steps`, ending where nothing moves or numbers are no longer
    finite.
    """
    n, d, L = law.n, law.d, setting.L
    polynomial, form = exact.polynomial(n, d, L), bias.bias_form(n, d, L)
    lam = np.linalg.eigvalsh(law.Sigma)
    begun = starts(setting, law), (jnp.zeros((d, d)), BIAS * jnp.eye(d))
    rows, diverged_at, told = [], -1, partial(progress, "exact descent")

    def both_on(now: Any, *span: int) -> Any:
        A = _advance(polynomial, law.root, setting.eta, now[0], *span)
        return A, _advance_both(polynomial, form, L, lam, setting.eta, now[1], *span)

    grid = log_grid(setting.steps, 8)
    for step, (A, both) in recorded(both_on, begun, grid, progress=told):
        if not all(np.isfinite(x).all() for x in (A, *both)):
            diverged_at = step
            break
        u = np.abs(np.diagonal(both[1]))
        inside, loss, error = _recorded(polynomial, law.root, A[0])
        rows.append((step, A, np.linalg.eigvalsh(inside), loss, error, u))
        if (
            step > 10
            and np.abs(np.subtract(A, rows[-2][1])).max() <= STILL * np.abs(A).max()
            and u.max() < STILL
        ):
            break
    return Descents(*columns(rows), diverged_at=diverged_at)


def sample(
    setting: Setting, objective: SquaredError, law: InContext, progress: Progress, memory: Memory
) -> Sampled:
    """The Monte Carlo half, at `sampled_law`."""
    n, d, L, dtype = law.n, law.d, setting.L, jnp.dtype(setting.dtype)
    polynomial = exact.polynomial(n, d, L)
    inverse = np.linalg.inv(law.Sigma)
    where = (0.3 * inverse, np.asarray(starts(setting, law)[1]), 0.6 * inverse)
    losses, gradients, heavy, skewness = [], [], [], []
    for number, A in enumerate(where):
        progress("population gradients", number, len(where))
        weights = in_context.embed(jnp.asarray(A, dtype), jnp.zeros(d, dtype))
        key, support = setting.key(1, number), in_context.Support(d)
        found = gradient.population_gradient(objective, weights, law, key, setting.samples, support)
        mean, stderr, _ = found
        loss, slope = loss_and_slope(polynomial, law.root, A)
        losses.append((mean.loss, stderr.loss, loss))
        gradients.append((mean.weights.Q[:d, :d], stderr.weights.Q[:d, :d], slope))
        heavy.append(np.max(np.asarray(stderr.square) / np.asarray(mean.square)))
        skewness.append(gradient.skewness(found))
    ends = memory.part("ends").once(
        lambda: _monte_carlo(setting, objective, law, progress), np.zeros(())
    )
    points = (np.array(losses), np.array(gradients), np.array(heavy), np.array(skewness))
    return Sampled(*points, *samplewise(setting, objective, law), ends, _exact_end(setting, law))


def sampled_steps(setting: Setting) -> int:
    return max(1, setting.sampled_steps // REPLICAS)


def _monte_carlo(
    setting: Setting, objective: SquaredError, law: InContext, progress: Progress
) -> Any:
    """tr A/d and u_1 (whitened) at the ends of REPLICAS descents on (A, u) with batches of one and
    of two sizes.
    """
    d, dtype, root = law.d, jnp.dtype(setting.dtype), np.asarray(law.root)
    lam, R = np.linalg.eigh(law.Sigma)
    u = jnp.asarray(BIAS * R[:, 0] / np.sqrt(lam[0]), dtype)
    support = in_context.Support(d)
    how = descent.Descent(objective, setting.make_optimiser(), support, setting.bank)
    start = in_context.embed(jnp.zeros((d, d), dtype), u)
    ends = np.zeros((2, REPLICAS, 2))
    steps = sampled_steps(setting)
    for number in range(2 * REPLICAS):
        size, replica = divmod(number, REPLICAS)
        key = setting.key(2, number)
        batch = setting.batch * (1 + size)
        run = descent.descend(how, law, start, steps, batch, key, projected=True)
        A, u_end = root @ run.weights.Q[-1, :d, :d] @ root, root @ run.weights.P[-1, d, :d]
        ends[size, replica] = (
            np.nan if run.diverged_at is not None else (np.trace(A) / d, u_end @ R[:, 0])
        )
        progress("Monte Carlo descents", number + 1, 2 * REPLICAS)
    return ends


def _exact_end(setting: Setting, law: InContext) -> Any:
    """What `_monte_carlo` estimates."""
    n, d, L = law.n, law.d, setting.L
    lam = np.linalg.eigvalsh(law.Sigma)
    start = (
        np.zeros((d, d)),
        BIAS * np.eye(d),
    )  # all axes, so that one program serves both descents
    polynomial, form = exact.polynomial(n, d, L), bias.bias_form(n, d, L)
    a, u = _advance_both(polynomial, form, L, lam, setting.eta, start, 0, sampled_steps(setting))
    return np.array([a[0].mean(), u[0, 0]])


def samplewise(
    setting: Setting, objective: SquaredError, law: InContext
) -> tuple[float, float, float]:
    """The `odd`, `scaling` and `identity` of `Sampled`: they hold for every single prompt."""
    d, L = law.d, setting.L
    A, u = _random_weights(setting, law)
    Sym = starts(setting, law)[1]

    def one(key: Any) -> tuple:
        prompt = law.sample(key, jnp.dtype("float64"))
        other = prompt._replace(w=-prompt.w, y=-prompt.y)
        f, g = (
            in_context.looped(in_context.embed(A, u), prompt, L),
            in_context.reduced(A, u, prompt, L),
        )
        size = jnp.linalg.norm(prompt.w + u) * jnp.linalg.norm(prompt.x_q) + jnp.abs(g)
        both = jax.tree.map(lambda *x: jnp.stack(x), prompt, other)
        P, Q = jax.vmap(jax.grad(objective), (None, 0))(in_context.embed(Sym, jnp.zeros(d)), both)
        whole = jnp.maximum(jnp.abs(P).max(), jnp.abs(Q).max())
        odd = [M.sum(axis=0)[i] for M in (P, Q) for i in ((slice(d), d), (d, slice(d)))]
        parts = Q[0, :d, :d] * Sym
        scaling = jnp.abs(P[0, d, d] - parts.sum()) / jnp.abs(parts).sum()
        return jnp.abs(jnp.stack(odd)).max() / whole, scaling, jnp.abs(f - g) / size

    keys = jax.random.split(setting.key(3), PROMPTS)
    odd, scaling, identity = (float(jnp.max(x)) for x in jax.jit(jax.vmap(one))(keys))
    return odd, scaling, identity


def _random_weights(setting: Setting, law: InContext) -> tuple[Any, Any]:
    """A that is not symmetric and contracts, and u, for the identity of the forward pass."""
    G = jax.random.normal(setting.key(4), (law.d, law.d + 1))
    A = 0.5 * (jnp.eye(law.d) + G[:, :-1] / law.d**0.5)
    return law.inverse_root @ A @ law.inverse_root, law.inverse_root @ G[:, -1]


def study(setting: Setting, objective: SquaredError, progress: Progress, memory: Memory) -> Study:
    law = setting.law
    descended = lambda: memory.part("descents").once(
        lambda: descend(setting, law, progress), Descents(*range(7))
    )
    seen = lambda: memory.part("sampled").once(
        lambda: sample(setting, objective, sampled_law(law), progress, memory), Sampled(*range(9))
    )
    parts = {"exact": lambda: descended()._asdict(), "sampled": lambda: seen()._asdict()}
    return Study(setting, objective, Parts(parts), pictures.minimiser)
