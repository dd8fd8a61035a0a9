"""Angles of a looped layer against 60-digit arithmetic, bounds, float64's end, test laws and data
of one's own.
"""

import json

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from popgd import SettingError, check
from popgd.descent.recursion import Records
from popgd.papers.power_method import model
from popgd.papers.power_method.looping import data as inference_data
from popgd.papers.power_method.looping import inference
from popgd.papers.power_method.looping.data import TEST_LAWS
from popgd.papers.power_method.looping.inference import UNIT
from popgd.papers.power_method.looping.study import TRUSTED, Inference, _theory, run_on
from popgd.papers.power_method.looping.study import Test as Case
from popgd.papers.power_method.looping.theorems import _of_run
from popgd.papers.power_method.looping.trained import Trained, choose, names_in, train
from popgd.papers.power_method.objectives import PowerIteration
from popgd.runs import store
from popgd.theorem.report import resolve

#: The logarithm of tan against 60 digits, in units of what `rounding` allows; measured: 0.3 at
#: most.
HONEST = 1.0
D, N = 5, 20


def matrix(name, d=D, n=N):
    return TEST_LAWS[name].sample(jax.random.key(1), d, n)


def random_query(d=D):
    q = np.asarray(jax.random.normal(jax.random.key(2), (d,)))
    return q / np.linalg.norm(q)


def exact_log_tan(X, q, c, k, r):
    """log tan theta_k at 60 digits, from the eigendecomposition of X X^T as it stands."""
    with mp.workdps(60):
        lam, vectors = mp.eigsy(mp.matrix(X.tolist()) * mp.matrix(X.tolist()).T)
        order = sorted(range(len(q)), key=lambda i: -lam[i])
        alpha = [sum(vectors[i, j] * mp.mpf(q[i]) for i in range(len(q))) for j in order]
        top = lam[order[0]]
        terms = [
            (((1 + c * lam[j]) / (1 + c * top)) ** k * a) ** 2
            for j, a in zip(order, alpha, strict=True)
        ]
        return float(mp.log(sum(terms[r:]) / sum(terms[:r])) / 2)


# --- formulas


@pytest.mark.parametrize("name", ["spiked", "clustered", "repeated"])
@pytest.mark.parametrize("c", [1e-3, 1.0, 1e12])
def test_the_angle_is_that_of_sixty_digits(name, c):
    """At 10^4 loops too, where sin theta is far below the least float64."""
    X, q = matrix(name), random_query()
    S = inference.split(X)
    at = inference.query(S, q)
    depths = np.array([1, 7, 10**4])
    found = inference.angles(S, at, c, depths)
    for k, log_tan in zip(depths, found.tan, strict=True):
        allowed = inference.rounding(S, at, c, int(k)).tan[-1] + k * S.rounding * abs(log_tan / k)
        assert (
            abs(log_tan - exact_log_tan(X, q, c, int(k), S.r)) <= min(allowed, 1.0) * HONEST + 1e-13
        )
    assert found.sin == pytest.approx(found.tan + found.cos, abs=1e-10 * abs(found.tan[-1]))


def near_second():
    """Unit columns with eigenvalues 4, 2, 2 (1 - 1e-7), 1 + 2e-7, 1, in axes of no special kind."""
    axes = np.linalg.qr(np.asarray(jax.random.normal(jax.random.key(5), (D, D))))[0]
    X = np.eye(D)[:, [0, 0, 0, 0, 1, 1, 2, 2, 3, 4]]
    X[2, 6:8], X[3, 6:8] = np.sqrt(1 - 1e-7), np.sqrt(1e-7) * np.array([1, -1])
    return axes @ X


def exact_sides(X, q, c, k, S):
    """log of both sides of the bounds at k loops, the whole lam_{r+1}-space below, at 60 digits."""
    with mp.workdps(60):
        lam, vectors = mp.eigsy(mp.matrix(X.tolist()) * mp.matrix(X.tolist()).T)
        order = sorted(range(len(q)), key=lambda i: -lam[i])
        alpha = [sum(vectors[i, j] * mp.mpf(q[i]) for i in range(len(q))) for j in order]
        fall = k * mp.log((1 + c * lam[order[S.r]]) / (1 + c * lam[order[0]]))
        plane, rest = mp.norm(alpha[S.r : S.r + S.next_r]), mp.norm(alpha[S.r :])
        return float(mp.log(plane) + fall), float(mp.log(rest / mp.norm(alpha[: S.r])) + fall)


