"""The data laws: what must hold of every sample, and what only in distribution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutants_sampled import of_positive_entries, one_plane

from popgd.papers.power_method.data import Rotated, UniformSphere, unit_frame
from popgd.problem.law import haar, sphere
from popgd.theorem.verdict import z_score

FALSE_ALARM = 1e-6  # of each statistical test, split over its statistics
DRAWS = 2**14
# of a spectrum relative to n, of a norm, of a projection; worst seen 4e-14 (hypothesis, d = 6)
EXACT = 1e-12
FLOAT64 = jnp.dtype("float64")


def keys(seed, count):
    return jax.random.split(jax.random.key(seed), count)


def largest_z(statistics):
    """The largest |mean/stderr| over columns; a column that never moves must be exactly 0."""
    mean, spread = statistics.mean(0), statistics.std(0, ddof=1) / np.sqrt(len(statistics))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(
            spread > 1e-9, np.abs(mean) / spread, np.where(np.abs(mean) > 1e-9, np.inf, 0.0)
        )
    return z.max()


def allowed(statistics):
    return z_score(FALSE_ALARM / 2 / statistics.shape[1])


# --- Haar measure


def haar_statistics(O):
    """Functions of O whose mean under Haar measure is 0: first, second and mixed fourth moments,
    the trace, the sign.

    E O_11^4 = 3/(d(d+2)), E O_11^2 O_12^2 = 1/(d(d+2)), E O_11^2 O_22^2 = (d+1)/(d(d-1)(d+2)),
    E O_11 O_12 O_21 O_22 = -1/(d(d-1)(d+2)), E tr^2 = 1, E tr^4 = 3.
    """
    d = O.shape[-1]
    norm = d * (d - 1) * (d + 2)
    a, b, c, e = O[:, 0, 0], O[:, 0, 1], O[:, 1, 0], O[:, 1, 1]
    trace = np.trace(O, axis1=1, axis2=2)
    columns = [
        a * e,
        a**4 - 3 / (d * (d + 2)),
        (a * b) ** 2 - 1 / (d * (d + 2)),
        (a * e) ** 2 - (d + 1) / norm,
        a * b * c * e + 1 / norm,
        trace,
        trace**2 - 1,
        trace**4 - 3,
        np.linalg.det(O),
    ]
    entries = O.reshape(len(O), -1)
    return np.concatenate([entries, entries**2 - 1 / d, np.stack(columns, 1)], axis=1)


def haar_z(O):
    """(largest z, allowed z), over the statistics of O and of R O for one fixed rotation R."""
    R = np.linalg.qr(np.random.default_rng(0).normal(size=O.shape[1:]))[0]
    statistics = np.concatenate([haar_statistics(O), haar_statistics(R @ O)], axis=1)
    return largest_z(statistics), allowed(statistics)


def gaussian(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def draws_of(rotation, d):
    return np.asarray(jax.jit(jax.vmap(rotation))(gaussian(d, DRAWS, d, d)))


def without_signs(G):
    return jnp.linalg.qr(G)[0]


@pytest.mark.parametrize("d", [2, 3, 5])
def test_haar(d):
    O = draws_of(haar, d)
    assert np.abs(np.swapaxes(O, 1, 2) @ O - np.eye(d)).max() < EXACT
    z, limit = haar_z(O)
    assert z < limit


@pytest.mark.parametrize("rotation", [without_signs, of_positive_entries, one_plane])
@pytest.mark.parametrize("d", [2, 3, 5])
def test_what_is_not_haar_fails_the_same_test(d, rotation):
    z, limit = haar_z(draws_of(rotation, d))
    assert z > limit


@pytest.mark.parametrize("d", [1, 2, 5])
def test_columns_of_a_gaussian_matrix_become_uniform(d):
    q = np.asarray(sphere(gaussian(9, d, DRAWS))).T
    assert np.abs(np.linalg.norm(q, axis=1) - 1).max() < EXACT
    statistics = np.concatenate([q, q**2 - 1 / d, q**4 - 3 / (d * (d + 2))], axis=1)
    assert largest_z(statistics) < allowed(statistics)


# --- Task 1


def sampled(law, seed, count):
    return jax.jit(jax.vmap(lambda k: law.sample(k, FLOAT64)))(keys(seed, count))


@pytest.mark.parametrize(("d", "n"), [(2, 4), (3, 7)])
def test_uniform_law(d, n):
    law = UniformSphere(d, n)
    X, q, V = (np.asarray(x) for x in sampled(law, 1, DRAWS)[:3])
    assert np.abs(np.linalg.norm(X, axis=1) - 1).max() < EXACT
    S = X @ np.swapaxes(X, 1, 2)
    lam = np.linalg.eigvalsh(S)
    assert V.shape[-1] == law.r == 1
    assert np.abs(np.einsum("kij,kj->ki", S, V[..., 0]) - lam[:, -1:] * V[..., 0]).max() < n * EXACT
    Sq = np.einsum("kij,kj->ki", S, q)
    A = n / d + n * (n - 1) / d**2
    assert law.mean_square_norm() == pytest.approx(A, rel=1e-15, abs=0)
    # E S = (n/d) I, E|Sq|^2 = A = E tr S^2/d, E q.Sq = n/d; columns do not depend on each other or
    # on q
    columns = [
        (Sq**2).sum(1) - A,
        (lam**2).sum(1) / d - A,
        (q * Sq).sum(1) - n / d,
        X[:, 0, 0] * X[:, 0, 1],
        q[:, 0] * X[:, 0, 0],
    ]
    statistics = np.concatenate(
        [(S - n / d * np.eye(d)).reshape(DRAWS, -1), np.stack(columns, 1)], axis=1
    )
    assert largest_z(statistics) < allowed(statistics)


def test_uniform_spectra_descend_and_sum_to_n():
    lam = np.asarray(UniformSphere(3, 7).eigenvalues(jax.random.key(0), 256))
    assert lam.shape == (256, 3)
    assert (np.diff(lam, axis=1) <= 0).all() and (lam > 0).all()
    assert np.abs(lam.sum(1) - 7).max() < EXACT * 7
    assert lam.std(0).min() > 0.1  # every call of the key draws its own


@pytest.mark.parametrize(
    ("d", "n", "holds"), [(3, 4, False), (3, 5, True), (5, 6, False), (5, 7, True), (2, 40, True)]
)
def test_a3_of_the_uniform_law_needs_two_columns_more_than_rows(d, n, holds):
    hypotheses = {h.name: h for h in UniformSphere(d, n).hypotheses()}
    assert [h.holds for h in hypotheses.values()] == [True, True, holds]
    assert f"n = {n}, d = {d}" in hypotheses["(A3)"].reason


# --- Task 2


SPECTRA = [
    [8, 5, 4, 2, 1],
    [6, 6, 4, 2, 2],
    [3, 3, 3],
    [1, 1],
    [4.5, 2.25, 1.25],
    [2.5, 2.5, 1.0],
    [1e3 - 1, 0.5, 0.5],
]


def test_a_spectrum_that_is_described_is_read_as_the_same():
    """As a stored run's is: scaled to its sum twice, a last digit would move (206 of 400 did)."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        d, off = int(rng.integers(2, 61)), rng.choice([0, 1e-10, -1e-13])
        n, lam = int(d * rng.integers(1, 6)), rng.exponential(size=d) + 1e-3
        told = Rotated.with_spectrum((lam * (n / lam.sum()) * (1 + off)).tolist()).describe()
        spectrum = told["spectrum"]
        assert abs(sum(spectrum) - n) < 1e-13 * n
        assert Rotated.with_spectrum(spectrum).describe()["spectrum"] == spectrum


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_every_sample_of_the_rotated_law_has_the_spectrum_and_its_subspace(spectrum):
    law = Rotated.with_spectrum(spectrum)
    lam, n = np.sort(np.asarray(spectrum, float))[::-1], round(sum(spectrum))
    r = int(np.sum(lam == lam[0]))
    assert (law.d, law.n, law.r) == (len(lam), n, r)
    found = sampled(law, 2, 32)
    X, q, V = (np.asarray(x) for x in found[:3])
    R = X if found.copies is None else X * np.sqrt(np.asarray(found.copies))[:, None]
    S = R @ np.swapaxes(R, 1, 2)
    assert np.abs(np.linalg.norm(X, axis=1) - 1).max() < EXACT
    assert np.abs(np.linalg.eigvalsh(S)[:, ::-1] - lam).max() < n * EXACT
    assert np.abs(S @ V - lam[0] * V).max() < n * EXACT
    assert np.abs(np.swapaxes(V, 1, 2) @ V - np.eye(r)).max() < EXACT
    assert np.abs(np.linalg.norm(q, axis=1) - 1).max() < EXACT
    assert np.array_equal(np.asarray(law.eigenvalues(jax.random.key(0), 7)), [lam])
    assert law.mean_square_norm() == pytest.approx(float(lam @ lam) / len(lam), rel=1e-14, abs=0)
    assert len({x.tobytes() for x in X}) == 32


