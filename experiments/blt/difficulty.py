"""Does next-byte entropy measure difficulty? Entropy, random and fixed boundaries at one rate, on three kinds of text.

Purpose: patches of 4 bytes on average that begin where the entropy model is
uncertain, anywhere, or at every fourth byte; English books, Python, and
classical Chinese, which has no spaces and three bytes to a character.
Hardware and expected time: as small.py.
Expected numbers: on code and Chinese, entropy is 0.01 BPB worse than fixed and
ties with random (README.md beside this file).
Command, one of the nine (entropy needs --config.patching.threshold as in entropy_4.py):
    scratchpatch train --config=experiments/blt/difficulty.py:random-chinese --workdir=runs/blt/random-chinese
"""

from experiments.blt import entropy_4, entropy_corpora, strided_4

RULES = ("entropy", "random", "fixed")
VARIANTS = tuple(f"{rule}-{corpus}" for corpus in entropy_corpora.CORPORA for rule in RULES)


def get_config(variant="entropy-books"):
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; wanted one of {', '.join(VARIANTS)}")
    rule, corpus = variant.split("-")
    config = (strided_4 if rule == "fixed" else entropy_4).get_config()
    if rule == "random":
        config.patching.kind = "random"
    config.data.sources = entropy_corpora.source(corpus)
    config.data.validation_sources = entropy_corpora.source(corpus, "validation")
    return config
