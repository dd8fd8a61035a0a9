"""What population gradient descent does beside the manifold of Theorems 4.1, 4.2 and 4.3, for one layer. popgd's own.

The theorems start on the manifold {P21 = a I, Q12 = b I, other blocks 0}, which descent does not leave, and are true as stated.
Here descent starts next to it, on the Kronecker manifold (all blocks multiples of I), where it is exact. To first order

    u = p22 - r22:   u <- (1 + eta h/d) u,   h = -c l'(c) with LN,   h = 2 E[(f - y).q] without;   p22 + r22 has 1 - eta h/d;
    p11:             p11 <- (1 - eta k11) p11,   k11 = H_{P11,P11} < 0 with LN,

and with LN, eta -> 0, dc/dt = -(l'/d) sqrt(4c^2 + Delta^2) and d log u/dt = -c l'/d give d log u/dc = c/sqrt(4c^2 + Delta^2), so
u grows by exp{(sqrt(4c^2 + Delta^2) - |Delta|)/4} from c = 0. Source: derived; see also `popgd.hessian`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from popgd import curve as curves
from popgd import gradient, hessian, kronecker, one_layer
from popgd.data import Hypothesis, Rotated
from popgd.interpolant import interpolate
from popgd.kronecker import ACTIVE, Path
from popgd.memory import Memory
from popgd.objectives import PowerIteration, SubspaceDistance
from popgd.plot import BLUE, GREY, ORANGE
from popgd.quadrature import Spectrum
from popgd.recursion import log_grid
from popgd.theory import growth, power_method
from popgd.theory.base import Progress, Setting, Theorem
from popgd.theory.study import start_of
from popgd.verdict import Evidence

#: Where the coordinates of the two modes stand.
P11, P22, Q22 = 0, 3, 7
INACTIVE = tuple(k for k in range(8) if k not in ACTIVE)
#: Records per decade of the paths; the Hessian is taken where the manifold's descent is after 1/EARLY of sampled_steps.
PER_DECADE, EARLY = 16, 10
#: Amplitude of the perturbation whose growth is measured, and up to where first order is asked for: there its square, 1e-10,
#: moves the logarithm of the growth by less than GROWTH_ROUNDING.
SMALL, LINEAR = 1e-12, 1e-5
#: Degree of the Chebyshev series of l', h and k11 in log(1 + lam_1 c), and what it and rounding may add to log growth.
DEGREE, GROWTH_ROUNDING = 40, 1e-6
#: Growth is judged over a tenth of an e-fold at least (in 4.3 p11 grows like c^(1/4)); a rate off by a percent must be seen.
EFOLD, GROWTH_RESOLUTION = 0.1, 1e-2
#: What rounding may make of p22 - r22 = 0 (measured: exactly 0, as both take the same steps).
SYMMETRY = 1e-3
#: Entries of the Hessian must be known to half the least forgotten factor, 1/2.
HESSIAN_RESOLUTION = 0.25
#: The loss at the end must be below this share of the theorem's.
BELOW = 0.9
#: m, c and the loss may differ from the best fit by this at the end: they started of order one away.
SETTLED = 1e-3
#: Rounding of the exact losses: measured 1e-15 for those of order one.
LOSS_ROUNDING = 1e-12

Objective = SubspaceDistance | PowerIteration


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


def curve_of(objective: Objective, spectrum: Spectrum) -> Any:
    """The population curve on the manifold."""
    if isinstance(objective, SubspaceDistance):
        return curves.Looped.of(spectrum, objective.L)
    return curves.Layer.of(spectrum) if objective.layer_norm else curves.Linear.of(spectrum, objective.target)


def coupling(
    known: Any, objective: Objective, spectrum: Spectrum, c: Float[np.ndarray, " points"]
) -> Float[np.ndarray, " points"]:
    """h(c) = d H_{P22,Q22}: -c l'(c) with LN, 2 E[(f - y).q] = 2 (1 + c n/d - E[y.q]) without, by their closed forms."""
    if objective.layer_norm:
        return -c * np.asarray(known.slope(c).value)
    mean = float(one_layer.quadrature.moments(spectrum).mu)
    unit = isinstance(objective, PowerIteration) and objective.target == "normalised"
    along = float(one_layer.quadrature.mean_cosine(spectrum).value) if unit else mean
    return 2 * (1 + c * mean - along)


