"""No claim is SUPPORTED by a measurement that never moved, that is wrong by a factor 2, or that is
0.

At ordinary settings, and at extreme ones, where the thing itself is small, early or slow.
`plants.py` says what is planted.
"""

import pytest
from mutant import FALSE_ALARM, YIELDS
from mutants_layers import LAYERS
from mutants_vocabulary import TRUE, VOCABULARY
from plants import EXCUSED, MEASURED, PLANTS, evidence
from runs import hasty, report, verdicts
from test_gatmiry import descended, solved
from test_stability import judged

from popgd import check
from popgd.papers import in_context as gatmiry
from popgd.papers.power_method import theorems as power_method
from popgd.theorem.registry import papers, theorems
from popgd.theorem.verdict import SLOPE, Outcome

FIRST = [theorem.name for theorem in papers()[power_method.TITLE]]
SECOND = [theorem.name for theorem in gatmiry.THEOREMS]
#: The spectrum (2 + e, 2, 2 - e): c* of y = Sq/|Sq| is e^2/40, that of y = Sq six times it.
NEARLY_EQUAL = {f"e={e:g}": {"spectrum": [2 + e, 2, 2 - e]} for e in (0.06, 1e-2, 6e-4, 1e-4, 2e-7)}
EARLY = {f"steps={steps}": {"steps": steps} for steps in (1, 10)}
STEP_SIZES = {f"eta={eta:g}": {"eta": eta} for eta in (1e3, 1e-3, 1e-9, 1e-15)}
EXTREME = [
    *(("4.2", name, sizes) for name, sizes in NEARLY_EQUAL.items()),
    *(
        (theorem, name, sizes)
        for theorem in ("4.1", "4.2", "4.3")
        for name, sizes in (EARLY | STEP_SIZES).items()
    ),
    *((theorem, "e=0.0001", NEARLY_EQUAL["e=0.0001"]) for theorem in ("4.1", "4.3", "4.6", "4.7")),
]
#: Below this a logarithm of growth is predicted to be 0: the perturbation rightly stays what it is.
NO_GROWTH = 1e-9


def claims_of(theorem, studies):
    """(evidence, function that yields it, study)."""
    for study in studies.values():
        for function in theorems()[theorem].claims:
            for e in function(study):
                assert e.id in theorems()[theorem].sampled or not e.statistical, f"declare {e.id}"
                assert (e.self_check == "slope") == e.id.startswith(SLOPE), e.id
                yield e, function, study


def excused(e, plant, factor):
    stays = e.id.startswith("growth-") and abs(e.predicted) < NO_GROWTH and factor != 0
    return stays or (e.id, plant) in EXCUSED or (e.id, factor) in EXCUSED


def vacuous(theorem, studies):
    """What is SUPPORTED under a plant, and not excused."""
    found = []
    for e, function, study in claims_of(theorem, studies):
        for plant, factor in (
            (plant, factor) for plant, factors in PLANTS.items() for factor in factors
        ):
            if not excused(e, plant, factor):
                outcomes = {
                    c.outcome
                    for c in verdicts(evidence(function, study, factor, e.id), FALSE_ALARM)
                }
                if Outcome.SUPPORTED in outcomes or not outcomes:
                    found.append(f"{e.id}: {plant} ({factor})")
    return found


@pytest.mark.parametrize("theorem", FIRST)
def test_ordinary(theorem):
    assert vacuous(theorem, report(theorem).studies) == []


@pytest.mark.parametrize("theorem", ["gatmiry.flow", "gatmiry.flow-transcribed"])
def test_ordinary_flow(theorem):
    assert vacuous(theorem, {"": solved()}) == []


@pytest.mark.parametrize(
    "theorem", ["gatmiry.loops", pytest.param("gatmiry.loops-mean", marks=pytest.mark.slow)]
)
def test_ordinary_loops(theorem):
    assert vacuous(theorem, report(theorem).studies) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("theorem", "sizes"),
    [pytest.param(theorem, sizes, id=f"{theorem} {name}") for theorem, name, sizes in EXTREME],
)
def test_extreme(theorem, sizes):
    assert vacuous(theorem, hasty(theorem, **sizes).studies) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "theorem", [name for name in SECOND if "flow" not in name and "loops" not in name]
)
def test_ordinary_in_context(theorem):
    studies = {"": descended()} if theorem == "gatmiry.minimiser" else report(theorem).studies
    assert vacuous(theorem, studies) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "theorem", ["gatmiry.minimiser-all", "gatmiry.dominance", "gatmiry.ood", "gatmiry.loops"]
)
@pytest.mark.parametrize(
    "sizes", [{"n": 1}, {"n": 10**14}, {"n": 100, "L": 1}], ids=["n=1", "n=1e14", "L=1"]
)
def test_extreme_in_context(theorem, sizes):
    few = {"d": 2, "samples": 2**12, "sampled_steps": 64, "batch": 64, "assume": "ignore"}
    assert vacuous(theorem, check(theorem, **few, **sizes).studies) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", ["4.1", "4.2", "4.3"])
@pytest.mark.parametrize(
    "sizes", [{}, {"steps": 12, "sampled_steps": 20, "samples": 512}], ids=["ordinary", "few steps"]
)
def test_beside_the_manifold(number, sizes):
    assert vacuous(f"{number}.stability", judged(number, **sizes).studies) == []


def test_every_claim_says_what_is_measured():
    """So that a new one is not forgotten: `YIELDS` is complete by a test of its own, and the
    findings' are looked up. The vocabulary's are planted where they are stated, of toys.
    """
    of_toys = {id for mutant in VOCABULARY for id in mutant.claims} | {id for _, id, _ in TRUE}
    # Of layers nothing descends: tests/test_layers.py plants mistakes in what is measured
    of_layers = {id for mutant in LAYERS for id in mutant.claims}
    missing = set(YIELDS) - set(MEASURED) - of_toys - of_layers
    assert not missing, f"plants.py must say what {missing} measure"


def test_what_is_excused_is_seen_elsewhere():
    for (claim, plant), (_, other) in EXCUSED.items():
        assert claim in MEASURED and (plant in PLANTS or plant in PLANTS["a factor 2"])
        assert not other or (other in MEASURED and (other, plant) not in EXCUSED), (
            f"{other} does not see {plant} of {claim}"
        )
