"""Trained layers to loop: the exact descent of Theorems 4.1, 4.2 and 4.3, or that of a finished
run.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float

from popgd.descent.memory import Memory
from popgd.descent.recursion import Records, sign_of
from popgd.papers.power_method import curve as curves
from popgd.papers.power_method.data import UnitColumns
from popgd.papers.power_method.objectives import OfOutput, PowerIteration, SubspaceDistance
from popgd.papers.power_method.options import LAW, TRAINING
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.training import convergence, growth
from popgd.papers.power_method.training import laws as unit_columns
from popgd.papers.power_method.training.study import curves_of
from popgd.problem.errors import SettingError
from popgd.problem.law import Hypothesis
from popgd.runs import store
from popgd.theorem import settings as config
from popgd.theorem.base import Progress, Setting
from popgd.theorem.readers import named

#: What a run must have in common with the setting that reuses it, beside the law.
SHARED = ("L", "init", "steps", "spectra", "seed", "optimiser")


class Kind(NamedTuple):
    """A trained model: the theorem it is trained by and that theorem's target, whether it has LN,
    its population curve for spectra and L, p where c grows like t^(1/p), 0 where it converges, and
    its loss for L.
    """

    theorem: str
    target: str
    layer_norm: bool
    curve: Callable[[Spectrum, int], Any]
    power: int
    objective: Callable[[int], OfOutput]


def _linear(target: str) -> Kind:
    curve = lambda spectra, L: curves.Linear.of(spectra, target)
    return Kind("4.2", target, False, curve, 0, lambda L: PowerIteration(target, layer_norm=False))


KINDS = {
    "looped": Kind("4.1", "", True, curves.Looped.of, 2, SubspaceDistance),
    "LN": Kind(
        "4.3",
        "",
        True,
        lambda spectra, L: curves.Layer.of(spectra),
        3,
        lambda L: PowerIteration("normalised"),
    ),
    "norm": _linear("normalised"),
    "unnorm": _linear("unnormalised"),
}


@dataclass(frozen=True)
class TrainingLaw:
    """The law that a model is trained on; with `run`, the finished run that it comes from, and
    `kept`, that run's settings.
    """

    law: UnitColumns
    run: str = ""
    kept: Mapping[str, Any] | None = None

    @property
    def d(self) -> int:
        return self.law.d

    @property
    def n(self) -> int:
        return self.law.n

    @property
    def r(self) -> int:
        return self.law.r

    def sample(self, key: Any, dtype: Any) -> Any:
        return self.law.sample(key, dtype)

    def eigenvalues(self, key: Any, count: int) -> Any:
        return self.law.eigenvalues(key, count)

    def mean_square_norm(self) -> float:
        return self.law.mean_square_norm()

    def hypotheses(self) -> list[Hypothesis]:
        return self.law.hypotheses()

    def describe(self) -> dict[str, object]:
        return self.law.describe()


@dataclass(frozen=True)
class Trained:
    """A model trained by exact descent: its population curve, the descent, and the records that are
    looped.
    """

    name: str
    layer_norm: bool
    curve: Any
    records: Records
    power: int
    chosen: np.ndarray
    objective: OfOutput

    @property
    def snapshots(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """step, a and b of the records that are looped."""
        a, b = self.records.weights
        return self.records.step[self.chosen], a[self.chosen], b[self.chosen]

    @property
    def c(self) -> Float[np.ndarray, " snapshots"]:
        return self.records.c[self.chosen]


def choose(records: Records, count: int) -> np.ndarray:
    """Records evenly spaced in the logarithm of their step, from the first step to the last finite
    one.
    """
    finite = np.flatnonzero((records.step > 0) & np.isfinite(records.c))
    if not finite.size:
        raise SettingError(
            "the descent left the finite numbers at its first step: use a smaller eta"
        )
    wanted = np.linspace(0, np.log(float(records.step[finite[-1]])), count)
    return np.unique(
        finite[
            np.searchsorted(np.log(records.step[finite].astype(float)), wanted - 1e-9).clip(
                max=finite.size - 1
            )
        ]
    )


def train(setting: Setting, name: str, count: int, progress: Progress, memory: Memory) -> Trained:
    """The named model of `KINDS`, trained by the exact descent of its theorem or taken from
    `trained`.
    """
    kind = KINDS[name]
    make = lambda spectra: kind.curve(spectra, setting.L)
    told = lambda what, done, total: progress(f"{name}: {what}", done, total)
    if setting.law.run:
        curve, records = curves_of(setting, make)[0], _stored(setting.law, kind)
    elif kind.power:
        exact = growth.descend_exactly(setting, make, kind.power, told, memory)
        curve, records = exact.curve, exact.records
    else:
        exact = convergence.descend_exactly(setting, make, told, memory)
        curve, records = exact.curve, exact.records
    return Trained(
        name,
        kind.layer_norm,
        curve,
        records,
        kind.power,
        choose(records, count),
        kind.objective(setting.L),
    )


def names_in(setting: Setting, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the named models that are to be looped: with `trained`, those of its run."""
    if not setting.law.run:
        return names
    return _names_of(setting.law.kept, names)


