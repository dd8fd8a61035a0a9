"""The sampled slopes l'(c) that the exact ones are examined by, from as many queries as that takes:
in two stages (`sampling`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from popgd.claims.evidence import Evidence, estimated
from popgd.claims.sampling import KNOWN, too_many, two_stages, wanted_of
from popgd.descent import gradient
from popgd.descent.chunks import chunk_size
from popgd.descent.memory import Memory
from popgd.papers.power_method import model
from popgd.papers.power_method.curve import Linear
from popgd.papers.power_method.objectives import OfOutput
from popgd.papers.power_method.tilted import Slope, SlopeOf, Tilted
from popgd.theorem.base import Progress, Setting

#: A gap of this share of a slope must be seen.
RESOLUTION = 0.01
#: Queries of the first pilot, for each sample of a full gradient, which costs some 20 to 200 times
#: as much.
CHEAPER = 8
#: Cubes of slopes at larger c may leave float64.
FURTHEST = 1e30
#: Rounding of the slope of one query's loss, in units of eps c lam_1.
ROUNDING = 100
#: Fewer samples of a full gradient are no check of the model: standard errors, and the skewness
#: that widens them, need as many.
FEW = 1024


class Slopes(NamedTuple):
    """Sampled slopes at the points c = a b of the exact descent that are recorded at `step`.

    value, stderr and skewness (of the mean) are those of the second stages, `spread` the relative
    standard error of their second moments, `wanted` the queries that the pilots asked for: more
    than `samples` where that is too many.
    """

    step: Shaped[np.ndarray, " points"]
    c: Float[np.ndarray, " points"]
    value: Float[np.ndarray, " points"]
    stderr: Float[np.ndarray, " points"]
    skewness: Float[np.ndarray, " points"]
    spread: Float[np.ndarray, " points"]
    samples: Float[np.ndarray, " points"]
    wanted: Float[np.ndarray, " points"]

    def listed(self) -> str:
        return ", ".join(f"{int(s):.4g}" if s >= 1e6 else str(int(s)) for s in self.step)

    def blind(self) -> str:
        """Why these say nothing, or empty."""
        short = self.wanted > self.samples
        if short.any():
            i = int(np.argmax(self.wanted))
            return (
                f"at c = {self.c[i]:.3g} {self.wanted[i]:.2g} queries would settle it, "
                f"{too_many(self.wanted[i])}"
            )
        if np.any(~(self.spread <= KNOWN)):
            i = int(np.argmax(np.nan_to_num(self.spread, nan=np.inf)))
            return (
                f"heavy tails: at c = {self.c[i]:.3g} a few of {self.samples[i]:.2g} queries "
                "carry all"
            )
        return ""


def measure(
    setting: Setting,
    objective: OfOutput,
    curve: Any,
    steps: Shaped[np.ndarray, " points"],
    cs: Float[np.ndarray, " points"],
    progress: Progress,
    memory: Memory,
) -> Slopes:
    """The slopes at the points cs, those that are there twice once, for the spectra of an exact
    curve, each as likely.

    Without those of a descent that breaks off, beyond FURTHEST.
    """
    order = np.sort(np.unique(np.where(abs(cs) <= FURTHEST, cs, cs[0]), return_index=True)[1])
    lam, mult = (np.asarray(x) for x in curve.spectra)
    spectra = jnp.asarray(
        np.stack([np.repeat(*row) for row in zip(lam, mult.astype(int), strict=True)])
    )
    # Without LN the output grows with its query, and none is rare
    loops = objective.L if objective.layer_norm else 0
    start, spectral = start_of(curve), getattr(objective, "target", "") == "normalised"

    def draw(number: int, c: float, stage: int, samples: int) -> gradient.Estimate:
        law = Tilted(spectra, jnp.asarray(c), setting.law.r, loops, spectral)
        weights = model.embed(jnp.ones(()), jnp.asarray(c), setting.law.d)
        # A query is one column; V, which may have more, meets nothing but the outputs
        size = chunk_size(weights, jax.ShapeDtypeStruct((setting.law.d, 1), float))
        return gradient.population_average(
            SlopeOf(objective), weights, law, setting.key(14, number, stage), samples, size
        )

    rows = []
    for number, c in enumerate(cs[order]):
        progress("slopes", number, order.size)
        kept, what = memory.part(f"slope {number}"), f"the slope at c = {c:.3g}"
        one = partial(draw, number, float(c))
        rows.append(examined(one, start, CHEAPER * setting.samples, kept, what))
    return Slopes(steps[order], cs[order], *np.array(rows).T)


def start_of(curve: Any) -> float:
    """What gaps are relative to where slopes pass through 0, as those of a quadratic loss: the
    slope at c = 0; else 0.
    """
    return abs(float(curve.slope(np.zeros(1)).value[0])) if isinstance(curve, Linear) else 0.0


def examined(
    draw: Callable[[int, int], gradient.Estimate],
    start: float,
    pilot: int,
    memory: Memory,
    what: str,
) -> np.ndarray:
    """value, stderr, skewness, spread, samples, wanted of `Slopes`; what it is of, in words."""
    wanted = partial(wanted_of, start=start, resolution=RESOLUTION)
    like: Any = Slope(0, 0, 0)  # pyright: ignore
    found, wanted = two_stages(draw, wanted, pilot, like, memory, what)
    mean, stderr, samples = found
    spread = float(stderr.square / mean.square)
    value, square, cube, error = map(np.asarray, (*mean, stderr.value))
    skewed = float(gradient.skewness_of(value, square, cube, error, float(samples)))
    return np.array([float(mean.value), float(stderr.value), skewed, spread, samples, wanted])


def agree(
    slopes: Slopes,
    exact: Any,
    start: float,
    where: str,
    excuse: str = "",
    name: str = "engines-agree-slope",
) -> Evidence:
    """The sampled slopes are those of the exact engine at the same points, with their bounds."""
    value, bound = (
        np.broadcast_to(np.asarray(x, dtype=float), slopes.c.shape)
        for x in (exact.value, exact.bound)
    )
    scale = np.maximum(abs(value), start)
    return estimated(
        name,
        f"The slope of the loss, sampled, is that of the exact engine {where}: ratio",
        "derived: the slope of a mean is the mean of slopes",
        predicted=1.0,
        measured=1 + (slopes.value - value) / scale,
        error=slopes.stderr / scale,
        skewness=abs(slopes.skewness),
        allowance=bound / scale,
        resolution=RESOLUTION,
        reason=f"bound of the exact slope; sampling error of {slopes.samples.max():.2g} samples "
        "at most",
        excuse=excuse or slopes.blind(),
        self_check="slope",
    )


def agree_with(
    curve: Any, slopes: Slopes, samples: int, excuse: str = "", name: str = "engines-agree-slope"
) -> Evidence:
    """`agree` for a population curve on the manifold, for its own spectra; samples are those of a
    full gradient.
    """
    exact = curve.slope(slopes.c)
    # In the loss of one query the differences of q and S q cancel the digits of c lam_1
    units = ROUNDING * np.finfo(float).eps * (1 + abs(slopes.c) * float(np.max(curve.spectra.lam)))
    exact = exact._replace(bound=exact.bound + units * abs(exact.value))
    few = (
        ""
        if samples >= FEW
        else f"samples={samples} are too few to check the model by: take {FEW} or more"
    )
    return agree(
        slopes,
        exact,
        start_of(curve),
        f"at steps {slopes.listed()}, for its spectra",
        few or excuse,
        name,
    )
