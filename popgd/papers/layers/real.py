"""Real weights: do the layers of a trained model act like steps of the power method?

A layer's F = sum_h F^(h), F^(h) = W_O^h W_V^h, and B, an orthonormal basis of what dominates the
iteration (a plane where the dominant eigenvalue is one of a complex pair). The alignment of tokens
is (D/dim B) mean_i |B^T x_i|^2/|x_i|^2, chance level 1. *Idealised*: heads and their softmax as
they are, no feed-forward part, no biases, every token's length sqrt(D). *Real*: the layer as it is.
Looped, one idealised layer approaches B at the local rate of `layers.rate`, p from {1, 0}.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from popgd.claims.evidence import Evidence, estimated, known
from popgd.papers.layers import dynamics, matrices, weights
from popgd.papers.layers.rate import moduli
from popgd.problem.errors import SettingError
from popgd.problem.number import Number
from popgd.theorem import readers
from popgd.theorem.base import Progress, Setting
from popgd.theorem.observed import Observed, observing
from popgd.theorem.plot import panel
from popgd.theorem.settings import Option

#: What is switched on one by one, each beside those before it.
SWITCHES = ("idealised", "centred", "affine", "biases", "feed-forward")
#: Of log alignment after over before: a fall by a fifth is seen; and of a rate, whose dominant pair
#: may beat.
TILT, RATE = 0.2, 0.02
#: Tangents between which a rate is read, and loops at most; those in one piece.
FROM, TO, LONGEST, PIECE = 1e-3, 1e-10, 4000, 50
#: Pieces that are looped with the SWITCHES.
UNDONE = 8
#: Random bases that an alignment is compared with.
NULLS = 32


class Switched(NamedTuple):
    """What of a real layer is on: the norm (rms, layernorm, affine), biases, feed-forward part."""

    norm: str
    biases: bool
    inner: bool


def _switched(name: str) -> Switched:
    at = SWITCHES.index(name)
    return Switched(("rms", "layernorm", "affine")[min(at, 2)], at >= 3, at >= 4)


def attention(model: weights.Model, layer: weights.Layer, X: Any, biases: bool) -> Any:
    """What attention adds to the tokens X (n, D), head by head."""
    n, D = X.shape
    shaped = lambda part: (X @ part.W.T + biases * part.b).reshape(n, model.heads, -1)
    q, k, v = (shaped(part) for part in (layer.query, layer.key, layer.value))
    scores = jnp.einsum("ihd,jhd->hij", q, k)
    if model.kind != "gpt_neo":
        scores = scores / (D / model.heads) ** 0.5
    if model.causal:
        scores = jnp.where(jnp.tril(jnp.ones((n, n), bool)), scores, -jnp.inf)
    mixed = jnp.einsum("hij,jhd->ihd", jax.nn.softmax(scores, axis=-1), v).reshape(n, D)
    return mixed @ layer.out.W.T + biases * layer.out.b


def halves(model: weights.Model, layer: weights.Layer, on: Switched, X: Any) -> Any:
    """The tokens after the attention half of a layer, and after all of it."""

    def norm(Z: Any, part: weights.Linear) -> Any:
        if on.norm == "affine":
            return dynamics.layer_norm(Z, part.W, part.b, model.eps)
        return dynamics.NORMS[on.norm](Z)

    def inner(Z: Any) -> Any:
        wide = Z @ layer.inner.W.T + on.biases * layer.inner.b
        wide = jax.nn.gelu(wide, approximate=model.kind != "bert")
        return wide @ layer.outer.W.T + on.biases * layer.outer.b

    if model.residual == "post":
        half = norm(X + attention(model, layer, X, on.biases), layer.attention_norm)
        return half, norm(half + inner(half), layer.output_norm) if on.inner else half
    half = X + attention(model, layer, norm(X, layer.attention_norm), on.biases)
    return half, half + inner(norm(half, layer.output_norm)) if on.inner else half


def alignment(B: Any, X: Any) -> Any:
    """(D/dim B) mean_i |B^T x_i|^2/|x_i|^2."""
    D, k = B.shape
    return D / k * jnp.mean(jnp.sum((X @ B) ** 2, axis=-1) / jnp.sum(X**2, axis=-1))


def tokens(setting: Setting, model: weights.Model, draws: int) -> np.ndarray:
    """(draws, n, D): what enters the first layer, from the text or at random. Raises SettingError
    for a text that is empty, and without a tokeniser.
    """
    n, rng = setting["n"], matrices.rng_of(setting, 7)
    if n > len(model.positions):
        raise SettingError(f"n={n}: the model takes {len(model.positions)} tokens at most")
    if setting["text"] is None:
        X = rng.normal(size=(draws, n, model.D))
        return X / np.sqrt(np.mean(X**2, axis=2, keepdims=True))
    ids = _numbers(setting)
    if len(ids) < 2 * n:
        raise SettingError(f"text: {len(ids)} tokens; two pieces of n = {n} at least were wanted")
    if max(ids) >= len(model.words):
        raise SettingError("text: its tokeniser knows more words than the model; take the model's")
    draws = min(draws, len(ids) // n)
    pieces = np.asarray(ids[: draws * n]).reshape(draws, n)
    return np.stack([model.enter(model.words[piece] + model.positions[:n]) for piece in pieces])


def _numbers(setting: Setting) -> list[int]:
    """The tokens of the text, by the tokeniser beside the weights."""
    name = readers.named(setting["text"])[0]
    try:
        text = Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingError(f"text={name}: no text in UTF-8 ({error.reason})") from None
    if not text.strip():
        raise SettingError(f"text={name}: it is empty; give a text")
    if setting["weights"] is None:
        raise SettingError("text: a random model knows no words; give weights too")
    place = Path(readers.named(setting["weights"])[0])
    file = (place if place.is_dir() else place.parent) / "tokenizer.json"
    if not file.is_file():
        raise SettingError(f"text: there is no {file.name} beside the weights; leave text out")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise SettingError(f"text: tokenizers is not installed; {weights.NEEDS}") from None
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer.encode(text, add_special_tokens=False).ids


def model_of(setting: Setting) -> weights.Model:
    """What the setting's file holds, or the random model."""
    named = setting["weights"]
    return weights.random() if named is None else weights.read(readers.named(named)[0])


