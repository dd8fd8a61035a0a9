"""The vocabulary of claims on small problems: what is true is SUPPORTED, every false statement and
fault REFUTED, and what is subtly false not SUPPORTED.

The lists stand in experiments/validation/mutants_vocabulary.py.
"""

import pytest
import toys
from mutant import FALSE_ALARM, YIELDS, refuted
from mutants_vocabulary import SUBTLE, TRUE, VOCABULARY

from popgd import claims
from popgd.problem.errors import SettingError
from popgd.theorem.verdict import judge

toy_of = lambda mutant: mutant.theorem.partition(" ")[2]
function = lambda id: YIELDS[id].__qualname__.split(".")[0]


def first_of_their_kind():
    """Names of mutants that a claim's function meets before all others."""
    seen = set()
    for mutant in VOCABULARY:
        if not set(map(function, mutant.claims)) <= seen:
            yield mutant.name
        seen |= set(map(function, mutant.claims))


QUICK = {*first_of_their_kind()}
SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(("toy", "id", "claim"), [pytest.param(*row, id=row[1]) for row in TRUE])
def test_what_is_true_is_supported(toy, id, claim):
    found = {e.id: judge(e, FALSE_ALARM) for e in claim(toys.study(toy))}
    assert found[id].outcome == "SUPPORTED", found[id]


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(m, id=f"{toy_of(m)}: {m.name}", marks=[] if m.name in QUICK else [SLOW])
        for m in VOCABULARY
    ],
)
def test_mutant(mutant):
    found = refuted(mutant, toys.study(toy_of(mutant)))
    assert set(mutant.claims) <= found, f"{mutant.name} survives {set(mutant.claims) - found}"


@pytest.mark.parametrize(
    ("toy", "claim"),
    [pytest.param(*row[1:], id=row[0], marks=[SLOW] if i else []) for i, row in enumerate(SUBTLE)],
)
def test_what_is_subtly_false_is_not_supported(toy, claim):
    assert all(judge(e, FALSE_ALARM).outcome != "SUPPORTED" for e in claim(toys.study(toy)))


def test_every_claim_has_a_mutant():
    killed = {function(id) for mutant in VOCABULARY for id in mutant.claims}
    assert {*claims.__all__} - {"judge_path"} <= killed >= {"slope_agrees", "plane_holds"}
    assert {id for _, id, _ in TRUE} <= set(YIELDS) and {"seeds"} <= set(map(toy_of, VOCABULARY))


def test_a_false_declared_symmetry_is_refused():
    """The sign that turns `a` too is none of the loss."""
    right = toys.mirrored(power=2)
    (flip,) = right.symmetries
    turned = lambda s, w: {**flip.weights(s, w), "a": s[0] * w["a"]}
    wrong = type(flip)(flip.name, flip.draw, turned, flip.sample, flip.elements)
    with pytest.raises(SettingError, match="no symmetry of this loss"):
        toys.path_of(type(right)(right.start, right.loss, right.law, [wrong]), 10)
