"""2B parameters in a trunk that runs at every byte.

Purpose: the byte-level twin that sp_2b and patch_2b are measured against.
Hardware: a pod of 16 to 4,096 chips; README.md has the plan of each.
Expected time: not run; README.md estimates a step.
Expected number: 1.97B parameters; 4.96 GFLOPs and 245,760 bytes of KV cache per byte at
inference (account).
Command:
    scratchpatch plan --config=experiments/scale/byte_2b.py --topology=v5p:8x8x8
    scratchpatch train --config=experiments/scale/byte_2b.py --workdir=DIR --distributed=auto
"""

from experiments.scale import sizes


def get_config():
    return sizes.byte("2b")
