"""FLOPs per byte, by tier, of a forward pass and of training.

Matrix products count 2 m n k, attention the keys that a query really sees;
norms, activations and embedding look-ups count nothing. With commits and
scratchpads per byte c and r: F = F_local + (c + r) * (trunk + pooling), as in
DESIGN 7.
"""

from __future__ import annotations

from scratchpatch import config as config_lib
from scratchpatch import vocabulary
from scratchpatch.kernels import window
from scratchpatch.model.layers import ffn_width

TIERS = ("encoder", "entropy head", "pooling", "trunk", "decoder")


def flops_per_byte(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> float:
    """Useful forward FLOPs per byte at inference; the entropy head counts where decisions read it."""
    tiers = useful(config, commits_per_byte, scratchpads_per_byte, window)
    if not config_lib.reads_entropy(config):
        tiers.pop("entropy head", None)
    return sum(tiers.values())


def training_flops_per_byte(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> float:
    """Useful FLOPs per byte of a train step: three forward passes' worth, recomputation not counted."""
    return 3 * sum(useful(config, commits_per_byte, scratchpads_per_byte, window).values())


def useful(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> dict[str, float]:
    """Forward FLOPs per byte by tier, padding excluded; the entropy head where the model has one.

    A query of the trunk sees half of a window's commits on average, and itself;
    a commit pools its whole patch, a scratchpad half of it.
    """
    m, patch = config.model, 1 / max(commits_per_byte, 1 / window)
    pooled = min(patch, config_lib.patch_limit(config))
    return _tiers(
        config,
        slots=commits_per_byte + scratchpads_per_byte,
        encoder_keys=_visible(m.encoder.window, window),
        decoder_keys=_visible(m.decoder.window, window),
        trunk_keys=commits_per_byte * window / 2 + 1,
        pool_keys=commits_per_byte * pooled + scratchpads_per_byte * (pooled + 1) / 2,
    )


def compiled(config, length: int) -> dict[str, float]:
    """Forward FLOPs per byte by tier that the compiled program runs: every slot and key that a mask hides included.

    Of rows of more slots than `staircase.CHUNK`, an upper bound: there the
    kernel leaves out blocks of commits that no slot of a chunk sees.
    """
    m, (commits, scratchpads) = config.model, config_lib.slots(config, length)
    slots = commits + scratchpads
    return _tiers(
        config,
        slots=slots / length,
        encoder_keys=_blocked(m.encoder.window, length),
        decoder_keys=_blocked(m.decoder.window, length),
        trunk_keys=commits + 1,
        pool_keys=slots / length * config_lib.patch_limit(config),
    )


def _tiers(config, slots, encoder_keys, decoder_keys, trunk_keys, pool_keys) -> dict[str, float]:
    m, d, big = config.model, config.model.d_byte, config.model.trunk.d_model
    kv = big * (m.trunk.kv_heads or m.trunk.heads) // m.trunk.heads
    logits = 2 * d * vocabulary.ROWS

    def local(layers, keys):
        return layers * _block(d, d, m.ffn_multiplier, keys)

    found = {"encoder": local(m.encoder.layers, encoder_keys)}
    if m.entropy_head.weight > 0:
        found["entropy head"] = local(m.entropy_head.layers, encoder_keys) + logits
    found["pooling"] = slots * 2 * d * big * (2 if m.pooling.last_state else 1)
    if m.pooling.kind == "cross_attention" and config_lib.patch_limit(config) > 1:
        found["pooling"] += 4 * d * d + slots * 4 * d * d + pool_keys * 4 * d
    found["trunk"] = slots * m.trunk.layers * _block(big, kv, m.ffn_multiplier, trunk_keys)
    found["decoder"] = local(m.decoder.layers, decoder_keys) + logits
    if m.decoder.injection == "add":
        found["decoder"] += slots * 2 * big * d
    else:
        k = m.decoder.context_vectors
        found["decoder"] += slots * 2 * big * k * d + m.decoder.layers * (slots * k * 4 * d * d + 4 * d * d + 4 * d * k)
    return found


def _block(d: int, kv: int, multiplier: float, keys: float) -> float:
    """One transformer block at one position: projections, attention, SwiGLU."""
    return 4 * d * (d + kv) + 4 * d * keys + 6 * d * ffn_width(d, multiplier)


def _visible(window: int, length: int) -> float:
    """Keys that a byte sees on average in a row of `length`: the first ones see less than a window."""
    w = min(window, length)
    return (w * (w + 1) / 2 + (length - w) * w) / length


def _blocked(window_bytes: int, length: int) -> float:
    """Keys per byte that the blocked kernel multiplies with."""
    size = window.block_size(window_bytes, length)
    padded = -(-length // size) * size
    return padded / length * (size if padded == size else 2 * size)
