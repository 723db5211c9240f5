"""The peer: transformers' BLT on torch (the optional extra `peer`), of a size that is asked for: its train step, and
how it continues a prompt.

Patch lengths are given, so no entropy model runs inside it.
"""

import functools
import time

import torch
import transformers

from scratchpatch import config as config_lib, platforms
from scratchpatch.errors import UserError
from scratchpatch.model.layers import ffn_width

# BLT's ids of bytes start behind four special ones; PAD is 0, BOS 1.
_FIRST_BYTE, _VOCABULARY = 4, 260
_HASH_SIZES = (3, 4, 5, 6, 7, 8)
# How far the peer's parameters may be from what is asked for.
_TOLERANCE = 0.03


class Blt:
    """A train step (forward, backward, clipping, AdamW) that is called again and again on one batch. The tiers have the
    widths, depths, heads and local window of `config`, as far as BLT has them; hash tables, which cost it no
    multiplication, make up for the parameters that only the config's model has.
    """

    def __init__(self, config, patch_bytes: int, parameters: int, tokens_BM, parts: int = 1):
        """patch_bytes: per patch, behind the first one of one byte. parameters: how many it should have. tokens_BM: int
        [B, L + 1], rows of a batch. parts: that the rows are computed in, one after the other. Raises UserError where
        BLT of these widths has more parameters than that, even with the smallest hash tables.
        """
        self._model = _sized(config, parameters)
        self.parameters = _count(self._model)
        self.state_bytes = 3 * 4 * self.parameters
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=config.optimizer.learning_rate,
            betas=(config.optimizer.b1, config.optimizer.b2), weight_decay=config.optimizer.weight_decay, fused=True,
        )
        self._clip = config.optimizer.clip_norm
        ids_BM = _ids(config, tokens_BM)
        self._parts = [(part[:, :-1].contiguous(), part[:, 1:].contiguous()) for part in ids_BM.chunk(parts)]
        rows, length = ids_BM.shape[0], ids_BM.shape[1] - 1
        self._lengths_1P = _lengths(length, patch_bytes)
        self._targets = (ids_BM[:, 1:] != 0).sum()
        self.bytes = rows * length
        self.trunk_calls_per_byte = self._lengths_1P.shape[1] / length

    def __call__(self) -> None:
        """One step, finished when this returns."""
        self._optimizer.zero_grad(set_to_none=True)
        self.loss = 0.0
        for inputs_BL, targets_BL in self._parts:
            lengths_BP = self._lengths_1P.expand(len(inputs_BL), -1)
            logits_BLV = self._model(input_ids=inputs_BL, patch_lengths=lengths_BP, use_cache=False).logits
            logits_NV, targets_N = logits_BLV.flatten(0, 1), targets_BL.flatten()
            nats = torch.nn.functional.cross_entropy(logits_NV, targets_N, ignore_index=0, reduction="sum")
            loss = nats / self._targets
            loss.backward()
            self.loss += loss.item()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()


class Continuation:
    """`generate` of a BLT, made as `Blt` makes it, that continues one prompt again and again, greedily. It computes the
    whole prefix for every byte, because transformers' cached decoding of BLT gives other answers. threads: of torch.
    """

    def __init__(self, config, patch_bytes: int, parameters: int, tokens_M, new: int):
        """patch_bytes, parameters: as in `Blt`. tokens_M: int [M], a row. new: bytes to write."""
        self._model, self._ids_1M, self.new = _sized(config, parameters).eval(), _ids(config, tokens_M[None]), new
        self.parameters, self.threads = _count(self._model), torch.get_num_threads()
        prepare = self._model.prepare_inputs_for_generation

        # generate reads there which arguments it may be given.
        @functools.wraps(prepare)
        def with_lengths(input_ids, **named):
            named = prepare(input_ids, **named)
            return named | {"patch_lengths": _lengths(named["input_ids"].shape[1], patch_bytes)}

        self._model.prepare_inputs_for_generation = with_lengths

    def __call__(self) -> float:
        """Seconds per byte."""
        torch.set_num_threads(self.threads)
        start = time.perf_counter()
        self.answer = self._model.generate(
            self._ids_1M, attention_mask=torch.ones_like(self._ids_1M), use_cache=False, do_sample=False,
            min_new_tokens=self.new, max_new_tokens=self.new, pad_token_id=0, eos_token_id=2,
        )
        return (time.perf_counter() - start) / self.new


def _sized(config, parameters: int):
    """A model that computes on all cores, with as many parameters as asked for: see `Blt`."""
    torch.manual_seed(0)
    torch.set_num_threads(platforms.cores())
    transformers.logging.set_verbosity_error()
    smallest = _count(_model(config, 1))
    bucket = len(_HASH_SIZES) * config.model.d_byte
    model = _model(config, max(1 + round((parameters - smallest) / bucket), 1))
    if abs(_count(model) / parameters - 1) > _TOLERANCE:
        raise UserError(
            f"a BLT of these widths has {smallest:,} parameters without hash tables, more than the {parameters:,} "
            "of the config's model: measure a config with a wider trunk or fewer decoder layers"
        )
    return model


def _ids(config, tokens_BM):
    """BLT's ids of our tokens."""
    tokens_BM, bos = torch.as_tensor(tokens_BM.astype("int64")), config_lib.vocabulary(config).bos
    return torch.where(tokens_BM < bos, tokens_BM + _FIRST_BYTE, torch.where(tokens_BM == bos, 1, 0))


def _lengths(length: int, patch_bytes: int):
    """Bytes of each patch of a row [1, P]."""
    patches = -(-length // patch_bytes)
    # Lengths add up to one more than the bytes: the last byte's context is the patch that it closes.
    last = length - (patches - 1) * patch_bytes
    return torch.tensor([[1] + [patch_bytes] * (patches - 1) + [last]])


def _count(model) -> int:
    return sum(p.numel() for p in model.parameters())


def _model(config, buckets: int):
    m = config.model
    trunk, d = m.trunk, m.d_byte
    vectors = max(trunk.d_model // d, 1)
    local = {
        "vocab_size": _VOCABULARY, "hidden_size": d, "hidden_size_global": trunk.d_model, "cross_attn_k": vectors,
        "intermediate_size": ffn_width(d, m.ffn_multiplier),
    }
    encoder = {"num_hidden_layers": max(m.encoder.layers, 1), "num_attention_heads": m.encoder.heads}
    decoder = {"num_hidden_layers": max(m.decoder.layers, 1), "num_attention_heads": m.decoder.heads}
    settings = transformers.BltConfig(
        vocab_size=_VOCABULARY,
        patch_in_forward=False,
        cross_attn_k=vectors,
        # Of encoder and decoder; 512 where it is left out.
        local_attention_window_len=max(m.encoder.window, m.decoder.window),
        encoder_hash_byte_group_size=list(_HASH_SIZES),
        encoder_hash_byte_group_vocab=buckets,
        encoder_config=local | encoder | {"cross_attn_all_layers": False},
        decoder_config=local | decoder | {"cross_attn_all_layers": True},
        global_config={
            "hidden_size": trunk.d_model, "num_hidden_layers": trunk.layers, "num_attention_heads": trunk.heads,
            "num_key_value_heads": trunk.kv_heads or trunk.heads,
            "intermediate_size": ffn_width(trunk.d_model, m.ffn_multiplier),
        },
    )
    return transformers.BltForCausalLM(settings).train()


def patch_bytes(config) -> int:
    """Whole bytes per trunk call of a config's step: every slot of its static arrays, rounded in BLT's favour."""
    return -(-config.data.window // sum(config_lib.slots(config)))
