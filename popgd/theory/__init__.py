"""The theorems that popgd judges: one file per paper, one line here."""

from popgd.theory import looping, power_method
from popgd.theory.base import Setting, Study, Theorem

THEOREMS: dict[str, Theorem] = {t.name: t for t in (*power_method.THEOREMS, *looping.THEOREMS)}

__all__ = ["THEOREMS", "Setting", "Study", "Theorem"]
