"""8B parameters in a trunk that runs at every byte.

Purpose: the byte-level twin that sp_8b and patch_8b are measured against.
Hardware: a pod of 64 to 4,096 chips; README.md has the plan of each.
Expected time: not run; README.md estimates a step.
Expected number: 7.20B parameters; 16.57 GFLOPs and 131,072 bytes of KV cache per byte at
inference (account).
Command:
    scratchpatch plan --config=experiments/scale/byte_8b.py --topology=v5p:8x8x8
    scratchpatch train --config=experiments/scale/byte_8b.py --workdir=DIR --distributed=auto
"""

from experiments.scale import sizes


def get_config():
    return sizes.byte("8b")
