"""What a theorem is to popgd, and what is measured for it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from popgd import descent, gradient, model
from popgd.data import Hypothesis, Law
from popgd.memory import FORGETFUL, Memory
from popgd.objectives import Objective
from popgd.quadrature import Spectrum
from popgd.recursion import Records
from popgd.verdict import Evidence

#: Comparisons with sampling average over this many times more spectra than the recursion does.
WIDER = 16
#: The raw descents take this many times larger batches, and this many times fewer steps, than the projected one.
RAW_BATCH, RAW_SHORTER = 4, 16
#: Called with (what is being done, steps done, steps in all).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Setting:
    """One run, every setting resolved: what `check` judges and what a report stores."""

    theorem: str
    law: Law
    L: int
    eta: float
    init: str
    targets: tuple[str, ...]
    steps: int
    sampled_steps: int
    batch: int
    samples: int
    spectra: int
    bank: bool
    optimiser: str
    dtype: str
    seed: int
    false_alarm: float
    assume: str
    exponent: float | None

    def key(self, *purpose: int) -> jax.Array:
        """The random key of one purpose: seed, then fold_in of each number."""
        key = jax.random.key(self.seed)
        for number in purpose:
            key = jax.random.fold_in(key, number)
        return key

    @property
    def start(self) -> tuple[float, float]:
        """(a_0, b_0): one active block starts at I, the other at 0."""
        return (1.0, 0.0) if self.init == "P21" else (0.0, 1.0)

    def make_optimiser(self) -> optax.GradientTransformation:
        makers = {"sgd": optax.sgd, "momentum": lambda eta: optax.sgd(eta, momentum=0.9), "adam": optax.adam}
        return makers[self.optimiser](self.eta)

    def describe(self) -> dict[str, Any]:
        """All settings as plain data, the law in its own words."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "law"}
        return {**own, "targets": list(self.targets), **self.law.describe()}


class Point(NamedTuple):
    """A Monte Carlo population gradient at an exact point (a, b) of the manifold."""

    a: float
    b: float
    estimate: gradient.Estimate

    @property
    def c(self) -> float:
        return self.a * self.b


@dataclass(frozen=True)
class Exact:
    """The exact half of a study: the population curve on the manifold, and descent on it.

    curve averages over the spectra that the recursion uses, wide over more of them where they are random. records is
    the descent to the last step and losses the population loss there, short the descent recorded where the Monte Carlo
    ones are. curvature is l'' where it is constant and positive, else 0; power is p where -c^p l'(c) has a positive
    limit, else 0.
    """

    curve: Any
    wide: Any
    records: Records
    short: Records
    losses: Float[np.ndarray, " records"]
    slope_error: float
    curvature: float
    power: int

    def c_at(self, step: int) -> tuple[float, float]:
        """c at a step of the short descent under the wide curve, and its standard error from the sampled spectra.

        To first order a slope larger by the factor 1 + s moves c as 1 + s times as many steps would; where descent
        converges, a slope larger by x moves the limit by -x/curvature. What s at 0 and at c differ by counts as error.
        """
        i = int(np.searchsorted(self.short.step, step))
        c, moved = float(self.short.c[i]), float(self.short.dc[i]) * step
        if self.wide is self.curve:
            return c, 0.0
        wide, narrow = self.wide.slope(np.array([c, 0.0])), self.curve.slope(np.array([c, 0.0]))
        if self.curvature:
            return c - float(wide.value[0] - narrow.value[0]) / self.curvature, float(wide.stderr[0]) / self.curvature
        s = wide.value / narrow.value - 1
        error = float(wide.stderr[0] / abs(wide.value[0])) + abs(float(s[0] - s[1])) / 2
        return c + moved * float(s[0]), abs(moved) * error


@dataclass(frozen=True)
class Study:
    """Everything measured for one objective: by Monte Carlo on the full (P, Q), and exactly on the manifold.

    raw is the descent in which every entry follows its own noisy gradient, at RAW_BATCH times the batch and for a shorter
    time (noise in the active blocks grows), raw_double the same at twice that;
    projected is the descent along Schur-projected gradients.
    """

    setting: Setting
    objective: Objective
    exact: Exact
    points: tuple[Point, ...]
    raw: descent.Trajectory
    raw_double: descent.Trajectory
    projected: descent.Trajectory

    @property
    def eps(self) -> float:
        return float(jnp.finfo(self.setting.dtype).eps)


@dataclass(frozen=True)
class Theorem:
    """One theorem: what it states, when it applies, what it predicts and how each prediction is judged.

    A theorem with targets is judged once for each. `claims` are functions from a `Study` to evidence; `step_size` is
    eta=auto; `study` does the measuring, and what it offers to its memory need not be measured again after a break.
    """

    name: str
    title: str
    statement: str
    source: str
    objective: Callable[[Setting, str], Objective]
    step_size: Callable[[Law], float]
    hypotheses: Callable[[Setting], list[Hypothesis]]
    study: Callable[[Setting, Objective, Progress, Memory], Study]
    claims: tuple[Callable[[Study], Iterable[Evidence]], ...]
    quantities: Callable[[Study], Mapping[str, tuple[float, float]]]
    targets: tuple[str, ...] = ()
    looped: bool = False
    exponent: float | None = None


