"""Looped linear transformers with layer normalisation learn the power method.

Source: Wu, Zhang, Cao, arXiv 2606.00605 (2026), Theorems 4.1, 4.2, 4.3. Descent starts on the
manifold {P21 = a I, Q12 = b I, other blocks 0} and stays there; c = a b, l(c) is the loss on it, g
= l'(c)/d:

    a <- a - eta b g,   b <- b - eta a g.
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from popgd.claims.evidence import Evidence, known
from popgd.descent.memory import Memory
from popgd.papers.power_method import curve as curves
from popgd.papers.power_method.data import UniformSphere, UnitColumns
from popgd.papers.power_method.objectives import TARGETS, OfLoops, PowerIteration, SubspaceDistance
from popgd.papers.power_method.options import DESCENT, EXPONENT, LAW, LOOPS, TARGET
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.training import (
    convergence,
    growth,
    invariance,
    manifold,
    raw,
    steps,
)
from popgd.papers.power_method.training.laws import make_law
from popgd.papers.power_method.training.measure import sampled
from popgd.papers.power_method.training.study import Study
from popgd.problem.law import Hypothesis
from popgd.problem.number import Number
from popgd.theorem.base import Progress, Setting, Theorem

PAPER = "arXiv 2606.00605"
#: Points c, evenly in log c, of which `positive_limit` takes one.
READINGS = 24
#: A bound says something of losses that are those of the curve, by its quadrature: half of what a
#: factor 1/2 makes of them.
SAME_LOSS = 0.25
#: To which the ratio of a loss to its bound must be known.
LOSS_BOUND = 1e-3
TITLE = f"{PAPER}, Looped Transformers with Layer Normalization Provably Learn the Power Method"


def natural_step(law: UnitColumns, L: int) -> float:
    """The natural scale d/A of the step size, A = E||Sq||^2. At four times that, sampling noise in
    the active blocks is amplified on some spectra, and raw descent leaves the recursion.
    """
    return law.d / law.mean_square_norm()


def contracting_step(law: UnitColumns, L: int) -> float:
    """eta with etat s = 0.2 at s = sqrt(1 + 4c^2), c = 1 - (n/d)/A: well inside the sufficient
    bound for both targets.
    """
    A = law.mean_square_norm()
    c = 1 - law.n / law.d / A
    return 0.2 * law.d / (2 * A * float(np.sqrt(1 + 4 * c * c)))


def hypotheses(setting: Setting) -> list[Hypothesis]:
    """Assumption 3.2, r < d, and plain gradient descent."""
    law = setting.law
    return [
        *law.hypotheses(),
        Hypothesis(
            "r < d",
            law.r < law.d,
            f"the largest eigenvalue has multiplicity r = {law.r}, and d = {law.d}",
        ),
        Hypothesis(
            "gradient descent",
            setting.optimiser == "sgd",
            f"the optimiser is {setting.optimiser}, not plain sgd",
        ),
    ]


def _small_step(setting: Setting) -> list[Hypothesis]:
    """Theorem 4.2 needs a step size that is small enough: this bound suffices, and is not
    necessary.
    """
    law = setting.law
    A = law.mean_square_norm()
    c_star = (
        1 - law.n / law.d / A
    )  # that of y = Sq, the larger of the two: E||Sq|| <= A = E||Sq||^2 for n >= d
    bound = convergence.sufficient(setting.eta, A, c_star, law.d)
    reason = (
        f"eta = {setting.eta:g} is {'within' if bound <= 1 else 'beyond'} the sufficient "
        f"bound ({bound:.3g} of 1)"
    )
    return [*hypotheses(setting), Hypothesis("small step", bool(bound <= 1), reason, soft=True)]


def _looped_study(
    setting: Setting, objective: OfLoops, progress: Progress, memory: Memory
) -> Study:
    exact = growth.descend_exactly(
        setting, lambda s: curves.Looped.of(s, setting.L), 2, progress, memory
    )
    return sampled(setting, objective, exact, progress, memory)


def _layer_study(setting: Setting, objective: OfLoops, progress: Progress, memory: Memory) -> Study:
    exact = growth.descend_exactly(setting, curves.Layer.of, 3, progress, memory)
    return sampled(setting, objective, exact, progress, memory)


def _linear_study(
    setting: Setting, objective: OfLoops, progress: Progress, memory: Memory
) -> Study:
    assert isinstance(objective, PowerIteration)
    target, law = objective.target, setting.law

    def curve(spectra: Spectrum) -> curves.Linear:
        equivalent = law.r < law.d and len(spectra.lam.shape) == 2 and target == "unnormalised"
        return curves.Linear.of(_equivalent_spectrum(law) if equivalent else spectra, target)

    exact = convergence.descend_exactly(setting, curve, progress, memory)
    return sampled(setting, objective, exact, progress, memory)


def _equivalent_spectrum(law: UnitColumns) -> Spectrum:
    """Two eigenvalues with the mean n/d and the mean square A of a law: all that y = Sq depends on.

    So the curve of the unnormalised target is exact for random spectra too.
    """
    mean, d = law.n / law.d, law.d
    spread = float(np.sqrt(max(law.mean_square_norm() - mean**2, 0.0)))
    lam = [mean + spread * np.sqrt(d - 1), mean - spread / np.sqrt(d - 1)]
    return Spectrum(jnp.asarray(lam), jnp.asarray([1.0, d - 1.0]))


def positive_limit(study: Study) -> Iterator[Evidence]:
    """4.1: the loss falls to l_inf > 0, with (l - l_inf) c -> kappa."""
    exact = study.exact
    limit, K, K2 = exact.curve.limit(), exact.curve.constant(), exact.curve.correction()
    yield manifold.positive(
        "loss-limit-positive",
        f"The loss falls to l_inf = {float(limit.value):.10g} > 0, that of the L-step power method",
        float(limit.value),
        float(limit.bound),
    )
    # Read (l - l_inf) c where next orders and the rounding of the difference are least together: by
    # what is stated of both.
    k2, last = float(K2.value / K.value), float(exact.records.c[-1])
    points = np.geomspace(
        min(last, 1 / float(np.max(np.asarray(exact.curve.spectra.lam)))), last, READINGS
    )
    losses = exact.curve.loss(points)
    rounding = (losses.bound + limit.bound) * points / float(K.value) + float(K.bound / K.value)
    third = np.pad(growth.third_order(exact, points), 1, mode="edge")
    # Of three neighbours the largest: third_order goes through 0 before the expansion holds
    allowed = 2 * np.max([third[:-2], third[1:-1], third[2:]], axis=0) + (k2 / points) ** 2
    best = int(np.argmin(rounding + allowed))
    c = float(points[best])
    excess = (float(losses.value[best]) - float(limit.value)) * c / float(K.value)
    yield known(
        "loss-excess",
        f"(l(c) - l_inf) c -> kappa = {float(K.value):.10g}, so the loss excess falls like "
        f"t^(-1/2): ratio at c = {c:.4g}",
        "derived: integral of -l' = kappa/c^2 - K2/c^3",
        predicted=1.0,
        measured=excess + k2 / (2 * c),
        error=float(rounding[best]),
        allowance=float(allowed[best]),
        resolution=1e-4,
        reason=f"1/c term {k2 / (2 * c):.1e} removed, next orders allowed; error: quadrature "
        "bound of the difference",
    )


def vanishing_loss(study: Study) -> Iterator[Evidence]:
    """4.3: the loss falls to 0 like t^(-2/3): l c^2 -> C1/2, never above 2 E[1/||Sq||^2]."""
    exact = study.exact
    C1, D = exact.curve.constant(), exact.curve.correction()
    near = growth.Asymptote.of(study)
    loss = exact.curve.loss(jnp.asarray([near.c]))
    value, bound = float(loss.value[0]) * near.c**2, float(loss.bound[0]) * near.c**2
    half = float(C1.value) / 2
    yield known(
        "loss-vanishes",
        f"l c^2 -> C1/2 = {half:.10g}, so the loss falls to 0 like t^(-2/3): ratio at step "
        f"{near.t:.3g}, 1/c term removed",
        "limit of the loss; constant derived",
        predicted=1.0,
        measured=(value + float(D.value) / (3 * near.c)) / half,
        error=bound / half + float(C1.bound / C1.value),
        allowance=near.next_order,
        resolution=growth.SIX_DIGITS,
        reason=near.numbers,
        origin="derived",
    )
    cap = 2 * float(exact.curve.mean_inverse_square().value)
    off = abs(float(exact.losses[-1]) / float(loss.value[0]) - 1) if loss.value[0] else np.inf
    still = (
        ""
        if exact.records.c[-1] > exact.records.c[0]
        else "c has not grown: there is no bound to stay below"
    )
    ratio = exact.losses * exact.records.c**2 / cap
    # Losses above the bound refute it, whatever they are
    unlike = off > SAME_LOSS and np.max(ratio) <= 1 + LOSS_BOUND
    yield known(
        "loss-bound",
        "l(c) <= 2 E[1/||Sq||^2]/c^2 at every recorded step: the ratio",
        "derived: sin of the angle is at most 1/(c ||Sq||)",
        predicted=1.0,
        measured=ratio,
        error=1e-9,
        resolution=LOSS_BOUND,
        reason="the losses are integrals of the fitted slope, good to 1e-9",
        sense="at most",
        excuse=still
        or ("the recorded losses are not those of the curve at the recorded c" if unlike else ""),
    )
    slope = float(exact.curve.slope(jnp.asarray([near.c])).value[0])
    rate = -slope * near.dc * near.t / float(loss.value[0]) if loss.value[0] else 0.0
    yield known(
        "time-to-loss",
        f"eps is reached after order eps^(-3/2) steps: -d log t/d log l at step {near.t:.3g}",
        "number of iterations",
        predicted=1.5,
        measured=1 / rate if rate else np.nan,
        error=2 * near.error,
        allowance=1.5
        * (near.next_order * (1 + np.log(near.t)) + 2 * near.settled + 3 * abs(near.k2) / near.c),
        resolution=0.25,
        reason=f"{near.numbers}; three times the 1/c term. Resolution: half the distance to 2, "
        "the exponent of t^(1/2)",
    )


def _growth_quantities(study: Study) -> dict[str, Number]:
    exact, near = study.exact, growth.Asymptote.of(study)
    setting, p = study.setting, exact.power
    K, K2, limit = exact.curve.constant(), exact.curve.correction(), exact.curve.limit()
    a, b, c = growth.ends_of(exact.records)
    from_a, from_b, from_c = growth.sampling_errors(exact)
    bound = growth.bound_of_c(exact.records)
    loss, slope = exact.curve.loss(np.array([c])).at(0), exact.curve.slope(np.array([c]))
    factor = 2 * p * setting.eta / setting.law.d
    # t dc/c = (1 + (k2/c)/(p - 1))/p up to higher orders
    second = (
        abs(near.k2 / c)
        / (p * (p - 1))
        * float(K2.stderr / abs(K2.value) + K.stderr / K.value + from_c / c)
    )
    return {
        ("kappa" if p == 2 else "C1"): _constant(study),
        "loss_limit": limit,
        "exponent_c": Number(near.t * near.dc / c, near.error + second),
        "increment_limit": Number(factor * K.value, factor * K.bound, factor * K.stderr),
        "c_final": Number(c, bound, from_c),
        "a_final": Number(a, a * bound / c + 1e-16 * a, from_a),
        "b_final": Number(b, b * bound / c + 1e-16 * b, from_b),
        "loss_final": loss.moved(abs(slope.value[0]) * (bound + from_c)),
    }


def _constant(study: Study) -> Number:
    """kappa or C1; its error is infinite where the sampled spectra have no variance to estimate it
    from.
    """
    law, exact = study.setting.law, study.exact
    constant = exact.curve.constant()
    unknown = (
        exact.power == 3 and isinstance(law, UniformSphere) and curves.heavy_tailed(law.d, law.n)
    )
    return constant._replace(stderr=np.inf) if unknown else constant


#: Claims of the whole model, for which it is sampled.
STRUCTURE = (
    invariance.structure,
    invariance.schur,
    steps.single_steps,
    manifold.cross_examination,
    raw.agreement,
)
#: Ids of evidence about any of these theorems that rests on sampling.
SAMPLED = (
    "engines-agree-slope",
    "active-gradient-scalar",
    "engines-agree-gradient",
    "engines-agree-descent",
    "engines-agree-raw",
)

THEOREMS = (
    Theorem(
        name="4.1",
        title="looped transformer with LN, trained on principal components: c_t grows like t^(1/2)",
        statement="From (I, 0) population gradient descent stays on the manifold; c_t = a_t b_t "
        "increases like t^(1/2), the "
        "increments of c^2 converge, and the loss falls to that of the L-step power method, which "
        "is positive.",
        source=f"{PAPER}, Theorem 4.1",
        law_options=LAW,
        options={**LOOPS, **DESCENT, **EXPONENT},
        make_law=make_law,
        objective=lambda setting, target: SubspaceDistance(setting.L),
        step_size=natural_step,
        hypotheses=hypotheses,
        study=_looped_study,
        claims=(
            growth.growth,
            positive_limit,
            manifold.known_slope,
            manifold.negative_slope,
            *STRUCTURE,
        ),
        sampled=(*SAMPLED, "gradient-negative"),
        quantities=_growth_quantities,
    ),
    Theorem(
        name="4.2",
        title="one layer without LN, trained on one power step: c_t converges to c*, the loss to "
        "L* > 0",
        statement="From (I, 0) with a small step population gradient descent stays on the "
        "manifold, c_t = a_t b_t converges "
        "linearly to a finite c*, and the loss to a positive L*, for y = Sq/|Sq| and for y = Sq.",
        source=f"{PAPER}, Theorem 4.2",
        law_options=LAW,
        options={**DESCENT, **TARGET},
        make_law=make_law,
        targets=TARGETS,
        objective=lambda setting, target: PowerIteration(target, layer_norm=False),
        step_size=contracting_step,
        hypotheses=_small_step,
        study=_linear_study,
        claims=(convergence.convergence, manifold.known_slope, *STRUCTURE),
        sampled=SAMPLED,
        quantities=convergence.quantities,
    ),
    Theorem(
        name="4.3",
        title="one layer with LN, trained on one power step: c_t grows like t^(1/3), the loss "
        "falls to 0",
        statement="From (I, 0) population gradient descent stays on the manifold; c_t = a_t b_t "
        "increases like t^(1/3), the "
        "increments of c^3 converge, and the loss falls to 0 like t^(-2/3).",
        source=f"{PAPER}, Theorem 4.3",
        law_options=LAW,
        options={**DESCENT, **EXPONENT},
        make_law=make_law,
        objective=lambda setting, target: PowerIteration("normalised", layer_norm=True),
        step_size=natural_step,
        hypotheses=hypotheses,
        study=_layer_study,
        claims=(
            growth.growth,
            vanishing_loss,
            manifold.known_slope,
            manifold.negative_slope,
            *STRUCTURE,
        ),
        sampled=(*SAMPLED, "gradient-negative"),
        quantities=_growth_quantities,
    ),
)
