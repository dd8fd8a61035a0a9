"""Evidence that {P21 = a I, Q12 = b I, all other blocks 0} is invariant, and that the transformer
is a power iteration on it.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from popgd.claims.evidence import Evidence, estimated, known
from popgd.descent import gradient
from popgd.papers.power_method import model
from popgd.papers.power_method.data import Sample, UnitColumns
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import OfLoops
from popgd.papers.power_method.training.manifold import motionless
from popgd.papers.power_method.training.study import Study

#: Samples of the samplewise claims, at each of RANDOM_WEIGHTS random active blocks. They hold for
#: every single sample, so a few hundred show any systematic breach.
SAMPLEWISE, RANDOM_WEIGHTS = 64, 4
#: A joint test of many entries must see a shift of this many standard deviations of one sample's
#: own entry: a law that is not rotation-invariant, or a wrong layer, shifts some entry by the order
#: of one.
SPREAD_RESOLUTION = 0.1
#: Rounding of one forward pass, in units of eps per loop and of the output's sensitivity; S sums n
#: terms. Measured worst: 30 (d = 50, n = 200, L = 50), and 2.7 n for n = 1000 nearly equal columns.
FORWARD_ROUNDING, SUM_ROUNDING = 300, 10
#: A wrong layer moves the output by the order of itself; where rounding could do a tenth of that,
#: nothing can be told.
FORWARD_RESOLUTION = 0.1
#: Draws of a relative perturbation that measure that sensitivity.
SHAKES = 4


def _random_active(key: jax.Array, d: int, dtype: jnp.dtype) -> np.ndarray:
    """Two random active blocks (2, d, d) that are no multiples of I, of the size of I."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return (rng.standard_normal((2, d, d)) / np.sqrt(d)).astype(dtype)


