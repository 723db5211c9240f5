import copy
import importlib.util
import json
import os

import pytest

from scratchpatch.errors import UserError
from scratchpatch.interop import hf_config
from tests.interop import folders, theirs


def read(folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return hf_config.read(folder, 64, 16)


def refused(folder, config, words):
    with pytest.raises(UserError, match=words) as error:
        read(folder, config)
    said = str(error.value)
    assert "config.json" in said and said.isprintable() and len(said) < 4000


def test_a_config_that_transformers_writes_is_read(tmp_path):
    written = json.loads(theirs.WRITTEN.read_text())
    assert written["rope_parameters"] == {"rope_theta": 500000.0, "rope_type": "default"}
    found = read(tmp_path, written)
    assert found.config == read(tmp_path, folders.settings()).config
    # No tier reads what stands at the top.
    at_top = {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}, "rope_theta": 3.0, "rope_scaling": {"type": "linear"}}
    assert read(tmp_path, written | at_top).config == found.config


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None,
    reason="torch and transformers not installed: bash launch/setup.sh peer runs all of the parity",
)
def test_the_kept_config_is_what_transformers_writes(tmp_path):
    import transformers

    short, whole = theirs.write_config(tmp_path)
    kept = json.loads(theirs.WRITTEN.read_text())
    assert kept.pop("transformers_version") and short.pop("transformers_version") == transformers.__version__
    assert short == kept
    assert read(tmp_path, whole).config == read(tmp_path, kept).config


