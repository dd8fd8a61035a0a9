"""The command line: `python -m popgd.run theorem=4.1`. Everything is key=value; Hydra composes and
sweeps.

A thin adapter: names and values are checked against the table of settings before Hydra sees them,
Hydra writes nothing, and whatever goes wrong becomes one line and an exit code.
"""

import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from popgd.problem.errors import SettingError
from popgd.runs import cache, guard
from popgd.runs.sweep import (
    LAUNCHER,
    Lost,
    ask_about_lists,
    chosen,
    combinations,
    compose,
    values_of,
)
from popgd.runs.watchdog import PEER_LOST, Interrupted, Watchdog
from popgd.theorem import settings as config

EXIT = {"SUPPORTED": 0, "REFUTED": 1, "INCONCLUSIVE": 3, "NOT APPLICABLE": 4, "NOT TRUSTED": 5}
BAD_INPUT, INTERNAL = 2, 70
#: Signals that ask a process to end; each means itself.
SIGNALS = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM}
HELP, MULTIRUN, VERSION = {"--help", "-h"}, {"-m", "--multirun"}, "--version"
#: Hydra's words for showing the settings of a run instead of doing it.
SHOWN = {"--cfg", "-c", "job", "--cfg=job"}
#: A sweep returns the first of these that any of its jobs returned.
WORST = (INTERNAL, BAD_INPUT, 5, 1, 3, 4, 0)

_WATCH = Watchdog()


