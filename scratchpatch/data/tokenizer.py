"""Tokens of text by a file of the `tokenizers` library: byte-level byte-pair encoding (arXiv 1508.07909; over bytes as
in GPT-2), in which every token is a string of bytes and every byte is a token, so that every byte string has tokens and
they spell it again.

A file is taken as far as it cuts text into pieces and merges each piece's bytes. What it adds to the text (tokens for
its beginning or end) is not asked for, and its special tokens are no text: no text becomes one.

Text that is no UTF-8 is read as UTF-8 as far as it goes; every byte that is left over is the token of that byte alone.
"""

import functools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from scratchpatch import config as config_lib, config_file, files, json_files
from scratchpatch.data import paths
from scratchpatch.data.extras import need
from scratchpatch.errors import UserError
from scratchpatch.vocabulary import BYTES, Vocabulary, of_tokens

_LIBRARY, _EXTRA = "tokenizers", "tokens"
# Bytes of a token at most that is learnt: a longer one would be a file's licence or a table's rule.
_LONGEST = 64
# A byte that no UTF-8 holds is read as a surrogate, which no UTF-8 has either.
_LEFT_OVER = re.compile("([\udc80-\udcff]+)")


class _Model(TypedDict):
    type: NotRequired[str | None]
    vocab: dict[str, json_files.Count]
    dropout: NotRequired[float | None]
    continuing_subword_prefix: NotRequired[str | None]
    end_of_word_suffix: NotRequired[str | None]


class _File(TypedDict):
    normalizer: NotRequired[Any]
    model: _Model


