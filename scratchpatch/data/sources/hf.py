"""A document per row of a Hugging Face data set on disk, without the package `datasets`.

A folder of `save_to_disk` holds state.json and data-*.arrow, or dataset_dict.json and such a folder per split. A
snapshot of a repository holds parquet files, named by their split (`train-00000-of-00002.parquet`) or in a folder of
its name. Folders above those are configurations (`en/train/0.parquet`), which are never merged: one of them is named
as the DIR.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, TypedDict

from scratchpatch.data import paths
from scratchpatch.data.records import BadRecords, Document
from scratchpatch.data.sources.columns import Parquet, read_arrow
from scratchpatch.data.sources.matching import distinct, matching
from scratchpatch.files import plain_parts


class _Splits(TypedDict):
    splits: list[str]


class _File(TypedDict):
    filename: str


class _State(TypedDict):
    _data_files: list[_File]


_SPLIT_FOLDER = re.compile(r"(?:partial-)?(?:train|validation|valid|dev|test)")
_SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")
_SPLITS = re.compile(r"(?:^|[/_.-])(train|validation|valid|dev|test)(?=[/_.-]|$)")
# Configurations that an error names.
_NAMED = 8


class HuggingFace(Parquet):
    form = "hf:DIR[@split][#field]"

    def _listed(self) -> list[tuple[str, str]]:
        """The data files of the split (the only one where none is named), named by their path below the folder."""
        folder = self.target
        if not paths.is_folder(folder):
            either = "one that save_to_disk wrote, or a snapshot with parquet files"
            raise self.wrong(f"no such folder as {folder}; hf: names {either}{self.doubled}")
        splits = self._saved(folder) or self._snapshot()
        if not splits:
            raise self.wrong(f"{folder} holds neither what save_to_disk writes nor parquet files")
        if self.split and self.split not in splits:
            has = ", ".join(filter(None, splits)) or "none"
            raise self.wrong(f"there is no split {self.split!r}; the folder has {has}")
        first = next(iter(splits))
        if self.split not in splits and len(splits) > 1:
            names = ", ".join(name or "others" for name in splits)
            raise self.wrong(f"the folder has several splits ({names}); name one, as in hf:{folder}@{first}")
        files = splits.get(self.split, splits[first])
        return [(path.removeprefix(folder).lstrip("/"), path) for path in files]

    def read(self, name: str, path: str, bad: BadRecords) -> Iterator[Document]:
        if path.endswith(".arrow"):
            return read_arrow(name, path, self.field, bad)
        return super().read(name, path, bad)

    def _saved(self, folder: str) -> dict[str, list[str]]:
        """Split to files of what `save_to_disk` wrote, '' where it wrote no splits; empty where it wrote nothing."""
        splits = paths.join(folder, "dataset_dict.json")
        if paths.is_file(splits):
            folders = self._named(splits, _Splits, lambda document: document["splits"])
            return {name: self._saved(path).get("", []) for name, path in folders}
        state = paths.join(folder, "state.json")
        if not paths.is_file(state):
            return {}
        files = self._named(state, _State, lambda document: [file["filename"] for file in document["_data_files"]])
        return {"": [path for _, path in files]}

    def _named(self, path: str, shape: Any, names: Callable[[Any], list[str]]) -> list[tuple[str, str]]:
        """(name, path) of what a JSON document names beside itself. A link is followed: in the hub's cache every file
        is one. Raises UserError.
        """
        folder = path.rpartition("/")[0]
        try:
            named = names(paths.read_json(path, shape))
            return [(name, paths.join(folder, *plain_parts(folder, name))) for name in named]
        except (OSError, ValueError) as error:
            said = str(error).removeprefix(f"{path}: ")
            raise self.wrong(f"{path} cannot be read ({said})") from error

    def _snapshot(self) -> dict[str, list[str]]:
        """Split to parquet files, by their names below the folder. Raises UserError for several configurations."""
        splits: dict[str, list[str]] = {}
        configurations: dict[str, None] = {}
        for path in matching(paths.join(self.target, "**", "*.parquet")):
            *above, file = path.removeprefix(self.target).lstrip("/").split("/")
            inside = next((i for i, name in enumerate(above) if _SPLIT_FOLDER.fullmatch(name)), len(above))
            configurations["/".join(above[:inside])] = None
            splits.setdefault(_split(above[inside:], file), []).append(path)
        if len(configurations) > 1:
            names = ", ".join(name or "the folder itself" for name in list(configurations)[:_NAMED])
            more = ", ..." if len(configurations) > _NAMED else ""
            one = next(filter(None, configurations))
            raise self.wrong(
                f"the folder holds several configurations ({names}{more}), which are not merged: name one, as in "
                f"hf:{self.target}/{one}, or all files by parquet:{self.target}/**/*.parquet"
            )
        return {split: distinct(files) for split, files in splits.items()}


def _split(folders: list[str], file: str) -> str:
    """The split of a parquet file: what its name says, else its folder; '' where neither says.
    `train_sft-00000-of-00002` is of another split than `train`.
    """
    sharded = _SHARD.fullmatch(file)
    if sharded and _SPLITS.search(sharded[1]):
        return sharded[1]
    named = _SPLITS.findall("/".join([*folders[:1], file]))
    return named[-1] if named else ""
