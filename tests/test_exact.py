"""Exact descent and flow in few coordinates, against closed forms and programs of other hands."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from popgd.descent import exact
from popgd.descent.recursion import log_grid
from popgd.papers import committee, linear_attention

KEY = jax.random.key(0)


def at(path, t):
    return int(np.flatnonzero(path.t == t)[0])


def test_a_quadratic_descends_to_the_last_digit():
    rates = (0.1, 0.03)
    path = exact.descend(lambda x: -jnp.array(rates) * x, np.array([1.0, -2.0]), 400, KEY)
    with mpmath.workdps(40):
        factors = [1 - mpmath.mpf(rate) for rate in rates]
        wanted = [[s * f ** int(t) for s, f in zip((1, -2), factors, strict=True)] for t in path.t]
        gap = [[float(abs(x - w)) for x, w in zip(*rows, strict=True)]
               for rows in zip(path.x.tolist(), wanted, strict=True)]  # fmt: skip
    assert np.all(np.array(gap) <= path.error) and np.max(path.error / abs(path.x)) < 1e-13


def test_growth_to_the_eighteenth_decade_is_that_of_its_flow():
    """x <- x + x^-2: u = x^3 grows by 3 + 3/u + 1/u^2, so u = 3 t + log t + O(1)."""
    path = exact.descend(lambda x: 1 / x**2, np.array([2.0]), 10**18, KEY)
    u = path.x[:, 0] ** 3
    late = path.t >= 1e6
    rest = u[late] - 3 * path.t[late] - np.log(path.t[late])  # tends to a constant
    tolerance = 3 * path.error[late, 0] * path.x[late, 0] ** 2 + 1e-4
    # beside the roundings of u and of 3 t here
    assert path.why == "" and np.all(abs(rest - rest[0]) <= tolerance + 4e-16 * u[late])
    assert path.error[-1, 0] / path.x[-1, 0] < 1e-9


def test_the_flow_takes_over_where_steps_left_off(monkeypatch):
    """The same descent by ten times as many steps, within both errors."""
    move = lambda x: 1 / x**2
    start = np.array([2.0])
    monkeypatch.setattr(exact, "BRUTE", 10**3)
    early = exact.descend(move, start, 10**5, KEY)
    monkeypatch.setattr(exact, "BRUTE", 10**6)
    whole = exact.descend(move, start, 10**5, KEY)
    assert np.all(abs(early.x - whole.x) <= early.error + whole.error)


@pytest.mark.slow
def test_a_path_at_rest_is_not_followed_for_ever_and_an_unstable_one_is():
    rest = exact.descend(lambda x: 0.3 * (1 - x), np.array([3.0]), 10**18, KEY)
    assert rest.x[-1, 0] == pytest.approx(1, abs=1e-14) and rest.t[-1] == 1e18
    leaves = lambda x: jnp.array([-0.1, 1e-3]) * x
    saddle = exact.descend(leaves, np.array([1.0, 1e-17]), 10**6, KEY)
    assert saddle.x[at(saddle, 10**4), 1] == pytest.approx(1e-17 * 1.001**10**4, rel=1e-9, abs=0)
    assert saddle.why and saddle.t[-1] < 10**6  # it leaves the finite numbers, and says so


def test_roundings_that_a_saddle_amplifies_are_in_the_error():
    """x <- 1.01 x - .01 from the fixed point 1, whose last digit decides."""
    path = exact.descend(lambda x: 0.01 * (x - 1), np.array([1.0 + 2**-40]), 2000, KEY)
    wanted = 1 + 2**-40 * 1.01**path.t
    gap = abs(path.x[:, 0] - wanted)
    assert np.all(gap <= path.error[:, 0]) and gap[-1] > 1e-10


def test_a_flow_is_the_closed_form():
    times = np.concatenate([[0.0], np.logspace(-2, 4, 25)])
    path = exact.flow(lambda x: x - x**2, np.array([1e-3]), times, KEY)
    growth = np.exp(-times)
    wanted = 1 / (1 + (1 / 1e-3 - 1) * growth)
    assert np.max(abs(path.x[:, 0] / wanted - 1)) < 1e-10
    assert np.all(abs(path.x[:, 0] - wanted) <= 3 * path.error[:, 0] + 1e-13 * wanted)


def test_a_flow_at_rest_is_not_integrated_for_ever_and_one_beside_a_saddle_is(monkeypatch):
    spans, made = [], exact.integrator

    def counted(field, unit):
        solve = made(field, unit)
        return lambda x, span, tolerance: (spans.append(span), solve(x, span, tolerance))[1]

    monkeypatch.setattr(exact, "integrator", counted)
    times = np.concatenate([[0.0], np.logspace(-1, 15, 129)])
    rest = exact.flow(lambda x: x - x**2, np.array([0.1]), times, KEY)
    assert abs(rest.x[-1, 0] - 1) <= rest.error[-1, 0] < 1e-10 and rest.t[-1] == 1e15
    assert len(spans) < 100 and max(float(span[1]) for span in spans) < 1e3
    # Newton's 1/t: it never rests
    slow = exact.flow(lambda x: -(x**2), np.array([1.0]), times, KEY)
    assert np.all(abs(slow.x[:, 0] * (1 + times) - 1) <= slow.error[:, 0] * (1 + times) + 1e-12)
    # it waits beside a saddle, slower than the tolerance could tell from rest, and leaves
    leaves = lambda x: jnp.array([-1.0, 1e-3]) * x * (1 - x)
    saddle = exact.flow(leaves, np.array([0.5, 1e-14]), times[times < 1e6], KEY)
    assert abs(saddle.x[-1, 1] - 1) < 1e-9


#: Loss by program of other hands at t = 0, 10, 100, 1000 (2306.09927, size .1, eta .05).
ATTENTION = (1.7198641108675445, 1.0449414377405313, 0.3096200842381449, 0.28414442700156983)
COMMITTEE = (0.3462054676317545, 0.011637717382911762, 0.01161093509621145)


def descended(problem, shape, eta, steps):
    tree = jax.flatten_util.ravel_pytree(problem.start)
    loss = lambda x: problem.exact(tree[1](x))
    path = exact.descend(lambda x: -eta * jax.grad(loss)(x), np.asarray(tree[0]), steps, KEY)
    return path, jax.vmap(loss)(path.x)


@pytest.mark.slow
def test_linear_attention_and_committee_descend_as_published_values():
    path, loss = descended(linear_attention.problem((2.0, 1.0, 0.5), 20, 0.1), None, 0.05, 10**4)
    for t, wanted in zip((0, 10, 100, 1000), ATTENTION, strict=True):
        assert loss[at(path, t)] == pytest.approx(wanted, abs=3e-15)
    u = path.x[-1, 31]  # PV[-1, -1]: not the flow's u* = 1.30501..., as descent is not flow
    assert u == pytest.approx(1.3022371312402592, abs=1e-12)
    path, loss = descended(committee.problem(2, 4, 0.001), None, 0.5, 10**3)
    for t, wanted in zip((0, 10, 100), COMMITTEE, strict=True):
        assert loss[at(path, t)] == pytest.approx(wanted, rel=1e-12, abs=0)
    assert loss[at(path, 1000)] == pytest.approx(8.67938e-14, abs=1e-15)


@pytest.mark.parametrize(
    "K, loss",
    [
        (2, 0.011610840312668),
        pytest.param(3, 0.020296588656978, marks=pytest.mark.slow),
        pytest.param(5, 0.036226322601836, marks=pytest.mark.slow),
    ],
)
def test_plateaus_are_saddles_of_the_published_loss(K, loss):
    class Stub:
        problem = committee.problem(K, K + 1, 0.001)

    J, found = committee.plateau(Stub)
    assert found == pytest.approx(loss, abs=2e-15)
    assert committee.exact(J) == pytest.approx(loss, abs=1e-14)
    assert np.max(abs(jax.grad(committee.exact)(J))) < 1e-15 and committee.curvatures(J)[0] < -1e-3


THEOREMS = [("zhang.flow", {"budget": 600}), ("saxe.flow", {}), ("committee.learns", {}),
            ("committee.stays", {}), ("committee.learns", {"K": 3, "N": 5}),
            ("benarous.flow", {}), ("benarous.flow", {"k": 2, "d": 3})]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name, changes", THEOREMS)
def test_theorems_are_supported(name, changes):
    import popgd

    found = popgd.check(name, **changes)
    assert found.outcome == "SUPPORTED", [c for c in found.claims if c.outcome != "SUPPORTED"]
    assert all(c.outcome == "SUPPORTED" for c in found.self_checks)


def test_a_flow_that_grows_ever_stiffer_ends():
    """a b = 1 is neared at the rate b^2 t a doubling, while a falls like t^-1/6: explicit steps run
    out, and implicit Runge-Kutta steps stall in rounding. Against SciPy's LSODA.
    """
    from scipy.integrate import solve_ivp

    field = jax.grad(lambda x: -((x[0] * x[1] - 1) ** 2) / 2 - 1e-3 * x[0] ** 4 / 4)
    times = 0.1 * log_grid(10**10, 2).astype(float)
    path = exact.flow(field, np.array([0.5, 0.3]), times, KEY)
    assert path.t[-1] == times[-1]
    slope = jax.jit(lambda s, x: jnp.exp(s) * field(x))
    jacobian = jax.jit(lambda s, x: jnp.exp(s) * jax.jacfwd(field)(x))
    found = solve_ivp(slope, np.log([times[1], times[-1]]), path.x[1], method="LSODA",
                      jac=jacobian, rtol=1e-11, atol=1e-14)  # fmt: skip
    assert found.y[:, -1] == pytest.approx(path.x[-1], rel=1e-8, abs=1e-12)
    assert abs(found.y[:, -1] - path.x[-1]).max() < 10 * path.error[-1].max()
