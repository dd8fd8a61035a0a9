"""Paths that another program recorded: judged by the same claims, and what cannot be known of
them.
"""

from functools import cache, partial

import numpy as np
import pytest

from popgd import claims
from popgd.claims.recorded import recorded
from popgd.problem.errors import SettingError

ETA, SLOPE = 0.1, 1.5
#: Runs of somebody else's, and samples of a step.
SEEDS, BATCH = 8, 4096

product = lambda w: w["a"] * w["b"]
balance = lambda w: w["a"] ** 2 - w["b"] ** 2


def descend(steps, step_of, format=np.float64):
    """NumPy's own descent of (a b - slope)^2/2, every step recorded."""
    w, rows = np.array([0.5, 0.3, 0.0], format), []
    for t in range(steps + 1):
        rows.append(w)
        w = (w - ETA * step_of(w, t)).astype(format)
    a, b, idle = np.array(rows).T
    return {"step": np.arange(steps + 1), "a": a, "b": b, "idle": idle[:, None]}


def population(w, t):
    gap = w[0] * w[1] - SLOPE
    return np.array([gap * w[1], gap * w[0], 0.0])


@cache
def full(format=np.float64):
    return descend(2000, population, format)


@cache
def noisy(seed):
    draw = np.random.default_rng(seed)

    def gradient(w, t):
        x = draw.normal(size=BATCH)
        gap = np.mean(x * x) * (w[0] * w[1]) - np.mean(x * (SLOPE * x + draw.normal(size=BATCH)))
        return np.array([gap * w[1], gap * w[0], 0.0])

    return descend(1000, gradient)


def rate():
    """Of the last steps: 1 - eta (a^2 + b^2) at the end."""
    end = full()
    return -np.log1p(-ETA * (end["a"][-1] ** 2 + end["b"][-1] ** 2))


def outcome(path, *claims_of, **options):
    return str(claims.judge_path(path, claims_of, **options).outcome)


limit = partial(claims.converges, product, name="ab")


@pytest.mark.parametrize(
    ("claim", "wanted"),
    [
        (limit(SLOPE), "SUPPORTED"),
        (limit(SLOPE + 1e-5), "REFUTED"),
        (claims.stays_zero("idle"), "SUPPORTED"),
        (claims.stays_zero("a"), "REFUTED"),
        (claims.conserved(balance), "REFUTED"),  # flow keeps it; descent moves it by O(eta^2)
        (claims.monotone(product), "SUPPORTED"),
        (claims.monotone(product, falls=True), "REFUTED"),
        (claims.grows(product, like=0.5), "INCONCLUSIVE"),
        (claims.loss_limit(0.0), "INCONCLUSIVE"),
        (claims.increments_converge("a", 1), "INCONCLUSIVE"),
        (claims.time_to("a", 1.0, lambda s: s, (1, 0.1, 0.01, 1e-3, 1e-4), -1.0), "INCONCLUSIVE"),
        (limit(lambda measured: measured.setting["slope"]), "INCONCLUSIVE"),
    ],
)
def test_claims_about_a_recorded_full_batch(claim, wanted):
    assert outcome(full(), claim, exact=True) == wanted


def test_rates_of_a_record_of_every_step():
    for factor, wanted in ((1.0, "SUPPORTED"), (1.02, "REFUTED")):
        early = {name: x[:200] for name, x in full().items()}
        assert outcome(early, claims.at_rate(product, SLOPE, factor * rate()), exact=True) == wanted


def test_growth_in_a_linear_record():
    t = np.arange(0, 10**5 + 1, 2)
    grown = lambda x: {"step": t, "w": x(t + 1.0)}
    root = grown(lambda t: 3 * t**0.5 * (1 + 2 / t))
    for like, wanted in ((0.5, "SUPPORTED"), (0.51, "REFUTED")):
        assert outcome(root, claims.grows("w", like), exact=True) == wanted
    logarithm = grown(lambda t: t**0.5 * np.log(t + 1))
    assert outcome(logarithm, claims.grows("w", 0.549), exact=True) == "INCONCLUSIVE"


def test_one_noisy_run_tells_nothing():
    """Its limit is neither supported nor refuted, nor is one that is clearly wrong."""
    for value in (SLOPE, 10.0):
        found = claims.judge_path(noisy(0), [limit(value), claims.monotone(product)])
        assert found.outcome == "INCONCLUSIVE" and "several seeds" in found.claims[0].reason
        assert found.claims[0].error is None and found.claims[0].measured is not None
    assert any("the noise of one run is unknown" in line for line in found.unknown)


