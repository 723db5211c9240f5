"""The byte-level language model with scratchpads; where the config names a tokenizer, a position is a token.

Legend: B rows, L byte positions, N slots, P commits, D trunk width, d byte width, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import FrozenConfigDict

from scratchpatch import config as config_lib, precision
from scratchpatch.model import benefit
from scratchpatch.model.decoder import Decoder
from scratchpatch.model.encoder import Encoder
from scratchpatch.model.heads import EntropyHead, entropy
from scratchpatch.model.pooling import Pooling
from scratchpatch.model.predictors import BenefitHead, Dependence
from scratchpatch.model.router import Router
from scratchpatch.model.trunk import Trunk
from scratchpatch.patching import layout
from scratchpatch.patching.rows import Rows, pack
from scratchpatch.patching.scores import Signals


class Threshold(nnx.Variable):
    """A threshold in nats at which documents start: carried by training, not learned by gradient."""


class Spelling(nnx.Variable):
    """What a tokenizer says of its tokens: part of the weights, so that a model counts bytes without its file."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """What one pass gives.

    Attributes:
      logits_BLV: float32, of the byte after each position.
      head_logits_BLV: the entropy head's, or None.
      entropy_BL: nats, that decisions read; of the logits themselves without a trunk; or None.
      layout: the decisions, and the rows that they are of.
      predicted_BLM: nats that a scratchpad would save by the benefit head, for M ages of the context; None without one.
      benefit_BLM: what decisions read of it, see `Signals`; None where they read none.
      hidden_BLd: the encoder's states.
      pooled_BND, trunk_BND: slot states before and after the trunk; None without one.
    """

    logits_BLV: jax.Array
    head_logits_BLV: jax.Array | None
    entropy_BL: jax.Array | None
    layout: layout.Layout
    hidden_BLd: jax.Array
    pooled_BND: jax.Array | None = None
    trunk_BND: jax.Array | None = None
    predicted_BLM: jax.Array | None = None
    benefit_BLM: jax.Array | None = None


class ByteLM(nnx.Module):
    """Encoder, entropy head or model, patchifier and trigger, pooling, trunk, decoder.

    The entropy head exists where `model.entropy_head.weight` > 0, the entropy model, itself a ByteLM without a trunk,
    where `model.entropy_model.layers` > 0. Decisions read the model's entropies if there is one, else the head's. The
    router exists where patches are learned.
    """

    def __init__(self, config, *, rngs: nnx.Rngs):
        self.config = FrozenConfigDict(config)
        # A key per part: models that differ in one part begin equal in the others.
        key = rngs.params()
        encoder, head, pooling, trunk, decoder = (nnx.Rngs(params=k) for k in jax.random.split(key, 5))
        self.encoder = Encoder(config, encoder)
        self.decoder = Decoder(config, decoder)
        vocabulary = config_lib.vocabulary(config)
        # Bytes of each token, float32 [V], nothing until `data.tokenizer.spelling` is put there.
        counts = Spelling(jnp.zeros((vocabulary.rows,), jnp.float32))
        self.token_bytes = None if vocabulary.is_bytes else counts
        if config.model.trunk.kind == "none":
            return
        self.entropy_head = EntropyHead(config, head) if config.model.entropy_head.weight > 0 else None
        separate, own = config.model.entropy_model.layers > 0, nnx.Rngs(params=jax.random.fold_in(key, 0))
        self.entropy_model = ByteLM(config_lib.entropy_model(config), rngs=own) if separate else None
        self.pooling = Pooling(config, pooling)
        self.trunk = Trunk(config, trunk)
        thresholds = layout.initial_thresholds(config)
        self.patching_threshold = Threshold(thresholds.patching)
        self.trigger_threshold = Threshold(thresholds.trigger)
        learns, own = config.model.benefit.width > 0, nnx.Rngs(params=jax.random.fold_in(key, 1))
        self.benefit_head = BenefitHead(config, own) if learns else None
        self.dependence = Dependence() if config.model.benefit.table else None
        routes, own = config.patching.kind == "learned", nnx.Rngs(params=jax.random.fold_in(key, 2))
        self.router = Router(config, own) if routes else None

    @property
    def measures(self) -> bool:
        """Whether training measures what scratchpads save."""
        return self.config.model.trunk.kind != "none" and (
            self.benefit_head is not None or self.dependence is not None
        )

    # Everything that runs a model runs it here: so training, evaluation and plans multiply alike.
    @precision.of_config
    def __call__(
        self, tokens_BL: jax.Array, probe_BLd: jax.Array | None = None, entropy_BL: jax.Array | None = None
    ) -> Output:
        """Logits of the token after each position.

        Args:
          tokens_BL: int32 [B, L], bytes, BOS and PAD.
          probe_BLd: added to the byte embedding; for gradients by position.
          entropy_BL: float32 [B, L], nats, computed before; None: computed here.
        """
        rows = pack(tokens_BL, config_lib.vocabulary(self.config))
        h_BLd = self.encoder(rows, probe_BLd)
        if self.config.model.trunk.kind == "none":
            decisions = layout.without_trunk(rows)
            logits_BLV = self.decoder(h_BLd, None, decisions)
            own_BL = jax.lax.stop_gradient(entropy(logits_BLV))
            return Output(logits_BLV, None, own_BL, decisions, h_BLd)
        head_logits_BLV = None if self.entropy_head is None else self.entropy_head(h_BLd, rows)
        if entropy_BL is None and self.entropy_model is not None:
            entropy_BL = self.entropy_model(tokens_BL).entropy_BL
        elif entropy_BL is None and head_logits_BLV is not None:
            entropy_BL = jax.lax.stop_gradient(entropy(head_logits_BLV))
        predicted_BLM = None
        if self.benefit_head is not None:
            predicted_BLM = self.benefit_head(h_BLd, entropy_BL, rows.previous(entropy_BL, entropy_BL))
        boundary_BL = None if self.router is None else self.router(h_BLd, rows)
        benefit_BLM = self._benefit(h_BLd, rows, entropy_BL, predicted_BLM, boundary_BL)
        signals = Signals(entropy_BL, benefit_BLM, boundary_BL)
        decisions = layout.decide(self.config, rows, signals, self.thresholds())
        read = layout.leaking(self.config, decisions) if self.config.model.leak else decisions
        pooled_BND = self.pooling(h_BLd, read)
        z_BND = self.trunk(pooled_BND, decisions)
        logits_BLV = self.decoder(h_BLd, z_BND, read)
        return Output(
            logits_BLV, head_logits_BLV, entropy_BL, decisions, h_BLd, pooled_BND, z_BND, predicted_BLM, benefit_BLM
        )

    def _benefit(self, h_BLd, rows: Rows, entropy_BL, predicted_BLM, boundary_BL) -> jax.Array | None:
        """What decisions read of benefits, see `Signals`."""
        trigger = self.config.trigger
        if trigger.kind == "learned":
            return self.benefit_head.score(predicted_BLM)
        if trigger.kind == "score":
            before_BL = rows.previous(rows.tokens_BL, rows.tokens_BL)
            return self.dependence.score(trigger.dependence, entropy_BL, rows.tokens_BL, before_BL)[..., None]
        if trigger.kind != "oracle":
            return None
        pad = rows.vocabulary.pad
        targets_BL = jnp.pad(rows.tokens_BL[:, 1:], ((0, 0), (0, 1)), constant_values=pad)
        signals = Signals(entropy_BL, None, boundary_BL)
        plain = layout.decide(self.config, rows, signals, self.thresholds(), scratchpads=False)
        return benefit.measure_all(self, h_BLd, plain, targets_BL)[..., None]

    @precision.of_config
    def measure(self, h_BLd, base: layout.Layout, targets_BL, phase_B):
        """What scratchpads would save at every H-th byte: see `benefit.measure`."""
        return benefit.measure(self, h_BLd, base, targets_BL, phase_B)

    def thresholds(self) -> layout.Thresholds:
        """The scalars at which documents start."""
        return layout.Thresholds(
            jnp.asarray(self.patching_threshold.get_value()), jnp.asarray(self.trigger_threshold.get_value())
        )
