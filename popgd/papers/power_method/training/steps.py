"""Evidence about single steps: what popgd calls projected, or gradient descent on the manifold, is
that.
"""

from collections.abc import Iterator

import numpy as np

from popgd.claims.evidence import Evidence, known
from popgd.descent.recursion import Records
from popgd.papers.power_method.training.manifold import broken_off, motionless
from popgd.papers.power_method.training.study import Study

#: Rounding of one step on (a, b) and of reading it off (c, Delta), in units of eps (measured worst
#: 3).
STEP_UNITS = 64
#: A step's quadratic terms are of the order (eta l'/d)^2: 1e-5 for the smallest default step.
STEP_RESOLUTION = 1e-6
#: Between two records a^2 - b^2 may fall by this factor times the steps times the largest (eta
#: l'/d)^2 at the two: |l'| may be larger between them (4.1 with many loops, at small c).
BETWEEN = 4.0
#: Rounding of a^2 - b^2 over all steps (measured 5e-13 after 10^8).
KEPT_ROUNDING = 1e-11
#: The largest step must be told from none, or from half of it, and the manifold from as far as
#: descent has gone: by this share.
SHARE = 0.1
#: Rounding of a projected descent, which adds up the same numbers in every entry of a diagonal, in
#: units of eps.
ON_MANIFOLD = 1000


def single_steps(study: Study) -> Iterator[Evidence]:
    """The recursion of (c, Delta) and a sign takes gradient steps on (a, b); the projected descent
    stays on the manifold.
    """
    exact = study.exact
    both = (exact.short, exact.records)
    ratio, error, taken = (
        np.concatenate(x) for x in zip(*(gradient_steps(study, x) for x in both), strict=True)
    )
    kept, allowed = (
        np.concatenate(x) for x in zip(*(_kept_between(study, x) for x in both), strict=True)
    )
    told = np.full(ratio.shape, np.minimum(STEP_RESOLUTION, SHARE * taken.max(initial=0.0)))
    yield known(
        "reduced-dynamics",
        "Exact descent takes the steps a - eta b l'(c)/d, b - eta a l'(c)/d: a + b and a - b "
        "after the first ones, as ratios; "
        "and a^2 - b^2, with the sign of a + b, from each record to the next",
        "derived: reduced dynamics",
        predicted=1.0,
        measured=np.concatenate([ratio, kept]),
        error=np.concatenate([error, np.full(kept.shape, KEPT_ROUNDING)]),
        allowance=np.concatenate([np.zeros(ratio.shape), allowed]),
        resolution=np.concatenate([told, np.full(kept.shape, SHARE)]),
        reason="bounds of the slope and of its interpolant, and rounding of one step; between "
        "records what their steps change",
        excuse=broken_off(int(exact.records.stopped) if exact.records.stopped >= 0 else None),
        self_check="dynamics",
    )
    run = study.projected
    rounding = ON_MANIFOLD * study.eps * float(np.linalg.norm(run.coordinates, axis=1).max())
    gone = float(np.abs(run.coordinates - run.coordinates[0]).max())
    yield known(
        "projected-on-manifold",
        f"The projected descent stays on the manifold: its distance from it along {run.step[-1]} "
        "steps",
        "derived: Schur projection",
        measured=run.distance,
        allowance=rounding,
        resolution=min(max(1e-9, 2 * rounding), SHARE * gone),
        reason=f"rounding of sums: {ON_MANIFOLD} eps; the descent has gone {gone:.3g}",
        excuse=broken_off(run.diverged_at) or motionless(run.coordinates),
        self_check="rounding",
    )


def gradient_steps(study: Study, records: Records) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a + b and a - b at recorded steps over those of one gradient step from the step before, where
    both are on record; the error of that; and |h|, what the step changes.

    With h = eta l'(c)/d a step multiplies a + b by 1 - h and a - b by 1 + h, so an error dh of h
    counts dh/|1 -+ h|. They are read off c and Delta, each rounded relative to s (1 + |h|)^2, s =
    a^2 + b^2: much, relative to them, where a large step leaves little of one.
    """
    exact, eta, d = study.exact, study.setting.eta, study.setting.law.d
    i = np.flatnonzero(np.diff(records.step) == 1)
    slope = exact.curve.slope(records.c[i])
    h = eta * slope.value / d
    sums, after = (np.stack([x[j] for x in records.sums]) for j in (i, i + 1))
    factors = np.stack([1 - h, 1 + h])
    dh = eta / d * (slope.bound + exact.slope_error * abs(slope.value))
    s = np.hypot(2 * records.c[i], records.Delta[i])
    rounding = STEP_UNITS * np.finfo(float).eps * s * (1 + abs(h)) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        error = dh / abs(factors) + rounding * (
            1 / abs(records.Delta[i + 1]) + 1 / np.max(after**2, axis=0)
        )
        return (after / (sums * factors)).ravel(), error.ravel(), np.abs(h)


def _kept_between(study: Study, records: Records) -> tuple[np.ndarray, np.ndarray]:
    """a^2 - b^2 at each record that is more than one step after the one before, over what it was
    there, times the product of the signs; and by how much n steps may change it.

    Steps multiply a^2 - b^2 by 1 - h^2, h = eta l'(c)/d, and change no sign while |h| < 1. Left out
    is where that may be a quarter of `SHARE`: such steps stand alone in the record, or the descent
    never settles. Weights exchanged, (b, a), have -1 times it, and (-a, -b) the other sign.
    """
    exact, eta, d = study.exact, study.setting.eta, study.setting.law.d
    i = np.flatnonzero((np.diff(records.step) > 1) & np.isfinite(records.c[1:]))
    j = i + 1
    h = eta / d * np.stack([exact.curve.slope(records.c[k]).value for k in (i, j)])
    allowed = BETWEEN * (records.step[j] - records.step[i]) * np.max(h**2, axis=0)
    seen = allowed <= SHARE / 4
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = records.Delta[j] / records.Delta[i] * records.sign[j] * records.sign[i]
    return ratio[seen], allowed[seen]
