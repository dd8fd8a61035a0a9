"""Settings: those that every run has, those that a theorem declares, and how both are read.

JAX is not imported here: the command line begins with these words.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from popgd.descent.heartbeat import PEER_TIMEOUT, Peers
from popgd.problem.errors import SettingError
from popgd.theorem.readers import (
    auto_or,
    flag,
    integer,
    nearest,
    not_negative,
    number,
    numbers,
    one_of,
    positive,
    probability,
    text,
    whole,
)

#: Samples of one key: a sample's number is a word of 32 bits. Some numbers take up to 16 times as
#: many as are asked for.
MOST_SAMPLES = 2**28


#: Seconds of second stages unless `budget` says otherwise.
BUDGET = 20.0


class Option(NamedTuple):
    """A setting: its default, its reader and a line of help, as in Option(4, int, "hidden units").

    `read` is int, float, bool, str, tuple (of positive numbers), or a function that makes the
    value from what was given (a text on the command line, anything from Python, what settings.json
    holds) and raises ValueError in words ("a prime was wanted"); what it returns is stored as JSON
    and must be read as the same again. A `default` of None is filled in by the theorem.
    """

    default: Any
    read: Callable[[Any], Any]
    help: str


#: The readers that bare types stand for.
_PLAIN: dict[Any, Callable[[Any], Any]] = {
    int: integer,
    float: number,
    bool: flag,
    str: text,
    tuple: numbers,
}

#: The settings that every theorem takes.
TABLE: dict[str, Option] = {
    "theorem": Option(None, text, "which theorem to judge: its name, FILE.py or FILE.py:NAME"),
    "eta": Option(None, auto_or(positive), "step size of gradient descent; auto: from the law"),
    "steps": Option(10**18, whole(1), "gradient steps of the exact descent"),
    "sampled_steps": Option(500, whole(1), "gradient steps of each Monte Carlo descent"),
    "batch": Option(256, whole(2, MOST_SAMPLES), "samples per step of a Monte Carlo descent"),
    "samples": Option(
        2**15, whole(2, MOST_SAMPLES), "samples of each Monte Carlo population gradient"
    ),
    "bank": Option(False, flag, "descend on one fixed batch instead of fresh samples at each step"),
    "optimiser": Option(
        "sgd", one_of("sgd", "momentum", "adam"), "optax optimiser; the theorems are about sgd"
    ),
    "dtype": Option(
        "float64", one_of("float64", "float32"), "number format of the Monte Carlo part"
    ),
    "seed": Option(0, whole(0), "seed of all sampling"),
    "false_alarm": Option(
        1e-6, probability, "probability that a whole report refutes a true theorem by chance"
    ),
    "assume": Option(
        "check", one_of("check", "ignore"), "ignore: judge even where a hypothesis fails"
    ),
    "out": Option(None, text, "run directory (default runs/THEOREM-HASH)"),
    "budget": Option(
        BUDGET,
        not_negative,
        "seconds that second stages of sampling may take; what they leave undone is told, and done "
        "by resume=DIR budget=MORE",
    ),
}
#: Settings that say where and for how long, and not which run it is.
OUTSIDE = ("out", "budget")

#: What the command line can do with a stored run; each stands alone.
COMMANDS = {
    "resume": "go on with the run in this directory, with its stored settings (and budget=)",
    "recheck": "judge the finished run in this directory afresh and tell what comes out "
    "differently; writes nothing",
    "report": "write the finished run in this directory as one hands it in, there or in out=DIR: "
    "format=html, latex or markdown; or print one claim in plain words: explain=CLAIM",
}
#: What goes with each of them.
WITH = {"resume": ("budget",), "recheck": (), "report": ("format", "explain", "out")}

#: What the command line can do with a problem instead of judging claims about it.
EXPLORE = {
    "explore": "true: say what could be claimed of the theorem's problem, or of the one Problem in "
    "FILE.py, in out=DIR too; its claims are not judged"
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

#: Names that mean something else on the command line, or in `check`.
TAKEN = {*TABLE, *COMMANDS, *EXPLORE, *PROCESSES, *CACHE, "progress", "hydra", "defaults"}
#: What a setting can be called; a dot makes a group, as in claim.exponent.
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


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


def exploring(words: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether the words ask for an exploration, and the other words. Raises SettingError for words
    that do not go with it.
    """
    given = [word for word in words if word.partition("=")[0] in EXPLORE]
    rest = [word for word in words if word not in given]
    if not given:
        return False, rest
    try:
        wanted = flag(given[-1].partition("=")[2])
    except ValueError as error:
        raise SettingError(f"{given[-1]}: {error}") from None
    if not wanted:
        return False, rest
    apart = {*COMMANDS, *PROCESSES, "budget", "-m", "--multirun"}
    beside = [word for word in rest if word.partition("=")[0] in apart]
    if beside:
        raise SettingError(
            f"{beside[0]}: explore=true judges nothing, and takes one problem in one process; "
            "leave that out"
        )
    return True, rest


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError("HOST:PORT was wanted, as in node1:5555")
    return value


