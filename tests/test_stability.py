"""Claims about what happens beside the manifold: true here, each refuted by a planted mistake, and their growth laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import popgd
from popgd import curve, hessian, kronecker, one_layer
from popgd.config import SettingError
from popgd.interpolant import interpolate
from popgd.objectives import PowerIteration, SubspaceDistance
from popgd.quadrature import Spectrum
from popgd.theory import FINDINGS, THEOREMS, TITLE_OF_FINDINGS
from popgd.theory.stability import measure, prediction
from popgd.verdict import Outcome

P11, P22, Q22 = 0, 3, 7
SMALL = {
    "4.1": {"sampled_steps": 1000, "steps": 2000},
    "4.2": {"target": "unnormalised", "steps": 30_000},
    "4.3": {"steps": 20_000},
}


def judged(number, **changes):
    return popgd.check(f"{number}.stability", spectrum=[4, 2, 1], samples=2**13, **{**SMALL[number], **changes})


def refuted(report):
    return {claim.id for claim in report.claims if claim.outcome is Outcome.REFUTED}


def test_findings_are_listed_beside_the_theorems():
    assert {name.removesuffix(".stability") for name in FINDINGS} <= set(THEOREMS)
    assert "popgd's own" in TITLE_OF_FINDINGS and not FINDINGS.keys() & THEOREMS.keys()


def test_more_layers_and_random_spectra_are_refused():
    with pytest.raises(SettingError, match=r"L=3: Theorem 4.1.stability does not take L"):
        popgd.check("4.1.stability", L=3)
    assert popgd.check("4.3.stability", d=3).outcome is Outcome.NOT_APPLICABLE


@pytest.mark.slow
@pytest.mark.parametrize("number", FINDINGS)
def test_all_claims_hold(number):
    report = judged(number.removesuffix(".stability"))
    assert report.outcome is Outcome.SUPPORTED, [(claim.id, claim.outcome) for claim in report.claims]


def leaking(weights, x, M, plain=hessian.moved):
    """A step in P21 that leaks into P22."""
    return plain(weights, x.at[P22].add(0.1 * x[2]), M)


def lopsided(theta, plain=one_layer.products):
    alpha, beta, m, c = plain(theta)
    return alpha, beta, m + 0.1 * theta[P22], c


def negative(self, f, sample, plain=PowerIteration.of_output):
    return -plain(self, f, sample)


def wrong_sign(theta, plain=one_layer.products):
    alpha, beta, m, c = plain(theta)
    return alpha, beta, -m, c


def other_step(*arguments, plain=kronecker.descend, **named):
    return plain(*arguments, **{**named, "eta": 1.03 * named["eta"]})


MUTANTS = {
    "a direction leaks into another block": ("4.2", hessian, "moved", leaking, {"hessian-does-not-mix"}),
    "half the coupling": ("4.2", prediction, "coupling", lambda *x, plain=prediction.coupling: plain(*x) / 2,
                          {"hessian-coupling", "escape-rate", "shrinking-rate"}),
    "m has the wrong sign": ("4.2", one_layer, "products", wrong_sign, {"hessian-exact"}),
    "the loss has the wrong sign": ("4.2", PowerIteration, "of_output", negative, {"saddle", "hessian-exact"}),
    "m is not symmetric in p22 and r22": ("4.2", one_layer, "products", lopsided, {"symmetric-start-stays", "hessian-exact"}),
    "another step size": ("4.1", kronecker, "descend", other_step, {"escape-rate", "shrinking-rate", "p11-rate"}),
    "no perturbation": ("4.2", measure, "perturbation", lambda *x: jnp.zeros(8), {"falls-below", "learns-best-fit"}),
}  # fmt: skip


def test_every_claim_has_a_mutant():
    made = {"hessian-does-not-mix", "hessian-coupling", "hessian-exact", "saddle", "escape-rate", "shrinking-rate",
            "symmetric-start-stays", "p11-rate", "falls-below", "learns-best-fit"}  # fmt: skip
    assert made == set().union(*(mutant[-1] for mutant in MUTANTS.values()))


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant(name, monkeypatch, fresh_jit):
    number, place, attribute, code, claims = MUTANTS[name]
    monkeypatch.setattr(place, attribute, code)
    assert claims <= refuted(judged(number))


def long_run(objective, spectrum, power, start, steps, eta):
    """(c, Delta, log growth of p22 - r22) by the nonlinear descent, every step exact."""
    known = prediction.curve_of(objective, spectrum)
    fit = interpolate(lambda c: np.asarray(known.log_slope(c).value), power, largest=1e10, tolerance=1e-6)
    path = kronecker.descend(one_layer.along_curve(fit), start, eta, 5, np.array([0, steps]), jax.random.key(0))
    a, b, p, r = (path.theta[:, k] for k in (2, 5, P22, Q22))
    return a * b, a * a - b * b, np.log((p - r)[-1] / (p - r)[0])


@pytest.mark.slow
@pytest.mark.parametrize(("theorem", "steps"), [("4.1", 120_000), ("4.3", 4_000_000)])
def test_growth_law_over_six_decades(theorem, steps):
    """exp{(sqrt(4c^2 + Delta^2) - |Delta|)/4}, from c = 0; eta = 0.2 is 5e-4 off."""
    objective, power = (SubspaceDistance(1), 2) if theorem == "4.1" else (PowerIteration("normalised"), 3)
    start = kronecker.point(1.0, 0.0).at[jnp.array([P22, Q22])].set(jnp.array([1e-13, -1e-13]))
    c, Delta, growth = long_run(objective, Spectrum.of((8.0, 5.0, 4.0, 2.0, 1.0)), power, start, steps, 0.2)
    law = (np.hypot(2 * c, Delta) - abs(Delta)) / 4
    assert growth > np.log(1e6)
    assert growth == pytest.approx(law[-1] - law[0], rel=2e-3)


@pytest.mark.slow
def test_p11_grows_like_the_exponential_of_c_in_4_1_and_like_a_power_in_4_3():
    """d log p11/dc -> l_inf/kappa in 4.1, and d log p11/d log c -> 1/4 in 4.3: closed forms of k11 and of dc, eta -> 0."""
    spectrum = Spectrum.of((8.0, 5.0, 4.0, 2.0, 1.0))
    rates = []
    for objective, c in ((SubspaceDistance(1), 300.0), (PowerIteration("normalised"), 300.0)):
        known = prediction.curve_of(objective, spectrum)
        theta = kronecker.point(c**0.5, c**0.5)
        k11 = jax.hessian(one_layer.loss(objective, spectrum))(theta)[P11, P11] / 5
        dc = -2 * c * float(known.slope(np.array([c])).value[0]) / 5
        rates.append(-float(k11) / dc)
    known = curve.Looped.of(spectrum, 1)
    # Measured: 0.4 % and 0.5 % off, the 1/c term.
    assert rates[0] == pytest.approx(float(known.limit().value / known.constant().value), rel=0.02)
    assert rates[1] * 300 == pytest.approx(0.25, rel=0.02)
