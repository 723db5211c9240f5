"""Many rows that are continued at once: a finished one gives its place to the next prompt.

Legend: B rows.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable

import jax
import numpy as np

from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.inference import decoding, sampling, utf8, windows
from scratchpatch.inference.options import MOST_LOGPROBS, Options
from scratchpatch.inference.stops import Stops
from scratchpatch.model import weights as weights_lib

# Positions that a prompt is read by at a time: each number is a program of its own.
_CHUNKS = (16, 64, 256)
# Chunks that are read at least between two calls while other rows wait to go on; it may be as many as places are free.
_CHUNKS_BETWEEN = 4
# Gain of a controller that steers to a rate, in models whose own trigger has none.
_GAIN = 0.01


@dataclasses.dataclass(frozen=True)
class Byte:
    """One byte of a row's output.

    Attributes:
      value: 0 to 255.
      log_probability: natural logarithm, of the model's own distribution, as `LanguageModel.score` has it in bits.
      entropy: nats, of this byte before it was known, as decisions saw it; NaN where the model has none.
      commit, scratchpad: whether a patch ended, or the context was refreshed, right before this byte.
      alternatives: (byte, log-probability) of the likeliest, the likeliest first; -1 for the end of the document.
    """

    value: int
    log_probability: float
    entropy: float
    commit: bool
    scratchpad: bool
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a row wrote since the last time.

    finish: None while it goes on; 'stop' where the model ended the document or a stop string came; 'length' where
    max_bytes were written, or are too few to complete the character that a prompt of valid_utf8 leaves open.
    """

    ticket: int
    bytes: tuple[Byte, ...]
    finish: str | None


@dataclasses.dataclass
class Work:
    """What an engine has done: bytes read and written, ticks of its loop, calls of the trunk, rows in those calls."""

    bytes: int = 0
    prompt_bytes: int = 0
    ticks: int = 0
    trunk_calls: int = 0
    slots: int = 0


@dataclasses.dataclass
class _Row:
    """A prompt that is continued. tokens: BOS, prompt, output. start: the first token of the row that reads them."""

    ticket: int
    options: Options
    tokens: list[int]
    prompt: bytes
    start: int = 0
    stops: Stops = dataclasses.field(default_factory=lambda: Stops(()))
    held: list[Byte] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Prefill:
    """A row on its way to a place: the tokens that its cache has read lie before `done`."""

    row: _Row
    cache: object
    done: int
    fresh: bool


