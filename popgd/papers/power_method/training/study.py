"""What is measured for a theorem about descent on the manifold {P21 = a I, Q12 = b I}: exactly and
by Monte Carlo.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from popgd.descent import descent, gradient
from popgd.descent.memory import Memory
from popgd.descent.recursion import Records
from popgd.papers.power_method.objectives import OfLoops
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.slopes import Slopes
from popgd.problem.number import Number
from popgd.theorem.base import Setting, Unfolding

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
    under_wide: Number | None = None

    def c_at(self, step: int) -> Number:
        """c at a step of the short descent under the wide curve, with its standard error from the
        sampled spectra.

        Where it grows: to first order a slope larger by the factor 1 + s moves c as 1 + s times as
        many steps would. What s at 0 and at c differ by counts as error.
        """
        i = int(np.searchsorted(self.short.step, step))
        c, moved = float(self.short.c[i]), float(self.short.dc[i]) * step
        if self.under_wide is not None:
            return self.under_wide.at(i)
        if self.wide is self.curve:
            return Number(c)
        wide, narrow = self.wide.slope(np.array([c, 0.0])), self.curve.slope(np.array([c, 0.0]))
        s = wide.value / narrow.value - 1
        error = float(wide.stderr[0] / abs(wide.value[0])) + abs(float(s[0] - s[1])) / 2
        return Number(c + moved * float(s[0]), stderr=abs(moved) * error)


@dataclass(frozen=True)
class Study(Unfolding):
    """Everything measured for one objective: by Monte Carlo on the full (P, Q), and exactly on the
    manifold.

    raw is the descent in which every entry follows its own noisy gradient, at RAW_BATCH times the
    batch and for a shorter time (noise in the active blocks grows), raw_double the same at twice
    that; shifts says by how much, relative to itself, that noise has moved the slope at their ends
    (where c converges: c itself); seeds how far c is from the exact one at the ends of the descents
    that those two asked for, if any (`raw`); projected is the descent along Schur-projected
    gradients, by the structured statistic where that is valid. slopes are sampled ones at points of
    the exact descent, for the spectra of its curve.
    """

    setting: Setting
    objective: OfLoops
    exact: Exact
    points: tuple[Point, ...]
    raw: descent.Trajectory
    raw_double: descent.Trajectory
    projected: descent.Trajectory
    shifts: tuple[float, float]
    seeds: Float[np.ndarray, "2 seeds"]
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
        if self.seeds.size:
            arrays["raw/seeds"] = self.seeds
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
