"""Does what runs on CPUs run on an accelerator, with the same numbers? `python experiments/gpu.py`

Where JAX sees an accelerator: the gradient of every block on it and on the CPU from the same
samples, in float64 and in float32; the same seed twice, and in other chunks; Theorem 4.1 from the
command line's code. Writes figures/gpu.json and figures/gpu.md, and ends with exit code 1 if a
promise is broken. Where there is none, it says so, writes nothing and ends with exit code 0.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import FIGURES

from popgd import check, population_gradient
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.model import Active, embed
from popgd.papers.power_method.objectives import SubspaceDistance

#: d, n, L and samples of the gradients.
SIZES = ((5, 20, 3, 2**16), (10, 50, 3, 2**15), (20, 100, 2, 2**14))
#: A mean of the same samples may differ by rounding: of a sample some hundred units, by the format.
ROUNDING = {"float64": 1e-12, "float32": 1e-4}
#: Tells the process that computes on the CPU where to leave its numbers.
KEEP = "POPGD_GPU_KEEP"
THEOREM = {"theorem": "4.1", "L": 2, "samples": 2**15}


def gradients() -> dict[str, np.ndarray]:
    """What is asked of both: mean gradients, by size and format; again; and in other chunks."""
    found = {}
    for d, n, L, samples in SIZES:
        spectrum = n * np.arange(d, 0, -1) / (d * (d + 1) / 2)
        law = Rotated.with_spectrum([float(x) for x in spectrum])
        for dtype in ROUNDING:
            weights = embed(jnp.asarray(2.0, dtype), jnp.asarray(0.25, dtype), d)
            for what, chunk in (("", None), (" again", None), (" in chunks of 16", 16)):
                began = time.perf_counter()
                estimate = population_gradient(
                    SubspaceDistance(L), weights, law, jax.random.key(1), samples, Active(d), chunk
                )
                flat = [np.asarray(x, dtype=float).ravel() for x in jax.tree.leaves(estimate.mean)]
                name = f"d={d} n={n} L={L} {dtype}{what}"
                found[name] = np.concatenate(flat)
                found[f"{name}: seconds"] = np.array(time.perf_counter() - began)
    return found


def on_cpu() -> dict[str, np.ndarray]:
    """The same by a process that sees the CPU alone."""
    with tempfile.TemporaryDirectory() as where:
        kept = Path(where) / "cpu.npz"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", KEEP: str(kept)}
        subprocess.run([sys.executable, __file__], env=environment, check=True)
        with np.load(kept) as found:
            return dict(found)


def promises(here: dict[str, np.ndarray], there: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Each promise with what was seen."""
    rows = []

    def promise(what: str, name: str, gap: float, most: float) -> None:
        rows.append({"promise": what, "of": name, "gap": gap, "at most": most,
                     "kept": bool(gap <= most)})  # fmt: skip

    for name in here:
        dtype = next((dtype for dtype in ROUNDING if name.endswith(dtype)), None)
        if dtype is None:
            continue
        x, scale = here[name], np.max(abs(here[name]))
        gap = lambda other, x=x, scale=scale: float(np.max(abs(other - x)) / scale)
        promise("the numbers of the CPU, but for rounding", name, gap(there[name]), ROUNDING[dtype])
        promise("the same bits for the same seed", name, gap(here[f"{name} again"]), 0.0)
        promise("other chunks, but for rounding", name, gap(here[f"{name} in chunks of 16"]),
                ROUNDING[dtype])  # fmt: skip
    return rows


def main() -> int:
    jax.config.update("jax_enable_x64", True)
    if os.environ.get(KEEP):
        np.savez(os.environ[KEEP], **gradients())  # pyright: ignore
        return 0
    accelerators = [device for device in jax.devices() if device.platform != "cpu"]
    if not accelerators:
        print(
            f"no accelerator here: JAX {jax.__version__} sees {len(jax.devices())} CPU device(s) "
            "alone. Nothing was run, nothing is written."
        )
        return 0
    machine = f"{len(accelerators)} x {accelerators[0].device_kind}, JAX {jax.__version__}"
    print(machine, flush=True)
    rows = promises(here := gradients(), there := on_cpu())
    began = time.perf_counter()
    report = check(**THEOREM)
    seconds = time.perf_counter() - began
    outcome = str(report.outcome)
    rows.append({"promise": "Theorem 4.1 comes out SUPPORTED", "of": outcome,
                 "gap": 0.0, "at most": 0.0, "kept": outcome == "SUPPORTED"})  # fmt: skip
    timed = [name for name in here if "seconds" in name]
    times = {name: [float(x[name]) for x in (here, there)] for name in timed}
    kept = {"machine": machine, "promises": rows, "seconds here and on the CPU": times,
            "theorem 4.1 seconds": seconds, "settings": THEOREM}  # fmt: skip
    (FIGURES / "gpu.json").write_text(json.dumps(kept, indent=1) + "\n")
    lines = [f"`python experiments/gpu.py`, {machine}. Theorem 4.1: {seconds:.0f} s.", ""]
    lines += ["| promise | of | gap | at most | kept |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {r['promise']} | {r['of']} | {r['gap']:.2g} | {r['at most']:.2g} | "
        f"{'yes' if r['kept'] else 'NO'} |"
        for r in rows
    ]
    (FIGURES / "gpu.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0 if all(row["kept"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
