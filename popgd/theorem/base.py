"""What a theorem is to popgd. No paper is known here."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import optax

from popgd.claims.evidence import Evidence
from popgd.descent.memory import FORGETFUL, Memory
from popgd.problem.errors import SettingError, TooLarge
from popgd.problem.law import Hypothesis, Law, Objective
from popgd.problem.number import Number
from popgd.theorem import settings as config
from popgd.theorem.settings import Option

#: Called with (what is being done, steps done, steps in all).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Setting:
    """One run, every setting resolved: what `check` judges and what a report stores.

    `law` is what the theorem's `make_law` made. `options` are those that the theorem declares, by
    their names on the command line: setting["width"]. `idle` are those of descent that mean nothing
    to it: they have their defaults, and no report tells them.
    """

    theorem: str
    law: Any
    L: int
    eta: float
    optimiser: str
    bank: bool
    steps: int
    sampled_steps: int
    batch: int
    samples: int
    dtype: str
    seed: int
    false_alarm: float
    assume: str
    options: Mapping[str, Any]
    idle: tuple[str, ...] = ()

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    def key(self, *purpose: int) -> jax.Array:
        """The random key of one purpose: seed, then fold_in of each number."""
        key = jax.random.key(self.seed)
        for number in purpose:
            key = jax.random.fold_in(key, number)
        return key

    def make_optimiser(self) -> optax.GradientTransformation:
        makers = {
            "sgd": optax.sgd,
            "momentum": lambda eta: optax.sgd(eta, momentum=0.9),
            "adam": optax.adam,
        }
        return makers[self.optimiser](self.eta)

    def describe(self) -> dict[str, Any]:
        """All settings as plain data, by their names on the command line; the law in its own
        words.
        """
        own = {name: getattr(self, name) for name in COMMON if name not in self.idle}
        return {**own, **_lists(dict(self.options)), **self.law.describe()}


def _lists(value: Any) -> Any:
    """Plain data as JSON gives it back: with lists for tuples."""
    if isinstance(value, Mapping):
        return {name: _lists(item) for name, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple | list) else value


#: The settings that every run of a descent tells; L is 1 where a theorem does not declare it.
COMMON = tuple(
    name for name in Setting.__dataclass_fields__ if name not in ("law", "options", "idle")
)


@runtime_checkable
class Study(Protocol):
    """Everything measured for one objective; what else it has is between a theorem's `study` and
    its claims.
    """

    @property
    def setting(self) -> Setting: ...
    def arrays(self) -> Mapping[str, np.ndarray]:
        """What trajectory.npz keeps, by name."""
        ...

    def figures(self, title: str) -> Mapping[str, Any]:
        """matplotlib figures by file name."""
        ...


class Unfolding:
    """A study whose parts are measured when they are first read: so the order of the claims is the
    order of the work, and each comes out as soon as its own is done.
    """

    @classmethod
    def of(cls, known: Mapping[str, Any], parts: Mapping[str, Callable[[], Any]]) -> Any:
        """A study with these fields, and others that parts[name]() gives."""
        study = object.__new__(cls)
        for name, value in {**known, "_parts": parts}.items():
            object.__setattr__(study, name, value)
        return study

    def __getattr__(self, name: str) -> Any:
        parts = self.__dict__.get("_parts", {})
        if name not in parts:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        object.__setattr__(self, name, parts[name]())
        return self.__dict__[name]

    def whole(self) -> None:
        """Measure what no claim has read: it is recorded all the same."""
        for name in self.__dict__.get("_parts", {}):
            getattr(self, name)


@dataclass(frozen=True)
class Theorem:
    """One theorem: what it states, when it applies, what it predicts and how each prediction is
    judged.

    law_options the settings that make the data law, by name; the law describes itself with them
    options     the settings that it takes beside them and those that every run has
    defaults    where its defaults are not those declared
    make_law    the data law of all settings together; it may raise SettingError
    step_size   eta=auto for this law and L
    study       measures for one objective and returns a `Study`; what it offers to its memory need
                not be measured again after a break
    claims      functions from that study to evidence, in the order in which they are judged
    sampled     the ids of all evidence that may rest on sampling, at any setting: they share the
                false-alarm rate, and share it before anything is drawn
    quantities  named numbers of the study: `Number`, or (value, error)
    transcribed whether its statement is known from second hand alone: the verdict says so
    targets     the values of the setting `target`; a theorem with targets is judged once for each
    idle        the settings of descent that mean nothing to it: they are refused
    fill        of all settings, the values of some that were left open (None); it may raise
                SettingError

    Raises SettingError if an option hides a setting that every run has, or is none.
    """

    name: str
    title: str
    statement: str
    source: str
    law_options: Mapping[str, Option]
    options: Mapping[str, Option]
    make_law: Callable[[Mapping[str, Any]], Law]
    step_size: Callable[[Any, int], float]
    objective: Callable[[Setting, str], Objective]
    hypotheses: Callable[[Setting], list[Hypothesis]]
    study: Callable[[Setting, Any, Progress, Memory], Any]
    claims: tuple[Callable[[Any], Iterable[Evidence]], ...]
    quantities: Callable[[Any], Mapping[str, Number | tuple[float, float]]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    sampled: tuple[str, ...] = ()
    transcribed: bool = False
    idle: tuple[str, ...] = ()
    fill: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda settings: {}

    def judged_for(self, setting: Setting) -> dict[str, str]:
        """The targets that it is judged for, by the suffix of their claims: '' or '@target'."""
        chosen = setting.options.get("target")
        targets = (chosen,) if chosen else self.targets or ("",)
        return {f"@{target}" if len(targets) > 1 else "": target for target in targets}

    def __post_init__(self) -> None:
        try:
            config.declared(self.law_options, self.options, self.defaults)
        except SettingError as error:
            raise SettingError(f"Theorem {self.name}: {error}") from None

    @property
    def declared(self) -> dict[str, Option]:
        """The settings that not every run has, with the defaults of this theorem."""
        every = {**self.law_options, **self.options}
        return {
            name: option._replace(default=self.defaults.get(name, option.default))
            for name, option in every.items()
        }


@dataclass(frozen=True)
class Findings:
    """The named numbers, and the studies behind them by suffix."""

    quantities: dict[str, Number] = field(default_factory=dict)
    studies: dict[str, Any] = field(default_factory=dict)


def examine(
    theorem: Theorem,
    setting: Setting,
    findings: Findings,
    progress: Progress,
    memory: Memory = FORGETFUL,
) -> Iterator[Evidence]:
    """The evidence of the theorem's claims, each as soon as it is measured; into `findings` go
    numbers and studies.
    """
    for suffix, target in theorem.judged_for(setting).items():
        study = theorem.study(
            setting, theorem.objective(setting, target), progress, memory.part(target)
        )
        findings.studies[suffix] = study
        for claim in theorem.claims:
            for e in claim(study):
                yield replace(e, id=e.id + suffix, source=f"{theorem.source}: {e.source}")
        if isinstance(study, Unfolding):
            study.whole()
        for name, number in theorem.quantities(study).items():
            findings.quantities[name + suffix.replace("@", "_")] = Number(*number).plain()


def fits(what: str, size: float) -> None:
    """Raises TooLarge if `size` bytes, which `what` needs, exceed half the memory here."""
    memory = (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if hasattr(os, "sysconf")
        else np.inf
    )
    if size > memory / 2:
        raise TooLarge(
            f"{what} needs about {size / 1e9:.3g} GB, half of {memory / 1e9:.3g} is there: use less"
        )
