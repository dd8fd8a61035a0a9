"""Readers of settings: what was given, a text on the command line or a value from Python, as the
value that is meant.

Each raises ValueError, in words that say what was wanted; what it returns it reads as the same
again, as stored settings are.
"""

import difflib
import hashlib
import math
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

#: Digits of a checksum: no two files that anyone has share 64 bits of SHA-256.
CHECKSUM = 16


def number(value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        ratio = isinstance(value, str) and "/" in value
        given = float(Fraction(value)) if ratio else float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise ValueError("a number was wanted") from None
    if not math.isfinite(given):
        raise ValueError("a finite number was wanted")
    return given


def integer(value: Any) -> int:
    given = number(value)
    if given != math.floor(given):
        raise ValueError("an integer was wanted")
    return int(value) if isinstance(value, int) else int(Fraction(str(value)))


def whole(least: int, most: int = 9 * 10**18) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        given = number(value)
        if given != math.floor(given) or given < least:
            raise ValueError(f"an integer of at least {least} was wanted")
        if given > most:
            raise ValueError(f"an integer of at most {most:.3g} was wanted".replace("e+", "e"))
        return integer(value)

    return read


def positive(value: Any) -> float:
    given = number(value)
    if given <= 0:
        raise ValueError("a positive number was wanted")
    return given


def not_negative(value: Any) -> float:
    given = number(value)
    if given < 0:
        raise ValueError("a number that is not negative was wanted")
    return given


def probability(value: Any) -> float:
    given = number(value)
    if not 1e-300 <= given < 1:
        raise ValueError("a number between 0 and 1 was wanted, and at least 1e-300")
    return given


def auto_or(reader: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value == "auto" else reader(value)


def one_of(*names: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if str(value) not in names:
            raise ValueError(
                "one of " + ", ".join(names) + " was wanted" + nearest(str(value), names)
            )
        return str(value)

    return read


def flag(value: Any) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise ValueError("true or false was wanted")
    return str(value).lower() == "true"


def numbers(value: Any) -> tuple[float, ...]:
    wanted = "a list of positive numbers like [3,2,1] was wanted"
    result = _list(value, wanted, "[3,2,1]")
    if min(result) <= 0:
        raise ValueError(f"{wanted}, and {min(result):g} is not positive")
    return result


def signed(value: Any) -> tuple[float, ...]:
    return _list(value, "a list of numbers like [1,.6,-.3] was wanted", "[1,.6,-.3]")


def _list(value: Any, wanted: str, quoted: str) -> tuple[float, ...]:
    if isinstance(value, str):
        inner = value.strip()
        if inner[:1] + inner[-1:] in ("[]", "()"):
            inner = inner[1:-1]
        if set(inner) & set("[]()"):
            raise ValueError(f"{wanted}, and a bracket is not closed (quoted: '{quoted}')")
        value = [x for x in inner.split(",") if x.strip()]
    if not hasattr(value, "__iter__"):
        raise ValueError(wanted)
    result = tuple(number(x) for x in value)
    if not result:
        raise ValueError(wanted)
    return result


def text(value: Any) -> str:
    if not str(value).strip():
        raise ValueError("a name was wanted")
    return str(value)


def named(value: Any) -> tuple[str, str]:
    """The path and the checksum, if there is one, of PATH#CHECKSUM. A # that no checksum follows
    belongs to the path.
    """
    name, _, told = str(value).rpartition("#")
    return (
        (name, told) if name and re.fullmatch(f"[0-9a-f]{{{CHECKSUM}}}", told) else (str(value), "")
    )


def file(value: Any) -> str:
    """PATH#CHECKSUM: the name of a file together with what is in it, so that a run is known by its
    data.

    A checksum that comes with the name must still be right. Raises ValueError if it is not, or
    there is no such file.
    """
    name, told = named(value)
    if Path(name).exists() and not Path(name).is_file():
        raise ValueError(
            "it is no file; name a file that is there"
        )  # a device or a pipe might never end
    try:
        with Path(name).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()[:CHECKSUM]
    except OSError as error:
        raise ValueError(
            f"it cannot be read ({error.strerror}); name a file that is there"
        ) from None
    if told not in ("", found):
        raise ValueError(
            f"the file has changed, its checksum is {found} now; name it without #{told}"
        )
    return f"{name}#{found}"


def run_directory(value: Any) -> str:
    """The same of the directory of a finished run, by its trajectory.npz."""
    name, told = named(value)
    path, mark = Path(name), "#" if told else ""
    if not path.is_dir():
        raise ValueError("no run is there; name the directory of a finished run")
    if not (path / "trajectory.npz").exists():
        raise ValueError(
            "the run there is not finished, it has no trajectory.npz; go on with it by resume="
        )
    return name + file(f"{path / 'trajectory.npz'}{mark}{told}").removeprefix(
        str(path / "trajectory.npz")
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that may have been meant, as the end of a line; empty if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def word(value: object) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value >= 10**6 and value == int(float(f"{value:.3g}")):
        return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
    if isinstance(value, tuple | list):
        return f"[{','.join(map(word, value))}]"
    return str(value).removesuffix(".0")
