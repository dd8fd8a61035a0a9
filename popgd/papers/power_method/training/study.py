"""What is measured for a theorem about descent on the manifold {P21 = a I, Q12 = b I}: exactly and
by Monte Carlo.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from popgd.descent import descent, gradient
from popgd.descent.memory import FORGETFUL, Memory
from popgd.descent.recursion import Records
from popgd.papers.power_method import model, slopes
from popgd.papers.power_method.model import Weights
from popgd.papers.power_method.objectives import OfLoops
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.slopes import Slopes
from popgd.papers.power_method.structured import AlongActive, Single, structured
from popgd.problem.plane import project
from popgd.theorem.base import Progress, Setting, Unfolding

#: Comparisons with sampling average over this many times more spectra than the recursion does.
WIDER = 16
#: And over at least so many: the standard error of a mean of fewer is too small too often just
#: where the mean is off (of 16 * 2 to 4 spectra a true theorem was refuted with probability 1e-4,
#: where 1e-6 is promised).
FEWEST_SPECTRA = 1024
#: The raw descents take this many times larger batches, and this many times fewer steps, than the
#: projected one.
RAW_BATCH, RAW_SHORTER = 4, 16
#: Samples that show what float32 does to a gradient, and that the full model is the reduced one.
ROUNDED, SAME = 1024, 64


def start_of(setting: Setting) -> tuple[float, float]:
    """(a_0, b_0): one active block starts at I, the other at 0."""
    return (1.0, 0.0) if setting["init"] == "P21" else (0.0, 1.0)


def path_of(run: descent.Trajectory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a, b and c = ab at the records of a sampled descent."""
    a, b = run.coordinates.T
    return a, b, a * b


class Point(NamedTuple):
    """A Monte Carlo population gradient at an exact point (a, b) of the manifold, and what float32
    may have done to its coordinates; the same by the statistic of the projected descent; and how
    far those two are apart, of the same samples.
    """

    a: float
    b: float
    estimate: gradient.Estimate
    along: gradient.Estimate
    rounding: Any = (0.0, 0.0)
    apart: Any = (0.0, 1.0)

    @property
    def c(self) -> float:
        return self.a * self.b


@dataclass(frozen=True)
class Exact:
    """The exact half of a study: the population curve on the manifold, and descent on it.

    curve averages over the spectra that the recursion uses, wide over more of them where they are
    random. records is the descent to the last step and losses the population loss there, short the
    descent recorded where the Monte Carlo ones are. curvature is l'' where it is constant and
    positive, else 0; power is p where -c^p l'(c) has a positive limit, else 0. response is what a
    slope larger by a small share all along does to (a, b, c) at the last step, over that share:
    known where c grows and spectra are random, else 0. under_wide is (c, standard error) of the
    short descent under the wide curve where that is known: where spectra are random and descent
    converges.
    """

    curve: Any
    wide: Any
    records: Records
    short: Records
    losses: Float[np.ndarray, " records"]
    slope_error: float
    curvature: float
    power: int
    response: Float[np.ndarray, "3"]
    under_wide: tuple[Float[np.ndarray, " short"], Float[np.ndarray, " short"]] | None = None

    def c_at(self, step: int) -> tuple[float, float]:
        """c at a step of the short descent under the wide curve, and its standard error from the
        sampled spectra.

        Where it grows: to first order a slope larger by the factor 1 + s moves c as 1 + s times as
        many steps would. What s at 0 and at c differ by counts as error.
        """
        i = int(np.searchsorted(self.short.step, step))
        c, moved = float(self.short.c[i]), float(self.short.dc[i]) * step
        if self.under_wide is not None:
            return float(self.under_wide[0][i]), float(self.under_wide[1][i])
        if self.wide is self.curve:
            return c, 0.0
        wide, narrow = self.wide.slope(np.array([c, 0.0])), self.curve.slope(np.array([c, 0.0]))
        s = wide.value / narrow.value - 1
        error = float(wide.stderr[0] / abs(wide.value[0])) + abs(float(s[0] - s[1])) / 2
        return c + moved * float(s[0]), abs(moved) * error


