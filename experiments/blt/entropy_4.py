"""BLT's entropy patches of 4 bytes on average, against strided_4.py.

Purpose: do patches that begin where the next byte is uncertain beat strided ones?
Hardware, expected time and number: as small.py, README.md beside this file.
Command, with the threshold that `scratchpatch calibrate --target_bytes_per_patch=4` names:
    scratchpatch train --config=experiments/blt/entropy_4.py --config.patching.threshold=NATS --workdir=runs/blt/entropy_4
"""

from experiments.blt import small


def get_config():
    return small.get_config()