@pytest.mark.parametrize("kind", ["near", "near second"])
def test_the_error_of_the_eigenvectors_is_stated(kind):
    """Near eigenvalues have eigenvectors that float64 knows badly: formula, loop and bounds are as
    far from 60 digits as they say at most, which is further than loop and formula may part."""
    X, c = matrix("near") if kind == "near" else near_second(), 2.25
    S, loops = inference.split(X), 20
    weights, depths = model.embed(jnp.asarray(1.5), jnp.asarray(1.5), D), np.arange(1, loops + 1)
    beyond = {"angle": 0.0, "lower": 0.0}
    for seed in range(3):
        q = np.asarray(jax.random.normal(jax.random.key(seed), (D,)))
        q = q / np.linalg.norm(q)
        at = inference.query(S, q)
        stated = inference.rounding(S, at, c, loops)
        sides, exact = inference.bounds(S, at, c, depths), inference.angles(S, at, c, depths)
        out = inference.outputs(weights, jnp.asarray(X), jnp.asarray(q), loops, True)
        seen = inference.measured(S, np.asarray(out))
        for k in (1, 5, loops):
            tan, (lower, upper) = exact_log_tan(X, q, c, k, S.r), exact_sides(X, q, c, k, S)
            off = [exact.tan - tan, seen.tan - tan, sides.upper - upper]
            found = {"angle": np.max(np.abs(off), axis=0), "lower": abs(sides.sharper - lower)}
            for name, errors in found.items():
                error = errors[k - 1]
                assert error <= getattr(stated, name)[k - 1] * HONEST
                beyond[name] = max(beyond[name], error / stated.tan[k - 1])
            assert abs(exact.tan - seen.tan)[k - 1] <= stated.tan[k - 1]
    assert beyond["lower"] > 10 and (beyond["angle"] > 10) == (kind == "near"), beyond


def one_snapshot():
    """A model with LN at a = sqrt(2), b = 1/sqrt(2)."""
    records = Records(np.array([1]), *(np.ones(1) for _ in range(6)), np.array(1), None)
    return Trained(
        "LN",
        True,
        None,
        records._replace(Delta=np.full(1, 1.5)),
        2,
        np.array([0]),
        PowerIteration(),
    )


@pytest.mark.parametrize("kind", ["near", "near second"])
def test_how_close_the_bounds_come_counts_the_eigenvectors(kind):
    """Their ratios to sin theta are as far from 60 digits as they say, further than tan's own."""
    X, q = matrix("near") if kind == "near" else near_second(), random_query()
    S, depths = inference.split(X), np.array([1])
    queries = np.stack([q, inference.worst_query(S)])
    run = run_on(one_snapshot(), Case("x", "", X, S, queries), depths, last_only=False)
    found, c = _of_run(run, depths, np.zeros(1), True), mp.mpf(float(run.c[0]))
    tan, (lower, upper) = exact_log_tan(X, q, c, 1, S.r), exact_sides(X, q, c, 1, S)
    sin = tan - np.log1p(np.exp(2 * tan)) / 2
    off = {}
    for name, wanted in (("upper", np.exp(sin - upper)), ("lower", np.exp(lower - sin))):
        value, error = found[f"{name}_tightest"][:2]
        assert found[f"{name}_loosest"][:2] == (value, error)
        off[name] = abs(value - wanted) / run.rounding.tan[0, 0, 0]
        assert abs(value - wanted) <= error * HONEST
    assert off["lower"] > 10 and (off["upper"] > 10) == (kind == "near"), off


def test_what_is_stored_and_trusted_counts_the_eigenvectors():
    """A gap of 2e-9, and a query whose rho = 5e-5 the eigenvectors' error hides to a hundredth."""
    q = np.array([5e-5, np.sqrt(1 - 25e-10), 0.0])
    S = inference.Split(np.array([1.0, 1 - 2e-9, 0.5]), np.eye(3), 1, 1, 1e-15)
    trained, depths = one_snapshot(), np.array([1])
    case = Case("x", "", np.diag(np.sqrt(S.lam)), S, q[None])
    run = run_on(trained, case, depths, last_only=False)
    error = inference.rounding(S, inference.query(S, q), float(run.c[0]), 1)
    assert error.tan[0] < TRUSTED < error.angle[0] and not run.trusted.any()
    stored = Inference(resolve({"theorem": "4.6"}), (trained,), depths, {"LN": (run,)}, {}).arrays()
    assert stored["LN/x/rounding"] == error.angle[0]
    assert stored["LN/x/rounding_lower"] == error.lower[0]


