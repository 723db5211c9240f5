"""A small BLT: hashed n-grams, max-pooled queries, cross-attention in the decoder, entropy patches of about 4 bytes.

Purpose: the parent of the experiments in this folder; the conventions are those
of the published checkpoints (see BUILD.md, The Byte Latent Transformer, as the same slots).
Hardware: 1 CPU core.
Expected time: 2 minutes for 1 MB of text, after its entropy model (entropy_corpora.py).
Expected number: 2.24 BPB on books after 1 MB. The threshold is what
`scratchpatch calibrate` finds for 4 bytes per patch (experiments/blt/run.py does).
Command, all of the folder's small models:
    .venv/bin/python -m experiments.blt.run
"""

from experiments.blt import entropy_corpora
from scratchpatch import config as config_lib

ENTROPY_RUN = "runs/blt/entropy"


def get_config():
    config = config_lib.default()
    entropies = entropy_corpora.get_config()
    config.data.sources = entropy_corpora.source("books")
    config.data.validation_sources = entropy_corpora.source("books", "validation")
    config.data.window = 512
    m = config.model
    m.d_byte, m.norm_eps, m.cross_residual = 64, 1e-5, 2
    m.encoder.window = m.decoder.window = 16
    m.encoder.ngrams, m.encoder.ngram_rows = (3, 4, 5, 6), 4000
    m.entropy_head.weight = 0.0
    theirs = entropies.model
    m.entropy_model.workdir, m.entropy_model.layers = ENTROPY_RUN, theirs.encoder.layers
    m.entropy_model.d_byte, m.entropy_model.norm_eps = theirs.d_byte, theirs.norm_eps
    m.entropy_model.heads, m.entropy_model.window = theirs.encoder.heads, theirs.encoder.window
    m.pooling.kind, m.pooling.queries, m.pooling.last_state = "max_query", 2, False
    m.trunk.layers, m.trunk.d_model, m.trunk.heads, m.trunk.final_norm = 4, 128, 4, False
    m.decoder.layers, m.decoder.injection, m.decoder.context_vectors = 2, "cross_attention", 2
    config.patching.kind = "entropy"
    config.patching.patch_bytes = 4
    config.patching.max_patch_bytes = 32
    # Patches of even information come in bursts: room for two of 2 bytes.
    config.patching.capacity = 0.5
    config.trigger.kind = "none"
    config.training.steps = 1000
    config.training.batch_rows = 2
    config.training.eval_every = 0
    config.training.checkpoint_every = 500
    config.training.accumulation = 2
    config.training.remat = "full"
    config.optimizer.learning_rate = 3e-3
    return config
