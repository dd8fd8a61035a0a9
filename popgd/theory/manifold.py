"""Evidence about descent on the manifold {P21 = a I, Q12 = b I, all other blocks 0}: structure and cross-examination.

Every function takes a `Study` and yields evidence; no theorem's number stands here.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from popgd import gradient, model
from popgd.data import Sample, UnitColumns
from popgd.descent import Trajectory
from popgd.objectives import OfLoops
from popgd.theory.noise import deviation
from popgd.theory.study import Point, Study, path_of
from popgd.verdict import Evidence
from popgd.weights import Weights

#: Samples of the samplewise claims, at each of RANDOM_WEIGHTS random active blocks. They hold for every single sample, so
#: a few hundred show any systematic breach.
SAMPLEWISE, RANDOM_WEIGHTS = 64, 4
#: A joint test of many entries must see a shift of this many standard deviations of one sample's own entry: a law that
#: is not rotation-invariant, or a wrong layer, shifts some entry by the order of one.
SPREAD_RESOLUTION = 0.1
#: Exact and sampled slopes must agree this closely: half the distance to a ratio of 1/2, the least forgotten factor.
SLOPE_RESOLUTION = 0.25
#: A wrong factor 2 in the gradient moves c after many steps by 2^(1/3) - 1 = 26 %; half of that must be seen.
TRAJECTORY_RESOLUTION = 0.13
#: The largest relative standard error h of a trace's sampled second moment. Where the mean is small against the spread h
#: bounds skewness/sqrt(samples), and a studentised mean exceeds z at most exp(h z^3/3) times as often as a normal one
#: (Wang 2005): 5 times at the z = 5.5 of a default run, whose h is 0.01 and that factor 1.7.
HEAVY = 0.03
#: Raw descents scatter more than the noise of their traces explains: 1.22 times, measured over 60 seeds of 4.3.
RAW_SCATTER = 1.25
#: Below this a limit of the loss counts as 0 (losses start at order one).
LOSS_RESOLUTION = 1e-9
#: Rounding of one forward pass, in units of eps per loop and of the output's sensitivity; S sums n terms. Measured worst:
#: 30 (d = 50, n = 200, L = 50), and 2.7 n for n = 1000 nearly equal columns.
FORWARD_ROUNDING, SUM_ROUNDING = 300, 10
#: A wrong layer moves the output by the order of itself; where rounding could do a tenth of that, nothing can be told.
FORWARD_RESOLUTION = 0.1
#: Draws of a relative perturbation that measure that sensitivity.
SHAKES = 4


def random_active(key: jax.Array, d: int, dtype: jnp.dtype) -> np.ndarray:
    """Two random active blocks (2, d, d) that are no multiples of I, of the size of I."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return (rng.standard_normal((2, d, d)) / np.sqrt(d)).astype(dtype)


