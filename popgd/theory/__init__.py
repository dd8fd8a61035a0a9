"""The theorems that popgd judges: one file per paper, one line here."""

from popgd.theory import power_method, stability
from popgd.theory.base import Setting, Study, Theorem

THEOREMS: dict[str, Theorem] = {t.name: t for t in (*power_method.THEOREMS,)}

#: What popgd found itself beside those theorems, judged in the same way.
FINDINGS: dict[str, Theorem] = {t.name: t for t in (*stability.FINDINGS,)}

__all__ = ["FINDINGS", "THEOREMS", "Setting", "Study", "Theorem"]