def study(setting: Setting, objective: Objective, progress: Progress, memory: Memory) -> Stability:
    """Measure. It takes less than a minute and is not resumed: `memory` is not used."""
    law, spectrum = setting.law, Spectrum.of(setting.law.spectrum)
    known = curve_of(objective, spectrum)
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
        h=float(coupling(known, objective, spectrum, np.array([theta[2] * theta[5]]))[0]),
        grows=first_order(setting, objective, spectrum, known, base, long)[:2],
        pushes=first_order(setting, objective, spectrum, known, base, short)[2],
        limit=float(known.limit().value),
        base_loss=np.array([float(loss(jnp.asarray(x))) for x in base.theta]),
        loss=np.array([float(loss(jnp.asarray(x))) for x in ended.theta]),
    )


def perturbation(setting: Setting, every_block: bool) -> Float[Array, "8"]:
    """Gaussian scalars in the six inactive blocks; (p22, r22) = (1, -1) where the others must stay 0."""
    if every_block:
        return jnp.zeros(8).at[jnp.array(INACTIVE)].set(jax.random.normal(setting.key(9), (6,)))
    return jnp.zeros(8).at[P22].set(1.0).at[Q22].set(-1.0)


def fitted(f: Callable[[np.ndarray], np.ndarray], lam: float, top: float) -> Callable[[Array], Array]:
    """f on [0, top] as a Chebyshev series in log(1 + lam c), where its singularities c = -1/lam_i are pi away from the reals."""
    series = np.polynomial.Chebyshev.interpolate(lambda u: f(np.expm1(u) / lam), DEGREE, domain=[0.0, np.log1p(lam * top)])
    scale = 2 / np.log1p(lam * top)
    return lambda c: jnp.asarray(np.polynomial.chebyshev.chebval(jnp.log1p(lam * c) * scale - 1, series.coef))


def first_order(
    setting: Setting, objective: Objective, spectrum: Spectrum, known: Any, base: Path, grid: Int[np.ndarray, " records"]
) -> Float[np.ndarray, "3 records"]:
    """log growth of (u, p22 + r22, p11) by first order, along the recursion of (a, b) by the curve's own slope.

    The first two, and the path, know nothing of the exact loss on N.
    """
    rate, lam = setting.eta / setting.law.d, float(spectrum.lam[0])
    top = 1.001 * float((base.theta[:, 2] * base.theta[:, 5]).max())
    loss = one_layer.loss(objective, spectrum)
    second = jax.jit(jax.vmap(lambda c: jax.grad(jax.grad(lambda x: loss(kronecker.point(c, 1.0).at[P11].set(x))))(0.0)))
    slope = fitted(lambda c: np.asarray(known.slope(c).value), lam, top)
    h = fitted(lambda c: coupling(known, objective, spectrum, c), lam, top)
    k11 = fitted(lambda c: np.asarray(second(jnp.asarray(c))), lam, top)

    def step(_: Any, state: tuple) -> tuple:
        a, b, log = state
        c = a * b
        moved = rate * jnp.stack([h(c), -h(c), -b * b * k11(c)])
        g = rate * slope(c)
        return a - g * b, b - g * a, log + jnp.log1p(moved)

    def piece(state: tuple, count: Array) -> tuple:
        state = jax.lax.fori_loop(0, count, step, state)
        return state, state[2]

    start = (*map(jnp.asarray, start_of(setting)), jnp.zeros(3))
    return np.asarray(jax.jit(lambda counts: jax.lax.scan(piece, start, counts)[1])(jnp.asarray(np.diff(grid, prepend=0)))).T


def sectors_split(study: Stability) -> Iterator[Evidence]:
    """Active and inactive blocks do not mix; (P22, Q22) has the closed form; the scalar sector is that of the exact loss."""
    mean, stderr = (np.asarray(x) for x in study.found[:2])
    where = f"at c = {study.theta[2] * study.theta[5]:.4g}"
    yield Evidence(
        "hessian-does-not-mix",
        f"The Hessian has no entry between active and inactive blocks {where}, in any sector, sample by sample: the largest",
        "inactive gradients are 0 for all active blocks",
        predicted=0.0,
        measured=float(np.abs(mean[:, ACTIVE][:, :, INACTIVE]).max()),
        error=0.0,
        allowance=0.0,
        resolution=np.finfo(float).tiny,
        reason="the zeros are structural",
        origin="derived",
        statistical=False,
    )
    value = study.h / study.setting.law.d
    form = "-c l'(c)/d" if study.objective.layer_norm else "2 E[(f - y).q]/d"
    yield Evidence(
        "hessian-coupling",
        f"H_(P22,Q22) = {form} = {value:.6g} {where}, multiples of I: ratio",
        "closed form",
        predicted=1.0,
        measured=float(mean[0, P22, Q22]) / value,
        error=float(stderr[0, P22, Q22]) / abs(value),
        allowance=0.0,
        resolution=HESSIAN_RESOLUTION,
        reason="sampling error",
        origin="derived",
    )
    scale = float(np.abs(study.exact).max())
    yield Evidence(
        "hessian-exact",
        f"Every entry of the sampled Hessian {where}, multiples of I, is that of the exact loss on N, in units of the largest",
        "two engines",
        predicted=0.0,
        measured=(mean[0] - study.exact).ravel() / scale,
        error=stderr[0].ravel() / scale,
        allowance=LOSS_ROUNDING,
        resolution=HESSIAN_RESOLUTION,
        reason="sampling error",
        origin="derived",
    )