@dataclass(frozen=True)
class Study(Unfolding):
    """Everything measured for one objective: by Monte Carlo on the full (P, Q), and exactly on the
    manifold.

    raw is the descent in which every entry follows its own noisy gradient, at RAW_BATCH times the
    batch and for a shorter time (noise in the active blocks grows), raw_double the same at twice
    that; shifts says by how much, relative to itself, that noise has moved the slope at their ends
    (where c converges: c itself); projected is the descent along Schur-projected gradients, by the
    structured statistic where that is valid. slopes are sampled ones at points of the exact
    descent, for the spectra of its curve.
    """

    setting: Setting
    objective: OfLoops
    exact: Exact
    points: tuple[Point, ...]
    raw: descent.Trajectory
    raw_double: descent.Trajectory
    projected: descent.Trajectory
    shifts: tuple[float, float]
    slopes: Slopes

    @property
    def eps(self) -> float:
        return float(jnp.finfo(self.setting.dtype).eps)

    def arrays(self) -> dict[str, np.ndarray]:
        """All records, named descent/field."""
        arrays = {}
        for name in ("raw", "raw_double", "projected"):
            run = getattr(self, name)
            fields = {
                **run._asdict(),
                **run.weights._asdict(),
                **dict(zip("abc", path_of(run), strict=True)),
            }
            arrays |= {
                f"{name}/{key}": value
                for key, value in fields.items()
                if isinstance(value, np.ndarray)
            }
        records = self.exact.records
        a, b = records.weights
        columns = {
            "step": records.step,
            "a": a,
            "b": b,
            "c": records.c,
            "dc": records.dc,
            "bound": records.bound,
        }
        arrays |= {f"exact/{key}": np.asarray(value) for key, value in columns.items()}
        return arrays | {f"slopes/{key}": value for key, value in self.slopes._asdict().items()}

    def figures(self, title: str) -> dict[str, Any]:
        """weights, growth, increments and loss."""
        from popgd.papers.power_method.training import pictures

        return pictures.figures(self, title)


def curves_of(setting: Setting, make_curve: Callable[[Spectrum], Any]) -> tuple[Any, Any]:
    """The population curve of the law, and one over more of them, `wider`: the same if the spectrum
    is fixed.
    """

    def curve(count: int) -> Any:
        rows = np.asarray(setting.law.eigenvalues(setting.key(5), count))
        if len(rows) == 1:
            return make_curve(Spectrum.of(rows[0]))
        return make_curve(Spectrum(jnp.asarray(rows), jnp.ones(rows.shape)))

    narrow = curve(setting["spectra"])
    return narrow, narrow if np.shape(narrow.spectra.lam)[0] == 1 else curve(
        wider(setting["spectra"])
    )


def wider(spectra: int) -> int:
    """Spectra of the wide curve."""
    return max(WIDER * spectra, FEWEST_SPECTRA)


#: The shape of what an exact half remembers: records, short, losses, slope_error, response.
_EXACT = (Records(*range(8), state=None), Records(*range(8), state=None), 0, 0, 0)  # pyright: ignore


def exact_half(
    curve: Any,
    wide: Any,
    curvature: float,
    power: int,
    descend: Callable[[], tuple[Records, Records, Any, float, Any]],
    memory: Memory,
) -> Exact:
    """An `Exact` whose records, short, losses, slope_error and response come from descend(), once;
    states are dropped.
    """

    def measure() -> tuple:
        records, short, *rest = descend()
        return records._replace(state=None), short._replace(state=None), *rest

    records, short, losses, error, response = memory.part("exact").once(measure, _EXACT)
    return Exact(
        curve, wide, records, short, losses, float(error), curvature, power, np.asarray(response)
    )