def without_theorem(values: Iterable[str]) -> NoReturn:
    """Raises SettingError: no theorem was given beside these."""
    for name in values:
        meant = nearest(name, ["theorem", *COMMANDS, *EXPLORE, *PROCESSES, *CACHE])
        if name not in TABLE and meant:
            raise SettingError(f"unknown setting {name}{meant}")
    raise SettingError("no theorem was given; say which one, as in theorem=4.1 (--help lists them)")


def budget(values: Mapping[str, Any]) -> float:
    """The seconds of second stages among these settings. Raises SettingError."""
    given = {name: value for name, value in values.items() if name == "budget"}
    return read(given, {}).get("budget", BUDGET)


def read(values: Mapping[str, Any], own: Mapping[str, Option]) -> dict[str, Any]:
    """The settings that were given, read and range-checked one by one; `own` are those that the
    theorem declares.

    Raises SettingError for an unknown name or a value that its reader does not take.
    """
    result = {}
    for name, value in values.items():
        option = TABLE.get(name) or own.get(name)
        if option is None:
            every = f"; theorem={values.get('theorem')} --help lists all"
            raise SettingError(
                f"unknown setting {name}{nearest(name, [*TABLE, *own, *CACHE]) or every}"
            )
        if value is not None:
            result[name] = _read(name, value, option)
    return result


def _read(name: str, value: Any, option: Option) -> Any:
    reader = _PLAIN.get(option.read, option.read) if isinstance(option.read, type) else option.read
    try:
        made = reader(value)
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise SettingError(f"{name}={value}: {error}") from None
    if made is None and option.default is None:  # auto
        return made
    try:
        same = made is not None and reader(json.loads(json.dumps(made, allow_nan=False))) == made
    except (ValueError, TypeError, ArithmeticError, LookupError):
        same = False
    if not same:
        raise SettingError(
            f"{name}={value}: its reader makes {made!r} of it, which is not read as the same again "
            "when it was stored: let it return numbers, texts, true or false, or tuples of them"
        )
    return made


def declared(law_options: Any, options: Any, defaults: Mapping[str, Any]) -> None:
    """Raises SettingError unless these can be the settings of a theorem."""
    for what, group in (("law_options", law_options), ("options", options)):
        if not isinstance(group, Mapping) or not all(isinstance(o, Option) for o in group.values()):
            raise SettingError(
                f"{what}={group!r}: a dict of Options was wanted, as in "
                "{'width': Option(4, int, 'hidden units')}; names alone were those of earlier popgd"
            )
    every = [*law_options, *options]
    for name, option in (*law_options.items(), *options.items()):
        _named(name, [other for other in every if other != name])
        if every.count(name) > 1:
            raise SettingError(f"{name} is declared twice, in law_options and options")
        if option.default is not None:
            _read(f"the default of {name}", option.default, option)
    for name, value in defaults.items():
        option = {**TABLE, **law_options, **options}.get(name)
        if option is None:
            raise SettingError(f"a default is given of {name}, which is no setting: declare it")
        if value is not None:
            _read(f"the default of {name}", value, option)


def _named(name: str, others: Sequence[str]) -> None:
    """Raises SettingError if an option cannot have this name beside the others."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise SettingError(f"an option cannot be called {name!r}: use letters, digits and _")
    if name.partition(".")[0] in TAKEN:
        raise SettingError(
            f"option {name} hides the setting {name.partition('.')[0]} that every run has: choose "
            "another name"
        )
    inner = [other for other in others if other.startswith(f"{name}.")]
    if inner:
        raise SettingError(f"option {name} hides {inner[0]}: choose another name")