def test_integer_spectra_repeat_basis_vectors():
    U = np.asarray(Rotated.with_spectrum([2, 3]).U)
    assert np.array_equal(U, [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]])


@st.composite
def frames(draw):
    """Positive eigenvalues with an integer sum n >= d; some equal, some far apart."""
    d = draw(st.integers(2, 6))
    n = draw(st.integers(d, 30))
    raw = np.array(
        draw(
            st.lists(
                st.sampled_from([1e-3, 0.1, 0.5, 1.0, 1.0, 1.7, 4.0, 30.0]), min_size=d, max_size=d
            )
        )
    )
    raw = raw * np.exp(draw(st.sampled_from([0.0, 0.3])) * np.arange(d))
    return raw * (n / raw.sum()), n


@settings(deadline=None, max_examples=150)
@given(frames())
def test_unit_frames(case):
    lam, n = case
    F = unit_frame(lam, n)
    assert F.shape == (lam.size, n)
    assert np.abs(np.linalg.norm(F, axis=0) - 1).max() < EXACT
    assert np.abs(F @ F.T - np.diag(lam)).max() < n * EXACT


@settings(deadline=None, max_examples=60)
@given(frames())
def test_multiplicity_of_the_largest_eigenvalue(case):
    lam, _ = case
    law = Rotated.with_spectrum(lam.tolist())
    lam = np.sort(lam)[::-1]
    assert law.r == np.sum(lam > lam[0] * (1 - 1e-9))
    assert law.V.shape == (lam.size, law.r)
    assert (
        np.abs(np.asarray(law.U @ (law.U.T @ law.V)) - lam[0] * np.asarray(law.V)).max()
        < law.n * EXACT
    )


