"""What is measured beside the manifold: exact descents in N, sampled Hessians and first order."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from popgd import gradient, hessian, kronecker, one_layer
from popgd.interpolant import interpolate
from popgd.kronecker import ACTIVE, Path
from popgd.memory import Memory
from popgd.objectives import SubspaceDistance
from popgd.plot import BLUE, GREY, ORANGE
from popgd.quadrature import Spectrum
from popgd.recursion import log_grid
from popgd.theory import growth
from popgd.theory.base import Progress, Setting
from popgd.theory.stability import prediction
from popgd.theory.stability.prediction import P11, P22, Q22, Objective
from popgd.theory.study import start_of

INACTIVE = tuple(k for k in range(8) if k not in ACTIVE)
#: Records per decade of the paths; the Hessian is taken where the manifold's descent is after 1/EARLY of sampled_steps.
PER_DECADE, EARLY = 16, 10
#: Amplitude of the perturbation whose growth is measured.
SMALL = 1e-12


@dataclass(frozen=True)
class Stability:
    """Everything measured for one objective; all paths are exact descents in N.

    base starts on the manifold, grown at p22 = -r22 = SMALL beside it, held at p22 = r22 = SMALL, pushed at p11 = SMALL, ended at
    `size` beside it. found and fresh are two independent sampled Hessians at theta, a point of base, exact the derivatives of the
    exact loss there over d, h the closed form of d H_{P22,Q22}. grows is the log growth by first order of (u, p22 + r22) along
    grown, pushes that of p11 along pushed. limit is what the theorem says that the loss tends to; base_loss and loss are
    the losses of base and ended.
    """

    setting: Setting
    objective: Objective
    base: Path
    grown: Path
    held: Path
    pushed: Path
    ended: Path
    theta: Float[np.ndarray, "8"]
    found: gradient.Estimate
    fresh: gradient.Estimate
    exact: Float[np.ndarray, "8 8"]
    h: float
    grows: Float[np.ndarray, "2 records"]
    pushes: Float[np.ndarray, " short"]
    limit: float
    base_loss: Float[np.ndarray, " records"]
    loss: Float[np.ndarray, " ended"]

    def arrays(self) -> dict[str, np.ndarray]:
        paths = {
            f"{name}/{key}": value
            for name in ("base", "grown", "held", "pushed", "ended")
            for key, value in zip(("step", "theta"), getattr(self, name)[:2], strict=True)
        }
        sectors = {"hessian/mean": np.asarray(self.found.mean), "hessian/stderr": np.asarray(self.found.stderr)}
        losses = {"base/loss": self.base_loss, "ended/loss": self.loss}
        return {**paths, **sectors, **losses, "grown/first_order": self.grows, "pushed/first_order": self.pushes}

    def figures(self, title: str) -> dict[str, Figure]:
        """Loss against step beside and on the manifold."""
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.base.step + 1, self.base_loss, color=BLUE, label="from the manifold: the theorem")
        axes.plot(self.ended.step + 1, self.loss, color=ORANGE, label=f"from {self.setting['size']:g} beside it")
        axes.axhline(self.limit, ls="--", color=GREY, label=f"limit of the theorem, {self.limit:.4g}")
        axes.set(xscale="log", xlabel="gradient step t + 1", ylabel="population loss", title=title)
        if 0 < min(self.loss) < 1e-2 * max(self.loss):
            axes.set_yscale("log")
        axes.legend(fontsize=8)
        return {"stability": figure}


def study(setting: Setting, objective: Objective, progress: Progress, memory: Memory) -> Stability:
    """Measure. It takes less than a minute and is not resumed: `memory` is not used."""
    law, spectrum = setting.law, Spectrum.of(setting.law.spectrum)
    known = prediction.curve_of(objective, spectrum)
    progress("exact slope", 0, 5)
    whole = cheap = one_layer.slope(objective, spectrum)
    looped = isinstance(objective, SubspaceDistance)
    if objective.layer_norm:
        logs = lambda c: np.asarray(known.log_slope(c).value)
        cheap = one_layer.along_curve(interpolate(logs, 2 if looped else 3, largest=growth.LARGEST, tolerance=growth.HARD))
    long, short = (log_grid(steps, PER_DECADE) for steps in (setting.steps, setting.sampled_steps))
    run = partial(kronecker.descend, eta=setting.eta, d=law.d, key=setting.key(6))
    start = kronecker.point(*start_of(setting))
    progress("exact descents", 1, 5)
    base = run(cheap, start, grid=long)
    grown = run(cheap, start.at[P22].add(SMALL).at[Q22].add(-SMALL), grid=long)
    held = run(cheap, start.at[jnp.array([P22, Q22])].add(SMALL), grid=long)
    pushed = run(whole, start.at[P11].add(SMALL), grid=short)
    beside = start + setting["size"] * perturbation(setting, looped or not objective.layer_norm)
    ended = run(whole, beside, grid=short) if looped else run(cheap, beside, grid=long)
    theta = base.theta[np.searchsorted(base.step, max(1, setting.sampled_steps // EARLY))]
    progress("sampled Hessians", 2, 5)
    keys = (setting.key(7), setting.key(8))
    found, fresh = (hessian.population_hessian(objective, jnp.asarray(theta), law, key, setting.samples) for key in keys)
    progress("predictions", 4, 5)
    loss = jax.jit(one_layer.loss(objective, spectrum))
    return Stability(
        setting,
        objective,
        base,
        grown,
        held,
        pushed,
        ended,
        theta,
        found,
        fresh,
        exact=np.asarray(jax.hessian(loss)(jnp.asarray(theta))) / law.d,
        h=float(prediction.coupling(known, objective, spectrum, np.array([theta[2] * theta[5]]))[0]),
        grows=prediction.first_order(setting, objective, spectrum, known, base, long)[:2],
        pushes=prediction.first_order(setting, objective, spectrum, known, base, short)[2],
        limit=float(known.limit().value),
        base_loss=np.array([float(loss(jnp.asarray(x))) for x in base.theta]),
        loss=np.array([float(loss(jnp.asarray(x))) for x in ended.theta]),
    )


def perturbation(setting: Setting, every_block: bool) -> Float[Array, "8"]:
    """Gaussian scalars in the six inactive blocks; (p22, r22) = (1, -1) where the others must stay 0."""
    if every_block:
        return jnp.zeros(8).at[jnp.array(INACTIVE)].set(jax.random.normal(setting.key(9), (6,)))
    return jnp.zeros(8).at[P22].set(1.0).at[Q22].set(-1.0)
