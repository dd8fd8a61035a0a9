"""`python -m popgd.run theorem=4.1`: see `popgd.runs.command`."""

import sys

from popgd.runs.command import main

if __name__ == "__main__":
    sys.exit(main(alone=True))
