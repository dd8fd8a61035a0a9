"""The full-block Monte Carlo gradient against what else one could write, on the same samples,
interleaved.

Work is counted in products of the plain algorithm, two operations a multiplication and addition,
the same for all:

    a layer forward   Z Z^T: 2 D^2 N,  P (Z Z^T) Q: 4 D^3,  (...) Z: 2 D^2 N      D = 2d rows, N = n
                      + 1 tokens
    backward          twice that, as each product has two factors
    a sample          12 L (D^2 N + D^3)

popgd leaves out what nobody looks at (`executed`), so its rate by that count may exceed that of a
large product (GEMM). popgd alone also has the standard error of every entry; all others have the
mean only.
"""

import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from popgd.descent import gradient
from popgd.papers.power_method import model
from popgd.papers.power_method.data import Rotated, Sample
from popgd.papers.power_method.model import Active, Weights
from popgd.papers.power_method.objectives import SubspaceDistance
from popgd.problem.pytree import registered

try:
    torch: Any = importlib.import_module("torch")
except ImportError:
    torch = None

#: (d, n, L) and how often each is timed.
SIZES = {(5, 20, 3): 9, (10, 50, 3): 9, (20, 100, 3): 5, (50, 200, 2): 3}
BATCH = 4096
GEMM = 2048
#: How far, relative to the largest entry, two mean gradients of the same samples may differ by
#: rounding.
SAME = {"float32": 2e-4, "float64": 1e-11}


@registered(["samples"])
@dataclass(frozen=True, eq=False)
class Stored:
    """A law that looks a stored sample up instead of drawing one: the gradient without its sampler,
    otherwise the same code.
    """

    samples: Sample

    @property
    def d(self) -> int:
        return self.samples.X.shape[1]

    @property
    def n(self) -> int:
        return self.samples.X.shape[2]

    def number(self, key: Any) -> Any:
        return jax.random.key_data(key)[1] % self.samples.X.shape[0]

    def sample(self, key: Any, dtype: Any) -> Sample:
        return Sample(*(part[self.number(key)] for part in self.samples[:3]))


def operations(d: int, n: int, L: int) -> int:
    """Of the plain algorithm, for one sample."""
    D, N = 2 * d, n + 1
    return 12 * L * (D * D * N + D**3)


def executed(d: int, n: int, L: int) -> int:
    """Of popgd: the first layer's input is data and needs no gradient, the last layer is that of
    the query.
    """
    D, N = 2 * d, n + 1
    return (L - 2) * 12 * (D * D * N + D**3) + 6 * D * D * N + 10 * D**3 + 12 * (D * D + D * N)


def plain_loss(weights: Weights, sample: Sample, L: int) -> Any:
    Z = model.tokens(sample.X, sample.q)
    for _ in range(L):
        Z = model.layer(weights, Z)
    f = Z[sample.X.shape[0] :, -1]
    return jnp.sum((f - sample.V @ (sample.V.T @ f)) ** 2)


def one_vmap(weights: Weights, samples: Sample, L: int) -> Callable[[], Weights]:
    """The naive form in JAX: the gradient of the mean over one vmap."""
    compiled = jax.jit(jax.grad(lambda w, s: jnp.mean(jax.vmap(partial(plain_loss, w, L=L))(s))))
    return lambda: jax.block_until_ready(compiled(weights, samples))


def numpy_forward(weights: Weights, samples: Sample, L: int) -> Callable[[], float]:
    """A loop over the samples, forward only."""
    P, Q, X, q, V = (np.asarray(part) for part in (*weights, *samples[:3]))
    (d, n), dtype = X.shape[1:], P.dtype

    def run() -> float:
        total = 0.0
        for k in range(len(X)):
            Z = np.zeros((2 * d, n + 1), dtype)
            Z[:d, :n], Z[d:, n] = X[k], q[k]
            for _ in range(L):
                Z = Z + (P @ (Z @ Z.T) @ Q) @ Z
                Z = Z / np.sqrt((Z * Z).sum(axis=0))
            f = Z[d:, -1]
            total += float(((f - V[k] @ (V[k].T @ f)) ** 2).sum())
        return total / len(X)

    return run


