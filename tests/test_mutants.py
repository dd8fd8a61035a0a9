"""Every claim can be refuted: a mistake planted in the package must turn the claims named beside
it.

The list stands in experiments/; `python experiments/validation/mutation.py` prints it with its
score. The measurements that a mutant does not touch are those of the shared runs.
"""

import pytest
from mutant import YIELDS, refuted
from mutants_exact import EXACT
from mutants_inference import INFERENCE
from mutants_sampled import SAMPLED
from runs import both, report, study

from popgd.papers.power_method import theorems as power_method
from popgd.theorem.registry import papers
from popgd.theorem.verdict import Outcome

NAMES = [theorem.name for theorem in papers()[power_method.TITLE]]
#: Those that empty the compiler's caches last.
MUTANTS = sorted(SAMPLED + EXACT + INFERENCE, key=lambda mutant: mutant.compiled)


@pytest.fixture(scope="module", autouse=True)
def unbroken():
    """The shared measurements, made before anything is broken."""
    for theorem in NAMES:
        report(theorem)


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(m, id=f"{m.theorem}: {m.name}", marks=[pytest.mark.slow] if m.slow else [])
        for m in MUTANTS
    ],
)
def test_mutant(mutant):
    found = refuted(mutant, study(*mutant.theorem.split()))
    if mutant.survives:
        assert not set(mutant.claims) & found, (
            f"{mutant.name} is caught after all: drop its `survives`"
        )
    else:
        assert set(mutant.claims) <= found, f"{mutant.name} survives {set(mutant.claims) - found}"


def test_the_unbroken_package_is_not_refuted():
    for theorem in NAMES:
        assert not [c.id for c in both(report(theorem)) if c.outcome is Outcome.REFUTED]


def test_every_claim_has_a_mutant_in_the_default_suite():
    claims = {claim.id.split("@")[0] for theorem in NAMES for claim in both(report(theorem))}
    killed = {
        claim
        for mutant in MUTANTS
        if not (mutant.survives or mutant.slow)
        for claim in mutant.claims
    }
    assert claims <= set(YIELDS)
    assert claims <= killed, f"no mutant refutes {claims - killed}"


def test_there_are_enough_of_them():
    assert sum(not mutant.survives for mutant in MUTANTS) >= 36
