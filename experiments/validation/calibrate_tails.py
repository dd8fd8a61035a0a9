"""How far the normal law, or its second order where a claim states the skewness of its mean, holds
in the far tail.

P(T > z) of a studentised mean is (1 - Phi(z)) exp(-skewness z^3/3) to leading order (Wang 2005,
moderate deviations of self-normalised sums); a symmetric entry stays below exp(-z^2/2) whatever its
tails (Efron 1969).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from math import exp
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from calibrate import Case

from popgd.claims.evidence import Evidence
from popgd.descent import gradient
from popgd.papers.in_context import model as in_context
from popgd.papers.power_method import model
from popgd.papers.power_method.kronecker import Kronecker
from popgd.papers.power_method.stability import hessian
from popgd.papers.power_method.stability.measure import Stability
from popgd.papers.power_method.training.study import Study
from popgd.theorem.report import find_theorem, resolve
from popgd.theorem.settings import TABLE
from popgd.theorem.verdict import z_score

#: Samples behind each skewness.
DRAWS = 2**14


@partial(jax.jit, static_argnames=("statistic", "count"))
def draws(statistic: Any, weights: Any, law: Any, key: jax.Array, count: int) -> Any:
    """A statistic of single samples."""
    return jax.lax.map(
        lambda k: statistic(weights, law.sample(k, jnp.float64)),
        jax.random.split(key, count),
        batch_size=64,
    )


def singles(study: Any) -> Iterator[tuple[str, int, np.ndarray]]:
    """(claim, sides, single samples of what it averages) at every point of a study."""
    if isinstance(study, Study):
        yield from on_manifold(study)
    elif isinstance(study, Stability):
        weights = Kronecker(study.setting.law.d).embed(jnp.asarray(study.theta))
        found = draws(
            hessian.SectorHessian(study.objective),
            weights,
            study.setting.law,
            study.setting.key(20),
            DRAWS // 2,
        )
        H = np.asarray(found)[:, 0]
        yield "hessian-coupling", 2, H[:, 3, 7]
        yield "saddle", 1, (H[:, 3, 3] + H[:, 7, 7]) / 2 - H[:, 3, 7]
        for i, j in zip(*np.triu_indices(8), strict=True):
            yield "engines-agree-hessian", 2, H[:, i, j]
    elif "sampled/loss" in study.values or "sampled" in study.values:
        yield from in_prompts(study)


def on_manifold(study: Study) -> Iterator[tuple[str, int, np.ndarray]]:
    law = study.setting.law
    for number, point in enumerate(study.points):
        key = study.setting.key(20, number)
        weights = model.embed(jnp.asarray(point.a), jnp.asarray(point.b), law.d)
        statistic = gradient.GradientOf(study.objective, model.Active(law.d))
        found = jax.device_get(draws(statistic, weights, law, key, DRAWS))
        trace = found.coordinates[:, 1]  # of Q12, which carries a >= b
        yield "engines-agree-gradient", 2, trace
        yield "active-gradient-scalar", 2, found.deviations[:, 1, 0]
        yield "active-gradient-scalar", 2, found.weights.Q[:, 1, law.d]


def in_prompts(study: Any) -> Iterator[tuple[str, int, np.ndarray]]:
    law, d = study.setting.law, study.setting.law.d
    name = "engines-agree-loss" if "sampled/loss" in study.values else "engines-agree-shifted"
    for number, a in enumerate((0.3, 0.6)):
        weights = in_context.embed(jnp.asarray(a * np.linalg.inv(law.Sigma)), jnp.zeros(d))
        statistic = gradient.GradientOf(study.objective, in_context.Support(d))
        found = jax.device_get(draws(statistic, weights, law, study.setting.key(20, number), DRAWS))
        yield name, 2, found.loss
        if name == "engines-agree-loss":
            yield from (("engines-agree-gradient-A", 2, x) for x in found.coordinates[:, : d * d].T)


def tails(case: Case, study: Any, claims: Sequence[Evidence]) -> list[dict[str, Any]]:
    """What skewness makes of the tail 1e-6 of a whole report, for the default number of samples."""
    theorem = find_theorem(case.theorem)
    default, rows = resolve({"theorem": case.theorem}), []
    known = {e.id: e for e in claims}
    share = TABLE["false_alarm"].default / len(claims) / max(1, len(theorem.targets))
    for name, sides, x in singles(study):
        if name not in known or x.std() <= 1e-12 * abs(x).max():
            continue
        y = (x - x.mean()) / x.std()
        skewness, n = float((y**3).mean()), default.samples
        z, each = z_score(share / sides / np.size(known[name].measured)), abs(skewness) / n**0.5
        stated = np.any(np.asarray(known[name].skewness) > 0)
        x = z + (each * (2 * z * z + 1) / 6 if stated else 0.0)
        factor = exp((z * z - x * x) / 2 + each * x**3 / 3)
        rows.append(
            {
                "claim": name,
                "n": n,
                "z": z,
                "skewness": skewness,
                "kurtosis": float((y**4).mean()),
                "stated": bool(stated),
                "tail_factor": factor,
            }
        )
    return rows