def torch_gradient(weights: Weights, samples: Sample, L: int) -> Callable[[], Weights]:
    """PyTorch, eager: batched products and autograd."""
    torch.set_num_threads(len(jax.devices()))
    P, Q, X, q, V = (torch.from_numpy(np.array(part)) for part in (*weights, *samples[:3]))
    for matrix in (P, Q):
        matrix.requires_grad_()
    count, d, n = X.shape

    def run() -> Weights:
        Z = torch.zeros((count, 2 * d, n + 1), dtype=X.dtype)
        Z[:, :d, :n], Z[:, d:, n] = X, q
        for _ in range(L):
            Z = Z + (P @ (Z @ Z.mT) @ Q) @ Z
            Z = Z / torch.linalg.vector_norm(Z, dim=1, keepdim=True)
        f = Z[:, d:, -1:]
        loss = (f - V @ (V.mT @ f)).square().sum((1, 2)).mean()
        return Weights(*(part.numpy() for part in torch.autograd.grad(loss, (P, Q))))

    return run


def products(dtype: str) -> dict[str, Callable[[], Any]]:
    """A large product, by NumPy and by XLA: the faster one is the GEMM rate."""
    A = np.random.default_rng(0).normal(size=(GEMM, GEMM)).astype(dtype)
    on_device, product = jnp.asarray(A), jax.jit(jnp.matmul)
    return {
        "GEMM numpy": lambda: A @ A,
        "GEMM xla": lambda: jax.block_until_ready(product(on_device, on_device)),
    }


def interleaved(work: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each piece of work, one after the other in every round; compiled before."""
    seconds = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def setting(d: int, n: int, L: int, dtype: str) -> tuple[Weights, Rotated, Any]:
    """Weights without any zero block, a law, and the key of the samples."""
    rng = np.random.default_rng(d)
    weights = Weights(
        *(jnp.asarray(rng.normal(size=(2 * d, 2 * d)) / (2 * d) ** 0.5, dtype) for _ in range(2))
    )
    lam = np.linspace(2, 1, d)
    return weights, Rotated.with_spectrum(lam * n / lam.sum()), jax.random.key(d)


def measure_one(d: int, n: int, L: int, dtype: str, repeats: int) -> dict[str, float]:
    weights, law, key = setting(d, n, L, dtype)
    objective, manifold = SubspaceDistance(L), Active(d)
    numbers = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(BATCH))
    samples = jax.jit(
        partial(jax.lax.map, lambda k: law.sample(k, jnp.dtype(dtype)), batch_size=64)
    )(numbers)
    stored = gradient.everywhere(Stored(samples))
    same = jax.tree.map(lambda part: part[jax.vmap(stored.number)(numbers)], samples)

    def estimate(where: Any) -> Any:
        found = gradient.population_gradient(objective, weights, where, key, BATCH, manifold)
        return jax.block_until_ready(found.mean.weights)

    others: dict[str, Callable[[], Any]] = {"one vmap": one_vmap(weights, same, L)}
    if torch is not None:
        others["PyTorch"] = torch_gradient(weights, same, L)
    wanted = np.stack(jax.device_get(estimate(stored)))
    for name, run in others.items():
        gap = float(abs(np.stack(jax.device_get(run())) - wanted).max() / abs(wanted).max())
        assert gap < SAME[dtype], (
            f"{name} has another gradient: {gap:.1e} relative at {(d, n, L)} {dtype}"
        )
    work = {
        "popgd": partial(estimate, stored),
        "popgd with sampling": partial(estimate, law),
        **others,
    }
    work |= {"NumPy loop, forward": numpy_forward(weights, same, L)} | products(dtype)
    for name in ("popgd with sampling", "GEMM xla"):
        work[name]()
    return interleaved(work, repeats)


def measure() -> list[dict[str, Any]]:
    """One row for each size and format: seconds, rates, fractions."""
    rows = []
    for (d, n, L), repeats in SIZES.items():
        for dtype in ("float32", "float64"):
            seconds = measure_one(d, n, L, dtype, repeats)
            gemm = 2 * GEMM**3 / min(seconds.pop("GEMM numpy"), seconds.pop("GEMM xla"))
            plain, done = (
                BATCH * count(d, n, L) / seconds["popgd"] for count in (operations, executed)
            )
            row = {
                "d": d,
                "n": n,
                "L": L,
                "dtype": dtype,
                "seconds": seconds,
                "gemm": gemm,
                "plain rate": plain,
                "executed rate": done,
                "sampler": 1 - seconds["popgd"] / seconds["popgd with sampling"],
            }
            rows.append(row)
            told = ", ".join(f"{name} {value:.3g} s" for name, value in seconds.items())
            print(
                f"gradient {(d, n, L)} {dtype}: {told}; GEMM {gemm / 1e9:.0f} GFLOP/s", flush=True
            )
            jax.clear_caches()
    return rows
