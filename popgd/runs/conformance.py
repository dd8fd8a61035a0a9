"""Whether a theorem keeps what popgd promises of every theorem:
`python -m popgd.conformance FILE.py [SETTINGS]`.

Seven promises, each kept or not, with what was found and what to do. A file's mutants are in its
MUTANTS, by the id of a claim: a theorem in which something is wrong, so that this claim must come
out REFUTED, or in words why there is none.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from popgd.claims.evidence import Evidence
from popgd.descent.budget import Budget
from popgd.descent.memory import Memory
from popgd.problem.errors import SettingError
from popgd.runs import files, store
from popgd.theorem.base import Findings, Setting, Theorem, examine
from popgd.theorem.problems import is_about_a_problem, plane_of
from popgd.theorem.readers import word
from popgd.theorem.registry import add
from popgd.theorem.report import find_theorem, resolve, restore
from popgd.theorem.verdict import Outcome, judge

#: A wrong prediction is off by so many resolutions: a gap of one is what a claim promises to see.
WRONG = 2.0
#: The share of a run's time after which it is killed, and the budget of its second stages: the
#: clock must not decide what is drawn.
KILLED, UNLIMITED = 0.6, 1e6
#: What a module says of its mutants.
MUTANTS = "MUTANTS"

Mutants = Mapping[str, Theorem | str]


class Point(NamedTuple):
    """One promise: what it is, whether it is kept, and what was found."""

    name: str
    holds: bool
    found: str


class _Examined:
    """One theorem with its settings, its evidence measured once."""

    def __init__(self, theorem: Theorem, values: Mapping[str, Any], mutants: Mutants, file: str):
        self.theorem, self.values, self.mutants, self.file = theorem, dict(values), mutants, file
        self.setting: Setting = resolve({**self.values, "theorem": theorem.name})
        self.of_mutants: dict[int, list[Evidence]] = {}

    @cached_property
    def evidence(self) -> list[Evidence]:
        return _evidence(self.theorem, self.setting)

    @cached_property
    def share(self) -> float:
        """The false-alarm rate of each claim."""
        return self.setting.false_alarm / (len(self.evidence) + 1)


def _evidence(theorem: Theorem, setting: Setting) -> list[Evidence]:
    quiet: Callable[..., None] = lambda name, done, total: None
    return list(examine(theorem, setting, Findings(), quiet, Memory(Budget(UNLIMITED))))


def _told(it: _Examined) -> Iterator[str]:
    """Statement and source are there, and the file says what it is."""
    for name in ("statement", "source"):
        if not getattr(it.theorem, name).strip():
            yield f"{name}= is empty: give it"
    for e in it.evidence:
        yield from (f"{e.id}: {name} is empty" for name in ("statement", "source", "reason")
                    if not getattr(e, name).strip())  # fmt: skip
    module = sys.modules.get(Path(it.file).stem) if it.file else None
    if module is not None and not (module.__doc__ or "").strip():
        yield f"{it.file} has no docstring: say in its first lines what it is about"


def _symmetric(it: _Examined) -> Iterator[str]:
    """Declared symmetries hold sample by sample, and descent starts on its plane."""
    if is_about_a_problem(it.theorem):
        try:
            plane_of(it.setting.law.problem, it.setting.key(20))
        except SettingError as error:
            yield str(error)


def _settled(it: _Examined) -> Iterator[str]:
    """Settings survive being stored, and being typed as they are shown."""
    described = it.setting.describe()
    try:
        again = restore(json.loads(json.dumps(described, allow_nan=False)))
        if again.describe() != described:
            yield "stored and read again, the settings describe themselves otherwise"
    except (SettingError, TypeError, ValueError) as error:
        yield f"they cannot be stored: {error}"
    for name in it.theorem.declared:
        value = it.setting.options.get(name)
        if value is None:
            continue
        try:
            typed = resolve({**it.values, "theorem": it.theorem.name, name: word(value)})
            if typed.describe() != described:
                yield f"{name}={word(value)} is typed as it is shown, and read as something else"
        except SettingError as error:
            yield f"as it is shown, {error}"


def _refutable(it: _Examined) -> Iterator[str]:
    """With a prediction that is off by two resolutions every claim comes out REFUTED."""
    for e in it.evidence:
        if e.excuse:
            yield f"{e.id} cannot be judged at these settings ({e.excuse})"
            continue
        try:
            outcome = judge(_wrong(e), it.share).outcome
        except ValueError as error:
            yield f"{e.id}: {error}"
            continue
        if outcome is not Outcome.REFUTED:
            told = judge(e, it.share).reason
            yield f"{e.id} comes out {outcome} for a wrong prediction ({told})"


def _wrong(e: Evidence) -> Evidence:
    """The same evidence about a prediction that is off by WRONG resolutions."""
    measured, resolution = np.asarray(e.measured, dtype=float), np.asarray(e.resolution)
    off = WRONG * float(np.max(resolution)) if resolution.size else np.nan
    if e.sense == "at least":
        return replace(e, predicted=float(np.max(measured)) + off)
    if e.sense == "at most":
        return replace(e, predicted=float(np.min(measured)) - off)
    return replace(e, predicted=e.predicted + off)


def _mutated(it: _Examined) -> Iterator[str]:
    """Every claim comes out REFUTED as it stands, or in a mutant, or says why there is none."""
    ids = {e.id for e in it.evidence if not e.self_check}
    refuted = {e.id for e in it.evidence if judge(e, it.share).outcome is Outcome.REFUTED}
    for name in it.mutants.keys() - ids:
        yield f"{MUTANTS} has {name}, and no claim is called that"
    for name in sorted(ids - refuted):
        mutant = it.mutants.get(name)
        if isinstance(mutant, Theorem):
            of_id = {e.id: judge(e, it.share).outcome for e in _of_mutant(it, mutant)}
            if of_id.get(name) is not Outcome.REFUTED:
                yield f"{name} comes out {of_id.get(name, 'not at all')} in its mutant"
        elif mutant is None:
            yield (
                f"{name} has none: put into {MUTANTS} of the file a theorem in which it must come "
                "out REFUTED, or why there is none"
            )
        elif not (isinstance(mutant, str) and mutant.strip()):
            yield f"{name}: {mutant!r} in {MUTANTS}; a Theorem or a text was wanted"


def _of_mutant(it: _Examined, mutant: Theorem) -> list[Evidence]:
    """Its evidence, at the settings that were given."""
    if id(mutant) not in it.of_mutants:
        named = replace(mutant, name=f"{it.theorem.name}.mutant")
        add(named)
        it.of_mutants[id(mutant)] = _evidence(named, resolve({**it.values, "theorem": named.name}))
    return it.of_mutants[id(mutant)]


def _declared(it: _Examined) -> Iterator[str]:
    """What may rest on sampling is declared, so that it has its share of the false-alarm rate."""
    names = {name + suffix for suffix in it.theorem.judged_for(it.setting)
             for name in it.theorem.sampled}  # fmt: skip
    for e in it.evidence:
        if e.statistical and e.id not in names:
            yield f"{e.id} rests on sampling: name it in the theorem's sampled="


def _resumed(it: _Examined) -> Iterator[str]:
    """A run that is killed and gone on with ends bit for bit as one that never broke off."""
    name = f"{it.file}:{it.theorem.name}" if it.file else it.theorem.name
    words = [f"theorem={name}", *(f"{key}={word(x)}" for key, x in it.values.items())]
    words.append(f"budget={UNLIMITED:.0f}")
    with tempfile.TemporaryDirectory() as home:
        begun = time.monotonic()
        code = _run(home, [*words, "out=unbroken"]).wait()
        if not (Path(home) / "unbroken" / store.REPORT).exists():
            yield f"a run of it ends with exit code {code} and no report"
            return
        broken = _run(home, [*words, "out=broken"])
        try:
            broken.wait(KILLED * (time.monotonic() - begun))
        except subprocess.TimeoutExpired:
            broken.kill()
            broken.wait()
        begun_there = (Path(home) / "broken" / store.SETTINGS).exists()
        again = [f"budget={UNLIMITED:.0f}", "resume=broken"] if begun_there else words
        _run(home, [*again, *([] if begun_there else ["out=broken"])]).wait()
        whole, mended = (_contents(Path(home) / run) for run in ("unbroken", "broken"))
        for file in sorted(whole.keys() | mended.keys()):
            if whole.get(file) != mended.get(file):
                yield f"{file} is another one after a kill"


def _run(home: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "popgd.run", *words]
    return subprocess.Popen(command, cwd=home, stdin=quiet, stdout=quiet, stderr=quiet)


def _contents(run: Path) -> dict[str, bytes]:
    if not run.is_dir():
        return {}
    every = (file for file in run.rglob("*") if file.is_file())
    return {str(file.relative_to(run)): file.read_bytes() for file in every}


#: The promises by name.
PROMISES: dict[str, Callable[[_Examined], Iterator[str]]] = {
    "told": _told,
    "symmetries": _symmetric,
    "settings": _settled,
    "sampled ids": _declared,
    "wrong predictions": _refutable,
    "mutants": _mutated,
    "killed and resumed": _resumed,
}


def conforms(
    theorem: str | Theorem,
    mutants: Mutants | None = None,
    file: str = "",
    promises: Sequence[str] = tuple(PROMISES),
    **values: Any,
) -> list[Point]:
    """The promises, each kept or not, of a theorem with these settings. `file` is the one that it
    is defined in, if it is none of popgd's. Raises SettingError on bad settings.
    """
    name = add(theorem) if isinstance(theorem, Theorem) else theorem
    it = _Examined(find_theorem(name), values, {} if mutants is None else mutants, file)
    points = []
    for promise in promises:
        broken = list(PROMISES[promise](it))
        doc = " ".join((PROMISES[promise].__doc__ or "").split())
        points.append(Point(promise, not broken, "; ".join(broken) or doc))
    return points


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code is 0 if every promise is kept, 1 if one is not, 2 on bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    jax.config.update("jax_enable_x64", True)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(" ".join((__doc__ or "").split()) + "\n\n" + "\n".join(map(_line, PROMISES)))
        return 0 if arguments else 2
    try:
        return _main(arguments)
    except SettingError as error:
        print(f"popgd: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _line(promise: str) -> str:
    return f"  {promise:<20}{' '.join((PROMISES[promise].__doc__ or '').split())}"


def _main(arguments: Sequence[str]) -> int:
    given, *words = (arg.removeprefix("theorem=") for arg in arguments)
    split = [text.partition("=") for text in words]
    values: dict[str, Any] = {name: value for name, _, value in split}
    bare = [text for text in words if "=" not in text]
    if bare:
        raise SettingError(f"{bare[0]}: settings are NAME=VALUE, after one FILE.py or theorem")
    kept = True
    for found in files.expand([given]):
        file, name = found.rpartition(":")[::2] if ".py:" in found else ("", found)
        mutants = _mutants(file)
        for point in conforms(files.named(found), mutants, file, **values):
            kept &= point.holds
            said = "holds: " if point.holds else "FAILS: "
            print(f"{name} {point.name}: {said}{point.found}", flush=True)
    return 0 if kept else 1


def _mutants(file: str) -> Mutants:
    """Those of a file that is loaded."""
    found = getattr(sys.modules.get(Path(file).stem), MUTANTS, {}) if file else {}
    if not isinstance(found, Mapping):
        raise SettingError(f"{file}: {MUTANTS} maps ids of claims to theorems, or to reasons")
    return found
