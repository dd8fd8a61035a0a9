"""A theorem about a problem: `about`, from weights, a loss, a law and claims to all that a run
needs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
import numpy as np

from popgd.claims import examined
from popgd.claims.measured import ON, Dynamics, Measured
from popgd.descent import replicas
from popgd.descent.exact import Path
from popgd.descent.memory import Memory
from popgd.problem.errors import SettingError
from popgd.problem.law import Hypothesis
from popgd.problem.problem import Problem
from popgd.symmetry import actions, plane
from popgd.theorem.base import Progress, Setting, Theorem

#: Sampled descents at each batch size, where there is no exact loss.
REPLICAS = 32


@dataclass(frozen=True, eq=False)
class Stated:
    """What stands for the data law in a `Setting`: the problem that the options make."""

    problem: Problem
    options: Mapping[str, Any]
    failing: Callable[["Stated"], Sequence[Hypothesis]]

    def hypotheses(self) -> list[Hypothesis]:
        return list(self.failing(self))

    def describe(self) -> dict[str, object]:
        return {}  # the options are the setting's own


def about(
    problem: Problem | Callable[..., Problem],
    name: str,
    *,
    statement: str,
    claims: Sequence[Callable[[Measured], Any]],
    eta: float | Callable[[Problem], float],
    steps: int = 10**4,
    flow: bool = False,
    source: str = "",
    title: str = "",
    options: Mapping[str, Any] | None = None,
    hypotheses: Callable[[Stated], Sequence[Hypothesis]] = lambda stated: (),
    quantities: Mapping[str, Any] | None = None,
    **defaults: Any,
) -> Theorem:
    """A theorem about population gradient descent of a problem, `steps` steps of size eta; or about
    its gradient flow, up to the time eta steps.

    problem     a `Problem`, or a function of the options that makes one
    claims      of `popgd.claims`, or functions from what was measured to `Evidence`
    options     settings of its own: name -> Option(default, reader, help)
    hypotheses  the assumptions of the theorem, whether each holds for a problem and its options
    quantities  named numbers to report beside the first and the last loss, where that is exact:
                name -> function of what was measured -> `Number`, or (value, error)
    defaults    of common settings, such as samples=2**15
    """
    own = dict(options or {})

    def make(settings: Mapping[str, Any]) -> Stated:
        chosen = {option: settings[option] for option in own}
        made = problem(**chosen) if callable(problem) else problem
        if not isinstance(made, Problem):
            raise SettingError(f"{name}: a Problem was wanted, {type(made).__name__} was made")
        return Stated(made, chosen, hypotheses)

    numbers = dict(quantities or {})

    def report(measured: Measured) -> dict[str, Any]:
        named = {key: of(measured) for key, of in numbers.items()}
        if measured.path is None:
            return named
        loss = measured.loss()
        ends = {"loss_start": 0, "loss_end": -1}
        return {key: loss.number.at(at) for key, at in ends.items()} | named

    return Theorem(
        name=name,
        title=title or statement.split(". ")[0],
        statement=statement,
        source=source,
        law_options={},
        options=own,
        make_law=cast(Any, make),
        step_size=lambda law, L: float(eta(law.problem) if callable(eta) else eta),
        objective=lambda setting, target: setting.law.problem.loss,
        hypotheses=lambda setting: setting.law.hypotheses(),
        study=partial(measure, flow=flow),
        claims=(examined.slope_agrees, examined.plane_holds, *claims),
        quantities=report,
        defaults={"steps": steps, **defaults},
        sampled=(
            "engines-agree-slope",
            "plane-holds",
            *(id for claim in claims for id in getattr(claim, "sampled", ())),
        ),
    )


def is_about_a_problem(theorem: Theorem) -> bool:
    """Whether a theorem was made by `about`."""
    return getattr(theorem.study, "func", None) is measure


def measure(
    setting: Setting, objective: Any, progress: Progress, memory: Memory, flow: bool
) -> Measured:
    """The path, exact or sampled, and sampled gradients along it."""
    problem = setting.law.problem
    dynamics = Dynamics(problem, plane_of(problem, setting.key(20)), setting.eta, flow)
    if problem.exact is not None:
        path = _path(dynamics, setting, progress, memory.part("path"))
        sampled, x = None, path.x
    else:
        path, sampled = None, _replicas(dynamics, setting, progress, memory.part("replicas"))
        x = 2 * sampled.x[1].mean(axis=0) - sampled.x[0].mean(axis=0)
    progress("gradients", 0, 1)
    points = x[examined.points_of(x, None if path is None else path.move)]
    checks = examined.examine(dynamics, setting, points, memory.part("gradients"))
    return Measured(setting, dynamics, path, sampled, checks)


def plane_of(problem: Problem, key: Any) -> Any:
    """The plane that descent stays on: the one that is given, else that of the symmetries, if the
    start is on it, else all weights. Raises SettingError for a symmetry that does not hold, or a
    plane that the start is not on.
    """
    for number, symmetry in enumerate(problem.symmetries):
        here = jax.random.fold_in(key, number)
        actions.check(symmetry, problem.loss, problem.sample, problem.start, here)
    if problem.plane is not None:
        away, entry = problem.plane.off(problem.start)
        if away > ON:
            raise SettingError(f"the start is off the plane by {away:.3g} in {entry}: move either")
        return problem.plane
    if problem.symmetries:
        found = plane.invariant(problem.symmetries, problem.start, key)
        if found.off(problem.start)[0] <= ON and found.k:
            return found
    return plane.whole(problem.start)


def _path(dynamics: Dynamics, setting: Setting, progress: Progress, memory: Memory) -> Path:
    told = lambda done, total: progress("path", done, total)

    def work() -> list[Any]:
        path = dynamics.run(dynamics.problem.start, setting.steps, setting.key(22), told)
        return [*path[:5], np.frombuffer(path.why.encode().ljust(200), dtype=np.uint8)]

    t, x, error, move, stopped, why = memory.once(work, [0] * 6)
    return Path(t, x, error, move, float(stopped), bytes(why).decode().strip())


def _replicas(
    dynamics: Dynamics, setting: Setting, progress: Progress, memory: Memory
) -> replicas.Replicas:
    told = lambda done, total: progress("sampled descents", done, total)
    work = lambda: list(dynamics.sampled(setting, REPLICAS, told))
    return replicas.Replicas(*memory.once(work, [0] * 2))