def test_the_local_window_acts_in_encoder_and_decoder(tmp_path):
    config = folders.settings(local_attention_window_len=16)
    # As transformers: whatever the tiers say for themselves.
    for tier in ("encoder_config", "decoder_config"):
        config[tier] |= {"sliding_window": 3}
    m = read(tmp_path, config).config.model
    assert (m.encoder.window, m.decoder.window, m.entropy_model.window) == (16, 16, 20)
    for value, window in ((None, 64), (512, 64), (7, 7)):
        m = read(tmp_path, config | {"local_attention_window_len": value}).config.model
        assert (m.encoder.window, m.decoder.window) == (window, window)
    del config["local_attention_window_len"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    m = hf_config.read(tmp_path, 2048, 16).config.model
    assert (m.encoder.window, m.decoder.window, m.entropy_model.window) == (512, 512, 20)


@pytest.mark.parametrize("value", [False, None])
def test_a_decoder_that_reads_its_context_once(tmp_path, value):
    config = folders.settings()
    config["decoder_config"] |= {"cross_attn_all_layers": value}
    refused(tmp_path, config, rf"decoder_config.cross_attn_all_layers = {value} \(only true: here every layer reads")
    # With one layer it is the same.
    config["decoder_config"] |= {"num_hidden_layers": 1}
    assert read(tmp_path, config).config.model.decoder.layers == 1


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("encoder_config.hidden_size", "16", "encoder_config.hidden_size: Expected int, got str"),
        ("encoder_config.hidden_size", None, "encoder_config.hidden_size: Expected int, got null"),
        ("encoder_config.hidden_size", 16.5, "encoder_config.hidden_size: Expected int, got float"),
        ("encoder_config.hidden_size", -16, "encoder_config.hidden_size: Expected int >= 1"),
        ("encoder_config.hidden_size", True, "encoder_config.hidden_size: Expected int, got bool"),
        ("global_config.hidden_size", 10**8, "global_config.hidden_size: Expected int <= "),
        ("global_config.num_hidden_layers", 10**8, "global_config.num_hidden_layers: Expected int <= 1024"),
        ("global_config.num_hidden_layers", 10**400, "global_config.num_hidden_layers: "),
        ("patcher_config.num_hidden_layers", 0, "patcher_config.num_hidden_layers: Expected int >= 1"),
        ("patcher_config.num_attention_heads", 0, "patcher_config.num_attention_heads: Expected int >= 1"),
        ("patcher_config.num_attention_heads", 5, r"patcher_config.num_attention_heads = 5 \(must divide hidden_size = 24"),
        ("global_config.num_key_value_heads", 3, r"num_key_value_heads = 3 \(must divide num_attention_heads = 4\)"),
        ("encoder_config.head_dim", 4, r"encoder_config.head_dim = 4 \(only 8\)"),
        ("decoder_config.rms_norm_eps", "small", "decoder_config.rms_norm_eps: Expected float, got str"),
        ("decoder_config.rope_parameters", [], "decoder_config.rope_parameters: Expected object.*, got array"),
        ("decoder_config.rope_parameters", {"rope_theta": {}}, "rope_parameters.rope_theta: Expected float.*, got object"),
        ("decoder_config.rope_scaling", {"type": "linear"}, r"decoder_config.rope_scaling.rope_type = 'linear' \(only 'default'\)"),
        ("decoder_config.intermediate_size", 10**6, "model.ffn_multiplier = .* must lie between"),
        ("decoder_config.cross_attn_k", 3, r"decoder_config.cross_attn_k = 3 \(only 2\)"),
        ("patcher_config", [], "patcher_config: Expected object.*, got array"),
        ("patcher_config", "none", "patcher_config: Expected object.*, got str"),
        ("cross_attn_k", "2", "cross_attn_k: Expected int, got str"),
        ("vocab_size", [0] * 10**5, r"vocab_size = \[0, 0.*\.\.\. \(only 260\)"),
        ("patching_threshold", "low", "patching_threshold: Expected float.*, got str"),
        ("patching_threshold", 10**400, "patching_threshold: "),
        ("max_patch_length", 10**6, "patching.max_patch_bytes = 1000000 must lie between"),
        ("local_attention_window_len", 0, "local_attention_window_len: Expected int >= 1"),
        ("encoder_hash_byte_group_size", 3, "encoder_hash_byte_group_size: Expected array.*, got int"),
        ("encoder_hash_byte_group_size", [3, "4"], r"encoder_hash_byte_group_size\[1\]: Expected int, got str"),
        ("encoder_hash_byte_group_size", [1], r"encoder_hash_byte_group_size\[0\]: Expected int >= 2"),
        ("encoder_hash_byte_group_vocab", 10**9, "encoder_hash_byte_group_vocab: Expected int <= "),
        ("encoder_hash_byte_group_nb_functions", 12, "encoder_hash_byte_group_nb_functions: Expected int <= 11"),
        ("flux\x1b[31m", "x" * 10**5, r"flux\\x1b\[31m = 'xxx.*\.\.\."),
    ],
)
def test_a_field_of_another_type_or_size_is_named(tmp_path, field, value, words):
    config = copy.deepcopy(folders.settings())
    *tier, name = field.split(".")
    (config[tier[0]] if tier else config)[name] = value
    refused(tmp_path, config, words)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no JSON"),
        ("null", "Expected object, got null"),
        ("[" * 5000 + "]" * 5000, "nested"),
        ('{"model_type": "blt", "encoder_config": ' * 5000 + "1" + "}" * 5000, "nested"),
        ("{}", "model_type is None, wanted 'blt'"),
        ('{"model_type": ["blt"]}', r"model_type is \['blt'\], wanted 'blt'"),
        ('{"model_type": "blt", "patching_threshold": NaN}', "NaN is no number of JSON"),
        ('{"model_type": "blt", "patching_threshold": 1e999}', "patching_threshold: "),
    ],
)
def test_a_config_that_is_none_is_one_line(tmp_path, text, words):
    refused(tmp_path, text, words)


def test_only_a_regular_file_is_a_config(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match="config.json: it is a named pipe"):
        hf_config.read(tmp_path, 64, 16)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match="config.json: it is a folder"):
        hf_config.read(tmp_path, 64, 16)


def test_sections_that_are_missing_have_the_defaults_of_transformers(tmp_path):
    m = read(tmp_path, {"model_type": "blt", "patcher_config": None}).config.model
    assert (m.d_byte, m.encoder.layers, m.decoder.layers, m.trunk.layers, m.trunk.d_model) == (1024, 1, 9, 25, 2048)
    assert (m.entropy_model.layers, m.entropy_model.d_byte, m.rope_theta) == (14, 768, 500000.0)
