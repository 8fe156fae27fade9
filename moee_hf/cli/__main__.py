"""`python -m moee_hf.cli` is the command `moee`."""

import sys

from . import main

sys.exit(main())
