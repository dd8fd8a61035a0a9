"""The theorems that popgd judges: one file or folder per paper, one line here."""

from popgd.theory import gatmiry, looping, power_method, stability
from popgd.theory.base import Setting, Study, Theorem

#: The theorems of each paper.
PAPERS: dict[str, tuple[Theorem, ...]] = {
    power_method.TITLE: (*power_method.THEOREMS, *looping.THEOREMS),
    gatmiry.TITLE: gatmiry.THEOREMS,
}
THEOREMS: dict[str, Theorem] = {theorem.name: theorem for theorems in PAPERS.values() for theorem in theorems}

#: What popgd found itself beside those theorems, judged in the same way.
FINDINGS: dict[str, Theorem] = {t.name: t for t in (*stability.FINDINGS,)}
TITLE_OF_FINDINGS = f"popgd's own, beside those of {power_method.PAPER}"

__all__ = ["FINDINGS", "PAPERS", "THEOREMS", "TITLE_OF_FINDINGS", "Setting", "Study", "Theorem"]