def _dominant(model: weights.Model, layer: weights.Layer) -> matrices.Dominant:
    F = weights.head_matrices(layer, model.heads)[0].sum(axis=0)
    return matrices.dominant(F, model.residual)


def _step(model: weights.Model, layer: weights.Layer) -> Any:
    """Pieces of text (draws, n, D) and what is on to what `halves` makes of them."""
    return jax.jit(lambda X, on: jax.vmap(partial(halves, model, layer, on))(X), static_argnums=1)


def through(model: weights.Model, X: Any, rng: np.random.Generator) -> dict[str, Any]:
    """For each layer, and each piece, alignment before it and after it, idealised; before it, after
    its attention half and after it, real; and the mean log of the second over the first of those to
    random bases.
    """
    found: dict[str, list[Any]] = {name: [] for name in ("ideal", "real", "null")}
    align = jax.jit(jax.vmap(alignment, (None, 0)))
    ideal, real = X, X
    for layer in model.layers:
        B, step = jnp.asarray(_dominant(model, layer).plane), _step(model, layer)
        after = step(ideal, _switched("idealised"))[1]
        half, whole = step(real, _switched("feed-forward"))
        found["ideal"].append([align(B, ideal), align(B, after)])
        found["real"].append([align(B, real), align(B, half), align(B, whole)])
        bases = [_random_basis(rng, B.shape) for _ in range(NULLS)]
        ratios = [np.log(np.asarray(align(Q, half)) / np.asarray(align(Q, real))) for Q in bases]
        found["null"].append(np.mean(ratios, axis=1))
        ideal, real = after, whole
    return {name: np.asarray(rows) for name, rows in found.items()}


def measure(setting: Setting, progress: Progress) -> dict[str, Any]:
    """`through` all layers; and of each different one, looped, its rate, the share of squared
    length in B after the loops with each of the SWITCHES, and with the affine part that in what
    dominates with its gain.
    """
    model = model_of(setting)
    X = jnp.asarray(tokens(setting, model, setting["draws"]))
    progress("layers, one after another", 0, 1)
    found: dict[str, Any] = through(model, X, matrices.rng_of(setting, 8))
    found |= {"rate": [], "undone": [], "own": []}
    different = {id(layer): layer for layer in model.layers}.values()
    for number, layer in enumerate(different):
        progress("layers, looped", number, len(different))
        top, step = _dominant(model, layer), _step(model, layer)
        B = jnp.asarray(top.plane)
        found["rate"].append(_looped(setting, model, step, top, X))
        ends = {name: _looped_with(setting, step, name, X) for name in SWITCHES}
        found["undone"].append([_share(B, end) for end in ends.values()])
        found["own"].append(_share(jnp.asarray(_with_gain(model, layer)), ends["affine"]))
    return found


