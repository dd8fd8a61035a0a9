"""Hydra composes the settings, in sweeps too, and has the jobs done: here in sequence, or where a
launcher sends them.
"""

import itertools
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from popgd.problem.errors import SettingError, TooLarge
from popgd.theorem.settings import NAME, Option

#: Words that go to Hydra as they are: which launcher does the jobs of a sweep, and how.
LAUNCHER = ("hydra/launcher=", "hydra.launcher.")
#: Where a launched sweep keeps its logs and the exit codes of its jobs, below the directory of its
#: runs.
DIRECTORY, CODE, PART = ".sweep", ".code", ".part"
#: Hydra's words for several values.
_SWEPT = re.compile(r"(range|choice|glob|sort|shuffle|interval)\(")
_SILENT = [{"override hydra/hydra_logging": "none"}, {"override hydra/job_logging": "none"}]


Job = Callable[[dict[str, Any]], int]


class Lost(Exception):
    """Jobs of a sweep that left no exit code: killed, or still under way where a launcher sent
    them.
    """


def compose(
    settings: Mapping[str, Sequence[str]],
    launcher: Sequence[str],
    sweep: bool,
    job: Job,
    launched_job: Job,
    check: Callable[[dict[str, Any]], Any],
) -> list[int]:
    """Do the job of these settings, or all jobs of a sweep over their values: their exit codes.

    `job` takes the settings by name. With words for a `launcher`, `launched_job` does it in other
    processes. `check` is called with those of every job of a sweep before the first begins, and
    raises SettingError for bad ones. Raises SettingError for names that none can have, and Lost.
    """
    if launcher and not sweep:
        raise SettingError(f"{launcher[0]}: a launcher runs the jobs of a sweep; add -m")
    tree = _tree(settings)
    if sweep:
        for values in combinations(settings):
            # the machines of a launcher may be larger
            with suppress(*[TooLarge] if launcher else []):
                check(values)
    with _scratch(settings, bool(launcher)) as scratch:
        words = [*(_override(*pair) for pair in settings.items()), *launcher]
        _hydra(tree, words, sweep, scratch, job, launched_job if launcher else None)
        codes = [int(file.read_text()) for file in scratch.glob(f"*{CODE}")]
    jobs = sum(1 for _ in combinations(settings))
    if len(codes) < jobs:
        raise Lost(
            f"{jobs - len(codes)} of {jobs} jobs left no word: killed, or still under way, where "
            "they go on by themselves "
            f"(logs in {scratch}); the same command, when those have ended, does what is missing"
        )
    return codes


@contextmanager
def _scratch(settings: Mapping[str, Sequence[str]], launched: bool) -> Any:
    """Where jobs leave their exit codes: machines that a launcher uses see the directory of the
    runs, not our temporary one.
    """
    if not launched:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    scratch = Path(settings.get("out", ["runs"])[0]).absolute() / DIRECTORY / str(time.time_ns())
    scratch.mkdir(parents=True)
    yield scratch


def leave(code: int, scratch: str) -> None:
    """Leave the exit code of a job, whole or not at all."""
    handle, name = tempfile.mkstemp(suffix=PART, dir=scratch)
    os.write(handle, str(code).encode())
    os.close(handle)
    os.rename(name, name.removesuffix(PART) + CODE)


def values_of(words: Sequence[str], sweep: bool) -> dict[str, list[str]]:
    """The values of every setting; in a sweep, commas outside brackets separate them, or one of
    Hydra's words gives them: range(1,3), choice(a,b). Raises SettingError for a word that is none.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise SettingError(f"{word}: settings are key=value, as in theorem=4.1")
        swept = _SWEPT.match(value)
        if swept and not sweep:
            raise SettingError(f"{word}: {swept[1]}(...) gives several values; add -m")
        parts = _split(name, value) if sweep else [value]
        found[name] = _swept(name, value) if swept else parts
    return found


def _swept(name: str, value: str) -> list[str]:
    """The values that one of Hydra's words gives; glob(...) is left as it is, for `chosen`."""
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    try:
        override = _parsed(name, value)
        if isinstance(override.value(), Glob):
            return [value]
        return list(override.sweep_string_iterator())
    except (HydraException, NotImplementedError, AttributeError) as error:
        said = str(error).partition("\n")[0]
        raise SettingError(f"{name}={value}: {said or 'no word of a sweep'}") from None


