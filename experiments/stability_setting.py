"""What the figures beside the manifold share: spectrum (8, 5, 4, 2, 1), r = 1, objectives and
sizes.
"""

from typing import Any

import jax

from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.objectives import PowerIteration, SubspaceDistance
from popgd.papers.power_method.quadrature import Spectrum
from popgd.papers.power_method.stability import prediction

LAM = (8.0, 5.0, 4.0, 2.0, 1.0)
LAW, SPECTRUM, D = Rotated.with_spectrum(LAM), Spectrum.of(LAM), len(LAM)
SUBSPACE, LAYER = SubspaceDistance(1), PowerIteration("normalised")
LINEAR = {
    target: PowerIteration(target, layer_norm=False) for target in ("normalised", "unnormalised")
}
#: Samples of a test set; a step's batch where all entries descend.
TEST, BATCH = 2**13, 64
KEY = jax.random.key(0)


def known(objective: Any) -> Any:
    return prediction.curve_of(objective, SPECTRUM)
