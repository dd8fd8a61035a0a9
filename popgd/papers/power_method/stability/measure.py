"""What is measured beside the manifold: descents in N, sampled Hessians, tangent maps and first
order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from popgd.descent import gradient
from popgd.descent.memory import Memory
from popgd.descent.recursion import log_grid
from popgd.papers.power_method import kronecker, one_layer, slopes
from popgd.papers.power_method.kronecker import ACTIVE, Path
from popgd.papers.power_method.objectives import SubspaceDistance
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.slopes import Slopes
from popgd.papers.power_method.stability import hessian, prediction
from popgd.papers.power_method.stability.growth import STEPS, Growth, lowest, sector_growth
from popgd.papers.power_method.stability.prediction import P11, P22, Q22, Objective
from popgd.papers.power_method.stability.sampling import beside, end_errors, losses_beside, shift_of
from popgd.papers.power_method.training.study import curves_of, start_of
from popgd.problem.number import Number
from popgd.theorem.base import Progress, Setting, Unfolding
from popgd.theorem.plot import BLUE, GREY, ORANGE

INACTIVE = tuple(k for k in range(8) if k not in ACTIVE)
#: Records per decade of the paths, of a sampled one; the Hessian is taken where the manifold's
#: descent is after 1/EARLY of sampled_steps.
PER_DECADE, SPARSE, EARLY = 16, 4, 10
#: Amplitude of the perturbation whose growth is measured.
SMALL = 1e-12


class Inside(NamedTuple):
    """Exact descents in N of one layer, and what first order says of them.

    grown starts at p22 = -r22 = SMALL beside the manifold, held at p22 = r22 = SMALL, pushed at p11
    = SMALL (None where the whole exact loss is not known). grows is the log growth by first order
    of (u, p22 + r22) along grown, pushes that of p11.
    """

    grown: Path
    held: Path
    pushed: Path | None
    grows: Float[np.ndarray, "2 records"]
    pushes: Float[np.ndarray, " short"] | None


#: What parts of a study are trees of, for what remembers them.
_PATH, _ESTIMATE, _GROWTH = Path(*range(3)), gradient.Estimate(*range(3)), Growth(*range(8))  # pyright: ignore


@dataclass(frozen=True)
class Stability(Unfolding):
    """Everything measured for one objective.

    known is the curve on the manifold (of the sampled spectra where they are random: every exact
    descent is that of this set), spectrum its spectra where there is one layer. base starts on the
    manifold, ended at `size` beside it: exact for one layer, else on fresh samples. found and fresh
    are two independent sampled Hessians at theta, a point of base, exact the derivatives of the
    exact loss there over d, with their standard error over the spectra (None where it is not
    known), h the closed form of d H_{P22,Q22}, likewise. turned is the closed form of
    H_{P12,Q21} by Monte Carlo, for L > 1. limit is what the theorem says that the loss tends to;
    loss is that of ended, base_loss that of base at base_step. end_errors are the standard errors
    of its ENDS (`end_errors`). shifted is what moving theta by its standard error from those
    spectra does to fresh, on the same samples. slopes are sampled ones at points of base.
    """

    setting: Setting
    objective: Objective
    known: Any
    spectrum: Spectrum
    base: Path
    inside: Inside | None
    ended: Path
    theta: Float[np.ndarray, "8"]
    found: gradient.Estimate
    fresh: gradient.Estimate
    exact: Number | None
    h: Number
    turned: Number | None
    growth: Growth
    limit: Number
    base_step: Int[np.ndarray, " some"]
    base_loss: Float[np.ndarray, " some"]
    loss: Float[np.ndarray, " ended"]
    loss_error: Float[np.ndarray, " ended"]
    end_errors: Float[np.ndarray, " ends"]
    shifted: Float[np.ndarray, "3 8 8"]
    slopes: Slopes

    def arrays(self) -> dict[str, np.ndarray]:
        paths = {"base": self.base, "ended": self.ended}
        found = {
            "hessian/mean": np.asarray(self.found.mean),
            "hessian/stderr": np.asarray(self.found.stderr),
        }
        if self.inside:
            paths |= {
                name: getattr(self.inside, name)
                for name in ("grown", "held", "pushed")
                if getattr(self.inside, name)
            }
            found["grown/first_order"] = self.inside.grows
        found |= {
            f"{name}/{key}": x
            for name, path in paths.items()
            for key, x in zip(("step", "theta"), path[:2], strict=True)
        }
        found |= {
            f"sectors/{name}": np.asarray(value) for name, value in self.growth._asdict().items()
        }
        found |= {"base/loss_step": self.base_step, "base/loss": self.base_loss}
        return {**found, "ended/loss": self.loss, "ended/loss_error": self.loss_error}

    def figures(self, title: str) -> dict[str, Any]:
        """Loss against step beside and on the manifold."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        axes.plot(
            self.base_step + 1, self.base_loss, color=BLUE, label="from the manifold: the theorem"
        )
        label = f"from {self.setting['size']:g} beside it"
        axes.errorbar(
            self.ended.step + 1, self.loss, 2 * self.loss_error, color=ORANGE, label=label
        )
        limit = float(self.limit.value)
        axes.axhline(limit, ls="--", color=GREY, label=f"limit of the theorem, {limit:.4g}")
        axes.set(xscale="log", xlabel="gradient step t + 1", ylabel="population loss", title=title)
        if 0 < min(self.loss) < 1e-2 * max(self.loss):
            axes.set_yscale("log")
        axes.legend(fontsize=8)
        return {"stability": figure}


