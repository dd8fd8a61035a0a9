"""The theorems that popgd judges: one file or folder per paper, one line here."""

from popgd.theory import gatmiry, power_method
from popgd.theory.base import Setting, Study, Theorem

#: The theorems of each paper.
PAPERS: dict[str, tuple[Theorem, ...]] = {paper.TITLE: paper.THEOREMS for paper in (power_method, gatmiry)}
THEOREMS: dict[str, Theorem] = {theorem.name: theorem for theorems in PAPERS.values() for theorem in theorems}

__all__ = ["PAPERS", "THEOREMS", "Setting", "Study", "Theorem"]
