"""popgd checks training-dynamics theory: population gradient descent, exactly or with an error bar, and a verdict.

Notation, as in arXiv 2606.00605:

    d, n, L     dimension, number of data columns, number of loops (layers)
    X, q        data (d, n) with unit columns; query (d,), uniform on the sphere
    S           X X^T, never divided by n; tr S = n
    lam, r      eigenvalues of S, descending; multiplicity of the largest
    V           orthonormal basis of the leading principal subspace (d, r)
    P, Q        weights (2d, 2d): projection-value and key-query; blocks P11, P12, P21, P22
    a, b, c     P21 = a I, Q12 = b I on the manifold; c = a b
    Delta       a^2 - b^2
    eta         step size; a step is one gradient step
    l(c)        the population loss on the manifold; l_inf, kappa, C1, c*, L* its constants
"""

from popgd.config import SettingError
from popgd.data import Law, Rotated, Sample, UniformSphere
from popgd.descent import Descent, Trajectory, descend
from popgd.gradient import Estimate, population_gradient
from popgd.model import Weights, embed, looped
from popgd.objectives import PowerIteration, SubspaceDistance
from popgd.report import Report, check
from popgd.stored import Stored, load
from popgd.theory import THEOREMS
from popgd.verdict import Claim, Outcome

__version__ = "0.1.0"

__all__ = [
    "THEOREMS",
    "Claim",
    "Descent",
    "Estimate",
    "Law",
    "Outcome",
    "PowerIteration",
    "Report",
    "Rotated",
    "Sample",
    "SettingError",
    "Stored",
    "SubspaceDistance",
    "Trajectory",
    "UniformSphere",
    "Weights",
    "check",
    "descend",
    "embed",
    "load",
    "looped",
    "population_gradient",
]
