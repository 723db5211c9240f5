"""Strided patches of 4 bytes in a small BLT.

Purpose: the baseline of every patching rule: 4 bytes a patch, wherever they fall.
Hardware, expected time and number: as small.py, README.md beside this file.
Command:
    scratchpatch train --config=experiments/blt/strided_4.py --workdir=runs/blt/strided_4
"""

from experiments.blt import small


def get_config():
    config = small.get_config()
    config.patching.kind = "fixed"
    config.patching.capacity = 0.0
    return config
