"""1B parameters, patches of 16 bytes, no scratchpads.

Purpose: the patch model that sp_1b adds scratchpads to: what lag costs, and what is cheapest.
Hardware: a pod of 16 to 4,096 chips; README.md has the plan of each.
Expected time: not run; README.md estimates a step.
Expected number: 1.09B parameters; 0.30 GFLOPs and 10,240 bytes of KV cache per byte at
inference (account).
Command:
    scratchpatch plan --config=experiments/scale/patch_1b.py --topology=v5p:8x8x8
    scratchpatch train --config=experiments/scale/patch_1b.py --workdir=DIR --distributed=auto
"""

from experiments.scale import sizes


def get_config():
    return sizes.patches("1b")
