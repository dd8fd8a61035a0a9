"""Reports that earlier versions stored, in today's words.

Beside every renaming stand the corrections that were meant: what in such a report comes out differently for a known reason.
"""

from typing import Any

#: Earlier formats that are read, and for each today's names of claims and quantities that were called otherwise.
RENAMED: dict[int, dict[str, str]] = {2: {}}
#: For each, the differences from today's reports that are meant, by the name that `recheck` gives them, and why.
CORRECTED: dict[int, dict[str, str]] = {2: {"digests": "reports tell since format 3 what code and versions they rest on"}}


def in_todays_words(report: dict[str, Any], stored: int) -> dict[str, Any]:
    """A report of an earlier format, with today's names for claims and quantities; others as they are."""
    names = RENAMED[stored]
    claims = [{**claim, "id": names.get(claim["id"], claim["id"])} for claim in report["claims"]]
    return {**report, "claims": claims, "quantities": {names.get(key, key): q for key, q in report["quantities"].items()}}
