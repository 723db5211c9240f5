"""8B parameters, patches of 16 bytes, scratchpads by entropy.

Purpose: the paper's method: a 16x smaller KV cache than byte_8b, and 3-4x less compute.
Hardware: a pod of 64 to 4,096 chips; README.md has the plan of each.
Expected time: not run; README.md estimates a step.
Expected number: 7.28B parameters; 4.58 GFLOPs and 8,192 bytes of KV cache per byte at
inference (account).
Command:
    scratchpatch plan --config=experiments/scale/sp_8b.py --topology=v5p:8x8x8
    scratchpatch train --config=experiments/scale/sp_8b.py --workdir=DIR --distributed=auto
"""

from experiments.scale import sizes


def get_config():
    return sizes.scratchpads("8b")
