"""FLOPs per byte, by tier, of a forward pass and of training.

A matrix product counts 2 m n k, attention the keys that a query sees: counted over a batch (`trained`), or estimated
for documents as long as the window. A state-space layer's recurrence counts its multiplications and additions, though
they are no matrix product. Norms, activations and look-ups of embeddings and n-grams count nothing. With
commits and scratchpads per byte c and r: F = F_local + (c + r) * (trunk + pooling).
"""

import dataclasses
from collections.abc import Callable, Mapping

from scratchpatch import config as config_lib
from scratchpatch.kernels import attention, diagonal
from scratchpatch.model import predictors
from scratchpatch.model.layers import ffn_width
from scratchpatch.patching.scores import AGES

TIERS = ("n-grams", "encoder", "router", "entropy head", "entropy model", "benefit head", "pooling", "trunk", "decoder")
# The sums over a batch that say what work there was.
_KEYS = ("encoder_keys", "entropy_keys", "decoder_keys", "pool_keys")
_SUMS = ("positions", "commits", "scratchpads", "trunk_keys", *_KEYS)


@dataclasses.dataclass(frozen=True)
class Work:
    """What queries do in a forward pass, per byte (strictly: per position, a document's BOS among them). slots: trunk
    calls. encoder_keys, entropy_keys, decoder_keys: what a byte sees in a layer of the encoder (and of the entropy
    head), of the entropy model, of the decoder. trunk_keys: what a slot sees. pool_keys: bytes that the slots pool.
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


def trained(config, sums: Mapping[str, float]) -> float:
    """Useful FLOPs of a train step of these sums (`loss.sums`): keys are counted, not estimated."""
    return of_sums(by_sum(config), sums)


def of_sums(by_sum: Mapping[str, float], sums: Mapping[str, float]) -> float:
    """`trained`, by what `by_sum` says of the config."""
    return sum(flops * sums[name] for name, flops in by_sum.items())


def by_sum(config) -> dict[str, float]:
    """Useful FLOPs of a train step for one more of each of its sums, by the sum's name: `trained` is linear in them."""

    def of_step(**more: int) -> float:
        sums = dict.fromkeys(_SUMS, 0.0) | {"positions": 1.0, "commits": 1.0}
        sums |= {name: sums[name] + number for name, number in more.items()}
        return sums["positions"] * sum(_of_training(config, _forward(config, counted(sums))).values())

    least = of_step()
    return {name: of_step(**{name: 1}) - least for name in _SUMS}