@partial(jax.jit, static_argnames="objective")
def _outputs(objective: OfLoops, law: UnitColumns, key: jax.Array, weights: Weights) -> tuple[jax.Array, jax.Array, jax.Array]:
    """X, q and the transformer's output for SAMPLEWISE samples."""

    def one(k: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        sample: Sample = law.sample(k, weights.P.dtype)
        return sample.X, sample.q, model.looped(weights, sample.X, sample.q, objective.L, objective.layer_norm)

    return jax.vmap(one)(jax.random.split(key, SAMPLEWISE))


def _reduced(A: np.ndarray, B: np.ndarray, X: np.ndarray, q: np.ndarray, L: int, normalise: bool) -> np.ndarray:
    """What the outputs (samples, d) are where the inactive blocks are 0, without the transformer: q <- N(q + A S B q), L times.

    Source: arXiv 2606.00605, Lemma A.1, for general active blocks.
    """
    q = q[..., None]
    for _ in range(L):
        q = q + A @ (X @ (X.swapaxes(-1, -2) @ (B @ q)))
        q = q / np.linalg.norm(q, axis=-2, keepdims=True) if normalise else q
    return q[..., 0]


def _forward_gap(objective: OfLoops, law: UnitColumns, key: jax.Array, A: np.ndarray, B: np.ndarray) -> float:
    """The largest relative gap between the model's output and its reduced form, over samples.

    In units of the output's sensitivity, if that exceeds 1: where q + A S B q cancels, or many loops amplify, a relative
    change of the inputs by delta moves the output by more than delta, and so does rounding.
    """
    weights = model.active_weights(jnp.asarray(A), jnp.asarray(B))
    X, q, f = (np.asarray(x) for x in _outputs(objective, law, key, weights))
    shape = objective.L, objective.layer_norm
    g, delta = _reduced(A, B, X, q, *shape), float(np.sqrt(jnp.finfo(A.dtype).eps))
    rng, d, sensitivity = np.random.default_rng(np.asarray(jax.random.key_data(key))), len(A), np.linalg.norm(g, axis=1)
    for _ in range(SHAKES):
        E = (delta * rng.choice([-1, 1], (4, SAMPLEWISE, d, d)) / np.sqrt(d)).astype(A.dtype)
        moved = _reduced(A + E[0] @ A, B + E[1] @ B, X + E[2] @ X, q + (E[3] @ q[..., None])[..., 0], *shape)
        sensitivity = np.maximum(sensitivity, np.linalg.norm(moved - g, axis=1) / delta)
    with np.errstate(invalid="ignore"):
        return float(np.max(np.linalg.norm(f - g, axis=1) / sensitivity))


def samplewise(study: Study) -> tuple[float, float]:
    """Over several random active blocks: the largest inactive gradient entry, and the largest gap of `_forward_gap`.

    The entry is a mean or a standard error over samples: both are exactly 0 only if every sample's entry is. A NaN
    counts as infinite.
    """
    setting, largest, gaps = study.setting, 0.0, []
    manifold = model.Active(setting.law.d)
    for number in range(RANDOM_WEIGHTS):
        key = setting.key(0, number)
        A, B = random_active(key, setting.law.d, jnp.dtype(setting.dtype))
        weights = model.active_weights(jnp.asarray(A), jnp.asarray(B))
        found = gradient.population_gradient(study.objective, weights, setting.law, key, SAMPLEWISE, manifold)
        for part in (found.mean.weights, found.stderr.weights):
            largest = max(largest, float(np.nan_to_num(manifold.inactive(part), nan=np.inf)))
        gaps.append(_forward_gap(study.objective, setting.law, key, A, B))
    return largest, float(np.max(gaps))


def structure(study: Study) -> Iterator[Evidence]:
    """What holds sample by sample and along the raw descent: no error bar but rounding."""
    setting = study.setting
    inactive, gap = samplewise(study)
    tiny = float(jnp.finfo(setting.dtype).tiny)
    yield Evidence(
        "inactive-gradient-zero",
        "Sample by sample, the gradient of all six inactive blocks is exactly 0, for random active blocks A, B too",
        "invariance: inactive blocks",
        predicted=0.0,
        measured=float(inactive),
        error=0.0,
        allowance=0.0,
        resolution=tiny,
        reason="exact: the zeros are structural, in floating point too",
        statistical=False,
    )
    each = max(FORWARD_ROUNDING, SUM_ROUNDING * setting.law.n)
    rounding = each * study.objective.L * study.eps
    yield Evidence(
        "forward-reduced",
        "The transformer's output is that of q <- N(q + A S B q), L times (N = identity without LN)",
        "reduction to the power iteration",
        predicted=0.0,
        measured=float(gap),
        error=0.0,
        allowance=rounding,
        resolution=min(max(1e-10, 2 * rounding), FORWARD_RESOLUTION),
        reason=f"rounding of the forward pass: {each} eps a loop, times the output's sensitivity to its inputs",
        statistical=False,
    )
    yield Evidence(
        "inactive-blocks-zero",
        f"All six inactive blocks stay exactly 0 along {study.raw.step[-1]} steps of raw descent",
        "invariance: inactive blocks",
        predicted=0.0,
        measured=float(study.raw.inactive[-1]),
        error=0.0,
        allowance=0.0,
        resolution=tiny,
        reason="exact: a block with gradient 0 does not move",
        statistical=False,
    )


def schur(study: Study) -> Iterator[Evidence]:
    """The population gradient of the active blocks is a multiple of I at exact points of the manifold."""
    measured = []
    for point in study.points:
        (mean, stderr), samples = point.estimate[:2], int(point.estimate.samples)
        off = ~np.eye(study.setting.law.d, dtype=bool)
        (P, Q), (P_error, Q_error) = ([model.blocks(M) for M in part.weights] for part in (mean, stderr))
        pairs = [(P.b21, P_error.b21), (Q.b12, Q_error.b12)]
        entries = [(np.asarray(m)[off], np.asarray(s)[off]) for m, s in pairs]
        entries += [(np.asarray(mean.deviations).ravel(), np.asarray(stderr.deviations).ravel())]
        value, error = (np.concatenate(x) for x in zip(*entries, strict=True))
        moving = error > 0
        if np.any(value[~moving] != 0):
            measured.append(np.array([np.inf]))
        measured.append(value[moving] / (error[moving] * np.sqrt(samples)))
    z = np.concatenate(measured)
    yield Evidence(
        "active-gradient-scalar",
        f"On the manifold the gradient of each active block is a multiple of I: {z.size} entries jointly, in units of "
        "the spread of one sample",
        "invariance: Schur's lemma",
        predicted=0.0,
        measured=z,
        error=1 / np.sqrt(study.setting.samples),
        allowance=0.0,
        resolution=SPREAD_RESOLUTION,
        reason="sampling error only: unbiased at exact points of the manifold",
    )


def slope_of(point: Point, d: int) -> tuple[float, float]:
    """l'(c) and its standard error from the gradient along (a, b): the one whose factor max(a, b) is larger."""
    k = int(point.a >= point.b)  # the gradient of Q12 carries a, that of P21 carries b
    factor, (mean, stderr) = max(point.a, point.b), point.estimate[:2]
    return float(mean.coordinates[k]) * d / factor, float(stderr.coordinates[k]) * d / factor


def slope_rounding(point: Point, d: int) -> float:
    """What float32 may have moved `slope_of` by: 0 in float64."""
    return float(np.asarray(point.rounding)[int(point.a >= point.b)]) * d / max(point.a, point.b)


def descent_rounding(study: Study, run: Trajectory) -> float:
    """What rounding may move c of a sampled descent by, relative to c: half a unit of a and of b a step, all the same way, and
    in float32 that of the slopes, which move c no more than they are moved themselves."""
    d = study.setting.law.d
    slopes = [slope_rounding(p, d) / max(abs(slope_of(p, d)[0]), 1e-300) for p in study.points if slope_rounding(p, d)]
    return float(run.step[-1]) * study.eps + max(slopes, default=0.0)


def downward_skewness(point: Point) -> float:
    """An upper bound of minus the skewness of one sample's trace x, from the moments of x and x^2.

    E(x - m)^3 = Cov(x^2, x) - 2 m s^2 with |Cov(x^2, x)| <= sd(x^2) s, s = sd(x); near equality for x of one sign.
    """
    mean, stderr, samples = point.estimate
    k = int(point.a >= point.b)
    m, variance = float(mean.coordinates[k]), float(stderr.coordinates[k]) ** 2 * samples
    spread = float(stderr.square[k]) * samples**0.5
    return max(spread / variance + 2 * m / variance**0.5, 0.0) if variance > 0 else 0.0


def negative_slope(study: Study) -> Iterator[Evidence]:
    """The gradient's trace is negative beyond its error all along the projected descent."""
    run = study.projected
    a, b, c = path_of(run)
    larger = (a >= b).astype(int)[:, None]  # the gradient of Q12 carries a, that of P21 carries b
    trace, error = (np.take_along_axis(x, larger, 1)[:, 0] for x in (run.window, run.window_stderr))
    samples = study.setting.batch * np.diff(run.step, prepend=-1)
    skewness = np.interp(c, [p.c for p in study.points], [downward_skewness(p) for p in study.points])
    yield Evidence(
        "gradient-negative",
        "The gradient's trace is negative beyond its sampling error, on average over the steps up to every record",
        "the loss falls in c",
        predicted=0.0,
        measured=trace,
        error=error,
        allowance=0.0,
        resolution=abs(trace),
        reason="sampling error only, its skewness bounded at the exact points; it must be smaller than the trace itself",
        sense="at most",
        # Few samples are in the first windows, and traces are skewed downwards: by the normal law alone a trace of 0
        # would be refuted in 7.6 % of runs at a nominal 5 %, and several times too often at 1e-6.
        skewness=skewness / np.sqrt(samples),
        excuse=blind(study, run),
    )


def broken_off(diverged_at: int | None) -> str:
    return "" if diverged_at is None else f"the descent is not finite at step {diverged_at}: judge a smaller step size"


def positive(name: str, statement: str, limit: float, error: float, excuse: str = "") -> Evidence:
    """The limit of the loss is positive: REFUTED at 0 and below, INCONCLUSIVE where its error hides its sign."""
    return Evidence(
        name,
        statement,
        "limit of the loss",
        predicted=2 * error,
        measured=limit,
        error=error,
        allowance=0.0,
        resolution=max(abs(limit), LOSS_RESOLUTION),
        reason="error: quadrature bound, and what descent has left; the prediction is twice that, as 0 itself refutes",
        sense="at least",
        statistical=False,
        excuse=excuse,
    )


def blind(study: Study, run: Trajectory | None = None) -> str:
    """Why sampling, or a sampled descent, can conclude nothing here; empty if it can.

    A standard error is worth something only if the second moment behind it is known: with heavy tails (many loops, large
    c) rare samples carry the mean, and a sample without them looks precise. And where first steps are so large that they
    make |a^2 - b^2| themselves, their noise is never forgotten, which the noise of `sampling_noise` leaves out.
    """
    for point in study.points:
        mean, stderr = point.estimate.mean.square, point.estimate.stderr.square
        k = int(point.a >= point.b)
        if not float(stderr[k]) <= HEAVY * float(mean[k]):
            return f"heavy tails: at c = {point.c:.3g} a few of {point.estimate.samples} samples carry all, raise samples"
    short = study.exact.short
    if run is not None and not abs(short.Delta[len(run.step) - 1]) <= 2 * abs(short.Delta[0]):
        return "large-step regime: the first steps make |a^2 - b^2|, and their noise stays; lower eta"
    return broken_off(run.diverged_at) if run is not None else ""


def cross_examination(study: Study) -> Iterator[Evidence]:
    """The two engines against each other: Monte Carlo on (P, Q) and quadrature on the manifold."""
    d = study.setting.law.d
    sampled = [slope_of(p, d) for p in study.points]
    value, error = np.array(sampled).T
    rounding = np.array([slope_rounding(p, d) for p in study.points])
    exact = study.exact.wide.slope(jnp.asarray([p.c for p in study.points] + [0.0]))
    exact, start = type(exact)(*(np.asarray(x)[:-1] for x in exact)), abs(float(exact.value[-1]))
    # Relative to the slope itself, or to that at the start where slopes pass through 0.
    scale = abs(exact.value) if study.exact.power else np.maximum(abs(exact.value), start)
    yield Evidence(
        "engines-agree-slope",
        "The sampled gradient of the full model has the slope l'(c) of the exact engine, at exact points of the manifold",
        "derived: grad_P21 = (b l'(c)/d) I",
        predicted=1.0,
        measured=1 + (value - exact.value) / scale,
        error=np.hypot(error, exact.stderr) / scale,
        allowance=(exact.bound + 100 * study.eps * abs(value) + rounding) / scale,
        resolution=SLOPE_RESOLUTION,
        reason="quadrature bound and rounding (that of float32 measured); sampling error of the gradient and of the spectra",
        origin="derived",
        excuse=blind(study),
    )
    yield from _trajectories(study)


def _trajectories(study: Study) -> Iterator[Evidence]:
    projected, raw, double = study.projected, study.raw, study.raw_double
    gap, c, noise, outer = deviation(study, projected)
    yield Evidence(
        "engines-agree-descent",
        f"The Schur-projected Monte Carlo descent follows the exact recursion: c at step {projected.step[-1]}, as a ratio",
        "derived: reduced dynamics",
        predicted=1.0,
        measured=1 + gap / c,
        error=float(np.hypot(noise, outer)) / abs(c),
        allowance=(noise / c) ** 2 + descent_rounding(study, projected),
        resolution=TRAJECTORY_RESOLUTION,
        reason="second order in the noise, and rounding; error: gradient noise summed over all steps, and the sampled spectra",
        origin="derived",
        excuse=blind(study, projected),
    )
    once, c, noise, outer = deviation(study, raw)
    twice, *_ = deviation(study, double)
    bias = 2 * (once - twice)
    yield Evidence(
        "engines-agree-raw",
        f"The raw descent at step {raw.step[-1]}, less its O(eta/batch) bias from two batch sizes, follows the recursion",
        "derived: noise in the active blocks biases c",
        predicted=1.0,
        measured=1 + (2 * twice - once) / c,
        error=float(np.hypot(RAW_SCATTER * 3**0.5 * noise, outer)) / abs(c),
        allowance=abs(bias / c) / 2 + 2 * (bias / c) ** 2 + 3 * descent_rounding(study, raw),  # (2 twice - once) of it
        resolution=2 * TRAJECTORY_RESOLUTION,
        reason=f"half the measured bias ({bias / c:+.1%} of c) for its own scatter over the blocks' entries, and second order",
        origin="derived",
        excuse=blind(study, raw) or broken_off(double.diverged_at),
    )
