"""Figure 7: both models without LN on Task 2, their heat maps and their active parameters
converging to fixed points.

python experiments/figure_7.py [--quick]
"""

from typing import Any

import figure_6
from matplotlib.figure import Figure
from trained import FULL, Sizes

NAME = "figure_7"


def draw(sizes: Sizes = FULL) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers by model."""
    return figure_6.draw(sizes, 2, 7)


if __name__ == "__main__":
    from gallery import main

    main(NAME)
