"""The GSM8K study as a page."""

import numpy as np

from experiments.gsm8k.config import WINDOW
from experiments.gsm8k.text import VALIDATION_PROBLEMS
from experiments.results import markdown

NAMES = {
    "none": "no scratchpads",
    "random": "random",
    "entropy": "entropy",
    "entropy_jump": "entropy_jump",
    "answer_start": "after `=`, `>>`, `#### `, filled up by entropy jumps",
    "every": "every byte",
}
# What arXiv 2610.11790 reports of final answers, in percent.
PUBLISHED = {
    ("p=16", "none"): "6.1",
    ("p=16", "random"): "5.9",
    ("p=16", "entropy"): "5.6",
    ("p=16", "answer_start"): "38.1 (8.3 to 52.4)",
    ("p=8", "none"): "7.8",
}


def page(document: dict) -> str:
    """The page's Markdown, of what `run.study` measured."""
    results = document["results"]
    first = results[0]
    seeds = sorted({result["seed"] for result in results})
    kinds = [kind for kind in first if isinstance(first[kind], dict)]
    final = first["final"]["answers"]
    lines = [
        "# GSM8K: where must scratchpads fire for a small model to compute?",
        "",
        f"Models of {first['parameters'] / 1e6:.2f}M parameters (trunk of 2 layers of width 64, local windows of 32 "
        f"bytes, rows of {WINDOW} bytes), {first['steps']:,} steps of 32 rows on the worked solutions of GSM8K but the "
        f"last {VALIDATION_PROBLEMS} problems, which validate ({final} final answers, "
        f"{first['calculated']['answers']:,} results inside `<<...>>`); {len(seeds)} seeds, paired. An answer is right "
        "where every byte of it is the likeliest, given the true text before it. Entropies are those of a byte-level "
        "model of width 32 that was trained before; thresholds come from the training text.",
        "",
        f"Everything here is written by `.venv/bin/python -m experiments.gsm8k.run` ({document['device']}, "
        f"{document['seconds']:.0f} s beside other work).",
        "",
        "| patches | scratchpads | per byte | BPB | " + " | ".join(f"{kind}, % right" for kind in kinds)
        + " | final, each seed | published | scratchpad right before the final answer |",
        "|" + "---|" * (len(kinds) + 7),
    ]
    for program, variant in dict.fromkeys((result["program"], result["variant"]) for result in results):
        rows = [r for r in results if (r["program"], r["variant"]) == (program, variant)]
        accuracy = {kind: [100 * row[kind]["accuracy"] for row in rows] for kind in kinds}
        cells = [
            program,
            NAMES[variant],
            f"{np.mean([row['scratchpads_per_byte'] for row in rows]):.3f}",
            f"{np.mean([row['bpb'] for row in rows]):.3f}",
            *(f"{np.mean(accuracy[kind]):.1f}" for kind in kinds),
            ", ".join(f"{value:.1f}" for value in accuracy["final"]),
            PUBLISHED.get((program, variant), "-"),
            f"{100 * np.mean([row['final']['scratchpad_before'] for row in rows]):.0f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return markdown(lines)
