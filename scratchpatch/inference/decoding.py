"""The compiled programs behind the engine: rows that are continued side by side, some bytes at a time.

A tick reads one byte of every row that can go on. Rows in which it is a slot wait for the trunk until a share of the
rows waits, or none can go on without; then those that wait run together. Rows whose context is ready choose their next
byte in the same tick.

Legend: B rows, G rows that are put among them, C positions of a chunk, T ticks of a call, K alternatives, V rows of the
vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch import sharding
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.inference import sampling
from scratchpatch.model import weights as weights_lib
from scratchpatch.model.cache import Cache, Reading, Thought
from scratchpatch.model.layers import round_kernels
from scratchpatch.model.places import replaced, where
from scratchpatch.model.steps import Steps
from scratchpatch.patching import step as step_lib

# The trunk runs for one of a few numbers of rows, each this many times the one before.
_BUCKETS = 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Board:
    """Rows that are being continued.

    Attributes:
      cache: of the bytes that were read.
      token_B: int32, what is read next.
      reading: of the latest byte of rows that wait for the trunk.
      waiting_B: bool.
      settings, chosen: of `sampling`.
    """

    cache: Cache
    token_B: jax.Array
    reading: Reading
    waiting_B: jax.Array
    settings: sampling.Settings
    chosen: sampling.State

    def spread(self) -> "Board":
        """The same in its place on the current mesh: each device has rows of its own."""
        return dataclasses.replace(
            sharding.by_rows(dataclasses.replace(self, cache=()), "board"), cache=self.cache.spread()
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Written:
    """What a call wrote: the first `count_B` of each row's T places.

    Attributes:
      count_B: int32.
      token_BT: int32, bytes or tokens, and BOS where the model ended the document.
      log_probability_BT: float32, nats.
      entropy_BT: float32, nats, of the byte as decisions saw it; NaN where they saw none.
      commit_BT, scratchpad_BT: bool, whether a patch ended, or the context was refreshed, right before the byte.
      alternative_BTK, alternative_log_probability_BTK: the likeliest tokens and their nats, the likeliest first.
      ticks, trunk_calls: int32, of the whole call: how often rows read a byte, and how often some ran the trunk.
      slots: int32, rows that the trunk ran for, added up.
    """

    count_B: jax.Array
    token_BT: jax.Array
    log_probability_BT: jax.Array
    entropy_BT: jax.Array
    commit_BT: jax.Array
    scratchpad_BT: jax.Array
    alternative_BTK: jax.Array
    alternative_log_probability_BTK: jax.Array
    ticks: jax.Array
    trunk_calls: jax.Array
    slots: jax.Array


@dataclasses.dataclass(frozen=True)
class Programs:
    """Compiled functions of one model definition.

    Attributes:
      separate: weights -> parameters layer by layer, in the form that the others take.
      empty: parameters, rows (static), dial (of `patching.step.dial`, or None) -> Cache.
      board: parameters, rows (static) -> Board of rows that nothing is in.
      chunk: parameters, Cache (donated), tokens_BC -> Cache.
      place: Board (donated), row_G, Cache of G rows, token_G -> Board with those rows; one that it lacks is left out.
      options: Board (donated), row_G, Settings and State of G rows -> Board.
      run: parameters, Board (donated), active_B, share, ticks (static), alternatives (static) -> (Board, Written).
    """

    separate: Callable
    empty: Callable
    board: Callable
    chunk: Callable
    place: Callable
    options: Callable
    run: Callable


@dataclasses.dataclass(frozen=True)
class Form:
    """A model's weights and steps as decoding has them.

    Attributes:
      separate: weights -> parameters layer by layer; kernels in the type that they are multiplied in.
      steps: parameters -> Steps.
      abstract: the parameters, as ShapeDtypeStructs in a state with the names of their axes.
    """

    separate: Callable
    steps: Callable
    abstract: nnx.State


def form(config) -> Form:
    """That of a config; nothing is computed."""
    definition, abstract = weights_lib.abstract(config)

    def build(weights) -> Steps:
        model = Steps(weights_lib.merge(definition, weights))
        round_kernels(model)
        return model

    graph, state = nnx.split(jax.eval_shape(build, abstract))
    return Form(lambda weights: nnx.split(build(weights))[1], lambda parameters: nnx.merge(graph, parameters), state)


def empty_board(model: Steps, rows: int) -> Board:
    """Rows that nothing is in."""
    cache = model.empty(rows)
    token_B = jnp.full((rows,), model.vocabulary.pad, jnp.int32)
    _, reading = jax.eval_shape(model.read, cache, token_B[:, None])
    reading = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), reading)
    nothing = sampling.settings([sampling.Options()] * rows), sampling.initial([b""] * rows, model.vocabulary)
    return Board(cache, token_B, reading, jnp.zeros((rows,), bool), *jax.tree.map(jnp.asarray, nothing)).spread()


@functools.lru_cache(maxsize=16)
def programs(config, mesh) -> Programs:
    """One for all models of a config, whatever their weights and thresholds (see `weights.without_thresholds`)."""
    formed = form(config)
    steps = formed.steps

    def empty(parameters, rows: int, dial=None) -> Cache:
        cache = steps(parameters).empty(rows)
        cache = cache if dial is None else dataclasses.replace(cache, patching=step_lib.dial(cache.patching, *dial))
        return cache.spread()

    def board(parameters, rows: int) -> Board:
        return empty_board(steps(parameters), rows)

    def chunk(parameters, cache: Cache, tokens_BC) -> Cache:
        return steps(parameters).chunk(cache, tokens_BC, logits=False)[0].spread()

    def put(row_G, x, new):
        return x.at[row_G].set(new, mode="drop")

    def place(board: Board, row_G, cache: Cache, token_G) -> Board:
        return dataclasses.replace(
            board,
            cache=jax.tree.map(functools.partial(put, row_G), board.cache, cache),
            token_B=put(row_G, board.token_B, token_G),
            waiting_B=put(row_G, board.waiting_B, False),
        ).spread()

    def options(board: Board, row_G, settings, chosen) -> Board:
        return dataclasses.replace(
            board,
            settings=jax.tree.map(functools.partial(put, row_G), board.settings, settings),
            chosen=jax.tree.map(functools.partial(put, row_G), board.chosen, chosen),
        ).spread()

    def run(parameters, board: Board, active_B, share, ticks: int, alternatives: int):
        return _run(steps(parameters), board, active_B, share, ticks, alternatives)

    def compiled(function, donated: tuple[int, ...] = (), static: tuple[str, ...] = (), places=None):
        program = jax.jit(function, donate_argnums=donated, static_argnames=static, out_shardings=places)
        return mesh_lib.inside(mesh, program)

    # Parameters lie as the weights do, each device with its share.
    places = None if mesh is None else sharding.state_shardings(formed.abstract, mesh)
    return Programs(
        separate=compiled(formed.separate, places=places),
        empty=compiled(empty, static=("rows",)),
        board=compiled(board, static=("rows",)),
        chunk=compiled(chunk, donated=(1,)),
        place=compiled(place, donated=(0,)),
        options=compiled(options, donated=(0,)),
        run=compiled(run, donated=(1,), static=("ticks", "alternatives"), places=(None, mesh_lib.everywhere(mesh))),
    )


def _run(model: Steps, board: Board, active_B, share, ticks: int, alternatives: int) -> tuple[Board, Written]:
    """Some ticks of the rows that are active, until all of them have ended."""
    rows, window, vocabulary = active_B.shape[0], model.config.data.window, model.vocabulary

    def tick(state):
        i, board, active_B, written = state
        fresh_B = active_B & ~board.waiting_B & (board.cache.position_B < window)
        tokens_B1 = jnp.where(fresh_B, board.token_B, vocabulary.pad)[:, None]
        cache, reading = model.read(board.cache, tokens_B1)
        calls = slots = jnp.int32(0)
        if model.trunkless:
            ready_B, waiting_B = fresh_B, board.waiting_B
        else:
            reading = where(fresh_B, reading, board.reading)
            waiting_B = jnp.where(fresh_B, reading.slot_BC[:, 0], board.waiting_B) & active_B
            count = waiting_B.sum()
            others = (fresh_B & ~waiting_B).any()
            go = (count > 0) & ((count >= share * active_B.sum()) | ~others)
            thought = _think(model, cache, reading, waiting_B, jnp.where(go, count, 0))
            cache = model.settle(cache, reading, thought, waiting_B & go)
            ready_B = fresh_B & ~waiting_B | waiting_B & go
            waiting_B &= ~go
            calls, slots = go.astype(jnp.int32), jnp.where(go, count, 0)
        cache, logits_B1V = model.write(cache, reading, valid_BC=ready_B[:, None])
        logits_BV = logits_B1V[:, 0]
        token_B, log_probability_B = sampling.choose(logits_BV, board.settings, board.chosen, vocabulary)
        chosen = sampling.advance(board.chosen, token_B, ready_B, model.bytes_of_tokens)
        place_B = jnp.where(ready_B, written.count_B, ticks)

        def put(x_BT, new_B):
            return replaced(x_BT, place_B[:, None], new_B[:, None])

        none_B = jnp.zeros((rows,), bool)
        of_alternatives = written.alternative_BTK, written.alternative_log_probability_BTK
        if alternatives:
            nats_BK, token_BK = sampling.alternatives(logits_BV, alternatives, vocabulary)
            of_alternatives = put(of_alternatives[0], token_BK), put(of_alternatives[1], nats_BK)
        written = Written(
            count_B=written.count_B + ready_B,
            token_BT=put(written.token_BT, token_B),
            log_probability_BT=put(written.log_probability_BT, log_probability_B),
            entropy_BT=put(written.entropy_BT, reading.entropy_BC[:, 0]),
            commit_BT=put(written.commit_BT, none_B if model.trunkless else reading.commit_BC[:, 0]),
            scratchpad_BT=put(written.scratchpad_BT, none_B if model.trunkless else reading.scratchpad_BC[:, 0]),
            alternative_BTK=of_alternatives[0],
            alternative_log_probability_BTK=of_alternatives[1],
            ticks=written.ticks + 1,
            trunk_calls=written.trunk_calls + calls,
            slots=written.slots + slots,
        )
        ended_B = ready_B & ((token_B == vocabulary.bos) | (chosen.written_B >= board.settings.max_bytes_B))
        board = Board(cache, jnp.where(ready_B, token_B, board.token_B), reading, waiting_B, board.settings, chosen)
        return i + 1, board.spread(), active_B & ~ended_B, written

    def goes_on(state):
        i, board, active_B, _ = state
        return (i < ticks) & (active_B & (board.waiting_B | (board.cache.position_B < window))).any()

    def blank(*shape, dtype):
        return jnp.zeros((rows, *shape), dtype)

    zero = jnp.int32(0)
    written = Written(
        count_B=blank(dtype=jnp.int32),
        token_BT=blank(ticks, dtype=jnp.int32),
        log_probability_BT=blank(ticks, dtype=jnp.float32),
        entropy_BT=blank(ticks, dtype=jnp.float32),
        commit_BT=blank(ticks, dtype=bool),
        scratchpad_BT=blank(ticks, dtype=bool),
        alternative_BTK=blank(ticks, alternatives, dtype=jnp.int32),
        alternative_log_probability_BTK=blank(ticks, alternatives, dtype=jnp.float32),
        ticks=zero,
        trunk_calls=zero,
        slots=zero,
    )
    _, board, _, written = jax.lax.while_loop(goes_on, tick, (zero, board, active_B, written))
    return board, written


def _think(model: Steps, cache: Cache, reading: Reading, waiting_B, count) -> Thought:
    """What the trunk says of the first `count` of the waiting rows, which are all of them or none."""
    rows = waiting_B.shape[0]
    sizes = [rows]
    # Some rows alone do not divide over the devices of a mesh.
    while sizes[-1] > 1 and sharding.spread_mesh() is None:
        sizes.append(-(-sizes[-1] // _BUCKETS))
    sizes = sizes[::-1]
    order_B = jnp.argsort(~waiting_B, stable=True).astype(jnp.int32)

    def branch(size):
        if size == rows:
            return lambda: model.think(cache, reading)
        row_W = jnp.where(jnp.arange(size) < count, order_B[:size], rows)
        return lambda: model.think(cache, reading, row_W)

    def nothing():
        shapes = jax.eval_shape(model.think, cache, reading)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    bucket = sum((count > size).astype(jnp.int32) for size in (0, *sizes[:-1]))
    return jax.lax.switch(bucket, [nothing, *map(branch, sizes)])
