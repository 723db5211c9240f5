import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import scratchpatch as sp
from scratchpatch.errors import UserError
from scratchpatch.interop import tensors
from scratchpatch.model import weights as weights_lib
from tests import tiny

KINDS = {
    "scratchpads": {},
    "cross-attention": {"model.decoder.injection": "cross_attention", "trigger.kind": "entropy"},
    "entropy model": {
        "model.entropy_model.layers": 2,
        "model.entropy_model.d_byte": 16,
        "model.entropy_model.heads": 2,
        "model.entropy_head.weight": 0.0,
        "patching.kind": "entropy",
        "model.encoder.ngrams": (3, 4),
        "model.encoder.ngram_rows": 50,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_comes_back_bit_for_bit(tmp_path, kind):
    lm = sp.init(tiny.config(KINDS[kind]), seed=3)
    lm.weights["thresholds"]["trigger_threshold"] = np.float32(1.25)
    sp.export(lm, tmp_path / "out")
    back = sp.load(tmp_path / "out")
    assert back.config.to_dict() == lm.config.to_dict()
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), lm.weights, back.weights)
    assert all(jax.tree.leaves(same))
    assert np.array_equal(back.score(b"some text"), lm.score(b"some text"))


def test_names_are_paths(tmp_path):
    sp.export(sp.init(tiny.config()), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found["params.trunk.stack.block.ffn.up.kernel"].shape[:2] == (2, 32)
    assert found["thresholds.trigger_threshold"].shape == ()
    about = json.loads((tmp_path / "out" / "config.json").read_text())
    assert about["config"]["model.trunk.d_model"] == 32 and about["step"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_written_one_by_one_and_come_back(tmp_path, kind):
    lm = sp.init(tiny.config(KINDS[kind]), seed=3)
    sp.export(lm, tmp_path / "unstacked", layout="unstacked")
    back = sp.load(tmp_path / "unstacked")
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), lm.weights, back.weights)
    assert all(jax.tree.leaves(same))
    found = load_file(tmp_path / "unstacked" / "model.safetensors")
    stacked = weights_lib.named(lm.weights, ".")
    for layer in range(2):
        name = f"params.trunk.stack.block.{layer}.ffn.up.kernel"
        assert np.array_equal(found[name], stacked["params.trunk.stack.block.ffn.up.kernel"][layer])
    # Every array of a stack is cut, and of nothing else.
    cut = {name for name in stacked if name not in found}
    assert cut == {name for name in stacked if ".stack.block." in name}
    assert sum(x.size for x in found.values()) == sum(x.size for x in stacked.values())
    # From one layout to the other and back: the same files.
    sp.export(back, tmp_path / "stacked")
    sp.export(lm, tmp_path / "as it was")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("stacked", "as it was"))
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_layer_that_is_missing_or_misshapen_is_named(tmp_path):
    sp.export(sp.init(tiny.config()), tmp_path / "out", layout="unstacked")
    path = tmp_path / "out" / "model.safetensors"
    whole = load_file(path)
    name = "params.trunk.stack.block.{}.ffn.up.kernel"
    lacking = {k: v for k, v in whole.items() if k != name.format(0)}
    for arrays, words in (
        (lacking, "params.trunk.stack.block.ffn.up.kernel lacks layer 0"),
        (whole | {name.format(1): np.zeros((3, 5), np.float32)}, r"block.1.ffn.up.kernel has shape \[3, 5\], unlike"),
        (whole | {name.format(2): whole[name.format(1)]}, r"ffn.up.kernel has shape \[3, 32, \d+\], wanted \[2,"),
    ):
        save_file(arrays, path)
        with pytest.raises(UserError, match=words):
            sp.load(tmp_path / "out")


def test_all_that_is_wrong_is_named(tmp_path):
    sp.export(sp.init(tiny.config()), tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    found = load_file(path)
    found["params.spare"] = np.zeros(3, np.float32)
    del found["params.decoder.null"]
    found["params.pooling.norm.scale"] = np.zeros(5, np.float32)
    save_file(found, path)
    with pytest.raises(UserError) as error:
        sp.load(tmp_path / "out")
    for words in ("missing params.decoder.null", "extra params.spare [3]", "params.pooling.norm.scale has shape [5], wanted [16]"):
        assert words in str(error.value)


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something"):
        sp.export(sp.init(tiny.config()), tmp_path)


def test_an_exported_model_has_one_step(tmp_path):
    sp.export(sp.init(tiny.config()), tmp_path / "out")
    with pytest.raises(UserError, match="has no other steps"):
        sp.load(tmp_path / "out", step=3)


def test_shards_are_read_and_missing_ones_named(tmp_path):
    for i, name in enumerate("ab"):
        save_file({name: np.full(2, i, np.float32)}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = tensors.Tensors(tmp_path)
    assert found.shapes == {"a": (2,), "b": (2,)} and found.read("b").tolist() == [1, 1]
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UserError, match="lacks b.safetensors"):
        tensors.Tensors(tmp_path)


def test_half_precision_is_read_as_float32(tmp_path):
    import ml_dtypes

    save_file({"a": np.array([1.5, -2.0], ml_dtypes.bfloat16)}, tmp_path / "model.safetensors")
    found = tensors.Tensors(tmp_path).read("a")
    assert found.dtype == np.float32 and found.tolist() == [1.5, -2.0]


def test_an_exported_model_is_spread_over_devices(tmp_path):
    lm = sp.init(tiny.config(), seed=3)
    sp.export(lm, tmp_path / "out")
    found = sp.load(tmp_path / "out", devices=4).weights
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(found)} == {4}
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(lm.weights))
