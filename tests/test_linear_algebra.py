"""No program that runs on several CPU devices calls LAPACK or an FFT: with two devices it can hang
for ever.
"""

import inspect
import os
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import jax.scipy.linalg as sl
import numpy as np
import pytest

from popgd.claims import examined
from popgd.descent import gradient
from popgd.explore import curvature
from popgd.papers.in_context import model as in_context
from popgd.papers.in_context import slopes
from popgd.papers.power_method import kronecker, model, structured, tilted
from popgd.papers.power_method.data import Rotated, UniformSphere
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.stability import hessian, prediction, tangent
from popgd.problem import given
from popgd.problem.law import leading
from popgd.theorem.registry import theorems

#: What a program says, before or after XLA compiles it, where it calls LAPACK or an FFT.
CALL = re.compile(r"lapack_\w+|\bfft\(|stablehlo\.(?:fft|cholesky|triangular_solve)")
D = 3
LAWS = (UniformSphere(D, 7), Rotated.with_spectrum([3, 1, 1]), Rotated.with_spectrum([2.5, 2.5, 1]))
FLOAT64 = jnp.dtype("float64")
SQUARE = jnp.eye(3) + 0.1
LAPACK = {
    "eigh": jnp.linalg.eigh, "eig": jnp.linalg.eigvals, "qr": jnp.linalg.qr, "svd": jnp.linalg.svd,
    "cholesky": jnp.linalg.cholesky, "solve": lambda A: jnp.linalg.solve(A, A), "schur": sl.schur,
    "hessenberg": sl.hessenberg, "triangular": lambda A: sl.solve_triangular(A, A),
    "tridiagonal": lambda A: jax.lax.linalg.tridiagonal_solve(A[0], A[1], A[2], A),
    "det": lambda A: jnp.linalg.slogdet(jnp.kron(A, A)), "fft": jnp.fft.fft, "irfft": jnp.fft.irfft,
}  # fmt: skip
HARMLESS = {
    "norm": jnp.linalg.norm,
    "product": lambda A: A @ A,
    "sort": jnp.sort,
    "small det": jnp.linalg.det,
}


@pytest.mark.parametrize("name", [*LAPACK, *HARMLESS])
def test_a_trace_shows_what_the_program_calls(name):
    """Two routes: the operations of the trace, and the calls in what XLA is given; in a loop and a
    branch too.
    """
    function = {**LAPACK, **HARMLESS}[name]
    size = lambda A: sum(jnp.sum(abs(x)) for x in jax.tree.leaves(function(A)))
    branch = lambda A, i, x: jax.lax.cond(i > 0, lambda: x + size(A), lambda: x)
    inside = lambda A: jax.lax.fori_loop(0, 2, partial(branch, A), 0.0)
    traced = jax.jit(inside).trace(SQUARE)
    called = bool(CALL.search(traced.lower().as_text()))
    assert gradient.calls_linear_algebra(traced.jaxpr.jaxpr) == called == (name in LAPACK)


def statistics():
    """(statistic, weights, law): every statistic that popgd averages, with the losses that make it
    differ.
    """
    weights, law = model.embed(jnp.asarray(1.0), jnp.asarray(0.3), D), LAWS[0]
    active, theta = model.Active(D), kronecker.point(1.0, 0.3)
    factors, places = Weights(*kronecker.factors(theta)), jnp.array([0.1, 0.2])
    for objective in (SubspaceDistance(2), PowerIteration(), PowerIteration("normalised", False)):
        yield gradient.GradientOf(objective, active), weights, law
        yield structured.AlongActive(objective), weights, structured.Orbits(law)
        yield structured.AlongActive(objective), weights, structured.Single(law)
        spectra = jnp.asarray([[3.0, 2.0, 1.0]])
        yield (
            tilted.SlopeOf(objective),
            weights,
            tilted.Tilted(spectra, jnp.asarray(0.3), 1, objective.L),
        )
    yield gradient.RoundingOf(PowerIteration(), active), weights, law
    yield kronecker._Derivative(PowerIteration(), jax.hessian), factors, law
    yield hessian.SectorHessian(PowerIteration()), weights, law
    yield tangent._AtNodes(PowerIteration(), True), Weights(places, places), law
    yield prediction._Turned(SubspaceDistance(2)), weights, law
    in_contexts = in_context.InContext.gaussian(D, 7, [2.0, 1.0, 0.5])
    at = in_context.embed(0.1 * jnp.eye(D), jnp.zeros(D))
    yield gradient.GradientOf(in_context.SquaredError(2), in_context.Support(D)), at, in_contexts
    for n in (2, 7):
        yield slopes.SlopeOf(2), at, slopes.Wishart(D, n)


