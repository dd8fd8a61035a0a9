"""What is measured for a claim, replaced: by what it was at the start, by half of it or twice, and
by 0.

`MEASURED` says for every claim which part of a study that is. Each entry takes a study and a
factor, None for a thing that does not move, and returns the planted study, or patches to judge the
study under.
"""

import dataclasses
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from unittest import mock

import numpy as np
from mutant import with_exact, with_setting
from mutants_in_context import samplewise, values

from popgd.descent import gradient
from popgd.descent.gradient import Estimate
from popgd.papers.in_context import descents, dominance, shifted, wishart
from popgd.papers.in_context import model as in_context
from popgd.papers.in_context.common import sampled_law
from popgd.papers.power_method.looping import inference
from popgd.papers.power_method.looping.study import Angles
from popgd.papers.power_method.training import invariance

STILL = None
#: name -> the factors that what is measured is wrong by; 0 instead of it is one of them.
PLANTS = {"nothing moved": (STILL,), "a factor 2": (2.0, 0.5), "0 instead": (0.0,)}


def scaled(x, factor, start=0.0):
    """x times the factor, or the start."""
    return np.zeros_like(x) + start if factor is STILL else np.asarray(x) * factor


# --- descent on the manifold


def moved_records(records, factor):
    if factor is STILL:
        c, Delta = (np.full_like(x, x[0]) for x in (records.c, records.Delta))
        return records._replace(c=c, Delta=Delta, dc=np.zeros_like(records.dc))
    return records._replace(c=factor * records.c, dc=factor * records.dc)


def records(study, factor):
    """The exact descent, with the losses that belong to it."""
    exact = study.exact
    return with_exact(
        study,
        records=moved_records(exact.records, factor),
        short=moved_records(exact.short, factor),
    )


def rate(study, factor):
    """What a step adds to c: the local exponent is it over c, times t."""
    if not factor:
        return records(study, factor)
    found = study.exact.records
    return with_exact(study, records=found._replace(dc=factor * found.dc))


def loss_at_the_end(study, factor):
    return of_evidence(study, factor) if factor else records(study, factor)


def losses(study, factor):
    found = study.exact.losses
    if factor is STILL:
        return with_exact(records(study, STILL), losses=np.full_like(found, found[0]))
    return with_exact(study, losses=factor * found)


def steps(study, factor):
    """The steps of the recursion, of another size than the setting says."""
    return (
        records(study, factor)
        if not factor
        else with_setting(study, eta=study.setting.eta / factor)
    )


def moved(run, factor):
    """A sampled descent, c times the factor."""
    ab = run.coordinates
    ab = np.broadcast_to(ab[:1], ab.shape) if factor is STILL else ab * factor**0.5
    return run._replace(coordinates=np.array(ab))


def runs(study, factor):
    changed = {
        name: moved(getattr(study, name), factor) for name in ("raw", "raw_double", "projected")
    }
    c = study.exact.c_at(int(study.raw.step[-1])).value
    seeds = (study.seeds + c) * (0.0 if factor is STILL else factor) - c
    return dataclasses.replace(study, seeds=seeds, **changed)


def slopes(study, factor):
    """Sampled ones; those of a thing that does not move are 0."""
    found = study.slopes
    if isinstance(found, dict):
        return dataclasses.replace(
            study, slopes={k: v._replace(value=v.value * (factor or 0.0)) for k, v in found.items()}
        )
    return dataclasses.replace(study, slopes=found._replace(value=found.value * (factor or 0.0)))


def same_samples(study, factor):
    """The full model's gradient for the samples of the reduced one."""
    apart = [
        np.array([abs((factor or 0.0) - 1) * size, size])
        for _, size in (point.apart for point in study.points)
    ]
    pairs = zip(study.points, apart, strict=True)
    return dataclasses.replace(study, points=tuple(point._replace(apart=x) for point, x in pairs))


def line(study, factor):
    """Slopes of the loss at multiples of I."""
    name = "slopes/value"
    return dataclasses.replace(
        study, values={**study.values, name: study.values[name] * (factor or 0.0)}
    )


