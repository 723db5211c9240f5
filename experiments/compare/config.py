"""All systems on one text, at equal training FLOPs and at equal bytes.

Purpose: one fair comparison of flat models, patches chosen in several ways with and without scratchpads, and systems of
other papers as slots. Models have a trunk of 3 layers of width 64, and bytes of half that width where there are
patches; they differ in what their rows say, and are so small that reading 20 MB takes minutes of a core. `SYSTEM-TEXT`
is a system on books and code (`latin`), on Chinese and Japanese (`cjk`), or on the first of these in twice the width
(`latin_wide`); of $SCRATCHPATCH_DATA (../README.md). The learning rate is constant after its warm-up, so that one run
is measured at equal bytes and at equal FLOPs, whichever comes first.
Hardware: 2 CPU cores, or a GPU, which all runs share.
Expected time: `--plan=1` tells the hours; at 20 MB about 10 minutes of a core for each run, of twice the width half an
hour. ../../BUILD.md says what a GPU took.
Expected number: README.md beside this file.
Command, for everything:
    .venv/bin/python -m experiments.compare.run --plan=1
    .venv/bin/python -m experiments.compare.run
Command, for one variant (the entropy model that BLT reads, and the tokens, are learnt by the study):
    scratchpatch train --config=experiments/compare/config.py:p8_scratchpads-latin --workdir=runs/p8_scratchpads
"""

import dataclasses
from collections.abc import Callable

import ml_collections

from experiments import corpora
from experiments.flat import config as flat
from experiments.hnet import config as hnet
from experiments.megabyte import config as megabyte
from experiments.spacebyte import config as spacebyte
from scratchpatch import config as config_lib

_LATIN = {"en_books": 0.5, "code": 0.5}
# Text, then corpus to its share of the training bytes. The Japanese text is small: it is read a few times.
TEXTS = {"latin": _LATIN, "cjk": {"zh_classics": 0.9, "ja_soseki": 0.1}, "latin_wide": _LATIN}
WINDOW = 512
# Of the trunk, and of a flat model.
LAYERS, WIDTH = 3, 64
WIDTHS = {"latin": WIDTH, "cjk": WIDTH, "latin_wide": 2 * WIDTH}
# Scratchpads per byte, of every trigger.
RATE = 1 / 8
# The frozen entropy model of BLT, which is trained before, on a share of the bytes.
PREDICTOR, PREDICTOR_SHARE = "entropy_model", 1 / 4


@dataclasses.dataclass(frozen=True)
class System:
    """A row of the tables: what it is called there, how its config is made, and on which texts it is compared."""

    name: str
    make: Callable[[], ml_collections.ConfigDict]
    texts: tuple[str, ...] = ("latin", "cjk")


def _patches():
    """The model whose patchifiers and triggers are compared: patches of 8 bytes, no scratchpads."""
    config = config_lib.default()
    config.model.encoder.layers = 1
    config.model.encoder.window = 32
    config.model.entropy_head.layers = 1
    config.model.entropy_head.weight = 0.0
    config.model.trunk.heads = 4
    config.model.decoder.layers = 2
    config.model.decoder.window = 32
    config.patching.kind = "fixed"
    config.patching.patch_bytes = 8
    config.patching.max_patch_bytes = 32
    config.trigger.kind = "none"
    return config


def _fixed(patch_bytes: int):
    config = _patches()
    config.patching.patch_bytes = patch_bytes
    return config


def _words():
    config = _patches()
    config.patching.kind = "whitespace"
    return config


def _entropy():
    config = _patches()
    config.model.entropy_head.weight = 1.0
    config.patching.kind = "entropy"
    config.patching.gain = 0.01
    return config


def _learned():
    config = _patches()
    config.patching.kind = "learned"
    return config


def _hnet():
    config = hnet.get_config("plain")
    config.patching.patch_bytes = 8
    return config


def _with_scratchpads(config, trigger: str = "entropy"):
    if trigger == "entropy":
        config.model.entropy_head.weight = 1.0
        config.trigger.gain = 0.01
    config.trigger.kind = trigger
    config.trigger.stride = 4
    # A random trigger draws at the 7 of 8 bytes where no commit stands.
    config.trigger.rate = RATE * 8 / 7 if trigger == "random" else RATE
    return config


def _blt():
    """As experiments/blt/small.py, with a controller in place of a calibrated threshold."""
    config = _patches()
    config.model.norm_eps = 1e-5
    config.model.cross_residual = 2
    config.model.encoder.ngrams = (3, 4, 5, 6)
    config.model.encoder.ngram_rows = 4000
    predictor = _predictor().model
    config.model.entropy_model.layers = predictor.encoder.layers
    config.model.entropy_model.d_byte = predictor.d_byte
    config.model.entropy_model.heads = predictor.encoder.heads
    config.model.entropy_model.window = predictor.encoder.window
    config.model.pooling.kind = "max_query"
    config.model.pooling.last_state = False
    config.model.trunk.final_norm = False
    config.model.decoder.injection = "cross_attention"
    config.patching.kind = "entropy"
    config.patching.gain = 0.01
    return config


