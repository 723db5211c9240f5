"""The metrics of a step, from its sums."""

import math

from scratchpatch.accounting import chips, flops


class Measures:
    """Turns sums of a step (see `loss.sums`) into what a metrics line holds."""

    def __init__(self, config, schedule, devices):
        """schedule: the learning rate by the step's index, computed on the host: asking the device would wait behind the
        step that runs there."""
        self._config = config
        self._learning_rate = schedule
        peak = chips.peak_flops(devices[0].device_kind)
        self._peak = peak and peak * len(devices)

    def of(self, index: int, sums: dict[str, float], seconds: float | None) -> dict[str, float | str]:
        """Metrics of the step with this index.

        bpb, head_bpb: bits per raw byte. end_of_document_nats: mean over ends,
        NaN where no document ends.
        Rates are per position, suppressed ones counts; a model without a trunk
        has none of either. flops_per_second counts useful FLOPs (padding, keys of
        other documents and recomputation excluded); mfu is its share of the
        chips' dense bf16 peak, left out where that is unknown.
        """
        bits = lambda nats: nats / max(sums["bytes"], 1.0) / math.log(2)  # noqa: E731
        positions = max(sums["positions"], 1.0)
        commits, scratchpads = sums["commits"] / positions, sums["scratchpads"] / positions
        found = {
            "bpb": bits(sums["nats"]),
            "end_of_document_nats": sums["end_nats"] / sums["ends"] if sums["ends"] else math.nan,
            "gradient_norm": sums["gradient_norm"],
            "learning_rate": self._learning_rate(index),
            "bytes": sums["bytes"],
        }
        if self._config.model.trunk.kind != "none":
            found |= {
                "trunk_calls_per_byte": commits + scratchpads,
                "scratchpads_per_byte": scratchpads,
                "bytes_per_patch": 1 / commits if commits else math.inf,
                "suppressed_commits": sums["suppressed_commits"],
                "suppressed_scratchpads": sums["suppressed_scratchpads"],
                "patching_threshold": sums["patching_threshold"],
                "trigger_threshold": sums["trigger_threshold"],
            }
        if "head_nats" in sums:
            found["head_bpb"] = bits(sums["head_nats"])
        if seconds:
            found["bytes_per_second"] = sums["bytes"] / seconds
            found["flops_per_second"] = flops.trained(self._config, sums) / seconds
            if self._peak:
                found["mfu"] = found["flops_per_second"] / self._peak
        return found
