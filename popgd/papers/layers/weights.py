"""Real weights: a BERT, ALBERT, GPT-2 or GPT-Neo as its file holds it, tensors alone.

`read` takes a model.safetensors with its config.json beside it, or an .onnx file that holds an
ALBERT. Every matrix acts on column vectors here: y = W x + b. Needs `pip install "popgd[weights]"`.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from popgd.problem.errors import SettingError
from popgd.theorem.base import fits

KINDS = ("bert", "albert", "gpt2", "gpt_neo")
#: Bytes of a number, once read, over those in the file.
WIDER = 2.0
NEEDS = 'pip install "popgd[weights]"'


class Linear(NamedTuple):
    """x -> W x + b."""

    W: np.ndarray
    b: np.ndarray


class Layer(NamedTuple):
    """One layer. attention_norm and output_norm are (gain, shift), behind what they are named after
    in a post-norm model, before it in a pre-norm one.
    """

    query: Linear
    key: Linear
    value: Linear
    out: Linear
    inner: Linear
    outer: Linear
    attention_norm: Linear
    output_norm: Linear


class Model(NamedTuple):
    """What is read of a file.

    kind      one of KINDS
    heads     attention heads; scores are over sqrt(D/heads), of GPT-Neo not
    eps       of LayerNorm
    layers    one `Layer` for each, of ALBERT the same one
    words     the embedding of each token (vocabulary, D); positions (longest, D) are added
    enter     what is done to embeddings before the first layer: (n, D) to (n, D)
    """

    kind: str
    heads: int
    eps: float
    layers: tuple[Layer, ...]
    words: np.ndarray
    positions: np.ndarray
    enter: Callable[[np.ndarray], np.ndarray]

    @property
    def D(self) -> int:
        return len(self.layers[0].out.W)

    @property
    def residual(self) -> str:
        return "post" if self.kind in ("bert", "albert") else "pre"

    @property
    def causal(self) -> bool:
        return self.residual == "pre"


def head_matrices(layer: Layer, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """F^(h) = W_O^h W_V^h (heads, D, D), and M^(h) = W_Q^h^T W_K^h, of which scores are made."""
    D = len(layer.out.W)
    value, query, key = (x.W.reshape(heads, -1, D) for x in (layer.value, layer.query, layer.key))
    out = layer.out.W.reshape(D, heads, -1).transpose(1, 0, 2)
    return out @ value, query.transpose(0, 2, 1) @ key


def random(D: int = 64, heads: int = 4, count: int = 3) -> Model:
    """A post-norm model that learned nothing: Gaussian matrices, no biases, gains 1; always the
    same.
    """
    rng = np.random.default_rng(0)
    draw = lambda rows, columns: Linear(
        rng.normal(size=(rows, columns)) / columns**0.5, np.zeros(rows)
    )
    norm = Linear(np.ones(D), np.zeros(D))
    shapes = (*((D, D),) * 4, (4 * D, D), (D, 4 * D))
    layers = tuple(Layer._make([*(draw(*x) for x in shapes), norm, norm]) for _ in range(count))
    words, positions = (rng.normal(size=(size, D)) for size in (1000, 512))
    return Model("bert", heads, 0.0, layers, words, 0 * positions, lambda X: X)


def read(path: str) -> Model:
    """The model of a file or of a directory with a model.safetensors. Raises SettingError, in one
    line, for a file that is none, truncated, of another architecture, of other numbers than float32
    or float64, without a tensor that it needs, or too large for the memory.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "model.safetensors"
    if not file.is_file():
        raise SettingError(f"weights={path}: no file is there; name a model.safetensors")
    fits(f"weights={path}", WIDER * file.stat().st_size)
    return _onnx(file) if file.suffix == ".onnx" else _safetensors(file)


