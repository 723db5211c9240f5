"""The model a few bytes at a time: what `ByteLM` says of whole rows, from what was kept of the bytes before.

Legend: B rows, C new positions, N slots, M bytes of a patch at most, d byte width, D trunk width, V vocabulary, P
commits of a row, g bytes before an n-gram's last.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch import config as config_lib, precision, sharding
from scratchpatch.kernels import attention, diagonal
from scratchpatch.kernels.attention import Kept
from scratchpatch.kernels.diagonal import State
from scratchpatch.model import router as router_lib
from scratchpatch.model.byte_lm import ByteLM
from scratchpatch.model.cache import Cache, Reading, Thought
from scratchpatch.model.heads import entropy
from scratchpatch.model.layers import pin
from scratchpatch.model.places import Place, joined, last, layers_of, put, replaced, where
from scratchpatch.model.pooling import PatchBytes, take
from scratchpatch.model.smoothing import smooth
from scratchpatch.patching import step as step_lib
from scratchpatch.patching.layout import Thresholds
from scratchpatch.patching.rows import Rows
from scratchpatch.patching.scores import Signals

# Slots that a chunk gives to the trunk at a time.
_GROUP = 64


class Steps(nnx.Module):
    """The parameters of a model, layer by layer, and its pass in stages: `read`, `think`, `settle`, `write`.

    A layer that is taken out of its stack is a copy: make the module once, not for every byte.
    """

    def __init__(self, model: ByteLM):
        config_lib.require_causal(model.config, "continue text byte by byte")
        config_lib.require_no_leak(model.config, "continue text byte by byte")
        self.config = model.config
        self.vocabulary, self.token_bytes = config_lib.vocabulary(model.config), model.token_bytes
        self.trunkless = model.config.model.trunk.kind == "none"
        self.recurrent = model.config.model.trunk.kind == "ssm"
        # P: places for the commits of a row.
        self.commits, _ = config_lib.slots(model.config)
        encoder, decoder = model.encoder, model.decoder
        self.encoder_layers, encoder.layers = layers_of(encoder.layers.stack), None
        self.decoder_layers = layers_of(decoder.stack if decoder.vectors else decoder.stack.stack)
        self.encoder, self.decoder, decoder.stack = encoder, decoder, None
        if self.trunkless:
            return
        head, inner = model.entropy_head, model.entropy_model
        self.head = None if head is None else head.logits
        self.head_layers = layers_of(None if head is None else head.layers.stack)
        self.entropy_model = None if inner is None else Steps(inner)
        fires = config_lib.scratchpad_capacity(model.config) > 0
        trigger = model.config.trigger.kind if fires else "none"
        self.benefit_head = model.benefit_head if trigger == "learned" else None
        self.dependence = model.dependence if trigger == "score" else None
        self.router = model.router
        self.pooling = model.pooling
        self.trunk_layers, self.trunk_norm = layers_of(model.trunk.stack), model.trunk.norm
        self.patching_threshold, self.trigger_threshold = model.patching_threshold, model.trigger_threshold

    @property
    def bytes_of_tokens(self) -> jax.Array | None:
        """float32 [V]: bytes of each token; None of a model of bytes."""
        return None if self.token_bytes is None else self.token_bytes.get_value()

    def empty(self, rows: int) -> Cache:
        """The cache of rows of which nothing is read."""
        c, m = self.config, self.config.model
        dtype, zero_B = self.encoder.dtype, jnp.zeros((rows,), jnp.int32)

        def states(width, depth):
            return tuple(State.empty(rows, m.ssm.state, width, m.ssm.complex) for _ in range(depth))

        def rings(tier, depth):
            places, width = min(tier.window, c.data.window), m.d_byte // tier.heads
            return tuple(Kept.empty(rows, tier.heads, places, width, dtype) for _ in range(depth))

        def kept(tier):
            return states(m.d_byte, tier.layers) if tier.kind == "ssm" else rings(tier, tier.layers)

        g = max(m.encoder.ngrams, default=1) - 1
        if c.trigger.kind == "score" and not self.trunkless:
            # The table reads a pair of bytes.
            g = max(g, 1)
        cache = Cache(
            position_B=zero_B,
            start_B=zero_B,
            recent_Bg=jnp.full((rows, g), self.vocabulary.pad, jnp.int32),
            encoder=kept(m.encoder),
            decoder=kept(m.decoder),
        )
        if self.trunkless:
            return cache
        t, patch = m.trunk, None
        if self.pooling.gathers:
            byte_BMd = jnp.zeros((rows, self.pooling.limit, m.d_byte), dtype)
            patch = PatchBytes(byte_BMd, *((byte_BMd, byte_BMd) if self.pooling.attends else ()))
        wide_Bd = jnp.zeros((rows, m.d_byte), jnp.float32)
        if self.recurrent:
            trunk = states(t.d_model, t.layers)
        else:
            heads, width = t.kv_heads or t.heads, t.d_model // t.heads
            trunk = tuple(Kept.empty(rows, heads, self.commits, width, dtype) for _ in range(t.layers))
        thresholds = Thresholds(self.patching_threshold.get_value(), self.trigger_threshold.get_value())
        return dataclasses.replace(
            cache,
            head=rings(m.encoder, m.entropy_head.layers if self.head is not None else 0),
            entropy_model=None if self.entropy_model is None else self.entropy_model.empty(rows),
            patching=step_lib.initial(c, thresholds, rows),
            patch=patch,
            trunk=trunk,
            commits_B=zero_B,
            earlier_B=zero_B,
            context=self._of_contexts(self._null(rows)),
            router_Bd=None if self.router is None else wide_Bd,
            smoothed_Bd=jnp.repeat(wide_Bd, max(self.decoder.vectors, 1), axis=1) if self.decoder.smooths else None,
        )

    @precision.of_config
    def read(self, cache: Cache, tokens_BC) -> tuple[Cache, Reading]:
        """Read the next C tokens of each row, and decide what they are to the trunk; a row's PAD comes last."""
        rows = tokens_BC.shape[0]
        valid_BC = tokens_BC != self.vocabulary.pad
        position_BC = cache.position_B[:, None] + jnp.arange(tokens_BC.shape[1], dtype=jnp.int32)
        bos_BC = jnp.where(tokens_BC == self.vocabulary.bos, position_BC, -1)
        start_BC = jnp.maximum(jax.lax.cummax(bos_BC, axis=1), cache.start_B[:, None])
        new_B = valid_BC.sum(axis=1, dtype=jnp.int32)

        g = cache.recent_Bg.shape[1]
        tokens_BT = jnp.concatenate([cache.recent_Bg, tokens_BC], axis=1)
        offset_BT = jnp.pad(position_BC - start_BC, ((0, 0), (g, 0)))
        valid_BT = tokens_BT != self.vocabulary.pad
        window = Rows(tokens_BT, jnp.zeros_like(offset_BT), offset_BT, valid_BT, self.vocabulary)
        recent_Bg = take(tokens_BT, new_B[:, None] + jnp.arange(g, dtype=jnp.int32))
        place = Place(position_BC, start_BC, valid_BC)
        hidden_BCd, encoder = place.through(self.encoder_layers, self.encoder.embed(window)[:, g:], cache.encoder)

        later = {"position_B": cache.position_B + new_B, "start_B": last(start_BC, new_B, cache.start_B)}
        later |= {"recent_Bg": recent_Bg, "encoder": encoder}
        reading = Reading(position_BC, start_BC, valid_BC, hidden_BCd, jnp.full(tokens_BC.shape, jnp.nan))
        if self.trunkless:
            return dataclasses.replace(cache, **later), reading

        entropy_BC = None
        if self.entropy_model is not None:
            inner, own = self.entropy_model.read(cache.entropy_model, tokens_BC)
            later["entropy_model"], logits_BCV = self.entropy_model.write(inner, own)
            entropy_BC = entropy(logits_BCV)
        elif self.head is not None:
            x_BCd, later["head"] = place.through(self.head_layers, hidden_BCd, cache.head)
            entropy_BC = entropy(self.head(x_BCd))
        benefit_BCM = None
        if self.benefit_head is not None:
            earlier_BC = jnp.concatenate([cache.patching.entropy_BK[:, -1:], entropy_BC[:, :-1]], axis=1)
            before_BC = jnp.where(position_BC == start_BC, entropy_BC, earlier_BC)
            benefit_BCM = self.benefit_head.score(self.benefit_head(hidden_BCd, entropy_BC, before_BC))
        elif self.dependence is not None:
            before_BC = window.previous(tokens_BT, tokens_BT)[:, g:]
            weight = self.config.trigger.dependence
            benefit_BCM = self.dependence.score(weight, entropy_BC, tokens_BC, before_BC)[..., None]
        boundary_BC = None
        if self.router is not None:
            q_BCd, k_BCd = self.router.project(hidden_BCd)
            before_BCd = jnp.concatenate([cache.router_Bd[:, None], k_BCd[:, :-1]], axis=1)
            boundary_BC = router_lib.probability(q_BCd, before_BCd, position_BC == start_BC)
            later["router_Bd"] = last(k_BCd, new_B, cache.router_Bd)
        signals = Signals(entropy_BC, benefit_BCM, boundary_BC)
        later["patching"], decision = step_lib.scan(self.config, cache.patching, tokens_BC, signals)

        # A document that starts here sees none of the commits so far.
        commit_BC = decision.commit_B
        to_BC = cache.commits_B[:, None] + jnp.cumsum(commit_BC, axis=1, dtype=jnp.int32) - commit_BC
        here_BC = start_BC - position_BC[:, :1]
        from_BC = jnp.where(here_BC >= 0, take(to_BC, jnp.maximum(here_BC, 0)), cache.earlier_B[:, None])
        later["commits_B"] = cache.commits_B + commit_BC.sum(axis=1, dtype=jnp.int32)
        later["earlier_B"] = last(from_BC, new_B, cache.earlier_B)
        bytes_ = None
        if self.pooling.gathers:
            views = self.pooling.views(hidden_BCd, self.pooling.norm(hidden_BCd))
            if tokens_BC.shape[1] > 1:
                bytes_ = jax.tree.map(functools.partial(joined, cache.position_B), cache.patch, views)
            later["patch"] = jax.tree.map(functools.partial(put, position_BC, valid_BC), cache.patch, views)
        if tokens_BC.shape[1] == 1:
            # Where contexts reach no other byte, each byte begins without one.
            fresh_B = ((position_BC == start_BC)[:, 0] | self.decoder.at_slot) & valid_BC[:, 0]
            later["context"] = where(fresh_B, self._of_contexts(self._null(rows)), cache.context)
        reading = dataclasses.replace(
            reading,
            entropy_BC=reading.entropy_BC if entropy_BC is None else entropy_BC,
            commit_BC=commit_BC,
            scratchpad_BC=decision.scratchpad_B,
            patch_bytes_BC=decision.patch_bytes_B,
            seen_from_BC=from_BC,
            seen_to_BC=to_BC,
            bytes=bytes_,
            boundary_BC=boundary_BC,
        )
        return dataclasses.replace(cache, **later), reading

    @precision.of_config
    def think(self, cache: Cache, reading: Reading, row_W=None) -> Thought:
        """What the trunk says of single positions that are slots: `settle` puts it into the cache.

        Args:
          reading: of one position.
          row_W: int32, the rows that run; one that does not exist is left out. None: all of them.
        """
        patch, smoothed_Bd, rows = cache.patch, cache.smoothed_Bd, cache.position_B.shape[0]
        if row_W is not None:
            own = reading, patch, smoothed_Bd
            reading, patch, smoothed_Bd = jax.tree.map(lambda x: x.at[row_W].get(mode="clip"), own)
        reading = reading.pinned()
        back_M = jnp.arange(self.pooling.limit, dtype=jnp.int32)
        index_B1M = (reading.position_BC[..., None] - back_M) % self.pooling.limit
        new = []

        def attend(q, k, v, kept):
            new.append((k, v))
            kept = kept if row_W is None else kept.rows(row_W)
            return attention.cached_staircase(q, k, v, kept, reading.seen_from_BC, reading.seen_to_BC)

        def mix(system, u_B1e, step, kept):
            kept = kept if row_W is None else kept.rows(row_W)
            # What a scratchpad leaves is dropped when it settles.
            masks = reading.seen_from_BC == reading.seen_to_BC, jnp.ones_like(reading.valid_BC)
            y_B1e, state = diagonal.carry_on(system, u_B1e, step, *masks, kept)
            new.append(state)
            return y_B1e

        z_B1D = self._slots(patch, index_B1M, reading, cache.trunk, mix if self.recurrent else attend)
        context_B1d, smoothed_Bd = self._contexts(z_B1D, reading, smoothed_Bd)
        context = jax.tree.map(lambda x: x[:, 0], self._of_contexts(context_B1d))
        thought = Thought(tuple(new), context, smoothed_Bd)
        if row_W is None:
            return thought
        return jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype).at[row_W].set(x, mode="drop"), thought)

    def settle(self, cache: Cache, reading: Reading, thought: Thought, row_B) -> Cache:
        """The cache with what the trunk said of these rows (bool [B]): commits stay, scratchpads refresh the context.

        Apart from `think`, because what a branch of a program changes is copied: what it returns is small.
        """
        stays_B1 = row_B[:, None] & reading.commit_BC
        place_B1 = jnp.where(stays_B1, reading.seen_to_BC, self.commits)

        def settled(kept, new):
            return where(stays_B1[:, 0], new, kept) if self.recurrent else kept.put(*new, place_B1)

        trunk = tuple(map(settled, cache.trunk, thought.leaves))
        told, known = (thought.context, thought.smoothed_Bd), (cache.context, cache.smoothed_Bd)
        context, smoothed_Bd = where(row_B, told, known)
        return dataclasses.replace(cache, trunk=trunk, context=context, smoothed_Bd=smoothed_Bd)

    @precision.of_config
    def write(self, cache: Cache, reading: Reading, valid_BC=None, context=None, logits: bool = True):
        """(cache, logits [B, C, V] of the token after each position) once the trunk has run for the slots.

        Args:
          valid_BC: bool, the positions that are written; None: those that were read.
          context: of each position, arrays [B, C, ...]; None: that of the cache.
          logits: whether to compute them; else they are None.
        """
        valid_BC = reading.valid_BC if valid_BC is None else valid_BC
        start_BC = reading.start_BC
        if self.decoder.scope == "patch":
            before_BC = reading.position_BC - jnp.where(reading.commit_BC, 0, reading.patch_bytes_BC)
            start_BC = jnp.maximum(before_BC, start_BC)
        place = Place(reading.position_BC, start_BC, valid_BC)
        x_BCd, cross = reading.hidden_BCd, None
        if not self.trunkless:
            context = jax.tree.map(lambda x: x[:, None], cache.context) if context is None else context
            if self.decoder.vectors:
                cross = context
            else:
                x_BCd = self.decoder.join(x_BCd, context[0])
        x_BCd, decoder = place.through(self.decoder_layers, x_BCd, cache.decoder, cross)
        return dataclasses.replace(cache, decoder=decoder), self.decoder.logits(x_BCd) if logits else None

    def chunk(self, cache: Cache, tokens_BC, logits: bool = True):
        """(cache, reading, logits [B, C, V]) of the next C > 1 tokens of each row, read at once.

        The slots go through the trunk in groups, in the order of their bytes.
        """
        cache, reading = self.read(cache, tokens_BC)
        context = None
        if not self.trunkless:
            cache, context = self._think_chunk(cache, reading)
        cache, logits_BCV = self.write(cache, reading, context=context, logits=logits)
        return cache, reading, logits_BCV

    @precision.of_config
    def _think_chunk(self, cache: Cache, reading: Reading):
        """The cache after a chunk's slots, and the context of each of its positions, arrays [B, C, ...]."""
        (rows, length), slot_BC = reading.position_BC.shape, reading.slot_BC & reading.valid_BC
        group = min(_GROUP, length)
        n_BC = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
        rank_BC = jnp.where(slot_BC, jnp.cumsum(slot_BC, axis=1, dtype=jnp.int32) - 1, length)
        # The position of each slot in its order; beyond the last one a position that does not exist.
        order_BC = jnp.full((rows, length + group), length, jnp.int32)
        order_BC = replaced(order_BC, rank_BC, n_BC)
        back_M = jnp.arange(self.pooling.limit, dtype=jnp.int32)

        def rooms(old, null):
            room = jnp.zeros((rows, length, *old.shape[1:]), old.dtype)
            return jnp.concatenate([room, old[:, None], null[:, None]], axis=1)

        # What bytes read of the slot at each position, of the slot before the chunk, and of none.
        table = jax.tree.map(rooms, cache.context, self._of_contexts(self._null(rows)))

        def run(state):
            done, trunk, table, smoothed_Bd = state
            n_BN = jax.lax.dynamic_slice_in_dim(order_BC, done, group, axis=1)
            slot_BN, n_BN = n_BN < length, jnp.minimum(n_BN, length - 1)
            of_slots = jax.tree.map(lambda x: take(x, n_BN), dataclasses.replace(reading, bytes=None)).pinned()
            # Places that no slot takes come last, and carry on what is before them.
            of_slots = dataclasses.replace(of_slots, commit_BC=of_slots.commit_BC & slot_BN)
            # Behind the M bytes before the chunk.
            index_BNM = n_BN[..., None] + self.pooling.limit - back_M
            place_BN, later = jnp.where(of_slots.commit_BC, of_slots.seen_to_BC, self.commits), []

            def attend(q, k, v, kept):
                # A slot does not see itself in the cache: its commit lies behind those that it sees.
                later.append(kept.put(k, v, place_BN))
                return attention.cached_staircase(q, k, v, later[-1], of_slots.seen_from_BC, of_slots.seen_to_BC)

            def mix(system, u_BNe, step, kept):
                # Slots are in the order of their bytes.
                masks = of_slots.seen_from_BC == of_slots.seen_to_BC, slot_BN & of_slots.commit_BC
                y_BNe, state = diagonal.carry_on(system, u_BNe, step, *masks, kept)
                later.append(state)
                return y_BNe

            mixer = mix if self.recurrent else attend
            z_BND = self._slots(reading.bytes, index_BNM, of_slots, trunk, mixer)
            target_BN = jnp.where(slot_BN, n_BN, length + 2)
            context_BNd, smoothed_Bd = self._contexts(z_BND, of_slots, smoothed_Bd)
            offers = self._of_contexts(context_BNd)
            table = jax.tree.map(lambda x, new: replaced(x, target_BN, new), table, offers)
            return done + group, tuple(later), table, smoothed_Bd

        most = slot_BC.sum(axis=1).max()
        state = jnp.int32(0), cache.trunk, table, cache.smoothed_Bd
        _, trunk, table, smoothed_Bd = jax.lax.while_loop(lambda state: state[0] < most, run, state)
        if self.decoder.at_slot:
            index_BC = jnp.where(slot_BC, n_BC, length + 1)
        else:
            latest_BC = jax.lax.cummax(jnp.where(slot_BC, n_BC, -1), axis=1)
            first_BC = reading.start_BC - reading.position_BC[:, :1]
            none_BC = jnp.where(first_BC < 0, length, length + 1)
            index_BC = jnp.where(latest_BC >= jnp.maximum(first_BC, 0), latest_BC, none_BC)
        count_B = reading.valid_BC.sum(axis=1)
        last_B = last(index_BC, count_B, jnp.full((rows,), length))
        context = jax.tree.map(lambda x: take(x, last_B[:, None])[:, 0], table)
        contexts = jax.tree.map(lambda x: take(x, index_BC), table)
        return dataclasses.replace(cache, trunk=trunk, context=context, smoothed_Bd=smoothed_Bd), contexts

    def _slots(self, patch, index_BNM, reading: Reading, trunk, mix):
        """Slot states [B, N, D], from what pooling reads of bytes at these places.

        mix: (what a layer's mixer asks with, that layer's part of `trunk` as `kept`) -> what the slots read.
        """
        last_BNd = self.pooling.norm(reading.hidden_BCd)
        pooled_BNd = last_BNd
        if self.pooling.gathers:
            inside_BNM = jnp.arange(self.pooling.limit) < reading.patch_bytes_BC[..., None]
            pooled_BNd = self.pooling.combine(jax.tree.map(lambda x: take(x, index_BNM), patch), inside_BNM)
        x_BND = pin(self.pooling.project(pooled_BNd, last_BNd), "trunk.input", sharding.TRUNK, None)
        for layer, kept in zip(self.trunk_layers, trunk, strict=True):
            x_BND = layer(x_BND, reading.seen_to_BC - reading.seen_from_BC, functools.partial(mix, kept=kept))
        return x_BND if self.trunk_norm is None else self.trunk_norm(x_BND)

    def _contexts(self, z_BND, reading: Reading, smoothed_Bd) -> tuple[jax.Array, jax.Array | None]:
        """The contexts of slots [B, N, d], in the order of their bytes, and what the next commit is mixed with."""
        c_BNd = self.decoder.contexts(z_BND)
        c_BNd, null_Bd = c_BNd[:, :-1], c_BNd[:, -1]
        if smoothed_Bd is None:
            return c_BNd, None
        boundaries = reading.boundary_BC, reading.commit_BC, reading.first_BC
        mixed_BNd, smoothed_Bd = smooth(c_BNd, *boundaries, null_Bd, smoothed_Bd)
        return mixed_BNd.astype(c_BNd.dtype), smoothed_Bd

    def _null(self, rows: int) -> jax.Array:
        """The context of bytes before a document's first slot, [rows, d]."""
        nothing_B0D = jnp.zeros((rows, 0, self.config.model.trunk.d_model), self.encoder.dtype)
        return self.decoder.contexts(nothing_B0D)[:, 0]

    def _of_contexts(self, c) -> tuple:
        """What bytes read of contexts [..., d], arrays [..., ...]."""
        if not self.decoder.vectors:
            return (c,)
        c = c.reshape(*c.shape[:-1], self.decoder.vectors, -1)
        return tuple(layer.cross.offers(c) for layer in self.decoder_layers)
