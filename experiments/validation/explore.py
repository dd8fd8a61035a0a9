"""How often is what `popgd.explore` conjectures true, and how much of what is true does it find?

    python experiments/validation/explore.py

explores every planted model, near misses among them, and examines each line that it prints: limits,
zeros, multiples of I, what is conserved and what rises against all weights followed by SciPy's
integrator; exponents and saddles against what was planted. Writes figures/explore.csv, .md and
.png. Models that are done are kept in runs/explore and not done again, unless the code changed.
"""

import csv
import hashlib
import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from planted import MODELS, Planted

import popgd
from popgd.explore import words
from popgd.explore.conjecture import Conjecture
from popgd.explore.exploration import Exploration
from popgd.problem.problem import Problem
from popgd.runs import store

FIGURES = Path(__file__).resolve().parents[2] / "figures"
KEPT = Path("runs/explore")
#: SciPy's path: up to this time, at so many times, with this tolerance; and what its numbers are
#: compared to.
TIME, RECORDS, RTOL, SAME = 1e6, 200, 1e-10, 1e-6
#: An exponent that was planted is meant to this share.
EXPONENT = 1e-3


class Referee:
    """All weights of a problem with an exact loss, under its flow by SciPy's integrator."""

    def __init__(self, problem: Problem) -> None:
        from scipy.integrate import solve_ivp

        self.problem = problem
        flat, self.tree = ravel_pytree(problem.start)
        slope = jax.jit(jax.grad(lambda x: problem.exact_of(self.tree(x))[0]))
        times = np.append(0.0, np.geomspace(1e-3, TIME, RECORDS))
        found = solve_ivp(
            lambda t, x: -np.asarray(slope(x)), (0.0, TIME), np.asarray(flat),
            method="LSODA", t_eval=times, rtol=RTOL, atol=1e-13,
        )  # fmt: skip
        self.t, self.x, self.slope = found.t, found.y.T, slope

    def along(self, code: str) -> np.ndarray:
        """A read-out at all times, flat."""
        of = (lambda w: self.problem.exact_of(w)[0]) if code == "exact" else words.read(code)
        return np.asarray(jax.vmap(lambda x: jnp.ravel(of(self.tree(x))))(jnp.asarray(self.x)))


def read_out(each: Conjecture) -> str:
    """The code of a line's read-out."""
    inside = each.line.partition("(")[2]
    if inside.startswith("lambda w: "):
        for end in (", to=", ", like=", ", power=", ", falls=", ", name="):
            if end in inside:
                return inside.removeprefix("lambda w: ").partition(end)[0]
    return "exact"


def kind(each: Conjecture) -> str:
    return each.line.removeprefix("claims.").partition("(")[0]


def name(each: Conjecture) -> str:
    return each.line.rpartition('name="')[2].removesuffix('")') if "name=" in each.line else "loss"


def true(each: Conjecture, planted: Planted, referee: Referee | None) -> bool:
    """Whether a line is true."""
    what, of = kind(each), read_out(each)
    if what in ("grows", "increments_converge"):
        p = planted.grows.get(name(each), np.nan)
        return what != "grows" or bool(abs(each.value - p) <= EXPONENT * abs(p))
    if referee is None:
        return what == "conserved"  # rectified units: their number is planted
    x = referee.along(of)
    scale = max(float(np.max(abs(x))), 1e-3)
    if what == "conserved":
        size = max(float(np.max(referee.x**2)), 1e-3)
        return bool(np.max(abs(x - x[0])) <= SAME * size)
    if what == "stays_zero":
        return bool(np.max(abs(x)) <= SAME)
    if what == "multiple_of_identity":
        n = round(x.shape[1] ** 0.5)
        M = x.reshape(-1, n, n)
        rest = M - np.trace(M, axis1=1, axis2=2)[:, None, None] / n * np.eye(n)
        return bool(np.max(abs(rest)) <= SAME)
    if what == "monotone":
        sign = -1 if "falls=True" in each.line else 1
        return bool(np.min(np.diff(x, axis=0) * sign) >= -SAME * scale)
    if what in ("converges", "loss_limit", "at_rate"):
        to = _limit(each)
        # What falls to 0 like a power of t, and what is planted, SciPy's path need not have reached
        falls = planted.grows.get(name(each), 0.0) < 0
        limit = planted.limits.get(name(each), 0.0 if falls else x[-1])
        near = bool(np.max(abs(limit - to)) <= SAME * scale)
        return near and (what != "at_rate" or _rate(each, referee))
    return False


def _limit(each: Conjecture) -> np.ndarray:
    if kind(each) == "loss_limit":
        return np.array(float(each.line.partition("(")[2].rstrip(")")))
    code = each.line.partition("to=")[2].rpartition(", name=")[0].partition(", rate=")[0]
    return np.ravel(eval(code, {"np": np}))


def _rate(each: Conjecture, referee: Referee) -> bool:
    """Against the distance to the limit on SciPy's path, to 2 %."""
    gap = np.linalg.norm(referee.along(read_out(each)) - _limit(each), axis=1)
    good = np.flatnonzero((gap > 1e-6 * gap[0]) & (referee.t > 0))
    if len(good) < 3:
        return False
    i, j = good[-2:]
    rate = np.log(gap[i] / gap[j]) / (referee.t[j] - referee.t[i])
    return bool(abs(each.value / rate - 1) <= 0.02)