def test_the_angle_does_not_cancel_for_near_eigenvalues():
    """lam_2 = (1 - 1e-6) lam_1: the logarithm of gamma is -1e-6 c lam/(1 + c lam) to nearly all
    digits.
    """
    S = inference.Split(np.array([1.0, 1 - 1e-6, 0.5]), np.eye(3), 1, 1, 0.0)
    with mp.workdps(40):
        for c in (1e-3, 1.0, 1e9):
            wanted = float(mp.log((1 + mp.mpf(c) * mp.mpf(S.lam[1])) / (1 + mp.mpf(c))))
            assert inference.log_factor(S, c) == pytest.approx(wanted, rel=1e-9, abs=0)


def test_small_eigenvalues_keep_their_factor_at_large_c():
    S = inference.Split(np.array([8.0, 1e-13, 0.0]), np.eye(3), 1, 1, 0.0)
    assert np.exp(inference.log_weights(S, 1e12)) == pytest.approx(
        [1, 1.1 / (8e12 + 1), 1 / (8e12 + 1)], rel=1e-13, abs=0
    )
    assert inference.log_factor(S, 0.0) == 0
    assert S.ratio == pytest.approx(1e-13 / 8, rel=1e-13, abs=0)


@pytest.mark.parametrize("second", [0.9, 0.3, 1e-2, 1e-9])
@pytest.mark.parametrize("c", [0.3, 1e3, 1e12])
def test_the_error_of_gamma_is_what_eigenvalues_that_are_off_make_of_it(second, c):
    """Both eigenvalues off by e lam_1, each the other way: 4 gamma e is too little for gamma <
    1/3. And not twice too much.
    """
    e = 1e-13
    S = inference.Split(np.array([4.0, 4 * second, 0.0]), np.eye(3), 1, 1, e)
    depths, case = (
        np.array([1]),
        Case("x", "", np.diag(np.sqrt(S.lam)), S, inference.worst_query(S)[None]),
    )
    run = run_on(one_snapshot(), case, depths, last_only=False)._replace(c=np.array([c]))
    value, error = _of_run(run, depths, np.zeros(1), True)["gamma"][:2]
    with mp.workdps(40):
        c, top, lam, off = (mp.mpf(x) for x in (c, 4, S.lam[1], 4 * e))
        gaps = [abs((1 + c * (lam + x)) / (1 + c * (top - x)) - value) for x in (off, -off)]
    assert max(gaps) <= error <= 2 * max(gaps)


@pytest.mark.parametrize("name", TEST_LAWS)
@pytest.mark.parametrize("c", [0.0, 0.3, 1e3])
def test_both_bounds_hold_and_the_worst_query_meets_the_factor(name, c):
    S = inference.split(matrix(name))
    depths = np.arange(0, 60)
    for q in (random_query(), inference.worst_query(S)):
        at = inference.query(S, q)
        exact, sides = inference.angles(S, at, c, depths), inference.bounds(S, at, c, depths)
        slack = 1e-12 + depths * S.spread
        assert np.all(exact.sin <= sides.upper + slack) and np.all(
            exact.sin >= sides.sharper - slack
        )
        assert np.all(sides.lower <= sides.sharper + 1e-15)
    np.testing.assert_allclose(np.diff(exact.tan), inference.log_factor(S, c), atol=1e-12)


def test_bad_questions():
    S = inference.split(matrix("spiked"))
    with pytest.raises(ValueError, match="no gap"):
        inference.log_factor(inference.split(np.eye(4)), 1.0)
    with pytest.raises(ValueError, match="c >= 0"):
        inference.log_weights(S, -1.0)
    with pytest.raises(ValueError, match="rho = 0"):
        inference.bounds(S, inference.query(S, S.vectors[:, 2]), 1.0, np.array([1]))
    with pytest.raises(ValueError, match="unit vector"):
        inference.query(S, 2 * random_query())
    with pytest.raises(ValueError, match="non-zero"):
        inference.split(np.zeros((3, 4)))


