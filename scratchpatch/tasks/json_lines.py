"""Files of items, one JSON object on each line, plain or compressed."""

from collections.abc import Iterator
from typing import Any

from scratchpatch import json_files
from scratchpatch.data.records import UNREADABLE, explain
from scratchpatch.data.sources.compressed import open_bytes
from scratchpatch.errors import UserError

# The most bytes of one line.
_LONGEST = 1 << 26


def read(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file, each with the number of its line, from 1; blank lines are passed over.

    Raises UserError, which names the file and the line, for one that is no JSON object, where the file cannot be read,
    and where no object is in it.
    """
    number = count = 0
    try:
        with open_bytes(path) as file:
            while line := file.readline(_LONGEST + 1):
                number += 1
                if len(line) > _LONGEST:
                    raise UserError(f"{path}, line {number}: it is longer than {_LONGEST >> 20} MiB: cut it")
                if line.strip():
                    count += 1
                    yield number, json_files.parse(line, dict[str, Any])
    except json_files.Malformed as error:
        raise UserError(f"{path}, line {number}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name a file of one JSON object on each line") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: {explain(error)}") from None
    if not count:
        raise UserError(f"{path} is empty: wanted one JSON object on each line")
