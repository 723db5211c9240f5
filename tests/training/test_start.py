"""Which weights a new run starts from."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import scratchpatch as sp
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.interop.safetensors_folder import SafetensorsFolder
from scratchpatch.model import weights as weights_lib
from scratchpatch.training import start
from scratchpatch.training.loop import train
from tests import runs, tiny

ALONE = runs.ENTROPY_MODEL
SHARDED = {"mesh.data": 1, "mesh.fsdp": 4, "training.batch_rows": 4}
SEPARATE = {
    **runs.SHALLOW,
    **runs.WITH_ENTROPY_MODEL,
    "training.steps": 1,
}


@pytest.fixture(scope="module")
def separate(tmp_path_factory):
    """(config, workdir) of a model with a trunk that has an entropy model."""
    return runs.untrained(tmp_path_factory.mktemp("separate"), SEPARATE, tiny.weights)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of a model without a trunk."""
    return runs.untrained(tmp_path_factory.mktemp("alone"), ALONE, tiny.weights)[1]


def config(folder, workdir, fields=None):
    return runs.config(folder, SEPARATE | {"model.entropy_model.workdir": str(workdir)} | (fields or {}))


def load(made):
    return start.given_weights(made, weights_lib.shardings(made, mesh_lib.make(made)))


def test_a_run_keeps_the_entropy_model_that_it_names_and_reads_it_once(alone, tmp_path, monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    made = config(tmp_path, alone, {"training.steps": 3, "training.checkpoint_every": 1, "training.keep_last": 3})
    train(made, tmp_path / "whole")
    frozen = runs.state(tmp_path / "whole", made, 3)["frozen"]["entropy_model"]
    wanted = tiny.weights(runs.config(alone.parent, ALONE))["params"]
    jax.tree.map(np.testing.assert_array_equal, frozen, jax.device_get(wanted))
    before = runs.rewind(tmp_path / "whole", 1, tmp_path / "run")
    monkeypatch.setattr(start, "given_weights", lambda *_: pytest.fail("loaded on a resume"))
    train(made, before)
    assert runs.lines(before) == runs.lines(tmp_path / "whole")


def test_weights_of_init_from_bring_their_entropy_model(alone, separate, tmp_path):
    made, workdir = separate
    loaded = load(config(tmp_path, alone, {"training.init_from": str(workdir)}))
    jax.tree.map(np.testing.assert_array_equal, loaded["frozen"], tiny.weights(made)["frozen"])
    assert loaded.keys() == {"params", "thresholds", "frozen"}


def test_a_model_with_no_weights_named_starts_at_random(tmp_path):
    assert load(runs.config(tmp_path)) == {}


def test_a_random_entropy_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="model.entropy_model.workdir is empty.* train one .* and name its folder"):
        load(config(tmp_path, ""))


def test_every_field_and_array_that_differs_is_named(alone, tmp_path):
    fields = {"model.entropy_model.window": 9, "model.entropy_model.ffn_multiplier": 1.0, "model.norm_eps": 1e-3}
    with pytest.raises(UserError) as caught:
        load(config(tmp_path, alone, fields | {"model.entropy_model.rope_theta": 5e5}))
    said = str(caught.value)
    for words in (
        f"{alone} is not the entropy model",
        "model.encoder.window is 8 there, 9 by model.entropy_model",
        "model.rope_theta is 10000.0 there, 500000.0",
        "model.ffn_multiplier is",
        "ffn/up/kernel has shape",
        "ffn/down/kernel has shape",
    ):
        assert words in said, said
    # The larger model's own norm is its own affair.
    assert "norm_eps" not in said


def test_missing_and_extra_arrays_are_named(tmp_path):
    _, workdir = runs.untrained(tmp_path / "deep", ALONE | {"model.decoder.layers": 1, "model.encoder.layers": 0})
    with pytest.raises(UserError) as caught:
        load(config(tmp_path, workdir))
    said = str(caught.value)
    fields = ("model.encoder.layers is 0 there, 1", "model.decoder.layers is 1 there, 0")
    for words in ("missing encoder/layers", "extra decoder/stack", *fields):
        assert words in said, said


