"""SpaceByte (arXiv 2404.14408): a patch ends with the first space-like byte of a run, and the trunk speaks there alone.

Purpose: SpaceByte's rule, widths and windows as slots. Space-like is all that is neither an ASCII letter or digit nor a
UTF-8 continuation byte. Local layers have half of the trunk's width and windows of as many bytes; half of them stand
before the trunk and half behind it, as many in all as the trunk has. A slot is its byte's state, and the trunk's output
is added at that byte alone. `paper` is a shape of the grid behind the paper's table 1 (10^19 FLOPs).

What differs from the paper and its code:
- The trunk reads and writes through learned projections; theirs pads with zeros, and adds the last channels back.
- Its buffer holds a sixth of the bytes, and targets behind a full one are ignored, in the test loss, too. Here a budget
  refuses the commit, the patch goes on, and every byte counts. In rows of 512 bytes a budget of one commit in four
  bytes refuses 0.7% of those that English books or Python ask for, nearly all in the first 32 bytes of a row. Chinese
  and Japanese need patching.capacity = 0 (automatic: 1/3), which refuses the first one of a row; letters of two bytes,
  such as Cyrillic, need 0.5.
- The BOS is no patch here. With --config.patching.commit_bos=True --config.patching.capacity=1.0 it is one, and the
  masks are those of their code; but only slots for every byte can promise each document its own at once.
- RMSNorm, SwiGLU and RoPE; no second position embedding; AdamW with our learning rate, since theirs belongs to their
  initialisation.
A patch longer than 64 bytes without a space-like byte is cut there.

Hardware: `tiny` 1 CPU core; `paper` (a size to count and to plan) a GPU.
Expected time: 6 minutes (an estimate: 4 MB at 12 kB/s).
Expected number: in experiments/compare; this config alone was not run to its end.
Command:
    scratchpatch train --config=experiments/spacebyte/config.py --workdir=runs/spacebyte
"""

from experiments import corpora
from scratchpatch import config as config_lib

VARIANTS = ("tiny", "paper")


def get_config(variant="tiny"):
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; wanted one of {', '.join(VARIANTS)}")
    config = config_lib.default()
    config.data.sources = corpora.mixture("en_books", "code")
    config.data.validation_sources = corpora.mixture("en_books", "code", split="validation")
    config.data.window = 512
    config.model.d_byte = 64
    config.model.encoder.layers = 2
    config.model.encoder.heads = 4
    config.model.encoder.window = 64
    config.model.entropy_head.weight = 0.0
    config.model.pooling.kind = "last"
    config.model.pooling.last_state = False
    config.model.trunk.layers = 4
    config.model.trunk.d_model = 128
    config.model.trunk.heads = 4
    config.model.decoder.layers = 2
    config.model.decoder.heads = 4
    config.model.decoder.window = 64
    config.model.decoder.injection = "at_slot"
    config.patching.kind = "whitespace"
    config.patching.capacity = 0.25
    config.trigger.kind = "none"
    config.training.steps = 1000
    config.training.batch_rows = 8
    config.training.eval_every = 0
    config.training.checkpoint_every = 500
    config.optimizer.learning_rate = 3e-3
    config.optimizer.b2 = 0.98
    if variant == "paper":
        config.data.window = 4608
        config.model.d_byte = 384
        config.model.encoder.layers = 8
        config.model.encoder.heads = 6
        config.model.encoder.window = 384
        config.model.trunk.layers = 16
        config.model.trunk.d_model = 768
        config.model.trunk.heads = 12
        config.model.decoder.layers = 8
        config.model.decoder.heads = 6
        config.model.decoder.window = 384
        config.training.batch_rows = 64
        config.training.dtype = "bfloat16"
    return config
