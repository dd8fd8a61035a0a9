"""A stored run judged afresh: what in its report and its trajectory comes out differently.

The stored settings hold the seed and all sample sizes, so the same code does the same work: every
number comes out as it was, bit for bit on the same machine, and on another but for rounding. Code
that draws other samples may move a value by its error, as it is computed now: no stored number is
ever an allowance. Its errors and its trajectory are then others, and told as such.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from popgd.descent.memory import Arrays
from popgd.problem.errors import SettingError
from popgd.runs import older, own, store
from popgd.runs.perform import note
from popgd.runs.stored import stored_arrays
from popgd.theorem.base import Progress
from popgd.theorem.report import check_setting, restore

#: Rounding moves a number by this many units in the last place of the run's number format, relative
#: to itself, or absolutely where that is below 1 (numbers that should be 0 are rounding
#: themselves).
ROUNDINGS = 64
#: What rounding does, relative to themselves, to numbers that carry it from a long computation:
#: errors, allowances and all that is recorded along a descent. Measured between one device and two:
#: 3e-13 in float64, 6e-4 in float32.
AMPLIFIED = {"float64": 1e-9, "float32": 1e-2}
#: Two samples' means lie 4 standard errors of their difference apart by chance with probability
#: 6e-5: 4 sqrt(old^2 + new^2), and the error of both is the one computed now.
APART = 4 * 2**0.5
#: Arrays of a trajectory that bound the error of the one beside them.
BOUNDS = {
    "c": "bound",
    "log_sin": "rounding",
    "log_sin_exact": "rounding",
    "log_upper": "rounding",
    "log_lower": "rounding_lower",
}
_ENVIRONMENT = ("popgd", "revision", "jax", "jaxlib", "numpy", "python", "machine", "devices")
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


#: None where there is no finite number to tell.
Number = float | None


class Difference(NamedTuple):
    """One text or number, then and now; how far numbers are and may be apart, None if one is
    missing."""

    name: str
    then: Any
    now: Any
    difference: float | None = None
    allowed: float | None = None


class Recheck(NamedTuple):
    """What differs by more than it may, of how many, and how many others are not the same bits;
    then what differs from a report of an earlier version because that was meant, and why."""

    differences: list[Difference]
    compared: int
    moved: int
    then: str
    now: str
    corrections: list[tuple[str, str]]


def recheck(path: Path, progress: Progress) -> Recheck:
    """Judge the finished run in `path` once more from its settings. Writes nothing.

    Raises SettingError if there is no such run, or its report or trajectory is none.
    """
    if not (path / store.SETTINGS).exists():
        raise SettingError(f"recheck={path}: no run is there; name the directory of a finished run")
    settings = store.read(path / store.SETTINGS)
    note(own.summon(path, settings.get("theorem"), own.read(path)))
    if not (path / store.REPORT).exists():
        unfinished = f"the run is not finished; go on with it by resume={path}"
        raise SettingError(f"recheck={path}: {unfinished}")
    stored, form = store.read_stored(path / store.REPORT)
    setting = restore(settings)
    if stored.get("settings") != settings:
        other = f"{store.REPORT} is not that of {store.SETTINGS}; name another directory"
        raise SettingError(f"recheck={path}: {other}")
    if stored.get("unfinished"):
        more = f"its budget cut it; go on with it by resume={path} budget=SECONDS"
        raise SettingError(f"recheck={path}: the run is not finished, {more}")
    try:
        _check_numbers(stored)
        then = _environment(stored)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, store.REPORT, error) from None
    arrays = stored_arrays(path)
    report = check_setting(setting, progress)
    fresh = json.loads(json.dumps(store.content_of(report)))
    del fresh["format"]  # `store.read` has looked at the stored one
    pairs = [
        *_pairs(stored, fresh, setting.dtype),
        *_trajectory(arrays, store.trajectories(report)),
    ]
    apart = [pair for pair in pairs if pair.then != pair.now]
    beyond = [pair for pair in apart if not _allowed(pair)]
    reasons = [older.meant(pair.name, form) for pair in beyond]
    corrections = [(pair.name, why) for pair, why in zip(beyond, reasons, strict=True) if why]
    beyond = [pair for pair, why in zip(beyond, reasons, strict=True) if not why]
    moved = len(apart) - len(beyond) - len(corrections)
    return Recheck(beyond, len(pairs), moved, then, _environment(fresh), corrections)


def _allowed(pair: Difference) -> bool:
    if pair.difference is None or pair.allowed is None:
        return False
    return pair.difference <= pair.allowed  # not so if either is NaN


def _environment(content: dict[str, Any]) -> str:
    code = content.get("digests", {}).get("verdict", "")
    told = [f"{name} {content['environment'].get(name)}" for name in _ENVIRONMENT]
    return ", ".join([*told, f"code {code[:8] or None}"])


def _damaged(path: Path, name: str, error: Exception) -> SettingError:
    return SettingError(f"recheck={path}: {name} is damaged ({error!r}); name another directory")


_TEXTS, _NUMBERS = (
    ("id", "outcome", "statement", "source", "origin", "reason", "self_check"),
    ("predicted", "measured"),
)
_TRUST = ("error", "allowance", "detectable", "resolution")


def _check_numbers(report: dict[str, Any]) -> None:
    """ValueError, KeyError or TypeError unless texts are texts, numbers finite numbers or None, and
    every claim is there once."""
    texts = {name: report[name] for name in ("theorem", "outcome", "reason", "statement", "source")}
    numbers: dict[str, Any] = {}
    judged = [*report["claims"], *report["self_checks"]]
    for claim in judged:
        texts |= {f"{claim['id']}: {name}": claim[name] for name in _TEXTS}
        numbers |= {f"{claim['id']}: {name}": claim[name] for name in (*_NUMBERS, *_TRUST)}
    for name, quantity in report["quantities"].items():
        numbers |= {f"{name}: {key}": quantity[key] for key in ("value", "error")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{name} is {text}")
    for name, x in numbers.items():
        number = isinstance(x, int | float) and not isinstance(x, bool)
        if x is not None and not (number and abs(x) <= sys.float_info.max):
            raise ValueError(f"{name} is {str(x)[:20]}")
    if len({claim["id"] for claim in judged}) < len(judged):
        raise ValueError("a claim is there twice")


def _pairs(then: dict[str, Any], now: dict[str, Any], dtype: str) -> Iterator[Difference]:
    """Every field of the report but its settings, and of its environment only the seed."""
    yield from _missing("", then, now)
    for name in ("theorem", "outcome", "source"):
        yield Difference(name, then[name], now[name])
    yield _text("statement", then["statement"], now["statement"], dtype)
    yield _text("reason", then["reason"], now["reason"], dtype)
    yield Difference("seed", str(then["environment"].get("seed")), str(now["environment"]["seed"]))
    for kind, what in (("claims", "claim "), ("self_checks", "self-check ")):
        old, new = ({claim["id"]: claim for claim in content[kind]} for content in (then, now))
        yield from _missing(what, old, new)
        for name in filter(old.__contains__, new):
            yield from _claim(name, old[name], new[name], dtype)
    old, new = then["quantities"], now["quantities"]
    yield from _missing("quantity ", old, new)
    for name in filter(old.__contains__, new):
        a, b = old[name], new[name]
        yield from _missing(f"{name}: ", a, b)
        yield _value(name, a["value"], b["value"], b["error"], "float64")  # the exact engine's
        yield _error(f"{name}: error", a["error"], b["error"], b["value"], "float64")


def _claim(
    name: str,
    then: dict[str, Any],
    now: dict[str, Any],
    dtype: str,
) -> Iterator[Difference]:
    yield from _missing(f"{name}: ", then, now)
    for field in ("outcome", "source", "origin", "self_check"):
        yield Difference(f"{name}: {field}", then[field], now[field])
    for field in ("statement", "reason"):
        yield _text(f"{name}: {field}", then[field], now[field], dtype)
    for field in _NUMBERS:
        yield _value(f"{name}: {field}", then[field], now[field], now["error"], dtype)
    for field in _TRUST:
        yield _error(f"{name}: {field}", then[field], now[field], now["measured"], dtype)


def _missing(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """A difference for every name that only one of them has."""
    for name in sorted(then.keys() ^ now.keys()):
        states = ("there", "not there") if name in then else ("not there", "there")
        yield Difference(what + name, states[0], states[1])


def _value(name: str, then: Number, now: Number, error: Number, dtype: str) -> Difference:
    """A number with its error of now, if that is known: rounding and APART errors."""
    return _compare(name, then, now, _rounding(dtype, now) + APART * abs(error or 0.0))


def _error(name: str, then: Number, now: Number, value: Number, dtype: str) -> Difference:
    """An error or another number that says how far to trust `value`, whose rounding it may be."""
    allowed = _rounding("float64", value) + AMPLIFIED[dtype] * abs(now or 0.0)
    return _compare(name, then, now, allowed)


def _compare(name: str, then: Number, now: Number, allowed: float) -> Difference:
    """None, which is no finite number, is the same as None alone."""
    if then is None or now is None:
        return Difference(name, then, now)
    return Difference(name, then, now, abs(then - now), allowed)


def _text(name: str, then: str, now: str, dtype: str) -> Difference:
    """Two texts: the same words, and their numbers, which may be measured, as near as errors; the
    worst of them is told."""
    if _NUMBER.split(then) != _NUMBER.split(now):
        return Difference(name, then, now)
    worst = (0.0, 1.0)
    for old, new in zip(_NUMBER.findall(then), _NUMBER.findall(now), strict=True):
        a, b = float(old), float(new)
        gap = abs(a - b), AMPLIFIED["float64"] + AMPLIFIED[dtype] * abs(b)
        worst = max(worst, gap, key=lambda pair: pair[0] / pair[1])
    return Difference(name, then, now, *worst)


def _rounding(dtype: str, number: Number) -> float:
    return ROUNDINGS * float(np.finfo(dtype).eps) * max(1.0, abs(number or 0.0))


def _trajectory(then: Arrays, now: Arrays) -> Iterator[Difference]:
    """The recorded arrays, each at its worst entry."""
    yield from _missing(f"{store.TRAJECTORY} ", then, now)
    for name in filter(then.__contains__, now):
        a, b, shown = then[name], now[name], f"{store.TRAJECTORY} {name}"
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            yield Difference(shown, f"{a.dtype} {a.shape}", f"{b.dtype} {b.shape}")
        elif a.dtype.kind != "f":
            same = np.array_equal(a, b)
            yield Difference(shown, "the same", "the same" if same else "other whole numbers")
        else:
            group, _, last = name.rpartition("/")
            yield _array(shown, a, b, now.get(f"{group}/{BOUNDS.get(last)}", np.zeros(())))


def _array(name: str, then: np.ndarray, now: np.ndarray, bound: np.ndarray) -> Difference:
    """Rounding, and twice the bound where there is one: for then and for now. NaN is the same as
    NaN alone, and infinity as infinity."""
    with np.errstate(invalid="ignore"):
        same = (then == now) | (np.isnan(then) & np.isnan(now))
        size = np.where(np.isfinite(now), abs(now.astype(float)), 0.0)
        rounding = ROUNDINGS * float(np.finfo(now.dtype).eps) * np.maximum(1.0, size)
        bounds = 2 * np.nan_to_num(bound, nan=0.0, posinf=np.inf)
        allowed = rounding + AMPLIFIED[str(now.dtype)] * size + bounds
        gap = np.where(same, 0.0, abs(then.astype(float) - now.astype(float)))
        share = np.nan_to_num(gap / allowed, nan=np.inf, posinf=np.inf)
        excess = np.where(same | np.isinf(bounds), -1.0, share)
    if same.all():
        return Difference(name, "the same", "the same")
    i = np.unravel_index(int(np.argmax(excess)), excess.shape)
    return Difference(
        f"{name} {[int(k) for k in i]}",
        float(then[i]),
        float(now[i]),
        float(gap[i]),
        float(allowed[i]),
    )
