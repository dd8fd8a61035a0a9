"""The command line: `python -m popgd.run theorem=4.1`. Everything is key=value; Hydra composes and sweeps.

A thin adapter: names and values are checked against the table of settings before Hydra sees them, Hydra writes
nothing, and whatever goes wrong becomes one line and an exit code.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from popgd.config import TABLE, SettingError, help_text, nearest

EXIT = {"SUPPORTED": 0, "REFUTED": 1, "INCONCLUSIVE": 3, "NOT APPLICABLE": 4}
BAD_INPUT, INTERNAL = 2, 70
#: A part of a run that takes longer than this many seconds is announced with its estimated time.
LONG = 60
#: A sweep returns the first of these that any of its jobs returned.
WORST = (INTERNAL, BAD_INPUT, 1, 3, 4, 0)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if __name__ == "__main__":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
    try:
        return _main(arguments)
    except SettingError as error:
        return _say(str(error), BAD_INPUT)
    except Exception:
        return _internal(Path("popgd-error.txt"))


def _stop(number: int, frame: Any) -> None:
    """Leave at once: compiled code that runs for long would swallow an exception. Files are written whole or not at all."""
    word, code = ("interrupted", 130) if number == signal.SIGINT else ("terminated", 143)
    _say(f"{word}; nothing of the unfinished run is kept, start it again with the same command", code)
    os._exit(code)


def _say(line: str, code: int) -> int:
    print(f"popgd: {' '.join(line.split())}", file=sys.stderr)
    return code


def _internal(path: Path) -> int:
    text = traceback.format_exc()
    try:
        path.write_text(text)
        where = f"the traceback is in {path}"
    except OSError:
        where = text.strip().splitlines()[-1]
    return _say(f"internal error ({text.strip().splitlines()[-1]}); {where}", INTERNAL)


def _main(arguments: list[str]) -> int:
    if not arguments or {"--help", "-h"} & set(arguments):
        from popgd.theory import THEOREMS

        print(help_text({name: theorem.title for name, theorem in THEOREMS.items()}))
        return 0
    sweep = bool({"-m", "--multirun"} & set(arguments))
    words = [word for word in arguments if word not in ("-m", "--multirun")]
    overrides = [_override(word, sweep) for word in words]
    codes: list[int] = []
    _hydra(overrides, sweep, lambda settings: codes.append(_job(settings, sweep)))
    return next(code for code in WORST if code in codes)


def _override(word: str, sweep: bool) -> str:
    """key=value with the value quoted for Hydra; in a sweep, commas outside brackets separate values."""
    name, equals, value = word.partition("=")
    if not equals:
        raise SettingError(f"{word}: settings are key=value, as in theorem=4.1")
    if name not in TABLE:
        raise SettingError(f"unknown setting {name}{nearest(name, TABLE) or '; --help lists all'}")
    values = _split(value) if sweep else [value]
    return f"{name}=" + ",".join("'" + v.replace("\\", "\\\\").replace("'", "\\'") + "'" for v in values)


def _split(value: str) -> list[str]:
    parts, depth = [""], 0
    for letter in value:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _hydra(overrides: list[str], sweep: bool, job: Any) -> None:
    """Compose the settings with Hydra and hand each job's to `job`, in sequence."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    tree: dict[str, Any] = {}
    for name in TABLE:
        group, _, leaf = name.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[leaf] = None

    def run(settings: Any) -> None:
        plain = OmegaConf.to_container(settings)
        job({name: _lookup(plain, name) for name in TABLE})

    os.environ["HYDRA_FULL_ERROR"] = "1"
    before, sys.argv = sys.argv, ["popgd", *overrides]
    with tempfile.TemporaryDirectory() as scratch:  # a sweep leaves its multirun.yaml somewhere
        quiet = {"run": {"dir": "."}, "sweep": {"dir": scratch, "subdir": "."}, "output_subdir": None,
                 "mode": "MULTIRUN" if sweep else "RUN"}  # fmt: skip
        ConfigStore.instance().store("popgd", {**tree, "hydra": quiet, "defaults": ["_self_", *_SILENT]})
        try:
            hydra.main(version_base=None, config_path=None, config_name="popgd")(run)()
        except (HydraException, OmegaConfBaseException) as error:
            raise SettingError(str(error).splitlines()[0]) from None
        finally:
            sys.argv = before