def test_a_fixed_matrix_has_its_own_spectrum():
    rng = np.random.default_rng(3)
    U = rng.normal(size=(3, 8))
    U /= np.linalg.norm(U, axis=0)
    law = Rotated.matrix(U)
    assert np.abs(np.asarray(law.spectrum) - np.linalg.eigvalsh(U @ U.T)[::-1]).max() < EXACT
    assert all(h.holds for h in law.hypotheses())


def test_a_matrix_without_full_rank_fails_a3():
    law = Rotated.matrix(np.array([[1.0, 1.0], [0.0, 0.0]]))
    assert [h.holds for h in law.hypotheses()] == [True, True, False]


def test_the_law_is_invariant_and_one_plane_is_not(monkeypatch):
    """E S = (n/d) I under Haar rotation; rotated in one plane only, S keeps its other
    eigenvectors.
    """
    law = Rotated.with_spectrum([4, 2, 1])

    def z(rotation):
        monkeypatch.setattr("popgd.papers.power_method.data.haar", rotation)
        X = np.asarray(jax.jit(jax.vmap(partial(law.sample, dtype=FLOAT64)))(keys(4, 2**12)).X)
        statistics = (X @ np.swapaxes(X, 1, 2) - 7 / 3 * np.eye(3)).reshape(len(X), -1)
        return largest_z(statistics), allowed(statistics)

    assert np.diff(z(haar)) > 0
    assert np.diff(z(one_plane)) < 0


def test_samples_depend_on_the_key_alone_and_take_the_dtype():
    law, key = Rotated.with_spectrum([2.5, 1.5]), jax.random.key(5)
    one, again = law.sample(key, FLOAT64), law.sample(key, FLOAT64)
    assert all(np.array_equal(x, y) for x, y in zip(one, again, strict=True))
    assert {x.dtype for x in law.sample(key, jnp.dtype("float32"))[:3]} == {jnp.dtype("float32")}
    assert {x.dtype for x in UniformSphere(2, 3).sample(key, jnp.dtype("float32"))[:3]} == {
        jnp.dtype("float32")
    }


# --- bad input

