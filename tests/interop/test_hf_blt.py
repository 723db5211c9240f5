import json

import jax
import numpy as np
import pytest

import scratchpatch as sp
from scratchpatch import config as config_lib, config_file
from scratchpatch.errors import UserError
from scratchpatch.inference.engine import Engine
from scratchpatch.inference.loading import load_hf_blt
from scratchpatch.inference.options import Options
from scratchpatch.training.loop import train
from tests import runs
from tests.interop import folders


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blt")
    folders.write(folder, folders.settings(patching_threshold=2.0), 0)
    return load_hf_blt(folder, window=64, max_patch_bytes=16)


def load(tmp_path, config=None, change=None):
    folders.write(tmp_path, config or folders.settings(), 0, change)
    return load_hf_blt(tmp_path, window=64)


def test_every_wrong_tensor_is_named_and_nothing_loaded(tmp_path):
    def change(found):
        del found["lm_head.weight"]
        found["model.local_decoder.norm.weight"] = np.ones(17, np.float32)
        found["model.local_decoder.norm.bias"] = np.ones(16, np.float32)

    with pytest.raises(UserError) as error:
        load(tmp_path, change=change)
    for words in (
        "missing lm_head.weight [260, 16]",
        "extra model.local_decoder.norm.bias [16]",
        "model.local_decoder.norm.weight has shape [17], wanted [16]",
    ):
        assert words in str(error.value)


def test_every_unsupported_field_is_named(tmp_path):
    config = folders.settings(patching_mode="space", tie_word_embeddings=True, flux_capacity=3)
    config["decoder_config"] |= {"cross_attn_all_layers": False, "hidden_act": "gelu"}
    config["decoder_config"] |= {"rope_parameters": {"rope_type": "yarn"}}
    tmp_path.joinpath("config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        load_hf_blt(tmp_path)
    for words in (
        "patching_mode = 'space' (only 'entropy')",
        "tie_word_embeddings = True",
        "flux_capacity = 3",
        "decoder_config.cross_attn_all_layers = False",
        "decoder_config.hidden_act = 'gelu'",
        "decoder_config.rope_parameters.rope_type = 'yarn'",
    ):
        assert words in str(error.value)


def test_tensors_that_are_not_finite_are_named(tmp_path):
    def change(found):
        found["lm_head.weight"][5, 5] = np.nan
        found["model.patcher.layers.1.mlp.up_proj.weight"][0, 0] = -np.inf

    names = "lm_head.weight; model.patcher.layers.1.mlp.up_proj.weight"
    with pytest.raises(UserError, match=f"not finite, in {names}: fetch it again"):
        load(tmp_path, change=change)


def test_doubles_are_read_by_their_value_and_integers_refused(tmp_path):
    def doubles(found):
        found |= {name: x.astype(np.float64) for name, x in found.items()}

    weights = (load(tmp_path / "doubles", change=doubles).weights, load(tmp_path / "floats").weights)
    jax.tree.map(np.testing.assert_array_equal, *weights)

    def integers(found):
        found["lm_head.weight"] = found["lm_head.weight"].view(np.int32)

    with pytest.raises(UserError, match="arrays of other types than F64, F32, F16, BF16: lm_head.weight is I32"):
        load(tmp_path / "integers", change=integers)


@pytest.mark.parametrize(
    "name", ["../outside/model.safetensors", "{folder}/outside/model.safetensors", "link.safetensors"]
)
def test_an_index_that_leads_outside_is_refused_before_anything_is_read(tmp_path, name):
    folders.write(tmp_path / "outside", folders.settings())
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "config.json").write_text(json.dumps(folders.settings()))
    (inside / "link.safetensors").symlink_to("../outside/model.safetensors")
    index = {"weight_map": {"lm_head.weight": name.format(folder=tmp_path)}}
    (inside / "model.safetensors.index.json").write_text(json.dumps(index))
    words = "index.json: weight_map.lm_head.weight: .*(no plain relative path|not followed)"
    with pytest.raises(UserError, match=words):
        load_hf_blt(inside)


@pytest.mark.parametrize(
    "fields, kind, jump",
    [({"monotonicity": True}, "entropy_jump", 0.0), ({"patching_threshold_add": 0.3}, "entropy_and_jump", 0.3)],
)
def test_the_other_patch_rules_of_blt(tmp_path, fields, kind, jump):
    patching = load(tmp_path, folders.settings(**fields)).config.patching
    assert (patching.kind, patching.jump, patching.commit_bos) == (kind, jump, True)


