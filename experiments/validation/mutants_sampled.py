"""Mistakes planted in model, law, objective, gradient and descent: what the sampled half must
see.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from mutant import Mutant, Study, with_setting

from popgd.descent import descent, gradient
from popgd.papers.power_method import data, model, objectives, structured
from popgd.papers.power_method.model import Weights, blocks

Code = Callable[..., Any]
#: Sizes of the sampled descents at which their own claims can see.
LONG = {"sampled_steps": 40, "batch": 1024}


# --- model, law, objective

attention, of_query, looped = model.attention, model.attention_of_query, model.looped
sample = data.Rotated.sample
subspace, power_step = objectives.SubspaceDistance.__call__, objectives.PowerIteration.__call__
of_output = objectives.PowerIteration.of_output


def active(weights: Weights) -> tuple[Any, Any]:
    return blocks(weights.P).b21, blocks(weights.Q).b12


def attending(
    change: Callable[[Weights], Weights], factor: Callable[[Any], Any] = lambda Z: 1
) -> tuple:
    """Attention with other weights and a factor, in every layer."""
    return tuple(
        (model, name, lambda w, Z, *copies, right=right: right(change(w), Z, *copies) * factor(Z))
        for name, right in (("attention", attention), ("attention_of_query", of_query))
    )


def exchanged(weights: Weights) -> Weights:
    A, B = active(weights)
    return model.active_weights(B, A)


def transposed(weights: Weights) -> Weights:
    A, B = active(weights)
    return model.active_weights(A.T, B.T)


def over_rows(Z: Any) -> Any:
    return Z / jnp.sqrt(jnp.sum(Z * Z, axis=1, keepdims=True))


def fewer_loops(
    weights: Weights, X: Any, q: Any, L: int = 1, normalise: bool = True, copies: Any = None
) -> Any:
    return looped(weights, X, q, L - 1, normalise, copies)


def of_positive_entries(G: Any) -> Any:
    O, R = jnp.linalg.qr(jax.scipy.special.ndtr(G))
    return O * jnp.sign(jnp.diagonal(R))


def one_plane(G: Any) -> Any:
    x, y = G[:2, 0] / jnp.linalg.norm(G[:2, 0])
    return jnp.eye(len(G), dtype=G.dtype).at[:2, :2].set(jnp.array([[x, -y], [y, x]]))


def leading(number: int) -> Callable[[Study], Study]:
    """The principal subspace of eigenvalue `number` in the samples; the exact curve knows
    better.
    """

    def change(study: Study) -> Study:
        law: Any = study.setting.law
        U = np.asarray(law.U)
        V = jnp.asarray(np.linalg.eigh(U @ U.T)[1][:, ::-1][:, number : number + 1])
        return with_setting(study, law=data.Rotated(law.U, V, law.spectrum, law.copies))

    return change


def long_columns(self: Any, key: Any, dtype: Any) -> data.Sample:
    found = sample(self, key, dtype)
    return found._replace(X=1.1 * found.X)


MODEL = (
    Mutant(
        "LN left out",
        "model",
        "4.3",
        ("forward-reduced",),
        ((model, "layer_norm", lambda Z: Z),),
        compiled=True,
    ),
    Mutant(
        "LN over the wrong axis",
        "model",
        "4.3",
        ("forward-reduced",),
        ((model, "layer_norm", over_rows),),
        compiled=True,
        slow=True,
    ),
    Mutant(
        "S divided by n",
        "model",
        "4.3",
        ("forward-reduced",),
        attending(lambda w: w, lambda Z: 1 / (Z.shape[1] - 1)),
        compiled=True,
        slow=True,
    ),
    Mutant(
        "A and B exchanged",
        "model",
        "4.3",
        ("forward-reduced",),
        attending(exchanged),
        compiled=True,
        slow=True,
    ),
    Mutant(
        "A and B transposed",
        "model",
        "4.3",
        ("forward-reduced",),
        attending(transposed),
        compiled=True,
        slow=True,
    ),
    Mutant(
        "one loop too few",
        "model",
        "4.1",
        ("forward-reduced",),
        ((model, "looped", fewer_loops),),
        compiled=True,
        slow=True,
    ),
    Mutant(
        "rotation of positive entries",
        "law",
        "4.2 unnormalised",
        ("active-gradient-scalar",),
        ((data, "haar", of_positive_entries),),
        again="sampled",
        compiled=True,
    ),
    Mutant(
        "rotation of one plane",
        "law",
        "4.2 unnormalised",
        ("active-gradient-scalar",),
        ((data, "haar", one_plane),),
        again="sampled",
        compiled=True,
        slow=True,
    ),
    Mutant(
        "Haar without signs",
        "law",
        "4.2 unnormalised",
        ("active-gradient-scalar",),
        ((data, "haar", lambda G: jnp.linalg.qr(G)[0]),),
        again="sampled",
        compiled=True,
        slow=True,
        survives="equivalent: losses see O only through S = O diag(lambda) O', where the signs "
        "of its columns cancel",
    ),
    Mutant(
        "q not normalised",
        "law",
        "4.2 unnormalised",
        ("engines-agree-gradient",),
        ((data, "sphere", lambda G: G),),
        again="sampled",
        compiled=True,
        slow=True,
    ),
    Mutant(
        "columns of X not of norm 1",
        "law",
        "4.3",
        ("engines-agree-gradient",),
        ((data.Rotated, "sample", long_columns),),
        again="sampled",
        compiled=True,
        slow=True,
    ),
    Mutant(
        "V of lambda_2",
        "law",
        "4.1",
        ("engines-agree-gradient",),
        change=leading(1),
        again="sampled",
        sizes={"batch": 1024},
        slow=True,
    ),
    Mutant(
        "V of the smallest eigenvalue",
        "law",
        "4.1",
        ("engines-agree-gradient",),
        change=leading(2),
        again="sampled",
        sizes={"batch": 1024},
        slow=True,
    ),
    Mutant(
        "factor 1/2 before the loss",
        "objective",
        "4.3",
        ("engines-agree-gradient", "engines-agree-samples"),
        ((objectives.PowerIteration, "__call__", lambda self, w, s: power_step(self, w, s) / 2),),
        again="sampled",
        compiled=True,
        slow=True,
    ),
    Mutant(
        "target q instead of Sq",
        "objective",
        "4.2 unnormalised",
        ("engines-agree-gradient", "engines-agree-samples"),
        (
            (
                objectives.PowerIteration,
                "__call__",
                lambda self, w, s: jnp.sum((model.looped(w, s.X, s.q, 1, False) - s.q) ** 2),
            ),
        ),
        again="sampled",
        compiled=True,
        slow=True,
    ),
    Mutant(
        "sign of the loss",
        "objective",
        "4.3",
        ("gradient-negative", "engines-agree-slope"),
        (
            (
                objectives.PowerIteration,
                "of_output",
                lambda self, *output: -of_output(self, *output),
            ),
        ),
        again="sampled",
        compiled=True,
    ),
    Mutant(
        "distance, not its square",
        "objective",
        "4.1",
        ("engines-agree-gradient", "engines-agree-samples"),
        (
            (
                objectives.SubspaceDistance,
                "__call__",
                lambda self, w, s: jnp.sqrt(subspace(self, w, s)),
            ),
        ),
        again="sampled",
        compiled=True,
        slow=True,
    ),
)

# --- gradient, descent

of_sample, estimate, fold_in = (
    gradient.GradientOf.__call__,
    gradient.population_average,
    jax.random.fold_in,
)
step = descent._step
along, orbit = structured.AlongActive.__call__, data.Rotated.orbit


def noisy(self: Any, weights: Weights, sample: data.Sample) -> Any:
    found = of_sample(self, weights, sample)
    return found._replace(
        weights=Weights(found.weights.P.at[0, 0].add(1e-12 * sample.q[0]), found.weights.Q)
    )


def times(mean: float, stderr: float) -> Code:
    """The estimate with both parts multiplied."""

    def wrong(*arguments: Any, **named: Any) -> gradient.Estimate:
        found = estimate(*arguments, **named)
        return found._replace(mean=jax.tree.map(lambda x: mean * x, found.mean),
                              stderr=jax.tree.map(lambda x: stderr * x, found.stderr))  # fmt: skip

    return wrong


def over_n(
    statistic: Any, weights: Any, law: Any, key: Any, samples: int, *rest: Any
) -> gradient.Estimate:
    found = estimate(statistic, weights, law, key, samples, *rest)
    return found._replace(stderr=jax.tree.map(lambda x: x / samples**0.5, found.stderr))


def one_key(key: Any, number: Any) -> Any:
    return key if isinstance(number, Tracer) else fold_in(key, number)


def raw_twice(how: Any, projected: bool, state: Any, mean: Any, known: Any = ()) -> Any:
    mean = mean if projected else jax.tree.map(lambda x: 2 * x, mean)
    return step(how, projected, state, mean, known)


def uphill(how: Any, projected: bool, state: Any, mean: Any, known: Any = ()) -> Any:
    return step(how, projected, state, jax.tree.map(lambda x: -x, mean), known)


def exchanged_gradients(how: Any, projected: bool, state: Any, mean: Any, known: Any = ()) -> Any:
    mean = mean[::-1] if projected else model.active_weights(*active(mean)[::-1])
    return step(how, projected, state, mean, known)


def times_d(found: Any, d: int) -> Any:
    """Its coordinates, and their powers, with d times the trace."""
    scales = zip(("coordinates", "square", "cube"), (d, d**2, d**3), strict=True)
    return found._replace(
        **{name: getattr(found, name).at[:2].multiply(scale) for name, scale in scales}
    )


def whole_trace(self: Any, weights: Any, sample: data.Sample) -> Any:
    return times_d(of_sample(self, weights, sample), len(sample.q))


def undivided(self: Any, weights: Any, sample: data.Orbit) -> Any:
    found = along(self, weights, sample)
    d = len(sample.Q)
    return found._replace(
        coordinates=d * found.coordinates, square=d**2 * found.square, cube=d**3 * found.cube
    )


def squared(self: Any, key: Any, dtype: Any) -> data.Orbit:
    found = orbit(self, key, dtype)
    return found._replace(S=found.S**2)


def turned(self: Any, key: Any, dtype: Any) -> data.Orbit:
    found = orbit(self, key, dtype)
    return found._replace(S=found.S[::-1])


GRADIENT = (
    Mutant(
        "noise in P11",
        "gradient",
        "4.3",
        ("inactive-gradient-zero", "inactive-blocks-zero"),
        ((gradient.GradientOf, "__call__", noisy),),
        again="sampled",
        compiled=True,
    ),
    Mutant(
        "summed over devices twice",
        "gradient",
        "4.3",
        ("engines-agree-slope", "engines-agree-gradient", "engines-agree-descent"),
        ((gradient, "population_average", times(2.0, 2.0)),),
        again="sampled",
        sizes=LONG,
        slow=True,
    ),
    Mutant(
        "standard error over n",
        "gradient",
        "4.3",
        ("active-gradient-scalar",),
        ((gradient, "population_average", over_n),),
        again="sampled",
        slow=True,
    ),
    Mutant(
        "one key for all samples",
        "gradient",
        "4.3",
        ("active-gradient-scalar",),
        ((jax.random, "fold_in", one_key),),
        again="sampled",
        compiled=True,
        slow=True,
    ),
    Mutant(
        "trace not divided by d",
        "gradient",
        "4.3",
        ("engines-agree-gradient", "engines-agree-samples"),
        ((gradient.GradientOf, "__call__", whole_trace),),
        again="sampled",
        compiled=True,
        slow=True,
    ),
    Mutant(
        "structured slope not divided by d",
        "gradient",
        "4.3",
        ("engines-agree-descent", "engines-agree-samples"),
        ((structured.AlongActive, "__call__", undivided),),
        again="sampled",
        compiled=True,
        sizes=LONG,
    ),
    Mutant(
        "eigenvalues squared",
        "law",
        "4.3",
        ("engines-agree-descent",),
        ((data.Rotated, "orbit", squared),),
        again="sampled",
        compiled=True,
        sizes=LONG,
        slow=True,
    ),
    Mutant(
        "spectrum turned round in the eigenbasis",
        "law",
        "4.1",
        ("engines-agree-descent",),
        ((data.Rotated, "orbit", turned),),
        again="sampled",
        compiled=True,
        sizes=LONG,
        slow=True,
    ),
    Mutant(
        "projected descent that does not project",
        "descent",
        "4.3",
        ("projected-on-manifold",),
        change=lambda study: dataclasses.replace(study, projected=study.raw),
    ),
    Mutant(
        "raw descent with twice the step",
        "descent",
        "4.3",
        ("engines-agree-raw",),
        ((descent, "_step", raw_twice),),
        again="sampled",
        sizes=LONG,
        slow=True,
    ),
    Mutant(
        "ascent",
        "descent",
        "4.3",
        ("engines-agree-descent",),
        ((descent, "_step", uphill),),
        again="sampled",
        sizes=LONG,
        slow=True,
    ),
    Mutant(
        "gradients of P21 and Q12 exchanged",
        "descent",
        "4.3",
        ("engines-agree-raw",),
        ((descent, "_step", exchanged_gradients),),
        again="sampled",
        sizes=LONG,
        slow=True,
    ),
)

SAMPLED = MODEL + GRADIENT
