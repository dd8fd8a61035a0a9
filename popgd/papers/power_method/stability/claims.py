"""The claims about what is measured beside the manifold: `Stability` -> Evidence."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from popgd.claims.evidence import Evidence, estimated, known
from popgd.papers.power_method import one_layer, slopes
from popgd.papers.power_method.kronecker import ACTIVE
from popgd.papers.power_method.stability.hessian import SECTORS
from popgd.papers.power_method.stability.measure import INACTIVE, SMALL, Inside, Stability
from popgd.papers.power_method.stability.prediction import P11, P12, P22, Q21, Q22
from popgd.papers.power_method.training.manifold import motionless, seen

#: Up to which amplitude first order is asked for: there its square, 1e-10, moves the logarithm of
#: the growth by less than GROWTH_ROUNDING, what the Chebyshev series of the prediction and rounding
#: may add to it.
LINEAR, GROWTH_ROUNDING = 1e-5, 1e-6
#: Growth is judged over a tenth of an e-fold at least (in 4.3 p11 grows like c^(1/4)); a rate off
#: by a percent must be seen.
EFOLD, GROWTH_RESOLUTION = 0.1, 1e-2
#: What rounding may make of p22 - r22 = 0 (measured: exactly 0, as both take the same steps).
SYMMETRY = 1e-3
#: Entries of the Hessian must be known to half the least forgotten factor, 1/2.
HESSIAN_RESOLUTION = 0.25
#: The loss at the end must be below this share of the theorem's.
BELOW = 0.9
#: m, c and the loss may differ from the best fit by this at the end: they started of order one
#: away.
SETTLED = 1e-3
#: A descent that took more than this share off what is left of its loss, or distance, since half
#: its steps is under way.
MOVING = 0.01
#: Rounding of a step of both products, of terms as large as E|Sq|^2 which may cancel, over the
#: perturbation; per eta and step.
SECTOR_ROUNDING = 1e-13
#: 31 degrees of freedom: what Student's quantile of a tail of 1e-8 to 1e-7 is over the normal one
#: (1.29 to 1.33).
STUDENT = 1.35
#: Beyond eta * curvature = 2 a step overshoots along the sharpest direction. A few do at c = 0,
#: where the natural step size is near that: they matter where they make it grow by an e-fold.
SHARP, OVERSHOOT = 2.0, 1.0
#: Rounding of the exact losses: measured 1e-15 for those of order one.
LOSS_ROUNDING = 1e-12


def _where_it_converges(
    claims: Callable[[Stability], Iterator[Evidence]],
) -> Callable[[Stability], Iterator[Evidence]]:
    """The claims, INCONCLUSIVE where the descent on the manifold, beside which everything is
    judged, diverged.
    """

    @wraps(claims)
    def judged(study: Stability) -> Iterator[Evidence]:
        finite = np.isfinite(study.base.theta).all()
        for evidence in claims(study):
            yield (
                evidence
                if finite
                else replace(
                    evidence, excuse="descent on the manifold diverged: take a smaller eta"
                )
            )

    return judged


@_where_it_converges
def sectors_split(study: Stability) -> Iterator[Evidence]:
    """Active and inactive blocks do not mix; two entries have closed forms; the scalar sector is
    that of the exact loss.
    """
    mean = np.asarray(study.found.mean)
    where = f"at c = {study.theta[2] * study.theta[5]:.4g}"
    yield known(
        "hessian-does-not-mix",
        f"The Hessian has no entry between active and inactive blocks {where}, in any sector, "
        "sample by sample: the largest",
        "inactive gradients are 0 for all active blocks",
        measured=float(np.abs(mean[:, ACTIVE][:, :, INACTIVE]).max()),
        resolution=np.finfo(float).tiny,
        reason="the zeros are structural",
        origin="derived",
        excuse="" if mean.any() else "the whole Hessian is 0",
    )
    yield from _closed_forms(study, where)
    yield slopes.agree_with(study.known, study.slopes, study.setting.samples)
    yield from _exact_entries(study, where)


def _closed_forms(study: Stability, where: str) -> Iterator[Evidence]:
    mean, stderr = (np.asarray(x) for x in study.found[:2])
    law, c = study.setting.law, float(study.theta[2] * study.theta[5])
    value, outer = (float(x[0]) / law.d for x in (study.h.value, study.h.stderr))
    form = "-c l'(c)/d" if study.objective.layer_norm else "2 E[(f - y).q]/d"
    yield estimated(
        "hessian-coupling",
        f"H_(P22,Q22) = {form} = {value:.6g} {where}, multiples of I: ratio",
        "closed form",
        predicted=1.0,
        measured=float(mean[0, P22, Q22]) / value,
        error=float(np.hypot(stderr[0, P22, Q22], outer)) / abs(value),
        # For y = Sq no sample differs from another at c = 1; without LN the terms are as large as c
        # q.Sq.
        allowance=LOSS_ROUNDING
        * (1.0 if study.objective.layer_norm else max(1.0, abs(c) * law.n / law.d))
        / abs(value),
        resolution=HESSIAN_RESOLUTION,
        drawn=("samples", study.setting.samples),
        reason="sampling error, and rounding",
        origin="derived",
    )
    if study.turned:
        value, error = study.turned.value, study.turned.stderr
        yield estimated(
            "hessian-p12-q21",
            f"H_(P12,Q21) = {value:.6g} {where}, multiples of I, by its closed form, the query "
            "moving the data tokens: ratio",
            "closed form",
            predicted=1.0,
            measured=float(mean[0, P12, Q21]) / value,
            error=float(np.hypot(stderr[0, P12, Q21], error)) / abs(value),
            resolution=HESSIAN_RESOLUTION,
            drawn=("samples", study.setting.samples),
            reason="sampling error of both",
            origin="derived",
        )


def _exact_entries(study: Stability, where: str) -> Iterator[Evidence]:
    mean, stderr = (np.asarray(x) for x in study.found[:2])
    if study.exact is not None:
        exact, outer = study.exact.value, study.exact.stderr
        scale = float(np.abs(exact).max())
        once = np.triu(
            np.ones((8, 8), bool)
        )  # every other entry stands twice in a symmetric matrix
        yield estimated(
            "engines-agree-hessian",
            f"Every entry of the sampled Hessian {where}, multiples of I, is that of the exact "
            "loss on N, over the largest",
            "two engines",
            measured=(mean[0] - exact)[once] / scale,
            error=np.hypot(stderr[0], outer)[once] / scale,
            # Both losses are sums of terms of order one, which cancel where all eigenvalues are
            # nearly equal.
            allowance=LOSS_ROUNDING / min(scale, 1.0),
            resolution=HESSIAN_RESOLUTION,
            drawn=("samples", study.setting.samples),
            reason="sampling error; rounding of losses of order one",
            origin="derived",
            self_check="engines",
        )


@_where_it_converges
def saddle(study: Stability) -> Iterator[Evidence]:
    """The curvature along P22 - Q22 is negative; where h < 0, without LN at small c, along P22 +
    Q22.
    """
    v, sign = np.zeros(8), 1 if study.h.value[0] >= 0 else -1
    v[[P22, Q22]] = 0.5**0.5, -sign * 0.5**0.5
    mean, stderr = (np.asarray(x)[0] for x in study.found[:2])
    yield estimated(
        "saddle",
        f"The manifold runs along a saddle: the curvature along P22 {'-' if sign > 0 else '+'} "
        "Q22, multiples of I, is negative",
        "h = d H_(P22,Q22) is not 0",
        measured=float(v @ mean @ v),
        error=float(abs(v) @ stderr @ abs(v)),
        resolution=seen(float(v @ mean @ v)),
        drawn=("samples", study.setting.samples),
        reason="sampling error, which must be smaller than the curvature itself",
        origin="derived",
        sense="at most",
    )


@_where_it_converges
def grows(study: Stability) -> Iterator[Evidence]:
    """Perturbations grow and shrink as first order says, in all of N; one layer."""
    if study.inside is None:
        return
    inside = study.inside
    theta, held = inside.grown.theta.T, inside.held.theta.T
    u, both = theta[P22] - theta[Q22], held[P22] + held[Q22]
    yield _growth(
        "escape-rate",
        "p22 - r22 grows by 1 + eta h/d a step",
        u,
        inside.grows[0],
        inside.grown.step,
    )
    statement = "From p22 = r22 the sum p22 + r22 shrinks by 1 - eta h/d a step"
    yield _growth("shrinking-rate", statement, both, inside.grows[1], inside.held.step)
    yield known(
        "symmetric-start-stays",
        f"From p22 = r22 = {SMALL:g} descent never leaves p22 = r22: the largest |p22 - r22| over "
        f"{SMALL:g}",
        "symmetry of F in p22 r22",
        measured=float(np.abs(held[P22] - held[Q22]).max()) / SMALL,
        error=SYMMETRY,
        resolution=0.01,
        reason="rounding, which grows as p22 - r22 does",
        origin="derived",
        excuse=motionless(held[[P22, Q22]].T),
    )
    yield from _p11(inside)


def _p11(inside: Inside) -> Iterator[Evidence]:
    if inside.pushed is not None and inside.pushes is not None:
        p11 = inside.pushed.theta[:, P11]
        statement = "p11 grows by 1 - eta k11 a step, k11 = H_(P11,P11) < 0"
        yield _growth("p11-rate", statement, p11, inside.pushes, inside.pushed.step)


@_where_it_converges
def sectors(study: Stability) -> Iterator[Evidence]:
    """A small perturbation of all entries grows by tangent maps of fresh samples as the reduced
    ones say, in each sector.
    """
    growth = study.growth
    last = growth.horizon()
    terms = max(1.0, study.setting.eta * study.setting.law.mean_square_norm())
    rounding = SECTOR_ROUNDING * float(growth.step[last]) * terms
    for k, sector in enumerate(SECTORS):
        wanted, shorter = (float(np.log(abs(x[last, k]))) for x in (growth.mean, growth.shorter))
        sets, runs = (
            growth.predicted[last, :, k] / growth.mean[last, k],
            growth.measured[last, :, k],
        )
        mean = float(runs.mean())
        ours = float(runs.std(ddof=1) / len(runs) ** 0.5 / abs(mean))
        theirs = float(sets.std(ddof=1) / len(sets) ** 0.5)
        bound = abs(wanted - shorter) + rounding
        # Growth must be told from none, and from half of it, unless none is predicted.
        resolution = (
            growth.resolution()[last, k]
            if abs(wanted) <= bound
            else min(growth.resolution()[last, k], abs(wanted) / 2)
        )
        # The logarithm of a mean with relative error e is off by e^2/2.
        yield estimated(
            f"growth-{sector.replace(' ', '-')}",
            "By tangent maps of fresh samples along the descent on the manifold a perturbation "
            f"of all entries, {sector}, grows "
            f"in the mean by the reduced Hessian's factor {np.exp(wanted):.4g} in "
            f"{growth.step[last]} steps: logarithm",
            "first order and Schur's lemma",
            predicted=wanted,
            measured=wanted + float(np.log(mean / growth.mean[last, k]))
            if mean * growth.mean[last, k] > 0
            else np.nan,
            error=STUDENT * float(np.hypot(ours, theirs)),
            allowance=ours**2 + theirs**2 + bound,
            resolution=resolution,
            reason="sampling errors of the two, their squares, the last two coefficients of the "
            "series, and rounding",
            origin="derived",
            skewness=float(((runs - mean) ** 3).mean() / runs.std() ** 3 / len(runs) ** 0.5)
            if runs.std()
            else 0.0,
            excuse=_overshoots(study),
        )


def _overshoots(study: Stability) -> str:
    """Why nothing can be said of steps this large, or empty."""
    if (study.base.theta[:, 2] * study.base.theta[:, 5]).min() < 0:
        return "steps overshoot: on the manifold c = ab falls below 0; take a smaller eta"
    sharpest = study.growth.sharpest
    if study.growth.overshoot < OVERSHOOT:
        return ""
    eta = SHARP * study.setting.eta / sharpest
    return (
        f"eta times the sharpest curvature is {sharpest:.3g} > 2: steps overshoot; take eta "
        f"below {eta:.2g}"
    )


def _growth(
    name: str, statement: str, x: np.ndarray, predicted: np.ndarray, step: np.ndarray
) -> Evidence:
    """log of x over its start, against first order, at the last step where that is worth
    something.
    """
    linear = np.flatnonzero(abs(predicted) <= np.log(LINEAR / SMALL))
    last = linear[-1]
    measured, wanted = float(np.log(abs(x[last] / x[0]))), float(predicted[last])
    short = abs(wanted) < EFOLD
    return known(
        name,
        f"{statement}: log of the factor {np.exp(wanted):.4g} after {step[last]} steps, over that "
        "of first order",
        "first order, along the recursion on the manifold",
        predicted=1.0,
        measured=measured / wanted if wanted else np.nan,
        error=GROWTH_ROUNDING / abs(wanted) if wanted else np.inf,
        resolution=GROWTH_RESOLUTION,
        reason=f"rounding and the series of h and k11; the amplitude is {SMALL:g} at first",
        origin="derived",
        excuse="too few steps: less than a tenth of an e-fold" if short else "",
    )


@_where_it_converges
def ends(study: Stability) -> Iterator[Evidence]:
    """Where descent from beside the manifold gets to; for more layers it is sampled and a number of
    the report, not a claim.
    """
    if study.inside is None:
        return
    limit, step = float(study.limit.value), study.ended.step
    # The loss on the manifold is known at fewer steps
    beside = np.exp(np.interp(np.log1p(step), np.log1p(study.base_step), np.log(study.base_loss)))
    share = study.loss / (limit or beside)
    name = (
        "limit of the theorem" if limit else "loss of the descent on the manifold at the same step"
    )
    yield known(
        "falls-below",
        f"From {study.setting['size']:g} beside the manifold the loss falls below the {name}: "
        f"{study.loss[-1]:.4g} over "
        f"{limit or beside[-1]:.4g}",
        "exact descent in N",
        predicted=BELOW,
        measured=float(share[-1]),
        error=LOSS_ROUNDING / (limit or beside[-1]),
        resolution=1 - BELOW,
        reason="quadrature of the exact loss",
        origin="derived",
        sense="at most",
        excuse=_already(study, limit or beside[-1])
        or ("" if share[-1] <= BELOW else unfinished(study, share)),
    )
    if not study.objective.layer_norm:
        m, c = (
            np.asarray(x) for x in jax.vmap(one_layer.products)(jnp.asarray(study.ended.theta))[2:]
        )
        goal_m, goal_c, least = _regression(study)
        gaps = np.stack([m - goal_m, c - goal_c, study.loss - least])
        # Relative to those at the start, where they are less than one
        scale = np.minimum(1.0, np.abs(gaps[:, 0]))
        with np.errstate(divide="ignore", invalid="ignore"):
            gaps = gaps / scale[:, None]
        worst = np.abs(gaps).max(axis=0)
        yield known(
            "learns-best-fit",
            f"Descent finds the best fit of y by q and S q, m = {goal_m:.6g}, c = {goal_c:.6g}, "
            f"loss {least:.6g}: what is left, over what was at the start",
            "least squares; for y = S q it is exact: m = -1, c = 1, loss 0",
            measured=gaps[:, -1],
            error=LOSS_ROUNDING / scale,
            allowance=SETTLED,
            resolution=2 * SETTLED,
            reason="what descent has left after its steps",
            origin="derived",
            excuse="" if worst[-1] <= SETTLED else unfinished(study, worst),
        )


def _already(study: Stability, limit: float) -> str:
    """Why a loss that is below the limit at the end tells nothing of the descent, or empty."""
    return (
        ""
        if study.loss[0] > BELOW * limit
        else "the loss starts below: start nearer to the manifold"
    )


def unfinished(study: Stability, left: Float[np.ndarray, " ended"]) -> str:
    """Why a descent beside the manifold has not got where it goes, and no fault of the claim's, or
    empty.

    Its steps overshoot; to first order it is still within its distance of order one; or what is
    left is still getting less.
    """
    inside, step = study.inside, study.ended.step
    if inside is None:
        return ""
    if not np.isfinite(left[-1]):
        return "beside the manifold steps overshoot, to no finite loss: take a smaller eta"
    logs = inside.grows[:, inside.grown.step <= step[-1]][:, -1]
    if inside.pushes is not None and study.ended.theta[0, P11] != 0:
        logs = np.append(logs, inside.pushes[-1])
    amplitude = study.setting["size"] * np.exp(min(float(np.max(logs)), 700.0))
    if _overshoots(study):
        return _overshoots(study)
    if not amplitude >= 1:
        return (
            f"too early: in {step[-1]} steps the perturbation has grown to {amplitude:.2g} by "
            "first order; take more steps"
        )
    if not left[-1] >= (1 - MOVING) * left[step <= step[-1] / 2][-1]:
        return f"still under way after {step[-1]} steps: take more steps"
    return ""


def _regression(study: Stability) -> tuple[float, float, float]:
    """(m, c, loss) of the least squares fit of y by (1 + m) q + c S q: the exact loss is quadratic
    in (1 + m, c).
    """
    loss = one_layer.loss(study.objective, study.spectrum)
    at = lambda x: loss(
        jnp.zeros(8).at[jnp.array([P22, 2, 5, Q22])].set(jnp.array([x[0] - 1, x[1], 1.0, 1.0]))
    )
    zero = jnp.zeros(2)
    best = -np.linalg.solve(jax.hessian(at)(zero), jax.grad(at)(zero))
    return float(best[0]) - 1, float(best[1]), float(at(best))
