"""`scratchpatch account`: what a config costs, before anything runs."""

from __future__ import annotations

from scratchpatch import config as config_lib
from scratchpatch.accounting import flops, kv_cache
from scratchpatch.accounting.parameters import parameters
from scratchpatch.output import quantity


def rates(config) -> tuple[float, float]:
    """Commits and scratchpads per byte that a config aims at.

    Exact for byte, fixed, stride and every; the target for random and for
    entropies; the budget for white space, which depends on the text; none
    without a trunk.
    """
    if config.model.trunk.kind == "none":
        return 0.0, 0.0
    patching, trigger = config.patching, config.trigger
    commits = {"byte": 1.0, "whitespace": float(config_lib.commit_capacity(config))}.get(patching.kind, 1 / patching.patch_bytes)
    commits = min(commits, float(config_lib.commit_capacity(config)))
    inside = 1 - commits
    scratchpads = {
        "none": 0.0,
        "every": inside,
        # The patch's last byte commits and needs none.
        "stride": commits * ((round(1 / commits) - 1) // trigger.stride),
        "whitespace": inside * float(config_lib.scratchpad_capacity(config)),
        "random": inside * trigger.rate,
    }.get(trigger.kind, trigger.rate)
    return commits, max(min(scratchpads, float(config_lib.scratchpad_capacity(config)), inside), 0.0)


def account(config) -> dict:
    """Parameters, FLOPs and cache of a config, by tier.

    Returns a dict: parameters {tier: count}, inference_flops_per_byte and
    training_flops_per_byte {tier: FLOPs}, each with 'total';
    trunk_calls_per_byte, commits_per_byte, scratchpads_per_byte,
    kv_bytes_per_byte, window.
    """
    config_lib.check(config)
    commits, scratchpads = rates(config)
    window = config.data.window
    with_total = lambda tiers: tiers | {"total": sum(tiers.values())}  # noqa: E731
    return {
        "parameters": with_total(parameters(config)),
        "inference_flops_per_byte": with_total(flops.inference(config, commits, scratchpads, window)),
        "training_flops_per_byte": with_total(flops.training(config, commits, scratchpads, window)),
        "trunk_calls_per_byte": commits + scratchpads,
        "commits_per_byte": commits,
        "scratchpads_per_byte": scratchpads,
        "kv_bytes_per_byte": kv_cache.kv_bytes_per_byte(config, commits),
        "window": window,
    }


def table(found: dict) -> str:
    """An account as text."""
    lines = [f"{'tier':<14}{'parameters':>12}{'inference FLOPs/byte':>22}{'training FLOPs/byte':>22}"]
    for tier in (*flops.TIERS, "total"):
        if tier in found["parameters"]:
            values = [found[k].get(tier, 0.0) for k in ("parameters", "inference_flops_per_byte", "training_flops_per_byte")]
            lines.append(f"{tier:<14}{quantity(values[0]):>12}{quantity(values[1]):>22}{quantity(values[2]):>22}")
    lines += [
        f"trunk calls per byte {found['trunk_calls_per_byte']:.4f} = {found['commits_per_byte']:.4f} commits "
        f"+ {found['scratchpads_per_byte']:.4f} scratchpads",
        f"trunk KV cache {found['kv_bytes_per_byte']:,.1f} bytes per byte of text (scratchpads keep none)",
    ]
    return "\n".join(lines)
