"""One small judged run of every theorem, shared by the tests that look at it or break it."""

from functools import cache

from popgd import check

#: Sizes at which every claim comes out: 10^18 steps for six digits, batches and samples so that each error bar is within
#: its claim's resolution at a false-alarm rate of 10^-6.
SIZES = {"spectrum": [3, 2, 1], "steps": 10**18, "samples": 2**14, "sampled_steps": 40, "batch": 1024}
#: The same shapes with next to no sampling, for claims about the exact descent alone.
HASTY = {**SIZES, "samples": 64, "sampled_steps": 4, "batch": 8}
OWN = {"4.1": {"L": 2}}


@cache
def report(theorem):
    return check(theorem, **SIZES, **OWN.get(theorem, {}))


def hasty(theorem, **changes):
    return check(theorem, **{**HASTY, **OWN.get(theorem, {}), **changes})


def study(theorem, target=""):
    """The cached measurements behind a report."""
    studies = report(theorem).studies
    return studies["@" + target if target else ""]
