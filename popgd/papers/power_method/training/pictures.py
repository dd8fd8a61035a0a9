"""Pictures of a study of descent on the manifold: the weights, the growth of a, b, c, the
increments, the loss.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from popgd.theorem.plot import BLACK, BLUE, GREEN, GREY, ORANGE


def figures(study: Any, title: str) -> dict[str, Figure]:
    makers = {"weights": weights, "growth": growth, "increments": increments, "loss": loss}
    return {name: make(study, title) for name, make in makers.items()}


def weights(study: Any, title: str) -> Figure:
    """Heat maps of P and Q at the end of the raw descent, in the same colours."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    step, pair = study.raw.step[-1], figure.subplots(1, 2)
    both = [getattr(study.raw.weights, name)[-1] for name in "PQ"]
    top = max(float(np.abs(values).max()) for values in both) or 1.0
    for axes, name, values in zip(pair, "PQ", both, strict=True):
        image = axes.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top)
        half = values.shape[0] / 2 - 0.5
        axes.axhline(half, color=BLACK, lw=0.6)
        axes.axvline(half, color=BLACK, lw=0.6)
        axes.set(title=f"{name} after {step} raw Monte Carlo steps", xticks=[], yticks=[])
    figure.colorbar(image, ax=list(pair), shrink=0.85)
    figure.suptitle(f"{title}: largest entry of an inactive block {study.raw.inactive[-1]:.2g}")
    return figure


def growth(study: Any, title: str) -> Figure:
    """log-log growth of a, b, c: the exact descent as lines, the projected Monte Carlo one as
    dots.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    records, run = study.exact.records, study.projected
    a, b = records.weights
    seen_a, seen_b = run.coordinates.T
    seen_c = seen_a * seen_b
    late = records.step > 0
    for name, exact, seen, colour in (
        ("$c_t = a_t b_t$", records.c, seen_c, BLUE),
        ("$a_t$", a, seen_a, ORANGE),
        ("$b_t$", b, seen_b, GREEN),
    ):
        axes.loglog(records.step[late], exact[late], color=colour, label=f"{name}, exact")
        axes.loglog(run.step[1:], seen[1:], ".", color=colour, ms=5, label=f"{name}, Monte Carlo")
    power = study.exact.power
    if power:
        t = records.step[late].astype(float)
        line = records.c[-1] * (t / t[-1]) ** (1 / power)
        axes.loglog(t, line, "--", color=GREY, lw=1, label=f"$t^{{1/{power}}}$")
    else:
        axes.axhline(
            float(study.exact.curve.c_star().value), ls="--", color=GREY, lw=1, label="$c^*$"
        )
    axes.set(xlabel="gradient step t", ylabel="active weights", title=title)
    axes.legend(fontsize=8, ncols=2)
    return figure


def increments(study: Any, title: str) -> Figure:
    """Increments of c^p against their predicted constant, or |c - c*| where c converges."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    records, run, power = study.exact.records, study.projected, study.exact.power
    c = np.prod(run.coordinates, axis=1)
    if power:
        constant = (
            2
            * power
            * study.setting.eta
            * float(study.exact.curve.constant().value)
            / study.setting.law.d
        )
        step = records.dc2 if power == 2 else records.dc3
        axes.semilogx(
            records.step[1:],
            step[1:],
            color=BLUE,
            label=f"$c_{{t+1}}^{power} - c_t^{power}$, exact",
        )
        seen = run.step >= 10
        middle = np.sqrt(run.step[seen][1:] * run.step[seen][:-1].astype(float))
        mean = np.diff(c[seen] ** power) / np.diff(run.step[seen])
        axes.semilogx(middle, mean, ".", color=ORANGE, label="Monte Carlo, mean between records")
        axes.axhline(constant, ls="--", color=GREY, label=f"limit {constant:.6g}")
        top = max(float(np.max(step[records.step >= 10], initial=0.0)), constant)
        axes.set(ylim=(0, 1.6 * top), ylabel=f"increment of $c^{power}$")
    else:
        star = float(study.exact.curve.c_star().value)
        late = abs(records.c - star) > 1e-15
        axes.loglog(
            records.step[late] + 1,
            abs(records.c - star)[late],
            color=BLUE,
            label="$|c_t - c^*|$, exact",
        )
        axes.loglog(
            run.step + 1, abs(c - star), ".", color=ORANGE, label="$|c_t - c^*|$, Monte Carlo"
        )
        axes.set(ylabel="distance from the limit")
    axes.set(xlabel="gradient step t" if power else "gradient step t + 1", title=title)
    axes.legend(fontsize=8)
    return figure


def loss(study: Any, title: str) -> Figure:
    """The population loss: exact along the exact descent, sampled along the projected one, and its
    limit.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    records, run, curve = study.exact.records, study.projected, study.exact.curve
    axes.plot(records.step + 1, study.exact.losses, color=BLUE, label="exact")
    axes.errorbar(
        run.step + 1,
        run.loss,
        2 * run.loss_stderr,
        fmt=".",
        color=ORANGE,
        ms=4,
        lw=0.8,
        label="Monte Carlo, 2 se",
    )
    limit = float(curve.limit().value)
    if limit > 0:
        axes.axhline(limit, ls="--", color=GREY, label=f"limit {limit:.6g}")
    axes.set(xscale="log", xlabel="gradient step t + 1", ylabel="population loss", title=title)
    if limit == 0:
        axes.set_yscale("log")
    axes.legend(fontsize=8)
    return figure
