"""1B-parameter trunk, patches of 16 bytes, scratchpads by entropy.

Purpose: the paper's headline in numbers: a 16x smaller KV cache than the
byte-level twin, and 3-4x less compute.
Hardware: a pod of 64 or more accelerators.
Expected time: not run; `account` gives the FLOPs.
Expected number: KV cache 16.0x smaller; inference compute 3.5x smaller at 0.22
scratchpads per byte, 3.0x at 0.29 (account).
Command:
    scratchpatch account --config=experiments/scale/sp_1b_p16.py
"""

from experiments.scale import byte_1b


def get_config():
    config = byte_1b.get_config()
    config.model.entropy_head.layers = 2
    config.model.entropy_head.weight = 1.0
    config.patching.kind = "fixed"
    config.patching.patch_bytes = 16
    config.trigger.kind = "entropy"
    config.trigger.rate = 0.22
    config.trigger.gain = 0.01
    return config