# --- the transformer itself


@pytest.mark.parametrize("normalise", [True, False])
def test_every_depth_is_the_looped_model_itself(normalise):
    X, q = jnp.asarray(matrix("clustered")), jnp.asarray(random_query())
    weights = model.active_weights(*jax.random.normal(jax.random.key(3), (2, D, D)))
    deep = inference.outputs(weights, X, q, 6, normalise)
    np.testing.assert_allclose(deep[-1], model.looped(weights, X, q, 6, normalise), rtol=1e-12)


def test_float64_ends_where_its_bound_says():
    """On every law and far beyond float64's end: the loop departs from the formula by no more than
    the bound, which is not vacuous: rounding reaches a hundredth of it.
    """
    worst, reached = 0.0, False
    for name in TEST_LAWS:
        X = matrix(name)
        S = inference.split(X)
        small = S.vectors @ np.concatenate([[1e-7], np.ones(D - 1)])
        for q in (random_query(), inference.worst_query(S), small / np.linalg.norm(small)):
            at = inference.query(S, q)
            for c in (0.3, 1e6):
                a = float(np.sqrt(c))
                out = inference.outputs(
                    model.embed(jnp.asarray(a), jnp.asarray(a), D),
                    jnp.asarray(X),
                    jnp.asarray(q),
                    60,
                    True,
                )
                bound = inference.rounding(S, at, a * a, 60)
                exact, seen = (
                    inference.angles(S, at, a * a, np.arange(1, 61)),
                    inference.measured(S, np.asarray(out)),
                )
                small_enough = bound.tan <= 1e-3
                worst = max(
                    worst,
                    float(
                        np.max(
                            abs(np.expm1(seen.tan - exact.tan))[small_enough]
                            / bound.tan[small_enough]
                        )
                    ),
                )
                reached |= not small_enough.all()
                gap = np.linalg.norm(
                    np.asarray(out) - inference.direction(S, at, a * a, np.arange(1, 61)), axis=1
                )
                assert np.all(gap <= bound.output)
    assert reached, "no angle came near rounding"
    assert 1e-2 < worst < HONEST


def test_a_query_almost_orthogonal_to_the_subspace_is_almost_lost():
    """rho = 1e-12: float64 knows its direction to 1e-3 or so, says so, and the bound covers it."""
    S = inference.split(matrix("clustered"))
    q = S.vectors @ np.concatenate([[1e-12], np.ones(D - 1) / 2])
    at = inference.query(S, q / np.linalg.norm(q))
    assert inference.rounding(S, at, 1.0, 1).tan[0] > 1e-3
    assert inference.query(S, S.vectors[:, 1]).rho == 0
    assert at.rest == pytest.approx(1, abs=4 * UNIT)


# --- test laws


@pytest.mark.parametrize("name", TEST_LAWS)
@pytest.mark.parametrize(("d", "n"), [(3, 12), pytest.param(6, 25, marks=pytest.mark.slow)])
def test_laws_have_unit_columns_and_a_gap(name, d, n):
    X = matrix(name, d, n)
    assert X.shape == (d, n)
    np.testing.assert_allclose(np.linalg.norm(X, axis=0), 1, atol=1e-12)
    S = inference.split(X)
    assert S.r == (2 if name == "repeated" else 1) and S.r < S.d
    assert S.lam.sum() == pytest.approx(n, rel=1e-12, abs=0)
    if name == "near":
        assert 1 - S.ratio == pytest.approx(inference_data.NEAR, rel=1e-3, abs=0)
    if name == "deficient":
        assert S.lam[-1] <= 1e-25
    if name == "axes":
        assert S.next_r >= 1 and np.count_nonzero(X) == n