def test_no_statistic_and_no_law_calls_linear_algebra():
    seen = set()
    for statistic, weights, law in statistics():
        of_sample = lambda w, key, statistic=statistic, law=law: statistic(
            w, law.sample(key, FLOAT64)
        )
        program = jax.make_jaxpr(of_sample)(weights, jax.random.key(0))
        assert not gradient.calls_linear_algebra(program.jaxpr), (statistic, law)
        seen.add(type(statistic))
    assert {c for c in every_statistic() if c.__module__.startswith("popgd.")} <= seen
    for law in LAWS:
        for draw in (law.sample, law.orbit, kronecker.without_rotation(law).sample):
            program = jax.make_jaxpr(partial(draw, dtype=FLOAT64))(jax.random.key(0))
            assert not gradient.calls_linear_algebra(program.jaxpr), (draw, law)


def every_statistic():
    """Classes of popgd whose objects take weights and a sample and are no loss."""
    losses = {SubspaceDistance, PowerIteration, in_context.SquaredError}
    # Whatever a user's loss calls is found in its trace, and then runs on one device
    losses |= {given.Scalar, examined._Statistic, curvature._Hessian}
    for module in (m for name, m in sys.modules.copy().items() if name.startswith("popgd")):
        for thing in vars(module).values():
            call = vars(thing).get("__call__") if isinstance(thing, type) else None
            names = tuple(inspect.signature(call).parameters)[1:] if call else ()
            if (
                names == ("weights", "sample")
                and thing not in losses
                and not getattr(thing, "_is_protocol", False)
            ):
                yield thing


def test_the_law_of_many_spectra_compiles_without_lapack():
    text = (
        UniformSphere._matrices.lower(LAWS[0], jax.random.split(jax.random.key(0), 4))
        .compile()
        .as_text()
    )
    assert not CALL.search(text or "")


def test_a_program_is_traced_once_to_look_through_it_and_to_run(monkeypatch):
    """Tracing those of a run again took a third of a second."""
    traced = []

    class Counted:
        def __call__(self, weights, sample):
            traced[-1] += 1
            return jnp.sum(sample.q)

    weights, law = model.embed(jnp.asarray(1.0), jnp.asarray(0.5), 2), Rotated.with_spectrum([2, 1])
    for devices in (1, 2):  # on one device nothing is looked through
        monkeypatch.setattr(jax, "local_device_count", lambda count=devices: count)
        traced.append(0)
        gradient.population_average(Counted(), weights, law, jax.random.key(0), 4)
    assert traced[0] == traced[1] > 0


#: S v = lam_1 v to this, relative to lam_1: measured 1e-15 for d up to 100, whatever the gap.
RESIDUAL = 1e-13


@pytest.mark.parametrize("d", [2, 5, 20, 50])
@pytest.mark.parametrize("gap", [0.5, 1e-3, 1e-8, 1e-12, 0.0])
def test_the_leading_eigenvector_is_good_to_rounding_whatever_the_gap(d, gap):
    rng = np.random.default_rng(d)
    O = np.linalg.qr(rng.normal(size=(d, d)))[0]
    lam = np.concatenate([[1.0, 1.0 - gap], rng.uniform(0, 0.9, d - 2)]) * 7.0
    S = (O * lam) @ O.T
    v = np.asarray(leading(jnp.asarray((S + S.T) / 2)))[:, 0]
    assert abs(v @ v - 1) < 1e-14
    assert np.abs(S @ v - lam[0] * v).max() < RESIDUAL * lam[0]
    if gap >= 1e-8:  # turned by rounding over the gap at most
        assert abs(abs(v @ O[:, 0]) - 1) < (1e-14 / gap) ** 2 + 1e-14


def test_too_few_squarings_do_not_pass_for_an_eigenvector(monkeypatch):
    monkeypatch.setattr("popgd.problem.law.SQUARINGS", 3)
    S = jnp.diag(jnp.array([1.0, 0.99, 0.5]))
    O = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])
    v = np.asarray(leading(O @ S @ O.T))[:, 0]
    assert np.abs(O @ S @ O.T @ v - v).max() > RESIDUAL


