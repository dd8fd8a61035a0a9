"""The map of the theorems: more than two hundred settings, every one with its outcome, every claim
with its own, and why.

    python experiments/sweep.py [RUNS_DIR]

judges what is not yet judged in RUNS_DIR (default runs/sweep), one directory a setting, so that the
same command goes on after a break; then writes figures/sweep.png, .svg, .json and the table
figures/sweep.md. Settings outside a theorem's hypotheses, with steps that are too large and with
statements known to be false are among them on purpose. About an hour and a quarter on two cores.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import FIGURES, save
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from popgd.descent.budget import Budget
from popgd.descent.memory import Memory
from popgd.problem.errors import SettingError
from popgd.runs import digest, store
from popgd.theorem.plot import BLUE, GREY, ORANGE
from popgd.theorem.report import Report, check_setting, find_theorem, resolve
from popgd.theorem.verdict import Claim, Outcome, overall

#: Enough samples that every claim can tell on a mild spectrum.
SIZES = {"samples": 2**14, "sampled_steps": 64, "batch": 512}
#: The budget of each setting.
SECONDS = 60.0
NOTHING = Claim("", "", "", "", None, None, None, None, None, None, Outcome.SUPPORTED, "")
#: What a refused setting, or one without a claim, is shown as.
REFUSED = "REFUSED"
OUTCOMES = ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "NOT APPLICABLE", "NOT TRUSTED", REFUSED)
WORST = ("REFUTED", "INCONCLUSIVE", "NOT APPLICABLE", "SUPPORTED")
COLOURS = (BLUE, ORANGE, GREY, "#dddddd", "red", "black")
CAVEAT = (
    "`gatmiry.minimiser-all`, `gatmiry.flow-transcribed` and `gatmiry.loops-mean` are statements "
    "that popgd holds to be false; "
    "for 4.2 the step size 1 is beyond its bound, and n = d + 1 and spectra of one value are "
    "outside all hypotheses."
)
#: Settings that a row of the table tells.
TOLD = ("law", "d", "n", "spectrum", "covariance", "L", "eta", "init", "target")

#: d = 3, n = 6: simple, double and triple largest eigenvalue, double smallest, condition 600 and
#: 6e4.
THREE = ([3, 2, 1], [4, 1, 1], [2.5, 2.5, 1], [2, 2, 2], [5.9, 0.09, 0.01], [5.9989, 0.001, 0.0001])
#: Of other sizes; those of MORE for Theorem 4.1 alone.
OTHERS = ([3, 1], [2, 2], [3.96, 0.04], [8, 5, 4, 2, 1], [16, 1, 1, 1, 1], [4, 4, 4, 4, 4])
MORE = ([8, 8, 2, 1, 1], [6, 4, 3, 2, 1, 1, 1, 1], [5, 5, 5, 1, 1, 1, 1, 1])
#: d and n of uniform columns; the theorems want n >= d + 2.
UNIFORM = ((2, 3), (3, 4), (5, 6), (2, 4), (2, 20), (5, 20))
#: Larger sizes, of both laws: d, n and what is drawn there (a sample costs some d^3).
LARGER = (
    (20, 80, {}),
    (50, 200, {"sampled_steps": 32, "batch": 128}),
)
#: L and n of most of the second paper's theorems.
IN_CONTEXT = ((2, 1000),)
#: Step sizes by the block that starts at I: that of the law, small ones, and one too large for
#: Theorem 4.2.
STEPS = {"P21": ("auto", 0.02, 0.1, 1.0), "Q12": ("auto", 1.0)}


def slowly_falling(d: int, n: int) -> list[float]:
    """d eigenvalues in proportion to 1/k, k = 1 ... d, with the sum n."""
    falling = 1 / np.arange(1, d + 1)
    return [float(x) for x in n * falling / falling.sum()]


def settings() -> Iterator[dict[str, Any]]:
    """Those with the same shapes follow one another, so that what was compiled for one serves the
    next.
    """
    for theorem, loops in (("4.1", ({"L": 2}, {"L": 1}, {"L": 8})), ("4.3", ({},)), ("4.2", ({},))):
        targets = (
            ({"target": "normalised"}, {"target": "unnormalised"}) if theorem == "4.2" else ({},)
        )
        for spectrum, init, target in itertools.product(THREE, STEPS, targets):
            for eta in STEPS[init]:
                yield {
                    "theorem": theorem,
                    **loops[0],
                    "spectrum": spectrum,
                    "init": init,
                    "eta": eta,
                    **target,
                }
        for shape, spectrum in itertools.product(loops[1:], THREE):
            yield {"theorem": theorem, **shape, "spectrum": spectrum}
        for spectrum in (*OTHERS, *(MORE if theorem == "4.1" else ())):
            yield {"theorem": theorem, **loops[0], "spectrum": spectrum}
        for d, n in UNIFORM:
            yield {"theorem": theorem, **loops[0], "law": "uniform", "d": d, "n": n, "spectra": 8}
        for d, n, sizes in LARGER:
            for law in ({"law": "uniform", "d": d, "n": n}, {"spectrum": slowly_falling(d, n)}):
                yield {"theorem": theorem, **loops[0], **law, **sizes}
    for L, n in ((1, 10), (2, 10)):
        yield {
            "theorem": "gatmiry.minimiser",
            "d": 2,
            "n": n,
            "covariance": [1.5, 0.5],
            "L": L,
            "samples": 2**14,
            "batch": 768,
        }
    for theorem in (
        "dominance",
        "flow",
        "flow-transcribed",
        "loops",
        "loops-mean",
        "ood",
        "minimiser-all",
    ):
        for L, n in (
            ((2, 10**9), *IN_CONTEXT) if theorem.startswith("flow") else IN_CONTEXT
        ):  # theirs is n = infinity
            yield {"theorem": f"gatmiry.{theorem}", "d": 4, "n": n, "L": L}


def judge(values: dict[str, Any], runs: Path) -> dict[str, Any]:
    """The report of one setting, from its directory if it is there: what report.json holds."""
    told = {name: value for name, value in values.items() if name in ("theorem", *TOLD)}
    try:
        setting = resolve({**SIZES, **values})
    except SettingError as error:
        return {
            "theorem": values["theorem"],
            "settings": told,
            "outcome": REFUSED,
            "reason": str(error),
            "claims": [],
            "self_checks": [],
        }
    path = runs / store.run_name(setting.describe())
    verdict = digest.of(find_theorem(setting.theorem))["verdict"]
    with store.claimed(path, setting.describe(), verdict) as stored:
        if stored is None or not store.holds(stored, verdict):
            stored = json.loads(json.dumps(store.content_of(judged(setting)), allow_nan=False))
            store.write(path / store.REPORT, json.dumps(stored, indent=1).encode())
    return stored


def judged(setting: Any) -> Report:
    return check_setting(setting, memory=Memory(Budget(SECONDS)))


def why(claim: dict[str, Any], report: dict[str, Any]) -> str:
    """Why a claim is not SUPPORTED: what excused it, or its numbers."""
    if claim["outcome"] == "NOT APPLICABLE" or (
        claim["reason"] and claim["reason"] in report["reason"]
    ):
        return claim["reason"]
    if claim["outcome"] == "REFUTED":
        return (
            f"{claim['measured']:.10g} was measured, {claim['predicted']:.10g} predicted, "
            f"error {claim['error']:.2g}"
        )
    if claim["detectable"] is None or claim["resolution"] is None:
        return "not a finite number"
    return f"a gap of {claim['detectable']:.2g} would be seen, {claim['resolution']:.2g} is wanted"


def row(number: int, report: dict[str, Any]) -> dict[str, Any]:
    """One line of the table: the setting, its outcome, every claim's, and why it is not
    SUPPORTED.
    """
    told = {
        name: report["settings"][name] for name in TOLD if report["settings"].get(name) is not None
    }
    claims = {claim["id"]: claim for claim in (*report["claims"], *report["self_checks"])}
    checks = {check["id"]: check["outcome"] for check in report["self_checks"]}
    reasons = {
        name: why(claim, report)
        for name, claim in claims.items()
        if claim["outcome"] != "SUPPORTED"
    }
    outcomes = {name: claim["outcome"] for name, claim in claims.items()}
    # As where popgd's checks of itself count as claims
    joint = (
        str(overall([replace(NOTHING, outcome=Outcome(x)) for x in outcomes.values()]))
        if outcomes
        else report["outcome"]
    )
    return {
        "number": number,
        "theorem": report["theorem"],
        "settings": told,
        "outcome": report["outcome"],
        "reason": report["reason"],
        "claims": outcomes,
        "why": reasons,
        "checks": checks,
        "joint": joint,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """All rows in Markdown, after the counts by theorem."""
    lines = [
        "# The theorems over many settings",
        "",
        "By `python experiments/sweep.py`; nothing is left out.",
        "",
        CAVEAT,
        "",
    ]
    lines += [
        "| theorem | settings | " + " | ".join(OUTCOMES) + " |",
        "| --- " * (2 + len(OUTCOMES)) + "|",
    ]
    for theorem, group in itertools.groupby(rows, key=lambda r: r["theorem"]):
        found = [r["outcome"] for r in group]
        lines.append(
            f"| {theorem} | {len(found)} | "
            + " | ".join(str(found.count(o)) for o in OUTCOMES)
            + " |"
        )
    unsure = sum("INCONCLUSIVE" in r["checks"].values() for r in rows)
    lines += [
        "",
        f"A check of popgd itself is INCONCLUSIVE in {unsure} of {len(rows)} settings. "
        "Counted as claims they make "
        + ", ".join(f"{sum(r['joint'] == o for r in rows)} {o}" for o in OUTCOMES)
        + ".",
    ]
    lines += [
        "",
        "| number | theorem | setting | outcome | claims supported | the others, and why |",
        "| --- " * 6 + "|",
    ]
    for r in rows:
        setting = " ".join(f"{name}={_short(value)}" for name, value in r["settings"].items())
        supported = sum(outcome == "SUPPORTED" for outcome in r["claims"].values())
        same: dict[tuple[str, str], list[str]] = {}
        for name, reason in r["why"].items():
            same.setdefault((r["claims"][name], reason), []).append(name)
        others = "; ".join(
            f"*{', '.join(names)}* {outcome}: {reason}" for (outcome, reason), names in same.items()
        )
        others = others or ("" if r["outcome"] == "SUPPORTED" else r["reason"])
        lines.append(
            f"| {r['number']} | {r['theorem']} | {setting} | {r['outcome']} | "
            f"{supported} of {len(r['claims'])} | "
            f"{others.replace('|', '/')} |"
        )
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_short(x) for x in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def worst(row: dict[str, Any], claim: str) -> str | None:
    """The outcome of a claim, the worse one where it is judged for both targets."""
    found = [outcome for name, outcome in row["claims"].items() if name.partition("@")[0] == claim]
    return next((outcome for outcome in WORST if outcome in found), None)


def picture(rows: list[dict[str, Any]]) -> Figure:
    """A panel for each theorem of the first paper and one for the second: settings to the right,
    claims down.
    """
    panels = [[r for r in rows if r["theorem"] == name] for name in ("4.1", "4.2", "4.3")]
    panels.append([r for r in rows if r["theorem"].startswith("gatmiry")])
    names = [
        list(dict.fromkeys(name.partition("@")[0] for r in panel for name in r["claims"]))
        for panel in panels
    ]
    figure = Figure(figsize=(14, 0.17 * sum(map(len, names)) + 5), layout="constrained")
    axes = figure.subplots(len(panels), height_ratios=[len(n) + 2 for n in names])
    colours = ListedColormap(["white", *COLOURS])
    for axis, panel, claims in zip(axes, panels, names, strict=True):
        cells = [[1 + OUTCOMES.index(r["outcome"]) for r in panel], [0] * len(panel)]
        found = [[worst(r, name) for r in panel] for name in claims]
        cells += [
            [0 if outcome is None else 1 + OUTCOMES.index(outcome) for outcome in line]
            for line in found
        ]
        axis.pcolormesh(
            cells,
            cmap=colours,
            vmin=-0.5,
            vmax=len(COLOURS) + 0.5,
            edgecolors="white",
            linewidth=0.4,
            rasterized=True,
        )
        axis.set_yticks(
            [0.5, *(i + 2.5 for i in range(len(claims)))], ["outcome", *claims], fontsize=7
        )
        ticks = range(0, len(panel), 10)
        axis.set_xticks([i + 0.5 for i in ticks], [panel[i]["number"] for i in ticks], fontsize=8)
        theorem = panel[0]["theorem"]
        axis.set_title(
            f"{'gatmiry.*' if theorem[0] == 'g' else 'Theorem ' + theorem}: {len(panel)} settings",
            loc="left",
            fontsize=10,
        )
        axis.invert_yaxis()
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    axes[-1].set_xlabel("number of the setting in sweep.md")
    from matplotlib.patches import Patch

    handles = [
        Patch(color=colour, label=outcome.lower())
        for outcome, colour in zip(OUTCOMES, COLOURS, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False)
    return figure


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/sweep")
    # Many settings have programs in common: each is compiled once.
    jax.config.update("jax_compilation_cache_dir", str(runs.absolute() / ".compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    rows, every, began = [], list(settings()), time.process_time()
    for number, values in enumerate(every, 1):
        report = judge(values, runs)
        rows.append(row(number, report))
        print(
            f"{number}/{len(every)} {time.process_time() - began:.0f} s {values} "
            f"{report['outcome']}",
            flush=True,
        )
        if number % 20 == 0:
            jax.clear_caches()
    store.write(FIGURES / "sweep.md", table(rows).encode())
    save(picture(rows), "sweep", rows)


if __name__ == "__main__":
    main()
