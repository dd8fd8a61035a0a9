"""A planted mistake, and whether the claims that are there to see it do."""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import jax

from popgd.papers import in_context, layers
from popgd.papers.in_context import (
    descents,
    dominance,
    flow,
    large_n,
    minimiser,
    prompts,
    saddle,
    shifted,
)
from popgd.papers.in_context import slopes as in_context_slopes
from popgd.papers.power_method import curve
from popgd.papers.power_method import theorems as power_method
from popgd.papers.power_method.looping import claims as angles
from popgd.papers.power_method.looping import theorems as looping
from popgd.papers.power_method.training import convergence, growth, invariance, manifold, raw, steps
from popgd.papers.power_method.training.measure import sampled
from popgd.papers.power_method.training.study import Study
from popgd.theorem.problems import is_about_a_problem
from popgd.theorem.registry import theorems
from popgd.theorem.verdict import Outcome, judge

#: Sizes at which every claim comes out: 10^18 steps for six digits, batches and samples so that
#: each error bar is within its claim's resolution at a false-alarm rate of 10^-6.
SIZES: dict[str, Any] = {
    "spectrum": [3, 2, 1],
    "steps": 10**18,
    "samples": 2**14,
    "sampled_steps": 40,
    "batch": 1024,
}
OWN: dict[str, Any] = {"4.1": {"L": 2}, "4.6": {"loops": 12}, "4.7": {"L": 2}}
#: The same for the theorems of gradient descent in context.
IN_CONTEXT_SIZES: dict[str, Any] = {
    "d": 2,
    "n": 60,
    "covariance": [1.5, 0.7],
    "L": 2,
    "steps": 10**5,
    "samples": 2**14,
    "batch": 768,
    "sampled_steps": 4 * descents.REPLICAS,
}
IN_CONTEXT_OWN: dict[str, Any] = {
    "gatmiry.minimiser": {"samples": 2**15},
    "gatmiry.minimiser-all": {"d": 4, "n": 100, "covariance": [1, 1, 1, 1], "eta": 0.5},
    "gatmiry.ood": {"L": 1},
    "gatmiry.loops": {"n": 20},
    "gatmiry.loops-mean": {"n": 20},
    "gatmiry.flow": {"n": 10**9},
    "gatmiry.flow-transcribed": {"n": 10**9},
}
#: And for those of layers.
LAYERS_OWN: dict[str, Any] = {
    "layers.rate": {"D": 16, "n": 4, "L": 2000},
    "layers.prenorm": {"D": 8, "L": 10**4},
    "layers.contraction": {"D": 16, "n": 8},
    "layers.real": {"L": 2, "draws": 1024},
    "layers.steered": {"L": 200},
}
FALSE_ALARM = 1e-6
PARTS = (
    "model",
    "law",
    "objective",
    "gradient",
    "descent",
    "recursion",
    "leap",
    "quadrature",
    "curve",
    "prediction",
)
#: Which function yields the evidence of a claim.
YIELDS: dict[str, Callable[[Any], Any]] = {
    "inactive-gradient-zero": invariance.structure,
    "forward-reduced": invariance.structure,
    "inactive-blocks-zero": invariance.structure,
    "active-gradient-scalar": invariance.schur,
    "gradient-negative": manifold.negative_slope,
    "engines-agree-slope": manifold.known_slope,
    "engines-agree-samples": manifold.cross_examination,
    "engines-agree-gradient": manifold.cross_examination,
    "engines-agree-descent": manifold.cross_examination,
    "engines-agree-raw": raw.agreement,
    "reduced-dynamics": steps.single_steps,
    "projected-on-manifold": steps.single_steps,
    "exponent-c": growth.growth,
    "exponent-a": growth.growth,
    "exponent-b": growth.growth,
    "increment-constant": growth.growth,
    "loss-limit-positive": power_method.positive_limit,
    "loss-excess": power_method.positive_limit,
    "loss-vanishes": power_method.vanishing_loss,
    "loss-bound": power_method.vanishing_loss,
    "time-to-loss": power_method.vanishing_loss,
    "limit-c": convergence.convergence,
    "limit-loss": convergence.convergence,
    "limit-loss-positive": convergence.convergence,
    "contraction": convergence.convergence,
    "monotone": convergence.convergence,
    "forward-descent": minimiser.forward,
    "odd-gradient-zero": minimiser.forward,
    "scale-gradient": minimiser.forward,
    "engines-agree-loss": minimiser.engines,
    "engines-agree-gradient-A": minimiser.engines,
    "engines-agree-descent-A": minimiser.engines,
    "engines-agree-slope-a": in_context_slopes.agreement,
    "minimiser-symmetric": minimiser.arrival,
    "u-vanishes": minimiser.arrival,
    "minimiser-local": minimiser.local,
    "curvatures-agree": in_context_slopes.curvatures,
    "minimiser-bracket": large_n.bracket,
    "a-star-rate": large_n.asymptotics,
    "least-loss-rate": large_n.asymptotics,
    "proportional-limit": large_n.asymptotics,
    "no-descent-direction": saddle.over_all_matrices,
    "least-over-all-matrices": saddle.over_all_matrices,
    "antisymmetric-growth": saddle.over_all_matrices,
    "gradient-dominance": dominance.dominance,
    "dominance-lower": dominance.dominance,
    "dominance-upper": dominance.dominance,
    "dominance-fails": dominance.dominance,
    "flow-loss": flow.flow,
    "time-to-xi": flow.derived_time,
    "time-to-xi-transcribed": flow.transcribed_time,
    "median-vanishes": prompts.loops,
    "looped-above-unlooped": prompts.free_steps,
    "catalan-ratio": prompts.free_steps,
    "mean-keeps-falling": prompts.mean_error,
    "shifted-loss": shifted.ood,
    "engines-agree-shifted": shifted.ood,
    "loops-converge": shifted.ood,
    "prompt-bound": shifted.every_prompt,
    "factor-stuck-norm": angles.stuck,
    "factor-stuck-unnorm": angles.stuck,
    "limit-angle-looped": looping.power_limit,
    "limit-upper-looped": looping.power_limit,
    "limit-lower-looped": looping.power_limit,
}
for model in ("LN", "norm", "unnorm", "looped"):
    YIELDS |= {
        f"engines-agree-slope-{model}": looping.checks,
        f"loop-output-{model}": angles.output,
        f"sin-exact-{model}": angles.exact_angle,
        f"upper-bound-{model}": angles.both_bounds,
        f"lower-bound-{model}": angles.both_bounds,
        f"contraction-{model}": angles.contraction,
    }
