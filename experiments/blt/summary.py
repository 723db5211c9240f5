"""The small BLT experiments as a page."""

from experiments.blt.difficulty import RULES
from experiments.blt.entropy_corpora import CORPORA
from experiments.blt.worker import CLASSES
from experiments.results import Results, markdown

_NAMES = {"entropy": "entropy", "random": "random", "fixed": "every 4 bytes"}


def page(results: dict[tuple[str, int], dict], thresholds: dict[str, dict], costs: str) -> str:
    """README.md, from the results by (variant, seed), the thresholds by corpus, and compute.py's table."""
    study = Results(results)
    training_bytes = study.of_first_seed("entropy-books")["training_bytes"]
    lines = [
        "# First experiments with a small BLT",
        "",
        f"Written by `python -m experiments.blt.run`: 18 models of {len(study.seeds)} paired seeds (same "
        f"initialisation, same data order), {training_bytes / 1e6:.1f} MB of training bytes each, on 2 CPU cores. The "
        "entropy model is trained first, on all three corpora, and frozen; thresholds are those that `scratchpatch "
        "calibrate` finds for 4 bytes per patch on training text. So little training says something about the rules, "
        "nothing about what BLT reaches.",
        "",
        "## (a), (b) Strided against entropy patches of 4 bytes, English books",
        "",
        f"BPB of entropy minus strided: {study.difference('entropy-books', 'fixed-books')}.",
        "",
        "| patches | BPB | bytes per patch | 5% / 50% / 95% / longest | "
        + " | ".join(f"starts at {c}" for c in CLASSES)
        + " |",
        "|---" * (4 + len(CLASSES)) + "|",
        *(_statistics(study, f"{rule}-books", _NAMES[rule]) for rule in ("entropy", "fixed")),
        "",
        "The last columns: of all patches, how many start at such a byte; in brackets over how common it is.",
        "",
        "## (c) Cost at 4, 6 and 8 bytes per patch, same parameters",
        "",
        *costs.splitlines(),
        "",
        "`python -m experiments.blt.compute`. In the program: with masked keys and values, forward pass, fixed patches "
        "(no entropy model). Inverse proportionality holds for the trunk alone. Encoder and decoder run at every byte, "
        "and so does the decoder's reading of its patch: they are the floor that larger patches do not lower, and the "
        "smaller the trunk's share, the sooner it shows. The entropy model of BLT is not in it: 14 layers of width 768 "
        "at every byte cost another 0.2 GFLOPs.",
        "",
        "## (d) Does next-byte entropy measure difficulty?",
        "",
        "| text | patches | BPB, mean (each seed) | bytes per patch | threshold, nats |",
        "|---|---|---|---|---|",
        *(_score(study, corpus, rule, thresholds) for corpus in CORPORA for rule in RULES),
        "",
        "BPB, paired by seed; nothing under 0.01, or of two signs, is called a result:",
        "",
    ]
    for corpus in CORPORA:
        for other in ("random", "fixed"):
            difference = study.difference(f"entropy-{corpus}", f"{other}-{corpus}")
            lines.append(f"- {corpus}: entropy minus {_NAMES[other]} {difference}")
    lines += [
        "",
        "Rank correlation between the entropy model's entropy and the loss of the strided model at the same byte:",
        "",
        *(_correlation(study, corpus) for corpus in CORPORA),
        "",
        "The correlation says whether entropy finds the hard bytes; the differences say whether a boundary there helps "
        "a model of this size, whose n-grams and local layers do most of the work.",
    ]
    return markdown(lines)


def _statistics(study: Results, variant: str, name: str) -> str:
    measured = study.of_first_seed(variant)
    sizes = " / ".join(f"{size:g}" for size in measured["sizes"].values())
    shares = []
    for of_starts, of_bytes in zip(measured["starts"], measured["bytes"], strict=True):
        shares.append(f"{of_starts:.0%} ({of_starts / of_bytes:.1f}x)" if of_bytes else "0%")
    bpb = study.values(variant, "bpb").mean()
    return f"| {name} | {bpb:.4f} | {measured['bytes_per_patch']:.2f} | {sizes} | {' | '.join(shares)} |"


def _score(study: Results, corpus: str, rule: str, thresholds: dict[str, dict]) -> str:
    bpb = study.values(f"{rule}-{corpus}", "bpb")
    by_seed = ", ".join(f"{x:.4f}" for x in bpb)
    size = study.values(f"{rule}-{corpus}", "bytes_per_patch").mean()
    level = f"{thresholds[corpus]['threshold']:.3f}" if rule == "entropy" else ""
    return f"| {corpus} | {_NAMES[rule]} | {bpb.mean():.4f} ({by_seed}) | {size:.2f} | {level} |"


def _correlation(study: Results, corpus: str) -> str:
    rank, entropy, loss = (
        study.values(f"fixed-{corpus}", key).mean() for key in ("rank_correlation", "entropy_bits", "bpb")
    )
    return f"- {corpus}: {rank:.2f}; mean entropy {entropy:.2f} bits, mean loss {loss:.2f}"
