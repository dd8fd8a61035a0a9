"""`explore=true` on the command line: which problem is meant, and what is found of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from popgd.explore.exploration import Exploration
from popgd.explore.exploring import explore
from popgd.problem.errors import SettingError
from popgd.problem.problem import Problem
from popgd.runs import files, store
from popgd.theorem import settings as config
from popgd.theorem.base import Progress
from popgd.theorem.problems import is_about_a_problem
from popgd.theorem.report import find_theorem, resolve

#: Settings that a Problem without a theorem takes.
PLAIN = ("eta", "steps", "seed", "samples")


def explored(values: Mapping[str, str], progress: Progress) -> Exploration:
    """What is found of the problem of a theorem, with its settings, or of the one Problem in a
    file. Raises SettingError for anything else, and for several.
    """
    given = values["theorem"]
    bare = files.problem_in(given)
    if bare is not None:
        return _of_problem(bare, values, progress)
    found = files.expand([given])
    if len(found) > 1:
        names = ", ".join(word.rpartition(":")[2] for word in found)
        raise SettingError(
            f"{given} holds several theorems ({names}): name one, as in theorem={given}:"
            f"{found[0].rpartition(':')[2]} explore=true"
        )
    name = files.named(found[0])
    if not is_about_a_problem(find_theorem(name)):
        raise SettingError(
            f"Theorem {name} is not about a Problem: explore=true takes theorems made by "
            "popgd.about, or a Problem in a file of yours"
        )
    setting = resolve({**values, "theorem": name})
    theorem = find_theorem(name)
    flow = bool(theorem.study.keywords["flow"])  # pyright: ignore
    return explore(setting.law.problem, eta=setting.eta, steps=setting.steps, flow=flow,
                   seed=setting.seed, **_samples(values), progress=progress)  # fmt: skip


def save(found: Exploration, settings: Mapping[str, str], out: str | None) -> Path:
    """Write what was found, and its pictures; the directory, by default runs/explore-FILE-HASH."""
    name = store.run_name({**settings, "theorem": f"explore-{Path(settings['theorem']).name}"})
    path = Path(out) if out else Path("runs") / name
    path.mkdir(parents=True, exist_ok=True)
    for name, figure in found.figures().items():
        store.write_picture(path / f"{name}.png", figure)
    store.write(path / "exploration.txt", str(found).encode())
    return path


def _samples(values: Mapping[str, str]) -> dict[str, int]:
    """`samples`, if it was given: a theorem's own number is for its gradients."""
    read = config.read({k: v for k, v in values.items() if k == "samples"}, {})
    return {"samples": read["samples"]} if "samples" in read else {}


def _of_problem(problem: Problem, values: Mapping[str, str], progress: Progress) -> Exploration:
    others = [name for name in values if name not in ("theorem", *PLAIN)]
    if others:
        raise SettingError(
            f"{others[0]}={values[others[0]]}: a Problem takes {', '.join(PLAIN)}; leave it out"
        )
    read: dict[str, Any] = config.read({name: values[name] for name in PLAIN if name in values}, {})
    return explore(problem, **read, progress=progress)