def _names_of(kept: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the named models that a run with these settings has trained."""
    target = kept.get("target")
    return tuple(
        n
        for n in names
        if KINDS[n].theorem == kept["theorem"] and target in (None, "", KINDS[n].target)
    )


def spiked_spectrum(d: int) -> tuple[float, ...]:
    """(d, 3, ..., 3): a training law for any dimension whose two distinct eigenvalues make the
    exact engine fast.

    The theorems hold for every training law; it only moves c_t.
    """
    return (float(max(d, 4)), *(3.0,) * (d - 1))


def make_law(values: Mapping[str, Any], names: tuple[str, ...], test_d: int | None) -> TrainingLaw:
    """The training law, or that of the run in `trained`; by default of the dimension of the test
    data, if these have one.

    Raises SettingError if settings, run and test data do not fit together.
    """
    values = dict(values)
    if values["trained"] is None:
        if test_d is not None and all(values[name] is None for name in LAW):
            values["spectrum"] = spiked_spectrum(test_d)
        made = TrainingLaw(unit_columns.make_law(values))
    else:
        made = _from_run(values, names)
    if test_d is not None and test_d != made.d:
        raise SettingError(
            f"the data have d={test_d} and the model has d={made.d}: train one with d={test_d}"
        )
    return made


def _from_run(values: Mapping[str, Any], names: tuple[str, ...]) -> TrainingLaw:
    run = values["trained"]
    path = Path(named(run)[0])
    kept = store.read(path / store.SETTINGS)
    theorems = sorted({KINDS[name].theorem for name in names})
    if kept.get("theorem") not in theorems:
        wanted = " or ".join(theorems)
        raise SettingError(
            f"trained={path} is a run of Theorem {kept.get('theorem')}: one of {wanted} was wanted"
        )
    try:
        kept = config.read(kept, TRAINING)
    except SettingError as error:
        raise SettingError(
            f"trained={path} has damaged settings ({error}): name another run"
        ) from None
    try:
        own = {name: kept.get(name) for name in LAW}
        clash = [name for name in LAW if values[name] is not None and values[name] != own[name]]
        clash += [name for name in SHARED if values[name] != kept[name]]
        clash += ["eta"] if values["eta"] not in (None, kept["eta"]) else []
    except KeyError as error:
        raise SettingError(
            f"trained={path} has no setting {error}: name the directory of a finished run"
        ) from None
    if clash:
        told = " ".join(f"{name}={_plain(kept.get(name))}" for name in clash)
        raise SettingError(
            f"trained={path} was trained with {told}: say so too, or leave out what differs"
        )
    law = TrainingLaw(unit_columns.make_law({**values, **own}), run, kept)
    for name in _names_of(kept, names):
        _stored(law, KINDS[name])
    return law


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _stored(law: TrainingLaw, kind: Kind) -> Records:
    """The exact descent in a run's trajectory.npz."""
    path = Path(named(law.run)[0]) / store.TRAJECTORY
    try:
        with np.load(path, allow_pickle=False) as arrays:
            prefix = f"{kind.target}/exact/" if f"{kind.target}/exact/c" in arrays else "exact/"
            step, a, b, c, dc, bound = (
                arrays[prefix + name] for name in ("step", "a", "b", "c", "dc", "bound")
            )
        every = (step, a, b, c, dc, bound)
        if (
            any(x.shape != (step.size,) or x.dtype.kind not in "if" for x in every)
            or not np.isfinite(c[step > 0]).any()
        ):
            raise ValueError("its arrays are not those of a descent")
    except (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        EOFError,
        BadZipFile,
        zlib.error,
    ) as error:
        raise SettingError(
            f"{path} holds no exact descent ({error}): finish the run, or name another"
        ) from None
    unknown = np.full(c.shape, np.nan)
    return Records(
        step, c, (a - b) * (a + b), dc, bound, unknown, sign_of(a, b), np.array(-1), None
    )