def _predictor():
    config = config_lib.default()
    config.model.d_byte = WIDTH // 2
    config.model.encoder.layers = 2
    config.model.encoder.heads = 4
    config.model.encoder.window = 64
    config.model.entropy_head.weight = 0.0
    config.model.trunk.kind = "none"
    config.model.decoder.layers = 0
    config.trigger.kind = "none"
    return config


# Patchifiers that are compared with and without scratchpads: the variant of each without, and what it is called.
PATCHIFIERS = {"p8": "every 8 bytes", "words": "words", "entropy": "entropy", "learned": "learned"}
_MAKE = {"p8": lambda: _fixed(8), "words": _words, "entropy": _entropy, "learned": _learned}
_OURS = {
    f"{variant}{suffix}": System(
        f"{name}{', scratchpads' if suffix else ''}",
        (lambda make=_MAKE[variant]: _with_scratchpads(make())) if suffix else _MAKE[variant],
        ("latin", "cjk") if variant == "learned" else tuple(TEXTS),
    )
    for variant, name in PATCHIFIERS.items()
    for suffix in ("", "_scratchpads")
}
# The system whose positions are tokens; how many, and how many of them are about WINDOW bytes.
TOKENS, VOCABULARY, TOKEN_WINDOW = "tokens", 2048, 168
# Whose layers are all of the trunk's width.
FLAT = ("flat", "flat_windows", TOKENS)
# In the order in which they are run.
SYSTEMS = {
    "flat": System("flat bytes", lambda: flat.get_config("full"), tuple(TEXTS)),
    **_OURS,
    "spacebyte": System("SpaceByte", spacebyte.get_config),
    "megabyte": System("MegaByte, 8 bytes", megabyte.get_config),
    "flat_windows": System("flat bytes, windows", lambda: flat.get_config("windows")),
    "blt": System("BLT", _blt),
    "hnet": System("H-Net, one stage", _hnet),
    TOKENS: System("BPE tokens", lambda: flat.get_config("full")),
    "p16": System("every 16 bytes", lambda: _fixed(16), ("latin",)),
    "p16_scratchpads": System("every 16 bytes, scratchpads", lambda: _with_scratchpads(_fixed(16)), ("latin",)),
    "p4": System("every 4 bytes", lambda: _fixed(4), ("latin",)),
    "p4_scratchpads": System("every 4 bytes, scratchpads", lambda: _with_scratchpads(_fixed(4)), ("latin",)),
    "p8_stride": System("every 8 bytes, stride", lambda: _with_scratchpads(_fixed(8), "stride"), ("latin",)),
    "p8_random": System("every 8 bytes, random", lambda: _with_scratchpads(_fixed(8), "random"), ("latin",)),
}


def systems(text: str) -> list[str]:
    """Those that are compared on a text."""
    return [system for system, about in SYSTEMS.items() if text in about.texts]


VARIANTS = tuple(f"{system}-{text}" for text in TEXTS for system in systems(text))
VARIANTS += tuple(f"{PREDICTOR}-{text}" for text in SYSTEMS["blt"].texts)


def model(system: str, width: int = WIDTH):
    """The config of a system's model, in the size of this study."""
    config = SYSTEMS[system].make()
    config.model.d_byte = width if system in FLAT else width // 2
    config.model.trunk.d_model = width
    if config.model.trunk.kind != "none":
        config.model.trunk.layers = LAYERS
    if system == "flat_windows":
        config.model.encoder.layers = LAYERS
        config.model.encoder.window = 64
    if system == "megabyte":
        config.model.decoder.layers = LAYERS
    return config


def get_config(variant="p8_scratchpads-latin"):
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; wanted one of {', '.join(VARIANTS)}")
    system, text = variant.split("-")
    config = _predictor() if system == PREDICTOR else model(system, WIDTHS[text])
    config.data.sources = _sources(text)
    config.data.validation_sources = _sources(text, "validation")
    config.data.window = WINDOW
    if system == TOKENS:
        config.data.tokenizer = f"runs/compare/{text}.tokenizer.json"
        config.data.vocabulary = VOCABULARY
        config.data.window = TOKEN_WINDOW
    if config.patching.kind == "whitespace":
        # A Chinese character is a patch of 3 bytes, and asks for the automatic budget.
        config.patching.capacity = 0.0 if text == "cjk" else 0.25
    # About 20 MB; the study's program says how many.
    config.training.steps = 5000
    config.training.batch_rows = 8
    config.training.eval_every = 0
    # The worker measures by itself.
    config.training.eval_bytes = 4096
    config.training.checkpoint_every = 500
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 100
    config.optimizer.b2 = 0.95
    return config


def _sources(text: str, split: str = "train"):
    return tuple((corpora.source(corpus, split), share) for corpus, share in TEXTS[text].items())
