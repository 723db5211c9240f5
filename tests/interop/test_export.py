import errno
import json
import os
import shutil
import stat

import jax
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import scratchpatch as sp
from scratchpatch.errors import UserError
from scratchpatch.interop import export, safetensors_folder
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
        (whole | {name.format(99999999): whole[name.format(1)]}, "ffn.up.kernel lacks layer 2"),
        (whole | {name.format("01"): whole[name.format(1)]}, "extra params.trunk.stack.block.01.ffn.up.kernel"),
        (whole | {name.format("9" * 5000): whole[name.format(1)]}, r"extra params.trunk.stack.block.9999.*\.\.\."),
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


def test_an_exported_model_is_spread_over_devices(tmp_path):
    lm = sp.init(tiny.config(), seed=3)
    sp.export(lm, tmp_path / "out")
    found = sp.load(tmp_path / "out", devices=4).weights
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(found)} == {4}
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(lm.weights))


@pytest.fixture(scope="module")
def lm():
    return sp.init(tiny.config())


@pytest.fixture
def exported(lm, tmp_path):
    sp.export(lm, tmp_path / "out")
    return tmp_path / "out"


def refused(folder, words):
    with pytest.raises(UserError, match=words) as error:
        sp.load(folder)
    assert str(folder) in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_files_have_the_modes_of_the_umask(lm, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        sp.export(lm, tmp_path / "out")
    finally:
        os.umask(before)
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out").iterdir()} == {"model.safetensors": mode, "config.json": mode}


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "module, function, fault",
    [
        (safetensors_folder, "save_file", SafetensorError("I/O error: No space left on device (os error 28)")),
        (safetensors_folder.os, "fsync", FULL),
        (export, "replace_text", FULL),
    ],
)
@pytest.mark.parametrize("made", [True, False])
def test_a_full_disk_is_one_line_and_leaves_nothing(lm, tmp_path, monkeypatch, module, function, fault, made):
    out = tmp_path / "out"
    if not made:
        out.mkdir()

    def fail(*_, **__):
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(module, function, fail)
        with pytest.raises(UserError, match=f"cannot write into {out}: .*No space left on device"):
            sp.export(lm, out)
    assert out.exists() != made and (made or not any(out.iterdir()))
    sp.export(lm, out)
    assert sp.load(out).step == 0


@pytest.mark.parametrize("module, function", [(safetensors_folder, "save_file"), (safetensors_folder.os, "replace"), (export, "replace_text")])
def test_what_a_kill_leaves_is_no_model(lm, tmp_path, monkeypatch, module, function):
    whole, left = getattr(module, function), tmp_path / "left"

    def seen(*arguments, **named):
        if not left.exists():
            shutil.copytree(tmp_path / "out", left)
        whole(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, function, seen)
        sp.export(lm, tmp_path / "out")
    assert sp.load(tmp_path / "out").step == 0
    refused(left, "has no config.json")
    with pytest.raises(UserError, match="holds something: name a new folder"):
        sp.export(lm, left)


def test_two_exports_at_once_are_one(lm, tmp_path, monkeypatch):
    save = safetensors_folder.save_file

    def other_first(*arguments, **named):
        # While this one writes, another starts; its model would stand beside this one's config.
        with pytest.raises(UserError, match="holds something"):
            sp.export(lm, tmp_path / "out")
        monkeypatch.setattr(export, "vacant", lambda _: None)
        with pytest.raises(UserError, match="holds something"):
            sp.export(lm, tmp_path / "out")
        save(*arguments, **named)

    monkeypatch.setattr(safetensors_folder, "save_file", other_first)
    sp.export(lm, tmp_path / "out")
    with pytest.raises(UserError, match="holds something"):
        sp.export(lm, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]


def test_weights_that_are_not_finite_are_named_and_not_exported(lm, tmp_path):
    weights = jax.tree.map(np.array, lm.weights)
    weights["params"]["decoder"]["null"][3] = np.nan
    weights["params"]["encoder"]["embedding"]["embedding"][0, 0] = np.inf
    with pytest.raises(UserError, match="the model hold NaN or infinite numbers, in params.decoder.null, params.encoder.embedding.embedding: use"):
        sp.export(lm.with_weights(weights, 3), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_threshold_that_never_fires_is_exported(lm, tmp_path):
    weights = {**lm.weights, "thresholds": jax.tree.map(lambda x: np.full_like(x, np.inf), lm.weights["thresholds"])}
    sp.export(lm.with_weights(weights, 3), tmp_path / "out")
    assert np.isinf(sp.load(tmp_path / "out").weights["thresholds"]["trigger_threshold"])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"step": "3"}, "config.json: step: Expected int, got str"),
        ({"step": None}, "config.json: step: Expected int, got null"),
        ({"step": -1}, "config.json: step: Expected int >= 0"),
        ({"step": 1.5}, "config.json: step: Expected int, got float"),
        ({"step": 10**400}, "config.json: step: "),
        ({"config": []}, "config.json: config: Expected object, got array"),
        ({"config": {"model.d_byte": "16"}}, "config.json: config field model.d_byte takes a value of type int"),
        ({"config": {"model.d_byte": -16}}, "config.json: config: model.d_byte = -16"),
        ({"config": {"optimizer.learning_rate": 10**400}}, "config.json: "),
        ({"schema": "2"}, "config.json: it has schema '2'"),
        ({"schema": 99}, "config.json: it has schema 99"),
    ],
)
def test_a_config_of_another_shape_is_one_line_that_names_the_field(exported, change, words):
    path = exported / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(exported, words)


@pytest.mark.parametrize(
    "text, words",
    [("", "no JSON"), ("null", "Expected object"), ("{}", "required field config"), ("[" * 5000 + "]" * 5000, "nested"), ("\xff", "no UTF-8")],
)
def test_a_config_that_is_none_is_one_line(exported, text, words):
    (exported / "config.json").write_text(text, encoding="latin-1")
    refused(exported, f"config.json: .*{words}")


def test_an_export_through_links_and_from_another_folder(exported, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(exported)
    shutil.move(exported / "model.safetensors", tmp_path / "large")
    (exported / "model.safetensors").symlink_to(tmp_path / "large")
    monkeypatch.chdir(tmp_path)
    assert sp.load("link").step == 0


def test_a_file_that_is_not_what_was_exported_is_refused(tmp_path):
    sp.export(sp.init(tiny.config()), tmp_path / "out")
    path, about = tmp_path / "out" / "model.safetensors", tmp_path / "out" / "config.json"
    data = bytearray(path.read_bytes())
    # The last byte is of a number, and no header tells what that was.
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="model.safetensors is not what was exported .* take `checksum` out of config.json"):
        sp.load(tmp_path / "out")
    document = json.loads(about.read_text())
    about.write_text(json.dumps(document | {"checksum": [1, "2"]}))
    with pytest.raises(UserError, match="config.json: checksum"):
        sp.load(tmp_path / "out")
    del document["checksum"]
    about.write_text(json.dumps(document))
    assert sp.load(tmp_path / "out").step == 0


def test_a_config_whose_threshold_is_infinite_comes_back(tmp_path):
    sp.export(sp.init(tiny.config({"trigger.threshold": float("inf")})), tmp_path / "out")
    assert sp.load(tmp_path / "out").config.trigger.threshold == float("inf")
