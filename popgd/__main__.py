"""`python -m popgd`, and the command `popgd`: the same as `python -m popgd.run`."""

import sys

from popgd.runs import command


def main() -> int:
    """The command line, alone in its process: its exit code."""
    return command.main(alone=True)


if __name__ == "__main__":
    sys.exit(main())