def saddle(study: Stability) -> Iterator[Evidence]:
    """The curvature along P22 - Q22 is negative."""
    v = np.zeros(8)
    v[[P22, Q22]] = 0.5**0.5, -(0.5**0.5)
    mean, stderr = (np.asarray(x)[0] for x in study.found[:2])
    yield Evidence(
        "saddle",
        "The manifold runs along a saddle: the curvature along P22 - Q22, multiples of I, is negative",
        "h > 0",
        predicted=0.0,
        measured=float(v @ mean @ v),
        error=float(abs(v) @ stderr @ abs(v)),
        allowance=0.0,
        resolution=abs(float(v @ mean @ v)),
        reason="sampling error, which must be smaller than the curvature itself",
        origin="derived",
        sense="at most",
    )


def grows(study: Stability) -> Iterator[Evidence]:
    """Perturbations grow and shrink as first order says, in all of N."""
    theta, held = study.grown.theta.T, study.held.theta.T
    u, both = theta[P22] - theta[Q22], held[P22] + held[Q22]
    yield _growth(study, "escape-rate", "p22 - r22 grows by 1 + eta h/d a step", u, study.grows[0], study.grown.step)
    statement = "From p22 = r22 the sum p22 + r22 shrinks by 1 - eta h/d a step"
    yield _growth(study, "shrinking-rate", statement, both, study.grows[1], study.held.step)
    yield Evidence(
        "symmetric-start-stays",
        f"From p22 = r22 = {SMALL:g} descent never leaves p22 = r22: the largest |p22 - r22| over {SMALL:g}",
        "symmetry of F in p22 r22",
        predicted=0.0,
        measured=float(np.abs(held[P22] - held[Q22]).max()) / SMALL,
        error=SYMMETRY,
        allowance=0.0,
        resolution=0.01,
        reason="rounding, which grows as p22 - r22 does",
        origin="derived",
        statistical=False,
    )
    if study.objective.layer_norm:
        p11 = study.pushed.theta[:, P11]
        statement = "p11 grows by 1 - eta k11 a step, k11 = H_(P11,P11) < 0"
        yield _growth(study, "p11-rate", statement, p11, study.pushes, study.pushed.step)


def _growth(study: Stability, name: str, statement: str, x: np.ndarray, predicted: np.ndarray, step: np.ndarray) -> Evidence:
    """log of x over its start, against first order, at the last step where that is worth something."""
    linear = np.flatnonzero(abs(predicted) <= np.log(LINEAR / SMALL))
    last = linear[-1]
    measured, wanted = float(np.log(abs(x[last] / x[0]))), float(predicted[last])
    short = abs(wanted) < EFOLD
    return Evidence(
        name,
        f"{statement}: log of the factor {np.exp(wanted):.4g} after {step[last]} steps, over that of first order",
        "first order, along the recursion on the manifold",
        predicted=1.0,
        measured=measured / wanted if wanted else np.nan,
        error=GROWTH_ROUNDING / abs(wanted) if wanted else np.inf,
        allowance=0.0,
        resolution=GROWTH_RESOLUTION,
        reason=f"rounding and the series of h and k11; the amplitude is {SMALL:g} at first",
        origin="derived",
        statistical=False,
        excuse="too few steps: less than a tenth of an e-fold" if short else "",
    )


def ends(study: Stability) -> Iterator[Evidence]:
    """Where descent from beside the manifold gets to."""
    objective, last = study.objective, float(study.loss[-1])
    plateau = study.limit or float(study.base_loss[-1])
    name = "limit of the theorem" if study.limit else "loss of the descent on the manifold at the same step"
    yield Evidence(
        "falls-below",
        f"From {study.setting['size']:g} beside the manifold the loss falls below the {name}: {last:.4g} over {plateau:.4g}",
        "exact descent in N",
        predicted=BELOW,
        measured=last / plateau,
        error=LOSS_ROUNDING / plateau,
        allowance=0.0,
        resolution=1 - BELOW,
        reason="quadrature of the exact loss",
        origin="derived",
        sense="at most",
        statistical=False,
    )
    if not objective.layer_norm:
        m, c = (float(x) for x in one_layer.products(jnp.asarray(study.ended.theta[-1]))[2:])
        goal_m, goal_c, least = regression(study)
        yield Evidence(
            "learns-best-fit",
            f"Descent finds the best fit of y by q and S q, m = {goal_m:.6g}, c = {goal_c:.6g}, loss {least:.6g}",
            "least squares; for y = S q it is exact: m = -1, c = 1, loss 0",
            predicted=0.0,
            measured=np.array([m - goal_m, c - goal_c, last - least]),
            error=LOSS_ROUNDING,
            allowance=SETTLED,
            resolution=2 * SETTLED,
            reason="what descent has left after its steps",
            origin="derived",
            statistical=False,
        )


