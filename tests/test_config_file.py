"""The config.json of a run: checked as a config file is, and one line where it cannot be read."""

import json
import os

import pytest

from scratchpatch import config, config_file
from scratchpatch.errors import UserError


def written(folder, text: str):
    path = folder / "config.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data.window": -4}, "data.window = -4 must lie between 8 and 262144"),
        ({"trigger.threshold": float("nan")}, "trigger.threshold = nan must lie between"),
        ({"optimizer.b1": 1}, "optimizer.b1 = 1.0 must lie between"),
        ({"optimizer.eps": 10**400}, "optimizer.eps = inf must lie between"),
        ({"model.trunk.layers": 10**8}, "model.trunk.layers = 100000000 must lie between"),
        ({"model.trunk.layers": None}, "field model.trunk.layers takes a value of type int, such as 8, not None"),
        ({"model.trunk.layers": {"a": 1}}, "config field model.trunk.layers takes a value of type int"),
        ({"data.sources": [[["a"], 1]]}, "data.sources = ((('a',), 1),) holds (('a',), 1): wanted (SPEC, weight)"),
        ({"data.sources": {"a": 1}}, "config field data.sources takes a value of type tuple"),
        ({"model.encoder.heads": 3}, "model.encoder.heads = 3 must divide the width 256"),
        ({"no.field": 3}, "config has no field 'no.field'"),
    ],
)
def test_a_config_json_is_checked_as_a_config_file_is(tmp_path, values, words):
    path = written(tmp_path, json.dumps({"schema": 2, "config": config.flat(config.default()) | values}))
    with pytest.raises(UserError) as caught:
        config_file.read(path)
    said = str(caught.value)
    assert said.startswith(f"cannot read {path}: ") and words in said and "\n" not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is no JSON"),
        ("[" * 5000, "it is nested too deep"),
        ("null", "Expected object, got null"),
        ('{"schema": 2}', "required field config"),
        ('{"config": []}', "config: Expected object, got array"),
        ('{"config": {}, "schema": "2"}', "schema: Expected int, got str"),
        ('{"config": {}, "schema": 9, "version": "7"}', "it has schema 9, written by version 7"),
        ('{"config": {"seed": ' + "9" * 5000 + "}}", "it is no JSON"),
    ],
)
def test_a_config_json_that_is_none_is_one_line(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        config_file.read(path)
    said = str(caught.value)
    assert said.startswith(f"cannot read {path}: ") and words in said and "\n" not in said


def test_a_config_json_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match="it is a named pipe, and only regular files are read"):
        config_file.read(tmp_path / "config.json")


def test_a_config_json_may_hold_an_infinite_threshold(tmp_path):
    c = config.default()
    c.trigger.threshold = float("inf")
    assert config_file.read(written(tmp_path, json.dumps({"config": config.flat(c)}))).trigger.threshold == float("inf")
