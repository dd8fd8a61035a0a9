"""Figure 4: the one-layer model with LN after SGD on both tasks, its heat maps and the growth of
its active parameters.

python experiments/figure_4.py [--quick]
"""

from typing import Any

import figure_1
from matplotlib.figure import Figure
from trained import FULL, Sizes

NAME = "figure_4"


def draw(sizes: Sizes = FULL) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers by task."""
    return figure_1.draw(sizes, "LN", 3, 4)


if __name__ == "__main__":
    from gallery import main

    main(NAME)
