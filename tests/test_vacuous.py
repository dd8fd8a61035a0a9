"""No claim is SUPPORTED by a measurement that never moved, that is wrong by a factor 2, or that is 0.

At ordinary settings, and at extreme ones, where the thing itself is small, early or slow.
"""

import pytest
from mutation import FALSE_ALARM, YIELDS
from plants import EXCUSED, MEASURED, PLANTS, evidence
from runs import report

from popgd.theory import FINDINGS, PAPERS, THEOREMS, power_method
from popgd.verdict import Outcome, judge

FIRST = [theorem.name for theorem in PAPERS[power_method.TITLE]]
#: Settings at which a claim may be vacuous, by theorem.
SIZES_OF_C = {"c* = 3e-5": 0.01, "c* = 3e-9": 1e-4, "c* = 3e-13": 1e-6, "c* = 3e-15": 1e-7}


def claims_of(theorem, studies):
    """(claim, function that yields its evidence, study)."""
    every = {**THEOREMS, **FINDINGS}[theorem]
    for study in studies.values():
        for function in every.claims:
            yield from ((e.id, function, study) for e in function(study))


def vacuous(triples):
    """What is SUPPORTED under a plant, and not excused."""
    found = []
    for claim, function, study in triples:
        for plant, factors in PLANTS.items():
            if (claim, plant) in EXCUSED:
                continue
            for factor in factors:
                outcomes = {c.outcome for c in judge(evidence(function, study, factor, claim), FALSE_ALARM)}
                if Outcome.SUPPORTED in outcomes or not outcomes:
                    found.append(f"{claim}: {plant} ({factor})")
    return found


@pytest.mark.parametrize("theorem", FIRST)
def test_ordinary(theorem):
    assert vacuous(claims_of(theorem, report(theorem).studies)) == []


def test_every_claim_says_what_is_measured():
    """So that a new one is not forgotten; `YIELDS` is complete by a test of its own."""
    assert set(YIELDS) <= set(MEASURED), f"tests/plants.py must say what {set(YIELDS) - set(MEASURED)} measure"
    assert {claim for claim, _ in EXCUSED} <= set(MEASURED)
