"""How fast popgd is, on this machine, against its targets: `python experiments/benchmark.py` (ten
minutes).

The gradient (benchmark_gradient.py), what the structured one gains (benchmark_structured.py), the
exact engine (benchmark_exact.py), cold start and memory (benchmark_process.py). For the column of
PyTorch: pip install -e ".[bench]". Writes figures/benchmark.md, .json, .png and .svg. Rates are for
a machine that does nothing else; ratios are taken side by side in one run.
"""

import os
import platform
from collections.abc import Iterator
from typing import Any

import jax

jax.config.update("jax_num_cpu_devices", os.cpu_count())

import benchmark_exact  # noqa: E402
import benchmark_gradient  # noqa: E402
import benchmark_process  # noqa: E402
import benchmark_profile  # noqa: E402
import benchmark_structured  # noqa: E402
from benchmark_figure import draw  # noqa: E402
from common import FIGURES, save  # noqa: E402

from popgd.runs import store  # noqa: E402

#: At least this many times as fast as PyTorch in float32; at no size less than LEAST_RATIO.
RATIOS, LEAST_RATIO = {(10, 50, 3): 3.5, (20, 100, 3): 4.0}, 1.5
#: At least this share of the rate of a large product.
SHARES = {(20, 100, 3): 0.60, (50, 200, 2): 0.85}
SAMPLER, STEP_SECONDS, COLD, CACHED, BYTES, FLAT = 0.20, 60.0, 20.0, 10.0, 1e9, 1.05

Target = tuple[str, str, str, bool | None]


