"""Run directories: settings.json, report.json, trajectory.npz and the figures, each written whole
or not at all.
"""

import contextlib
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from popgd.problem.errors import SettingError
from popgd.runs import digest, older
from popgd.theorem.verdict import Claim, Outcome

#: The number of the format of settings.json and report.json; it changes when a key changes its
#: meaning or goes.
FORMAT = 7
REPORT, SETTINGS, TRAJECTORY, CHECKPOINT = (
    "report.json",
    "settings.json",
    "trajectory.npz",
    "path.npz",
)
#: What every report.json has, and every claim in it.
_REPORT = {
    "theorem",
    "outcome",
    "reason",
    "settings",
    "environment",
    "claims",
    "self_checks",
    "quantities",
}
_CLAIM = {field.name for field in fields(Claim)}
#: A path that the code of today cannot go on with, kept until the run is finished.
BEFORE = "path-before.npz"
#: What earlier versions went on from.
FORMER = "checkpoint.npz"
ERROR, LOCK, PART = "popgd-error.txt", ".lock", ".part"


def run_name(settings: dict[str, Any]) -> str:
    """THEOREM-HASH: the same settings have the same name."""
    theorem = re.sub(r"[^A-Za-z0-9.]+", "-", str(settings["theorem"]))
    return f"{theorem}-{settings_hash(settings)[:10]}"


