"""A table of numbers from a file, or one line that says why it is none.

A .csv says nothing of what its first row and column are, and every program writes them in its own
way. What can only be a header, an index or a comment is left out, and told; what may be one, or may
be data, is refused.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np

from popgd.problem.errors import SettingError

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
#: A number with a comma where the point is: a file of these alone has no other commas in numbers.
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?")
#: What programs write where a number is missing, in lower case.
MISSING = {"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nat"}
INFINITE = {f"{sign}{word}" for sign in ("", "+", "-") for word in ("inf", "infinity")}
#: pandas leaves the cell above its index empty, and reads that back as a column of this name.
UNNAMED = "Unnamed: "
OR = "which may be data or"
HELP = "save it as .npy, or without header and index, its numbers with a decimal point"


class Table(NamedTuple):
    """The numbers of a file as float64, and what of it is no number and was left out, in words."""

    array: np.ndarray
    left_out: tuple[str, ...] = ()


def read(path: Path, name: str) -> Table:
    """The real numbers in a .npy file, of any shape, or a .csv file, (rows, columns), for `name`.

    Entries may be infinite or NaN in a .npy file, and beyond float64, so infinite, in both. Raises
    SettingError (one line): no such file, no numbers, or a .csv whose header, index or comments may
    be data.
    """
    reader = {".npy": _npy, ".csv": _csv}.get(path.suffix.lower())
    if reader is None:
        raise SettingError(f"{name}={path}: a .npy or .csv file was wanted")
    try:
        return reader(path)
    except OSError as error:
        why = f"cannot be read ({error.strerror or error}): name a .npy or .csv file"
        raise SettingError(f"{name}={path} {why}") from None
    except MemoryError:
        why = "does not fit into memory, or is damaged: give a smaller table"
        raise SettingError(f"{name}={path} {why}") from None
    except ValueError as error:
        raise SettingError(f"{name}={path} {error}") from None


def _npy(path: Path) -> Table:
    """The one array of a .npy file: no archive, nothing pickled, nothing after it."""
    with path.open("rb") as file:
        try:
            array = np.lib.format.read_array(file, allow_pickle=False)
        except (
            ValueError,
            EOFError,
            SyntaxError,
            TokenError,
        ):  # the last two of a header that is no header
            raise ValueError("holds no .npy array of numbers: save one by numpy.save") from None
        if file.read(1):
            raise ValueError("holds more than one array: save the one that is meant by itself")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"holds {array.dtype}: real numbers were wanted")
    with np.errstate(over="ignore"):  # a long double beyond float64 becomes infinite
        return Table(np.asarray(array, dtype=np.float64))


def _csv(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without the mark that Excel writes
    except UnicodeDecodeError:
        raise ValueError("is no UTF-8 text: save it as CSV UTF-8") from None
    lines = text.rstrip().split("\n") if text.strip() else []
    comments = _comments(lines)
    rows = [[cell.strip() for cell in line.split(",")] for line in lines[comments:]]
    _check_form(lines, rows, comments)
    header, index = _labels(rows)
    numbers = [[*map(float, row[index:])] for row in _checked(rows, header, index, comments)]
    told = [f"{comments} comment line{'s' * (comments > 1)}"] if comments else []
    told += ["the header"] * header + ["the index column"] * index
    return Table(np.array(numbers, dtype=np.float64), tuple(told))


def _comments(lines: Sequence[str]) -> int:
    """How many lines at the top begin with # and have no number in a cell. ValueError if any other
    line begins so."""
    marked = [i for i, line in enumerate(lines) if line.lstrip().startswith("#")]
    for number, i in enumerate(marked):
        inside = [cell.strip() for cell in lines[i].lstrip().lstrip("#").split(",")]
        if i != number or any(NUMBER.fullmatch(cell) for cell in inside):
            wanted = "delete the line if it is a comment, else the #"
            raise ValueError(f"begins line {i + 1} with #, which may be data: {wanted}")
    return len(marked)


def _check_form(lines: Sequence[str], rows: Sequence[Sequence[str]], comments: int) -> None:
    """ValueError unless this is a table with commas, all its rows of one length."""
    if not rows:
        raise ValueError("is empty: a table of numbers was wanted")
    for mark, word in ((";", "semicolons"), ("\t", "tabs")):
        if any(mark in line for line in lines[comments:]):
            wanted = "write it with commas between the numbers, and with decimal points"
            raise ValueError(f"has {word} in it: {wanted}")
    if len(rows[0]) > 1 and all(row[-1] == "" for row in rows):
        raise ValueError("ends every line with a comma: leave it out")
    spaced = [cell for line in lines[comments:] for cell in re.split(r",?\s+", line.strip())]
    if len(spaced) > len(rows) and all(map(DECIMAL_COMMA.fullmatch, spaced)):
        point = spaced[0].replace(",", ".")
        raise ValueError(f"writes {spaced[0]} with a decimal comma: write {point}")
    for number, (line, row) in enumerate(zip(lines[comments:], rows, strict=True), comments + 1):
        if not line.strip():
            raise ValueError(f"has nothing in line {number}: leave out empty lines")
        if any(cell.count('"') % 2 for cell in row):
            what = f"a comma or a line break within quotes in line {number}"
            raise ValueError(f"has {what}: write numbers as 1234.5, and names without")
        if len(row) != len(rows[0]):
            raise ValueError(
                f"has {len(row)} cells in line {number} and {len(rows[0])} in line {comments + 1}: "
                "give every row, the header too, as many"
            )


def _labels(rows: Sequence[Sequence[str]]) -> tuple[bool, bool]:
    """Whether the first row is a header and the first column an index. ValueError where one may be
    and may not."""
    first, column = rows[0], [row[0] for row in rows]
    top, side = first[1:], column[1:]
    if any(cell.strip('"').startswith(UNNAMED) for cell in top):
        raise ValueError(f"has a column {UNNAMED}..., an index that was saved twice: {HELP}")
    if top and (not first[0].strip('"') or first[0].strip('"').startswith(UNNAMED)):
        if side and (_names(top) or _count(top)) and all(map(_label, side)):
            return True, True
        raise ValueError(f"has nothing in its first cell, and no header beside it: {HELP}")
    header = _names(first)
    below = side if header else column
    index = bool(top) and _names(below)
    if not header and len(rows) > 1 and _count(top if index else first):
        raise ValueError(f"begins with the row {_shown(first)}, {OR} a header: {HELP}")
    if top and not index and len(below) > 1 and _count(below):
        raise ValueError(f"begins its rows with {_shown(below)}, {OR} an index: {HELP}")
    return header, index


def _names(cells: Sequence[str]) -> bool:
    return bool(cells) and all(map(_named, cells))


def _named(cell: str) -> bool:
    """Whether a cell is a name: it begins with a letter, or is in quotes and no number but a whole
    one."""
    inner = cell[1:-1] if len(cell) > 2 and cell[0] == cell[-1] == '"' else ""
    word = inner or cell
    if word.lower() in MISSING | INFINITE or '"' in word:
        return False
    if inner:
        return inner.isdecimal() or not NUMBER.fullmatch(inner)
    return word[0].isalpha() or word[0] == "_"


def _label(cell: str) -> bool:
    """Whether a cell below an empty one may be an index: there, and no number but a whole one."""
    inner = cell.strip('"')
    if inner.lower() in MISSING | INFINITE:
        return False
    return inner.isdecimal() or not NUMBER.fullmatch(inner)


def _count(cells: Sequence[str]) -> bool:
    """Whether these are 0, 1, 2, ... as pandas numbers rows and columns, or 1, 2, 3, ..."""
    found = [cell.strip('"') for cell in cells]
    size = len(found)
    first = 1 if size > 1 and found[0] == "1" else 0
    return found == [*map(str, range(first, first + size))]


def _checked(
    rows: Sequence[list[str]],
    header: bool,
    index: bool,
    comments: int,
) -> Sequence[list[str]]:
    """The rows below the header. ValueError unless there are any, of numbers beside the index."""
    if len(rows) == header:
        raise ValueError("has a header and no rows: a table of numbers was wanted")
    for number, row in enumerate(rows[header:], comments + header + 1):
        for place, cell in enumerate(row[index:], index + 1):
            if not NUMBER.fullmatch(cell):
                what, wanted = _fault(cell)
                raise ValueError(f"has {what} in line {number}, cell {place}: {wanted}")
    return rows[header:]


def _fault(cell: str) -> tuple[str, str]:
    """What a cell is that is no number, and what to do about it."""
    inner = cell.strip('"')
    if inner.lower() in MISSING:
        return _shown([inner]) or "nothing", "leave out what is missing"
    if inner.lower() in INFINITE:
        return cell, "finite numbers were wanted"
    if NUMBER.fullmatch(inner):
        return _shown([cell]), "write numbers without quotes"
    return (
        f"the text {_shown([cell])}",
        "real numbers like 0.5 or 5e-1 were wanted, commas between them",
    )


def _shown(cells: Sequence[str]) -> str:
    """A few cells on one line."""
    text = ", ".join(cells[:4]) + (", ..." if len(cells) > 4 else "")
    return ascii(text)[1:-1] if len(text) <= 60 else ascii(text[:60])[1:-1] + "..."
