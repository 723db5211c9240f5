"""`python -m scratchpatch` is the console script `scratchpatch`."""

import sys

from scratchpatch.cli import script

sys.exit(script())
