"""Strided patches of 4 bytes in a small BLT.

Purpose: the baseline of every patching rule: 4 bytes a patch, wherever they fall.
Hardware and expected time: as small.py.
Expected number: 2.243 BPB on books after 1 MB.
Command:
    scratchpatch train --config=experiments/blt/strided_4.py --workdir=runs/blt/strided_4
"""

from experiments.blt import small


def get_config():
    config = small.get_config()
    config.patching.kind = "fixed"
    config.patching.capacity = 0.0
    return config