def study(setting: Setting, objective: Objective, progress: Progress, memory: Memory) -> Stability:
    """Measure, part by part; a part under way is done again after a break."""
    law = setting.law

    def part(name: str, work: Callable[..., Any], *arguments: Any, like: Any, **named: Any) -> Any:
        progress(name, 0, 1)
        return memory.part(name).once(lambda: work(*arguments, **named), like)

    progress("exact slope", 0, 1)
    known, wide = curves_of(setting, partial(prediction.curve_of, objective))
    spectrum, more = (prediction.rows_of(x) for x in (known, wide))
    slope = prediction.slope_of(objective, known)
    cheap = (
        one_layer.along_curve(slope)
        if objective.layer_norm
        else one_layer.slope(objective, spectrum)
    )
    grid = log_grid(max(setting.steps, setting.sampled_steps), PER_DECADE)
    start = kronecker.point(*start_of(setting))
    run = partial(kronecker.descend, eta=setting.eta, d=law.d, key=setting.key(6))
    base = part("descent on the manifold", run, cheap, start, grid=grid, like=_PATH)
    theta = base.theta[np.searchsorted(base.step, max(1, setting.sampled_steps // EARLY))]
    c = theta[2] * theta[5]
    common = setting, objective, spectrum, known, cheap
    whole = prediction.whole(objective, spectrum)
    pushes = objective.layer_norm and whole
    like = Inside(_PATH, _PATH, _PATH if pushes else None, 0, 0 if pushes else None)  # pyright: ignore
    ended = cache(
        lambda: part("descent beside the manifold", _descend_beside, *common, like=(_PATH, 0, 0))
    )
    hessian_of = lambda at, key: hessian.population_hessian(
        objective, jnp.asarray(at), law, key, setting.samples
    )
    hessian_at = lambda k: part(
        f"sampled Hessian {k}", hessian_of, theta, setting.key(6 + k), like=_ESTIMATE
    )
    # A loss of 4.3 is a hundred slopes for each of the spectra: a few will do, among them the last.
    some = slice(None) if whole else slice((len(grid) - 1) % SPARSE, None, SPARSE)
    position = base.theta[some, 2] * base.theta[some, 5]
    limit = known.limit()

    def growth() -> Growth:
        steps, vectors = min(setting.sampled_steps, STEPS), lowest(found.found, INACTIVE)
        how = setting, objective, slope, base, vectors, steps
        grown = part("tangent maps", sector_growth, *how, like=_GROWTH)
        return grown._replace(sharpest=float(grown.sharpest), overshoot=float(grown.overshoot))

    def errors_of_ends() -> Any:
        how = setting, objective, known, cheap, found.ended.theta[-1], _run_beside
        return part("errors of ends", end_errors, *how, like=0)

    def shifted() -> Any:
        again = partial(hessian_of, key=setting.key(8))
        how = setting, known, base, theta, again, np.asarray(found.fresh.mean)
        return part("shifted Hessian", shift_of, *how, like=0)

    found = Stability.of(
        {
            "setting": setting,
            "objective": objective,
            "known": known,
            "spectrum": spectrum,
            "base": base,
            "theta": theta,
            "limit": limit,
            "base_step": base.step[some],
        },
        {
            "slopes": lambda: _slopes_along(setting, objective, known, base, progress, memory),
            "inside": lambda: (
                part("descents in N", descend_inside, *common, base, pushes, like=like)
                if objective.L == 1
                else None
            ),
            "ended": lambda: ended()[0],
            "loss": lambda: ended()[1],
            "loss_error": lambda: ended()[2],
            "end_errors": errors_of_ends,
            "found": lambda: hessian_at(1),
            "fresh": lambda: hessian_at(2),
            "shifted": shifted,
            "exact": lambda: prediction.exact_hessian(objective, more, theta) if whole else None,
            "h": lambda: prediction.coupling(wide, objective, np.array([c])),
            "turned": lambda: (
                prediction.turned(setting, objective, float(c)) if objective.L > 1 else None
            ),
            "growth": growth,
            "base_loss": lambda: part(
                "loss on the manifold", lambda: np.asarray(known.loss(position).value), like=0
            ),
        },
    )
    return found


def _slopes_along(
    setting: Setting,
    objective: Objective,
    known: Any,
    base: Path,
    progress: Progress,
    memory: Memory,
) -> Slopes:
    """At the start, where the Hessian is taken, and at the last step with finite weights."""
    finite = np.flatnonzero(np.isfinite(base.theta).all(axis=1))
    at = np.searchsorted(base.step[finite], max(1, setting.sampled_steps // EARLY))
    some = finite[[0, min(at, finite.size - 1), -1]]
    c = base.theta[some][:, list(ACTIVE)].prod(axis=1)
    return slopes.measure(setting, objective, known, base.step[some], c, progress, memory)


def descend_inside(
    setting: Setting,
    objective: Objective,
    spectrum: Spectrum,
    known: Any,
    cheap: Any,
    base: Path,
    pushes: bool,
) -> Inside:
    """One layer, p22 and r22, or p11 if `pushes`, away from the manifold by SMALL."""
    long, short = (log_grid(steps, PER_DECADE) for steps in (setting.steps, setting.sampled_steps))
    run = partial(kronecker.descend, eta=setting.eta, d=setting.law.d, key=setting.key(6))
    start = kronecker.point(*start_of(setting))
    order = partial(prediction.first_order, setting, objective, spectrum, known, base)
    return Inside(
        grown=run(cheap, start.at[P22].add(SMALL).at[Q22].add(-SMALL), grid=long),
        held=run(cheap, start.at[jnp.array([P22, Q22])].add(SMALL), grid=long),
        pushed=run(one_layer.slope(objective, spectrum), start.at[P11].add(SMALL), grid=short)
        if pushes
        else None,
        grows=order(long)[:2],
        pushes=order(short)[2] if pushes else None,
    )


def _descend_beside(
    setting: Setting, objective: Objective, spectrum: Spectrum, known: Any, cheap: Any
) -> tuple[Path, np.ndarray, np.ndarray]:
    """The descent from `size` beside the manifold, in N, with its losses and their errors: 0 for
    one layer, where it is exact.
    """
    law = setting.law
    if objective.L > 1:
        slope = kronecker.sampled_slope(objective, law, setting.batch)
        path = _run_beside(setting, objective, slope, log_grid(setting.sampled_steps, SPARSE))
        points = [jnp.asarray(x) for x in path.theta]
        every = [
            kronecker.population_gradient(objective, x, law, setting.key(10), setting.samples)
            for x in points
        ]
        return (
            path,
            np.array([float(e.mean[0]) for e in every]),
            np.array([float(e.stderr[0]) for e in every]),
        )
    steps, slope = beside(setting, objective, spectrum, cheap)
    path = _run_beside(
        setting,
        objective,
        slope,
        log_grid(steps, PER_DECADE if prediction.whole(objective, spectrum) else SPARSE),
    )
    loss = losses_beside(objective, spectrum, known, path.theta)
    return path, loss, np.zeros(len(loss))


def _run_beside(
    setting: Setting,
    objective: Objective,
    slope: Any,
    grid: Int[np.ndarray, " records"],
    key: Any = None,
) -> Path:
    every_block = isinstance(objective, SubspaceDistance) or not objective.layer_norm
    start = kronecker.point(*start_of(setting)) + setting["size"] * perturbation(
        setting, every_block
    )
    key = setting.key(6) if key is None else key
    return kronecker.descend(slope, start, setting.eta, setting.law.d, grid, key)


def perturbation(setting: Setting, every_block: bool) -> Float[Array, "8"]:
    """Gaussian scalars in the six inactive blocks; (p22, r22) = (1, -1) where the others must stay
    0.
    """
    if every_block:
        return jnp.zeros(8).at[jnp.array(INACTIVE)].set(jax.random.normal(setting.key(9), (6,)))
    return jnp.zeros(8).at[P22].set(1.0).at[Q22].set(-1.0)
