"""The tinyshakespeare study as a page: a table for each recipe, and what they show with its uncertainty."""

import math

import numpy as np

from experiments.results import Results, markdown
from experiments.shakespeare.config import MODELS, RECIPES, VARIANTS, get_config
from scratchpatch import config as config_lib

# Mean nats per character of nanoGPT's own run of this recipe, as its README has it.
PUBLIC = 1.88
NAMES = {
    "flat": "byte-level",
    "p4": "p=4",
    "p4_scratchpads": "p=4, a scratchpad at every byte",
    "flat_ngrams": "byte-level, hashed 2- to 5-grams",
    "p4_scratchpads_ngrams": "p=4, a scratchpad at every byte, hashed 2- to 5-grams",
}
_TITLES = {"public": "The public recipe", "ours": "Our optimizer, at the same steps and rows"}


def page(results: dict[tuple[str, int], dict], checksum: str, text_bytes: int) -> str:
    """The page's Markdown, of the runs that are finished.

    Args:
      results: of each variant and seed, what the worker has written.
      checksum: SHA-256 of the text, in hexadecimal digits.
      text_bytes: its length.
    """
    first = next(iter(results.values()))
    lines = [
        "# tinyshakespeare by nanoGPT's public CPU recipe",
        "",
        f"{first['training_bytes'] / 1e6:.2f} MB of training bytes: 2,000 steps of 12 rows of 64 bytes, of the first "
        f"nine tenths of {text_bytes:,} bytes (SHA-256 {checksum}), so every window is read one and a half times. "
        "The rest validates: mean nats per byte over windows of 64 bytes that see nothing before them. Seeds fix "
        "initialisation and data order.",
        "",
        f"nanoGPT's README gives {PUBLIC} nats per character for this recipe, at about 0.8M parameters and with the "
        "text's 65 characters as vocabulary. Here it is all 256 bytes, and the text is ASCII. Its batches are windows "
        "at random places; ours are the windows of the text one behind the other, each once per epoch, in random "
        "order. As there, no window begins with a BOS, in training and in validation.",
        "",
        "Everything here is written by `.venv/bin/python -m experiments.shakespeare.run --text=FILE`.",
    ]
    for recipe in RECIPES:
        lines += ["", f"## {_TITLES[recipe]}", "", *_told(recipe), "", *_table(results, recipe)]
    missing = [variant for variant in VARIANTS if not _seeds(results, variant)]
    if missing:
        lines += ["", f"Not trained so far: {', '.join(f'`{variant}`' for variant in missing)}."]
    return markdown(lines)


def _told(recipe: str) -> list[str]:
    if recipe == "public":
        return [
            "AdamW with betas 0.9 and 0.99 and decay 0.1 of matrices, clipping at 1, 100 steps of warm-up, then a "
            "cosine from 1e-3 to 1e-4. The model is ours: RMSNorm, RoPE and SwiGLU instead of GPT-2's parts, no bias."
        ]
    ours = get_config("flat-ours")
    names = config_lib.changed(get_config("flat-public"), ours)
    listed = ", ".join(f"`{name} = {config_lib.get(ours, name)!r}`" for name in names)
    return [
        f"The same, but for {listed}. That much is within the recipe of a fixed number of steps, rows and parameters. "
        "Patches, scratchpads and embeddings of n-grams are other models; n-grams also multiply the parameters, of "
        "which a byte then reads a few rows."
    ]


def _table(results: dict[tuple[str, int], dict], recipe: str) -> list[str]:
    lines = [
        "| model | parameters | nats per byte, by seed | mean ± half the spread | BPB | trunk calls/byte "
        "| trunk KV bytes/byte | MFLOPs/byte |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        variant = f"{model}-{recipe}"
        seeds = _seeds(results, variant)
        if not seeds:
            continue
        study = Results({(variant, seed): results[variant, seed] for seed in seeds})
        nats, first = study.values(variant, "nats"), study.of_first_seed(variant)
        lines.append(
            f"| {NAMES[model]} | {first['parameters']:,} | {', '.join(f'{x:.3f}' for x in nats)} "
            f"| {nats.mean():.3f} ± {np.ptp(nats) / 2:.3f} | {nats.mean() / math.log(2):.3f} "
            f"| {first['trunk_calls_per_byte']:.2f} | {first['kv_bytes_per_byte']:.0f} "
            f"| {first['flops_per_byte'] / 1e6:.2f} |"
        )
    return lines


def _seeds(results: dict[tuple[str, int], dict], variant: str) -> list[int]:
    return sorted(seed for name, seed in results if name == variant)