def found_of(must: str, e: Exploration) -> bool:
    """Whether one planted finding was made."""
    what, _, rest = must.partition(" ")
    if must == "saddle":
        return e.saddle
    if must == "plateau":
        return any(f.falling and not f.end for f in e.fixed)
    if must == "symmetry broken":
        return any(not tested.holds for tested in e.structure.tested)
    if rest.endswith(" quantities"):
        return len(e.conserved) == int(rest.partition(" ")[0])
    return any(kind(c) == what and name(c) == rest for c in e.conjectures)


def examined(planted: Planted) -> dict[str, Any]:
    """One model: how much of what is true was found, and which lines are false."""
    began, problem = time.monotonic(), planted.problem()
    e = popgd.explore(problem)
    referee = Referee(problem) if problem.exact is not None else None
    wrong = [c.line for c in e.conjectures if not true(c, planted, referee)]
    if planted.saddle is False and e.saddle:
        wrong.append("a saddle at the end")
    if planted.silent and not e.nothing:
        wrong.append("something, where there is nothing")
    return {
        "lines": len(e.conjectures),
        "must": len(planted.must),
        "missed": [must for must in planted.must if not found_of(must, e)],
        "false": wrong,
        "seconds": round(time.monotonic() - began, 1),
    }


def code_digest() -> str:
    """Of all that an exploration rests on."""
    root = Path(popgd.__file__).parent
    rooms = ("problem", "symmetry", "descent", "claims", "theorem", "explore")
    files = [file for room in rooms for file in sorted((root / room).glob("*.py"))]
    files += [Path(__file__), Path(__file__).with_name("planted.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def results() -> Iterator[tuple[str, dict[str, Any]]]:
    """Of every model, those that are kept first asked for."""
    KEPT.mkdir(parents=True, exist_ok=True)
    digest = code_digest()
    for number, (model, planted) in enumerate(MODELS.items(), 1):
        file = KEPT / f"{hashlib.sha256(model.encode()).hexdigest()[:10]}-{digest}.json"
        if not file.exists():
            store.write(file, json.dumps(examined(planted)).encode())
        row = json.loads(file.read_text())
        said = f"found {row['must'] - len(row['missed'])} of {row['must']}, "
        said += f"{len(row['false'])} of {row['lines']} lines false"
        wrong = [*row["false"], *(f"missed: {must}" for must in row["missed"])]
        print(f"{number:2d}/{len(MODELS)} {row['seconds']:6.1f} s  {model}: {said}", *wrong,
              flush=True)  # fmt: skip
        yield model, row


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    # most of the time is the compiler's, of programs that run once
    jax.config.update("jax_disable_most_optimizations", True)
    rows = dict(results())
    total = lambda of: sum(of(row) for row in rows.values())
    must, missed = total(lambda r: r["must"]), total(lambda r: len(r["missed"]))
    lines, false = total(lambda r: r["lines"]), total(lambda r: len(r["false"]))
    near = sum(planted.near_miss for planted in MODELS.values())
    line = (
        f"{len(rows)} planted models, {near} of them near misses: {must - missed} of {must} "
        f"planted findings found, {false} false among {lines} lines."
    )
    head = ("model", "near miss", "planted", "found", "lines", "false", "what is false or missed")
    table = [
        (model, "yes" if MODELS[model].near_miss else "", row["must"],
         row["must"] - len(row["missed"]), row["lines"], len(row["false"]),
         "; ".join([*row["false"], *(f"missed: {m}" for m in row["missed"])]))
        for model, row in rows.items()
    ]  # fmt: skip
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *table])
    store.write(FIGURES / "explore.csv", text.getvalue().encode())
    shown = [map(str, row) for row in (head, ("---",) * len(head), *table)]
    body = "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in shown
    )
    store.write(FIGURES / "explore.md", f"# Error rate of explore\n\n{line}\n\n{body}\n".encode())
    store.write_picture(FIGURES / "explore.png", picture(rows, line))
    print(line)
    sys.exit(1 if false else 0)


def picture(rows: dict[str, dict[str, Any]], line: str) -> Figure:
    """For each model, bars of what was found, missed and false."""
    figure = Figure(figsize=(8, 0.2 * len(rows) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes, y = figure.subplots(), np.arange(len(rows))[::-1]
    found = np.array([row["must"] - len(row["missed"]) for row in rows.values()])
    missed = np.array([len(row["missed"]) for row in rows.values()])
    false = np.array([len(row["false"]) for row in rows.values()])
    axes.barh(y, found, color="#0072B2", label="planted and found")
    axes.barh(y, missed, left=found, color="#999999", label="planted and missed")
    axes.barh(y, -false, color="#D55E00", label="false")
    names = [f"{model} *" if MODELS[model].near_miss else model for model in rows]
    axes.set_yticks(y, names, fontsize=7)
    axes.set(xlabel="findings; * near misses", title=line)
    axes.title.set_fontsize(8)
    axes.legend(fontsize=7, loc="lower right")
    return figure


if __name__ == "__main__":
    main()