def population_gradients(
    setting: Setting, objective: OfLoops, exact: Exact, progress: Progress, memory: Memory
) -> Iterable[Point]:
    """Monte Carlo gradients at the start, early in and at the end of the short descent."""
    law, dtype, steps = setting.law, jnp.dtype(setting.dtype), setting.sampled_steps
    a, b = exact.short.weights
    active = model.Active(law.d)
    how = descent.Descent(objective, setting.make_optimiser(), active)
    cheap, seen = structured(how, law)
    blank = gradient.Gradient(0, Weights(0, 0), 0, 0, 0, 0)  # pyright: ignore
    blank_along = blank if cheap is how else blank._replace(weights=(), deviations=())  # pyright: ignore
    like = (blank, blank), (blank_along, blank_along), 0, 0

    def measure(number: int, weights: Weights) -> Any:
        full = how.gradient(weights, law, setting.key(1, number), setting.samples)
        along = cheap.gradient(weights, seen, setting.key(8, number), setting.samples)
        few = min(setting.samples, ROUNDED)
        rounded = gradient.rounding(objective, weights, law, setting.key(6, number), few, active)
        return full[:2], along[:2], rounded, apart(how, weights, law, setting.key(15, number))

    for number, step in enumerate((0, max(1, steps // 100), steps)):
        progress("population gradients", number, 3)
        i = int(np.searchsorted(exact.short.step, step))
        weights = model.embed(jnp.asarray(a[i], dtype), jnp.asarray(b[i], dtype), law.d)
        *both, rounding, gap = memory.part(f"point {number}").once(
            partial(measure, number, weights), like
        )
        estimate, along = (
            gradient.Estimate(mean, stderr, setting.samples) for mean, stderr in both
        )
        yield Point(float(a[i]), float(b[i]), estimate, along, rounding, gap)


def apart(how: descent.Descent, weights: Weights, law: Any, key: Any) -> Float[np.ndarray, "2"]:
    """How far the gradient of the full model along the manifold is from that of the reduced one for
    the same SAME samples, and its root mean square: gaps of means, and of mean squares over that
    root.
    """
    objective: Any = how.objective
    reduced = replace(how, statistic=AlongActive(objective))
    full, along = (
        run.gradient(weights, seen, key, SAME).mean
        for run, seen in ((how, law), (reduced, Single(law)))
    )
    size = float(np.asarray(full.square, dtype=float)[:-1].sum()) ** 0.5
    means = np.asarray(full.coordinates) - np.asarray(along.coordinates)
    squares = np.asarray(full.square)[:-1] - np.asarray(along.square)[:-1]
    return np.array([np.max([*abs(means), *abs(squares) / size]), size])


def sampled(
    setting: Setting,
    objective: OfLoops,
    exact: Exact,
    progress: Progress,
    memory: Memory = FORGETFUL,
) -> Study:
    """The Monte Carlo half of a study of descent on the manifold {P21 = a I, Q12 = b I}, beside its
    exact half: each part is measured when it is first read.
    """
    law, dtype, steps = setting.law, jnp.dtype(setting.dtype), setting.sampled_steps
    a0, b0 = start_of(setting)
    start = model.embed(jnp.asarray(a0, dtype), jnp.asarray(b0, dtype), law.d)
    how = descent.Descent(objective, setting.make_optimiser(), model.Active(law.d), setting.bank)
    raw_steps = int(
        exact.short.step[np.searchsorted(exact.short.step, max(1, steps // RAW_SHORTER))]
    )

    def run(name: str, purpose: int, count: int, batch: int, projected: bool) -> descent.Trajectory:
        return descent.descend(
            *(structured(how, law) if projected else (how, law)),
            start,
            count,
            batch,
            setting.key(purpose),
            projected,
            progress=partial(progress, name),
            memory=memory.part(name),
        )

    def shifts() -> tuple[float, float]:
        ends = study.raw, study.raw_double
        of_ends = lambda: np.array([slope_shift(setting, how, exact, end) for end in ends])
        once, twice = memory.part("shifts").once(of_ends, 0)
        return float(once), float(twice)

    batch, twice = RAW_BATCH * setting.batch, "raw descent, twice the batch"
    points = lambda: tuple(population_gradients(setting, objective, exact, progress, memory))
    study = Study.of(
        {"setting": setting, "objective": objective, "exact": exact},
        {
            "points": points,
            "raw": lambda: run("raw descent", 2, raw_steps, batch, False),
            "raw_double": lambda: run(twice, 3, raw_steps, 2 * batch, False),
            "projected": lambda: run("projected descent", 4, steps, setting.batch, True),
            "shifts": shifts,
            "slopes": lambda: slopes_of(setting, objective, exact, progress, memory),
        },
    )
    return study


def slopes_of(
    setting: Setting, objective: Any, exact: Exact, progress: Progress, memory: Memory
) -> Slopes:
    """Sampled slopes at the start, early in and at the end of the short descent, and at the end of
    the long one.
    """
    steps = setting.sampled_steps
    i = np.searchsorted(exact.short.step, (0, max(1, steps // 100), steps))
    step = np.append(exact.short.step[i], exact.records.step[-1])
    c = np.append(exact.short.c[i], exact.records.c[-1])
    return slopes.measure(setting, objective, exact.curve, step, c, progress, memory)


def slope_shift(
    setting: Setting, how: descent.Descent, exact: Exact, run: descent.Trajectory
) -> float:
    """`shift` at the end of a raw descent."""
    weights = gradient.placed(jax.tree.map(lambda M: jnp.asarray(M[-1]), run.weights))
    both = (weights, project(how.plane, weights))
    there, beside = (
        how.gradient(at, setting.law, setting.key(9), shift_samples(setting)).mean.coordinates
        for at in both
    )
    return shift(setting, exact, run.coordinates[-1], np.asarray(there), np.asarray(beside))


def shift_samples(setting: Setting) -> int:
    return max(2, setting.samples // 2)


def shift(
    setting: Setting, exact: Exact, ab: np.ndarray, there: np.ndarray, beside: np.ndarray
) -> float:
    """|slope somewhere / slope at the point (a, b) of the manifold next to it - 1|, from gradients
    (2,) on the same samples.

    Where c converges: how far that moves the c at which the slope vanishes, relative to c. A slope
    larger by a share all along moves c by no more than that share; measured where it matters most,
    c was off by 0.2 to 0.5 of the shift at the end.
    """
    k, unit = int(ab[0] >= ab[1]), setting.law.d / np.float64(max(ab))
    with np.errstate(all="ignore"):
        whole = exact.curvature * ab[0] * ab[1] if exact.curvature else beside[k] * unit
        return float(np.nan_to_num(abs((there[k] - beside[k]) * unit / whole), nan=np.inf))
