"""FLOPs per byte, by tier, of a forward pass and of training.

Matrix products count 2 m n k, attention the keys that a query sees: counted
over a batch (`trained`), or estimated for documents as long as the window;
norms, activations and embedding look-ups, n-grams' included, count nothing. With
commits and scratchpads per byte c and r: F = F_local + (c + r) * (trunk +
pooling).
"""

from __future__ import annotations

import dataclasses

from scratchpatch import config as config_lib
from scratchpatch import vocabulary
from scratchpatch.kernels import attention
from scratchpatch.model.layers import ffn_width

TIERS = ("n-grams", "encoder", "entropy head", "entropy model", "pooling", "trunk", "decoder")


@dataclasses.dataclass(frozen=True)
class Work:
    """What queries do in a forward pass, per byte (strictly: per position, a document's BOS among them).

    slots: trunk calls. encoder_keys, entropy_keys, decoder_keys: that a byte
    sees in a layer of the encoder (and the entropy head), the entropy model,
    the decoder. trunk_keys: that a slot sees. pool_keys: bytes that the slots
    pool.
    """

    slots: float
    encoder_keys: float
    entropy_keys: float
    decoder_keys: float
    trunk_keys: float
    pool_keys: float


def flops_per_byte(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> float:
    """Useful forward FLOPs per byte at inference: the sum of `inference`."""
    return sum(inference(config, commits_per_byte, scratchpads_per_byte, window).values())


def training_flops_per_byte(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> float:
    """Useful FLOPs per byte of a train step: the sum of `training`."""
    return sum(training(config, commits_per_byte, scratchpads_per_byte, window).values())


def trained(config, sums: dict[str, float]) -> float:
    """Useful FLOPs of a train step of these sums (`loss.sums`): keys are counted, not estimated."""
    return sums["positions"] * sum(_training(config, _tiers(config, counted(sums))).values())


def inference(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> dict[str, float]:
    """Useful forward FLOPs per byte by tier at inference: of entropies, those that decisions read."""
    tiers = useful(config, commits_per_byte, scratchpads_per_byte, window)
    read = config_lib.reads_entropy(config)
    # Decisions read the entropy model's where there is one.
    if "entropy model" in tiers or not read:
        tiers.pop("entropy head", None)
    if not read:
        tiers.pop("entropy model", None)
    return tiers


def training(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> dict[str, float]:
    """Useful FLOPs per byte by tier of a train step: three forward passes' worth, recomputation not counted.

    The entropy model is frozen: one forward pass, where decisions read it and
    its entropies were not computed beforehand.
    """
    return _training(config, useful(config, commits_per_byte, scratchpads_per_byte, window))


def _training(config, tiers: dict[str, float]) -> dict[str, float]:
    if config.data.entropies or not config_lib.reads_entropy(config):
        tiers.pop("entropy model", None)
    return {tier: value if tier == "entropy model" else 3 * value for tier, value in tiers.items()}


def useful(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> dict[str, float]:
    """Forward FLOPs per byte by tier, padding excluded; entropy head and entropy model where the model has them."""
    return _tiers(config, expected(config, commits_per_byte, scratchpads_per_byte, window))


def expected(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> Work:
    """The work of documents of `window` bytes, on average: an upper bound where documents are shorter.

    A query of the trunk sees half of a window's commits, and itself; a commit
    pools its whole patch; a scratchpad stands anywhere inside it but at its
    last byte, and pools half of it.
    """
    m, patch = config.model, 1 / max(commits_per_byte, 1 / window)
    pooled = min(patch, config_lib.patch_limit(config))
    return Work(
        slots=commits_per_byte + scratchpads_per_byte,
        encoder_keys=_visible(m.encoder.window, window),
        entropy_keys=_visible(m.entropy_model.window, window),
        decoder_keys=_visible(m.decoder.window, window),
        trunk_keys=commits_per_byte * window / 2 + 1,
        pool_keys=commits_per_byte * pooled + scratchpads_per_byte * pooled / 2,
    )


def counted(sums: dict[str, float]) -> Work:
    """The work of a batch, from sums over it (`loss.sums`)."""
    positions, slots = max(sums["positions"], 1.0), sums["commits"] + sums["scratchpads"]
    return Work(
        slots=slots / positions,
        encoder_keys=sums["encoder_keys"] / positions,
        entropy_keys=sums["entropy_keys"] / positions,
        decoder_keys=sums["decoder_keys"] / positions,
        trunk_keys=sums["trunk_keys"] / max(slots, 1.0),
        pool_keys=sums["pool_keys"] / positions,
    )


def compiled(config, length: int) -> dict[str, float]:
    """Forward FLOPs per byte by tier that the compiled program runs: every slot and key that a mask hides included.

    Of rows of more slots than `staircase_xla.CHUNK`, an upper bound: there the
    kernel leaves out blocks of commits that no slot of a chunk sees.
    """
    m, (commits, scratchpads) = config.model, config_lib.slots(config, length)
    slots = commits + scratchpads
    run = Work(
        slots=slots / length,
        encoder_keys=blocked(m.encoder.window, length),
        entropy_keys=blocked(m.entropy_model.window, length),
        decoder_keys=blocked(m.decoder.window, length),
        trunk_keys=commits + 1,
        pool_keys=slots / length * config_lib.patch_limit(config),
    )
    return _tiers(config, run)


def _tiers(config, work: Work) -> dict[str, float]:
    m, d, big = config.model, config.model.d_byte, config.model.trunk.d_model
    kv = big * (m.trunk.kv_heads or m.trunk.heads) // m.trunk.heads
    logits = 2 * d * vocabulary.ROWS

    def local(layers, keys):
        return layers * _block(d, d, m.ffn_multiplier, keys)

    found = {"encoder": local(m.encoder.layers, work.encoder_keys)}
    decoder = local(m.decoder.layers, work.decoder_keys) + logits
    if m.trunk.kind == "none":
        return found | {"decoder": decoder}
    if m.entropy_head.weight > 0:
        found["entropy head"] = local(m.entropy_head.layers, work.encoder_keys) + logits
    if m.entropy_model.layers > 0:
        e = m.entropy_model
        layers = e.layers * _block(e.d_byte, e.d_byte, e.ffn_multiplier, work.entropy_keys)
        found["entropy model"] = layers + 2 * e.d_byte * vocabulary.ROWS
    slots = work.slots
    found["pooling"] = _pooling(config, slots, work.pool_keys)
    found["trunk"] = slots * m.trunk.layers * _block(big, kv, m.ffn_multiplier, work.trunk_keys)
    if m.decoder.injection == "add":
        decoder += slots * 2 * big * d
    else:
        k = m.decoder.context_vectors
        decoder += slots * 2 * big * k * d + m.decoder.layers * (slots * k * 4 * d * d + 4 * d * d + 4 * d * k)
    return found | {"decoder": decoder}


def _pooling(config, slots: float, keys: float) -> float:
    p, d, big = config.model.pooling, config.model.d_byte, config.model.trunk.d_model
    several = p.kind == "max_query"
    k = p.queries if several else 1
    # Queries that fill the trunk's width go there as they are.
    found = 0.0 if several and k * d == big else slots * 2 * k * d * big
    if p.last_state:
        found += slots * 2 * d * big
    if several:
        found += slots * 2 * d * k * d
    if several or (p.kind == "cross_attention" and config_lib.patch_limit(config) > 1):
        # Keys and values of every byte; queries and results of every slot.
        found += 4 * d * d + slots * k * 4 * d * d + keys * k * 4 * d
    return found


def _block(d: int, kv: int, multiplier: float, keys: float) -> float:
    """One transformer block at one position: projections, attention, SwiGLU."""
    return 4 * d * (d + kv) + 4 * d * keys + 6 * d * ffn_width(d, multiplier)


def _visible(window: int, length: int) -> float:
    """Keys that a byte sees on average in a row of `length`: the first ones see less than a window."""
    w = min(window, length)
    return (w * (w + 1) / 2 + (length - w) * w) / length


def blocked(window_bytes: int, length: int) -> float:
    """Keys per byte that the blocked kernel multiplies with."""
    size = attention.block_size(window_bytes, length)
    padded = -(-length // size) * size
    return padded / length * (size if padded == size else 2 * size)
