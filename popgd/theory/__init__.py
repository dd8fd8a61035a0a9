"""The theorems that popgd judges: one file or folder per paper, one line here."""

from popgd.theory import gatmiry, looping, power_method
from popgd.theory.base import Setting, Study, Theorem

#: The theorems of each paper.
PAPERS: dict[str, tuple[Theorem, ...]] = {
    power_method.TITLE: (*power_method.THEOREMS, *looping.THEOREMS),
    gatmiry.TITLE: gatmiry.THEOREMS,
}
THEOREMS: dict[str, Theorem] = {theorem.name: theorem for theorems in PAPERS.values() for theorem in theorems}

__all__ = ["PAPERS", "THEOREMS", "Setting", "Study", "Theorem"]
