"""tinyshakespeare by nanoGPT's public CPU recipe: small models on a text and a budget that many have tried.

Purpose: one number of ours beside a public one. The recipe is 2,000 steps of 12 rows of 64 bytes, AdamW with betas 0.9
and 0.99, decay 0.1, clipping at 1, 100 steps of warm-up and a cosine from 1e-3 to 1e-4, for a model of 4 layers of 4
heads and width 128; the first nine tenths of the text train, the rest validates in windows of 64 bytes that see
nothing before them. nanoGPT's own number is 1.88 nats per character.
Variants: MODEL-RECIPE, see MODELS and RECIPES.
Hardware: 2 CPU cores.
Expected time: four minutes of a core for a byte-level variant, less for the others.
Expected number: README.md beside this file, which the program writes: 1.676 nats per byte of the byte-level model by
the public recipe, 1.560 with our learning rate and n-grams.
Command, for everything:
    .venv/bin/python -m experiments.shakespeare.run --text=tinyshakespeare.txt
"""

from pathlib import Path

from scratchpatch import config as config_lib

MODELS = ("flat", "p4", "p4_scratchpads", "flat_ngrams", "p4_scratchpads_ngrams")
RECIPES = ("public", "ours")
# The public recipe has no embeddings of n-grams, which multiply the parameters.
VARIANTS = tuple(
    f"{model}-{recipe}" for recipe in RECIPES for model in MODELS if recipe == "ours" or not model.endswith("_ngrams")
)


def get_config(variant: str = "flat-public", text: Path = Path("runs/shakespeare/text")):
    """The config of a variant; `text` is the folder that the study's program has filled.

    Raises:
      ValueError: there is no such variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; wanted one of {', '.join(VARIANTS)}")
    model, recipe = variant.split("-")
    config = config_lib.default()
    config.data.sources = ((f"text:{text}/train.txt", 1.0),)
    config.data.validation_sources = ((f"text:{text}/validation.txt", 1.0),)
    config.data.window = 64
    config.model.d_byte = 128
    config.model.entropy_head.weight = 0.0
    config.model.trunk.d_model = 128
    config.model.trunk.heads = 4
    config.trigger.kind = "none"
    if model.startswith("flat"):
        # A patch is a byte: the trunk's four layers are the model.
        config.patching.kind = "byte"
        config.model.encoder.layers = 0
        config.model.trunk.layers = 4
        config.model.decoder.layers = 0
    else:
        # As many layers of the same width, two of them in the trunk.
        config.patching.patch_bytes = 4
        config.model.encoder.layers = 1
        config.model.encoder.window = 16
        config.model.trunk.layers = 2
        config.model.decoder.layers = 1
        config.model.decoder.window = 16
    if "scratchpads" in model:
        config.trigger.kind = "every"
    if model.endswith("_ngrams"):
        config.model.encoder.ngrams = (2, 3, 4, 5)
        config.model.encoder.ngram_rows = 16384
    config.training.steps = 2000
    config.training.batch_rows = 12
    config.training.eval_every = 0
    config.training.checkpoint_every = 500
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.b2 = 0.99
    if recipe == "ours":
        config.optimizer.learning_rate = 4e-3
        config.optimizer.final_ratio = 0.02
    return config
