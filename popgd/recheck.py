"""A stored run judged afresh: which outcomes and numbers come out differently."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from popgd import store
from popgd.config import SettingError
from popgd.report import check_setting, restore
from popgd.theory.base import Progress

#: Two results may differ by this many units in the last place of the run's number format, relative to the larger, or
#: absolutely where that is below 1 (numbers that should be 0 are rounding themselves), and by their stated errors.
ROUNDINGS = 64
_ENVIRONMENT = ("popgd", "revision", "jax", "jaxlib", "numpy", "python", "machine", "devices")


class Difference(NamedTuple):
    """One outcome (text) or number, then and now; for numbers how far they are and may be apart, None if one is missing."""

    name: str
    then: Any
    now: Any
    difference: float | None = None
    allowed: float | None = None


class Recheck(NamedTuple):
    """What differs by more than its errors, how many were compared, and how many others are not the same bits."""

    differences: list[Difference]
    compared: int
    moved: int
    then: str
    now: str


def recheck(path: Path, progress: Progress) -> Recheck:
    """Judge the finished run in `path` once more from its settings. Writes nothing.

    |difference| <= stored error + new error + rounding counts as the same. Raises SettingError if there is no such run.
    """
    if not (path / store.SETTINGS).exists():
        raise SettingError(f"recheck={path}: no run is there; name the directory of a finished run")
    settings = store.read(path / store.SETTINGS)
    if not (path / store.REPORT).exists():
        raise SettingError(f"recheck={path}: the run is not finished; go on with it by resume={path}")
    stored = store.read(path / store.REPORT)
    setting = restore(settings)
    if stored.get("settings") != settings:
        raise SettingError(f"recheck={path}: {store.REPORT} is not that of {store.SETTINGS}; name another directory")
    fresh = json.loads(json.dumps(store.content_of(check_setting(setting, progress))))
    try:
        pairs = list(_pairs(stored, fresh, setting.dtype))
    except (KeyError, TypeError, AttributeError) as error:
        raise SettingError(f"recheck={path}: {store.REPORT} is damaged ({error!r}); name another directory") from None
    apart = [pair for pair in pairs if pair.then != pair.now]
    beyond = [p for p in apart if p.difference is None or p.allowed is None or not p.difference <= p.allowed]
    return Recheck(beyond, len(pairs), len(apart) - len(beyond), _environment(stored), _environment(fresh))


def _pairs(then: dict[str, Any], now: dict[str, Any], dtype: str) -> Iterator[Difference]:
    """Everything that is compared: outcomes, predicted and measured numbers of claims, and quantities."""
    yield Difference("outcome", then["outcome"], now["outcome"])
    old, new = ({claim["id"]: claim for claim in content["claims"]} for content in (then, now))
    missing = {"outcome": "no such claim", "predicted": None, "measured": None, "error": None}
    for name in {**old, **new}:
        a, b = old.get(name, missing), new.get(name, missing)
        yield Difference(f"{name}: outcome", a["outcome"], b["outcome"])
        for number in ("predicted", "measured"):
            yield _compare(f"{name}: {number}", (a[number], a["error"]), (b[number], b["error"]), dtype)
    old, new, missing = then["quantities"], now["quantities"], {"value": None, "error": None}
    for name in {**old, **new}:
        a, b = old.get(name, missing), new.get(name, missing)
        yield _compare(name, (a["value"], a["error"]), (b["value"], b["error"]), "float64")  # the exact engine's


def _compare(name: str, then: tuple, now: tuple, dtype: str) -> Difference:
    (a, error_a), (b, error_b) = then, now
    if a is None or b is None:
        return Difference(name, a, b)
    rounding = ROUNDINGS * float(np.finfo(dtype).eps) * max(1.0, abs(a), abs(b))
    errors = (np.inf if error is None else abs(error) for error in (error_a, error_b))
    return Difference(name, a, b, abs(a - b), rounding + sum(errors))


def _environment(content: dict[str, Any]) -> str:
    environment = content.get("environment", {})
    return ", ".join(f"{name} {environment.get(name)}" for name in _ENVIRONMENT)
