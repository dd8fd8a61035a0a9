"""The command line: `python -m popgd.run theorem=4.1`. Everything is key=value; Hydra composes and sweeps.

A thin adapter: names and values are checked against the table of settings before Hydra sees them, Hydra writes
nothing, and whatever goes wrong becomes one line and an exit code.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from popgd.config import SettingError, help_text
from popgd.sweep import Lost, compose

EXIT = {"SUPPORTED": 0, "REFUTED": 1, "INCONCLUSIVE": 3, "NOT APPLICABLE": 4}
BAD_INPUT, INTERNAL = 2, 70
#: A sweep returns the first of these that any of its jobs returned.
WORST = (INTERNAL, BAD_INPUT, 1, 3, 4, 0)


class Interrupted(Exception):
    """A run ended at a boundary because a signal asked for it; its checkpoint is written."""


class _Stop:
    """The signal that asks the process to end, if one came.

    At once, unless a run is being judged: then its next boundary sees it, as an exception from here is lost where compiled
    code swallows it. A second signal ends at once in any case.
    """

    def __init__(self) -> None:
        self.signal, self._later = 0, False

    @property
    def word(self) -> str:
        return "interrupted" if self.signal == signal.SIGINT else "terminated"

    @property
    def code(self) -> int:
        return 128 + self.signal

    def told(self, number: int, frame: Any) -> None:
        again, self.signal = self.signal, number
        if again or not self._later:
            what = "at once, the same command goes on from the last checkpoint" if again else "no run was under way"
            os.write(2, f"popgd: {self.word}; {what}\n".encode())  # print is not reentrant
            os._exit(self.code)

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Inside, the first signal is only noted."""
        self._later = True
        try:
            yield
        finally:
            self._later = False


_STOP = _Stop()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if __name__ == "__main__":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _STOP.told)
    try:
        return _main(arguments)
    except SettingError as error:
        return _say(str(error), BAD_INPUT)
    except OSError as error:
        return _say(f"cannot read or write {error.filename} ({error.strerror}): name another directory, or make room", BAD_INPUT)
    except Exception:
        return _internal(Path("popgd-error.txt"))


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
        from popgd.theory import FINDINGS, PAPERS, TITLE_OF_FINDINGS

        groups = {**PAPERS, TITLE_OF_FINDINGS: tuple(FINDINGS.values())}
        print(help_text({paper: {t.name: t.title for t in theorems} for paper, theorems in groups.items()}))
        return 0
    given = {word.partition("=")[0] for word in arguments}
    for name, command in (("resume", _resume), ("recheck", _recheck)):
        if name in given:
            if len(arguments) > 1 or not arguments[0].partition("=")[2]:
                raise SettingError(
                    f"{' '.join(arguments)}: {name}=DIR stands alone, the run has its settings; leave out the rest"
                )
            return command(Path(arguments[0].partition("=")[2]))
    sweep = bool({"-m", "--multirun"} & set(arguments))
    words = [word for word in arguments if word not in ("-m", "--multirun")]
    try:
        codes = compose(words, sweep, lambda settings: _job(settings, sweep))
    except Lost as error:
        return _say(str(error), INTERNAL)
    if sweep and _STOP.signal:
        return _say(f"{_STOP.word}; the same command goes on with the sweep", _STOP.code)
    return next(code for code in (_STOP.code, *WORST) if code in codes)


def job(values: dict[str, Any]) -> int:
    """One job of a sweep, in a process that a launcher started for it: its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _STOP.told)
    return _job(values, sweep=True)


def _job(values: dict[str, Any], sweep: bool) -> int:
    """Judge one setting."""

    def open_run() -> tuple[Any, Path]:
        from popgd import store
        from popgd.report import resolve

        out = values.pop("out")
        setting = resolve({name: value for name, value in values.items() if value is not None})
        name = store.run_name(setting.describe())
        return setting, Path(out) / name if out and sweep else Path(out) if out else Path("runs") / name

    return _run(open_run)


def _resume(path: Path) -> int:
    """Go on with the run in this directory."""

    def open_run() -> tuple[Any, Path]:
        from popgd import store
        from popgd.report import restore

        if not (path / store.SETTINGS).exists():
            raise SettingError(f"resume={path}: no run is there; name a run directory, or begin a run by theorem=...")
        return restore(store.read(path / store.SETTINGS)), path

    return _run(open_run)


def _run(open_run: Callable[[], tuple[Any, Path]]) -> int:
    """Judge what open_run opens, store and print it: its exit code. Never raises, so that a sweep goes on."""
    if _STOP.signal:
        return _STOP.code
    path = None
    try:
        _start_jax()
        from popgd import store
        from popgd.screen import show

        setting, path = open_run()
        with _STOP.later(), store.claimed(path, setting.describe()) as stored:
            content = _judge(setting, path) if stored is None else stored
        show(content, path, stored is not None)
        return EXIT[content["outcome"]]
    except Interrupted:
        return _say(f"{_STOP.word}; what was done is saved, continue with resume={path}", _STOP.code)
    except SettingError as error:
        return _say(str(error), BAD_INPUT)
    except OSError as error:
        where = f"cannot write in {path}" if path else f"cannot read or write {error.filename}"
        goes_on = f", then continue with resume={path}" if path else " or name another directory"
        return _say(f"{where} ({error.strerror}): make room there{goes_on}", BAD_INPUT)
    except Exception:
        return _internal((path or Path(".")) / "popgd-error.txt" if path is None or path.is_dir() else Path("popgd-error.txt"))


def _recheck(path: Path) -> int:
    """Judge a finished run afresh and print what differs."""
    _start_jax()
    from popgd.recheck import recheck
    from popgd.screen import progress, show_differences

    with progress() as report:
        found = recheck(path, report)
    show_differences(found, path)
    return 1 if found.differences else 0


def _start_jax() -> None:
    """float64, and one virtual CPU device per core, before JAX starts its backend."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    jax.config.update("jax_enable_x64", True)
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # a backend already runs, as in the second job of a sweep
            jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def _judge(setting: Any, path: Path) -> dict[str, Any]:
    """Judge a setting, from its last checkpoint on, and store the report."""
    from popgd import store
    from popgd.checkpoint import Checkpoint
    from popgd.report import check_setting, environment
    from popgd.screen import progress

    own = {"settings": store.settings_hash(setting.describe()), "revision": store.revision()}
    identity = {**own, **environment(setting)}
    checkpoint = Checkpoint(path / store.CHECKPOINT, identity)

    def stop_if_told() -> None:
        if _STOP.signal:
            checkpoint.flush()
            raise Interrupted

    with progress() as show:

        def report(name: str, done: int, total: int) -> None:
            stop_if_told()
            show(name, done, total)

        found = check_setting(setting, report, checkpoint)
        stop_if_told()
        return store.save_report(path, found)


if __name__ == "__main__":
    sys.exit(main())
