"""Mistakes planted in what the theorems of arXiv 2410.08292 stand on: law, layer, exact losses,
descents and predictions.

`IN_CONTEXT` is the list; `STANDING` are the claims that are refuted as they stand, and need no
mutant.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from mutant import Mutant, quiet

from popgd.descent.memory import FORGETFUL
from popgd.papers.in_context import descents, dominance, large_n, saddle, shifted, slopes, wishart
from popgd.papers.in_context import model as in_context
from popgd.papers.in_context import wishart_bias as bias
from popgd.papers.in_context import wishart_loss as exact
from popgd.papers.in_context import wishart_normal as normal
from popgd.papers.in_context.common import Study

#: Transcribed statements that are refuted where they are judged.
STANDING = {
    "no-descent-direction",
    "least-over-all-matrices",
    "time-to-xi-transcribed",
    "mean-keeps-falling",
}


def values(study: Study, **changed: Any) -> Study:
    """The study with some of its arrays replaced; _ stands for / in their names."""
    known = {name.replace("/", "_"): name for name in study.values}
    return dataclasses.replace(
        study,
        values={**study.values, **{known[name]: np.asarray(x) for name, x in changed.items()}},
    )


def samplewise(study: Study) -> Study:
    odd, scaling, identity = descents.samplewise(study.setting, study.objective, study.law)
    return values(study, sampled_odd=odd, sampled_scaling=scaling, sampled_identity=identity)


def sample(study: Study) -> Study:
    found = descents.sample(study.setting, study.objective, study.law, quiet, FORGETFUL)
    return values(study, **{f"sampled_{name}": value for name, value in found._asdict().items()})


def descend(study: Study) -> Study:
    found = descents.descend(study.setting, study.law, quiet)
    return values(study, **{f"exact_{name}": value for name, value in found._asdict().items()})


def escape(study: Study) -> Study:
    found = saddle.escape(study.setting, study.law, quiet)
    return values(study, **{f"escape_{name}": value for name, value in found._asdict().items()})


def shift(study: Study) -> Study:
    found = shifted.shifted_study(study.setting, study.objective, quiet, FORGETFUL)
    return values(study, **found.values)


# --- model and law


def query_is_a_key(weights: Any, Z: Any) -> Any:
    return Z - (weights.P @ (Z @ Z.T) @ weights.Q) @ Z / (Z.shape[1] - 1)


def without_n(weights: Any, Z: Any) -> Any:
    keys = Z[:, :-1]
    return Z - (weights.P @ (keys @ keys.T) @ weights.Q) @ Z


def squared_P(weights: Any, Z: Any) -> Any:
    """The same at P22 = 1 and u = 0, with twice the gradient."""
    return layer(weights._replace(P=weights.P * jnp.abs(weights.P)), Z)


def offset(self: Any, weights: Any, prompt: Any) -> Any:
    return (in_context.looped(weights, prompt, self.L) - prompt.w @ prompt.x_q - 0.1) ** 2


def shorter_tasks(self: Any, key: Any, dtype: Any) -> Any:
    prompt = draw(self, key, dtype)
    return prompt._replace(w=0.7 * prompt.w, y=0.7 * prompt.y)


def twice_the_step(self: Any) -> Any:
    return make_optimiser(dataclasses.replace(self, eta=2 * self.eta))


on_the_line = slopes.slope_on_the_line
layer, draw = in_context.layer, in_context.InContext.sample
make_optimiser = descents.Setting.make_optimiser

MODEL = (
    Mutant(
        "the query is a key",
        "model",
        "gatmiry.minimiser",
        ("forward-descent",),
        ((in_context, "layer", query_is_a_key),),
        samplewise,
        slow=True,
    ),
    Mutant(
        "1/n forgotten",
        "model",
        "gatmiry.minimiser",
        ("forward-descent",),
        ((in_context, "layer", without_n),),
        samplewise,
        slow=True,
    ),
    Mutant(
        "P22 counts twice",
        "model",
        "gatmiry.minimiser",
        ("scale-gradient",),
        ((in_context, "layer", squared_P),),
        samplewise,
        slow=True,
    ),
    Mutant(
        "labels are offset",
        "objective",
        "gatmiry.minimiser",
        ("odd-gradient-zero",),
        ((in_context.SquaredError, "__call__", offset),),
        samplewise,
        slow=True,
    ),
    Mutant(
        "tasks 30% too short",
        "law",
        "gatmiry.minimiser",
        ("engines-agree-loss", "engines-agree-gradient-A", "engines-agree-descent-A"),
        ((in_context.InContext, "sample", shorter_tasks),),
        sample,
        compiled=True,
        slow=True,
    ),
    Mutant(
        "twice the step",
        "descent",
        "gatmiry.minimiser",
        ("engines-agree-descent-A",),
        ((descents.Setting, "make_optimiser", twice_the_step),),
        sample,
        slow=True,
    ),
    Mutant(
        "slope of the loss 1.5 times as large",
        "curve",
        "gatmiry.loops",
        ("engines-agree-slope-a",),
        ((slopes, "slope_on_the_line", lambda *at: 1.5 * on_the_line(*at)),),
    ),
    Mutant(
        "the query is a key",
        "model",
        "gatmiry.ood",
        ("prompt-bound",),
        ((in_context, "layer", query_is_a_key),),
        shift,
        compiled=True,
        slow=True,
    ),
    Mutant(
        "tasks 30% too short",
        "law",
        "gatmiry.ood",
        ("engines-agree-shifted",),
        ((in_context.InContext, "sample", shorter_tasks),),
        shift,
        compiled=True,
        slow=True,
    ),
)

# --- exact losses and descents


def about_another_point(n: int, d: int, L: int) -> Any:
    whole = polynomial(n, d, L)
    return whole._replace(centre=1.001 * whole.centre)


def more_examples(n: int, d: int, L: int) -> Any:
    return normal_polynomial(n + 10, d, L)


def restless(form: Any, L: int, a: Any, u: Any) -> Any:
    return bias_loss(form, L, a, u - 0.1 * jnp.sign(jnp.abs(u)))


def hessian_with(**factors: float) -> Callable[..., Any]:
    def wrong(*arguments: Any) -> Any:
        h = hessian(*arguments)
        return h._replace(**{name: factor * getattr(h, name) for name, factor in factors.items()})

    return wrong


polynomial, normal_polynomial, bias_loss, hessian = (
    exact.polynomial,
    normal.polynomial,
    bias.bias_loss,
    wishart.hessian,
)
a_star, least_loss, unlooped, isotropic = (
    wishart.a_star,
    wishart.least_loss,
    wishart.unlooped,
    wishart.isotropic_loss,
)
root, trace = wishart.minimiser, large_n.gaussian_trace

EXACT = (
    Mutant(
        "expanded about another point",
        "curve",
        "gatmiry.minimiser",
        ("minimiser-symmetric",),
        ((exact, "polynomial", about_another_point),),
        descend,
        slow=True,
    ),
    Mutant(
        "u is drawn to 0.1",
        "curve",
        "gatmiry.minimiser",
        ("u-vanishes",),
        ((bias, "bias_loss", restless),),
        descend,
        compiled=True,
        slow=True,
    ),
    Mutant(
        "ten more examples",
        "curve",
        "gatmiry.minimiser-all",
        ("antisymmetric-growth",),
        ((normal, "polynomial", more_examples),),
        escape,
        slow=True,
    ),
    Mutant(
        "time 10% slow",
        "curve",
        "gatmiry.flow",
        ("flow-loss",),
        change=lambda study: values(study, flow_t=1.1 * study.values["flow/t"]),
    ),
    Mutant(
        "square root of the time",
        "curve",
        "gatmiry.flow",
        ("time-to-xi",),
        change=lambda study: values(study, flow_t=study.values["flow/t"] ** 0.5),
    ),
    Mutant(
        "the gradient of another norm",
        "gradient",
        "gatmiry.dominance",
        ("dominance-lower",),
        change=lambda study: values(study, infinite_square=study.values["infinite/square"] / 2),
    ),
    Mutant(
        "factor 2 in the gradient",
        "gradient",
        "gatmiry.dominance",
        ("dominance-upper",),
        change=lambda study: values(study, infinite_square=study.values["infinite/square"] * 4),
    ),
    Mutant(
        "the loss of half the norm",
        "curve",
        "gatmiry.dominance",
        ("gradient-dominance",),
        change=lambda study: values(study, own_loss=1e2 * study.values["own/loss"]),
    ),
    Mutant(
        "errors of prompts that do not contract",
        "curve",
        "gatmiry.loops",
        ("median-vanishes",),
        change=lambda study: values(study, errors=study.values["errors"][::-1]),
    ),
    Mutant(
        "mu of the inverse",
        "curve",
        "gatmiry.ood",
        ("shifted-loss",),
        change=lambda study: values(study, reduced=1.00001 * study.values["reduced"]),
    ),
    Mutant(
        "sampled loss a third too large",
        "gradient",
        "gatmiry.ood",
        ("engines-agree-shifted",),
        change=lambda study: values(study, sampled=study.values["sampled"] * [1.34, 1, 1]),
    ),
    Mutant(
        "one loop fewer in the bound",
        "prediction",
        "gatmiry.ood",
        ("prompt-bound",),
        change=lambda study: values(study, share=1.01 * study.values["share"]),
    ),
    Mutant(
        "a forward pass 1e-9 off",
        "model",
        "gatmiry.minimiser",
        ("forward-descent",),
        change=lambda study: values(study, sampled_identity=1e-9),
    ),
    Mutant(
        "odd gradients that do not cancel",
        "model",
        "gatmiry.minimiser",
        ("odd-gradient-zero",),
        change=lambda study: values(study, sampled_odd=1e-9),
    ),
    Mutant(
        "the gradient of P22 is not <A, grad_A>",
        "model",
        "gatmiry.minimiser",
        ("scale-gradient",),
        change=lambda study: values(study, sampled_scaling=1e-9),
    ),
    Mutant(
        "factor 2 in the sampled gradient and loss",
        "gradient",
        "gatmiry.minimiser",
        ("engines-agree-loss", "engines-agree-gradient-A"),
        change=lambda study: values(
            study,
            sampled_loss=study.values["sampled/loss"] * [2, 1, 1],
            sampled_grad_A=study.values["sampled/grad_A"] * np.array([2, 1, 1])[:, None, None],
        ),
    ),
    Mutant(
        "Monte Carlo descents end half way",
        "descent",
        "gatmiry.minimiser",
        ("engines-agree-descent-A",),
        change=lambda study: values(study, sampled_ends=study.values["sampled/ends"] / 2),
    ),
    Mutant(
        "u ends at 1e-6",
        "descent",
        "gatmiry.minimiser",
        ("u-vanishes",),
        change=lambda study: values(study, exact_u=study.values["exact/u"] + 1e-6),
    ),
)

# --- predictions

PREDICTIONS = (
    Mutant(
        "a* 1e-6 too large",
        "prediction",
        "gatmiry.minimiser",
        ("minimiser-symmetric",),
        ((wishart, "a_star", lambda *s: a_star(*s) * (1 + 1e-6)),),
    ),
    Mutant(
        "a* 0.05% too large",
        "prediction",
        "gatmiry.minimiser",
        ("proportional-limit",),
        ((wishart, "a_star", lambda *s: a_star(*s) * 1.0005),),
    ),
    Mutant(
        "a* is 1/4",
        "prediction",
        "gatmiry.minimiser",
        ("minimiser-bracket",),
        ((wishart, "a_star", lambda *s: 0.25),),
    ),
    Mutant(
        "h_sym of the other sign",
        "prediction",
        "gatmiry.minimiser",
        ("minimiser-local",),
        ((wishart, "hessian", hessian_with(h_sym=-1.0)),),
    ),
    Mutant(
        "h_tr a millionth too large",
        "prediction",
        "gatmiry.minimiser",
        ("curvatures-agree",),
        ((wishart, "hessian", hessian_with(h_tr=1 + 1e-6)),),
    ),
    Mutant(
        "kappa of one feature more",
        "prediction",
        "gatmiry.minimiser",
        ("a-star-rate",),
        ((wishart, "minimiser", lambda n, d, L: root(n, d + 1, L)),),
    ),
    Mutant(
        "the least loss of one feature more",
        "prediction",
        "gatmiry.minimiser",
        ("least-loss-rate",),
        ((wishart, "least_loss", lambda n, d, L: least_loss(n, d + 1, L)),),
    ),
    Mutant(
        "the Gaussian matrix without its diagonal",
        "prediction",
        "gatmiry.minimiser",
        ("least-loss-rate",),
        ((large_n, "gaussian_trace", lambda d, k: trace(d, k) - d),),
    ),
    Mutant(
        "h_asym half as large again",
        "prediction",
        "gatmiry.minimiser-all",
        ("antisymmetric-growth",),
        ((wishart, "hessian", hessian_with(h_asym=1.5)),),
    ),
    Mutant(
        "h_sym twice as large",
        "prediction",
        "gatmiry.dominance",
        ("dominance-fails",),
        ((wishart, "hessian", hessian_with(h_sym=2.0)),),
    ),
    Mutant(
        "constant 160 times as large",
        "prediction",
        "gatmiry.dominance",
        ("gradient-dominance",),
        ((dominance, "DOMINANCE", 10 * 16.0),),
    ),
    Mutant(
        "the loss of free steps doubled",
        "prediction",
        "gatmiry.loops",
        ("looped-above-unlooped", "catalan-ratio"),
        ((wishart, "unlooped", lambda *s: 2 * unlooped(*s)),),
    ),
    Mutant(
        "a 1% larger on the line",
        "prediction",
        "gatmiry.ood",
        ("loops-converge",),
        ((wishart, "isotropic_loss", lambda n, d, L, a: isotropic(n, d, L, 1.01 * a)),),
    ),
)

IN_CONTEXT = MODEL + EXACT + PREDICTIONS
