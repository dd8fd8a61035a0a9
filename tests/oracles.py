"""Independent references: arbitrary precision in s with its own range and step, and longdouble
grids for 4.3.
"""

import mpmath as mp
import numpy as np


def looped(lam, mult, c, L: int, digits: int = 30):
    """(l, -l') of 4.1 at c, or (l_inf, kappa) for c = None, to about `digits` digits; h = 0.15,
    range 60 / 70 wider.
    """
    with mp.workdps(digits + 10):
        lam = [mp.mpf(float(x)) for x in lam]
        c, one = (mp.mpf(1), 0) if c is None else (mp.mpf(float(c)), 1)
        rho = [((one + c * x) / (one + c * lam[0])) ** (2 * L) for x in lam]
        lo, h = mp.mpf(-60), mp.mpf("0.15")
        loss = slope = mp.mpf(0)
        for i in range(int((70 - mp.log(rho[-1]) - lo) / h)):
            x = [r * mp.exp(lo + h * i) for r in rho]
            Phi = mp.exp(-sum(k * mp.log1p(y) / 2 for k, y in zip(mult, x, strict=True)))
            sigma = [k * y / (1 + y) / 2 for k, y in zip(mult, x, strict=True)]
            gap = [(lam[0] - y) / ((one + c * y) * (one + c * lam[0])) for y in lam]
            loss += Phi * sum(sigma[1:])
            slope += Phi * sigma[0] * sum(a * b for a, b in zip(sigma, gap, strict=True))
        return h * loss, 2 * L * h * slope


def layer_slope(lam, mult, c: float):
    """-l'(c) of 4.3: a two-dimensional trapezoidal rule in longdouble, 1/(|s||v|^3) = (2/pi) int
    e^{3y/2} dy/(..)^2.
    """
    lam, mult, c = (np.asarray(x, dtype=np.longdouble) for x in (lam, mult, c))
    ratio = (c + 1 / lam) ** 2
    middle = np.log(ratio.min() * ratio.max()) / 2
    half = np.log(ratio.max() / ratio.min()) / 2
    y = (
        np.arange(-30 - float(half), 90 + float(half), np.longdouble(0.35), dtype=np.longdouble)
        - middle
    )
    h = np.longdouble(0.2)
    s = np.arange(-30, 90 + 4 * float(np.log(lam[0] / lam[-1])), h, dtype=np.longdouble)
    gap2 = (lam[:, None] - lam) ** 2
    total = np.longdouble(0)
    for point in y:
        beta = lam**2 * (1 + np.exp(point) * ratio)
        z = np.exp(s - np.log((beta * mult).sum()))[:, None]
        u = mult / 2 * z / (1 + beta * z)
        Phi = np.exp(-(np.log1p(beta * z) * mult / 2).sum(1))
        total += np.exp(1.5 * point) * (((u @ gap2) * u).sum(1) / 2 * Phi).sum() * h
    total *= np.longdouble(0.35) * 4
    return (mp.mpf(float(total)) + mp.mpf(float(total - float(total)))) / mp.pi


def plane_layer(lam1: float, lam2: float, c: float, digits: int = 30):
    """(l, -l') of 4.3 for d = 2: one angle, tan(angle) = e^z, trapezoidal in z."""
    with mp.workdps(digits + 10):
        a, b, c = mp.mpf(lam1), mp.mpf(lam2), mp.mpf(c)
        h, reach = mp.mpf("0.1"), 80 + int(mp.log(a / b))
        loss = slope = mp.mpf(0)
        for i in range(int(-reach / h), int(reach / h)):
            t = mp.exp(h * i)
            w1, w2 = 1 / mp.sqrt(1 + t * t), t / mp.sqrt(1 + t * t)
            density = 2 / mp.pi * w1 * w2  # d(angle)/dz over the quarter circle
            G = ((a - b) * w1 * w2) ** 2
            s = mp.hypot(a * w1, b * w2)
            v = mp.hypot((1 + c * a) * w1, (1 + c * b) * w2)
            dot = a * (1 + c * a) * w1**2 + b * (1 + c * b) * w2**2
            loss += density * 2 * G / (s * v * (s * v + dot))
            slope += density * 2 * G / (s * v**3)
        return h * loss, h * slope