def gradient_times(estimate, factor):
    """A gradient without error bar where it is 0: nothing was differentiated."""
    factor = factor or 0.0

    def part(x):
        weights = type(x.weights)(*(factor * np.asarray(M) for M in x.weights))
        rest = {
            name: factor * np.asarray(getattr(x, name)) for name in ("coordinates", "deviations")
        }
        return x._replace(weights=weights, **rest)

    return Estimate(part(estimate.mean), part(estimate.stderr), estimate.samples)


def points(study, factor):
    changed = (
        point._replace(estimate=gradient_times(point.estimate, factor)) for point in study.points
    )
    return dataclasses.replace(study, points=tuple(changed))


def samplewise_gradient(study, factor):
    whole = gradient.population_gradient
    planted = lambda *arguments: gradient_times(whole(*arguments), factor)
    return study, [(invariance.gradient, "population_gradient", planted)]


def outputs(study, factor):
    """What the transformer returns, or the query."""
    whole = invariance._outputs

    def planted(*arguments):
        X, q, f = whole(*arguments)
        return X, q, q if factor is STILL else factor * f

    return study, [(invariance, "_outputs", planted)]


# --- looped on other data


def looped(study, factor):
    """The outputs of every loop, or the query."""

    def one(run):
        out = (
            np.broadcast_to(run.test.queries[:, None], run.outputs.shape)
            if factor is STILL
            else factor * run.outputs
        )
        flat = inference.measured(run.test.spectrum, np.array(out).reshape(-1, run.test.spectrum.d))
        return run._replace(
            outputs=out, measured=Angles(*(x.reshape(out.shape[:-1]) for x in flat))
        )

    return changed_runs(study, one)


def changed_runs(study, one):
    return dataclasses.replace(
        study, runs={name: tuple(map(one, found)) for name, found in study.runs.items()}
    )


def angle(study, factor):
    """The sine and the tangent of every angle, or those of the query."""
    if factor is STILL:
        return looped(study, STILL)
    with np.errstate(divide="ignore"):
        by = np.log(factor)
    change = lambda run: run._replace(
        measured=run.measured._replace(tan=run.measured.tan + by, sin=run.measured.sin + by)
    )
    return changed_runs(study, change)


def loop_factor(study, factor):
    """By how much a loop makes the tangent smaller."""
    if factor is STILL:
        return looped(study, STILL)
    with np.errstate(divide="ignore"):
        by = np.log(factor) * study.depths
    return changed_runs(
        study, lambda run: run._replace(measured=run.measured._replace(tan=run.measured.tan + by))
    )


# --- descent in context


def array(study, factor, *names, start=0.0):
    """Arrays of the study, or their start."""
    return values(
        study,
        **{name: scaled(study.values[name.replace("_", "/", 1)], factor, start) for name in names},
    )


def plain(study, factor, *names, start=0.0):
    """The same for arrays that stand in no part."""
    return values(study, **{name: scaled(study.values[name], factor, start) for name in names})


def first_of(study, factor, *names):
    """Arrays of records, or their first record all along."""
    found = {name: study.values[name.replace("_", "/", 1)] for name in names}
    still = {name: np.broadcast_to(x[:1], x.shape) for name, x in found.items()}
    return values(
        study, **(still if factor is STILL else {name: factor * x for name, x in found.items()})
    )


def sampled_mean(study, factor, name, start):
    """Mean and standard error of a sampled number; or the mean is that of the start."""
    rows = np.array(study.values["sampled/" + name])
    if factor is STILL:
        rows[:, 0] = start(study)
    else:
        rows[:, :2] *= factor
    return values(study, **{"sampled_" + name: rows})


def ends(study, factor):
    found = study.values["sampled/ends"]
    start = np.array([0.0, descents.BIAS])
    return values(
        study,
        sampled_ends=np.broadcast_to(start, found.shape) if factor is STILL else factor * found,
    )


def of_wishart(study, factor, *names, start=0.0):
    """An exact number of `wishart`, or what it is at the start, A = 0."""

    def planted(whole, *arguments):
        if factor is STILL:
            return start(*arguments) if callable(start) else start
        found = whole(*arguments)
        return (
            wishart.Hessian(*(factor * h for h in found))
            if isinstance(found, tuple)
            else Fraction(factor) * found
        )

    return study, [(wishart, name, partial(planted, getattr(wishart, name))) for name in names]


def failing(study, factor):
    whole = dominance.failing
    return study, [
        (dominance, "failing", lambda study: ((factor or 0.0) * whole(study)[0], whole(study)[1]))
    ]


