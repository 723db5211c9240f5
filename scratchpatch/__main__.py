"""`python -m scratchpatch` is the console script `scratchpatch`."""

import sys

from scratchpatch import heap


def main() -> int:
    """The console script: its exit code."""
    heap.use_large_pages()
    # Imported once the program has its memory, since imports take time.
    from scratchpatch.cli import script

    return script()


if __name__ == "__main__":
    sys.exit(main())
