"""The flat peer: a plain PyTorch training loop over bytes (the optional extra `peer`), as a user would write it.

The layers are nanoGPT's (learned positions, pre-norm blocks, GELU, one matrix for embedding and logits, no biases, no
dropout), and its loop: forward, backward, clipping, fused AdamW, all in float32 and without torch.compile, which its
recipe for processors switches off too.

Legend: B rows, L positions, d width, H heads, K head width, V vocabulary.
"""

import torch
from torch.nn import functional

from scratchpatch import config as config_lib, platforms


class Block(torch.nn.Module):
    """Causal attention, then a feed-forward block of four times the width, each behind a LayerNorm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self._heads = heads
        self.attention_norm = torch.nn.LayerNorm(width, bias=False)
        self.qkv = torch.nn.Linear(width, 3 * width, bias=False)
        self.out = torch.nn.Linear(width, width, bias=False)
        self.ffn_norm = torch.nn.LayerNorm(width, bias=False)
        self.up = torch.nn.Linear(width, 4 * width, bias=False)
        self.down = torch.nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BLd):
        split = (*x_BLd.shape[:2], self._heads, -1)
        q_BHLK, k_BHLK, v_BHLK = (
            y.view(split).transpose(1, 2) for y in self.qkv(self.attention_norm(x_BLd)).chunk(3, dim=-1)
        )
        seen_BHLK = functional.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, is_causal=True)
        x_BLd = x_BLd + self.out(seen_BHLK.transpose(1, 2).reshape(x_BLd.shape))
        return x_BLd + self.down(functional.gelu(self.up(self.ffn_norm(x_BLd))))


class Transformer(torch.nn.Module):
    """Logits [B, L, V] of the next token, from token ids [B, L]."""

    def __init__(self, vocabulary: int, length: int, width: int, layers: int, heads: int):
        super().__init__()
        self.tokens = torch.nn.Embedding(vocabulary, width)
        self.places = torch.nn.Embedding(length, width)
        self.blocks = torch.nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = torch.nn.LayerNorm(width, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.02)

    def forward(self, ids_BL):
        x_BLd = self.tokens(ids_BL) + self.places.weight[: ids_BL.shape[1]]
        return functional.linear(self.norm(self.blocks(x_BLd)), self.tokens.weight)


class Loop:
    """A train step that is called again and again on one batch, with the trunk's width, layers and heads of `config`,
    and its optimizer. It computes on all cores.
    """

    def __init__(self, config, tokens_BM):
        """tokens_BM: int [B, L + 1], rows of a batch."""
        torch.manual_seed(0)
        torch.set_num_threads(platforms.cores())
        trunk, o, vocabulary = config.model.trunk, config.optimizer, config_lib.vocabulary(config)
        ids_BM = torch.as_tensor(tokens_BM.astype("int64"))
        self._inputs_BL, self._targets_BL = ids_BM[:, :-1].contiguous(), ids_BM[:, 1:].contiguous()
        rows, length = self._inputs_BL.shape
        self._model = Transformer(vocabulary.rows, length, trunk.d_model, trunk.layers, trunk.heads)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=o.learning_rate, betas=(o.b1, o.b2), weight_decay=o.weight_decay, fused=True
        )
        self._clip, self._pad = o.clip_norm, vocabulary.pad
        self.bytes = rows * length
        self.parameters = sum(p.numel() for p in self._model.parameters())
        self.flops = self.bytes * trained(trunk.d_model, trunk.layers, length, vocabulary.rows)

    def __call__(self) -> None:
        """One step, finished when this returns."""
        self._optimizer.zero_grad(set_to_none=True)
        logits_NV = self._model(self._inputs_BL).flatten(0, 1)
        loss = functional.cross_entropy(logits_NV, self._targets_BL.flatten(), ignore_index=self._pad)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self.loss = loss.item()


def trained(width: int, layers: int, length: int, vocabulary: int) -> float:
    """Useful FLOPs of a train step per byte, by the rule of `accounting.flops`: a matrix product counts 2 m n k,
    attention the keys that a query sees (half of the row and itself, on average), norms, activations and the embedding
    count nothing, and training is three forward passes' worth.
    """
    # Projections of attention have 4 matrices of width x width; the feed-forward block has 8.
    layer = 2 * 12 * width**2 + 4 * width * (length + 1) / 2
    return 3 * (layers * layer + 2 * width * vocabulary)