_SILENT = [{"override hydra/hydra_logging": "none"}, {"override hydra/job_logging": "none"}]


def _lookup(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree[part]
    return tree


def _job(values: dict[str, Any], sweep: bool) -> int:
    """Judge one setting, store and print it: its exit code. Never raises, so that a sweep goes on."""
    path = None
    try:
        _start_jax()
        from popgd import store
        from popgd.report import resolve

        out = values.pop("out")
        setting = resolve({name: value for name, value in values.items() if value is not None})
        settings = setting.describe()
        name = store.run_name(settings)
        path = Path(out) / name if out and sweep else Path(out) if out else Path("runs") / name
        stored = store.claim_directory(path, settings)
        content = _judge(setting, path) if stored is None else stored
        _print(content, path, stored is not None)
        return EXIT[content["outcome"]]
    except SettingError as error:
        return _say(str(error), BAD_INPUT)
    except OSError as error:
        return _say(
            f"cannot write the run directory {path} ({error.strerror}): free some space or choose another out=", BAD_INPUT
        )
    except Exception:
        return _internal((path or Path(".")) / "popgd-error.txt" if path is None or path.is_dir() else Path("popgd-error.txt"))


def _start_jax() -> None:
    """float64, and one virtual CPU device per core, before JAX starts its backend."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    jax.config.update("jax_enable_x64", True)
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # a backend already runs, as in the second job of a sweep
            jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def _judge(setting: Any, path: Path) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from popgd import store
    from popgd.report import check_setting

    columns = (TextColumn("{task.description:<32}"), BarColumn(), TimeRemainingColumn(compact=True))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, tuple[Any, float, int]] = {}
        announced: set[str] = set()

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks or done < tasks[name][2]:
                for task, *_ in tasks.values():
                    bars.update(task, visible=False)
                tasks[name] = (bars.add_task(name), time.monotonic(), done)
            task, start, _ = tasks[name]
            tasks[name] = (task, start, done)
            bars.update(task, completed=done, total=total)
            spent = time.monotonic() - start
            left = spent * (total - done) / done if done else 0.0
            if spent > 2 and left > LONG and name not in announced:
                announced.add(name)
                console.print(f"{name}: {total:,} steps, about {left / 60:.0f} more minutes")

        found = check_setting(setting, report)
    return store.save_report(path, found)


def _print(content: dict[str, Any], path: Path, stored: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 150)
    settings = content["settings"]
    shown = ", ".join(f"{k}={settings[k]}" for k in ("law", "d", "n", "spectrum", "L", "eta") if k in settings)
    table = Table(title=f"Theorem {content['theorem']}: {shown}")
    for column in ("claim", "predicted", "measured", "error", "allowance", "detectable", "resolution", "outcome"):
        table.add_column(column, justify="left" if column in ("claim", "outcome") else "right", no_wrap=column != "claim")
    for claim in content["claims"]:
        numbers = [_number(claim["predicted"], 10), _number(claim["measured"], 10)]
        numbers += [_number(claim[name], 2) for name in ("error", "allowance", "detectable", "resolution")]
        table.add_row(claim["id"], *numbers, _coloured(claim["outcome"]))
    if content["claims"]:
        console.print(table)
    for claim in content["claims"]:
        if claim["outcome"] != "SUPPORTED":
            console.print(f"{claim['id']}: {claim['outcome']}. {claim['statement']}. {claim['reason']}", markup=False)
    reason = f": {content['reason']}" if content["reason"] else ""
    console.print(f"Theorem {content['theorem']}: {content['outcome']}{reason}", markup=False)
    console.print(f"{'already finished in' if stored else 'written to'} {path}", markup=False)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _coloured(outcome: str) -> str:
    colour = {"SUPPORTED": "green", "REFUTED": "red"}.get(outcome, "yellow")
    return f"[{colour}]{outcome}[/{colour}]"


if __name__ == "__main__":
    sys.exit(main())