def _safetensors(file: Path) -> Model:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise SettingError(f"weights={file}: safetensors is not installed; {NEEDS}") from None
    config = _config(file)
    try:
        with safe_open(file, "np") as tensors:
            names = set(tensors.keys())
            kind = config["model_type"]
            prefix = next((p for p in (f"{kind}.", "transformer.", "") if _any(names, p)), "")

            def tensor(name: str, optional: bool = False) -> Any:
                if prefix + name not in names:
                    if optional:
                        return None
                    raise SettingError(
                        f"weights={file}: it has no tensor {prefix + name}, which a model of type "
                        f"{kind} has; take another file"
                    )
                kept = tensors.get_slice(prefix + name).get_dtype()
                if kept not in ("F32", "F64"):
                    raise SettingError(
                        f"weights={file}: {prefix + name} is of {kept}; float32 was wanted: "
                        "convert it, a quantised or half-precision model has other eigenvalues"
                    )
                return tensors.get_tensor(prefix + name).astype(float)

            return _model(kind, config, tensor)
    except SafetensorError as error:
        raise SettingError(f"weights={file}: no whole safetensors file ({error})") from None


def _any(names: set[str], prefix: str) -> bool:
    return bool(prefix) and any(name.startswith(prefix) for name in names)


def _config(file: Path) -> dict[str, Any]:
    place = file.parent / "config.json"
    try:
        config = json.loads(place.read_text())
    except (OSError, ValueError) as error:
        raise SettingError(f"weights={file}: no config.json beside it ({error})") from None
    kind = config.get("model_type")
    if kind not in KINDS:
        raise SettingError(
            f"weights={file}: a model of type {kind}; one of {', '.join(KINDS)} was wanted"
        )
    return config


def _model(kind: str, config: Mapping[str, Any], tensor: Callable[..., Any]) -> Model:
    """The model of tensors by their names."""

    def linear(name: str, bias: bool = True) -> Linear:
        W = tensor(f"{name}.weight")
        b = tensor(f"{name}.bias", not bias)
        return Linear(W, np.zeros(len(W)) if b is None else b)

    def turned(name: str) -> Linear:
        """GPT-2 keeps matrices that act on row vectors."""
        found = linear(name)
        return Linear(found.W.T, found.b)

    if kind == "bert":
        count = config["num_hidden_layers"]
        layers = tuple(_bert(linear, f"encoder.layer.{l}") for l in range(count))
    elif kind == "albert":
        one = _albert(linear, "encoder.albert_layer_groups.0.albert_layers.0")
        layers = (one,) * config["num_hidden_layers"]
    elif kind == "gpt2":
        layers = tuple(_gpt2(linear, turned, f"h.{l}") for l in range(config["n_layer"]))
    else:
        layers = tuple(_gpt_neo(linear, f"h.{l}") for l in range(config["num_layers"]))
    heads = config.get("num_attention_heads") or config.get("n_head") or config["num_heads"]
    eps = config.get("layer_norm_eps", config.get("layer_norm_epsilon", 1e-5))
    if layers[0].out.W.shape[0] % heads:
        raise SettingError(f"config.json tells {heads} heads for D = {len(layers[0].out.W)}")
    if kind in ("gpt2", "gpt_neo"):
        words, positions = tensor("wte.weight"), tensor("wpe.weight")
        return Model(kind, heads, eps, layers, words, positions, lambda X: X)
    words = tensor("embeddings.word_embeddings.weight")
    positions = tensor("embeddings.position_embeddings.weight")
    segment = tensor("embeddings.token_type_embeddings.weight")[0]
    norm = linear("embeddings.LayerNorm")
    into = linear("encoder.embedding_hidden_mapping_in") if kind == "albert" else None
    return Model(kind, heads, eps, layers, words, positions, _entering(segment, norm, into, eps))


def _entering(segment: Any, norm: Linear, into: Linear | None, eps: float) -> Any:
    def enter(X: np.ndarray) -> np.ndarray:
        X = X + segment
        X = X - X.mean(axis=1, keepdims=True)
        X = X / np.sqrt(np.mean(X**2, axis=1, keepdims=True) + eps) * norm.W + norm.b
        return X if into is None else X @ into.W.T + into.b

    return enter


