"""A group action on weights and samples gives the plane that descent stays on, the reason why a
weight stays zero, conserved quantities, and the sectors of the Hessian.
"""

from popgd.symmetry.actions import Symmetry, check, finite, permutations, rotations, signs, unmoved
from popgd.symmetry.conserved import Conserved, conserved, conserved_in_population, drift
from popgd.symmetry.gradients import Means, off_plane
from popgd.symmetry.moments import Moments, moments
from popgd.symmetry.plane import Plane, invariant, whole
from popgd.symmetry.sectors import Reduced, Sector, reduce, sectors
from popgd.symmetry.silent import Zeros, why_zero

__all__ = [
    "Conserved",
    "Means",
    "Moments",
    "Plane",
    "Reduced",
    "Sector",
    "Symmetry",
    "Zeros",
    "check",
    "conserved",
    "conserved_in_population",
    "drift",
    "finite",
    "invariant",
    "moments",
    "off_plane",
    "permutations",
    "reduce",
    "rotations",
    "sectors",
    "signs",
    "unmoved",
    "whole",
    "why_zero",
]
