"""BLT's entropy patches of 4 bytes on average, against strided_4.py.

Purpose: do patches that begin where the next byte is uncertain beat strided ones?
Hardware and expected time: as small.py.
Expected number: 2.243 BPB on books, within noise of strided_4.py.
Command, with the threshold that `scratchpatch calibrate --target_bytes_per_patch=4` names:
    scratchpatch train --config=experiments/blt/entropy_4.py --config.patching.threshold=NATS \
        --workdir=runs/blt/entropy_4
"""

from experiments.blt import small


def get_config():
    return small.get_config()
