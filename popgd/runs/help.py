"""The --help pages: what every run has, and of one theorem what it declares."""

import textwrap
from collections.abc import Iterator, Mapping

from popgd.theorem.base import Theorem
from popgd.theorem.readers import word
from popgd.theorem.registry import papers
from popgd.theorem.settings import CACHE, COMMANDS, EXPLORE, PROCESSES, TABLE, Option

#: Columns of a page, and those of a name.
WIDTH, NAMES = 100, 15
_EXITS = """\
exit codes: 0 supported, 1 a claim refuted, 3 inconclusive, 4 not applicable, 5 not trusted,
            2 bad input, 70 internal error, 75 another process of the run is gone or stopped
            (again: goes on), 130 interrupted, 143 terminated (what was done is saved; again:
            end at once); a sweep returns its worst: 70, 2, 5, 1, 3, 4, 0; recheck: 0 all the
            same, 1 something differs"""


def everything() -> str:
    """The page without a theorem: usage, the settings that every run has, all theorems by paper."""
    lines = [
        "usage: python -m popgd.run theorem=NAME [setting=value ...]",
        "       python -m popgd.run theorem=FILE.py[:NAME] ...   the theorems in a file of yours",
        "       python -m popgd.run -m seed=1,2 ...              a sweep: values with commas, or",
        "                              range(1,3), choice(a,b), theorem=glob(4.*)",
        "       python -m popgd.run theorem=... --help           its own settings, explained",
        "       python -m popgd.run theorem=... --cfg job        the settings of that run, alone",
        "       python -m popgd.run --version    (python -m popgd, and popgd, are the same)",
        "",
        "settings of every run:",
        *_options(TABLE),
        "",
        "with a stored run, instead of settings:",
        *(f"  {name + '=DIR':<{NAMES}} {help}" for name, help in COMMANDS.items()),
        "",
        "instead of a verdict:",
        *(f"  {name:<{NAMES}} {help}" for name, help in EXPLORE.items()),
        "",
        "with several processes (docs/running.md):",
        *(f"  {name:<{NAMES}} {help}" for name, help in PROCESSES.items()),
        "",
        "with programs that earlier runs compiled, 256 MB at most (delete them when you like; "
        "docs/running.md):",
        *(f"  {name:<{NAMES}} {help}" for name, help in CACHE.items()),
    ]
    for paper, theorems in papers().items():
        width = max(NAMES, *(len(theorem.name) for theorem in theorems))
        lines += ["", f"theorems of {paper}:"]
        lines += [f"  {theorem.name:<{width}} {theorem.title}" for theorem in theorems]
    return "\n".join([*lines, "", _EXITS])


def of_theorem(theorem: Theorem) -> str:
    """The page of one theorem: what it states, its own settings, and the common ones with its
    defaults.
    """
    common = {
        name: option._replace(default=theorem.defaults.get(name, option.default))
        for name, option in TABLE.items()
        if name not in ("theorem", *theorem.idle)
    }
    own = theorem.declared
    lines = [
        f"Theorem {theorem.name}: {theorem.title}",
        *textwrap.wrap(theorem.statement, WIDTH, initial_indent="  ", subsequent_indent="  "),
        f"  {theorem.source}",
        "",
        "settings of its own:" if own else "it has no settings of its own",
        *_options(own),
        "",
        "settings of every run (python -m popgd.run --help has the rest):",
        *_options(common),
    ]
    return "\n".join(lines)


def _options(options: Mapping[str, Option]) -> Iterator[str]:
    for name, option in options.items():
        default = "" if option.default is None else f" [default {word(option.default)}]"
        yield f"  {name:<{NAMES}} {option.help}{default}"
