"""A finished run, read from its directory: `load`."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from popgd.problem.errors import SettingError
from popgd.problem.number import Number
from popgd.runs import store
from popgd.theorem.verdict import Claim, Outcome


@dataclass(frozen=True)
class Stored:
    """What a run directory holds, as `check` would have returned it but for the studies.

    quantities are numbers with their errors, as bounds, NaN where there was no finite one; path
    has the recorded arrays by their names in trajectory.npz; figures are files by their names
    without .png; settings and environment are plain data.
    """

    theorem: str
    outcome: Outcome
    reason: str
    claims: tuple[Claim, ...]
    self_checks: tuple[Claim, ...]
    quantities: Mapping[str, Number]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    path: Mapping[str, np.ndarray]
    figures: Mapping[str, Path]


def load(directory: str | Path) -> Stored:
    """The finished run in a directory. Reads only, and judges nothing: `recheck=DIR` does.

    Raises SettingError (a ValueError) if no finished run is there, or it is damaged.
    """
    directory = Path(directory)
    if not (directory / store.REPORT).exists():
        unfinished = (directory / store.SETTINGS).exists()
        what = (
            f"the run is not finished; go on with it by resume={directory}"
            if unfinished
            else "no run is there"
        )
        raise SettingError(f"{directory}: {what}")
    report = store.read(directory / store.REPORT)
    try:
        return _whole(report, directory)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError(
            f"{directory / store.REPORT} is damaged ({error!r}): name another directory"
        ) from None


def _whole(report: Mapping[str, Any], directory: Path) -> Stored:
    return Stored(
        theorem=report["theorem"],
        outcome=Outcome(report["outcome"]),
        reason=report["reason"],
        claims=tuple(_claim(row) for row in report["claims"]),
        self_checks=tuple(_claim(row) for row in report["self_checks"]),
        quantities={
            name: Number(*(_finite(pair[key]) for key in ("value", "error")))
            for name, pair in report["quantities"].items()
        },
        settings=report["settings"],
        environment=report["environment"],
        path=stored_arrays(directory),
        figures={file.stem: file for file in sorted(directory.glob("*.png"))},
    )


def _finite(x: float | None) -> float:
    return np.nan if x is None else x


def _claim(row: Mapping[str, Any]) -> Claim:
    return Claim(
        **{
            **{field.name: row[field.name] for field in fields(Claim)},
            "outcome": Outcome(row["outcome"]),
        }
    )


def stored_arrays(directory: Path) -> dict[str, np.ndarray]:
    """The recorded arrays, none if there is no such file. Raises SettingError if it is damaged."""
    file = directory / store.TRAJECTORY
    try:
        with np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        return {}
    except (
        OSError,
        ValueError,
        AttributeError,
        EOFError,
        KeyError,
        BadZipFile,
        zlib.error,
    ) as error:
        raise SettingError(f"{file} is damaged ({error!r}): name another directory") from None
