"""Which weights a new run starts from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch.errors import UserError
from scratchpatch.model import weights as weights_lib
from scratchpatch.parallel import mesh as mesh_lib
from scratchpatch.training import initial
from scratchpatch.training.loop import train
from tests import runs, tiny

ALONE = runs.ENTROPY_MODEL
SEPARATE = {
    **runs.WITH_ENTROPY_MODEL,
    "training.steps": 1,
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of a model without a trunk."""
    return runs.untrained(tmp_path_factory.mktemp("alone"), ALONE, tiny.weights)[1]


def config(folder, workdir, fields=None):
    return runs.config(folder, SEPARATE | {"model.entropy_model.workdir": str(workdir)} | (fields or {}))


def load(made):
    return initial.load(made, weights_lib.shardings(made, mesh_lib.make(made)))


def test_a_run_starts_with_the_entropy_model_of_the_run_it_names_and_keeps_it(alone, tmp_path, monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    runs.compile_quickly(monkeypatch.setattr)
    made = config(tmp_path, alone)
    train(made, tmp_path / "run")
    frozen = runs.state(tmp_path / "run", made, 1)["frozen"]["entropy_model"]
    wanted = tiny.weights(runs.config(alone.parent, ALONE))["params"]
    jax.tree.map(np.testing.assert_array_equal, frozen, jax.device_get(wanted))


def test_a_resumed_run_reads_nothing_but_its_checkpoint(alone, tmp_path, monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    runs.compile_quickly(monkeypatch.setattr)
    made = config(tmp_path, alone, {"training.steps": 3, "training.checkpoint_every": 1, "training.keep_last": 3})
    train(made, tmp_path / "whole")
    before = runs.rewind(tmp_path / "whole", 1, tmp_path / "run")
    monkeypatch.setattr(initial, "load", lambda *_: pytest.fail("loaded on a resume"))
    train(made, before)
    assert runs.lines(before) == runs.lines(tmp_path / "whole")


def test_weights_of_init_from_bring_their_entropy_model(alone, tmp_path):
    made, workdir = runs.untrained(tmp_path / "from", SEPARATE, tiny.weights)
    found = load(config(tmp_path, alone, {"training.init_from": str(workdir)}))
    jax.tree.map(np.testing.assert_array_equal, found["frozen"], tiny.weights(made)["frozen"])
    assert found.keys() == {"params", "thresholds", "frozen"}


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
        f"{alone} is not the entropy model", "model.encoder.window is 8 there, 9 by model.entropy_model",
        "model.rope_theta is 10000.0 there, 500000.0", "model.ffn_multiplier is", "ffn/up/kernel has shape",
        "ffn/down/kernel has shape",
    ):  # fmt: skip
        assert words in said, said
    # The larger model's own norm is its own affair.
    assert "norm_eps" not in said


def test_missing_and_extra_arrays_are_named(tmp_path):
    _, workdir = runs.untrained(tmp_path / "deep", ALONE | {"model.decoder.layers": 1, "model.encoder.layers": 0})
    with pytest.raises(UserError) as caught:
        load(config(tmp_path, workdir))
    said = str(caught.value)
    for words in ("missing encoder/layers", "extra decoder/stack", "model.encoder.layers is 0 there, 1", "model.decoder.layers is 1 there, 0"):
        assert words in said, said


def test_a_model_with_a_trunk_is_no_entropy_model(tmp_path):
    _, workdir = runs.untrained(tmp_path / "whole")
    with pytest.raises(UserError, match="holds a model with a trunk"):
        load(config(tmp_path, workdir))


def test_a_run_that_is_not_finished_is_taken_with_a_warning(alone, tmp_path, caplog):
    load(config(tmp_path, alone))
    assert f"{alone} is not finished: step 0 of 12" in caplog.text


def test_the_larger_models_dtype_is_kept(alone, tmp_path):
    found = load(config(tmp_path, alone, {"training.dtype": "bfloat16"}))
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}
