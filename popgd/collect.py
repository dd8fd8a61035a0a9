"""`python -m popgd.collect SWEEP_DIR`: see `popgd.runs.collect`."""

import sys

from popgd.runs.collect import main

if __name__ == "__main__":
    sys.exit(main())
