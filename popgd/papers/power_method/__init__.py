"""Looped linear transformers with layer normalisation learn the power method: arXiv 2606.00605."""

from popgd.papers.power_method import theorems
from popgd.papers.power_method.looping import theorems as looping
from popgd.papers.power_method.stability import theorems as stability

PAPER = {
    theorems.TITLE: (*theorems.THEOREMS, *looping.THEOREMS),
    f"popgd's own, beside those of {theorems.PAPER}": stability.FINDINGS,
}

__all__ = ["PAPER"]
