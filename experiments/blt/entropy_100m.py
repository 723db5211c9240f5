"""Entropy model of the Byte Latent Transformer, in the paper's size.

Purpose: the frozen model whose entropies set BLT's patches (arXiv 2412.09871,
section 2.3): 14 layers of width 768 that see 512 bytes. What the paper does
not print (steps, bytes of a step, warm-up, clipping) is as recorded with the
released model.
Hardware: 8 or more accelerators.
Expected time: not run; 52 GB of text at 2.2e8 inference FLOPs per byte (account).
Expected number: 99.5M parameters (account); a BPB was not measured.
Command:
    scratchpatch train --config=experiments/blt/entropy_100m.py --workdir=runs/entropy_100m \
        --config.data.sources="(('jsonl:text/*.jsonl.gz', 1.0),)"
"""

from scratchpatch import config as config_lib


def get_config():
    config = config_lib.default()
    config.data.window = 8192
    config.model.d_byte = 768
    config.model.rope_theta = 10000.0
    config.model.norm_eps = 1e-5
    config.model.encoder.layers = 14
    config.model.encoder.heads = 12
    config.model.encoder.window = 512
    config.model.entropy_head.weight = 0.0
    config.model.trunk.kind = "none"
    config.model.decoder.layers = 0
    config.trigger.kind = "none"
    config.training.steps = 100_000
    # 524,288 bytes.
    config.training.batch_rows = 64
    config.training.remat = "full"
    config.training.dtype = "bfloat16"
    config.training.eval_every = 1000
    config.training.checkpoint_every = 1000
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 500
    config.optimizer.clip_norm = 10.0
    return config
