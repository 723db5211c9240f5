"""150M parameters in a trunk that runs at every byte.

Purpose: the byte-level twin that sp_150m and patch_150m are measured against.
Hardware: 8 to 64 chips; README.md has the plan of each.
Expected time: not run; README.md estimates a step.
Expected number: 0.16B parameters; 0.53 GFLOPs and 49,152 bytes of KV cache per byte at
inference (account).
Command:
    scratchpatch plan --config=experiments/scale/byte_150m.py --topology=v5p:8x8x8
    scratchpatch train --config=experiments/scale/byte_150m.py --workdir=DIR --distributed=auto
"""

from experiments.scale import sizes


def get_config():
    return sizes.byte("150m")