def _bert(linear: Callable[..., Linear], at: str) -> Layer:
    names = ("self.query", "self.key", "self.value", "output.dense")
    parts = [linear(f"{at}.attention.{name}") for name in names]
    parts += [linear(f"{at}.intermediate.dense"), linear(f"{at}.output.dense")]
    norms = (f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm")
    return Layer(*parts, *map(linear, norms))


def _albert(linear: Callable[..., Linear], at: str) -> Layer:
    parts = [linear(f"{at}.attention.{name}") for name in ("query", "key", "value", "dense")]
    parts += [linear(f"{at}.ffn"), linear(f"{at}.ffn_output")]
    norms = (f"{at}.attention.LayerNorm", f"{at}.full_layer_layer_norm")
    return Layer(*parts, *map(linear, norms))


def _gpt2(linear: Callable[..., Linear], turned: Callable[[str], Linear], at: str) -> Layer:
    joint = turned(f"{at}.attn.c_attn")
    triple = zip(np.split(joint.W, 3), np.split(joint.b, 3), strict=True)
    parts = [Linear(W, b) for W, b in triple]
    parts += [turned(f"{at}.{name}") for name in ("attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    return Layer(*parts, *map(linear, (f"{at}.ln_1", f"{at}.ln_2")))


def _gpt_neo(linear: Callable[..., Linear], at: str) -> Layer:
    names = ("q_proj", "k_proj", "v_proj")
    parts = [linear(f"{at}.attn.attention.{name}", bias=False) for name in names]
    parts += [linear(f"{at}.{x}") for x in ("attn.attention.out_proj", "mlp.c_fc", "mlp.c_proj")]
    return Layer(*parts, *map(linear, (f"{at}.ln_1", f"{at}.ln_2")))


# --- an ALBERT in an ONNX file, perhaps with int8 matrices

#: The nodes that multiply by a matrix have the module's path in their names.
PRODUCT = r"(?:.*/)?{}/MatMul(?:_quant)?"
ALBERT = "albert_layer_groups.0/albert_layers.0"


def _onnx(file: Path) -> Model:
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise SettingError(f"weights={file}: onnx is not installed; {NEEDS}") from None
    try:
        graph = onnx.load(str(file)).graph
    except Exception as error:  # protobuf's own, by versions
        raise SettingError(f"weights={file}: no whole ONNX file ({error})") from None
    kept = {x.name: x for x in graph.initializer}
    albert = [name for name in kept if ALBERT.replace("/", ".") in name]
    if not albert:
        raise SettingError(f"weights={file}: no ALBERT is in it; no other ONNX model is read")
    before = albert[0].partition("encoder.albert_layer_groups")[0]

    def array(name: str) -> np.ndarray:
        """An initializer; a quantised one times its scale."""
        if name in kept:
            return numpy_helper.to_array(kept[name]).astype(float)
        if f"{name}_quantized" not in kept:
            raise SettingError(f"weights={file}: it has no tensor {name}, which an ALBERT has")
        zero = array(f"{name}_zero_point") if f"{name}_zero_point" in kept else 0.0
        return (array(f"{name}_quantized") - zero) * array(f"{name}_scale")

    def tensor(name: str, optional: bool = False) -> Any:
        if name.endswith(".weight") and "LayerNorm" not in name and "layer_norm" not in name:
            module = name.removesuffix(".weight").replace(".", "/")
            module = re.sub(r"(groups|layers)/0", r"\1.0", module)
            pattern = re.compile(PRODUCT.format(re.escape(module)))
            for node in graph.node:
                if pattern.fullmatch(node.name):
                    return array(node.input[1].removesuffix("_quantized")).T
        return array(before + name)

    shape = next(
        numpy_helper.to_array(kept[name])
        for name in kept
        if name.endswith(f"{ALBERT}/attention/Constant_4_output_0")
    )
    inner = re.compile(rf".*{ALBERT}/ffn(_\d+)?/MatMul(_quant)?")
    config = {
        "num_attention_heads": int(shape.ravel()[0]),
        "num_hidden_layers": sum(bool(inner.fullmatch(node.name)) for node in graph.node),
        "layer_norm_eps": 1e-12,
    }
    return _model("albert", config, tensor)
