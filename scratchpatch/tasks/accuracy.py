"""Accuracies of graded questions, with their standard errors. Legend: N questions, G groups."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def of(grades: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers of questions that `choice.Sheet.grade` graded.

    Returns:
      accuracy and standard_error: by each normalisation; of texts to continue `greedy` alone, the share whose every
        byte was the likeliest.
      chance: the accuracy of a guess; None of texts to continue.
      right_answer_bpb: bits per byte of what was scored of the right answers, all together.
      right_answer_nats: of one right answer, on average.
      macro_accuracy and groups: where there are several groups, the mean of their accuracies, and each group's.
    """
    chosen = [hits(grade) for grade in grades]
    right = {name: np.array([each[name] for each in chosen], float) for name in chosen[0]}
    nats = [grade["nats"][grade["gold"]] for grade in grades]
    numbers = {
        "accuracy": {name: float(right_N.mean()) for name, right_N in right.items()},
        "standard_error": {name: standard_error(right_N) for name, right_N in right.items()},
        "chance": None if "greedy" in right else float(np.mean([1 / len(grade["nats"]) for grade in grades])),
        "right_answer_bpb": math.fsum(nats) / math.log(2) / sum(grade["scored_bytes"] for grade in grades),
        "right_answer_nats": math.fsum(nats) / len(nats),
    }
    group_N = np.array([grade["group"] for grade in grades])
    if len(names := np.unique(group_N)) > 1:
        groups = {
            str(group): {name: float(right_N[group_N == group].mean()) for name, right_N in right.items()}
            for group in names
        }
        numbers["macro_accuracy"] = {name: float(np.mean([g[name] for g in groups.values()])) for name in right}
        numbers["groups"] = groups
    return numbers


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


def standard_error(values_N: Sequence[float]) -> float:
    """Of the mean of independent values; NaN of fewer than two."""
    values_N = np.asarray(values_N, float)
    return float(values_N.std(ddof=1) / math.sqrt(len(values_N))) if len(values_N) > 1 else math.nan