BAD = [
    (lambda: UniformSphere(0, 3), "got d = 0, wanted a whole number >= 1"),
    (lambda: UniformSphere(2, -1), "got n = -1, wanted a whole number"),
    (lambda: UniformSphere(True, 4), "got d = True, wanted a whole number"),
    (lambda: Rotated.with_spectrum([]), "every eigenvalue must be positive and finite"),
    (lambda: Rotated.with_spectrum([2, 0]), "spectrum=[2,0]: every eigenvalue must be positive"),
    (lambda: Rotated.with_spectrum([2, np.nan]), "positive and finite"),
    (
        lambda: Rotated.with_spectrum([2, 1.5]),
        "sums to 3.5: tr S = n must be an integer, scale the spectrum",
    ),
    (lambda: Rotated.with_spectrum([0.5, 0.25, 0.25]), "sums to n=1 < d=3"),
    (lambda: Rotated.matrix(np.zeros((2, 0))), "(d, n) array, not one of shape (2, 0)"),
    (lambda: Rotated.matrix(np.array([[1.0, np.inf]])), "finite"),
    (
        lambda: Rotated.matrix(np.array([[1.0, 2.0], [0.0, 0.0]])),
        "column 1 of the matrix has norm 2: divide each column",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input_is_one_line_that_says_what_came_and_what_to_do(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_spectrum_that_is_not_the_matrix_s_own_is_refused():
    with pytest.raises(
        ValueError, match=r"has the spectrum \[1. 1.\], not \[2. 0.\]: leave out spectrum"
    ):
        Rotated.matrix(np.eye(2), spectrum=[2.0, 0.0])
    assert Rotated.matrix(np.eye(2), spectrum=[1.0, 1.0]).r == 2


# --- many columns


@pytest.mark.parametrize(
    "spectrum",
    [
        [60.3, 29.2, 10.5],
        *(
            pytest.param(x, marks=pytest.mark.slow)
            for x in (
                [60, 30, 10],
                [33.5, 33.5, 33.0],
                [97.9, 1.9, 0.2],
                [96.0, 3.0, 0.5, 0.25, 0.25],
            )
        ),
    ],
)
def test_columns_that_are_counted_are_those_that_are_written_out(spectrum, monkeypatch):
    """The same S, and the same gradient of every block for all weights, as with each column written
    out.
    """
    from popgd.descent.gradient import GradientOf
    from popgd.papers.power_method.kronecker import sample_loss
    from popgd.papers.power_method.model import Active, Weights
    from popgd.papers.power_method.objectives import SubspaceDistance

    monkeypatch.setattr("popgd.papers.power_method.data.MANY", 8)
    law = Rotated.with_spectrum(spectrum)
    d = len(spectrum)
    assert law.n == 100 and law.columns <= 3 * d + 2
    assert np.abs(np.asarray((law.U * law.copies) @ law.U.T) - np.diag(law.spectrum)).max() < 1e-12
    sample = law.sample(jax.random.key(1), FLOAT64)
    counts = np.asarray(sample.copies).astype(int)
    assert (counts == np.asarray(sample.copies)).all() and counts.sum() == 100
    written = sample._replace(X=jnp.repeat(sample.X, counts, axis=1), copies=None)
    assert np.abs(np.asarray(sample.Sq - written.Sq)).max() < 1e-12
    weights = Weights(*(0.1 * gaussian(seed, 2 * d, 2 * d) for seed in (2, 3)))
    statistic = jax.jit(GradientOf(SubspaceDistance(3), Active(d)).__call__)
    for one, other in zip(
        *map(jax.tree.leaves, (statistic(weights, sample), statistic(weights, written))),
        strict=True,
    ):
        np.testing.assert_allclose(
            one, other, rtol=1e-10, atol=1e-10 * np.abs(np.asarray(other)).max()
        )
    theta = 0.3 * gaussian(4, 8)
    found = [float(sample_loss(SubspaceDistance(3), theta, s)) for s in (sample, written)]
    assert found[0] == pytest.approx(found[1], rel=1e-12, abs=0)
    uncounted = statistic(weights, sample._replace(copies=None)).loss
    assert abs(uncounted / statistic(weights, written).loss - 1) > 1e-3


def test_a_hundred_million_columns_take_no_memory():
    law = Rotated.with_spectrum([6e7, 3e7 + 0.5, 1e7 - 0.5])
    assert law.n == 10**8 and law.columns < 12
    S = np.asarray((law.U * law.copies) @ law.U.T)
    assert np.abs(S - np.diag(law.spectrum)).max() < 1e-6
