"""Train one variant of the comparison with one seed, and measure it at equal bytes and at equal FLOPs.

.venv/bin/python -m experiments.compare.worker VARIANT SEED FOLDER MEGABYTES EVAL_BYTES ITEMS

FOLDER/plan.json says to which step it trains next, and at which it is to be measured, as far as its steps so far tell;
FOLDER/points.json has what was measured so far, and FOLDER/result.json everything. A run that was killed goes on from
its newest checkpoint.
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import logging

from experiments.compare.config import PREDICTOR, PREDICTOR_SHARE, TEXTS, WINDOW, get_config
from scratchpatch import compilation_cache, load
from scratchpatch.accounting import account, flops
from scratchpatch.data.mixture import streams_for
from scratchpatch.evaluation.bpb import Tally, rates
from scratchpatch.files import replace_text
from scratchpatch.inference.windows import Head
from scratchpatch.tasks import names
from scratchpatch.tasks.task import Setting
from scratchpatch.training.loop import train
from scratchpatch.training.metrics import read_metrics

# The share of the bytes after which a run first knows what its steps cost; how many times as far it then trains, at
# most, before it counts again: rates of commits and scratchpads settle while a model learns.
_PILOT, _FARTHER = 1 / 50, 4
_FEWEST = 20
POINTS = ("bytes", "flops")
# What is continued to tell how fast, and by how many bytes.
_PROMPT, _CONTINUED = b"The ", 256
_NOISES = ("drop", "random_case", "repeat")


def budget(text: str, megabytes: float) -> float:
    """Training FLOPs that all systems are measured at: those of patches of 8 bytes without scratchpads, for so many
    bytes in documents that fill the window.
    """
    return megabytes * 1e6 * per_byte(get_config(f"p8-{text}"))


def per_byte(config) -> float:
    """Training FLOPs of a byte, by the rates that a config aims at; tokens are taken to be as long as it has them."""
    per_position = sum(flops.training(config, *account.rates(config), config.data.window).values())
    return per_position * config.data.window / WINDOW if config.data.tokenizer else per_position


def spent(folder: Path) -> dict[str, float]:
    """Steps so far, and the bytes and useful FLOPs of them: keys are counted, the entropy head is included, and of a
    frozen entropy model its forward pass. Steps whose time is not known count as the mean of the others.
    """
    return _of_lines(read_metrics(folder)[0])


def _of_lines(lines: list[dict]) -> dict[str, float]:
    timed = [line for line in lines if line.get("flops_per_second")]
    costs = [line["flops_per_second"] / line["bytes_per_second"] * line["bytes"] for line in timed]
    return {
        "steps": len(lines),
        "bytes": sum(line["bytes"] for line in lines),
        "flops": sum(costs) / len(costs) * len(lines),
        # The median, since the first step after a start waits for its compilation.
        "flops_per_second": sorted(line["flops_per_second"] for line in timed)[len(timed) // 2],
    }


def plan(lines: list[dict], wanted: dict[str, float]) -> dict[str, int]:
    """The step of each point, if further steps cost what the later half of those so far did.

    Args:
      lines: of metrics, one for each step so far.
      wanted: bytes and FLOPs of the points of these names.
    """
    so_far, recent = _of_lines(lines), _of_lines(lines[len(lines) // 2 :])
    left = {point: (total - so_far[point]) / recent[point] * recent["steps"] for point, total in wanted.items()}
    return {point: so_far["steps"] + max(round(steps), 0) for point, steps in left.items()}


def beginning(lm, stream, byte_count: int) -> Head:
    """The first positions of a stream, of bytes or of tokens, that hold so many bytes of text; or all of it."""
    # A position holds a byte or more, or begins a document.
    tokens_T = stream.read(0, min(2 * byte_count, len(stream)))
    bytes_T = tokens_T < lm.vocabulary.bos if lm.token_bytes is None else lm.token_bytes[tokens_T]
    return Head(stream, int(np.searchsorted(np.cumsum(bytes_T), byte_count)) + 1)


def measure(lm, streams: dict, eval_bytes: int) -> dict:
    """Bits per byte over the beginnings of all streams and of each (by name of its corpus), and what the trunk did for
    them.
    """
    total, by_corpus = Tally(lm.vocabulary, lm.token_bytes), {}
    for corpus, stream in streams.items():
        alone = Tally(lm.vocabulary, lm.token_bytes)
        for part in lm.positions(beginning(lm, stream, eval_bytes // len(streams))):
            alone.add(part)
            total.add(part)
        by_corpus[corpus] = alone.bpb
    return {"bpb": total.bpb, "by_corpus": by_corpus, **rates(lm, total.sums)}


def tasks(lm, config, items: int) -> dict:
    """Noise on the first half of each text, in bits per byte of the clean second half; and recall of pairs."""
    source, _ = config.data.validation_sources[0]
    options = [f"noise.kinds={'+'.join(_NOISES)}", "noise.where=prompt", f"recall.documents={items}"]
    setting = Setting(lm, limit=items, shown=False)
    noise, recall = (task.run(setting) for task in names.parse([f"noise:{source}", "recall"], options))
    return {
        "noise_gap": noise["bpb"]["mean"]["gap"],
        "recall_accuracy": recall["accuracy"],
        "recall_bits": recall["bits_per_value"],
    }


def decoding_speed(lm) -> float:
    """Bytes per second that one row is continued by, greedily and from its cache, on this core."""

    def run() -> float:
        began = time.perf_counter()
        written = lm.generate(_PROMPT, max_bytes=_CONTINUED)
        return len(written) / (time.perf_counter() - began)

    # The first call compiles.
    run()
    return max(run() for _ in range(3))


def main(variant: str, seed: int, folder: Path, megabytes: float, eval_bytes: int, items: int) -> None:
    logging.set_verbosity(logging.INFO)
    compilation_cache.enable()
    system, _, text = variant.partition("-")
    config = get_config(variant)
    config.seed = seed
    wanted = {"bytes": megabytes * 1e6, "flops": budget(text, megabytes)}
    if system == PREDICTOR:
        wanted = {"bytes": wanted["bytes"] * PREDICTOR_SHARE}
    if config.data.tokenizer:
        config.data.tokenizer = str(folder.parent / f"{text}.tokenizer.json")
    if config.model.entropy_model.layers:
        predictor = folder.parent / f"{PREDICTOR}-{text}-0"
        config.model.entropy_model.workdir = str(predictor)
        # What it took to train it is of this run's FLOPs.
        wanted["flops"] -= json.loads((predictor / "result.json").read_text())["points"]["bytes"]["training_flops"]

    stored, planned = folder / "points.json", folder / "plan.json"
    points = json.loads(stored.read_text()) if stored.exists() else {}
    pilot = int(wanted["bytes"] * _PILOT / (config.training.batch_rows * config.data.window))
    todo = json.loads(planned.read_text()) if planned.exists() else {"step": max(pilot, _FEWEST), "points": {}}
    streams = dict(zip(TEXTS[text], (stream for stream, _ in streams_for(config, "validation")), strict=True))
    while points.keys() < wanted.keys():
        config.training.steps = todo["step"]
        if not train(config, folder):
            raise SystemExit("stopped: the same command goes on from there")
        so_far = spent(folder)
        for point in [point for point, step in todo["points"].items() if step == todo["step"] and point not in points]:
            points[point] = {
                "steps": so_far["steps"],
                "training_bytes": so_far["bytes"],
                "training_flops": so_far["flops"],
                **measure(load(folder), streams, eval_bytes),
            }
            replace_text(stored, json.dumps(points, indent=1) + "\n")
        left = {point: total for point, total in wanted.items() if point not in points}
        todo["points"] |= plan(read_metrics(folder)[0], left)
        if left:
            todo["step"] = min(_FARTHER * todo["step"], *(todo["points"][point] for point in left))
            replace_text(planned, json.dumps(todo) + "\n")
    lm = load(folder)
    result = {
        "points": points,
        "parameters": sum(x.size for x in jax.tree.leaves(lm.weights["params"])),
        "flops_per_second": spent(folder)["flops_per_second"],
        "budget": wanted,
    }
    if system != PREDICTOR:
        result["tasks"] = tasks(lm, config, items)
        result["decoding_bytes_per_second"] = decoding_speed(lm)
    replace_text(folder / "result.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    variant, seed, folder, megabytes, eval_bytes, items = sys.argv[1:]
    main(variant, int(seed), Path(folder), float(megabytes), int(eval_bytes), int(items))
