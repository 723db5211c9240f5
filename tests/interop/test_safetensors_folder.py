import json
import os
import re
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from scratchpatch.errors import UserError
from scratchpatch.interop import safetensors_folder
from scratchpatch.interop.safetensors_folder import SafetensorsFolder

INDEX = "model.safetensors.index.json"


def shards(folder, weight_map=None, **arrays):
    """A folder of one shard for each array, and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (arrays or {"a": 0, "b": 1}).items():
        save_file({name: np.full(2, value, np.float32)}, folder / f"{name}.safetensors")
    index = {"weight_map": weight_map or {"a": "a.safetensors", "b": "b.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))


def refused(folder, words):
    with pytest.raises(UserError, match=words) as error:
        SafetensorsFolder(folder)
    said = str(error.value)
    assert said.isprintable() and len(said) < 4000
    return said


def write(path, header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def test_an_index_names_files_of_its_folder_alone(tmp_path):
    shards(tmp_path / "outside")
    inside = tmp_path / "folder"
    for name in ("../outside/b.safetensors", f"{tmp_path}/outside/b.safetensors", "./b.safetensors", "", "b\0", "..", "x" * 5000):
        shards(inside, {"a": "a.safetensors", "b": name})
        said = refused(inside, "weight_map.b: .* no plain relative path|lacks xxx")
        assert INDEX in said
    shards(inside)
    (inside / "b.safetensors").unlink()
    (inside / "b.safetensors").symlink_to("../outside/b.safetensors")
    refused(inside, "weight_map.b: .*leads through the link .*b.safetensors, which is not followed")
    shards(inside, {"a": "a.safetensors", "b": "sub/b.safetensors"})
    (inside / "sub").symlink_to("../outside")
    refused(inside, "weight_map.b: .*leads through the link .*sub, which is not followed")


@pytest.mark.parametrize("name", [INDEX, "model.safetensors"])
def test_a_snapshot_of_the_hub_is_a_folder_of_links(tmp_path, name):
    hub = tmp_path / "models--someone--model"
    (hub / "blobs").mkdir(parents=True)
    snapshot = hub / "snapshots" / "0123abc"
    shards(snapshot)
    if name == "model.safetensors":
        (snapshot / INDEX).unlink()
        (snapshot / "a.safetensors").rename(snapshot / name)
    for i, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(hub / "blobs" / f"blob{i}")
        path.symlink_to(f"../../blobs/blob{i}")
    (tmp_path / "mine").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "mine"):
        assert SafetensorsFolder(folder).read("a").tolist() == [0, 0]
    if name == INDEX:
        # Out of the blobs, or through a link among them, nothing is followed.
        (hub / "blobs" / "blob1").rename(tmp_path / "elsewhere")
        (snapshot / "b.safetensors").unlink()
        (snapshot / "b.safetensors").symlink_to(tmp_path / "elsewhere")
        refused(snapshot, "weight_map.b: .*not followed")
        (snapshot / "b.safetensors").unlink()
        (hub / "blobs" / "blob1").symlink_to(tmp_path / "elsewhere")
        (snapshot / "b.safetensors").symlink_to("../../blobs/blob1")
        refused(snapshot, "weight_map.b: .*not followed")


@pytest.mark.parametrize(
    "weight_map, words",
    [
        ({"a": "a.safetensors", "b": "a.safetensors"}, "weight_map.b is a.safetensors, but that array is in no file"),
        ({"a": "b.safetensors", "b": "a.safetensors"}, "weight_map.a is b.safetensors, but that array is in a.safetensors; weight_map.b"),
        ({"a": "a.safetensors", "c": "b.safetensors"}, "weight_map.c is .* in no file; weight_map lacks b, which is in b.safetensors"),
        ({"a": "a.safetensors", "b": "b.safetensors", "c\x1b[31m": "a.safetensors"}, r"weight_map.c\\x1b\[31m is a.safetensors"),
    ],
)
def test_an_index_that_disagrees_with_its_files_is_refused(tmp_path, weight_map, words):
    shards(tmp_path, weight_map)
    assert INDEX in refused(tmp_path, words)


def test_an_array_in_two_shards_is_refused(tmp_path):
    shards(tmp_path)
    save_file({name: np.zeros(2, np.float32) for name in "ab"}, tmp_path / "b.safetensors")
    refused(tmp_path, "holds tensor a twice, in a.safetensors and b.safetensors")


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no JSON"),
        ("[]", "Expected object, got array"),
        ("{}", "required field weight_map"),
        ('{"weight_map": ["a"]}', "weight_map: Expected object, got array"),
        ('{"weight_map": {"a": 3}}', r"weight_map\[...\]: Expected str, got int"),
        ('{"weight_map": {"a": "a.safetensors"}, "metadata": ' + "[" * 5000 + "]" * 5000 + "}", "nested"),
        ('{"weight_map": {"a": "\xff"}}', "no UTF-8"),
    ],
)
def test_an_index_of_another_shape_is_one_line(tmp_path, text, words):
    shards(tmp_path)
    (tmp_path / INDEX).write_text(text, encoding="latin-1")
    assert INDEX in refused(tmp_path, words)


@pytest.mark.parametrize(
    "header, data, length, words",
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234", None, "not fully covered"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1" * 20, None, "not fully covered"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1" * 8, 1 << 40, "header too large"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1" * 8, (1 << 64) - 1, "header too large"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1" * 8, 10, "invalid JSON in header"),
        ({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, b"1" * 8, None, "invalid offset"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, b"1" * 8, None, "invalid offset"),
        ({"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}, b"1" * 8, None, "unknown variant `F99`"),
        ({"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]}}, b"1" * 8, None, "overflow"),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, b"1" * 8, None, "invalid value"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, b"", None, "recursion limit"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', b"1" * 16, None, "invalid offset"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, header, data, length, words):
    write(tmp_path / "model.safetensors", header, data, length)
    refused(tmp_path, f"cannot read .*model.safetensors: .*{re.escape(words)}.*fetch it again")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    refused(tmp_path, "model.safetensors: it is a named pipe")
    os.mkfifo(tmp_path / INDEX)
    refused(tmp_path, "index.json: it is a named pipe")
    shards(tmp_path / "other", {"a": "a.safetensors", "b": "sub"})
    (tmp_path / "other" / "sub").mkdir()
    refused(tmp_path / "other", "sub: it is a folder")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_floats_are_read_by_their_value(tmp_path, dtype):
    save_file({"a": np.array([[1.5, -2.0], [0.25, 3.0]], dtype)}, tmp_path / "model.safetensors")
    stored = SafetensorsFolder(tmp_path)
    assert stored.read("a").dtype == np.float32 and stored.read("a").tolist() == [[1.5, -2.0], [0.25, 3.0]]
    assert stored.read("a", (slice(1, 2), slice(0, 2))).tolist() == [[0.25, 3.0]]
    assert stored.read("a", dtype=ml_dtypes.bfloat16).astype(float).tolist() == [[1.5, -2.0], [0.25, 3.0]]


@pytest.mark.parametrize("dtype, size", [("I32", 4), ("U8", 1), ("BOOL", 1), ("F8_E4M3", 1), ("C64", 8), ("F4", 0.5)])
def test_other_types_are_named_and_never_read_as_bits(tmp_path, dtype, size):
    array = {"dtype": dtype, "shape": [4], "data_offsets": [0, int(4 * size)]}
    write(tmp_path / "model.safetensors", {"a": array}, bytes(int(4 * size)))
    refused(tmp_path, f"arrays of other types than F64, F32, F16, BF16: a is {dtype}")


def test_a_file_that_shrank_since_it_was_opened_is_one_line(tmp_path):
    save_file({"a": np.zeros(1 << 16, np.float32)}, tmp_path / "model.safetensors")
    stored = SafetensorsFolder(tmp_path)
    os.truncate(tmp_path / "model.safetensors", 1000)
    with pytest.raises(UserError, match="cannot read .*model.safetensors: it is shorter than it was"):
        stored.read("a")


def test_a_long_list_of_faults_is_cut():
    said = safetensors_folder.summary([f"missing {i}" for i in range(1000)])
    assert said.startswith("missing 0; missing 1; ") and said.endswith("; and 980 more") and len(said) < 300


def test_shards_are_read_and_missing_ones_named(tmp_path):
    shards(tmp_path)
    found = SafetensorsFolder(tmp_path)
    assert found.shapes == {"a": (2,), "b": (2,)} and found.read("b").tolist() == [1, 1]
    (tmp_path / "b.safetensors").unlink()
    refused(tmp_path, "lacks b.safetensors, which model.safetensors.index.json names: fetch the rest")
