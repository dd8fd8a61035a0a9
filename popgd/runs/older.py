"""Reports that earlier versions stored, in today's words.

Beside every renaming stand the corrections that were meant: what in such a report comes out
differently for a known reason.
"""

import re
from typing import Any

#: Earlier formats whose claims and quantities were called otherwise, and today's names for them.
RENAMED: dict[int, dict[str, str]] = {
    2: {
        "engines-agree-slope": "engines-agree-gradient",
        "hessian-exact": "engines-agree-hessian",
        "sampled-loss": "engines-agree-loss",
        "sampled-gradient": "engines-agree-gradient-A",
        "sampled-descent": "engines-agree-descent-A",
        "shifted-loss-sampled": "engines-agree-shifted",
    }
}
#: What stood among the claims then and is a check of popgd itself, by today's names, and its kind;
#: all engines-agree-* are.
SELF_CHECKS = {"reduced-dynamics": "dynamics", "projected-on-manifold": "rounding"}
_SHARES = (
    "each claim's share of the false-alarm rate is told since format 4 before anything is drawn"
)
#: The means of slopes over the steps between two records, which no claim read.
WINDOW = {
    r"trajectory\.npz (.*/)?window(_stderr)?": "not recorded since format 4: no claim was judged "
    "by it",
}
KEPT = {
    "reduced-dynamics: .*": "a^2 - b^2 and the sign of a + b are judged between records too since "
    "the last reports of format 4",
}
#: What settles a comparison that one raw descent at each batch cannot.
SEEDS = {
    "engines-agree-raw: .*": "judged since format 5 by several seeds where one is not enough",
    r"trajectory\.npz (.*/)?raw/seeds": "recorded since format 5",
    "unfinished": "told since format 5",
    "(active-gradient-scalar|saddle|engines-agree-.*|hessian-.*): reason": "what would settle a "
    "claim is told since format 5",
}
#: Prompts that contract slowly.
LOOPS = {
    r"trajectory\.npz (.*/)?(loops|errors)|median-vanishes: .*": "errors of prompts are followed "
    "to 10^9 loops since format 6",
}
#: Of theorems about a problem.
PROBLEMS = {
    r"trajectory\.npz (.*/)?check/.*": "slopes are sampled where they are steepest too since "
    "format 6",
    "(converges|conserved|monotone|follows|rate|time)-.*: (error|detectable)": "rounding of a "
    "read-out is estimated by larger moves since format 6",
    "(active-gradient-scalar|engines-agree-.*): reason": "heavy tails tell how many samples to "
    "take since format 6",
}
#: Noise that two batch sizes do not show.
SECOND = {
    r"engines-agree-raw: .*|trajectory\.npz (.*/)?raw/seeds": "what noise does to second order is "
    "judged by the slopes that it moves since format 7",
}
#: For each earlier format that is read, the differences from today's reports that are meant, by the
#: names that `recheck` gives them, and why.
CORRECTED: dict[int, dict[str, str]] = {
    6: SECOND,
    5: {**SECOND, **LOOPS, **PROBLEMS},
    4: {**LOOPS, **PROBLEMS, **KEPT, **SEEDS},
    3: {**LOOPS, **PROBLEMS, **WINDOW, **KEPT, **SEEDS, ".*: detectable": _SHARES},
    2: {
        **LOOPS,
        **PROBLEMS,
        **WINDOW,
        **KEPT,
        **SEEDS,
        "digests": "reports tell since format 3 what code and versions they rest on",
        r"self-check engines-agree-(slope|samples).*|trajectory\.npz (.*/)?slopes/.*": "measured "
        "since format 3",
        "gradient-negative.*": "judged since format 3 by slopes that are sampled where the loss "
        "is made",
        "outcome|reason": "the theorem's claims alone decide since format 3, and popgd's checks "
        "of itself are apart",
        ".*: detectable": f"{_SHARES}, and there are more of them since format 3",
    },
}


def meant(name: str, stored: int) -> str | None:
    """Why a difference of this name is no fault of a report of the format `stored`, or None."""
    return next(
        (why for pattern, why in CORRECTED.get(stored, {}).items() if re.fullmatch(pattern, name)),
        None,
    )


def in_todays_words(report: dict[str, Any], stored: int) -> dict[str, Any]:
    """A report of an earlier format, with today's names for claims and quantities, and popgd's
    checks of itself apart.
    """
    names = RENAMED[stored]
    rows = [_row(claim, names) for claim in report["claims"]]
    claims, checks = (
        [row for row in rows if bool(row["self_check"]) is own] for own in (False, True)
    )
    quantities = {names.get(key, key): quantity for key, quantity in report["quantities"].items()}
    return {**report, "claims": claims, "self_checks": checks, "quantities": quantities}


def _row(claim: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    name, at, target = str(claim["id"]).partition("@")
    name = names.get(name, name)
    kind = "engines" if name.startswith("engines-agree-") else SELF_CHECKS.get(name, "")
    return {**claim, "id": name + at + target, "self_check": kind}
