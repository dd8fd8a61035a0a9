"""What gradient descent does beside the manifold of Theorems 4.1-4.3: the figures of "What the
theorems do not say".

    python experiments/stability.py            # all, about fifty minutes
    python experiments/stability.py growth     # one of: slow curvatures sectors ends escape growth
    spectra learns repair

draws figures/stability_NAME.png, .svg and writes the numbers, with their errors, to
figures/stability_NAME.json. Spectrum (8, 5, 4, 2, 1), r = 1, one layer unless said; full matrices
by Monte Carlo, the rest exact.
"""

import sys

from stability_curvatures import curvatures
from stability_ends import ends
from stability_escape import escape
from stability_growth import growth
from stability_learns import learns
from stability_repair import repair
from stability_sectors import sectors
from stability_slow import slow
from stability_spectra import spectra

if __name__ == "__main__":
    made = {
        f.__name__: f
        for f in (slow, curvatures, sectors, growth, spectra, learns, escape, repair, ends)
    }
    for name in sys.argv[1:] or made:
        made[name]()
