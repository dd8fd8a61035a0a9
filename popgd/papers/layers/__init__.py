"""Transformer layers as steps of the power method: arXiv 2605.25619."""

from popgd.papers.layers import contraction, prenorm, rate, real, sign, steered, steering, tilt
from popgd.papers.layers.dynamics import PAPER as NUMBER

THEOREMS = tuple(
    part.THEOREM for part in (contraction, rate, prenorm, tilt, steering, sign, real, steered)
)
PAPER = {f"{NUMBER}, transformer layers as steps of the power method": THEOREMS}

__all__ = ["PAPER"]
