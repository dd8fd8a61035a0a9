"""Run directories: settings.json, report.json, trajectory.npz and the figures, each written whole or not at all."""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from popgd.config import SettingError

#: Settings that name a run; where it is stored does not.
REPORT, SETTINGS, TRAJECTORY = "report.json", "settings.json", "trajectory.npz"


def run_name(settings: dict[str, Any]) -> str:
    """THEOREM-HASH: the same settings have the same name."""
    text = json.dumps(settings, sort_keys=True)
    theorem = re.sub(r"[^A-Za-z0-9.]+", "-", str(settings["theorem"]))
    return f"{theorem}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def claim_directory(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Make the run directory ours; the stored report if this very run is finished there, else None.

    Raises SettingError if the directory cannot be written or holds a different run or foreign files.
    """
    try:
        if path.exists() and not path.is_dir():
            raise SettingError(f"out={path} is a file: name a directory that is new or holds this run")
        stored = path / SETTINGS
        if stored.exists():
            if json.loads(stored.read_text()) != settings:
                raise SettingError(f"out={path} holds a run with other settings: choose another directory")
        elif path.exists() and any(path.iterdir()):
            raise SettingError(f"out={path} is not empty and holds no run: choose another directory")
        else:
            path.mkdir(parents=True, exist_ok=True)
            write(stored, json.dumps(settings, indent=1, sort_keys=True).encode())
        report = path / REPORT
        return json.loads(report.read_text()) if report.exists() else None
    except OSError as error:
        raise SettingError(f"out={path} cannot be written ({error.strerror}): choose another directory") from None
    except ValueError as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError(f"out={path} holds files that are not a run's: choose another directory") from None


def write(path: Path, content: bytes) -> None:
    """Write through a temporary file beside it: after a crash the old file or the new one is there, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_through(path: Path, save: Callable[[Any], None]) -> None:
    """`write` for what a library saves to a file object."""
    import io

    buffer = io.BytesIO()
    save(buffer)
    write(path, buffer.getvalue())


def revision() -> str | None:
    """The git revision of popgd's own checkout, if it runs from one."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        shown = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return shown.stdout.strip() or None


def save_report(path: Path, report: Any) -> dict[str, Any]:
    """Write trajectory, figures and at last report.json, whose presence says that the run is finished."""
    import matplotlib

    matplotlib.use("Agg")
    arrays = trajectories(report)
    if arrays:
        write_through(path / TRAJECTORY, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))
    for name, figure in report.figures().items():
        write_through(path / f"{name}.png", lambda file, figure=figure: figure.savefig(file, format="png", dpi=150))
    content = report.to_json()
    content["environment"]["revision"] = revision()
    write(path / REPORT, json.dumps(content, indent=1, allow_nan=False).encode())
    return content


def trajectories(report: Any) -> dict[str, np.ndarray]:
    """All recorded arrays of a report, named study/descent/field."""
    arrays = {}
    for suffix, study in report.studies.items():
        prefix = suffix.lstrip("@") + "/" if suffix else ""
        for name in ("raw", "raw_double", "projected"):
            fields = getattr(study, name)._asdict()
            arrays |= {f"{prefix}{name}/{key}": value for key, value in fields.items() if isinstance(value, np.ndarray)}
        exact = study.exact.records
        a, b = exact.weights
        columns = {"step": exact.step, "a": a, "b": b, "c": exact.c, "dc": exact.dc, "bound": exact.bound}
        arrays |= {f"{prefix}exact/{key}": np.asarray(value) for key, value in columns.items()}
    return arrays