def settings_hash(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> dict[str, Any]:
    """settings.json or report.json, less its format number, in today's words. Raises SettingError
    if it is no such file.
    """
    return read_stored(path)[0]


def read_stored(path: Path) -> tuple[dict[str, Any], int]:
    """The same, and the number of the format that it was stored in."""
    try:
        stored = json.loads(path.read_text())
    except OSError as error:
        raise SettingError(
            f"{path} cannot be read ({error.strerror}): name a directory that holds a run"
        ) from None
    except ValueError as error:
        raise SettingError(
            f"{path} is damaged, it is no JSON ({error}): name another directory"
        ) from None
    found = stored.pop("format", None) if isinstance(stored, dict) else None
    if not isinstance(found, int):
        raise SettingError(f"{path} is not a run's, it has no format: name another directory")
    if found != FORMAT and found not in older.CORRECTED:
        which = "an older" if found < FORMAT else "a newer"
        raise SettingError(
            f"{path} has format {found}, of {which} popgd; this one reads format "
            f"{min(older.CORRECTED)} to {FORMAT}: "
            "use the version that wrote it, or name another"
        )
    if path.name != REPORT:
        return stored, found
    if found in older.RENAMED:
        with contextlib.suppress(KeyError, TypeError, AttributeError):  # which then is not whole
            stored = older.in_todays_words(stored, found)
    if not _whole(stored) or not isinstance(
        stored.get("digests", {} if found in older.RENAMED else None), dict
    ):
        raise SettingError(
            f"{path} is damaged: name another directory, or delete it and go on "
            "with the run by resume="
        )
    return stored, found


def _whole(report: dict[str, Any]) -> bool:
    """Whether a report has all that is read from one."""
    judged: list[Any] = [report.get(name) for name in ("claims", "self_checks")]
    return (
        report.keys() >= _REPORT
        and all(isinstance(rows, list) for rows in judged)
        and all(isinstance(row, dict) and row.keys() >= _CLAIM for rows in judged for row in rows)
        and report["outcome"] in {*Outcome}
    )


@contextlib.contextmanager
def claimed(path: Path, settings: dict[str, Any], verdict: str) -> Iterator[dict[str, Any] | None]:
    """The run directory, ours alone inside; yields the report that is stored there of this very
    run, or None.

    If that holds by the digest `verdict` of the code here, nothing is left to do, and nothing is
    locked. Raises SettingError if the directory cannot be written, is in use, or holds a different
    run or foreign files.
    """
    with contextlib.ExitStack() as held:
        try:
            if path.exists() and not path.is_dir():
                raise SettingError(
                    f"{path} is a file: name a directory that is new or holds this run"
                )
            report = _stored(path, settings)
            if not holds(report, verdict):
                path.mkdir(parents=True, exist_ok=True)
                held.callback(_release, path, lock(path))
                for file in path.glob(f".*{PART}"):  # of a process killed while it wrote
                    file.unlink(missing_ok=True)
                report = _stored(path, settings)  # another process may just have finished
            if report is None and not (path / SETTINGS).exists():
                write(
                    path / SETTINGS,
                    json.dumps({"format": FORMAT, **settings}, indent=1, sort_keys=True).encode(),
                )
        except OSError as error:
            raise SettingError(
                f"{path} cannot be written ({error.strerror}): make room, or "
                "choose another directory"
            ) from None
        yield report
        if holds(_stored(path, settings), verdict):  # nobody writes into it any more
            _tidy(path)


def holds(report: dict[str, Any] | None, verdict: str) -> bool:
    """Whether a report is whole, and what the code with this digest would find again."""
    if report is None or report.get("unfinished"):
        return False
    return report.get("digests", {}).get("verdict") == verdict


def _release(path: Path, handle: int) -> None:
    with contextlib.suppress(OSError):
        (path / LOCK).unlink(missing_ok=True)
    os.close(handle)


def _stored(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The report, if there is one. Raises SettingError if the directory holds anything but this
    run.
    """
    if not (path / SETTINGS).exists():
        ours = (
            (name.name == LOCK or name.name.endswith(PART) for name in path.iterdir())
            if path.exists()
            else ()
        )
        if not all(ours):  # these two are what a process killed in its first moments leaves
            raise SettingError(f"{path} is not empty and holds no run: choose another directory")
        return None
    if read(path / SETTINGS) != settings:
        raise SettingError(f"{path} holds a run with other settings: choose another directory")
    return read(path / REPORT) if (path / REPORT).exists() else None


def lock(path: Path) -> int:
    """An open file that holds the directory's lock. The lock ends with the process, however that
    ends, so none is stale.

    It may be deleted while it is held: whoever opened the deleted file and then gets its lock sees
    that it has no name any more, and begins again. Raises SettingError if another process holds it.
    """
    while True:
        handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise SettingError(
                f"{path} is in use by another process: wait for it, or choose another directory"
            ) from None
        except (ImportError, OSError):
            # No locks on this system or file system: two processes would both do the work, but as
            # each writes whole files, and the same ones, neither would leave anything but this run.
            return handle
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path / LOCK)):
                return handle
        os.close(handle)


def _tidy(path: Path) -> None:
    """Delete what only an unfinished run needs; a directory that may not be changed stays as is."""
    with contextlib.suppress(OSError):
        for file in (
            path / BEFORE,
            path / FORMER,
            path / ERROR,
            path / LOCK,
            *path.glob(f".*{PART}"),
        ):
            file.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Write through a temporary file beside it: after a crash the old file or the new one is there,
    never half of one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system can; the file itself is safe
            os.fsync(directory)
    finally:
        os.close(directory)


def write_through(path: Path, save: Callable[[Any], None]) -> None:
    """`write` for what a library saves to a file object."""
    import io

    buffer = io.BytesIO()
    save(buffer)
    write(path, buffer.getvalue())


def write_picture(path: Path, figure: Any) -> None:
    """`write` for a figure of matplotlib's."""
    import matplotlib

    matplotlib.use("Agg")
    write_through(path, lambda file: figure.savefig(file, format="png", dpi=150))


def revision() -> str | None:
    """The git revision of popgd's own checkout, if it runs from one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        shown = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return shown.stdout.strip() or None


def save_report(path: Path, report: Any) -> dict[str, Any]:
    """Write trajectory, figures and at last report.json, whose digests say by what code the run is
    finished.
    """
    arrays = trajectories(report)
    if arrays:
        write_through(
            path / TRAJECTORY, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays)
        )
    for name, figure in report.figures().items():
        write_picture(path / f"{name}.png", figure)
    content = content_of(report)
    write(path / REPORT, json.dumps(content, indent=1, allow_nan=False).encode())
    return content


def content_of(report: Any) -> dict[str, Any]:
    """What report.json holds."""
    content = {"format": FORMAT, **report.to_json()}
    content["environment"]["revision"] = revision()
    content["digests"] = digest.of(report.theorem)
    return content


def trajectories(report: Any) -> dict[str, np.ndarray]:
    """All recorded arrays of a report, those of target y under y/."""
    parts = (
        (suffix.lstrip("@") + "/" if suffix else "", study)
        for suffix, study in report.studies.items()
    )
    return {
        prefix + name: array for prefix, study in parts for name, array in study.arrays().items()
    }
