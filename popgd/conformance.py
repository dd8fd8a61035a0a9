"""`python -m popgd.conformance FILE.py`: see `popgd.runs.conformance`."""

import sys

from popgd.runs.conformance import main

if __name__ == "__main__":
    sys.exit(main())
