"""The trigger study as a page, from the lines that its workers wrote.

    .venv/bin/python -m experiments.triggers.summary RESULTS FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np

from experiments.results import Results, markdown, mean_and_each, within_noise
from experiments.triggers.config import VARIANTS, WINDOW

NAMES = {
    "none": "none",
    "every": "every byte",
    "entropy": "entropy",
    "entropy_jump": "entropy_jump",
    "score": "score (entropy + table)",
    "learned": "learned (head)",
    "oracle": "*oracle, 4 bytes ahead*",
    "oracle_next": "*oracle, next byte*",
    "stride": "stride 4",
    "whitespace": "whitespace",
    "random": "random",
    "marks": "marks (after `=`, `# `, `>>`)",
}
# The weights on which triggers are compared: those that saw scratchpads anywhere.
NEUTRAL = "random"
CAUSAL = ("entropy_jump", "score", "learned", "stride", "whitespace", "random")


class Study(Results):
    """Results by variant and seed, of the variants that have every seed of the first one.

    variants: those that are there; the one on whose weights all triggers are compared must be among them.
    """

    def __init__(self, lines: list[dict]):
        results = {(line["variant"], line["seed"]): line for line in lines}
        seeds = {seed for variant, seed in results if variant == NEUTRAL}
        if not seeds:
            raise SystemExit(f"triggers: there are no results of {NEUTRAL!r} yet")
        self.variants = [name for name in VARIANTS if all((name, seed) in results for seed in seeds)]
        super().__init__({run: line for run, line in results.items() if run[0] in self.variants and run[1] in seeds})

    def of(self, variant: str, key: str, kind: str | None = None) -> np.ndarray:
        """One number per seed: of the trigger that the model trained with, or of another kind on its weights."""
        rows = [self.results[variant, seed] for seed in self.seeds]
        return np.array([(row["fixed"][kind] if kind else row["own"])[key] for row in rows])

    def correlation(self, variant: str, kind: str) -> np.ndarray:
        """With the benefit that is measured on held-out text."""
        return np.array([self.results[variant, seed]["correlations"][kind] for seed in self.seeds])


def write(folder: Path, results: Path) -> None:
    """README.md in `folder`, from the lines of results.jsonl."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    study = Study([line for line in lines if "variant" in line])
    recall = {line["seed"]: line for line in lines if line.get("recall")}
    (folder / "README.md").write_text(page(study, [recall[seed] for seed in sorted(recall)]))


def page(study: Study, recall: list[dict]) -> str:
    """The page's Markdown; recall: what `recall` measured, by seed."""
    first = study.of_first_seed(NEUTRAL)
    alone = "one seed, so that no difference is a result"
    seeds = alone if len(study.seeds) == 1 else f"{len(study.seeds)} paired seeds"
    lines = [
        "# Which trigger: where shall scratchpads stand?",
        "",
        f"Models of {first['parameters'] / 1e6:.1f}M parameters, patches of 16 bytes, local windows of 16 bytes, "
        f"{first['training_bytes'] / 1e6:.1f} MB of training bytes (books, Python code and gsm8k, a third each), "
        f"{first['dtype']}, on {first['device']}; {seeds}. BPB is the mean of held-out books "
        f"and code, in windows of {WINDOW} bytes without overlap; `computed` are the bytes of gsm8k's held-out "
        "problems that follow from others: results of `<<48/2=24>>`, and answers after `####`. Mean over seeds, ± half "
        "the spread; differences below 0.01 BPB, or of differing sign between seeds, are not called results. The rate "
        "is 3/16 scratchpads per byte but for none and every; marks fire where there are some.",
        "",
        "Everything here is written by `.venv/bin/python -m experiments.triggers.run`.",
        "",
        *_in_short(study),
        "",
        "## Trained with the trigger",
        "",
        *_table(study, [(variant, variant, None) for variant in study.variants]),
        "",
        *_differences(study),
        "",
        "## On the same weights",
        "",
        f"Every trigger on the models that were trained with `{NEUTRAL}`, its threshold set so that it fires at 3/16 "
        "of the bytes of this text. The oracles read the bytes that follow, and are bounds, not models: one fires "
        "where a scratchpad saves most over the next 4 bytes of the patch, one where a fresh context saves most of "
        "the next byte. They also pick what chance gave, so no causal trigger can come up to them.",
        "",
        *_table(study, [(kind, NEUTRAL, kind) for kind in NAMES]),
        "",
        *_fixed(study),
        "",
        *(_recall(recall) if recall else []),
        "## What predicts a scratchpad's benefit",
        "",
        "Correlation with the nats that a scratchpad saves over the next 4 bytes, on held-out text, where one may "
        "stand.",
        "",
        *_correlations(study),
        "",
        *_carried(study),
    ]
    return markdown(lines)


