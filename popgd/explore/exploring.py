"""`explore`: what could be claimed of a problem."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from popgd.explore import curvature, fixed, invariants, measuring, path, structure
from popgd.explore.conjecture import Conjecture, kept
from popgd.explore.exploration import Exploration
from popgd.explore.measuring import Horizon
from popgd.problem.errors import SettingError
from popgd.problem.problem import Problem

#: How far it is looked: a power with a correction t^-1/3 is known to 1e-6 then.
STEPS = 10**10
#: Samples of every test, and of a Hessian.
SAMPLES = 4096

Progress = Callable[[str, int, int], None]
_QUIET: Progress = lambda name, done, total: None
#: What is done, in order, for whoever shows progress.
PARTS = ("symmetries", "conserved quantities", "path", "curvatures", "conjectures")


def explore(
    problem: Problem | Any,  # checked below, in words
    *,
    eta: float | None = None,
    steps: int = STEPS,
    flow: bool | None = None,
    seed: int = 0,
    samples: int = SAMPLES,
    progress: Progress = _QUIET,
) -> Exploration:
    """What could be claimed of population descent of a problem.

    eta, steps  as those of a theorem; by default a tenth of the inverse of the largest curvature at
                the start
    flow        gradient flow up to the time eta steps; by default where there is an exact loss
    samples     of every test of a law, and of a Hessian

    Declared symmetries are tested, conserved quadratic quantities searched, the exact path (without
    an exact loss, with eta, sampled descents) is followed, curvatures across the plane are sampled;
    lines about the path are judged on
    it before they are told. All of it is conjecture: nothing is judged
    on the samples that it was found on, but no line knows what was not looked at. Without an exact
    loss no growth, limit or rate is conjectured. Not to be trusted of a loss whose branches random
    points miss. Raises SettingError for what is no Problem, and for bad numbers.
    """
    horizon_of = _checked(problem, eta, steps, seed, samples)
    tell = lambda number: progress(PARTS[number], number, len(PARTS))
    base = Horizon(1.0, steps, True, seed, samples)
    tell(0)
    found = structure.examine(problem, base.key(0), samples)
    tell(1)
    quantities, note = invariants.search(problem, found, base.key(1))
    notes = [*found.notes, *([f"conserved quantities: {note}"] if note else [])]
    every: list[Conjecture] = [
        *structure.conjectures(problem, found),
        *invariants.conjectures(quantities),
    ]
    tell(2)
    horizon = horizon_of(found, flow)
    if horizon is None:
        notes.append("no path was followed: give exact=, the population loss, or eta=")
        measured, courses, points, end = None, path.NOTHING, [], None
    else:
        measured = measuring.measured(problem, found, horizon, progress)
        notes += [measured.unfinished] if measured.unfinished else []
        courses = path.read(measured, list(invariants.pairs(quantities, found.plane)))
        points = fixed.points(measured, [r.course for r in courses.every])
        end = measured.path.x[-1] if measured.path is not None else None
        every += kept(path.conjectures(measured, courses), measured)
    tell(3)
    start = np.asarray(found.plane.coordinates(problem.start))
    at_start, at_end = (
        ([], "") if x is None
        else curvature.across(problem, found, np.asarray(x), base.key(3, number), samples)
        for number, x in enumerate((start, end))
    )  # fmt: skip
    notes += [f"curvature across the plane: {said}" for _, said in (at_start, at_end) if said]
    words = horizon.describe() if horizon else "nothing descends"
    return Exploration(words, found, tuple(quantities), courses, tuple(points),
                       tuple(at_start[0]), tuple(at_end[0]), tuple(every),
                       tuple(dict.fromkeys(notes)), measured)  # fmt: skip


def _checked(
    problem: Any, eta: float | None, steps: int, seed: int, samples: int
) -> Callable[..., Horizon | None]:
    """What makes the horizon, once it is known what descends. Raises SettingError."""
    if not isinstance(problem, Problem):
        raise SettingError(
            f"explore takes a Problem, got {type(problem).__name__}: give Problem(start, loss, law)"
        )
    if not jax.config.read("jax_enable_x64"):
        raise SettingError('JAX has float64 off: jax.config.update("jax_enable_x64", True)')
    for name, value, least in (("steps", steps, 1), ("seed", seed, 0), ("samples", samples, 64)):
        if isinstance(value, bool) or int(value) != value or value < least:
            raise SettingError(f"{name}={value}: a whole number from {least} on was wanted")
    if eta is not None and not (np.isfinite(eta) and eta > 0):
        raise SettingError(f"eta={eta}: a positive number was wanted")

    def horizon(found: structure.Structure, flow: bool | None) -> Horizon | None:
        exact = problem.exact is not None
        if eta is None and not exact:
            return None
        size = measuring.step_size(problem, found) if eta is None else float(eta)
        return Horizon(size, int(steps), exact if flow is None else flow, seed, samples)

    return horizon
