"""`python -m nuwaxl` is `nuwaxl`."""

import sys

from nuwaxl.cli import main

if __name__ == "__main__":
    sys.exit(main())
