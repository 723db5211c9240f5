"""8B parameters, patches of 16 bytes, no scratchpads.

Purpose: the patch model that sp_8b adds scratchpads to: what lag costs, and what is cheapest.
Hardware: a pod of 64 to 4,096 chips; README.md has the plan of each.
Expected time: not run; README.md estimates a step.
Expected number: 7.21B parameters; 1.32 GFLOPs and 8,192 bytes of KV cache per byte at
inference (account).
Command:
    scratchpatch plan --config=experiments/scale/patch_8b.py --topology=v5p:8x8x8
    scratchpatch train --config=experiments/scale/patch_8b.py --workdir=DIR --distributed=auto
"""

from experiments.scale import sizes


def get_config():
    return sizes.patches("8b")