@dataclass(frozen=True)
class Findings:
    """The evidence, the named numbers (value, error) and the studies behind them, by suffix ('' or '@target')."""

    evidence: list[Evidence] = field(default_factory=list)
    quantities: dict[str, tuple[float, float]] = field(default_factory=dict)
    studies: dict[str, Study] = field(default_factory=dict)


def examine(theorem: Theorem, setting: Setting, progress: Progress, memory: Memory = FORGETFUL) -> Findings:
    """Measure everything the theorem's claims need and collect their evidence."""
    findings = Findings()
    for target in setting.targets or ("",):
        suffix = f"@{target}" if len(setting.targets) > 1 else ""
        study = theorem.study(setting, theorem.objective(setting, target), progress, memory.part(target))
        findings.studies[suffix] = study
        for claim in theorem.claims:
            findings.evidence.extend(replace(e, id=e.id + suffix, source=f"{theorem.source}: {e.source}") for e in claim(study))
        for name, value in theorem.quantities(study).items():
            findings.quantities[name + suffix.replace("@", "_")] = value
    return findings


def curves_of(setting: Setting, make_curve: Callable[[Spectrum], Any]) -> tuple[Any, Any]:
    """The population curve of the law, and one over WIDER times more spectra: the same if the spectrum is fixed."""

    def curve(count: int) -> Any:
        rows = np.asarray(setting.law.eigenvalues(setting.key(5), count))
        if len(rows) == 1:
            return make_curve(Spectrum.of(rows[0]))
        return make_curve(Spectrum(jnp.asarray(rows), jnp.ones(rows.shape)))

    narrow = curve(setting.spectra)
    return narrow, narrow if np.shape(narrow.spectra.lam)[0] == 1 else curve(WIDER * setting.spectra)


#: The shape of what an exact half remembers: records, short, losses, slope_error.
_EXACT = (Records(*range(7), state=None), Records(*range(7), state=None), 0, 0)  # pyright: ignore


def exact_half(
    curve: Any,
    wide: Any,
    curvature: float,
    power: int,
    descend: Callable[[], tuple[Records, Records, Any, float]],
    memory: Memory,
) -> Exact:
    """An `Exact` whose records, short, losses and slope_error come from descend(), once. States to go on from are dropped."""

    def measure() -> tuple:
        records, short, losses, error = descend()
        return records._replace(state=None), short._replace(state=None), losses, error

    records, short, losses, error = memory.part("exact").once(measure, _EXACT)
    return Exact(curve, wide, records, short, losses, float(error), curvature, power)


def population_gradients(
    setting: Setting, objective: Objective, exact: Exact, progress: Progress, memory: Memory
) -> Iterable[Point]:
    """Monte Carlo gradients at the start, early in and at the end of the short descent."""
    law, dtype, steps = setting.law, jnp.dtype(setting.dtype), setting.sampled_steps
    a, b = exact.short.weights
    blank = gradient.Gradient(0, model.Weights(0, 0), 0, 0, 0)  # pyright: ignore
    for number, step in enumerate((0, max(1, steps // 100), steps)):
        progress("population gradients", number, 3)
        i = int(np.searchsorted(exact.short.step, step))
        weights = model.embed(jnp.asarray(a[i], dtype), jnp.asarray(b[i], dtype), law.d)
        measure = partial(gradient.population_gradient, objective, weights, law, setting.key(1, number), setting.samples)
        mean, stderr = memory.part(f"point {number}").once(lambda measure=measure: measure()[:2], (blank, blank))
        yield Point(float(a[i]), float(b[i]), gradient.Estimate(mean, stderr, setting.samples))


def sampled(setting: Setting, objective: Objective, exact: Exact, progress: Progress, memory: Memory = FORGETFUL) -> Study:
    """The Monte Carlo half of a study of descent on the manifold {P21 = a I, Q12 = b I}, beside its exact half."""
    law, dtype, steps = setting.law, jnp.dtype(setting.dtype), setting.sampled_steps
    points = tuple(population_gradients(setting, objective, exact, progress, memory))
    a0, b0 = setting.start
    start = model.embed(jnp.asarray(a0, dtype), jnp.asarray(b0, dtype), law.d)
    how = descent.Descent(objective, setting.make_optimiser(), setting.bank)
    raw_steps = int(exact.short.step[np.searchsorted(exact.short.step, max(1, steps // RAW_SHORTER))])

    def run(name: str, purpose: int, count: int, batch: int, projected: bool) -> descent.Trajectory:
        return descent.descend(
            how,
            law,
            start,
            count,
            batch,
            setting.key(purpose),
            projected,
            progress=partial(progress, name),
            memory=memory.part(name),
        )

    return Study(
        setting,
        objective,
        exact,
        points,
        raw=run("raw descent", 2, raw_steps, RAW_BATCH * setting.batch, False),
        raw_double=run("raw descent, twice the batch", 3, raw_steps, 2 * RAW_BATCH * setting.batch, False),
        projected=run("projected descent", 4, steps, setting.batch, True),
    )
