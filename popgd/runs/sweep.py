"""Hydra composes the settings, in sweeps too, and has the jobs done: here in sequence, or where a
launcher sends them.
"""

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from popgd.problem.errors import SettingError, TooLarge
from popgd.theorem.settings import CACHE, COMMANDS, TABLE, nearest

#: Words that go to Hydra as they are: which launcher does the jobs of a sweep, and how.
LAUNCHER = ("hydra/launcher=", "hydra.launcher.")
#: Where a launched sweep keeps its logs and the exit codes of its jobs, below the directory of its
#: runs.
DIRECTORY, CODE, PART = ".sweep", ".code", ".part"
_SILENT = [{"override hydra/hydra_logging": "none"}, {"override hydra/job_logging": "none"}]


Job = Callable[[dict[str, Any]], int]


class Lost(Exception):
    """Jobs of a sweep that left no exit code: killed, or still under way where a launcher sent
    them.
    """


def compose(
    words: Sequence[str],
    sweep: bool,
    job: Job,
    launched_job: Job,
    check: Callable[[dict[str, Any]], Any],
) -> list[int]:
    """Do the job of these words, or all jobs of a sweep over them, and return their exit codes.

    `job` takes the settings by name. With a launcher among the words `launched_job` does it in
    other processes. `check` is called with those of every job of a sweep before the first begins,
    and raises SettingError for bad ones. Raises SettingError for words that are no settings, and
    Lost.
    """
    launched = [word for word in words if word.startswith(LAUNCHER)]
    if launched and not sweep:
        raise SettingError(f"{launched[0]}: a launcher runs the jobs of a sweep; add -m")
    settings = [word for word in words if word not in launched]
    overrides = [override(word, sweep) for word in settings]
    if sweep:
        for values in combinations(settings):
            # the machines of a launcher may be larger
            with suppress(*[TooLarge] if launched else []):
                check(values)
    with _scratch(settings, bool(launched)) as scratch:
        _hydra([*overrides, *launched], sweep, scratch, job, launched_job if launched else None)
        codes = [int(file.read_text()) for file in scratch.glob(f"*{CODE}")]
    jobs = sum(1 for _ in combinations(settings)) if sweep else 1
    if len(codes) < jobs:
        raise Lost(
            f"{jobs - len(codes)} of {jobs} jobs left no word: killed, or still under way, where "
            "they go on by themselves "
            f"(logs in {scratch}); the same command, when those have ended, does what is missing"
        )
    return codes


@contextmanager
def _scratch(settings: Sequence[str], launched: bool) -> Any:
    """Where jobs leave their exit codes: machines that a launcher uses see the directory of the
    runs, not our temporary one.
    """
    if not launched:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    out = next((word.partition("=")[2] for word in settings if word.startswith("out=")), "runs")
    scratch = Path(out).absolute() / DIRECTORY / str(time.time_ns())
    scratch.mkdir(parents=True)
    yield scratch


def leave(code: int, scratch: str) -> None:
    """Leave the exit code of a job, whole or not at all."""
    handle, name = tempfile.mkstemp(suffix=PART, dir=scratch)
    os.write(handle, str(code).encode())
    os.close(handle)
    os.rename(name, name.removesuffix(PART) + CODE)


def override(word: str, sweep: bool) -> str:
    """key=value with the value quoted for Hydra; in a sweep, commas outside brackets separate
    values.
    """
    name, equals, value = word.partition("=")
    if not equals:
        raise SettingError(f"{word}: settings are key=value, as in theorem=4.1")
    if name not in TABLE:
        raise SettingError(
            "unknown setting "
            f"{name}{nearest(name, [*TABLE, *COMMANDS, *CACHE]) or '; --help lists all'}"
        )
    values = _split(value) if sweep else [value]
    return f"{name}=" + ",".join(
        "'" + v.replace("\\", "\\\\").replace("'", "\\'") + "'" for v in values
    )


def combinations(settings: Sequence[str]) -> Iterator[dict[str, str]]:
    """The settings of every job of a sweep over these words."""
    pairs = {word.partition("=")[0]: _split(word.partition("=")[2]) for word in settings}
    return (dict(zip(pairs, values, strict=True)) for values in itertools.product(*pairs.values()))


def _split(value: str) -> list[str]:
    parts, depth = [""], 0
    for letter in value:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _hydra(
    overrides: list[str], sweep: bool, scratch: Path, here: Job, elsewhere: Job | None
) -> None:
    """Compose the settings with Hydra; do each job `here`, or by a launcher `elsewhere`."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    tree: dict[str, Any] = {}
    for name in TABLE:
        group, _, leaf = name.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[leaf] = None
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
    leave(job({name: lookup(plain, name) for name in TABLE}), codes)


def lookup(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree[part]
    return tree