class Engine:
    """Continues prompts side by side; a row's output depends on its prompt and its options alone.

    A row holds the keys and values of the commits of its window and the last bytes of the local windows. Where a
    row's window is full, the row is read anew from its last half window on, as `LanguageModel.score` reads long
    documents: one byte of parallel reading per byte written, beyond the first window.

    share: of the running rows, that must wait for the trunk before it runs while others can go on; 0: it runs as soon
      as one waits; 1: when all wait. No output depends on it.
    ticks: bytes per row and call of the compiled loop.
    """

    def __init__(self, model, rows: int = 1, share: float = 0.0, ticks: int = 32):
        if rows < 1 or ticks < 1 or not 0 <= share <= 1:
            raise UserError(f"rows = {rows} and ticks = {ticks} must be at least 1, share = {share} from 0 to 1")
        self.model, self.share, self.ticks, self.work = model, share, ticks, Work()
        weights, mesh = model.weights, mesh_lib.of(model.weights)
        if mesh is not None:
            # A byte has no positions to spread.
            weights, mesh = mesh_lib.without_sequence(weights, mesh)
        shares = mesh_lib.row_shares(mesh)
        self.rows = -(-rows // shares) * shares
        self._shares, self._window = shares, model.config.data.window
        config = model.config if mesh is None else mesh_lib.settled(model.config, mesh)
        self._programs = decoding.programs(weights_lib.without_thresholds(config), mesh)
        self._parameters = self._programs.separate(weights)
        self._board = self._programs.board(self._parameters, rows=self.rows)
        self._places: list[_Row | None] = [None] * self.rows
        self._waiting: collections.deque[_Row] = collections.deque()
        self._prefill: _Prefill | None = None
        self._tickets = itertools.count()
        self._cancelled: set[int] = set()

    @property
    def waiting(self) -> int:
        """Prompts that have no place yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Rows with a place, or on the way to it."""
        return sum(row is not None for row in self._places) + (self._prefill is not None)

    @property
    def idle(self) -> bool:
        """Whether nothing was submitted that has not ended."""
        return not self._waiting and not self.running

    def submit(self, prompt: bytes, options: Options) -> int:
        """A ticket for the continuation of `prompt`. Raises UserError as `check` does.

        A scratchpad_threshold holds as it is, and a rate steers the threshold of the model from there, both without
        the budget of scratchpads, as `LanguageModel.override` has it.
        """
        self.check(options)
        bos = self.model.vocabulary.bos
        row = _Row(next(self._tickets), options, [bos, *prompt], bytes(prompt), stops=Stops(options.stop))
        self._waiting.append(row)
        return row.ticket

    def check(self, options: Options) -> None:
        """Raises UserError for options that cannot be used with this model."""
        options.check()
        if options.patch_threshold is not None:
            raise UserError(
                f"patch_threshold = {options.patch_threshold} moves how many commits a row may keep, which is settled "
                "for all rows at the start: use a model of LanguageModel.override(patching__threshold=...)"
            )
        kind = self.model.config.trigger.kind
        if (options.scratchpad_threshold is not None or options.rate is not None) and not kind.startswith("entropy"):
            name = "rate" if options.scratchpad_threshold is None else "scratchpad_threshold"
            raise UserError(
                f"{name} = {getattr(options, name)}: trigger.kind = {kind!r} of this model asks no threshold; leave "
                f"{name} out, or use a model of LanguageModel.override(trigger__kind='entropy')"
            )

    def _dial(self, options: Options) -> tuple | None:
        """Arguments of `patching.step.dial` for one row; None: the model's own trigger."""
        if self.model.config.trigger.kind == "none" or self.model.config.model.trunk.kind == "none":
            return None
        threshold, rate, trigger = options.scratchpad_threshold, options.rate, self.model.config.trigger
        turned = threshold is not None or rate is not None
        numbers = (
            math.nan if threshold is None else threshold,
            0.0 if rate is None else trigger.gain or _GAIN,
            0.0 if rate is None else rate,
        )
        return *(np.full(self._shares, number, np.float32) for number in numbers), np.full(self._shares, turned)

    def cancel(self, ticket: int) -> None:
        """End a row without further word of it; its place is free at the next step."""
        self._cancelled.add(ticket)

    @property
    def cache_bytes(self) -> dict[str, int]:
        """Memory of what is kept of all rows, in bytes: the trunk's keys and values, and all of it."""
        trunk, everything = (sum(x.nbytes for x in jax.tree.leaves(t)) for t in (self._board.cache.trunk, self._board))
        return {"trunk": trunk, "all": everything}

    @property
    def commits(self) -> int:
        """Commits of all places, whose keys and values are kept; also of a row that ended, until its place is taken."""
        return 0 if self._board.cache.commits_B is None else int(self._board.cache.commits_B.sum())

    def fill(self) -> list[Progress]:
        """Read prompts until no place or no prompt is left, and write nothing; all is read when this returns."""
        ended = []
        while self._prefill or self._waiting and None in self._places:
            ended += self._admit()
        jax.block_until_ready(self._board)
        return ended

    def step(self) -> list[Progress]:
        """Some bytes for every row that runs: one call of the compiled loop."""
        self._drop_cancelled()
        ended = self._admit()
        active_B = np.array([row is not None for row in self._places])
        if not active_B.any():
            return ended
        alternatives = MOST_LOGPROBS if any(row and row.options.logprobs for row in self._places) else 0
        self._board, written = self._programs.run(
            self._parameters, self._board, active_B, np.float32(self.share), ticks=self.ticks, alternatives=alternatives
        )
        written = jax.device_get(written)
        self.work.ticks += int(written.ticks)
        self.work.trunk_calls += int(written.trunk_calls)
        self.work.slots += int(written.slots)
        return ended + [
            progress for place, row in enumerate(self._places) if row for progress in self._take(place, row, written)
        ]

    def _drop_cancelled(self) -> None:
        if not self._cancelled:
            return
        gone, self._cancelled = self._cancelled, set()
        self._waiting = collections.deque(row for row in self._waiting if row.ticket not in gone)
        self._places = [None if row and row.ticket in gone else row for row in self._places]
        if self._prefill and self._prefill.row.ticket in gone:
            self._prefill = None

    def _admit(self) -> list[Progress]:
        """Give free places to prompts, which are read first, and read rows anew whose window is full."""
        ended, chunks = [], 0
        # Where many places are free, leaving them empty costs more than letting the rows wait that run.
        most = max(_CHUNKS_BETWEEN, self._places.count(None))
        full = [row for row in self._places if row and len(row.tokens) - row.start > self._window]
        for row in full:
            # A row whose window is full can do nothing else.
            prefill = self._begin(row, fresh=False)
            while not self._read_chunk(prefill):
                pass
            self._place(prefill, self._places.index(row))
        while True:
            if self._prefill is None:
                if None not in self._places or not self._waiting:
                    return ended
                row = self._waiting.popleft()
                if row.options.max_bytes == 0:
                    ended.append(Progress(row.ticket, (), "length"))
                    continue
                self._prefill = self._begin(row, fresh=True)
            others = any(row is not None for row in self._places)
            while chunks < most or not others:
                chunks += 1
                if self._read_chunk(self._prefill):
                    self._place(self._prefill, self._places.index(None))
                    self._prefill = None
                    break
            else:
                return ended

    def _begin(self, row: _Row, fresh: bool) -> _Prefill:
        position = len(row.tokens) - 1
        row.start = windows.start(position, self._window)
        if fresh:
            self.work.prompt_bytes += len(row.prompt)
        cache = self._programs.empty(self._parameters, rows=self._shares, dial=self._dial(row.options))
        return _Prefill(row, cache, row.start, fresh)

    def _read_chunk(self, prefill: _Prefill) -> bool:
        """Read some more of its tokens, all but the last; whether that is done."""
        tokens, done = prefill.row.tokens, prefill.done
        left = len(tokens) - 1 - done
        if left:
            size = next((size for size in _CHUNKS if size >= left), _CHUNKS[-1])
            part = np.array(tokens[done : done + size][: left], np.int32)
            part = np.pad(part, (0, size - len(part)), constant_values=self.model.vocabulary.pad)
            tokens_BC = np.broadcast_to(part, (self._shares, size))
            prefill.cache = self._programs.chunk(self._parameters, prefill.cache, tokens_BC)
            prefill.done += min(size, left)
        return prefill.done == len(tokens) - 1

    def _place(self, prefill: _Prefill, place: int) -> None:
        row = prefill.row
        self._board = self._programs.place(self._board, place, prefill.cache, np.int32(row.tokens[-1]))
        if prefill.fresh:
            nothing = sampling.settings([row.options]), sampling.initial([row.prompt])
            self._board = self._programs.options(self._board, place, *nothing)
        self._places[place] = row

    def _take(self, place: int, row: _Row, written) -> Iterable[Progress]:
        """What the call wrote for a row, as far as no stop string can take it back."""
        bos, finish, pieces = self.model.vocabulary.bos, None, b""
        count = int(written.count_B[place])
        sampling.check_sound(written.log_probability_BT[place, :count])
        for t in range(count):
            token = int(written.token_BT[place, t])
            if token == bos:
                # Inside a character, the end stands for a budget that cannot complete it: see `inference.utf8`.
                end = bytes(row.tokens[1:][-3:]) if row.options.valid_utf8 else b""
                finish = "stop" if utf8.state_after(end) == utf8.ACCEPT else "length"
                break
            row.tokens.append(token)
            row.held.append(self._byte(place, t, row, written))
            pieces += row.stops.push(bytes([token]))
            self.work.bytes += 1
            if row.stops.ended:
                finish = "stop"
                break
            if len(row.tokens) - 1 - len(row.prompt) == row.options.max_bytes:
                finish = "length"
        if finish and not row.stops.ended:
            pieces += row.stops.flush()
        released, row.held = row.held[: len(pieces)], row.held[len(pieces) :]
        if finish:
            self._places[place] = None
        if released or finish:
            yield Progress(row.ticket, tuple(released), finish)

    def _byte(self, place: int, t: int, row: _Row, written) -> Byte:
        count = row.options.logprobs
        tokens = written.alternative_BTK[place, t, :count].tolist() if count else ()
        nats = written.alternative_log_probability_BTK[place, t, :count].tolist() if count else ()
        bos = self.model.vocabulary.bos
        return Byte(
            value=int(written.token_BT[place, t]),
            log_probability=float(written.log_probability_BT[place, t]),
            entropy=float(written.entropy_BT[place, t]),
            commit=bool(written.commit_BT[place, t]),
            scratchpad=bool(written.scratchpad_BT[place, t]),
            alternatives=tuple((-1 if token == bos else token, x) for token, x in zip(tokens, nats, strict=True)),
        )
