"""All seven figures of the paper, or some, each with the numbers it was drawn from.

    python experiments/figures.py [--quick] [--epochs] [figure_1 ...]

--quick trains a little only and shows the shape of the data, not the paper's claims, and writes
figures/quick_*. --epochs takes the 2,000 iterations to be 2,000 epochs, as the paper's text says:
forty times the work. Figures share their training runs.
"""

from gallery import main

if __name__ == "__main__":
    main()
