"""A run, judged from what is recorded of its path, and stored."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from popgd.descent import processes
from popgd.descent.budget import Budget
from popgd.runs import digest, own, store
from popgd.runs.checkpoint import Checkpoint
from popgd.runs.screen import live
from popgd.runs.watchdog import Interrupted, Watchdog
from popgd.theorem.report import check_setting, find_theorem


def judge(
    setting: Any, path: Path, stored: dict[str, Any] | None, watch: Watchdog, seconds: float
) -> dict[str, Any]:
    """Judge a setting, from its recorded path on, and store the report; `stored` is one that does
    not hold any more, if any. Second stages of sampling have so many seconds.

    Raises Interrupted at a boundary after a signal, and PeerLost; what was done is then saved.
    """
    theorem = find_theorem(setting.theorem)
    parts = digest.of(theorem)["of"]
    identity = {"settings": store.settings_hash(setting.describe()), **parts}
    # hosts may have different ones
    processes.alike({name: value for name, value in identity.items() if name != "cpu"})
    checkpoint = Checkpoint(path / store.CHECKPOINT, identity, Budget(seconds))
    watch.saves(checkpoint.flush)
    if processes.first():
        note(why(stored, parts, checkpoint, path))
        note(own.keep(path, theorem))

    def stop_if_told() -> None:
        if watch.signal:
            checkpoint.flush()
            raise Interrupted

    with live(watch.report, quiet=not processes.first()) as (show, judged):

        def report(name: str, done: int, total: int) -> None:
            stop_if_told()
            show(name, done, total)

        try:
            found = check_setting(setting, report, checkpoint, judged)
        except processes.PeerLost:
            checkpoint.flush()
            raise
        stop_if_told()
        checkpoint.flush()
        content = processes.told(lambda: store.save_report(path, found))
        assert content is not None
        return content


def why(
    stored: dict[str, Any] | None, parts: Mapping[str, Any], checkpoint: Checkpoint, path: Path
) -> str:
    """Why a run that is stored in `path` is not just gone on with, in a line; "" if it is."""
    afresh = "gone on with from its recorded path" if checkpoint.parts else "measured afresh"
    afresh += "; the old report stays until the new one is written"
    if stored is not None:
        then = stored.get("digests", {}).get("of")
        if not isinstance(then, dict):
            return (
                f"the report in {path} is older, it does not tell what code it rests on: {afresh}"
            )
        changed = digest.changes(then, parts)
        if not changed and stored.get("unfinished"):
            return ""
        if changed:
            return f"changed since the report in {path} was written: {changed}: {afresh}"
        again = (
            "from the recorded path"
            if checkpoint.parts
            else ("and measured afresh, as no path is recorded")
        )
        return (
            f"the claims' code has changed since the report in {path} was written: judged "
            f"again {again}"
        )
    if checkpoint.before:
        kept = (
            f"what was done ({'; '.join(checkpoint.before.parts)}) is kept in {store.BEFORE} "
            "until the run is finished"
        )
        return (
            f"changed since the run in {path} was begun: {checkpoint.before.changed}: begun "
            f"afresh; {kept}"
        )
    if (path / store.FORMER).exists():
        return (
            f"{path / store.FORMER} is older, another popgd has written it: it is not used, "
            "and the run begun afresh"
        )
    return ""


def note(line: str) -> None:
    if line:
        print(f"popgd: {line}", file=sys.stderr, flush=True)
