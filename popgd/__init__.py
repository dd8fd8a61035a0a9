"""popgd checks training-dynamics theory: population gradient descent, exactly or with an error bar,
and a verdict.

problem     what descends: weights, a loss, a data law
symmetry    a group action: the plane of descent, zeros, conserved quantities, sectors
descent     population averages by Monte Carlo, descent, flow
claims      what theorems say of it, as evidence
theorem     theorems, and the rule that judges their claims
explore     what could be claimed of a problem
runs        the command line, run directories, resume, recheck, sweeps
papers      the papers that are judged; nothing else knows of them
"""

from popgd import claims
from popgd.claims.evidence import Evidence
from popgd.descent.descent import Descent, descend
from popgd.descent.gradient import population_average, population_gradient
from popgd.explore.exploring import explore
from popgd.problem.errors import SettingError
from popgd.problem.law import Finite, Hypothesis, Law
from popgd.problem.problem import Problem
from popgd.runs.stored import load
from popgd.theorem.base import Setting, Theorem
from popgd.theorem.observed import observing
from popgd.theorem.problems import about
from popgd.theorem.recorded import judge_path
from popgd.theorem.registry import theorems
from popgd.theorem.report import Report, check
from popgd.theorem.settings import Option
from popgd.theorem.verdict import Outcome

# The judge stands above the claims; among them its users look for it.
claims.judge_path = judge_path

__version__ = "0.1.0"

__all__ = [
    "Descent",
    "Evidence",
    "Finite",
    "Hypothesis",
    "Law",
    "Option",
    "Outcome",
    "Problem",
    "Report",
    "Setting",
    "SettingError",
    "Theorem",
    "about",
    "check",
    "descend",
    "explore",
    "load",
    "observing",
    "population_average",
    "population_gradient",
    "theorems",
]
