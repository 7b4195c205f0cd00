"""`python -m volad` is the `volad` command."""

import sys

from volad.cli import main

if __name__ == "__main__":
    sys.exit(main())