def test_laws_are_not_rotation_invariant():
    """E[S] of a rotation-invariant law is (n/d) I; here it is far from that."""
    for name, law in TEST_LAWS.items():
        mean = np.mean(
            [
                law.sample(jax.random.key(k), D, N) @ law.sample(jax.random.key(k), D, N).T
                for k in range(8)
            ],
            axis=0,
        )
        fourth = np.mean([np.sum(law.sample(jax.random.key(k), D, N) ** 4) / N for k in range(8)])
        uniform = 3 / (D + 2)  # E sum x_i^4 on the sphere
        assert (
            np.linalg.norm(mean - N / D * np.eye(D)) > 0.2 * N / D
            or abs(fourth - uniform) > 0.2 * uniform
        ), name


# --- data of one's own


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = matrix("spiked")
    zero, hole = X.copy(), X.copy()
    zero[:, 3], hole[1, 4] = 0, np.nan
    saved = {
        "good": X,
        "long": 3 * X,
        "zero": zero,
        "hole": hole,
        "eye": np.eye(D),
        "cube": np.ones((2, 2, 2)),
        "flat": np.ones(4),
        "complex": X * 1j,
        "wide": matrix("spiked", 7),
        "q": X[:, 0] * 5,
        "q7": np.ones(7),
    }
    for name, array in saved.items():
        np.save(f"{name}.npy", array)
    S = inference.split(X)
    np.save("orthogonal.npy", S.vectors[:, 1])
    np.savetxt("good.csv", X, delimiter=",")
    (tmp_path / "text.csv").write_text("a,b\none,2\n3,4\n")
    (tmp_path / "empty.csv").write_text("")
    np.savez("archive.npz", X)
    (tmp_path / "archive.npz").rename("archive.npy")
    (tmp_path / "header.npy").write_bytes(npy_header("{((((" + 80 * " "))
    (tmp_path / "vast.npy").write_bytes(
        npy_header(str({"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**9)}))
    )
    np.savetxt("marked.csv", X, delimiter=",", encoding="utf-8-sig")
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "broken.npy").write_text("hello")
    (tmp_path / "good.txt").write_text("1 2")
    return tmp_path


def npy_header(text):
    """A .npy file with this header and no data."""
    header = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


BAD = [
    ({"data": "archive.npy"}, "no .npy array of numbers"),
    ({"data": "header.npy"}, "no .npy array of numbers"),
    ({"data": "vast.npy"}, "does not fit into memory"),
    ({"data": "folder.npy"}, "it is no file"),
    ({"data": "missing.npy"}, "data=missing.npy: it cannot be read"),
    ({"data": "text.csv"}, "data=text.csv has the text one in line 2, cell 1"),
    ({"data": "empty.csv"}, "data=empty.csv is empty"),
    ({"data": "broken.npy"}, "no .npy array of numbers"),
    ({"data": "good.txt"}, "a .npy or .csv file was wanted"),
    ({"data": "cube.npy"}, "has shape (2, 2, 2): a matrix (d, n) was wanted"),
    ({"data": "flat.npy"}, "has shape (4,)"),
    ({"data": "complex.npy"}, "real numbers were wanted"),
    ({"data": "zero.npy"}, "column 3 is zero"),
    ({"data": "zero.npy", "normalise": True}, "column 3 is zero"),
    ({"data": "hole.npy", "normalise": True}, "column 4 is not finite"),
    ({"data": "long.npy"}, "has norm 3, not 1; add normalise=true"),
    ({"data": "wide.npy", "d": 5}, "the data have d=7 and the model has d=5"),
    ({"data": "good.npy", "test": "spiked"}, "test=spiked was given beside data"),
    ({"data": "good.npy#0123456789abcdef"}, "the file has changed"),
    ({"normalise": True}, "normalise=true is about data"),
    ({"test": "repeated", "spectrum": [3, 1]}, "test=repeated needs d >= 3"),
    ({"test": "spikd"}, "did you mean spiked?"),
    ({"loops": 0}, "loops=0: an integer of at least 1"),
    ({"loops": 10**12}, "use less"),
    ({"trained": "."}, "no trajectory.npz"),
    ({"trained": "missing"}, "trained=missing: no run is there"),
    (
        {"data": "good.npy", "query": "q7.npy"},
        "a finite vector, not zero, with d=5 entries was wanted",
    ),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=lambda x: x if isinstance(x, str) else "")
def test_bad_data_is_one_line(files, values, message):
    with pytest.raises(SettingError) as caught:
        check("4.6", **values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [{"query": "q7.npy"}, {"query": "hole.npy"}, {"query": "archive.npy"}, {"loops": 10**9}],
)
def test_a_bad_query_or_too_many_loops_are_told_before_anything_is_written(files, values):
    """While the settings are resolved, which comes before the run directory."""
    with pytest.raises(SettingError, match=r"was wanted|no \.npy array|use less"):
        resolve({"theorem": "4.6", "data": "good.npy", **values})


def test_loaded_data(files):
    X = matrix("spiked")
    np.testing.assert_array_equal(inference_data.load(files / "good.npy").X, X)
    np.testing.assert_allclose(inference_data.load(files / "good.csv").X, X, rtol=1e-15)
    np.testing.assert_array_equal(
        inference_data.load(files / "marked.csv").X, inference_data.load(files / "good.csv").X
    )
    loaded = inference_data.load(files / "long.npy", normalise=True)
    np.testing.assert_allclose(loaded.X, X, rtol=1e-14)
    assert "columns normalised (norms were 3 to 3)" in loaded.words
    np.testing.assert_allclose(inference_data.load_query(files / "q.npy", D), X[:, 0], rtol=1e-14)


def test_tiny_and_huge_columns_are_normalised(tmp_path):
    np.save(tmp_path / "x.npy", matrix("spiked") * 10.0 ** np.linspace(-300, 300, N))
    loaded = inference_data.load(tmp_path / "x.npy", normalise=True)
    np.testing.assert_allclose(np.linalg.norm(loaded.X, axis=0), 1, atol=1e-14)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"data": "eye.npy"}, "there is no leading direction"),
        ({"data": "good.npy", "query": "orthogonal.npy"}, "orthogonal"),
    ],
)
def test_no_gap_and_a_lost_query_are_not_applicable(files, values, reason):
    found = check("4.6", **values)
    assert found.outcome == "NOT APPLICABLE" and reason in found.reason