def inference(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> dict[str, float]:
    """Useful forward FLOPs per byte by tier at inference: of entropies and benefits, those that decisions read."""
    tiers = useful(config, commits_per_byte, scratchpads_per_byte, window)
    reads_entropy = config_lib.reads_entropy(config)
    # Decisions read the entropy model's entropies where there is one.
    if "entropy model" in tiers or not reads_entropy:
        tiers.pop("entropy head", None)
    if not reads_entropy:
        tiers.pop("entropy model", None)
    if config.trigger.kind != "learned":
        tiers.pop("benefit head", None)
    return tiers


def training(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> dict[str, float]:
    """Useful FLOPs per byte by tier of a train step: three forward passes' worth, recomputation not counted. The
    entropy model is frozen: one forward pass, where decisions read it and its entropies are not stored already. The
    passes that measure what scratchpads save are not counted: they teach the benefit head, and serve nothing else.
    """
    return _of_training(config, useful(config, commits_per_byte, scratchpads_per_byte, window))


def _of_training(config, forward: dict[str, float]) -> dict[str, float]:
    if config.data.entropies or not config_lib.reads_entropy(config):
        forward.pop("entropy model", None)
    return {tier: value if tier == "entropy model" else 3 * value for tier, value in forward.items()}


def useful(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> dict[str, float]:
    """Forward FLOPs per byte by tier, padding excluded; entropy head and entropy model where the model has them."""
    return _forward(config, expected(config, commits_per_byte, scratchpads_per_byte, window))


def expected(config, commits_per_byte: float, scratchpads_per_byte: float, window: int) -> Work:
    """The work of documents of `window` bytes, on average: an upper bound where documents are shorter. A query of the
    trunk sees half of a window's commits, and itself; a commit pools its whole patch; a scratchpad stands anywhere
    inside it but at its last byte, and pools half of it. A decoder of scope `patch` sees what a row of one patch would
    show it. All patches are taken to be equally long.
    """
    patch = 1 / max(commits_per_byte, 1 / window)
    pooled, keys = min(patch, config_lib.patch_limit(config)), _of_tiers(config, _visible_keys, window)
    if config.model.decoder.scope == "patch":
        keys["decoder_keys"] = _visible_keys(config.model.decoder.window, patch)
    return Work(
        slots=commits_per_byte + scratchpads_per_byte, **keys,
        trunk_keys=commits_per_byte * window / 2 + 1,
        pool_keys=commits_per_byte * pooled + scratchpads_per_byte * pooled / 2,
    )


def counted(sums: dict[str, float]) -> Work:
    """The work of a batch, from sums over it (`loss.sums`)."""
    positions, slots = max(sums["positions"], 1.0), sums["commits"] + sums["scratchpads"]
    per_position = {name: sums[name] / positions for name in _KEYS}
    return Work(slots=slots / positions, trunk_keys=sums["trunk_keys"] / max(slots, 1.0), **per_position)


def compiled(config, length: int) -> dict[str, float]:
    """Forward FLOPs per byte by tier that the compiled program runs: every slot and key that a mask hides included. An
    upper bound where XLA's staircase attention is tiled and leaves out tiles of commits that no slot sees.
    """
    commits, scratchpads = config_lib.slots(config, length)
    slots, keys = (commits + scratchpads) / length, _of_tiers(config, multiplied_keys, length)
    pool_keys = slots * config_lib.patch_limit(config)
    return _forward(config, Work(slots=slots, **keys, trunk_keys=commits + 1, pool_keys=pool_keys))


def products(config, length: int) -> dict[str, float]:
    """As `compiled`, without the attention of the layers of encoder, entropy head, trunk and decoder."""
    work = Work(
        slots=sum(config_lib.slots(config, length)) / length, encoder_keys=0.0, decoder_keys=0.0, trunk_keys=0.0,
        entropy_keys=multiplied_keys(config.model.entropy_model.window, length),
        pool_keys=sum(config_lib.slots(config, length)) / length * config_lib.patch_limit(config),
    )
    return _forward(config, work)


def recurrence(config, width: int) -> float:
    """Of the recurrence of one state-space layer at one position; of a loop XLA counts one position."""
    of_number = diagonal.FLOPS_COMPLEX if config.model.ssm.complex else diagonal.FLOPS_REAL
    return of_number * config.model.ssm.state * width


def recomputed(width: int, kv_width: int, multiplier: float, remat: str) -> float:
    """FLOPs of the projections of one layer at one position that a policy of `stack.REMAT_POLICIES` computes again. No
    policy repeats the last one, since no gradient reads what it gives.
    """
    if remat in ("none", "dots"):
        return 0.0
    attention = 4 * width * (width + kv_width) if remat == "full" else 0.0
    return attention + 4 * width * ffn_width(width, multiplier)


def _of_tiers(config, keys: Callable[[int, int], float], length: int) -> dict[str, float]:
    tiers = {"encoder": "encoder", "entropy": "entropy_model", "decoder": "decoder"}
    return {f"{name}_keys": keys(config.model[tier].window, length) for name, tier in tiers.items()}


def _forward(config, work: Work) -> dict[str, float]:
    m, e = config.model, config.model.entropy_model
    d, big, slots, rows = m.d_byte, m.trunk.d_model, work.slots, config_lib.vocabulary(config).rows
    logits = 2 * d * rows
    head_layer = _layer(d, d, m.ffn_multiplier, work.encoder_keys)
    encoder_layer = _state_layer(config, d) if m.encoder.kind == "ssm" else head_layer
    of_decoder = _layer(d, d, m.ffn_multiplier, work.decoder_keys)
    decoder_layer = _state_layer(config, d) if m.decoder.kind == "ssm" else of_decoder
    decoder = m.decoder.layers * decoder_layer + logits
    tiers = {"encoder": m.encoder.layers * encoder_layer}
    if m.trunk.kind == "none":
        return tiers | {"decoder": decoder}
    if config.patching.kind == "learned":
        tiers["router"] = 4 * d * d
    if m.entropy_head.weight > 0:
        tiers["entropy head"] = m.entropy_head.layers * head_layer + logits
    if e.layers > 0:
        entropy_layers = e.layers * _layer(e.d_byte, e.d_byte, e.ffn_multiplier, work.entropy_keys)
        tiers["entropy model"] = entropy_layers + 2 * e.d_byte * rows
    if m.benefit.width > 0:
        tiers["benefit head"] = 2 * m.benefit.width * (d + predictors.EXTRA + AGES)
    tiers["pooling"] = _pooling(config, slots, work.pool_keys)
    kv_width = big * (m.trunk.kv_heads or m.trunk.heads) // m.trunk.heads
    by_attention = _layer(big, kv_width, m.ffn_multiplier, work.trunk_keys)
    trunk_layer = _state_layer(config, big) if m.trunk.kind == "ssm" else by_attention
    tiers["trunk"] = slots * m.trunk.layers * trunk_layer
    if m.decoder.residual == "projected":
        decoder += 2 * d * d
    if m.decoder.injection == "cross_attention":
        decoder += slots * 2 * big * m.decoder.context_vectors * d + m.decoder.layers * cross_attention(config, slots)
    else:
        decoder += slots * 2 * big * d
    return tiers | {"decoder": decoder}


def cross_attention(config, slots: float) -> float:
    """One layer's, of one byte to the context vectors of its slot; slots: per byte."""
    d, k = config.model.d_byte, config.model.decoder.context_vectors
    return slots * k * 4 * d * d + 4 * d * d + 4 * d * k


def _pooling(config, slots: float, keys: float) -> float:
    p, d, big = config.model.pooling, config.model.d_byte, config.model.trunk.d_model
    several = p.kind == "max_query"
    queries = p.queries if several else 1
    if p.kind == "concat":
        # Each byte of a slot's patch has a matrix of its own.
        flops = keys * 2 * d * big
    else:
        # Queries that fill the trunk's width go there as they are.
        flops = 0.0 if several and queries * d == big else slots * 2 * queries * d * big
    if p.last_state:
        flops += slots * 2 * d * big
    if several:
        flops += slots * 2 * d * queries * d
    if several or (p.kind == "cross_attention" and config_lib.patch_limit(config) > 1):
        # Keys and values of every byte; queries and results of every slot.
        flops += 4 * d * d + slots * queries * 4 * d * d + keys * queries * 4 * d
    return flops


def _layer(width: int, kv_width: int, multiplier: float, keys: float) -> float:
    """One transformer layer at one position: projections, attention, SwiGLU."""
    return 4 * width * (width + kv_width) + 4 * width * keys + 6 * width * ffn_width(width, multiplier)


def _state_layer(config, width: int) -> float:
    """One state-space layer at one position: projections, recurrence, SwiGLU."""
    projections = 2 * width * width * (3 + config.model.ssm.selective)
    return projections + recurrence(config, width) + 6 * width * ffn_width(width, config.model.ffn_multiplier)


def _visible_keys(window: int, length: float) -> float:
    """Keys that a byte sees on average in a row of `length`: the first bytes see less than a window."""
    w = min(window, length)
    return (w * (w + 1) / 2 + (length - w) * w) / length


def multiplied_keys(window: int, length: int) -> float:
    """Keys that XLA's window attention multiplies a byte's query with: those of its block and of the one before."""
    size = attention.block_size(window, length)
    padded = -(-length // size) * size
    return padded / length * (size if padded == size else 2 * size)
