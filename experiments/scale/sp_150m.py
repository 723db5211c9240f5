"""150M parameters, patches of 16 bytes, scratchpads by entropy.

Purpose: the paper's method: a 16x smaller KV cache than byte_150m, and 3-4x less compute.
Hardware: 8 to 64 chips; README.md has the plan of each.
Expected time: not run; README.md estimates a step.
Expected number: 0.17B parameters; 0.13 GFLOPs and 3,072 bytes of KV cache per byte at
inference (account).
Command:
    scratchpatch plan --config=experiments/scale/sp_150m.py --topology=v5p:8x8x8
    scratchpatch train --config=experiments/scale/sp_150m.py --workdir=DIR --distributed=auto
"""

from experiments.scale import sizes


def get_config():
    return sizes.scratchpads("150m")