def time(study, factor):
    """Times and losses: the logarithm of the time times the factor."""
    if not factor:
        return first_of(study, factor, "flow_loss", "flow_more", "flow_coarse")
    return values(study, flow_t=study.values["flow/t"] ** factor)


def another_loop(study, factor):
    """The loss after L loops, wrong by the factor for each; or as before the first."""
    whole = wishart.isotropic_loss

    def planted(n, d, L, a):
        return np.float64(d) if factor is STILL else np.float64(factor) ** L * whole(n, d, L, a)

    return study, [(wishart, "isotropic_loss", planted)]


def one_step(study, factor):
    if not factor:
        return first_of(study, factor, "escape_blocks")
    return with_setting(study, eta=study.setting.eta / factor)


def transformer(study, factor):
    """The output of the transformer in context, which is 0 before the first loop."""
    whole = in_context.looped
    planted = lambda *arguments: (factor or 0.0) * whole(*arguments)
    with mock.patch.object(in_context, "looped", planted):
        return samplewise(study)


def scale_gradient(study, factor):
    """The gradient of P22 is known by its gap only: (P22 - G)/|G| with G = <A, grad_A>, |G| the sum
    of its terms' sizes.
    """
    found = float(study.values["sampled/scaling"])
    return values(study, sampled_scaling=abs((factor or 0.0) - 1) + found)


def other_data(study, factor):
    """The sampled loss on other data; or that on the data of training."""
    mean, stderr, exact = study.values["sampled"]
    few, (_, d, L) = sampled_law(study.law).n, study.sizes
    trained = wishart.isotropic_loss(few, d, L, wishart.a_star(*study.sizes))
    return values(
        study,
        sampled=np.array(
            [trained, stderr, exact] if factor is STILL else [factor * mean, factor * stderr, exact]
        ),
    )


def training_loss(study):
    return wishart.least_loss(*study.sizes)


def prompt_outputs(study, factor):
    """The errors of single prompts; or those of a transformer whose layers do nothing, whose output
    is 0.
    """
    if factor is not STILL:
        return plain(study, factor, "share")
    with mock.patch.object(shifted.in_context, "layer", lambda weights, Z: Z):
        return values(study, share=shifted.prompt_bounds(study.setting, study.law.d))


# --- beside the manifold


def hessian(study, factor):
    found = study.found
    mean, stderr = ((factor or 0.0) * np.asarray(x) for x in found[:2])
    return dataclasses.replace(study, found=found._replace(mean=mean, stderr=stderr))


def inside(study, factor, name):
    """A descent in N, its perturbation to the power of the factor; or as it was at the start."""
    if study.inside is None:
        return study
    path = getattr(study.inside, name)
    if path is None:
        return study
    theta = np.array(path.theta)
    inactive = [0, 1, 3, 4, 6, 7]
    first = theta[:1, inactive]
    if not factor:
        theta[:, inactive] = first if factor is STILL else 0.0
    else:
        with np.errstate(all="ignore"):
            grown = np.where(
                first, first * abs(theta[:, inactive] / first) ** factor, theta[:, inactive]
            )
        theta[:, inactive] = grown
    return dataclasses.replace(
        study, inside=study.inside._replace(**{name: path._replace(theta=theta)})
    )


def tangent(study, factor):
    """What fresh samples make of a perturbation: its logarithm times the factor; or it stays what
    it is.
    """
    growth = study.growth
    found = growth.measured
    planted = (
        np.ones_like(found)
        if factor is STILL
        else 0.0 * found
        if not factor
        else np.sign(found) * abs(found) ** factor
    )
    return dataclasses.replace(study, growth=growth._replace(measured=planted))


def end(study, factor):
    """Where descent beside the manifold gets to, and its losses."""
    if factor is STILL:
        theta, loss = (np.broadcast_to(x[:1], x.shape) for x in (study.ended.theta, study.loss))
    else:
        theta, loss = factor * study.ended.theta, factor * study.loss
    return dataclasses.replace(
        study, ended=study.ended._replace(theta=np.array(theta)), loss=np.array(loss)
    )


def of_evidence(study, factor):
    """A number that belongs to no descent: the evidence's own."""
    return study, factor or 0.0


