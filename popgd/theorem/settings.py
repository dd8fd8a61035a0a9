"""Settings: one table with every name, default, reader and help text; the command line and `check`
both read it.

JAX is not imported here, so that a slip of the pen is answered at once.
"""

import difflib
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from popgd.descent.heartbeat import PEER_TIMEOUT, Peers
from popgd.problem.errors import SettingError

#: Digits of a checksum: no two files that anyone has share 64 bits of SHA-256.
CHECKSUM = 16
#: Test laws of `inference_data`, which needs JAX.
TESTS = ("spiked", "clustered", "heavy", "axes", "near", "repeated", "deficient")


#: Samples of one key: a sample's number is a word of 32 bits. Some numbers take up to 16 times as
#: many as are asked for.
MOST_SAMPLES = 2**28


def whole(least: int, most: int = 9 * 10**18) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = _number(value)
        if number != math.floor(number) or number < least:
            raise ValueError(f"an integer of at least {least} was wanted")
        if number > most:
            raise ValueError(f"an integer of at most {most:.3g} was wanted".replace("e+", "e"))
        return int(value) if isinstance(value, int) else int(Fraction(str(value)))

    return read


def positive(value: Any) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError("a positive number was wanted")
    return number


def probability(value: Any) -> float:
    number = _number(value)
    if not 1e-300 <= number < 1:
        raise ValueError("a number between 0 and 1 was wanted, and at least 1e-300")
    return number


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
    if isinstance(value, str):
        inner = (
            value.strip().removeprefix("[").removesuffix("]").removeprefix("(").removesuffix(")")
        )
        value = [x for x in inner.split(",") if x.strip()]
    wanted = "a list of positive numbers like [3,2,1] was wanted"
    if not hasattr(value, "__iter__"):
        raise ValueError(wanted)
    result = tuple(_number(x) for x in value)
    if not result or min(result) <= 0:
        raise ValueError(wanted + (f", and {min(result):g} is not positive" if result else ""))
    return result


def numbers_or_matrix(value: Any) -> tuple:
    """Positive numbers, or from Python the rows of a matrix."""
    if (
        hasattr(value, "__iter__")
        and not isinstance(value, str)
        and any(hasattr(row, "__iter__") for row in value)
    ):
        return tuple(tuple(_number(x) for x in row) for row in value)
    return numbers(value)


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


