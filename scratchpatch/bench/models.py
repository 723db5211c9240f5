"""The models that `bench` times beside the config's own: configs that read the same text."""

from scratchpatch import config as config_lib

# Rows and bytes of a row that the flat byte models are timed at: those of nanoGPT's recipe for processors, of a small
# run, and of long rows.
FLAT_SHAPES = ((12, 64), (8, 512), (4, 2048))
_FLAT_WIDTH, _FLAT_LAYERS, _FLAT_HEADS = 128, 4, 4
_LONG_PATCH, _SHORT_PATCH = 16, 4
# Nothing decides where scratchpads stand, so nothing has to be learnt for it.
_NO_SCRATCHPADS = {
    "trigger.kind": "none",
    "model.entropy_head.weight": 0.0,
    "model.entropy_model.layers": 0,
    "model.benefit.width": 0,
    "model.benefit.table": False,
    "data.entropies": False,
}


def byte_level(config):
    """The same encoder, trunk and decoder with a trunk call at every byte, and nothing that decides."""
    fields = {"patching.kind": "byte", "trigger.kind": "none", "model.entropy_head.weight": 0.0}
    return config_lib.from_flat(config_lib.flat(config) | fields)


def long_patches(config):
    """The same model with patches of 16 bytes, and nothing else."""
    return _fixed(config, _LONG_PATCH)


def small_blt(config):
    """A BLT (arXiv 2412.09871) of the config's widths and trunk: hashed n-grams, queries from the maximum of a patch,
    cross-attention in two decoder layers. Its patches are strided, 4 bytes each, because entropies of random weights
    would ask for patches anywhere; an entropy model would be a model of its own, whose entropies can be stored.
    """
    fields = {
        "model.norm_eps": 1e-5,
        "model.cross_residual": 2,
        "model.encoder.ngrams": (3, 4, 5, 6),
        "model.encoder.ngram_rows": 4000,
        "model.pooling.kind": "max_query",
        "model.pooling.queries": 2,
        "model.pooling.last_state": False,
        "model.trunk.final_norm": False,
        "model.decoder.layers": 2,
        "model.decoder.injection": "cross_attention",
        "model.decoder.context_vectors": 2,
    }
    return config_lib.from_flat(config_lib.flat(_fixed(config, _SHORT_PATCH)) | fields)


def flat_byte(config, rows: int, window: int):
    """A plain transformer over bytes on the config's text, 4 layers of width 128 and 4 heads: every byte commits, and
    no byte tier stands around the trunk. Rows are computed at once, and nothing is computed again.
    """
    places = {name: value for name, value in config_lib.flat(config).items() if name.startswith(("data.", "mesh."))}
    fields = _NO_SCRATCHPADS | {
        "data.window": window,
        "patching.kind": "byte",
        "model.d_byte": _FLAT_WIDTH,
        "model.encoder.layers": 0,
        "model.trunk.layers": _FLAT_LAYERS,
        "model.trunk.d_model": _FLAT_WIDTH,
        "model.trunk.heads": _FLAT_HEADS,
        "model.decoder.layers": 0,
        "training.batch_rows": rows,
    }
    return config_lib.from_flat(places | fields)


def _fixed(config, patch_bytes: int):
    fields = _NO_SCRATCHPADS | {
        "patching.kind": "fixed",
        "patching.patch_bytes": patch_bytes,
        "patching.capacity": 0.0,
        "patching.commit_bos": False,
    }
    return config_lib.from_flat(config_lib.flat(config) | fields)