MEASURED = {
    "inactive-gradient-zero": samplewise_gradient,
    "forward-reduced": outputs,
    "inactive-blocks-zero": runs,
    "active-gradient-scalar": points,
    "gradient-negative": slopes,
    "engines-agree-slope": slopes,
    "engines-agree-samples": same_samples,
    "engines-agree-gradient": points,
    "engines-agree-descent": runs,
    "engines-agree-raw": runs,
    "reduced-dynamics": steps,
    "projected-on-manifold": runs,
    "exponent-c": rate,
    "exponent-a": rate,
    "exponent-b": rate,
    "increment-constant": records,
    "loss-limit-positive": of_evidence,
    "loss-excess": of_evidence,
    "loss-vanishes": loss_at_the_end,
    "loss-bound": losses,
    "time-to-loss": rate,
    "limit-c": records,
    "limit-loss": records,
    "limit-loss-positive": of_evidence,
    "contraction": records,
    "monotone": records,
    "forward-descent": transformer,
    "odd-gradient-zero": partial(array, names=()),
    "scale-gradient": scale_gradient,
    "engines-agree-loss": partial(sampled_mean, name="loss", start=lambda study: study.law.d),
    "engines-agree-gradient-A": partial(sampled_mean, name="grad_A", start=lambda study: 0.0),
    "engines-agree-slope-a": line,
    "engines-agree-descent-A": ends,
    "minimiser-symmetric": lambda study, factor: first_of(study, factor, "exact_A"),
    "u-vanishes": lambda study, factor: first_of(study, factor, "exact_u"),
    "minimiser-local": lambda study, factor: of_wishart(study, factor or 0.0, "hessian"),
    "curvatures-agree": lambda study, factor: of_wishart(study, factor or 0.0, "hessian"),
    "minimiser-bracket": lambda study, factor: of_wishart(study, factor, "a_star"),
    "a-star-rate": lambda study, factor: of_wishart(study, factor, "minimiser", start=Fraction(0)),
    "least-loss-rate": lambda study, factor: of_wishart(
        study, factor, "least_loss", start=lambda n, d, L: float(d)
    ),
    "proportional-limit": lambda study, factor: of_wishart(study, factor, "a_star"),
    "no-descent-direction": lambda study, factor: of_wishart(study, factor or 0.0, "hessian"),
    "least-over-all-matrices": lambda study, factor: first_of(
        study, factor, "escape_ratio", "escape_blocks"
    ),
    "antisymmetric-growth": one_step,
    "gradient-dominance": lambda study, factor: array(study, factor, "own_square"),
    "dominance-lower": lambda study, factor: array(study, factor, "infinite_square"),
    "dominance-upper": lambda study, factor: array(study, factor, "infinite_square"),
    "dominance-fails": failing,
    "flow-loss": lambda study, factor: first_of(
        study, factor, "flow_loss", "flow_more", "flow_coarse"
    ),
    "time-to-xi": time,
    "time-to-xi-transcribed": time,
    "median-vanishes": lambda study, factor: plain(
        study, factor, "errors", start=study.values["errors"][0]
    ),
    "looped-above-unlooped": lambda study, factor: of_wishart(
        study, factor, "least_loss", start=0.0
    ),
    "catalan-ratio": lambda study, factor: of_wishart(
        study, factor, "least_loss", start=lambda n, d, L: float(d)
    ),
    "mean-keeps-falling": lambda study, factor: plain(
        study, factor, "mean", start=study.values["mean"][0]
    ),
    "shifted-loss": lambda study, factor: plain(
        study, factor, "reduced", start=training_loss(study)
    ),
    "engines-agree-shifted": other_data,
    "loops-converge": another_loop,
    "prompt-bound": prompt_outputs,
    "hessian-does-not-mix": hessian,
    "hessian-coupling": hessian,
    "hessian-p12-q21": hessian,
    "engines-agree-hessian": hessian,
    "saddle": hessian,
    "escape-rate": partial(inside, name="grown"),
    "shrinking-rate": partial(inside, name="held"),
    "symmetric-start-stays": partial(inside, name="held"),
    "p11-rate": partial(inside, name="pushed"),
    "growth-multiples-of-I": tangent,
    "growth-symmetric-traceless": tangent,
    "growth-antisymmetric": tangent,
    "falls-below": end,
    "learns-best-fit": end,
}
for model in ("LN", "norm", "unnorm", "looped"):
    MEASURED |= {f"engines-agree-slope-{model}": slopes}
    MEASURED |= {f"loop-output-{model}": looped, f"contraction-{model}": loop_factor}
    MEASURED |= {f"{name}-{model}": angle for name in ("sin-exact", "upper-bound", "lower-bound")}
    MEASURED |= {
        f"{name}-{model}": loop_factor for name in ("factor-falls", "factor-limit", "factor-stuck")
    }
    MEASURED |= {f"{name}-{model}": angle for name in ("limit-angle", "limit-upper", "limit-lower")}

