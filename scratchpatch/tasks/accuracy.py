"""Accuracies of graded questions, with their standard errors. Legend: N questions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from scratchpatch import output
from scratchpatch.tasks.ratios import ratio


def of(grades: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers of questions that `choice.Sheet.grade` graded.

    Returns:
      accuracy: by each normalisation its mean, and the mean's standard error; of texts to continue `greedy` alone, the
        share whose every byte was the likeliest. Where there are several groups, macro is the mean of their means.
      chance: the accuracy of a guess; None of texts to continue.
      right_answer_bpb: bits per byte of what was scored of the right answers, all together.
      right_answer_nats: of one right answer, on average.
      groups: where there are several, the accuracies of each.
    """
    chosen = [hits(grade) for grade in grades]
    right = {name: np.array([each[name] for each in chosen], float) for name in chosen[0]}
    nats = [grade["nats"][grade["gold"]] for grade in grades]
    numbers = {
        "accuracy": {name: dict(zip(("mean", "stderr"), ratio(hits_N), strict=True)) for name, hits_N in right.items()},
        "chance": None if "greedy" in right else np.mean([1 / len(grade["nats"]) for grade in grades]),
        "right_answer_bpb": math.fsum(nats) / math.log(2) / sum(grade["scored_bytes"] for grade in grades),
        "right_answer_nats": math.fsum(nats) / len(nats),
    }
    group_N = np.array([grade["group"] for grade in grades])
    if len(groups := np.unique(group_N)) > 1:
        of_groups = {
            str(group): {name: right_N[group_N == group].mean() for name, right_N in right.items()} for group in groups
        }
        for name, accuracy in numbers["accuracy"].items():
            accuracy["macro"] = np.mean([means[name] for means in of_groups.values()])
        numbers["groups"] = of_groups
    return output.plain(numbers)


def hits(grade: dict[str, Any]) -> dict[str, bool]:
    """Whether the right answer was chosen, by each normalisation; the first of those that tie is."""
    nats = np.array(grade["nats"])
    if len(nats) == 1:
        return {"greedy": grade["greedy"]}
    scores = {
        "raw": nats,
        "per_byte": nats / np.array(grade["bytes"]),
        "per_character": nats / np.array(grade["characters"]),
        "unconditional": nats - np.array(grade["unconditional_nats"]),
    }
    return {name: int(score.argmin()) == grade["gold"] for name, score in scores.items()}
