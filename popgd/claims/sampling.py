"""As many samples as a claim needs, in two stages (Stein 1945).

A pilot estimates the spread and thereby the size of a second stage, and the second alone is judged,
under keys of its own. A pilot has at least 1/SHARE of the second stage's samples, or is repeated
with as many as that: the size of a second stage that follows too small a pilot depends on what the
pilot happened to miss. Sizes are a function of seed, settings and pilot.
"""

from collections.abc import Callable

import numpy as np

from popgd.descent import gradient

#: This many standard errors are seen as a gap: 8.1 for four slopes at a false-alarm rate of 1e-6 in
#: all, and more for skewness. The rest of the resolution is left for bounds of quadrature.
SEEN = 9.0
SHARE, ROOM = 4, 1.2
#: Samples at most, some twenty seconds of two cores.
MOST = 2**25
#: The relative standard error of a second moment that is known.
KNOWN = 0.03


def two_stages(
    draw: Callable[[int, int], gradient.Estimate],
    wanted_of: Callable[[gradient.Estimate], float],
    pilot: int,
) -> tuple[gradient.Estimate, float]:
    """The estimate of the second stage and the samples that it was to have; draw(stage, samples),
    stages from 0 on.

    Where that is more than MOST the pilot's, without a second stage.
    """
    stage, size = 0, pilot
    while True:
        found = draw(stage, size)
        wanted = float(np.nan_to_num(wanted_of(found), nan=np.inf, posinf=np.inf))
        if wanted > MOST:
            return found, wanted
        if wanted <= SHARE * size:
            return draw(stage + 1, int(max(np.ceil(wanted), pilot))), wanted
        # A little more, as the next one asks for as many but for its noise
        stage, size = stage + 1, int(np.ceil(ROOM * wanted / SHARE))


def wanted_of(found: gradient.Estimate, start: float, resolution: float) -> float:
    """Samples that make a gap of this share of a mean seen, or of `start` where that is larger, and
    the second moment known to KNOWN.
    """
    mean, stderr, samples = found
    scale = max(abs(float(mean.value)), start)
    with np.errstate(all="ignore"):
        of_mean = np.divide(SEEN * float(stderr.value), resolution * scale)
        of_square = float(stderr.square / mean.square) / KNOWN
        return float(samples) * float(np.maximum(of_mean, of_square)) ** 2


def skewness(found: gradient.Estimate) -> float:
    """Of the mean: that of one sample over the root of their number."""
    mean, stderr, samples = found
    # Of plain floats a division by 0 would be an error
    x, s = np.float64(mean.value), np.float64(stderr.value)
    third = float(mean.cube) - 3 * x * float(mean.square) + 2 * x**3
    with np.errstate(all="ignore"):
        return float(np.nan_to_num(third / (s**3 * float(samples) ** 2)))