def _number(value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise ValueError("a number was wanted") from None
    if not math.isfinite(number):
        raise ValueError("a finite number was wanted")
    return number


class Entry(NamedTuple):
    default: Any
    read: Callable[[Any], Any]
    help: str


#: Every setting. A default of None is filled in from the theorem and the other settings.
TABLE: dict[str, Entry] = {
    "theorem": Entry(None, text, "which theorem to judge; see the list below"),
    "law": Entry(
        None, one_of("uniform", "rotated"), "law of the data: uniform (Task 1) or rotated (Task 2)"
    ),
    "d": Entry(None, whole(1), "data dimension"),
    "n": Entry(None, whole(1), "number of data columns (default of the uniform law: 4 d)"),
    "spectrum": Entry(
        None, numbers, "eigenvalues of S = X X^T; alone it implies law=rotated, d and n"
    ),
    "covariance": Entry(
        None,
        numbers_or_matrix,
        "eigenvalues of the covariance Sigma of the inputs; from Python a matrix too",
    ),
    "shift": Entry(
        None,
        numbers,
        "eigenvalues of Sigma^-1 Sigma_test where the test law is another (default 0.6 to 1.4)",
    ),
    "L": Entry(None, whole(1), "number of loops, where the theorem has loops"),
    "eta": Entry(None, auto_or(positive), "step size of gradient descent; auto: from the law"),
    "init": Entry(
        "P21", one_of("P21", "Q12"), "the active block that starts at I; the other starts at 0"
    ),
    "target": Entry(
        None,
        one_of("normalised", "unnormalised"),
        "y = Sq/|Sq| or Sq; unless told, both are judged",
    ),
    "steps": Entry(10**18, whole(1), "gradient steps of the exact descent"),
    "sampled_steps": Entry(500, whole(1), "gradient steps of each Monte Carlo descent"),
    "batch": Entry(256, whole(2, MOST_SAMPLES), "samples per step of a Monte Carlo descent"),
    "samples": Entry(
        2**15, whole(2, MOST_SAMPLES), "samples of each Monte Carlo population gradient"
    ),
    "spectra": Entry(64, whole(2), "sampled spectra of a law whose spectrum is random"),
    "bank": Entry(False, flag, "descend on one fixed batch instead of fresh samples at each step"),
    "optimiser": Entry(
        "sgd", one_of("sgd", "momentum", "adam"), "optax optimiser; the theorems are about sgd"
    ),
    "dtype": Entry(
        "float64", one_of("float64", "float32"), "number format of the Monte Carlo part"
    ),
    "seed": Entry(0, whole(0), "seed of all sampling"),
    "false_alarm": Entry(
        1e-6, probability, "probability that a whole report refutes a true theorem by chance"
    ),
    "assume": Entry(
        "check", one_of("check", "ignore"), "ignore: judge even where a hypothesis fails"
    ),
    "trained": Entry(
        None, run_directory, "loop the model of this finished run directory instead of training one"
    ),
    "test": Entry(
        "all", one_of("all", *TESTS), "law of the test data: all, or " + ", ".join(TESTS)
    ),
    "data": Entry(
        None, file, "test data of one's own: a .npy or .csv file (d, n), each column a data point"
    ),
    "normalise": Entry(False, flag, "divide each column of `data` by its norm"),
    "query": Entry(
        None,
        file,
        "a query of one's own instead of random ones: a .npy or .csv file with d numbers",
    ),
    "loops": Entry(50, whole(1), "how often the trained layer is looped on test data"),
    "claim.exponent": Entry(
        None, positive, "judge this growth exponent of c instead of the theorem's; 1/3 is fine"
    ),
    "size": Entry(
        1e-3, positive, "how far beside the manifold a descent starts whose end is looked at"
    ),
    "out": Entry(None, text, "run directory (default runs/THEOREM-HASH)"),
}

#: What the command line can do with a stored run; each stands alone.
COMMANDS = {
    "resume": "go on with the run in this directory, with its stored settings",
    "recheck": "judge the finished run in this directory afresh and tell what comes out "
    "differently; writes nothing",
}

#: Words that say how a run is done, and not which: several processes that do it together.
PROCESSES = {
    "processes": "how many processes do this run together; auto: as srun or mpirun started them",
    "process": "which of them this is: 0, which alone reads and writes, to processes - 1",
    "coordinator": "HOST:PORT of process 0, any free port there",
    "peer_timeout": "seconds without a sign of life after which another counts as lost: exit "
    f"code 75 [default {PEER_TIMEOUT:g}]",
}

#: Where compiled programs are kept for the next run: how long a run takes, and not which it is.
CACHE = {
    "cache": "DIR: keep compiled programs below it; off: keep none [default ~/.cache/popgd, or as "
    "the system has it]"
}


def peers(words: Sequence[str]) -> tuple[Peers | None, list[str]]:
    """The processes that the words name, None for this one alone, and the other words. Raises
    SettingError.
    """
    given = {
        name: value
        for name, _, value in (word.partition("=") for word in words)
        if name in PROCESSES
    }
    rest = [word for word in words if word.partition("=")[0] not in PROCESSES]
    if not given:
        return None, rest
    auto = given.get("processes") == "auto"
    if auto and {"process", "coordinator"} & set(given):
        raise SettingError(
            "processes=auto: the launcher knows the rest; leave out process and coordinator"
        )
    missing = [name for name in ("processes", "process", "coordinator") if name not in given]
    if missing and not auto:
        raise SettingError(
            f"{missing[0]} is missing; give processes=N process=K coordinator=HOST:PORT, or "
            "processes=auto"
        )
    readers: dict[str, Callable[[Any], Any]] = {
        "processes": auto_or(whole(1)),
        "process": whole(0),
        "coordinator": _address,
        "peer_timeout": positive,
    }
    read: dict[str, Any] = {"process": None, "coordinator": None, "peer_timeout": PEER_TIMEOUT}
    for name, value in given.items():
        try:
            read[name] = readers[name](value)
        except ValueError as error:
            raise SettingError(f"{name}={value}: {error}") from None
    if not auto and read["process"] >= read["processes"]:
        raise SettingError(
            f"process={read['process']}: 0 to {read['processes'] - 1} was wanted, there are that "
            "many processes"
        )
    return (Peers(**read) if auto or read["processes"] > 1 else None), rest


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError("HOST:PORT was wanted, as in node1:5555")
    return value


def nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def read(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given, read and range-checked one by one.

    Raises SettingError for an unknown name, a value that its reader does not take, or if there is
    no theorem.
    """
    result = {}
    for name, value in values.items():
        if name not in TABLE:
            raise SettingError(
                f"unknown setting {name}{nearest(name, TABLE) or '; --help lists all'}"
            )
        if value is None:
            continue
        try:
            result[name] = TABLE[name].read(value)
        except ValueError as error:
            raise SettingError(f"{name}={value}: {error}") from None
    if "theorem" not in result:
        raise SettingError(
            "no theorem was given; say which one, as in theorem=4.1 (--help lists them)"
        )
    return result


def help_text(papers: Mapping[str, Mapping[str, str]]) -> str:
    """The --help page: usage, settings with defaults, the titles of all theorems by paper."""
    lines = [
        "usage: python -m popgd.run theorem=NAME [setting=value ...] [-m for comma-separated "
        "sweeps]",
        "",
        "settings:",
    ]
    for name, entry in TABLE.items():
        default = "" if entry.default is None else f" [default {entry.default}]"
        lines.append(f"  {name:<15} {entry.help}{default}")
    lines += ["", "with a stored run, instead of settings:"]
    lines += [f"  {name + '=DIR':<15} {help}" for name, help in COMMANDS.items()]
    lines += ["", "with several processes (README):"]
    lines += [f"  {name:<15} {help}" for name, help in PROCESSES.items()]
    lines += [
        "",
        "with programs that earlier runs compiled, 256 MB at most (delete them when you like; "
        "README):",
    ]
    lines += [f"  {name:<15} {help}" for name, help in CACHE.items()]
    for paper, theorems in papers.items():
        width = max(map(len, [*theorems, " " * 15]))
        lines += ["", f"theorems of {paper}:"] + [
            f"  {name:<{width}} {title}" for name, title in theorems.items()
        ]
    lines += [
        "",
        "exit codes: 0 supported, 1 a claim refuted, 3 inconclusive, 4 not applicable, 2 bad "
        "input,",
    ]
    lines += [
        "            70 internal error, 75 another process of the run is gone or stopped (again: "
        "goes on),"
    ]
    lines += [
        "            130 interrupted, 143 terminated (what was done is saved; again: end at once);"
    ]
    lines += [
        "            a sweep returns its worst: 70, 2, 1, 3, 4, 0; recheck: 0 all the same, 1 "
        "something differs"
    ]
    return "\n".join(lines)