# Unoptimised: it runs once on a few samples, and takes a quarter of the time to compile.
@partial(
    jax.jit, static_argnames="objective", compiler_options={"xla_backend_optimization_level": 0}
)
def _outputs(
    objective: OfLoops, law: UnitColumns, key: jax.Array, weights: Weights
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A root of S, q and the transformer's output for SAMPLEWISE samples."""

    def one(k: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        sample: Sample = law.sample(k, weights.P.dtype)
        f = model.looped(
            weights, sample.X, sample.q, objective.L, objective.layer_norm, sample.copies
        )
        return sample.root, sample.q, f

    return jax.vmap(one)(jax.random.split(key, SAMPLEWISE))


def _reduced(
    A: np.ndarray, B: np.ndarray, X: np.ndarray, q: np.ndarray, L: int, normalise: bool
) -> np.ndarray:
    """What the outputs (samples, d) are where the inactive blocks are 0, without the transformer: q
    <- N(q + A S B q), L times.

    Source: arXiv 2606.00605, Lemma A.1, for general active blocks.
    """
    q = q[..., None]
    for _ in range(L):
        q = q + A @ (X @ (X.swapaxes(-1, -2) @ (B @ q)))
        q = q / np.linalg.norm(q, axis=-2, keepdims=True) if normalise else q
    return q[..., 0]


def _forward_gap(
    objective: OfLoops, law: UnitColumns, key: jax.Array, A: np.ndarray, B: np.ndarray
) -> float:
    """The largest relative gap between the model's output and its reduced form, over samples.

    In units of the output's sensitivity, if that exceeds 1: where q + A S B q cancels, or many
    loops amplify, a relative change of the inputs by delta moves the output by more than delta, and
    so does rounding.
    """
    weights = model.active_weights(jnp.asarray(A), jnp.asarray(B))
    X, q, f = (np.asarray(x) for x in _outputs(objective, law, key, weights))
    shape = objective.L, objective.layer_norm
    g, delta = _reduced(A, B, X, q, *shape), float(np.sqrt(jnp.finfo(A.dtype).eps))
    rng, d, sensitivity = (
        np.random.default_rng(np.asarray(jax.random.key_data(key))),
        len(A),
        np.linalg.norm(g, axis=1),
    )
    for _ in range(SHAKES):
        E = (delta * rng.choice([-1, 1], (4, SAMPLEWISE, d, d)) / np.sqrt(d)).astype(A.dtype)
        moved = _reduced(
            A + E[0] @ A, B + E[1] @ B, X + E[2] @ X, q + (E[3] @ q[..., None])[..., 0], *shape
        )
        sensitivity = np.maximum(sensitivity, np.linalg.norm(moved - g, axis=1) / delta)
    with np.errstate(invalid="ignore"):
        return float(np.max(np.linalg.norm(f - g, axis=1) / sensitivity))


def samplewise(study: Study) -> tuple[float, float, float]:
    """Over several random active blocks: the largest inactive gradient entry, the largest gap of
    `_forward_gap`, and the size of the gradient of the active blocks where it is least.

    The entry is a mean or a standard error over samples: both are exactly 0 only if every sample's
    entry is. A NaN counts as infinite.
    """
    setting, largest, gaps, active = study.setting, 0.0, [], np.inf
    manifold = model.Active(setting.law.d)
    for number in range(RANDOM_WEIGHTS):
        key = setting.key(0, number)
        A, B = _random_active(key, setting.law.d, jnp.dtype(setting.dtype))
        weights = model.active_weights(jnp.asarray(A), jnp.asarray(B))
        found = gradient.population_gradient(
            study.objective, weights, setting.law, key, SAMPLEWISE, manifold
        )
        for part in (found.mean.weights, found.stderr.weights):
            largest = max(largest, float(np.nan_to_num(manifold.inactive(part), nan=np.inf)))
        P, Q = (model.blocks(np.asarray(M)) for M in found.mean.weights)
        active = min(active, float(np.abs(P.b21).max()), float(np.abs(Q.b12).max()))
        gaps.append(_forward_gap(study.objective, setting.law, key, A, B))
    return largest, float(np.max(gaps)), active


def structure(study: Study) -> Iterator[Evidence]:
    """What holds sample by sample and along the raw descent: no error bar but rounding."""
    setting = study.setting
    inactive, gap, active = samplewise(study)
    tiny = float(jnp.finfo(setting.dtype).tiny)
    yield known(
        "inactive-gradient-zero",
        "Sample by sample, the gradient of all six inactive blocks is exactly 0, for random "
        "active blocks A, B too",
        "invariance: inactive blocks",
        measured=float(inactive),
        resolution=tiny,
        reason="exact: the zeros are structural, in floating point too",
        excuse=""
        if active
        else "the active blocks have no gradient either: there is none to be 0 in the others alone",
    )
    each = max(FORWARD_ROUNDING, SUM_ROUNDING * setting.law.n)
    rounding = each * study.objective.L * study.eps
    yield known(
        "forward-reduced",
        "The transformer's output is that of q <- N(q + A S B q), L times (N = identity without "
        "LN)",
        "reduction to the power iteration",
        measured=float(gap),
        allowance=rounding,
        resolution=min(max(1e-10, 2 * rounding), FORWARD_RESOLUTION),
        reason=f"rounding of the forward pass: {each} eps a loop, times the output's sensitivity "
        "to its inputs",
    )
    yield known(
        "inactive-blocks-zero",
        f"All six inactive blocks stay exactly 0 along {study.raw.step[-1]} steps of raw descent",
        "invariance: inactive blocks",
        measured=float(study.raw.inactive[-1]),
        resolution=tiny,
        reason="exact: a block with gradient 0 does not move",
        excuse=motionless(study.raw.coordinates),
    )


def schur(study: Study) -> Iterator[Evidence]:
    """The population gradient of the active blocks is a multiple of I at exact points of the
    manifold.
    """
    measured = []
    for point in study.points:
        (mean, stderr), samples = point.estimate[:2], int(point.estimate.samples)
        off = ~np.eye(study.setting.law.d, dtype=bool)
        (P, Q), (P_error, Q_error) = (
            [model.blocks(M) for M in part.weights] for part in (mean, stderr)
        )
        pairs = [(P.b21, P_error.b21), (Q.b12, Q_error.b12)]
        entries = [(np.asarray(m)[off], np.asarray(s)[off]) for m, s in pairs]
        entries += [(np.asarray(mean.deviations).ravel(), np.asarray(stderr.deviations).ravel())]
        value, error = (np.concatenate(x) for x in zip(*entries, strict=True))
        moving = error > 0
        if np.any(value[~moving] != 0):
            measured.append(np.array([np.inf]))
        measured.append(value[moving] / (error[moving] * np.sqrt(samples)))
    z = np.concatenate(measured)
    yield estimated(
        "active-gradient-scalar",
        f"On the manifold the gradient of each active block is a multiple of I: {z.size} entries "
        "jointly, in units of "
        "the spread of one sample",
        "invariance: Schur's lemma",
        measured=z,
        error=1 / np.sqrt(study.setting.samples),
        resolution=SPREAD_RESOLUTION,
        drawn=("samples", study.setting.samples),
        reason="sampling error only: unbiased at exact points of the manifold",
    )