for model in ("LN", "looped"):
    YIELDS |= {
        f"factor-falls-{model}": angles.falling,
        f"factor-limit-{model}": angles.to_the_limit,
    }


YIELDS |= {
    **dict.fromkeys(("contraction-shared", "contraction-varying"), layers.contraction._never_above),
    **{
        f"{kind}-{name}": layers.rate.rates
        for kind in ("rate", "linear")
        for name in layers.rate.ATTENTIONS
    },
    "prenorm-exponent": layers.prenorm.polynomial,
    **{f"tilt-{name}": layers.tilt._tilts for name in (*layers.tilt.ATTENTIONS, "finite")},
    **{
        f"{kind}-{name}": layers.steering.pairs
        for kind in ("secular", "limit")
        for name in ("value", "vector")
    },
    "tokens-follow": layers.steering.pairs,
    **dict.fromkeys(("line", "principal", "side"), layers.sign.sides),
    **dict.fromkeys(("tilt-ideal", "tilt-real"), layers.real.tilts),
    "loop-rate": layers.real.rates,
    **dict.fromkeys(
        ("steered-value", "steered-vector", "tokens-follow-u"), layers.steered.followed
    ),
}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One planted mistake: `patches` are (object, name, new value), `change` acts on the
    measurements themselves.

    claims must all come out REFUTED. again says which half is measured once more under the patches,
    with these `sizes`; compiled that the patches change compiled code. A mutant that no claim can
    see says why in `survives`. slow ones take more than a second.
    """

    name: str
    part: str
    theorem: str
    claims: tuple[str, ...]
    patches: tuple[tuple[Any, str, Any], ...] = ()
    change: Callable[[Any], Any] = lambda study: study
    again: str = ""
    sizes: Any = dataclasses.field(default_factory=dict)
    compiled: bool = False
    slow: bool = False
    survives: str = ""


def sizes(theorem: str) -> dict[str, Any]:
    """The settings of a theorem's unbroken run."""
    if is_about_a_problem(theorems()[theorem]):
        return {}
    if theorems()[theorem] in in_context.THEOREMS:
        return {**IN_CONTEXT_SIZES, **IN_CONTEXT_OWN.get(theorem, {})}
    if theorem.startswith("layers."):
        return LAYERS_OWN.get(theorem, {})
    if theorem.endswith(".stability"):  # step by step, and sampled ones follow what grows
        return {"spectrum": SIZES["spectrum"]}
    return {**SIZES, **OWN.get(theorem, {})}


def quiet(name: str, done: int, total: int) -> None:
    pass


def with_setting(study: Study, **settings: Any) -> Study:
    return dataclasses.replace(study, setting=dataclasses.replace(study.setting, **settings))


def with_exact(study: Study, **parts: Any) -> Study:
    return dataclasses.replace(study, exact=dataclasses.replace(study.exact, **parts))


def measure_again(study: Study, **settings: Any) -> Study:
    """The Monte Carlo half once more, by default with short descents: structure and gradients, not
    growth.
    """
    study = with_setting(study, **{"sampled_steps": 4, "batch": 64, **settings})
    return sampled(study.setting, study.objective, study.exact, quiet)


def descend_again(study: Study) -> Study:
    """The exact half once more."""
    objective: Any = study.objective
    setting = study.setting
    if study.exact.power == 2:
        exact = growth.descend_exactly(setting, lambda s: curve.Looped.of(s, setting.L), 2, quiet)
    elif study.exact.power == 3:
        exact = growth.descend_exactly(setting, curve.Layer.of, 3, quiet)
    else:
        exact = convergence.descend_exactly(
            setting, lambda s: curve.Linear.of(s, objective.target), quiet
        )
    return dataclasses.replace(study, exact=exact)


def refuted(mutant: Mutant, study: Any) -> set[str]:
    """The claims that come out REFUTED under the mutant, among those of its own evidence. The study
    is unbroken.
    """
    with ExitStack() as stack:
        if mutant.compiled:
            jax.clear_caches()
            stack.callback(jax.clear_caches)
        for target, name, value in mutant.patches:
            stack.enter_context(mock.patch.object(target, name, value))
        study = mutant.change(study)
        study = descend_again(study) if "exact" in mutant.again else study
        study = measure_again(study, **mutant.sizes) if "sampled" in mutant.again else study
        functions = dict.fromkeys(YIELDS[claim] for claim in mutant.claims)
        evidence = [e for function in functions for e in function(study)]
        return {e.id for e in evidence if judge(e, FALSE_ALARM).outcome is Outcome.REFUTED}