def _random_basis(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return jnp.asarray(np.linalg.qr(rng.normal(size=shape))[0])


def _predicted(top: matrices.Dominant, model: weights.Model, n: int) -> float:
    """The rate at which tokens come nearer to what dominates; of a pair both are left out."""
    others = top._replace(others=top.others[top.plane.shape[1] - 1 :])
    return float(moduli(others, "uniform", n, model.residual)[0])


def _looped(setting: Setting, model: Any, step: Any, top: matrices.Dominant, X: Any) -> list[float]:
    """The predicted rate, the measured one with what it may be off by, and dim B, of one layer.

    Read off the later half of the window. What the earlier half says differently is allowed for,
    and what beats: a factor whose logarithm varies by so much, over the length.
    """
    k, predicted = top.plane.shape[1], _predicted(top, model, setting["n"])
    on, one = _switched("idealised"), X[:1]
    T: list[float] = []
    basis = jnp.asarray(top.plane)

    @jax.jit
    def piece(X: Any) -> Any:
        def go(X: Any, _: None) -> Any:
            X = step(X, on)[1]
            along = jnp.sum((X @ basis) ** 2, axis=-1)
            beside = X - (X @ basis) @ basis.T
            return X, jnp.max(jnp.sqrt(jnp.sum(beside**2, axis=-1) / along))

        return jax.lax.scan(go, X, None, length=PIECE)

    while len(T) < LONGEST and (not T or T[-1] > TO):
        one, more = piece(one)
        T += np.asarray(more).tolist()
    log = np.log(np.asarray(T))
    inside = np.flatnonzero((log < np.log(FROM)) & (log > np.log(TO)))
    if len(inside) < 2 or model.residual != "post":
        return [predicted, np.nan, np.nan, k]
    early, late = np.array_split(inside, 2)
    before = np.polyfit(early, log[early], 1)[0] if len(early) > 1 else -np.inf
    slope, at = np.polyfit(late, log[late], 1) if len(late) > 1 else (np.nan, 0.0)
    beat = np.ptp(log[late] - slope * late - at) / len(late)
    return [predicted, float(np.exp(slope)), float(beat + abs(slope - before)), k]


def _looped_with(setting: Setting, step: Any, name: str, X: Any) -> Any:
    """Tokens after the loops, with the switches up to this one."""
    X = X[:UNDONE]
    for _ in range(setting.L):
        X = step(X, _switched(name))[1]
    return X


def _share(B: Any, X: Any) -> float:
    """The share of the squared length of tokens that is in B."""
    return float(np.mean(jax.vmap(alignment, (None, 0))(B, X))) * B.shape[1] / B.shape[0]


def _with_gain(model: weights.Model, layer: weights.Layer) -> np.ndarray:
    """What dominates diag(gain) Pi (I + F), the iteration of a post-norm layer with its gain."""
    F = weights.head_matrices(layer, model.heads)[0].sum(axis=0)
    D = len(F)
    gained = layer.attention_norm.W[:, None] * (np.eye(D) - 1 / D) @ (np.eye(D) + F)
    return matrices.dominant(gained, "none").plane


def tilts(found: Observed) -> Iterator[Evidence]:
    """The alignment rises in every layer, idealised and real."""
    count = found["ideal"].shape[-1]
    for name, words, after in (
        ("ideal", "idealised layers, one after another", 1),
        ("real", "attention halves of the real layers", 1),
    ):
        ratio = np.log(found[name][:, after] / found[name][:, 0])
        yield estimated(
            f"tilt-{name}",
            f"The {words} tilt tokens towards what dominates their F: mean log of alignment after "
            f"over before, each of {len(ratio)} layers",
            "tokens tilt towards the principal eigenvector of F",
            sense="at least",
            measured=ratio.mean(axis=1),
            error=ratio.std(axis=1, ddof=1) / count**0.5,
            degrees=count - 1.0,
            skewness=_skewness(ratio),
            # A fall by TILT must be seen, or where there is a rise, that there is one
            resolution=np.maximum(TILT, ratio.mean(axis=1)),
            reason=f"standard error over {count} pieces of text, or draws; alignment at the end "
            f"{found[name][-1, after].mean():.3g}, chance 1",
            drawn=("draws", count),
        )


def _skewness(x: np.ndarray) -> np.ndarray:
    """Of the mean of each row, downwards."""
    off = x - x.mean(axis=1, keepdims=True)
    third = np.mean(off**3, axis=1) / np.maximum(np.mean(off**2, axis=1), 1e-300) ** 1.5
    return np.maximum(-third, 0) / x.shape[1] ** 0.5


def rates(found: Observed) -> Iterator[Evidence]:
    """One idealised layer, looped."""
    rate = found["rate"]
    seen = np.isfinite(rate[:, 1])
    predicted, measured, off, _ = rate[seen].T if np.any(seen) else np.zeros((4, 0))
    yield known(
        "loop-rate",
        "One idealised layer, looped, comes nearer to its dominant space by max |1 + lam_k p|/|1 + "
        f"lam_1| in a loop: ratio, {int(np.sum(seen))} of {len(rate)} different layers",
        "derived: the local rate at consensus",
        predicted=1.0,
        measured=measured / predicted if np.any(seen) else np.zeros(0),
        error=1e-9,
        allowance=off,
        resolution=RATE,
        reason=f"read between tangents {FROM:g} and {TO:g}; what beats is allowed for; other "
        f"layers do not come there in {LONGEST} loops, or are pre-norm",
    )


def quantities(found: Observed) -> dict[str, Number]:
    """Rates, and how much of the alignment each part of a layer leaves after the loops."""
    rate, undone = found["rate"], found["undone"]
    named = {f"rate_{l}": Number(row[0]) for l, row in enumerate(rate)}
    for i, name in enumerate(SWITCHES):
        named[f"share_{name.replace('-', '_')}"] = Number(float(undone[:, i].mean()), 1e-9)
    named["share_affine_own"] = Number(float(found["own"].mean()), 1e-9)
    null = found["null"]
    named["null_tilt"] = Number(float(null.mean()), stderr=float(null.std() / null.size**0.5))
    return named


def figures(found: Observed, title: str) -> Mapping[str, Any]:
    figure, axes = panel(title, "layer", "alignment with its dominant space (chance: 1)")
    l = np.arange(1, len(found["ideal"]) + 1)
    for name, after, words in (
        ("ideal", 1, "idealised, after the layer"),
        ("real", 1, "real, after the attention half"),
        ("real", 2, "real, after the layer"),
    ):
        values = found[name][:, after]
        spread = values.std(axis=1, ddof=1) / values.shape[1] ** 0.5
        axes.errorbar(l, values.mean(axis=1), spread, marker="o", ms=4, lw=1, label=words)
    axes.axhline(1, ls="--", lw=0.8, color="0.5")
    axes.set(yscale="log")
    axes.legend(fontsize=8)
    other, below = panel(title, "switched on, one by one", "share of squared length in it")
    below.plot(found["undone"].T, marker="o", ms=4, lw=1)
    below.set_xticks(range(len(SWITCHES)), SWITCHES)
    below.set(ylim=(0, 1.02))
    return {"alignment": figure, "undone": other}


def _weights(value: Any) -> str:
    """A file, or the model.safetensors of a directory, with its checksum."""
    name, told = readers.named(value)
    place = Path(name) / "model.safetensors" if Path(name).is_dir() else Path(name)
    return readers.file(f"{place}#{told}" if told else str(place))


THEOREM = observing(
    measure,
    "layers.real",
    title="layers of a trained model tilt tokens like steps of the power method",
    statement="Each layer of a trained model tilts tokens towards what dominates its F, idealised "
    "and in its attention half; one idealised layer, looped, aligns them at the predicted rate.",
    source=f"{dynamics.PAPER}; derived",
    transcribed=True,
    claims=(tilts, rates),
    figures=figures,
    quantities=quantities,
    sampled=("tilt-ideal", "tilt-real"),
    options={
        "weights": Option(
            None,
            _weights,
            "model.safetensors with config.json beside it (BERT, ALBERT, GPT-2, GPT-Neo), its "
            "directory, or an .onnx file with an ALBERT; by default a small random model",
        ),
        "text": Option(None, readers.file, "a text to take tokens from; by default random ones"),
        "n": Option(16, readers.whole(2, 512), "tokens in one piece"),
        "draws": Option(256, readers.whole(4, 10**4), "pieces of the text, or draws of tokens"),
        "L": Option(120, readers.whole(1, 10**4), "loops of one layer"),
    },
)