def test_several_seeds_have_standard_errors():
    seeds = [noisy(seed) for seed in range(SEEDS)]
    judged = lambda value: claims.judge_path(seeds, [limit(value)])
    assert judged(SLOPE).outcome == "SUPPORTED" and judged(1.2 * SLOPE).outcome == "REFUTED"
    assert any("eta/batch" in line for line in judged(SLOPE).unknown)
    ends = np.array([product({k: v[-1] for k, v in seed.items()}) for seed in seeds])
    reading = recorded(seeds).read(product)
    assert reading.number.degrees == SEEDS - 1 and reading.statistical
    assert reading.error[-1] == pytest.approx(ends.std(ddof=1) / SEEDS**0.5, rel=1e-12, abs=0)
    # Two have a spread of one degree of freedom
    assert outcome(seeds[:2], limit(SLOPE)) == "INCONCLUSIVE"


def test_of_single_precision_less_is_known():
    assert outcome(full(np.float32), limit(SLOPE), exact=True) == "INCONCLUSIVE"
    error = recorded(full(np.float32), exact=True).read("a").error
    t, a = full()["step"], full()["a"]
    assert np.all(error >= abs(full(np.float32)["a"].astype(float) - a))
    assert np.all(error <= 4 * np.maximum(t, 1) * 2.0**-24 * np.max(a) + 1e-15)


def test_files_are_read_as_mappings_are(tmp_path):
    files = [tmp_path / f"seed{seed}.npz" for seed in range(SEEDS)]
    for seed, file in enumerate(files):
        np.savez(file, **noisy(seed))
    mine, theirs = (
        claims.judge_path(x, [limit(SLOPE)]) for x in (files, list(map(noisy, range(8))))
    )
    assert mine.to_json() == theirs.to_json()
    assert outcome(str(files[0]), limit(SLOPE)) == "INCONCLUSIVE"


def changed(**arrays):
    whole = {"step": np.arange(3), "a": np.ones(3)} | arrays
    return {name: x for name, x in whole.items() if x is not None}


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        (changed(step=None), {}, r"no array `step` \(it has a\)"),
        (changed(a=None), {}, "steps and no weights"),
        (changed(a=np.ones(4)), {}, "a has 4 records and step 3"),
        (changed(a=np.ones(())), {}, "a has no records and step 3"),
        (changed(step=np.array([0, 2, 2])), {}, "step is 2 at record 2 after 2"),
        (changed(step=np.array([0, 2, np.nan])), {}, "step is nan at record 2 after 2"),
        (changed(step=np.array([-1, 2, 3])), {}, "step is -1 at record 0"),
        (changed(step=np.zeros((3, 1))), {}, r"shape \(3, 1\)"),
        (changed(step=np.array(["0", "1", "2"])), {}, "<U1"),
        (changed(a=np.array([1.0, np.nan, 1.0])), {}, "a is not finite at step 1"),
        (changed(a=np.ones(3, int)), {}, "a is int64: wanted floats"),
        ([changed(), changed(step=np.array([0, 1, 3]))], {}, "seed 1 is recorded at other steps"),
        ([changed(), changed(b=np.ones(3))], {}, "seed 1 has leaves"),
        ([changed(), changed()], {}, "seeds 0 and 1 are the same numbers"),
        ([changed(), changed(a=np.zeros(3))], {"exact": True}, "exact=True of 2 seeds"),
        ([], {}, "no record"),
        (3.0, {}, "float was given"),
        ("nowhere.npz", {}, "nowhere.npz is no .npz file"),
        (__file__, {}, "is no .npz file"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_used_is_one_line(path, options, said):
    with pytest.raises(SettingError, match=said) as caught:
        claims.judge_path(path, [limit(SLOPE)], **options)
    assert "\n" not in str(caught.value)


def test_no_claim_and_no_leaf():
    with pytest.raises(SettingError, match="no claim"):
        claims.judge_path(full(), [])
    with pytest.raises(SettingError, match="'c' names no array of the weights: one of a, b, idle"):
        claims.judge_path(full(), [claims.converges("c", 0.0)])
