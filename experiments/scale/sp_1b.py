"""1B parameters, patches of 16 bytes, scratchpads by entropy.

Purpose: the paper's method: a 16x smaller KV cache than byte_1b, and 3-4x less compute.
Hardware: a pod of 16 to 4,096 chips; README.md has the plan of each.
Expected time: not run; README.md estimates a step.
Expected number: 1.12B parameters; 0.81 GFLOPs and 10,240 bytes of KV cache per byte at
inference (account).
Command:
    scratchpatch plan --config=experiments/scale/sp_1b.py --topology=v5p:8x8x8
    scratchpatch train --config=experiments/scale/sp_1b.py --workdir=DIR --distributed=auto
"""

from experiments.scale import sizes


def get_config():
    return sizes.scratchpads("1b")
