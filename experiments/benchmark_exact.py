"""The exact engine: the price of a slope, of a step, and of a digit."""

import time
from collections.abc import Callable
from math import log
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from popgd.descent import gradient, recursion
from popgd.descent.interpolant import interpolate
from popgd.papers.power_method import curve, model
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.objectives import SubspaceDistance
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.quadrature.trapezoid import node_count

SPECTRUM, L = (8.0, 5.0, 4.0, 2.0, 1.0), 3
#: (d, L): the dimension at L = 3, then the nodes, whose number grows with L.
SLOPES = tuple((d, 3) for d in (5, 10, 20, 50, 100)) + tuple((20, L) for L in (1, 10, 30))
POINTS = 256
STEPS, VMAPPED, VMAPPED_STEPS = 10**8, 64, 10**6
SAMPLES = 2**18
#: Relative errors of the gradient that both engines are asked for.
DIGITS = (1e-3, 1e-6, 1e-12)


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """(seconds, processor seconds, what it returns)."""
    began, processor = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - began, time.process_time() - processor, found


def slopes() -> list[dict[str, Any]]:
    """Seconds for one l'(c) of Theorem 4.1 with its bound, and how many nodes that takes."""
    rows = []
    for d, loops in SLOPES:
        lam = np.linspace(4, 1, d)
        population = curve.Looped.of(Spectrum.of(lam), loops)
        c = np.geomspace(0.01, 100, POINTS)
        first, _, _ = timed(lambda p=population, c=c: p.slope(c))
        seconds = (
            sorted(timed(lambda p=population, c=c: p.slope(c))[0] for _ in range(5))[2] / POINTS
        )
        found = population.slope(c)
        nodes = node_count(2.0, d / 2, 2 * loops * log(population.cond))
        rows.append({"d": d, "L": loops, "nodes": nodes, "seconds": seconds, "first call": first,
                     "bound": float(np.max(found.bound / abs(found.value)))})  # fmt: skip
        print(f"l' at d = {d}, L = {loops}: {nodes} nodes, {seconds * 1e6:.1f} us", flush=True)
    return rows


def steps() -> dict[str, float]:
    """Gradient steps a second of the recursion, one descent and many."""
    population = curve.Looped.of(Spectrum.of(SPECTRUM), L)
    slope = interpolate(lambda c: np.asarray(population.log_slope(c).value), 2, largest=1e10)
    d, found = len(SPECTRUM), {}
    for name, eta, count in (
        ("single", 0.2, STEPS),
        ("vmapped", np.geomspace(0.02, 0.2, VMAPPED), VMAPPED_STEPS),
    ):
        recursion.recurse(slope, (1.0, 0.0), eta, d, np.array([1000]))
        wall, processor, _ = timed(
            lambda e=eta, n=count: recursion.recurse(slope, (1.0, 0.0), e, d, np.array([n]))
        )
        found |= {
            f"{name} seconds": wall,
            f"{name} rate": count * np.size(eta) / wall,
            f"{name} cores": processor / wall,
        }
        print(
            f"{name}: {count * np.size(eta):.0e} steps in {wall:.1f} s on {processor / wall:.2f} "
            "cores",
            flush=True,
        )
    return found


def digits() -> dict[str, Any]:
    """Seconds to a relative error of l'(c): exact, measured; Monte Carlo, from one run and the root
    of its samples.
    """
    law, (a, b) = Rotated.with_spectrum(SPECTRUM), (2.0, 0.25)
    population = curve.Looped.of(Spectrum.of(SPECTRUM), L)
    first, _, _ = timed(lambda: population.slope(np.array([a * b])))
    exact, _, found = timed(lambda: population.slope(np.array([a * b])))
    weights = model.embed(jnp.asarray(a), jnp.asarray(b), law.d)

    def sampled() -> gradient.Estimate:
        estimate = gradient.population_gradient(
            SubspaceDistance(L), weights, law, jax.random.key(0), SAMPLES, model.Active(law.d)
        )
        return jax.block_until_ready(estimate)

    sampled()
    seconds, _, estimate = timed(sampled)
    relative = float(estimate.stderr.coordinates[1] / abs(estimate.mean.coordinates[1]))
    apart = float(abs(estimate.mean.coordinates[1] / (a * found.value[0] / law.d) - 1) / relative)
    print(
        f"l' exact in {exact:.1e} s, Monte Carlo {relative:.1e} in {seconds:.1f} s, {apart:.1f} "
        "errors apart",
        flush=True,
    )
    return {
        "exact seconds": exact,
        "exact first call": first,
        "exact bound": float(found.bound[0] / abs(found.value[0])),
        "Monte Carlo seconds": seconds,
        "Monte Carlo error": relative,
        "standard errors apart": apart,
        "Monte Carlo seconds to": {
            f"{error:g}": seconds * (relative / error) ** 2 for error in DIGITS
        },
    }


def measure() -> dict[str, Any]:
    return {"slopes": slopes(), "steps": steps(), "digits": digits()}