def test_leading_of_float32_and_of_zero():
    S = jnp.diag(jnp.array([1.0, 3.0, 2.0], jnp.float32))
    v = leading(S)
    assert v.dtype == jnp.float32 and float(abs(abs(v[1, 0]) - 1)) < 1e-6
    assert np.isnan(np.asarray(leading(jnp.zeros((2, 2))))).all()


# --- runs

#: Gradients under a law that calls LAPACK, on two devices: before, all starts stopped within 200 of
#: these.
LOOP = """
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 2)
from popgd.descent import gradient
from popgd.papers.power_method.data import UniformSphere
from popgd.papers.power_method.model import Active
from popgd.papers.power_method.objectives import SubspaceDistance

@jax.tree_util.register_static
class Decomposed(UniformSphere):
    def sample(self, key, dtype):
        sample = super().sample(key, dtype)
        return sample._replace(V=jnp.linalg.eigh(sample.X @ sample.X.T)[1][:, -1:])

weights = Active(20).embed(jnp.array([1.0, 0.3]))
for law in (UniformSphere(20, 24), Decomposed(20, 24)):
    for i in range(200):
        key = jax.random.key(i)
        found = gradient.population_gradient(SubspaceDistance(1), weights, law, key, 64, Active(20))
    statistic = gradient.GradientOf(SubspaceDistance(1), Active(20))
    where = gradient._devices_for(statistic, weights, law, jax.random.key(0), 64, None)
    print(found.mean.coordinates, len(where.devices))
"""
#: Next to no sampling.
SMALL = ("samples=256", "batch=8", "sampled_steps=4", "budget=0")
SIZES = {d: f"spectrum=[{d},{','.join(['3'] * (d - 1))}]" for d in (20, 50, 100)}
RUNS = [
    *(
        (name, ("law=uniform", f"d={d}"))
        for d in SIZES
        for name in ("4.1", "4.2", "4.3", "4.6", "4.7")
    ),
    *(
        (name, (spectrum,))
        for spectrum in SIZES.values()
        for name in ("4.1", "4.2", "4.3", "4.6", "4.7")
    ),
    *(
        (f"{name}.stability", (spectrum, "steps=100"))
        for spectrum in SIZES.values()
        for name in ("4.1", "4.2", "4.3")
    ),
    *(
        (f"gatmiry.{name}", (f"d={d}", f"n={10 * d}", "L=1", "steps=1000"))
        for d in SIZES
        for name in ("minimiser", "ood", "loops", "dominance")
    ),
    # At n = infinity, as by default
    *(("gatmiry.flow", (f"d={d}", "L=1", "steps=1000")) for d in SIZES),
]


def command(*words, timeout, **environment):
    """A run of the command line, on two devices at least, as users have it."""
    return subprocess.run(
        [sys.executable, "-m", "popgd.run", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )


@pytest.mark.slow
def test_a_law_that_calls_lapack_runs_on_one_device_and_ends():
    ended = subprocess.run(
        [sys.executable, "-c", LOOP], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert [line.split()[-1] for line in ended.stdout.splitlines()] == ["2", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("theorem", theorems())
def test_no_program_of_a_run_calls_lapack_or_an_fft(theorem, tmp_path):
    """Every program that XLA compiles for a run on two devices, whatever asked for it."""
    own = (
        ("L=2",)
        if theorem == "4.1"
        else ("spectra=4", "steps=20")
        if theorem.endswith("stability")
        else ()
    )
    law = ("law=uniform", "d=3", "n=7") if theorem[0] == "4" else ()
    ended = command(
        f"theorem={theorem}",
        *law,
        *own,
        *SMALL,
        f"out={tmp_path / 'run'}",
        timeout=3000,
        XLA_FLAGS=f"--xla_dump_to={tmp_path / 'programs'} --xla_dump_hlo_as_text",
    )
    assert ended.returncode in (0, 1, 3), ended.stderr
    programs = list((tmp_path / "programs").glob("*after_optimizations.txt"))
    assert len(programs) > 3
    found = {file.name: CALL.findall(file.read_text()) for file in programs}
    assert not {name: calls for name, calls in found.items() if calls}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("theorem", "words"), RUNS, ids=lambda x: x if isinstance(x, str) else " ".join(x)[:24]
)
def test_runs_of_many_dimensions_end(theorem, words, tmp_path):
    ended = command(f"theorem={theorem}", *words, *SMALL, f"out={tmp_path / 'run'}", timeout=3000)
    assert ended.returncode in (0, 3), ended.stdout + ended.stderr
    assert (tmp_path / "run" / "report.json").exists()
