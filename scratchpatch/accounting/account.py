"""`scratchpatch account`: what a config costs, before anything runs."""

from scratchpatch import config as config_lib
from scratchpatch.accounting import flops, kv_cache
from scratchpatch.accounting.parameters import parameters
from scratchpatch.output import quantity


def rates(config) -> tuple[float, float]:
    """Commits and scratchpads per byte that a config aims at; none without a trunk. Exact for byte, fixed, stride and
    every; the target for random, marks, learned and entropies; the budget for white space.
    """
    if config.model.trunk.kind == "none":
        return 0.0, 0.0
    patching, trigger = config.patching, config.trigger
    most_commits = float(config_lib.commit_capacity(config))
    most_scratchpads = float(config_lib.scratchpad_capacity(config))
    commits = min({"byte": 1.0, "whitespace": most_commits}.get(patching.kind, 1 / patching.patch_bytes), most_commits)
    inside = 1 - commits
    scratchpads = {
        "none": 0.0,
        "every": inside,
        # The patch's last byte commits and needs none.
        "stride": commits * ((round(1 / commits) - 1) // trigger.stride),
        "whitespace": inside * most_scratchpads,
        "random": inside * trigger.rate,
    }.get(trigger.kind, trigger.rate)
    return commits, max(min(scratchpads, most_scratchpads, inside), 0.0)


def account(config) -> dict:
    """Parameters, FLOPs and cache of a config, by tier (see `flops`). Returns a dict: parameters {tier: count},
    inference_flops_per_byte and training_flops_per_byte {tier: FLOPs}, each with 'total'; trunk_calls_per_byte,
    commits_per_byte, scratchpads_per_byte, kv_bytes_per_byte, state_bytes (of a row), window. Of a model of tokens the
    names end in per_token, since the text alone says how many bytes a token has.
    """
    config_lib.check(config)
    commits, scratchpads = rates(config)
    window = config.data.window
    inference, training = (f(config, commits, scratchpads, window) for f in (flops.inference, flops.training))
    each = f"per_{config_lib.vocabulary(config).unit}"
    tiers = {"parameters": parameters(config), f"inference_flops_{each}": inference, f"training_flops_{each}": training}
    return {name: by_tier | {"total": sum(by_tier.values())} for name, by_tier in tiers.items()} | {
        f"trunk_calls_{each}": commits + scratchpads, f"commits_{each}": commits, f"scratchpads_{each}": scratchpads,
        f"kv_bytes_{each}": kv_cache.kv_bytes_per_byte(config, commits), "state_bytes": kv_cache.state_bytes(config),
        "window": window,
    }


def text(accounted: dict) -> str:
    """An account as people read it."""
    unit = "byte" if "kv_bytes_per_byte" in accounted else "token"
    lines = [f"{'tier':<14}{'parameters':>12}{f'inference FLOPs/{unit}':>22}{f'training FLOPs/{unit}':>22}"]
    names = ("parameters", f"inference_flops_per_{unit}", f"training_flops_per_{unit}")
    for tier in (*flops.TIERS, "total"):
        if tier in accounted["parameters"]:
            count, inference, training = (quantity(accounted[name].get(tier, 0.0)) for name in names)
            lines.append(f"{tier:<14}{count:>12}{inference:>22}{training:>22}")
    lines += [
        f"trunk calls per {unit} {accounted[f'trunk_calls_per_{unit}']:.4f} = "
        f"{accounted[f'commits_per_{unit}']:.4f} commits + {accounted[f'scratchpads_per_{unit}']:.4f} scratchpads",
    ]
    if accounted["state_bytes"]:
        lines.append(f"trunk state {accounted['state_bytes']:,} bytes per row, whatever its length")
    else:
        kept = accounted[f"kv_bytes_per_{unit}"]
        lines.append(f"trunk KV cache {kept:,.1f} bytes per {unit} of text (scratchpads keep none)")
    return "\n".join(lines)
