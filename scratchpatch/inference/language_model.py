"""A model with its weights, as a function of documents.

Legend: R rows, L positions of a row, T tokens of a stream, n bytes of a document.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch import config as config_lib
from scratchpatch.data import tokenizer as tokenizer_lib
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.inference import windows
from scratchpatch.inference.engine import Byte, Engine
from scratchpatch.inference.options import Options
from scratchpatch.inference.windows import Window
from scratchpatch.model import loss as loss_lib, weights as weights_lib

# Tokens of one call of the compiled pass: enough to keep a chip busy, and few enough that on a processor what a layer
# gives another one stays in its caches.
_TOKENS_PER_CALL, _TOKENS_PER_CALL_ON_CPU = 8192, 2048
# What has positions to read, a window of it, and what else belongs to the row.
Row = tuple[Any, Window, *tuple[Any, ...]]
# Prompts that are continued side by side.
_ROWS = 64


@dataclasses.dataclass(frozen=True)
class Positions:
    """What the model says at consecutive positions of a stream, each array [T].

    Attributes:
      nats: of the next token (0 where there is none).
      head_nats: the entropy head's (NaN without a head).
      targets: the next token (PAD where there is none).
      best: bool, whether the target is the likeliest token, the lowest of those that tie.
      entropy: nats (NaN where the model has none).
      commit, scratchpad: bool.
      offset: bytes read since the last commit, or since the document's start: 0 where a commit stands. It is the lag of
        the context without scratchpads.
      since: tokens read since the document (or the row inside it) began.
    """

    nats: np.ndarray
    head_nats: np.ndarray
    targets: np.ndarray
    best: np.ndarray
    entropy: np.ndarray
    commit: np.ndarray
    scratchpad: np.ndarray
    offset: np.ndarray
    since: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[dict[str, np.ndarray]]) -> Positions:
        """Those of consecutive parts, each with an array by name."""
        return cls(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """Decisions after each byte of a document, arrays [n].

    Attributes:
      entropy: of the next byte, nats.
      commit: whether a patch ends with this byte.
      scratchpad: whether the context is refreshed after this byte.
    """

    entropy: np.ndarray
    commit: np.ndarray
    scratchpad: np.ndarray


class LanguageModel:
    """Scores, segments and continues documents of any length; its weights have had `step` optimizer steps.

    Weights (see `model.weights`) that are spread over a mesh stay where they are: rows are dealt to its devices, and
    all its processes must ask the same at the same time.
    """

    def __init__(self, config, weights: dict[str, Any], step: int = 0):
        self.config, self.weights, self.step = config, weights, step
        self.vocabulary = config_lib.vocabulary(config)
        self._positions = _compile(config, mesh_lib.of(weights))
        self._engines: dict[int, Engine] = {}
        self._fingerprint: str | None = None

    def score(self, data: bytes) -> np.ndarray:
        """float64 [n]: log2-probability of each byte, given those before it and that the document starts there. Of a
        model of tokens, a token's stands at its last byte (see `by_byte`): sums over ranges that end where tokens do
        are those of the tokens that have their last byte in the range.
        """
        return -self._along(data).nats[: len(data)].astype(np.float64) / math.log(2)

    def segment(self, data: bytes) -> Segmentation:
        """Entropies, commits and scratchpads after each byte; of a model of tokens, a token's stand after its last."""
        said = self._along(data)
        return Segmentation(said.entropy[1:], said.commit[1:], said.scratchpad[1:])

    def generate(
        self, prompt: bytes | Sequence[bytes] = b"", max_bytes: int = 256, seed: int = 0, **options: Any
    ) -> bytes | list[bytes]:
        """Bytes that continue `prompt`; of several prompts a list, continued side by side.

        A row ends early where the model ends the document, or at a stop string. What it holds depends on its prompt,
        its options and its seed alone; of several prompts the k-th has the seed `seed + k`. Its bytes have the
        probabilities that `score` gives them, also beyond the window: see `inference.engine`.

        options: further fields of `inference.options.Options`, such as temperature=0.8, stop=b"\\n", valid_utf8=True
          or scratchpad_threshold=1.0. Raises UserError for values that cannot be used.
        """
        if isinstance(prompt, bytes):
            return bytes(byte.value for byte in self.stream(prompt, max_bytes, seed, **options))
        model, options = self._dialled(max_bytes, options)
        engine = model.engine(min(max(len(prompt), 1), _ROWS))
        return engine.write((each, dataclasses.replace(options, seed=seed + k)) for k, each in enumerate(prompt))

    def stream(self, prompt: bytes = b"", max_bytes: int = 256, seed: int = 0, **options: Any) -> Iterator[Byte]:
        """The bytes of `generate` as they come, each with its log-probability and the decisions before it."""
        model, options = self._dialled(max_bytes, options)
        engine = model.engine(1)
        ticket = engine.submit(prompt, dataclasses.replace(options, seed=seed))
        try:
            while not engine.idle:
                for progress in engine.step():
                    yield from progress.bytes
        finally:
            # Whoever reads may have stopped before the end.
            engine.cancel(ticket)

    def engine(self, rows: int) -> Engine:
        """An engine for so many rows, with nothing to do; the last one, where it is such."""
        if rows not in self._engines or not self._engines[rows].idle:
            # One is kept: it holds the caches of its rows. A busy one belongs to a stream that is not at its end.
            self._engines = {rows: Engine(self, rows)}
        return self._engines[rows]

    def _dialled(self, max_bytes: int, fields: dict[str, Any]) -> tuple[LanguageModel, Options]:
        """The model whose patchifier has the threshold that the options name, and the rest of the options."""
        if isinstance(fields.get("stop"), bytes):
            fields = fields | {"stop": (fields["stop"],)}
        if unknown := fields.keys() - {field.name for field in dataclasses.fields(Options)}:
            raise UserError(f"no such option of generate: {', '.join(sorted(unknown))}; see inference/options.py")
        options = Options(max_bytes=max_bytes, **fields)
        options.check()
        if options.patch_threshold is None:
            return self, options
        model = self.override(patching__threshold=options.patch_threshold)
        return model, dataclasses.replace(options, patch_threshold=None)

    def override(self, changes: dict[str, Any] | None = None, **more: Any) -> LanguageModel:
        """A copy with other config fields on the same parameters.

        Fields are dotted names, given as a dict or as `**{'trigger.threshold': 1.0}`; an underscore pair stands for the
        dot in keywords: `trigger__threshold=1.0`. A threshold that is named holds as it is: without a controller (gain
        0) and without a budget (capacity 1), unless those are named too. Further values of it compile nothing.

        Raises:
          UserError: an unknown field, a bad value, or a change that needs other parameters.
        """
        named = dict(changes or {}) | {name.replace("__", "."): value for name, value in more.items()}
        changes = dict(named)
        for section in ("patching", "trigger"):
            if f"{section}.threshold" in named:
                changes = {f"{section}.gain": 0.0, f"{section}.capacity": 1.0} | changes
        config = config_lib.from_flat(config_lib.flat(self.config))
        for name, value in changes.items():
            config_lib.set_field(config, name, value)
        config_lib.check(config)
        if config.data.tokenizer != self.config.data.tokenizer:
            raise UserError("data.tokenizer is the one that the model was trained with: leave it as it is")
        _, weights = weights_lib.redefine(config, self.weights, named=named)
        return LanguageModel(config, weights, self.step)

    def with_weights(self, weights: dict[str, Any], step: int) -> LanguageModel:
        """The same model at another moment of its training."""
        later = copy.copy(self)
        later.weights, later.step, later._engines, later._fingerprint = weights, step, {}, None
        return later

    def fingerprint(self) -> str:
        """16 hexadecimal digits of what its answers depend on: weights, and config fields of the model. It is the same
        wherever the model lies, and takes, once, about as long as reading the weights. All processes of its mesh must
        ask.
        """
        if self._fingerprint is not None:
            return self._fingerprint
        named = ("model.", "patching.", "trigger.", "kernels.", "data.window", "training.dtype")
        fields = {name: value for name, value in config_lib.flat(self.config).items() if name.startswith(named)}
        if not self.vocabulary.is_bytes:
            fields["data.tokenizer"] = self._tokenizer.checksum
        digest = hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=8)
        everywhere = mesh_lib.everywhere(mesh_lib.of(self.weights))
        whole = jax.jit(lambda x: x, out_shardings=everywhere) if everywhere else lambda x: x
        for path, leaf in jax.tree.leaves_with_path(self.weights):
            digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
            # One array at a time is whole in memory.
            digest.update(np.asarray(jax.device_get(whole(leaf))).tobytes())
        self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def positions(self, stream) -> Iterator[Positions]:
        """What the model says along a `data.stream.Stream`, `windows.Text` or `windows.Head`, part by part in order."""
        length = windows.row_length(len(stream), self.config.data.window)
        batch = self.rows_per_call(length) if len(stream) > length else mesh_lib.row_shares(mesh_lib.of(self.weights))
        total = windows.count(len(stream), length)
        rows = ((stream, windows.window(k, len(stream), length)) for k in range(total))
        for answered in self.answers(rows, length, batch):
            yield Positions.joined([said for _, said in answered])

    def answers(
        self, rows: Iterable[Row], length: int, size: int
    ) -> Iterator[list[tuple[Row, dict[str, np.ndarray]]]]:
        """What windows answer for, in order, those of one call at a time: each row as it was given, with the arrays of
        `Positions`, which are views of what the call gave. The next call runs while the caller looks at them.

        Args:
          rows: of each what has positions to read (see `positions`), a window of it, and what its answer is wanted for.
          length: of all windows.
          size: rows of a call; those that are left over are PAD.
        """
        rows, running = iter(rows), None
        while part := list(itertools.islice(rows, size)):
            tokens_RM = np.full((size, length + 1), self.vocabulary.pad, np.int32)
            for tokens_M, (text, window, *_) in zip(tokens_RM, part, strict=False):
                tokens_M[:] = text.read(window.start, length + 1)
            before, running = running, (part, self._positions(self.weights, tokens_RM))
            if before is not None:
                yield _own(*before)
        if running is not None:
            yield _own(*running)

    def look(self, tokens_RM: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of `Positions`, each [R, L], of rows of L + 1 tokens. A number of rows or a length that is new
        compiles a program.
        """
        return jax.device_get(self._positions(self.weights, tokens_RM))

    def rows_per_call(self, length: int) -> int:
        """How many rows of so many positions `look` takes at once, so that the devices are busy."""
        tokens = _TOKENS_PER_CALL_ON_CPU if jax.default_backend() == "cpu" else _TOKENS_PER_CALL
        return max(tokens // length, 1) * mesh_lib.row_shares(mesh_lib.of(self.weights))

    def tokens(self, data: bytes) -> np.ndarray:
        """BOS and the bytes, or tokens, of a document, int32 [n + 1]. Raises UserError where data.tokenizer cannot be
        used.
        """
        text = np.frombuffer(data, np.uint8) if self.vocabulary.is_bytes else self._tokenizer.encode(data)
        return np.concatenate([[self.vocabulary.bos], text]).astype(np.int32)

    def text(self, tokens_T: np.ndarray) -> bytes:
        """The bytes of tokens; BOS and PAD have none. Raises UserError as `tokens` does."""
        if self.vocabulary.is_bytes:
            return tokens_T[tokens_T < self.vocabulary.bos].astype(np.uint8).tobytes()
        return self._tokenizer.decode(tokens_T)

    @functools.cached_property
    def _tokenizer(self) -> tokenizer_lib.Tokenizer:
        return tokenizer_lib.of(self.config)

    @functools.cached_property
    def token_bytes(self) -> np.ndarray | None:
        """int64 [rows of the vocabulary]: bytes of each token; None of a model of bytes."""
        if self.vocabulary.is_bytes:
            return None
        return np.asarray(jax.device_get(self.weights["spelling"]["token_bytes"])).astype(np.int64)

    def by_byte(self, said: Positions) -> Positions:
        """What was said along one document of n bytes, arrays [n + 1] that begin at its BOS; of a model of bytes as it
        is.

        What a token says of itself (nats, best, targets) stands where its last byte is told, and what follows from it
        (entropy, commit, scratchpad) after its last byte. Elsewhere nats are 0, `best` is true, targets are PAD,
        entropy is NaN, and there is no commit.
        """
        if self.vocabulary.is_bytes:
            return said
        # Bytes before each position's state, and before that of the next token's end.
        before_T = np.append(0, np.cumsum(self.token_bytes[said.targets[:-1]]))
        n, told_T = int(before_T[-1]), np.append(before_T[1:] - 1, before_T[-1])
        at_n = np.arange(n + 1)
        offset_n = at_n - before_T[np.searchsorted(before_T, at_n, "right") - 1]
        places = dict.fromkeys(("nats", "head_nats", "targets", "best"), told_T)
        nothing = {"nats": 0, "head_nats": 0, "targets": self.vocabulary.pad, "best": True, "entropy": np.nan}
        spread = {"offset": offset_n, "since": at_n + 1}
        for name in ("nats", "head_nats", "targets", "best", "entropy", "commit", "scratchpad"):
            x_T = getattr(said, name)
            spread[name] = np.full(n + 1, nothing.get(name, False), x_T.dtype)
            spread[name][places.get(name, before_T)] = x_T
        return Positions(**spread)

    def _along(self, data: bytes) -> Positions:
        """What the model says at each byte of a document."""
        parts = self.positions(windows.Text(self.tokens(data), self.vocabulary))
        return self.by_byte(Positions.joined([vars(part) for part in parts]))


def _own(part: Sequence[Row], said: dict[str, jax.Array]) -> list[tuple[Row, dict[str, np.ndarray]]]:
    """Each row of a call with what its window answers for, once the call has ended."""
    said, answered = jax.device_get(said), []
    for r, row in enumerate(part):
        _, window, *_ = row
        begin = window.first - window.start
        answered.append((row, {name: array[r, begin : begin + window.count] for name, array in said.items()}))
    return answered


def _compile(config, mesh) -> Callable:
    if mesh is not None:
        config = mesh_lib.settled(config, mesh)
    return _compile_definition(weights_lib.abstract(config)[0], mesh)


@functools.lru_cache(maxsize=16)
def _compile_definition(definition, mesh) -> Callable:
    """What the model says at each position of rows: one program for all models of a definition, whatever their weights
    and thresholds.
    """

    def positions(weights, tokens_RM):
        tokens_RL, targets_RL = tokens_RM[:, :-1], tokens_RM[:, 1:]
        output = weights_lib.merge(definition, weights)(tokens_RL)
        layout, nothing = output.layout, jnp.full(tokens_RL.shape, jnp.nan)
        n_L, vocabulary = jnp.arange(tokens_RL.shape[1]), layout.rows.vocabulary

        def nats(logits_RLV):
            return nothing if logits_RLV is None else loss_lib.nats(logits_RLV, targets_RL, vocabulary)

        return {
            "nats": nats(output.logits_BLV),
            "head_nats": nats(output.head_logits_BLV),
            "targets": targets_RL,
            "best": _is_best(output.logits_BLV, targets_RL),
            "entropy": nothing if output.entropy_BL is None else output.entropy_BL,
            "commit": layout.commit_BL,
            "scratchpad": layout.scratchpad_BL,
            "offset": jnp.where(layout.commit_BL, 0, n_L - layout.patch_start_BL + 1),
            "since": layout.rows.offset_BL + 1,
        }

    return mesh_lib.inside(mesh, jax.jit(positions, out_shardings=mesh_lib.everywhere(mesh)))


def _is_best(logits_RLV: jax.Array, targets_RL: jax.Array) -> jax.Array:
    """bool [R, L]: whether the target is the likeliest token, the lowest of those that tie."""
    # As `argmax(logits) == target`, but a reduction of one array, which processors vectorise, instead of one of pairs.
    target_RL1 = targets_RL[..., None]
    hit_RL1 = jnp.take_along_axis(logits_RLV, target_RL1, axis=-1)
    lower_RLV = jnp.arange(logits_RLV.shape[-1]) < target_RL1
    # Nothing is the likeliest among numbers that are none.
    return jnp.where(lower_RLV, logits_RLV < hit_RL1, logits_RLV <= hit_RL1).all(axis=-1)