def test_a_setting_knows_its_data_by_content(files):
    before = resolve({"theorem": "4.6", "data": "good.npy"}).describe()
    assert resolve(before).describe() == before
    np.save("good.npy", matrix("clustered"))
    with pytest.raises(SettingError, match="the file has changed"):
        resolve(before)


# --- a finished run


def finished(path, **values):
    """A run directory with settings and an exact descent, as a finished run has them."""
    settings = resolve(values)
    path.mkdir()
    (path / store.SETTINGS).write_text(json.dumps({"format": store.FORMAT, **settings.describe()}))
    steps = np.array([0, 1, 10, 100])
    arrays = {
        "step": steps,
        "a": np.full(4, 1.5),
        "b": np.linspace(0, 1, 4),
        "c": 1.5 * np.linspace(0, 1, 4),
    }
    arrays |= {"dc": np.zeros(4), "bound": np.zeros(4)}
    np.savez(path / store.TRAJECTORY, **{f"exact/{name}": x for name, x in arrays.items()})
    return settings


def test_a_finished_run_is_looped(tmp_path):
    """With its law, step size and weights, and its model only."""
    kept = finished(
        tmp_path / "run", theorem="4.2", target="unnormalised", spectrum=[3, 2, 1], steps=100
    )
    setting = resolve({"theorem": "4.6", "trained": str(tmp_path / "run"), "steps": 100})
    assert setting.law.describe() == kept.law.describe() and setting.eta == kept.eta
    assert names_in(setting, ("LN", "norm", "unnorm")) == ("unnorm",)
    from popgd.descent.memory import FORGETFUL

    trained = train(setting, "unnorm", 6, lambda *told: None, FORGETFUL)
    np.testing.assert_array_equal(trained.snapshots[0], [1, 10, 100])
    np.testing.assert_allclose(
        trained.snapshots[1] * trained.snapshots[2], [0.5, 1.0, 1.5], rtol=1e-14
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "was trained with steps=100"),
        ({"steps": 100, "d": 4, "n": 9, "law": "uniform"}, "law=rotated d=3 n=6"),
        ({"steps": 100, "eta": 1.0}, "was trained with eta="),
        ({"steps": 100, "theorem": "4.7"}, "is a run of Theorem 4.2: one of 4.1 was wanted"),
    ],
)
def test_a_finished_run_that_does_not_fit(tmp_path, values, message):
    finished(tmp_path / "run", theorem="4.2", spectrum=[3, 2, 1], steps=100)
    with pytest.raises(SettingError) as caught:
        resolve({"theorem": "4.6", **values, "trained": str(tmp_path / "run")})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def spoil(path, name):
    """Damage a finished run as a bad disk, or somebody's hand, would."""
    trajectory, settings = path / store.TRAJECTORY, path / store.SETTINGS
    whole = trajectory.read_bytes()
    with np.load(trajectory) as stored:
        arrays = dict(stored)
    match name:
        case "cut":
            trajectory.write_bytes(whole[: len(whole) // 2])
        case "empty":
            trajectory.write_bytes(b"")
        case "one array":
            with trajectory.open("wb") as file:
                np.save(file, np.ones(3))
        case "short":
            np.savez(trajectory, **(arrays | {"exact/c": arrays["exact/c"][:2]}))
        case "text":
            np.savez(trajectory, **(arrays | {"exact/dc": arrays["exact/dc"].astype(str)}))
        case _:
            settings.write_text(json.dumps({**json.loads(settings.read_text()), name: "x"}))


@pytest.mark.parametrize(
    "name", ["cut", "empty", "one array", "short", "text", "spectrum", "eta", "foreign"]
)
def test_a_damaged_run_is_one_line_before_anything_is_written(tmp_path, name):
    finished(tmp_path / "run", theorem="4.3", spectrum=[3, 2, 1], steps=100)
    spoil(tmp_path / "run", name)
    with pytest.raises(
        SettingError, match=r"holds no exact descent|has damaged settings"
    ) as caught:
        resolve({"theorem": "4.6", "steps": 100, "trained": str(tmp_path / "run")})
    assert "\n" not in str(caught.value)


def test_snapshots_are_finite_and_end_with_the_last(tmp_path):
    step = np.array([0, 1, 2, 10, 100, 1000])
    records = Records(
        step,
        np.array([0, 1, 2, 3, 4, np.inf]),
        *([np.zeros(6)] * 4),
        np.ones(6),
        np.array(1000),
        None,
    )
    assert list(choose(records, 3)) == [1, 3, 4]


def relative_gap(lam, q, c, k, found):
    """|found - (I + cS)^k q| over the norm, at 60 digits."""
    with mp.workdps(60):
        wanted = [
            mp.mpf(float(x)) * (1 + mp.mpf(c) * mp.mpf(float(y))) ** int(k)
            for x, y in zip(q, lam, strict=True)
        ]
        return float(
            mp.norm([mp.mpf(float(x)) - y for x, y in zip(found, wanted, strict=True)])
            / mp.norm(wanted)
        )


@pytest.mark.parametrize("c", [3.5750795e77, 4.1537e120])
def test_the_rounding_of_a_length_that_is_an_exponential_is_counted(c):
    """Without LN, at a c that diverged; measured: 8e-14, where the loops alone round by 2e-14 at
    most.
    """
    S = inference.split(np.array([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]))
    q, depths = np.array([0.6, 0.8]), np.array([1, 2])
    output, *_, error, _, _, _ = _theory(S, inference.query(S, q), c, depths, layer_norm=False)
    gaps = [
        relative_gap(S.lam, S.vectors.T @ q, c, k, S.vectors.T @ x)
        for k, x in zip(depths, output, strict=True)
    ]
    assert np.all(gaps < error) and np.all(error < 1e-12), (gaps, error)


@pytest.mark.parametrize(
    ("X", "query", "message"),
    [
        (np.eye(3), [1.0, 0.0, 0.0], "all eigenvalues are equal"),
        (
            np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]),
            [0.0, 1.0, 0.0],
            "orthogonal to the leading subspace",
        ),
    ],
)
def test_where_nothing_is_left_to_judge_it_says_so_though_hypotheses_are_ignored(
    tmp_path, X, query, message
):
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "q.npy", np.array(query))
    files = {"data": str(tmp_path / "X.npy"), "query": str(tmp_path / "q.npy")}
    for name in ("4.6", "4.7"):  # while settings are resolved: no run directory is left behind
        with pytest.raises(SettingError, match=message):
            resolve({"theorem": name, "assume": "ignore", **files})
    assert check("4.6", loops=2, steps=10, **files).outcome == "NOT APPLICABLE"