def _in_short(study: Study) -> list[str]:
    """The three questions of the study, answered from its numbers."""
    none, oracle = (study.of(NEUTRAL, "bpb", kind) for kind in ("none", "oracle"))
    best = {kind: study.of(NEUTRAL, "bpb", kind) - study.of(NEUTRAL, "bpb", "entropy") for kind in CAUSAL}
    none_is = "None is" if len(study.seeds) > 1 else "One seed cannot tell"
    better = [NAMES[kind] for kind, by_seed in best.items() if _is_result(by_seed) and by_seed.mean() < 0]
    all_of_them = [study.of(NEUTRAL, "bpb", kind) - none for kind in ("every", *CAUSAL)]
    learned, score, entropy = (study.correlation(NEUTRAL, kind) for kind in ("learned", "score", "entropy"))
    return [
        f"- **Is any causal trigger better than entropy on the same weights?** {', '.join(better) or none_is}; they "
        f"differ from it by {min(x.mean() for x in best.values()):+.4f} to {max(x.mean() for x in best.values()):+.4f} "
        "BPB.",
        f"- **How much could a trigger gain here?** Any of them, and scratchpads at every byte, change BPB against "
        f"none by {min(x.mean() for x in all_of_them):+.4f} to {max(x.mean() for x in all_of_them):+.4f}; the oracle, "
        f"with the future at hand, by {(oracle - none).mean():+.4f}.",
        "- **Can the benefit be predicted?** The correlation with what a scratchpad saves is "
        f"{learned.mean():.3f} for the learnt head, {score.mean():.3f} for entropy with the table and "
        f"{entropy.mean():.3f} for entropy alone.",
    ]


