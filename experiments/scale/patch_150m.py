"""150M parameters, patches of 16 bytes, no scratchpads.

Purpose: the patch model that sp_150m adds scratchpads to: what lag costs, and what is cheapest.
Hardware: 8 to 64 chips; README.md has the plan of each.
Expected time: not run; README.md estimates a step.
Expected number: 0.16B parameters; 0.05 GFLOPs and 3,072 bytes of KV cache per byte at
inference (account).
Command:
    scratchpatch plan --config=experiments/scale/patch_150m.py --topology=v5p:8x8x8
    scratchpatch train --config=experiments/scale/patch_150m.py --workdir=DIR --distributed=auto
"""

from experiments.scale import sizes


def get_config():
    return sizes.patches("150m")
