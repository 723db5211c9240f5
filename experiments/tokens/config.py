"""A model of tokens beside the quickstart's model of bytes: a plain transformer over byte-pair encoding.

Purpose: "matches tokenization" has a number to be measured against, on the same text, by the same code.
Hardware: one CPU core, 1 GB of memory.
Expected time: 15 minutes on a core that other work shares, fewer on a quiet one.
Expected number: 1.64 BPB on the quickstart's validation split, after as many
bytes and at about as many FLOPs per byte; the quickstart has 1.55. README.md
beside this file says what the two do not share.
Command:
    scratchpatch tokenizer --config=experiments/tokens/config.py
    scratchpatch train --config=experiments/tokens/config.py --workdir=runs/tokens
"""

from experiments import quickstart


def get_config():
    config = quickstart.get_config()
    config.data.tokenizer = "runs/tokenizers/stdlib_2048.json"
    config.data.vocabulary = 2048
    # About the quickstart's 512 bytes: a step reads as much text, and as much of it stands before a byte.
    config.data.window = 168
    # Every token is a slot, so that the trunk is all there is between embedding and logits.
    config.patching.kind = "byte"
    config.trigger.kind = "none"
    config.trigger.gain = 0.0
    config.model.encoder.ngrams = ()
    config.model.entropy_head.weight = 0.0
    config.model.pooling.kind = "last"
    config.model.decoder.layers = 0
    # About the quickstart's FLOPs per byte: its trunk of 3 layers runs at 0.3 slots per byte, as this one does, and
    # what its decoder and n-gram tables do for bytes the other layers do for tokens.
    config.model.trunk.layers = 6
    return config
