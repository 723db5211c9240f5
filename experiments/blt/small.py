"""A small BLT: hashed n-grams, max-pooled queries, cross-attention in the decoder, entropy patches of about 4 bytes.

Purpose: the parent of the experiments in this folder; the conventions are those
of the published checkpoints (see scratchpatch/README.md, The Byte Latent Transformer, as the same slots).
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
    config.data.sources = entropy_corpora.source("books")
    config.data.validation_sources = entropy_corpora.source("books", "validation")
    config.data.window = 512
    config.model.d_byte = 64
    config.model.norm_eps = 1e-5
    config.model.cross_residual = 2
    config.model.encoder.window = 16
    config.model.encoder.ngrams = (3, 4, 5, 6)
    config.model.encoder.ngram_rows = 4000
    config.model.entropy_head.weight = 0.0
    # The frozen model is the one that entropy_corpora.py trains.
    trained = entropy_corpora.get_config().model
    config.model.entropy_model.workdir = ENTROPY_RUN
    config.model.entropy_model.layers = trained.encoder.layers
    config.model.entropy_model.d_byte = trained.d_byte
    config.model.entropy_model.norm_eps = trained.norm_eps
    config.model.entropy_model.heads = trained.encoder.heads
    config.model.entropy_model.window = trained.encoder.window
    config.model.pooling.kind = "max_query"
    config.model.pooling.queries = 2
    config.model.pooling.last_state = False
    config.model.trunk.layers = 4
    config.model.trunk.d_model = 128
    config.model.trunk.heads = 4
    config.model.trunk.final_norm = False
    config.model.decoder.layers = 2
    config.model.decoder.window = 16
    config.model.decoder.injection = "cross_attention"
    config.model.decoder.context_vectors = 2
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