def test_a_model_with_a_trunk_is_no_entropy_model(separate, tmp_path):
    with pytest.raises(UserError, match="holds a model with a trunk"):
        load(config(tmp_path, separate[1]))


def test_a_run_that_is_not_finished_is_taken_with_a_warning(alone, tmp_path, caplog):
    load(config(tmp_path, alone))
    assert f"{alone} is not finished: step 0 of 12" in caplog.text


def test_the_larger_models_dtype_is_kept(alone, tmp_path):
    loaded = load(config(tmp_path, alone, {"training.dtype": "bfloat16"}))
    assert {x.dtype for x in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}


@pytest.fixture(params=["run", "stacked", "unstacked", "bfloat16"])
def stored(request, separate, tmp_path):
    """(folder, weights): a model with an entropy model, as a run has it or exported."""
    made, workdir = separate
    weights, folder = jax.device_get(tiny.weights(made)), tmp_path / "exported"
    if request.param == "run":
        return workdir, weights
    sp.export(sp.load(workdir), folder, layout="stacked" if request.param == "stacked" else "unstacked")
    if request.param == "bfloat16":
        path = folder / "model.safetensors"
        save_file({name: x.astype(ml_dtypes.bfloat16) for name, x in load_file(path).items()}, path)
        about = json.loads((folder / "config.json").read_text())
        del about["checksum"]
        (folder / "config.json").write_text(json.dumps(about))
        weights = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), weights)
    return folder, weights


def test_each_device_reads_its_share_and_no_more(stored, tmp_path, monkeypatch):
    """So no host and no device holds a whole model, from whichever form of it."""
    folder, weights = stored
    made = runs.config(tmp_path, SEPARATE | SHARDED | {"training.init_from": str(folder)})
    shardings = weights_lib.shardings(made, mesh_lib.make(made, jax.devices()[:4]))
    read, pieces = SafetensorsFolder.read, []

    def counting(self, *arguments):
        loaded = read(self, *arguments)
        pieces.append(loaded.nbytes)
        return loaded

    monkeypatch.setattr(SafetensorsFolder, "read", counting)
    loaded = start.given_weights(made, shardings)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(loaded), weights)
    for array, sharding in zip(jax.tree.leaves(loaded), jax.tree.leaves(shardings), strict=True):
        assert array.dtype == np.float32 and array.sharding == sharding
    held = [shard.data.nbytes for array in jax.tree.leaves(loaded) for shard in array.addressable_shards]
    # Most arrays are spread; the four devices together hold few of them more than once.
    assert sum(held) < 1.2 * sum(array.nbytes for array in jax.tree.leaves(loaded))
    if pieces:
        assert sum(pieces) <= sum(held) and max(pieces) <= max(held)
    else:
        assert folder.name == "run"


def test_a_threshold_that_the_new_config_names_is_placed_like_the_others(separate, tmp_path):
    fields = {"training.init_from": str(separate[1]), "trigger.threshold": 1.25}
    loaded = load(runs.config(tmp_path, SEPARATE | SHARDED | fields))["thresholds"]
    assert loaded["trigger_threshold"] == 1.25 and loaded["patching_threshold"] != 1.25
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(loaded)} == {4}


def test_the_entropy_model_of_an_exported_folder_is_spread_as_well(alone, tmp_path):
    sp.export(sp.load(alone), tmp_path / "exported")
    loaded = load(config(tmp_path, tmp_path / "exported", SHARDED))["frozen"]["entropy_model"]
    wanted = tiny.weights(runs.config(alone.parent, ALONE))["params"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(loaded), jax.device_get(wanted))
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(loaded)} == {4}
