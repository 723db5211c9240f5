"""The config.json of a run or of an exported model: its shape, and how it is read."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

import ml_collections

from scratchpatch import config as config_lib, files, json_files, schema
from scratchpatch.errors import UserError

# The copy of a model's tokenizer, beside the config.json of a run or of an exported model.
TOKENIZER = "tokenizer.json"


class Document(TypedDict):
    """The shape of a config.json; one of schema 1 holds the config alone."""

    config: dict[str, Any]
    schema: NotRequired[int]
    version: NotRequired[str]
    step: NotRequired[json_files.Count]
    tokenizer: NotRequired[str]  # the digest of the copy of data.tokenizer that lies beside the file


def read(path: str | Path) -> ml_collections.ConfigDict:
    """The config in the config.json of a run or an exported model, also of an older version, checked as `check` does.
    Raises UserError where it is missing, cannot be read, is of a newer version, or holds unknown fields or bad values.
    """
    try:
        return document(path, Document)[0]
    except schema.Newer as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except (OSError, json_files.Malformed, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{path}: ")
        raise UserError(f"cannot read {path}: {reason}; restore it or train anew") from error


def document(path: str | Path, shape: Any) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
    """The checked config in a config.json, also of an older version, and everything that the file holds; `shape` is
    that of its JSON, see `json_files`. data.tokenizer is the copy beside the file, where it has one. Raises OSError or
    json_files.Malformed where it cannot be read; UserError where it is of a newer version, or holds unknown fields or
    bad values, or the copy is missing or changed.
    """
    content = json_files.read(path, shape, constants=True)  # Thresholds may be infinite.
    config = config_lib.from_flat(schema.fields(content))
    config_lib.check(config)
    if config.data.tokenizer and (wanted := content.get("tokenizer")):
        config.data.tokenizer = _own_tokenizer(Path(path).absolute().with_name(TOKENIZER), wanted)
    return config, content


def _own_tokenizer(path: Path, wanted: str) -> str:
    try:
        with files.open_regular(path) as file:
            same = files.digest(file.read()) == wanted
    except OSError as error:
        raise UserError(f"its tokenizer {path} cannot be read ({error.strerror})") from error
    if not same:
        raise UserError(f"its tokenizer {path} is not the one that the model was trained with")
    return str(path)
