"""Temporary."""

SHARE, ROOM, MOST = 4, 1.2, 2**24
import numpy as np


def two_stages(draw, wanted_of, pilot):
    stage, size = 0, pilot
    while True:
        found = draw(stage, size)
        wanted = float(np.nan_to_num(wanted_of(found), nan=np.inf, posinf=np.inf))
        if wanted > MOST:
            return found, wanted
        if wanted <= SHARE * size:
            return draw(stage + 1, int(max(np.ceil(wanted), pilot))), wanted
        stage, size = stage + 1, int(np.ceil(ROOM * wanted / SHARE))