def _parsed(name: str, value: str) -> Any:
    """One word as Hydra reads it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(f"{name}={value}")


def chosen(values: Sequence[str], names: Sequence[str]) -> list[str]:
    """The values of the setting `theorem`, with the names that a glob(...) chooses. Raises
    SettingError if it chooses none.
    """
    found: list[str] = []
    for value in values:
        if not _SWEPT.match(value):
            found.append(value)
            continue
        some = _parsed("theorem", value).value().filter(list(names))
        if not some:
            raise SettingError(f"theorem={value}: no theorem is called that; --help lists them")
        found += some
    return found


def ask_about_lists(settings: Mapping[str, Sequence[str]], options: Mapping[str, Option]) -> None:
    """Raises SettingError for several values without brackets of an option that takes a list."""
    for name, values in settings.items():
        if len(values) > 1 and all(_bare_list(options.get(name), value) for value in values):
            apart = ",".join(f"[{value}]" for value in values)
            raise SettingError(
                f"{name}={','.join(values)}: one list, '{name}=[{','.join(values)}]', or "
                f"{len(values)} runs, '{name}={apart}'? write the brackets"
            )


def _bare_list(option: Option | None, value: str) -> bool:
    """Whether a value is read as a list, and has no brackets."""
    try:
        bare = value.strip()[:1] not in ("[", "(")
        return bare and option is not None and isinstance(option.read(value), tuple)
    except ValueError:
        return False


def _override(name: str, values: Sequence[str]) -> str:
    """name=values, quoted for Hydra."""
    quoted = (value.replace("\\", "\\\\").replace("'", "\\'") for value in values)
    return f"{name}=" + ",".join(f"'{value}'" for value in quoted)


def combinations(settings: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    """The settings of every job of a sweep over these values."""
    every = itertools.product(*settings.values())
    return (dict(zip(settings, values, strict=True)) for values in every)


def _tree(settings: Iterable[str]) -> dict[str, Any]:
    """Hydra's configuration, which has these settings and no other; a dot makes a group. Raises
    SettingError for a name that Hydra could not have.
    """
    tree: dict[str, Any] = {}
    for name in settings:
        group, _, leaf = name.rpartition(".")
        hides = any(other.startswith(f"{name}.") for other in settings)
        if hides or not NAME.fullmatch(name) or name.partition(".")[0] in ("hydra", "defaults"):
            raise SettingError(f"unknown setting {name}; theorem=NAME --help lists all")
        inner = tree
        for part in filter(None, group.split(".")):
            inner = inner.setdefault(part, {})
        inner[leaf] = None
    return tree


def _split(name: str, value: str) -> list[str]:
    parts, depth = [""], 0
    for letter in value:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise SettingError(f"{name}={value}: a bracket is not closed; quoted, '{name}=[3,2,1]'")
    return parts


def _hydra(
    tree: dict[str, Any],
    overrides: list[str],
    sweep: bool,
    scratch: Path,
    here: Job,
    elsewhere: Job | None,
) -> None:
    """Compose the settings with Hydra; do each job `here`, or by a launcher `elsewhere`."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    codes = str(scratch)

    job = elsewhere or here

    def run(composed: Any) -> None:  # a launcher sends this to other processes, `_one` by its name
        _one(composed, job, codes)

    os.environ["HYDRA_FULL_ERROR"] = "1"
    before, sys.argv = sys.argv, ["popgd", *overrides]
    quiet = {"run": {"dir": "."}, "sweep": {"dir": codes, "subdir": "."}, "output_subdir": None,
             "mode": "MULTIRUN" if sweep else "RUN"}  # fmt: skip
    ConfigStore.instance().store(
        "popgd", {**tree, "hydra": quiet, "defaults": ["_self_", *_SILENT]}
    )
    try:
        hydra.main(version_base=None, config_path=None, config_name="popgd")(run)()
    except (HydraException, OmegaConfBaseException) as error:
        raise SettingError(str(error).splitlines()[0]) from None
    except Exception as error:
        if not elsewhere:
            raise
        print(f"popgd: the launcher says: {str(error).splitlines()[0]}", file=sys.stderr)
    finally:
        sys.argv = before


def _one(composed: Any, job: Job, codes: str) -> None:
    """Do the job of settings that Hydra composed, and leave its exit code."""
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(composed)
    leave(job(dict(_flat(plain))), codes)


def _flat(tree: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """The settings in Hydra's configuration, by name."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{group}{name}.")
        else:
            yield group + name, value
