"""Folders of Hugging Face data sets on disk, without the package `datasets`.

A folder of `save_to_disk` holds state.json and data-*.arrow, or dataset_dict.json
and such a folder per split. A snapshot of a repository holds parquet files, named
by their split (`train-00000-of-00002.parquet`) or in a folder of its name. Folders
above those are configurations (`en/train/0.parquet`), which are never merged: one
of them is named as the DIR.
"""

from __future__ import annotations

import re
from typing import Any, TypedDict

from scratchpatch.data import paths
from scratchpatch.errors import UserError
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


def files(spec: str, folder: str, split: str) -> list[tuple[str, str]]:
    """(name below the folder, path) of the data files of a split ('': the only one), in order.

    Raises:
        UserError: no data in the folder, several configurations, no such split, or several and none named.
    """
    found = _saved(spec, folder) or _snapshot(spec, folder)
    if not found:
        raise UserError(f"{spec}: {folder} holds neither what save_to_disk writes nor parquet files")
    if split not in found:
        if split:
            raise UserError(f"{spec}: there is no split {split!r}; the folder has {', '.join(filter(None, found)) or 'none'}")
        if len(found) > 1:
            names = ", ".join(name or "others" for name in found)
            raise UserError(f"{spec}: the folder has several splits ({names}); name one, as in hf:{folder}@{list(found)[0]}")
        (split,) = found
    return [(path.removeprefix(folder).lstrip("/"), path) for path in found[split]]


def _saved(spec: str, folder: str) -> dict[str, list[str]]:
    """Split to files of what `save_to_disk` wrote; empty where it did not."""
    if paths.is_file(paths.join(folder, "dataset_dict.json")):
        about = paths.join(folder, "dataset_dict.json")
        names = _json(spec, about, _Splits)["splits"]
        return {name: _saved(spec, _below(spec, about, folder, name)).get("", []) for name in names}
    if not paths.is_file(paths.join(folder, "state.json")):
        return {}
    about = paths.join(folder, "state.json")
    entries = _json(spec, about, _State)["_data_files"]
    return {"": [_below(spec, about, folder, entry["filename"]) for entry in entries]}


def _json(spec: str, path: str, shape: Any) -> dict:
    try:
        return paths.read_json(path, shape)
    except (OSError, ValueError) as error:
        said = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{spec}: {path} cannot be read ({said})") from error


def _below(spec: str, about: str, folder: str, name: str) -> str:
    """The path of a name that a file holds. A link is followed: in the hub's cache every file is one."""
    try:
        return paths.join(folder, *plain_parts(folder, name))
    except ValueError as error:
        raise UserError(f"{spec}: {about} cannot be used ({error})") from error


def _snapshot(spec: str, folder: str) -> dict[str, list[str]]:
    """Split to parquet files, by their names below the folder. Raises UserError where several configurations are there."""
    found: dict[str, list[str]] = {}
    configs: dict[str, None] = {}
    for path in paths.glob(paths.join(folder, "**", "*.parquet")):
        *above, file = path.removeprefix(folder).lstrip("/").split("/")
        inside = next((i for i, name in enumerate(above) if _SPLIT_FOLDER.fullmatch(name)), len(above))
        configs["/".join(above[:inside])] = None
        found.setdefault(_split(above[inside:], file), []).append(path)
    if len(configs) > 1:
        names = ", ".join(name or "the folder itself" for name in list(configs)[:8]) + (", ..." if len(configs) > 8 else "")
        one = next(filter(None, configs))
        raise UserError(
            f"{spec}: the folder holds several configurations ({names}), which are not merged: name one, as in "
            f"hf:{folder}/{one}, or all files by parquet:{folder}/**/*.parquet"
        )
    return {split: paths.distinct(files) for split, files in found.items()}


def _split(folders: list[str], file: str) -> str:
    """The split of a parquet file: what its name says (`train_sft-00000-of-00002` is another than `train`), else its folder;
    '' where neither says."""
    sharded = _SHARD.fullmatch(file)
    if sharded and _SPLITS.search(sharded[1]):
        return sharded[1]
    named = _SPLITS.findall("/".join([*folders[:1], file]))
    return named[-1] if named else ""