def test_another_kind_of_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="no Hugging Face checkpoint"):
        load_hf_blt(tmp_path)
    tmp_path.joinpath("config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="model_type is 'llama', wanted 'blt'"):
        load_hf_blt(tmp_path)
    tmp_path.joinpath("config.json").write_text(json.dumps(folders.settings()))
    tmp_path.joinpath("pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pytorch_model.bin would have to be unpickled"):
        load_hf_blt(tmp_path)
    tmp_path.joinpath("model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot read .*model.safetensors"):
        load_hf_blt(tmp_path)


def test_theta_of_old_and_new_configs(tmp_path):
    config = folders.settings()
    config["patcher_config"] |= {"rope_theta": 20000.0}
    for tier in ("encoder_config", "decoder_config", "global_config"):
        config[tier] |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}}
    m = load(tmp_path, config).config.model
    assert (m.rope_theta, m.entropy_model.rope_theta) == (1000.0, 20000.0)
    assert load(tmp_path / "default").config.model.rope_theta == 500000.0
    assert load(tmp_path / "default").config.model.entropy_model.rope_theta == 10000.0


@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 2, b"\xff\xfe\x80 not UTF-8", b"long " * 60])
def test_documents_of_all_kinds_go_through(lm, data):
    score = lm.score(data)
    assert score.shape == (len(data),) and np.isfinite(score).all() and (score <= 0).all()


def test_scratchpads_are_a_matter_of_an_override(lm):
    data = b"".join(bytes([t]) for t in folders.documents(1, 60)[0][1:])
    plain = lm.segment(data)
    assert not plain.scratchpad.any() and 0 < plain.commit.sum() < len(data)
    threshold = float(np.median(plain.entropy[~plain.commit]))
    padded = lm.override({"trigger.kind": "entropy", "trigger.threshold": threshold})
    found = padded.segment(data)
    assert np.array_equal(found.commit, plain.commit)
    assert np.array_equal(found.scratchpad, ~plain.commit & (plain.entropy > threshold))
    assert not np.allclose(padded.score(data), lm.score(data), atol=1e-3)
    # They refresh what comes after them, and nothing before.
    first = int(np.flatnonzero(found.scratchpad)[0])
    np.testing.assert_allclose(padded.score(data)[: first + 1], lm.score(data)[: first + 1], atol=1e-5)


def test_it_is_continued_from_its_caches_as_it_scores(lm):
    """Two prompts side by side, of which one goes on beyond the window: one without scratchpads, one with many."""
    other = lm.override({"trigger.kind": "entropy", "trigger.threshold": 0.0})
    engine, prompts, thresholds = Engine(other, 2), (b"It was ", b"\xff" * 40), (np.inf, None)
    options = [Options(max_bytes=40, temperature=1.0, seed=1, scratchpad_threshold=each) for each in thresholds]
    tickets = [engine.submit(*each) for each in zip(prompts, options, strict=True)]
    rows = {ticket: [] for ticket in tickets}
    while not engine.idle:
        for progress in engine.step():
            rows[progress.ticket] += progress.bytes
    for prompt, row, model in zip(prompts, rows.values(), (lm, other), strict=True):
        log2_n = model.score(prompt + bytes(byte.value for byte in row))[len(prompt) :]
        np.testing.assert_allclose([byte.log_probability for byte in row], log2_n * np.log(2), atol=1e-4)
        assert any(byte.commit for byte in row) and any(byte.scratchpad for byte in row) == (model is other)


def test_it_can_be_fine_tuned_with_scratchpads(lm, tmp_path, monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    sp.export(lm, tmp_path / "blt")
    text = tmp_path / "text"
    text.mkdir()
    for i in range(12):
        (text / f"{i}.txt").write_text(f"so it goes, and so it went {i} times. " * 12)
    config = config_file.read(tmp_path / "blt" / "config.json")
    for name, value in {
        "data.sources": ((f"text:{text}/*.txt", 1.0),),
        "data.cache_dir": str(tmp_path / "cache"),
        "data.held_out": 0.2,
        "mesh.data": 1,
        "trigger.kind": "entropy",
        "trigger.threshold": 1.0,
        "training.init_from": str(tmp_path / "blt"),
        "training.steps": 8,
        "training.batch_rows": 4,
        "training.eval_bytes": 512,
        "optimizer.warmup_steps": 1,
    }.items():
        config_lib.set_field(config, name, value)
    train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    bpb = [line["bpb"] for line in lines if "bpb" in line]
    # From the loaded weights, not from random ones, and down.
    assert bpb[0] == pytest.approx(-lm.score(b"so it goes, and so it went. " * 12).mean(), rel=0.25)
    assert bpb[-1] < bpb[0] - 0.3
    tuned = sp.load(tmp_path / "run")
    assert tuned.weights["thresholds"]["trigger_threshold"] == 1.0
    theirs, ours = (x.weights["frozen"]["entropy_model"]["encoder"]["embedding"]["embedding"] for x in (tuned, lm))
    assert np.array_equal(theirs, ours)
