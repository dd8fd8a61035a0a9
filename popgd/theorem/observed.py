"""A theorem about something else than descent: `observing`, from a measurement and claims to all
that a run needs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from popgd.claims.evidence import Evidence
from popgd.descent.memory import Memory
from popgd.problem.errors import SettingError
from popgd.problem.law import Hypothesis
from popgd.theorem.base import COMMON, Progress, Setting, Theorem

#: What every run takes, descent or not.
ALWAYS = ("theorem", "L", "seed", "false_alarm", "assume")


@dataclass(frozen=True)
class Observed:
    """What was measured, as named arrays, at a setting; found["name"] is one of them."""

    setting: Setting
    values: Mapping[str, np.ndarray]
    draw: Callable[["Observed", str], Mapping[str, Any]]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]

    def arrays(self) -> Mapping[str, np.ndarray]:
        return self.values

    def figures(self, title: str) -> Mapping[str, Any]:
        return self.draw(self, title)


@dataclass(frozen=True)
class Chosen:
    """What stands for the data law: the options alone, which are the setting's own."""

    options: Mapping[str, Any]

    def describe(self) -> dict[str, object]:
        return {}


def observing(
    measure: Callable[[Setting, Progress], Mapping[str, Any]],
    name: str,
    *,
    statement: str,
    claims: Sequence[Callable[[Observed], Iterable[Evidence]]],
    source: str = "",
    title: str = "",
    options: Mapping[str, Any] | None = None,
    uses: Sequence[str] = (),
    hypotheses: Callable[[Setting], Sequence[Hypothesis]] = lambda setting: (),
    figures: Callable[[Observed, str], Mapping[str, Any]] = lambda found, title: {},
    quantities: Callable[[Observed], Mapping[str, Any]] = lambda found: {},
    sampled: Sequence[str] = (),
    transcribed: bool = False,
    fill: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda settings: {},
    **defaults: Any,
) -> Theorem:
    """A theorem about what `measure` computes or samples: a forward pass, a matrix, a recurrence.

    measure     a function of the setting (setting["width"], setting.key(1)) and of a progress to
                report to, that returns arrays by name; it is asked once, and they are recorded
    claims      functions from what was measured to `Evidence`
    options     settings of its own: name -> Option(default, reader, help)
    uses        the settings of descent that mean something here, such as "samples"; the others are
                refused
    hypotheses  the assumptions of the theorem, whether each holds at a setting
    figures     a function of what was measured and a title: file name -> matplotlib figure
    quantities  named numbers to report: `Number`, or (value, error)
    sampled     the ids of all evidence that may be `estimated`
    fill        of all settings, the values of some whose default is None
    defaults    of settings that every run has, such as samples=2**13

    Raises SettingError for options that cannot be settings, and for `uses` that are none.
    """
    unknown = [word for word in uses if word not in COMMON]
    if unknown:
        raise SettingError(
            f"uses={unknown[0]}: no setting that every run has; give those of descent"
        )
    return Theorem(
        name=name,
        title=title or statement.split(". ")[0],
        statement=statement,
        source=source,
        law_options={},
        options=dict(options or {}),
        make_law=cast(Any, Chosen),
        step_size=lambda law, L: 1.0,
        objective=lambda setting, target: cast(Any, None),
        hypotheses=lambda setting: list(hypotheses(setting)),
        study=partial(_observe, measure=measure, figures=figures),
        claims=tuple(claims),
        quantities=quantities,
        sampled=tuple(sampled),
        transcribed=transcribed,
        fill=fill,
        idle=tuple(name for name in COMMON if name not in (*ALWAYS, *uses)),
        defaults=defaults,
    )


def _observe(
    setting: Setting,
    objective: Any,
    progress: Progress,
    memory: Memory,
    measure: Callable[[Setting, Progress], Mapping[str, Any]],
    figures: Callable[[Observed, str], Mapping[str, Any]],
) -> Observed:
    values = memory.recall()
    if values is None:
        values = {name: np.asarray(x) for name, x in measure(setting, progress).items()}
        memory.offer(values.copy)
    return Observed(setting, values, figures)
