"""What the model keeps of the bytes that it has read of each row, and what it says of new ones before it is done.

Legend: B rows, C new positions, M bytes of a patch at most, d byte width, P commits of a row, G key-value heads, K head
width, g bytes before an n-gram's last.
"""

import dataclasses

import jax

from scratchpatch import sharding
from scratchpatch.kernels.attention import Kept
from scratchpatch.kernels.diagonal import State
from scratchpatch.model.layers import pin
from scratchpatch.model.pooling import PatchBytes
from scratchpatch.patching import step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """All that the next byte of each row depends on; what a model has no use for is None.

    Attributes:
      position_B: int32, tokens read in the row.
      start_B: int32, position of the open document's BOS, or 0 where the row begins inside a document.
      recent_Bg: int32, the last tokens, for n-grams.
      encoder, head, decoder: rings of the byte tiers, one per layer, or states.
      entropy_model: the cache of the entropy model.
      patching: what decisions depend on.
      patch: what pooling reads of the last M bytes; the byte at position n lies at n mod M.
      trunk: keys and values of the row's commits, one per layer, and of nothing else; or the states that they made.
      commits_B: int32, how many those are.
      earlier_B: int32, how many of them belong to earlier documents of the row.
      context: what bytes read of the latest slot: arrays whose first axis is the row.
      router_Bd: float32, what the router keeps of the last byte.
      smoothed_Bd: float32, what the next commit is mixed with, if the open document has a commit.
    """

    position_B: jax.Array
    start_B: jax.Array
    recent_Bg: jax.Array
    encoder: tuple[Kept | State, ...]
    decoder: tuple[Kept | State, ...]
    head: tuple[Kept, ...] = ()
    entropy_model: "Cache | None" = None
    patching: step.State | None = None
    patch: PatchBytes | None = None
    trunk: tuple[Kept | State, ...] = ()
    commits_B: jax.Array | None = None
    earlier_B: jax.Array | None = None
    context: tuple | None = None
    router_Bd: jax.Array | None = None
    smoothed_Bd: jax.Array | None = None

    def spread(self) -> "Cache":
        """The same in its place on the current mesh: by rows, and what the trunk keeps also by its heads."""
        by_rows = sharding.by_rows(dataclasses.replace(self, trunk=()), "cache")
        trunk = tuple(kept.spread(sharding.TRUNK.rows, sharding.TRUNK.heads) for kept in self.trunk)
        return dataclasses.replace(by_rows, trunk=trunk)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reading:
    """What reading C positions of each row gave; the fields of decisions are None without a trunk.

    Attributes:
      position_BC, start_BC: int32, in the row: of the byte, and of its document's first.
      valid_BC: bool; positions that are not come last in their row.
      hidden_BCd: the encoder's states.
      entropy_BC: float32, nats, that decisions read; NaN where there is none.
      commit_BC, scratchpad_BC: bool.
      patch_bytes_BC: int32, bytes of the open patch, this one included.
      seen_from_BC, seen_to_BC: int32, the commits of the row that a slot here attends to.
      bytes: what pooling reads of the M bytes before the first position and of these [B, M + C, d]; None of a single
        position, whose patch the cache has.
      boundary_BC: float32, the router's probabilities; None without a router.
    """

    position_BC: jax.Array
    start_BC: jax.Array
    valid_BC: jax.Array
    hidden_BCd: jax.Array
    entropy_BC: jax.Array
    commit_BC: jax.Array | None = None
    scratchpad_BC: jax.Array | None = None
    patch_bytes_BC: jax.Array | None = None
    seen_from_BC: jax.Array | None = None
    seen_to_BC: jax.Array | None = None
    bytes: PatchBytes | None = None
    boundary_BC: jax.Array | None = None

    @property
    def first_BC(self) -> jax.Array:
        """bool: whether a slot here sees no commit before it in its document."""
        return self.seen_from_BC == self.seen_to_BC

    @property
    def slot_BC(self) -> jax.Array:
        """bool: whether the trunk runs here."""
        return self.commit_BC | self.scratchpad_BC

    def pinned(self) -> "Reading":
        """The same, with the commits that its slots attend to in their place on the mesh."""
        ranges = (pin(x, "trunk.ranges", sharding.TRUNK) for x in (self.seen_from_BC, self.seen_to_BC))
        return dataclasses.replace(self, **dict(zip(("seen_from_BC", "seen_to_BC"), ranges, strict=True)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Thought:
    """What the trunk said of one slot of each row.

    Attributes:
      leaves: of each layer what a commit leaves: (keys, values), arrays [B, 1, G, K], or its `State`.
      context: what bytes read of the slot, as in `Cache`.
      smoothed_Bd: what the next commit is mixed with; None where nothing is smoothed.
    """

    leaves: tuple
    context: tuple
    smoothed_Bd: jax.Array | None = None
