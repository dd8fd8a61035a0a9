"""One small judged run of every theorem, shared by the tests that look at it or break it."""

from functools import cache

from mutant import OWN, SIZES, sizes

from popgd import check
from popgd.theorem.verdict import judge

#: The same shapes with next to no sampling, for claims about the exact descent alone.
HASTY = {**SIZES, "samples": 1024, "sampled_steps": 4, "batch": 8}


@cache
def report(theorem):
    return check(theorem, **sizes(theorem))


def hasty(theorem, **changes):
    return check(theorem, **{**HASTY, **OWN.get(theorem, {}), **changes})


def study(theorem, target=""):
    """The cached measurements behind a report."""
    studies = report(theorem).studies
    return studies["@" + target if target else ""]


def both(found):
    """All that a report judges: the theorem's claims and popgd's checks of itself."""
    return (*found.claims, *found.self_checks)


def verdicts(evidence, false_alarm):
    """The claims of some evidence, each at this false-alarm rate."""
    return [judge(e, false_alarm) for e in evidence]