def regression(study: Stability) -> tuple[float, float, float]:
    """(m, c, loss) of the least squares fit of y by (1 + m) q + c S q: the exact loss is quadratic in (1 + m, c)."""
    loss = one_layer.loss(study.objective, Spectrum.of(study.setting.law.spectrum))
    at = lambda x: loss(jnp.zeros(8).at[jnp.array([P22, 2, 5, Q22])].set(jnp.array([x[0] - 1, x[1], 1.0, 1.0])))
    zero = jnp.zeros(2)
    best = -jnp.linalg.solve(jax.hessian(at)(zero), jax.grad(at)(zero))
    return float(best[0]) - 1, float(best[1]), float(at(best))


def quantities(study: Stability) -> dict[str, tuple[float, float]]:
    """Lowest curvature of each sector with the standard error of its own, independent estimate; where descent ended."""
    found: dict[str, tuple[float, float]] = {}
    for mode in hessian.modes(study.found, study.fresh):
        name = "lowest_" + mode.sector.replace(" ", "_")
        found.setdefault(name, (mode.curvature, mode.error))
    products = (float(x) for x in one_layer.products(jnp.asarray(study.ended.theta[-1])))
    ends = zip(("alpha", "beta", "m", "c"), products, strict=True)
    found |= {f"end_{name}": (value, LOSS_ROUNDING) for name, value in ends}
    if study.objective.layer_norm:
        square = one_layer.mean_square_output(jnp.asarray(study.ended.theta[-1]), Spectrum.of(study.setting.law.spectrum))
        found["end_mean_square_output"] = (float(square), LOSS_ROUNDING)
    found["end_loss"] = (float(study.loss[-1]), LOSS_ROUNDING)
    found["limit_of_theorem"] = (study.limit, LOSS_ROUNDING)
    return found


def hypotheses(setting: Setting) -> list[Hypothesis]:
    """Those of the theorem, and one fixed spectrum."""
    fixed = isinstance(setting.law, Rotated)
    return [*power_method.hypotheses(setting), Hypothesis("one spectrum", fixed, "the exact descent needs the law rotated")]


def _finding(number: str, title: str, statement: str, defaults: dict[str, Any], objective: Any, **rest: Any) -> Theorem:
    return Theorem(
        name=f"{number}.stability",
        title=title,
        statement=statement,
        source=f"popgd, beside {power_method.PAPER}, Theorem {number}",
        law_options=power_method.LAW,
        options=("init", "spectra", "size", *(("target",) if "targets" in rest else ())),
        defaults={"L": 1, "samples": 2**13, **defaults},
        make_law=power_method.make_law,
        objective=objective,
        hypotheses=hypotheses,
        study=study,
        claims=(sectors_split, saddle, grows, ends),
        quantities=quantities,
        **rest,
    )


FINDINGS = (
    _finding(
        "4.1",
        "beside Theorem 4.1, one layer: descent leaves the manifold, the output collapses",
        "Started beside the manifold, descent on dist^2(f, V) leaves it: p22 - r22 and p11 grow, the loss falls below l_inf, and "
        "f shrinks towards 0.",
        {"steps": 10**5, "sampled_steps": 2000},
        lambda setting, target: SubspaceDistance(1),
        step_size=power_method.natural_step,
    ),
    _finding(
        "4.2",
        "beside Theorem 4.2: the layer without LN learns the unnormalised power iteration exactly",
        "Started beside the manifold, descent leaves c = c*: p22 - r22 grows, and the layer learns the best fit of y by q and "
        "S q, which for y = S q is exact.",
        {"steps": 10**5},
        lambda setting, target: PowerIteration(target, layer_norm=False),
        step_size=power_method.contracting_step,
        targets=power_method.TARGETS,
    ),
    _finding(
        "4.3",
        "beside Theorem 4.3: an exact power step at finite weights",
        "Started beside the manifold, p22 - r22 grows like exp(const t^(1/3)), and the layer reaches the power step at finite c.",
        {"steps": 10**5, "size": 0.3},
        lambda setting, target: PowerIteration("normalised"),
        step_size=power_method.natural_step,
    ),
)