def _table(study: Study, rows: list[tuple[str, str, str | None]]) -> list[str]:
    lines = [
        "| trigger | BPB | books | code | gsm8k | computed, BPB | computed, accuracy | scratchpads/byte |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, variant, kind in rows:
        def of(key, variant=variant, kind=kind):
            return study.of(variant, key, kind)

        accuracy = of("computed_accuracy") * 100
        lines.append(
            f"| {NAMES[name]} | {of('bpb').mean():.4f} ± {np.ptp(of('bpb')) / 2:.4f} "
            f"| {of('books').mean():.3f} | {of('code').mean():.3f} | {of('sums').mean():.3f} "
            f"| {of('computed_bpb').mean():.3f} ± {np.ptp(of('computed_bpb')) / 2:.3f} "
            f"| {accuracy.mean():.1f}% ± {np.ptp(accuracy) / 2:.1f} | {of('scratchpads_per_byte').mean():.3f} |"
        )
    return lines


def _is_result(difference: np.ndarray) -> bool:
    """Whether the difference is large enough, and of one sign on two seeds or more."""
    return len(difference) > 1 and not within_noise(difference)


def _verdict(difference: np.ndarray) -> str:
    word = "worse" if difference.mean() > 0 else "better"
    return f"{mean_and_each(difference)}: {word if _is_result(difference) else 'no result'}"


def _differences(study: Study) -> list[str]:
    if study.variants == [NEUTRAL]:
        return ["No other variant has been trained yet."]
    lines = [f"Against the model trained with {NEUTRAL}, BPB and BPB of computed bytes (below zero: better):", ""]
    for variant in study.variants:
        if variant != NEUTRAL:
            bpb, computed = (study.of(variant, key) - study.of(NEUTRAL, key) for key in ("bpb", "computed_bpb"))
            lines.append(f"- {NAMES[variant]}: BPB {_verdict(bpb)}; computed {_verdict(computed)}.")
    return lines


def _fixed(study: Study) -> list[str]:
    lines = ["BPB against none, and against the entropy trigger:", ""]
    for kind in NAMES:
        against = {
            other: _verdict(study.of(NEUTRAL, "bpb", kind) - study.of(NEUTRAL, "bpb", other))
            for other in ("none", "entropy")
            if other != kind
        }
        said = "; ".join(f"against {other} {verdict}" for other, verdict in against.items())
        lines.append(f"- {NAMES[kind]}: {said}.")
    return lines


def _recall(lines: list[dict]) -> list[str]:
    """Triggers on models that must look values up."""
    first = lines[0]
    rates = [f"1/{round(1 / rate)}" for rate in first["rates"]]

    def cell(kind: str, i: int) -> str:
        return ", ".join(f"{line['fixed'][kind][i]['computed_accuracy']:.3f}" for line in lines)

    kinds = ("entropy", "entropy_jump", "score", "learned")
    correlations = {kind: [line["correlations"][kind] for line in lines] for kind in kinds}
    said = ", ".join(f"{NAMES[kind]} {' and '.join(f'{x:.3f}' for x in by)}" for kind, by in correlations.items())
    return [
        "## Where scratchpads matter: values that must be looked up",
        "",
        "Documents of pairs and questions, and models of 4-byte patches that learnt them with a scratchpad at every "
        f"byte ({first['steps']} steps of 16 rows of 256 bytes; see [recall](../recall/README.md)). Share of the "
        "values that are right, of each seed, by how often each trigger may fire on the same weights. What must be "
        "refreshed is the context at a key that was just asked, where no commit stands: a quarter of all bytes.",
        "",
        "| trigger | " + " | ".join(f"rate {rate}" for rate in rates) + " |",
        "|---|" + "---|" * len(rates),
        *(f"| {NAMES[kind]} | {' | '.join(cell(kind, i) for i in range(len(rates)))} |" for kind in first["fixed"]),
        "",
        f"Correlation with what a scratchpad saves over the next 4 bytes, of each seed: {said}.",
        "",
    ]


def _correlations(study: Study) -> list[str]:
    kinds = ("entropy", "entropy_jump", "score", "learned")
    lines = ["| weights | " + " | ".join(kinds) + " | benefit, nats |", "|---|" + "---|" * (len(kinds) + 1)]
    for variant in study.variants:
        numbers = [study.correlation(variant, kind) for kind in kinds]
        cells = " | ".join(f"{x.mean():.3f} ± {np.ptp(x) / 2:.3f}" for x in numbers)
        mean, deviation = (study.correlation(variant, f"benefit_{name}").mean() for name in ("mean", "deviation"))
        lines.append(f"| {NAMES[variant]} | {cells} | {mean:.4f} (deviation {deviation:.3f}) |")
    return lines


def _carried(study: Study) -> list[str]:
    """Whether models miss the scratchpads that they were trained with."""
    lines = ["BPB that the trained weights lose without their scratchpads:", ""]
    for variant in study.variants:
        if variant != "none":
            lost = study.of(variant, "bpb", "none") - study.of(variant, "bpb")
            lines.append(f"- {NAMES[variant]}: {mean_and_each(lost)}.")
    return lines


if __name__ == "__main__":
    write(Path(sys.argv[2]), Path(sys.argv[1]))
