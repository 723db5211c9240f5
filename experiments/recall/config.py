"""Recall: which byte must a model look up, and does it?

Purpose: documents of pairs and then questions (`scratchpatch.tasks.pairs`), whose answers stand in the distant pairs
alone: small models of one trunk with patches, triggers and poolings of several kinds.
Variants: byte, or P_TRIGGER_POOLING, such as p8_every_last; see `get_config`.
Hardware: one GPU, or 2 CPU cores and patience.
Expected time: on an H100 half a minute to a minute for two seeds of a variant, and a minute of compiling; on a CPU core
about an hour.
Expected number: README.md beside this file has all numbers of the last run.
Command, for everything:
    .venv/bin/python -m experiments.recall.run
"""

from scratchpatch import config as config_lib

PATCHES = ("p3", "p4", "p8", "p16")
TRIGGERS = ("none", "entropy", "stride", "keys", "every")
# Name to (pooling.kind, pooling.last_state).
POOLINGS = {
    "mean": ("mean", False),
    "last": ("last", False),
    "cross": ("cross_attention", False),
    "cross+last": ("cross_attention", True),
    "max+last": ("max_query", True),
    "concat": ("concat", False),
}


def get_config(variant="p8_every_last"):
    """The config of a variant.

    Raises:
      ValueError: there is no such variant.
    """
    config = config_lib.default()
    config.data.window = 256
    config.model.d_byte = 64
    config.model.encoder.window = 8
    config.model.entropy_head.layers = 1
    config.model.trunk.layers = 2
    config.model.trunk.d_model = 128
    config.model.trunk.heads = 4
    config.model.decoder.layers = 1
    config.model.decoder.window = 8
    config.training.steps = 2500
    config.training.batch_rows = 16
    config.optimizer.learning_rate = 1e-3
    # The steps until a model has learned depend on no end that is set beforehand.
    config.optimizer.schedule = "constant"
    if variant == "byte":
        config.patching.kind = "byte"
        config.trigger.kind = "none"
        config.model.entropy_head.weight = 0.0
        return config
    patch, trigger, pooling = (*variant.split("_"), "", "")[:3]
    if patch not in PATCHES or trigger not in TRIGGERS or pooling not in POOLINGS:
        kinds = (("P", PATCHES), ("TRIGGER", TRIGGERS), ("POOLING", POOLINGS))
        wanted = "; ".join(f"{name}: {', '.join(names)}" for name, names in kinds)
        raise ValueError(f"no variant {variant!r}; wanted byte or P_TRIGGER_POOLING ({wanted})")
    config.patching.patch_bytes = int(patch[1:])
    kind, last_state = POOLINGS[pooling]
    config.model.pooling.kind = kind
    config.model.pooling.last_state = last_state
    config.trigger.kind = "marks" if trigger == "keys" else trigger
    # Behind a key the context is asked for its value.
    config.trigger.marks = tuple("abcdefghijklmnopqrstuvwxyz")
    config.trigger.rate = 0.25
    config.trigger.gain = 0.01
    config.trigger.stride = 4
    if trigger == "keys":
        # A third of the bytes are keys.
        config.trigger.capacity = 0.4
    if trigger != "entropy":
        # Nothing else reads entropies: the other models do not pay for a head.
        config.model.entropy_head.weight = 0.0
    return config
