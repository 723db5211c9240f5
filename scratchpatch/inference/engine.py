"""Many rows that are continued at once: a finished one gives its place to the next prompt.

Legend: B rows.
"""

import collections
import dataclasses
import itertools
import math
import typing
from collections.abc import Callable, Iterable

import jax
import numpy as np

from scratchpatch import config as config_lib
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.inference import decoding, sampling, utf8, windows
from scratchpatch.inference.options import MOST_LOGPROBS, Options
from scratchpatch.inference.prefill import Pending, Prefill, chunks
from scratchpatch.inference.stops import Stops
from scratchpatch.model import weights as weights_lib

# Prompts that are read side by side, and chunks of them that are read between two calls while other rows wait.
_GROUP, _CHUNKS_BETWEEN = 8, 4
# Gain of a controller that steers to a rate, in models whose own trigger has none.
_GAIN = 0.01


class Byte(typing.NamedTuple):
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
    """A prompt that is continued. tokens: BOS, prompt, output. read: of these BOS and prompt. start: the first token of
    the row that reads them. written: bytes of the output.
    """

    ticket: int
    options: Options
    tokens: list[int]
    prompt: bytes
    start: int = 0
    written: int = 0
    read: int = 0
    stops: Stops = dataclasses.field(default_factory=lambda: Stops(()))
    held: list[Byte] = dataclasses.field(default_factory=list)


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
        self._prefill: Prefill | None = None
        self._tickets = itertools.count()

    @property
    def waiting(self) -> int:
        """Prompts that have no place yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Rows with a place, or on the way to it."""
        return sum(row is not None for row in self._places) + (len(self._prefill.rows) if self._prefill else 0)

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
        tokens = self.model.tokens(prompt).tolist()
        row = _Row(next(self._tickets), options, tokens, bytes(prompt), stops=Stops(options.stop), read=len(tokens))
        self._waiting.append(row)
        return row.ticket

    def check(self, options: Options) -> None:
        """Raises UserError for options that cannot be used with this model."""
        options.check()
        for name in () if self.model.vocabulary.is_bytes else ("valid_utf8", "logprobs"):
            if getattr(options, name):
                value = getattr(options, name)
                raise UserError(f"{name} = {value} is about bytes, and this model writes tokens: leave it out")
        if options.patch_threshold is not None:
            raise UserError(
                f"patch_threshold = {options.patch_threshold} moves how many commits a row may keep, which is settled "
                "for all rows at the start: use a model of LanguageModel.override(patching__threshold=...)"
            )
        kind = self.model.config.trigger.kind
        dialled = options.scratchpad_threshold is not None or options.rate is not None
        if dialled and kind not in config_lib.SCORED["trigger"]:
            name = "rate" if options.scratchpad_threshold is None else "scratchpad_threshold"
            raise UserError(
                f"{name} = {getattr(options, name)}: trigger.kind = {kind!r} of this model asks no threshold; leave "
                f"{name} out, or use a model of LanguageModel.override(trigger__kind='entropy')"
            )

    def _dial(self, options: list[Options], size: int) -> tuple | None:
        """Arguments of `patching.step.dial` for so many rows, the first of which have these options; None: there is no
        trigger.
        """
        trigger = self.model.config.trigger
        if trigger.kind == "none" or self.model.config.model.trunk.kind == "none":
            return None
        threshold, gain, rate = np.full((3, size), math.nan, np.float32)
        for k, row in enumerate(options):
            if row.scratchpad_threshold is not None:
                threshold[k], gain[k], rate[k] = row.scratchpad_threshold, 0.0, 0.0
            elif row.rate is not None:
                gain[k], rate[k] = trigger.gain or _GAIN, row.rate
        return threshold, gain, rate, ~np.isnan(gain)

    def cancel(self, ticket: int) -> None:
        """End a row without further word of it; its place is free. Nothing where the row has ended."""
        self._waiting = collections.deque(row for row in self._waiting if row.ticket != ticket)
        self._places = [None if row and row.ticket == ticket else row for row in self._places]
        for row in self._prefill.rows if self._prefill else ():
            if row.ticket == ticket:
                self._prefill.drop(row)

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

    def write(
        self, prompts: Iterable[tuple[bytes, Options]], seen: Callable[[int], None] = lambda byte_count: None
    ) -> list[bytes]:
        """What continues each prompt, in their order, where nothing else is submitted; `seen` is told after each step
        how many bytes were written. Raises UserError as `check` does.
        """
        made = {self.submit(prompt, options): b"" for prompt, options in prompts}
        while not self.idle:
            written = 0
            for progress in self.step():
                made[progress.ticket] += bytes(byte.value for byte in progress.bytes)
                written += len(progress.bytes)
            seen(written)
        return list(made.values())

    def step(self) -> list[Progress]:
        """Some bytes for every row that runs: one call of the compiled loop."""
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

    def _admit(self) -> list[Progress]:
        """Read prompts and give them free places, and read rows anew whose window is full."""
        full = [row for row in self._places if row and len(row.tokens) - row.start > self._window]
        for k in range(0, len(full), _GROUP):
            # A row whose window is full can do nothing else.
            prefill = self._begin(full[k : k + _GROUP])
            while prefill.rows:
                prefill.read()
                self._board, _, _ = prefill.settle(self._board, self._places.index)
        ended, read = [], 0
        while True:
            if not (self._prefill and self._prefill.rows):
                self._prefill, rows = None, self._next_prompts(ended)
                if not rows:
                    return ended
                self._prefill = self._begin(rows)
            elif read >= _CHUNKS_BETWEEN and any(row is not None for row in self._places):
                return ended
            read += 1
            self._prefill.read()
            self._settle(self._prefill)

    def _next_prompts(self, ended: list[Progress]) -> list[_Row]:
        """Prompts for free places, which are read in equal chunks, so that none is read otherwise than alone."""
        rows = []
        while self._waiting and len(rows) < min(_GROUP, self._places.count(None)):
            row = self._waiting[0]
            if rows and chunks(self._length(row)) != chunks(self._length(rows[0])):
                break
            self._waiting.popleft()
            if row.options.max_bytes:
                rows.append(row)
                self.work.prompt_bytes += len(row.prompt)
            else:
                ended.append(Progress(row.ticket, (), "length"))
        return rows

    def _length(self, row: _Row) -> int:
        """Tokens that are read of a row before it can go on."""
        return len(row.tokens) - 1 - windows.start(len(row.tokens) - 1, self._window)

    def _begin(self, rows: list[_Row]) -> Prefill:
        size = self._shares if len(rows) == 1 else -(-_GROUP // self._shares) * self._shares
        pending = []
        for row in rows:
            row.start = windows.start(len(row.tokens) - 1, self._window)
            pending.append(Pending(row.tokens, row.start, row))
        dial, pad = self._dial([row.options for row in rows], size), self.model.vocabulary.pad
        return Prefill(self._programs, self._parameters, pad, size, pending, dial)

    def _settle(self, prefill: Prefill) -> None:
        """Give places to the prompts that are read."""
        free = iter([place for place, row in enumerate(self._places) if row is None])
        self._board, place_G, ready = prefill.settle(self._board, lambda row: next(free))
        if not ready:
            return
        options, prompts = [Options()] * len(place_G), [[]] * len(place_G)
        for k, row in ready:
            options[k], prompts[k], self._places[place_G[k]] = row.options, row.tokens[1 : row.read], row
        chosen = sampling.initial(prompts, self.model.vocabulary)
        self._board = self._programs.options(self._board, place_G, sampling.settings(options), chosen)

    def _take(self, place: int, row: _Row, written) -> Iterable[Progress]:
        """What the call wrote for a row, as far as no stop string can take it back."""
        bos, finish, released = self.model.vocabulary.bos, None, 0
        for written_token in self._written(place, row, written):
            if written_token.value == bos:
                # Inside a character, the end stands for a budget that cannot complete it: see `inference.utf8`.
                end = bytes(row.tokens[1:][-3:]) if row.options.valid_utf8 else b""
                finish = "stop" if utf8.state_after(end) == utf8.ACCEPT else "length"
                break
            row.tokens.append(written_token.value)
            for byte in self._bytes(written_token):
                row.held.append(byte)
                row.written += 1
                self.work.bytes += 1
                released += len(row.stops.push(bytes([byte.value]))) if row.options.stop else 1
                if row.stops.ended or row.written == row.options.max_bytes:
                    finish = "stop" if row.stops.ended else "length"
                    break
            if finish:
                break
        if finish and not row.stops.ended:
            released += len(row.stops.flush())
        progress = Progress(row.ticket, tuple(row.held[:released]), finish)
        row.held = row.held[released:]
        if finish:
            self._places[place] = None
        if released or finish:
            yield progress

    def _bytes(self, token: Byte) -> Iterable[Byte]:
        """The bytes of what was written at once: of a token, the first has its decisions, and the last what it says of
        itself; a log-probability of 0 stands at the others.
        """
        if self.model.vocabulary.is_bytes:
            return (token,)
        *others, last = self.model.text(np.array([token.value]))
        values = [Byte(value, 0.0, math.nan, False, False) for value in others]
        values.append(Byte(last, token.log_probability, math.nan, False, False))
        values[0] = values[0]._replace(entropy=token.entropy, commit=token.commit, scratchpad=token.scratchpad)
        return values

    def _written(self, place: int, row: _Row, written) -> Iterable[Byte]:
        """What the call wrote for a row, a token as a byte of its id, and an end of the document as one of BOS."""
        count, wanted, bos = int(written.count_B[place]), row.options.logprobs, self.model.vocabulary.bos
        nats_T = written.log_probability_BT[place, :count]
        sampling.check_sound(nats_T)
        alternatives = [()] * count
        if wanted:
            tokens_TK = written.alternative_BTK[place, :count, :wanted]
            tokens_TK = np.where(tokens_TK == bos, -1, tokens_TK).tolist()
            nats_TK = written.alternative_log_probability_BTK[place, :count, :wanted].tolist()
            alternatives = [tuple(zip(*pair, strict=True)) for pair in zip(tokens_TK, nats_TK, strict=True)]
        arrays = written.entropy_BT, written.commit_BT, written.scratchpad_BT
        lists = (x_BT[place, :count].tolist() for x_BT in arrays)
        tokens = written.token_BT[place, :count].tolist()
        return map(Byte, tokens, nats_T.tolist(), *lists, alternatives)