def size(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["d"], row["n"], row["L"]


def gradient_targets(rows: list[dict[str, Any]]) -> Iterator[Target]:
    """(target, wanted, measured, met); None where there is no PyTorch to compare with."""
    single = {size(row): row for row in rows if row["dtype"] == "float32"}
    ratios = {
        at: row["seconds"].get("PyTorch", 0) / row["seconds"]["popgd"] for at, row in single.items()
    }
    known = any(ratios.values())
    wanted = {**dict.fromkeys(ratios, LEAST_RATIO), **RATIOS}
    for at, least in wanted.items():
        shown = f"{ratios[at]:.2f}x" if known else "PyTorch is not installed"
        yield (
            f"against PyTorch at {at}, float32",
            f"{least:g}x",
            shown,
            ratios[at] >= least if known else None,
        )
    for at, least in SHARES.items():
        for count in ("plain", "executed"):
            share = single[at][f"{count} rate"] / single[at]["gemm"]
            yield (
                f"share of the GEMM rate at {at}, float32, {count} count",
                f"{least:.0%}",
                f"{share:.0%}",
                share >= least,
            )
    for row in rows:
        yield (
            f"share of the sampler at {size(row)}, {row['dtype']}",
            f"at most {SAMPLER:.0%}",
            f"{row['sampler']:.0%}",
            row["sampler"] <= SAMPLER,
        )


def targets(found: dict[str, Any]) -> list[Target]:
    steps, start, memory = found["exact"]["steps"], found["cold start"], found["memory"]
    judged = list(gradient_targets(found["gradient"]))
    seconds, cores = steps["single seconds"], steps["single cores"]
    judged.append(
        (
            "10^8 exact steps, one core",
            f"{STEP_SECONDS:g} s",
            f"{seconds:.1f} s on {cores:.2f} cores",
            seconds * max(1.0, cores) <= STEP_SECONDS,
        )
    )
    for name, most in (("cold", COLD), ("cached", CACHED)):
        one = start[name]
        shown = f"{one['seconds']:.1f} s, exit code {one['code']}"
        judged.append(
            (
                f"theorem=4.1 to its verdict, {name}",
                f"{most:g} s",
                shown,
                one["seconds"] < most and one["code"] == 0,
            )
        )
    peaks = [row["bytes"] for row in memory]
    judged.append(
        (
            "memory, batch 2^12 to 2^22",
            "flat, under 1 GB",
            f"{peaks[0] / 1e6:.0f} to {peaks[-1] / 1e6:.0f} MB",
            peaks[-1] < BYTES and peaks[-1] < FLAT * peaks[0],
        )
    )
    return judged


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "",
        " | ".join(["", *head, ""]).strip(),
        "|" + " --- |" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def gradient_text(rows: list[dict[str, Any]]) -> list[str]:
    names = [name for name in rows[0]["seconds"] if name != "popgd"]
    head = [
        "d, n, L",
        "format",
        "popgd",
        *names,
        "GEMM, GFLOP/s",
        "plain count",
        "executed",
        "sampler",
    ]
    lines = []
    for row in rows:
        own = row["seconds"]["popgd"]
        each = [
            f"{row['seconds'][name]:.3g} s ({row['seconds'][name] / own:.2f}x)" for name in names
        ]
        rates = [
            f"{row[f'{count} rate'] / 1e9:.0f} ({row[f'{count} rate'] / row['gemm']:.0%})"
            for count in ("plain", "executed")
        ]
        lines.append(
            [
                ", ".join(map(str, size(row))),
                row["dtype"],
                f"{own:.3g} s",
                *each,
                f"{row['gemm'] / 1e9:.0f}",
                *rates,
                f"{row['sampler']:.0%}",
            ]
        )
    return table(head, lines)


def profile_text(rows: list[dict[str, Any]]) -> list[str]:
    rows = [row for row in rows if "profile" in row]
    lines = [
        [", ".join(map(str, size(row))), *(f"{value:.2g} s" for value in row["profile"].values())]
        for row in rows
    ]
    says = (
        "What limits it, float32. First three columns: the sampler, whose QR is LAPACK's, one "
        "small call a sample. Then the "
    )
    says += (
        "gradient: its products if they ran like a large one, the standard errors, and what "
        "small matrices cost beyond that."
    )
    return [says, *table(["d, n, L", *rows[0]["profile"]], lines)]


def structured_text(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        [
            row["law"],
            row["objective"],
            f"{row['gain over full']:.3g}x",
            f"{row['gain over one query']:.3g}x",
        ]
        for row in rows
    ]
    head = ["law", "objective", "against the full gradient", "against one query a sample"]
    return [
        "## Gradient along the manifold, the same error",
        "",
        *(benchmark_structured.__doc__ or "").strip().splitlines(),
        "",
        "How many times as fast:",
        *table(head, lines),
    ]


def exact_text(exact: dict[str, Any]) -> list[str]:
    lines = [
        [
            str(r["d"]),
            str(r["L"]),
            str(r["nodes"]),
            f"{r['seconds'] * 1e6:.1f} us",
            f"{r['bound']:.0e}",
        ]
        for r in exact["slopes"]
    ]
    text = table(["d", "L", "nodes", "one l'(c) with its bound", "largest bound, relative"], lines)
    steps, digits = exact["steps"], exact["digits"]
    text += [
        f"Steps a second: {steps['single rate'] / 1e6:.1f} million, "
        f"{benchmark_exact.VMAPPED} descents at once "
        f"{steps['vmapped rate'] / 1e6:.1f} million in all."
    ]
    sampled = [["Monte Carlo", f"{float(error):.0e}", f"{seconds:.1e} s"]
               for error, seconds in digits["Monte Carlo seconds to"].items()]  # fmt: skip
    exactly = [["exact", f"{digits['exact bound']:.0e}", f"{digits['exact seconds']:.1e} s"]]
    text += table(["l'(c) at d = 5, L = 3", "relative error", "time"], sampled + exactly)
    note = (
        f"Monte Carlo from one run ({digits['Monte Carlo error']:.1e} in "
        f"{digits['Monte Carlo seconds']:.2f} s), by the root of "
    )
    return [
        *text,
        note
        + f"its samples; the first exact call compiles for {digits['exact first call']:.1f} s.",
    ]


def process_text(found: dict[str, Any]) -> list[str]:
    parts = ("import", "trace", "compile", "run")
    times = ("seconds", "processors", *parts)
    start = [
        [
            name,
            *(f"{one[part]:.1f} s" for part in times),
            f"{one['loops']:.1f}",
            str(one["programs"]),
        ]
        for name, one in found["cold start"].items()
    ]
    text = [
        f"Loops: the time of processors in that of {benchmark_process.ROUNDS:,} rounds of a plain "
        "loop of Python."
    ]
    text += table(
        ["theorem=4.1", "in all", "processors", *parts, "loops", "programs compiled or read"], start
    )
    longest = [
        [f"`{name}`", str(count), f"{total:.1f} s"]
        for name, (count, total) in found["cold start"]["cold"]["functions"].items()
    ]
    text += [
        "What the cold start compiles longest:",
        *table(["function", "programs", "compile"], longest),
    ]
    memory = [
        [
            f"2^{row['batch'].bit_length() - 1}",
            f"{row['bytes'] / 1e6:.0f} MB",
            f"{row['seconds']:.1f} s",
        ]
        for row in found["memory"]
    ]
    return text + table(["batch", "peak memory of the process", "time"], memory)


def report(found: dict[str, Any], judged: list[Target]) -> str:
    met = {True: "met", False: "**not met**", None: "not judged"}
    lines = [
        "# How fast popgd is",
        "",
        f"{found['machine']}. Medians of interleaved repeats; `python experiments/benchmark.py`.",
        "",
    ]
    lines += [
        "## Targets",
        *table(["target", "wanted", "measured", ""], [[*row[:3], met[row[3]]] for row in judged]),
    ]
    lines += [
        "## Gradient of every block, batch 4,096",
        "",
        *(benchmark_gradient.__doc__ or "").strip().splitlines()[2:],
    ]
    lines += [
        "",
        "Seconds a gradient, and how many times as long as popgd on given samples; the NumPy loop "
        "is forward only.",
    ]
    lines += [
        *gradient_text(found["gradient"]),
        *profile_text(found["gradient"]),
        *structured_text(found["structured"]),
        "## Exact engine",
        *exact_text(found["exact"]),
        "",
    ]
    return "\n".join([*lines, "## Cold start and memory", *process_text(found)])


def machine() -> str:
    load = os.getloadavg()[0]
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before the run, JAX "
        f"{jax.__version__}"
        + (f", PyTorch {benchmark_gradient.torch.__version__}" if benchmark_gradient.torch else "")
    )


def main() -> None:
    found: dict[str, Any] = {"machine": machine()}
    found["cold start"] = benchmark_process.cold_start()
    found["memory"] = benchmark_process.memory()
    found["exact"] = benchmark_exact.measure()
    found["gradient"] = benchmark_gradient.measure()
    benchmark_profile.measure(found["gradient"])
    found["structured"] = benchmark_structured.measure()
    judged = targets(found)
    found["targets"] = judged
    text = report(found, judged)
    store.write(FIGURES / "benchmark.md", text.encode())
    save(draw(found), "benchmark", found)
    print(text)


if __name__ == "__main__":
    main()