class Tokenizer:
    """One file of a tokenizer. `text` is its contents, `checksum` that of these, `spelled` the bytes of each token, and
    `vocabulary` the ids. Raises UserError, which calls the file `name`, where the library is missing, or the tokenizer
    is none of byte-level pairs whose tokens spell every byte string.
    """

    def __init__(self, text: str, name: str):
        self.text, self.name = text, name
        self.checksum = files.digest(text.encode())
        library = need(_LIBRARY, _EXTRA, f"the tokenizer {name}")
        try:
            document = json_files.parse(text, _File)
            model = document["model"]
            if problem := _unfit(document):
                raise ValueError(problem)
            # What is no text, what would be added to it, and what would cut or fill it up.
            document |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
            self._inner = library.Tokenizer.from_str(json.dumps(document))
        except Exception as error:  # the library raises Exception itself
            fix = "learn one by scratchpatch tokenizer, or take one of byte-level BPE without a normalizer"
            raise UserError(f"{name} is no tokenizer that can be used ({error}): {fix}") from error
        self.spelled = [_spelled(token) for token in sorted(model["vocab"], key=model["vocab"].get)]
        self.vocabulary: Vocabulary = of_tokens(len(self.spelled))
        self._of_byte = np.array([model["vocab"][letter] for letter in _ALPHABET], np.int64)

    def encode(self, data: bytes) -> np.ndarray:
        """The tokens of a document, in the vocabulary's dtype. Raises UserError where they do not spell it."""
        parts = [self._encoded(piece) for piece in _pieces(data)]
        tokens = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        if self.decode(tokens) != data:
            raise UserError(f"the tokens of {self.name} do not spell the text again: it drops or changes some of it")
        return tokens.astype(self.vocabulary.dtype)

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes of tokens of text; BOS and PAD have none."""
        bos = self.vocabulary.bos
        return b"".join(self.spelled[token] for token in np.asarray(tokens).tolist() if token < bos)

    def token_bytes(self) -> np.ndarray:
        """float32 [rows of the vocabulary]: bytes of each token; 0 of BOS and PAD, which are no text."""
        token_bytes_V = np.zeros(self.vocabulary.rows, np.float32)
        token_bytes_V[: len(self.spelled)] = [len(spelled) for spelled in self.spelled]
        return token_bytes_V

    def _encoded(self, piece: str | bytes) -> np.ndarray:
        if isinstance(piece, bytes):
            return self._of_byte[np.frombuffer(piece, np.uint8)]
        return np.array(self._inner.encode(piece, add_special_tokens=False).ids, np.int64)


def vocabulary(tokenizer: Tokenizer | None) -> Vocabulary:
    """The ids of what is stored by a tokenizer, or, without one, of bytes."""
    return BYTES if tokenizer is None else tokenizer.vocabulary


def read(path: str | Path) -> Tokenizer:
    """The tokenizer in a file, a path or a URL. Raises UserError where it cannot be read or used."""
    try:
        with paths.open_read(str(path)) as file:
            contents = file.read()
        return parse(contents.decode(), str(path))
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "learn it by scratchpatch tokenizer --config=FILE, or name another file"
        raise UserError(f"cannot read the tokenizer {path}: {reason}; {fix}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no tokenizer: it is no UTF-8 (byte {error.start})") from error


# A run asks for its tokenizer in many places.
parse = functools.lru_cache(maxsize=4)(Tokenizer)


def of(config) -> Tokenizer | None:
    """The tokenizer of a config; None where it reads bytes. Raises UserError as `read` does, and where the file has
    another number of tokens than the config says.
    """
    if not config.data.tokenizer:
        return None
    tokenizer = read(config.data.tokenizer)
    if tokenizer.vocabulary != config_lib.vocabulary(config):
        count = len(tokenizer.spelled)
        raise UserError(f"data.vocabulary = {config.data.vocabulary}: {config.data.tokenizer} has {count} tokens")
    return tokenizer


def keep(folder: Path, config) -> dict[str, str]:
    """Leave a copy of a config's tokenizer in a folder, and return what the config.json beside it says of it (see
    `config_file.document`): nothing where the config reads bytes. Raises UserError as `of` does, and where the folder
    has the copy of another tokenizer; OSError.
    """
    tokenizer = of(with_copy(folder, config) if _is_gone(config.data.tokenizer) else config)
    if tokenizer is None:
        return {}
    copy = folder / config_file.TOKENIZER
    if copy.exists() and read(copy).checksum != tokenizer.checksum:
        fix = "use another folder, or name that file to go on with it"
        raise UserError(f"data.tokenizer = {config.data.tokenizer!r} is not the tokenizer in {copy}: {fix}")
    files.replace_text(copy, tokenizer.text)
    return {"tokenizer": tokenizer.checksum}


def with_copy(folder: Path, config):
    """The config with the copy that `keep` has left in a folder in place of its tokenizer."""
    copy = (folder / config_file.TOKENIZER).absolute()
    if not config.data.tokenizer or not copy.exists():
        return config
    made = config_lib.from_flat(config_lib.flat(config))
    made.data.tokenizer = str(copy)
    return made


def _is_gone(path: str) -> bool:
    return bool(path) and not paths.is_file(path)


def spelling(config) -> dict[str, Any]:
    """The part of a model's weights (`model.weights`) that its tokenizer gives: the bytes of each token; empty where it
    reads bytes. Raises UserError as `of` does.
    """
    tokenizer = of(config)
    return {} if tokenizer is None else {"spelling": {"token_bytes": tokenizer.token_bytes()}}


def learn(documents: Iterable[bytes], count: int) -> str:
    """The contents of a tokenizer's file: `count` tokens, learnt from documents, the same for the same documents in the
    same order. Bytes that are no UTF-8 teach nothing. Raises UserError where the text has too few pairs for as many.
    """
    library = need(_LIBRARY, _EXTRA, "learning a vocabulary")
    letters = list(_ALPHABET)
    inner = library.Tokenizer(library.models.BPE())
    # Words with the space before them, numbers, punctuation and white space, as GPT-2 cuts text.
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=count, initial_alphabet=letters, max_token_length=_LONGEST, show_progress=False
    )
    texts = (piece for data in documents for piece in _pieces(data) if isinstance(piece, str))
    inner.train_from_iterator(texts, trainer)
    if inner.get_vocab_size() != count:
        fix = "give it more, or lower data.vocabulary"
        raise UserError(f"the text has pairs for {inner.get_vocab_size()} tokens, not for {count}: {fix}")
    return inner.to_str(pretty=True)


def _unfit(document: dict[str, Any]) -> str | None:
    """Why a file's tokens do not spell every byte string; None where they do, as far as its fields tell."""
    model = document["model"]
    if model.get("type", "BPE") != "BPE":
        return f"its model is {model['type']}, not BPE"
    if document.get("normalizer") is not None:
        return "it has a normalizer, which changes the text"
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            return f"its model has {name} = {model[name]!r}"
    vocab = model["vocab"]
    if sorted(vocab.values()) != list(range(len(vocab))):
        return "the ids of its tokens are not 0, 1, 2 and so on, each once"
    if strange := next((token for token in vocab if not token or not set(token) <= _LETTERS), None):
        return f"its token {strange!r} is no string of bytes in the letters of GPT-2"
    if missing := next((byte for byte, letter in enumerate(_ALPHABET) if letter not in vocab), None):
        return f"it has no token of the byte {missing:#04x} alone"
    return None


def _pieces(data: bytes) -> Iterator[str | bytes]:
    """Text as far as it is UTF-8, and the bytes between that are not, in order."""
    for place, run in enumerate(_LEFT_OVER.split(data.decode(errors="surrogateescape"))):
        if run:
            yield run.encode(errors="surrogateescape") if place % 2 else run


def _spelled(token: str) -> bytes:
    return bytes(_BYTE_OF[letter] for letter in token)


def _alphabet() -> str:
    """The letter that stands for each byte in such files: itself where Latin-1 prints it, else one from U+0100 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return "".join(chr(byte) if byte in shown else chr(next(others)) for byte in range(256))


_ALPHABET = _alphabet()
_LETTERS = set(_ALPHABET)
_BYTE_OF = {letter: byte for byte, letter in enumerate(_ALPHABET)}

