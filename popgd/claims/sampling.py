"""As many samples as a claim needs, in two stages (Stein 1945).

A pilot estimates the spread and thereby the size of a second stage, and the second alone is judged,
under keys of its own. A pilot has at least 1/SHARE of the second stage's samples, or is repeated
with as many as that: the size of a second stage that follows too small a pilot depends on what the
pilot happened to miss. Sizes are a function of seed, settings and pilot.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from popgd.descent import gradient
from popgd.descent.budget import Budget
from popgd.descent.memory import Memory

#: This many standard errors are seen as a gap: 8.1 for four slopes at a false-alarm rate of 1e-6 in
#: all, and more for skewness. The rest of the resolution is left for bounds of quadrature.
SEEN = 9.0
SHARE, ROOM = 4, 1.2
#: Samples at most: their numbers are words of 32 bits.
MOST = 2**31
#: A draw that takes so many seconds tells what a sample takes; shorter ones are timed again with
#: so many times as many samples.
TIMED, TIMES = 0.3, 16
#: The relative standard error of a second moment that is known; and what is planned for: where that
#: rules, it scatters by some 5 % from stage to stage, and a plan for KNOWN would miss it every
#: second time.
KNOWN, PLANNED = 0.03, 0.024


def two_stages(
    draw: Callable[[int, int], gradient.Estimate],
    wanted_of: Callable[[gradient.Estimate], float],
    pilot: int,
    like: Any,
    memory: Memory,
    what: str,
) -> tuple[gradient.Estimate, float]:
    """The estimate of the second stage and the samples that it was to have; draw(stage, samples),
    stages from 0 on.

    The pilot's, without a second stage, where that is more than MOST, or than the budget of
    `memory` has time for, which then lists `what` was cut. `like` has the structure of the mean.
    """
    stage, size, like = 0, pilot, gradient.Estimate(like, like, 0)
    while True:
        kept = memory.part(f"pilot {stage}")
        # Of a pilot that was drawn by a process before the time is not known
        took = np.inf if kept.recall() else 0.0
        began = time.monotonic()
        found = kept.once(partial(draw, stage, size), like)
        took = max(took, time.monotonic() - began)
        wanted = float(np.nan_to_num(wanted_of(found), nan=np.inf, posinf=np.inf))
        last = wanted <= SHARE * size
        # A little more than that, as the next pilot asks for as many but for its noise
        following = max(wanted, pilot) if last else ROOM * wanted / SHARE
        if max(wanted, following) > MOST:
            return found, wanted
        then = memory.part("second" if last else f"pilot {stage + 1}")
        if then.recall() is None:
            again = lambda samples, stage=stage: jax.block_until_ready(draw(stage, samples))
            # As many as the pilot at least are drawn, however few would do
            if not _fits(memory.budget, what, max(wanted, pilot), took, again, size):
                return found, wanted
        size, stage = int(np.ceil(following)), stage + 1
        if last:
            began = time.monotonic()
            found = then.once(partial(draw, stage, size), like)
            memory.budget.spend(time.monotonic() - began)
            return found, wanted


def _fits(
    budget: Budget, what: str, wanted: float, took: float, draw: Callable[[int], Any], size: int
) -> bool:
    """Whether the budget has time for all that is wanted, from what the pilot of this size took, in
    which compiling may have been; where that is too much it is timed without.
    """
    seconds = took * wanted / size
    if seconds > budget.left:
        tried = size
        draw(tried)
        while True:
            began = time.monotonic()
            draw(tried)
            took = time.monotonic() - began
            if took > TIMED or tried >= wanted:
                break
            # What a call takes beside its samples must not count for each of them
            tried = int(min(TIMES * tried, np.ceil(wanted)))
        seconds = took * wanted / tried
    return budget.allows(what, wanted, seconds)


def too_many(wanted: float) -> str:
    """Why so many samples were not drawn."""
    more = f"more than the {MOST:.2g} that can be numbered"
    return more if wanted > MOST else "more than the budget had time for"


def wanted_of(found: gradient.Estimate, start: float, resolution: float) -> float:
    """Samples that make a gap of this share of a mean seen, or of `start` where that is larger, and
    the second moment known to PLANNED.
    """
    mean, stderr, samples = found
    scale = max(abs(float(mean.value)), start)
    with np.errstate(all="ignore"):
        of_mean = np.divide(SEEN * float(stderr.value), resolution * scale)
        of_square = float(stderr.square / mean.square) / PLANNED
        return float(samples) * float(np.maximum(of_mean, of_square)) ** 2
