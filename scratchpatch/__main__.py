"""`python -m scratchpatch` is the console script `scratchpatch`."""

import sys

from scratchpatch.cli import main

sys.exit(main())
