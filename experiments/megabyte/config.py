"""MegaByte (arXiv 2305.07185): fixed patches, joined byte by byte, and a decoder that sees its own patch alone.

Purpose: MegaByte's wiring as slots: no encoder; `concat` pooling of byte embeddings; a decoder of
`model.decoder.scope = patch`. `tiny` and `paper` have the shapes that SpaceByte's authors trained MegaByte in: patches
of 8 bytes, a local model of half the trunk's width and as many layers (arXiv 2404.14408, table 1, 10^19 FLOPs).

What differs from the paper:
- The paper shifts its inputs: the global model reads the patches before this one behind a learned pad, the local model
  the bytes before this one in the patch behind another. Here the byte that closes a patch reads its commit and predicts
  the first byte of the next, with its own state in place of the local pad. Which bytes a prediction depends on is the
  same; a patch begins with the document's BOS, so the first one holds a byte less.
- The paper cuts the global output into a slice for each position of the patch. Here every byte of the patch reads the
  whole output through one projection, and the local layers tell positions by RoPE, counted from the commit.
- One byte embedding serves both models; the paper has two, of which the global one is as narrow as a slice.
- RMSNorm, SwiGLU and RoPE, and our optimizer.
With --config.trigger.kind=stride and the like it takes scratchpads, which the paper has not; the decoder's scope begins
at commits alone.

Hardware: `tiny` 1 CPU core; `paper` (a size to count and to plan) a GPU.
Expected time: 6 minutes (an estimate: 4 MB at 12 kB/s).
Expected number: in experiments/compare; this config alone was not run to its end.
Command:
    scratchpatch train --config=experiments/megabyte/config.py --workdir=runs/megabyte
"""

from experiments.spacebyte import config as spacebyte

VARIANTS = spacebyte.VARIANTS


def get_config(variant="tiny"):
    config = spacebyte.get_config(variant)
    local_layers = config.model.encoder.layers + config.model.decoder.layers
    config.model.encoder.layers = 0
    config.model.pooling.kind = "concat"
    config.model.decoder.layers = local_layers
    config.model.decoder.window = 8
    config.model.decoder.scope = "patch"
    config.model.decoder.injection = "add"
    config.patching.kind = "fixed"
    config.patching.patch_bytes = 8
    config.patching.capacity = 0.0
    if variant == "paper":
        config.data.window = 6144
    return config
