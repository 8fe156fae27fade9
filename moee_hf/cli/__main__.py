"""`python -m moee_hf.cli` is the command `moee`."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