TWICE_NOTHING = "what is claimed to be 0 is 0: twice that is 0 too"
SIGN = "only the sign is claimed, which a factor 2 does not change"
STATIC = "a number of the law: no descent is behind it"
#: (claim, plant or one factor of it) -> why the claim rightly holds under it, and the claim that is
#: there to see it, or empty.
EXCUSED = {
    ("inactive-gradient-zero", "a factor 2"): (TWICE_NOTHING, "engines-agree-gradient"),
    ("inactive-blocks-zero", "a factor 2"): (TWICE_NOTHING, "engines-agree-raw"),
    ("projected-on-manifold", "a factor 2"): (TWICE_NOTHING, "engines-agree-descent"),
    ("active-gradient-scalar", "a factor 2"): (
        "twice a multiple of I is one",
        "engines-agree-gradient",
    ),
    ("gradient-negative", "a factor 2"): (SIGN, "engines-agree-slope"),
    ("monotone", "a factor 2"): ("a step of any size towards c* is monotone", "contraction"),
    ("loss-limit-positive", "a factor 2"): (SIGN, "loss-excess"),
    ("limit-loss-positive", "a factor 2"): (SIGN, "limit-loss"),
    ("odd-gradient-zero", "nothing moved"): ("it is claimed to be 0", ""),
    ("odd-gradient-zero", "a factor 2"): (TWICE_NOTHING, ""),
    ("odd-gradient-zero", "0 instead"): (
        "it is claimed to be 0; where all gradients are, it is not a number",
        "",
    ),
    ("u-vanishes", "a factor 2"): (TWICE_NOTHING, "engines-agree-descent-A"),
    ("minimiser-local", "a factor 2"): (SIGN, "curvatures-agree"),
    ("no-descent-direction", "a factor 2"): (SIGN, "antisymmetric-growth"),
    ("gradient-dominance", "a factor 2"): (
        "a bound that the constant 1/16 leaves room",
        "dominance-lower",
    ),
    ("dominance-lower", 2.0): ("a lower bound allows more", "dominance-upper"),
    ("dominance-upper", 0.5): ("an upper bound allows less", "dominance-lower"),
    ("median-vanishes", "a factor 2"): (TWICE_NOTHING, ""),
    ("looped-above-unlooped", 2.0): ("a bound allows more", "catalan-ratio"),
    ("mean-keeps-falling", "a factor 2"): ("whether it falls does not depend on the unit", ""),
    ("hessian-does-not-mix", "a factor 2"): (TWICE_NOTHING, "hessian-coupling"),
    ("saddle", "a factor 2"): (SIGN, "hessian-coupling"),
    ("symmetric-start-stays", "a factor 2"): (TWICE_NOTHING, "shrinking-rate"),
    ("falls-below", "a factor 2"): (
        "a bound allows less, and leaves room for more; 4.2 claims the value too",
        "",
    ),
    ("falls-below", "0 instead"): ("the best fit of y = S q has the loss 0", "learns-best-fit"),
}


def planted(study, factor, claim):
    """(study, patches, what the evidence's own number is multiplied by)."""
    with np.errstate(all="ignore"):
        found = MEASURED[claim](study, factor)
    if not isinstance(found, tuple):
        return found, [], 1.0
    study, change = found
    return (study, change, 1.0) if isinstance(change, list) else (study, [], change)


def evidence(function, study, factor, claim):
    """The evidence for one claim under a plant."""
    study, patches, by = planted(study, factor, claim)
    with ExitStack() as stack:
        for target, name, value in patches:
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(np.errstate(all="ignore"))
        found = [e for e in function(study) if e.id == claim]
    return [
        dataclasses.replace(e, measured=by * np.asarray(e.measured)) if by != 1.0 else e
        for e in found
    ]