def main(arguments: list[str] | None = None, alone: bool = False) -> int:
    """Run the command line and return its exit code; alone in its process, which then is told of
    signals.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if alone:
        for number in SIGNALS:
            signal.signal(number, _WATCH.told)
    try:
        return _part(_main(arguments, alone))
    except SettingError as error:
        return _say(str(error), BAD_INPUT)
    except OSError as error:
        return _say(
            f"cannot read or write {error.filename} ({error.strerror}): name another "
            "directory, or make room",
            BAD_INPUT,
        )
    except Exception:
        return _internal(Path("popgd-error.txt"))


def _say(line: str, code: int) -> int:
    """The one line that ends a run before its time, and its exit code; several processes end here,
    each for itself.
    """
    print(f"popgd: {' '.join(line.split())}", file=sys.stderr)
    if "jax" in sys.modules:
        from popgd.descent import processes

        processes.leave(code)
    return code


def _part(code: int) -> int:
    """The exit code of what all its processes have finished."""
    if "jax" in sys.modules:
        from popgd.descent import processes

        with _WATCH.doing("waiting for the other processes to end"):
            processes.part()
        heart, _WATCH.heart = _WATCH.heart, None
        if heart:
            heart.stop()
    return code


def _internal(path: Path) -> int:
    text = traceback.format_exc()
    try:
        path.write_text(text)
        where = f"the traceback is in {path}"
    except OSError:
        where = text.strip().splitlines()[-1]
    return _say(f"internal error ({text.strip().splitlines()[-1]}); {where}", INTERNAL)


def _main(arguments: list[str], alone: bool) -> int:
    if not arguments or HELP & set(arguments):
        return _help([word for word in arguments if word not in HELP])
    if VERSION in arguments:
        return _version()
    if SHOWN & set(arguments):
        return _shown([word for word in arguments if word not in SHOWN])
    explored, arguments = config.exploring(cache.told(arguments))
    if explored:
        return _explore(arguments, alone)
    peers, arguments = config.peers(arguments)
    if peers and alone:
        end = guard.in_child(_WATCH.told)
        if end is not None:
            return _ended(end)
    if alone:
        relayed = {relayed: number for number, relayed in guard.RELAYED.items()} if peers else {}
        _WATCH.listen(SIGNALS | relayed)
    given = {word.partition("=")[0] for word in arguments}
    commands = {"resume": _resume, "recheck": _recheck, "report": _hand_in}
    for name, command in commands.items():
        if name in given:
            words = {word.partition("=")[0]: word.partition("=")[2] for word in arguments}
            if words.keys() - {name, *config.WITH[name]} or not words[name]:
                also = f" but for {', '.join(config.WITH[name])}" if config.WITH[name] else ""
                raise SettingError(
                    f"{' '.join(arguments)}: {name}=DIR stands alone{also}, the run has its "
                    "settings; leave out the rest"
                )
            if peers and name != "resume":
                raise SettingError(f"{name} is the work of one process; leave out processes")
            if peers:
                _start_jax(peers)
            return command(Path(words[name]), words)
    words = [word for word in arguments if word not in MULTIRUN]
    launcher = [word for word in words if word.startswith(LAUNCHER)]
    if peers:
        if launcher:
            raise SettingError(
                "the jobs that a launcher starts are processes by themselves; leave out "
                "processes, or the launcher"
            )
        _start_jax(peers)
    multirun = bool(MULTIRUN & set(arguments))
    settings = values_of([word for word in words if word not in launcher], multirun)
    settings["theorem"] = _theorems(settings)
    if _WATCH.signal:
        return _say(f"{_WATCH.word}; nothing was begun", _WATCH.code)
    if multirun:
        _ask(settings)
    sweep = multirun or len(settings["theorem"]) > 1  # of the theorems in one file
    one = lambda values: _job(values, sweep)
    try:
        codes = compose(settings, launcher, sweep, one, _launched_job, _resolved)
    except Lost as error:
        return _say(str(error), INTERNAL)
    if sweep and _WATCH.signal:
        return _say(f"{_WATCH.word}; the same command goes on with the sweep", _WATCH.code)
    return next(code for code in (_WATCH.code, *WORST) if code in codes)


def _help(words: list[str]) -> int:
    """Print what can be said on the command line, or of the theorems that these words name."""
    given = values_of([word for word in words if word not in MULTIRUN], bool(MULTIRUN & set(words)))
    named = _theorems(given) if "theorem" in given else []
    from popgd.runs import files, help
    from popgd.theorem.report import find_theorem

    pages = [help.of_theorem(find_theorem(files.named(name))) for name in named]
    print("\n\n\n".join(pages) or help.everything())
    return 0


def _version() -> int:
    """Print the versions of popgd, of JAX and of Python."""
    from importlib.metadata import version

    print(
        f"popgd {version('popgd')}, jax {version('jax')}, jaxlib {version('jaxlib')}, Python "
        + sys.version.partition(" ")[0]
    )
    return 0


def _shown(words: list[str]) -> int:
    """Print the settings that these words mean, one to a line, as they are typed."""
    sweep = bool(MULTIRUN & set(words))
    settings = values_of([word for word in words if word not in MULTIRUN], sweep)
    settings["theorem"] = _theorems(settings)
    if sweep:
        _ask(settings)
    from popgd.theorem.readers import word

    for values in combinations(settings):
        described = _resolved(values).describe().items()
        print("\n".join(f"{name}={word(x)}" for name, x in described if x is not None) + "\n")
    return 0


def _ask(settings: Mapping[str, Sequence[str]]) -> None:
    """Raises SettingError for a sweep over what may be one list."""
    from popgd.runs import files
    from popgd.theorem.report import find_theorem

    for name in settings["theorem"]:
        ask_about_lists(settings, find_theorem(files.named(name)).declared)


def _explore(words: list[str], alone: bool) -> int:
    """Print what could be claimed of the problem that these words name."""
    if alone:
        _WATCH.listen(SIGNALS)
    settings = {name: value for name, (value,) in values_of(words, False).items()}
    if "theorem" not in settings:
        config.without_theorem(settings)
    _start_jax()
    import jax

    from popgd.runs import explored
    from popgd.runs.screen import live, make_console

    # Most of the time is the compiler's, for programs that run once
    jax.config.update("jax_disable_most_optimizations", True)
    out = settings.pop("out", None)
    with _WATCH.doing("exploring"), live(_WATCH.report) as (report, _):
        found = explored.explored(settings, report)
    console = make_console()
    found.show(console)
    path = explored.save(found, settings, out)
    console.print(f"written to {path}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _theorems(settings: dict[str, list[str]]) -> list[str]:
    """The values of the setting `theorem`, with each theorem in a file of the user's by its name.
    Raises SettingError.
    """
    if "theorem" not in settings:
        config.without_theorem(settings)
    _start_jax()
    from popgd.runs import files
    from popgd.theorem.registry import theorems

    with _WATCH.doing("loading theorems"):
        return files.expand(chosen(settings["theorem"], list(theorems())))


def _launched_job(values: dict[str, Any]) -> int:
    """One job of a sweep, in a process that a launcher started for it: its exit code."""
    for number in SIGNALS:
        signal.signal(number, _WATCH.told)
    _WATCH.listen(SIGNALS)
    return _job(values, sweep=True)


def _job(values: dict[str, Any], sweep: bool) -> int:
    """Judge one setting."""

    def open_run() -> tuple[Any, Path]:
        from popgd.runs import store

        out, setting = values.get("out"), _resolved(values)
        if out and not sweep:
            return setting, Path(out)
        return setting, Path(out or "runs") / store.run_name(setting.describe())

    return _run(open_run, values)


def _resolved(values: dict[str, Any]) -> Any:
    """The setting of a job, whose theorem may be FILE:NAME. Raises SettingError."""
    _start_jax()
    from popgd.runs import files
    from popgd.theorem.report import resolve

    told = ((name, value) for name, value in values.items() if name not in config.OUTSIDE)
    given = {name: value for name, value in told if value is not None}
    return resolve({**given, "theorem": files.named(given["theorem"])})


def _resume(path: Path, words: dict[str, Any]) -> int:
    """Go on with the run in this directory."""

    def open_run() -> tuple[Any, Path]:
        from popgd.descent import processes
        from popgd.runs import own, perform, store
        from popgd.theorem.report import restore

        if processes.first() and not (path / store.SETTINGS).exists():
            raise SettingError(
                f"resume={path}: no run is there; name a run directory, or begin a "
                "run by theorem=..."
            )
        settings = processes.told(lambda: store.read(path / store.SETTINGS)) or {}
        line = own.summon(path, settings.get("theorem"), processes.told(lambda: own.read(path)))
        perform.note(line if processes.first() else "")
        return restore(settings), path

    return _run(open_run, words)


def _run(open_run: Callable[[], tuple[Any, Path]], values: dict[str, Any]) -> int:
    """Judge what open_run opens, store and print it: its exit code. Never raises, so that a sweep
    goes on. Of the values only the budget is used.
    """
    if _WATCH.signal:
        return _WATCH.code
    path = None
    try:
        with _WATCH.doing("starting"):
            _start_jax()
            from popgd.descent import processes
            from popgd.runs import digest, perform, store
            from popgd.runs.screen import show
            from popgd.theorem.report import find_theorem

            seconds = config.budget(values)
            setting, path = open_run()
            verdict = digest.of(find_theorem(setting.theorem))["verdict"]
            claim = (
                store.claimed(path, setting.describe(), verdict)
                if processes.first()
                else contextlib.nullcontext()
            )
            with _WATCH.later(path), claim as mine:
                stored = processes.told(lambda: mine)
                done = processes.told(lambda: {"done": store.holds(mine, verdict)}) == {
                    "done": True
                }
                content = (
                    stored
                    if stored and done
                    else perform.judge(setting, path, stored, _WATCH, seconds)
                )
        if processes.first():
            show(content, path, done)
        return EXIT[content["outcome"]]
    except Interrupted:
        return _last(
            f"{_WATCH.word}; what was done is saved, continue with resume={path}", _WATCH.code
        )
    except SettingError as error:
        return _say(str(error), BAD_INPUT)
    except OSError as error:
        where = f"cannot write in {path}" if path else f"cannot read or write {error.filename}"
        goes_on = f", then continue with resume={path}" if path else " or name another directory"
        return _say(f"{where} ({error.strerror}): make room there{goes_on}", BAD_INPUT)
    except Exception as error:
        from popgd.descent.processes import PeerLost

        if isinstance(error, PeerLost):
            return _lost(path)
        return _internal(
            (path or Path(".")) / "popgd-error.txt"
            if path is None or path.is_dir()
            else Path("popgd-error.txt")
        )


def _lost(path: Path | None) -> int:
    """The end of a run one of whose processes is gone; if a signal has told this one to end too, it
    says so.
    """
    goes_on = (
        f"what was done is saved, continue with resume={path}, with as many processes as you like"
    )
    if _WATCH.signal:
        return _last(f"{_WATCH.word}; {goes_on}", _WATCH.code)
    gone = (_WATCH.heart and _WATCH.heart.overdue()) or "another process of this run has ended"
    return _last(f"{gone}, which ends it here too; {goes_on}", PEER_LOST)


def _last(line: str, code: int) -> int:
    """The same as _say, unless the thread that watches is about to end this process and says so
    itself.
    """
    return _say(line, code) if _WATCH.last_word() else code


def _ended(end: guard.End) -> int:
    """The exit code of a process whose child did its work, and the line that the child could not
    say.
    """
    if end.code >= 0:
        return end.code
    goes_on = (
        "the same command goes on from what process 0 has saved, with as many processes as you like"
    )
    if end.relayed:
        _WATCH.signal = end.relayed
        return _say(f"{_WATCH.word}; {goes_on}", _WATCH.code)
    if end.code == -signal.SIGABRT:
        return _say(
            "JAX has ended this process, as it does where process 0 is gone (see above); "
            f"{goes_on}",
            PEER_LOST,
        )
    return _say(f"this process was killed by signal {-end.code}; {goes_on}", 128 - end.code)


def _hand_in(path: Path, words: dict[str, Any]) -> int:
    """Write a finished run as one hands it in, or print one of its claims in plain words."""
    from popgd.runs import handed

    for line in handed.handed(path, words):
        print(line)
    return 0


def _recheck(path: Path, words: dict[str, Any]) -> int:
    """Judge a finished run afresh and print what differs."""
    _start_jax()
    from popgd.runs.recheck import recheck
    from popgd.runs.screen import live, show_differences

    with _WATCH.doing("starting"), live(_WATCH.report) as (report, _):
        found = recheck(path, report)
    show_differences(found, path)
    return 1 if found.differences else 0


def _start_jax(peers: config.Peers | None = None) -> None:
    """float64, and a virtual CPU device for each core that this process may use, before JAX starts
    its backend.

    Two at least: programs for one device are compiled in another way, with other roundings, than
    those for any more.
    """
    # tracing makes millions of objects that live on: some 5 % of a short run
    gc.set_threshold(100_000, 20, 100)
    import jax

    jax.config.update("jax_enable_x64", True)
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # a backend already runs, as in the second job of a sweep
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", max(2, cache.cores()))
    cache.start()
    if peers:
        from popgd.descent import heartbeat, processes

        with _WATCH.doing("waiting for the other processes"):
            processes.start(peers)
        _WATCH.heart = heartbeat.Heart(processes.board(), peers.peer_timeout).start()
