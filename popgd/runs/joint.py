"""Many runs judged together: what by chance alone may be REFUTED among them, and what is more.

Each of N runs refutes a true theorem by chance with probability `false_alarm` at most, so any of
them with N times that. Judged jointly each run has an N-th of it, and all together have what one
has alone. A report stores no shares, entries and skewness, but its claims tell by how many errors
their thresholds exceed their allowances, and those are widened by more than any of these can need.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from popgd.theorem.verdict import POWER, z_score

#: (detectable - allowance)/error of a claim whose error is a bound: 2. It has no false alarms.
BOUND = 2.01
#: Thresholds grow with a normal quantile z like z, with skewness like z^2 at most, and Student's
#: from 15 degrees of freedom on like z^2.3 at tails of 1e-7 (z = 5.2).
POWER_OF_Z = 3


def refuted_jointly(claim: Mapping[str, Any], false_alarm: float, runs: int) -> bool:
    """Whether a stored claim is REFUTED as one of so many runs, at `false_alarm` for all of them.

    Conservative: less may be REFUTED than a run at false_alarm/runs would.
    """
    if claim["outcome"] != "REFUTED":
        return False
    gap = abs(claim["measured"] - claim["predicted"])
    allowance, error = claim["allowance"], claim["error"]
    if claim["detectable"] - allowance <= BOUND * error:
        return True
    alone = (claim["detectable"] - allowance) / error - z_score(1 - POWER)
    # A share is less than the whole rate, and quantiles of less grow by less
    wider = (z_score(false_alarm / runs) / max(z_score(false_alarm), 1e-9)) ** POWER_OF_Z
    return gap > allowance + wider * alone * error


def told(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The false-alarm rate over all reports, by the names of their runs, and what they refute
    jointly: in lines.
    """
    rates = {name: report["settings"]["false_alarm"] for name, report in reports.items()}
    N, total = len(rates), sum(rates.values())
    if not N:
        return []
    found = [
        f"{name} {claim['id']}"
        for name, report in reports.items()
        for claim in (*report["claims"], *report["self_checks"])
        if refuted_jointly(claim, rates[name], N)
    ]
    return [
        f"false alarms: that any of {N} finished runs refutes a true theorem by chance has "
        f"probability {min(total, 1.0):.3g} at most, the sum of their rates",
        f"judged jointly, each at 1/{N} of its own, at most {total / N:.3g}: "
        + (f"REFUTED: {_listed(found)}" if found else "nothing is REFUTED"),
    ]


def _listed(names: Sequence[str], most: int = 10) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
