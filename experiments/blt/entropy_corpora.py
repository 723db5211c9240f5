"""Entropy model of the small BLTs in this folder: books, Python and classical Chinese in equal shares.

Purpose: entropies that tell where a patch should begin, in three kinds of text ($SCRATCHPATCH_DATA, ../README.md).
Hardware: 2 CPU cores.
Expected time: 4 minutes.
Expected number: mean entropies of 2.6 (books, Python) and 3.2 bits (Chinese); see README.md beside this file.
Command:
    scratchpatch train --config=experiments/blt/entropy_corpora.py --workdir=runs/blt/entropy
"""

from experiments import corpora
from experiments.blt import entropy_small

CORPORA = {"books": "en_books", "code": "code", "chinese": "zh_classics"}


def source(corpus: str, split: str = "train") -> tuple[tuple[str, float], ...]:
    """The config's sources of one corpus."""
    return ((corpora.source(CORPORA[corpus], split), 1.0),)


def get_config():
    config = entropy_small.get_config()
    config.data.sources = sum((source(corpus) for corpus in CORPORA), ())
    config.data.validation_sources = sum((source(corpus, "validation") for corpus in CORPORA), ())
    config.training.eval_every = 0
    return config
