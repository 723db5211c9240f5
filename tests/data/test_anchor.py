"""Runs that mean the same from every folder."""

import json

import pytest

from scratchpatch import config as config_lib
from scratchpatch.checkpoints import run_text
from scratchpatch.checkpoints.workdir import guard_workdir, load_config
from scratchpatch.data import paths
from scratchpatch.data.anchor import anchored
from scratchpatch.data.mixture import streams_for
from scratchpatch.errors import UserError
from scratchpatch.evaluation.evaluate import evaluate
from scratchpatch.training import start
from scratchpatch.training.loop import train
from tests import runs

RELATIVE = {
    "data.sources": (
        ("text:data/*.txt", 1.0),
        ("jsonl:../x.jsonl#body", 2.0),
        ("stdlib:code", 1.0),
        ("text:gs://b/*", 1.0),
    ),
    "data.validation_sources": (("hf:set@dev#t", 1.0), ("prepared:~/p", 1.0), ("tfds:mnist@test#x", 1.0)),
    "data.cache_dir": "cache",
    "model.entropy_model.workdir": "runs/e",
    "training.init_from": "./runs/i",
    "training.durable_dir": "gs://bucket/run",
}
# A run that compiles little: it has no trunk and no layer beside the entropy head's.
SMALL = runs.ENTROPY_MODEL | {"model.encoder.layers": 0, "training.steps": 1}


def made(fields):
    config = config_lib.default()
    for name, value in fields.items():
        config_lib.set_field(config, name, value)
    return config


def test_sources_and_paths_are_absolute_and_all_else_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(paths, "system", lambda url: pytest.fail(f"{url} is no matter of this machine"))
    here = anchored(made(RELATIVE))
    assert config_lib.flat(here)["data.sources"] == [
        [f"text:{tmp_path}/data/*.txt", 1.0],
        [f"jsonl:{tmp_path.parent}/x.jsonl#body", 2.0],
        ["stdlib:code", 1.0],
        ["text:gs://b/*", 1.0],
    ]
    assert config_lib.flat(here)["data.validation_sources"] == [
        [f"hf:{tmp_path}/set@dev#t", 1.0],
        ["prepared:/home/me/p", 1.0],
        ["tfds:mnist@test#x", 1.0],
    ]
    assert here.data.cache_dir == f"{tmp_path}/cache" and here.training.durable_dir == "gs://bucket/run"
    assert (here.model.entropy_model.workdir, here.training.init_from) == (f"{tmp_path}/runs/e", f"{tmp_path}/runs/i")
    untouched = set(config_lib.flat(here)) - set(RELATIVE)
    assert not untouched & set(config_lib.changed(here, config_lib.default()))
    monkeypatch.chdir("/")
    assert config_lib.flat(anchored(here)) == config_lib.flat(here)


def test_a_run_reads_its_own_text_from_every_folder(tmp_path, monkeypatch):
    """Also one whose folder an older version wrote, with the sources as they were named."""
    runs.leave_out_audit(monkeypatch.setattr)
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    runs.write_text(project / "text")
    runs.write_text(elsewhere / "text", seed=1)
    config = runs.config(project, SMALL | {"data.sources": (("text:text/*.txt", 1.0),)})
    monkeypatch.chdir(project)
    assert train(config, "run")
    assert load_config("run").data.sources == ((f"text:{project}/text/*.txt", 1.0),)
    assert train(config, "run")

    monkeypatch.chdir(elsewhere)
    ((stream, _),) = streams_for(load_config(project / "run"), "validation")
    result = evaluate(project / "run").result
    assert result["bytes"] == stream.bytes and result["source"] == f"text:{project}/text/*.txt"
    with pytest.raises(UserError, match=r"holds another experiment: data\.sources"):
        train(config, project / "run")

    old = json.loads((project / "run/config.json").read_text())
    old["config"]["data.sources"] = [["text:text/*.txt", 1.0]]
    (project / "run/config.json").write_text(json.dumps(old))
    data = json.loads((project / "run/data.json").read_text())
    (project / "run/data.json").write_text(
        json.dumps({"checksums": {"text:text/*.txt": data["checksums"][stream.spec]}, "weights": data["weights"]})
    )
    with pytest.raises(UserError, match=r"the text of text:text/\*\.txt is not what .* was trained on"):
        evaluate(project / "run")
    monkeypatch.chdir(project)
    ((own, _),) = run_text.own_streams("run", load_config("run"), "validation")  # as evaluate asks for them
    assert own.bytes == stream.bytes
    more = {"data.sources": config.data.sources, "training.continue_from": "run@1", "training.steps": 2}
    branched = runs.config(project, SMALL | more)
    (project / "branch").mkdir()
    start.begin_branch(anchored(branched), project / "branch")
    assert (project / "branch/data.json").exists()
    assert train(config, "run")
    assert json.loads((project / "run/data.json").read_text())["validation_checksums"] == data["validation_checksums"]

    (project / "text").rename(project / "moved")
    with pytest.raises(UserError, match=rf"no file matches {project}/text/\*\.txt"):
        evaluate("run")


def test_relative_paths_are_not_another_experiment(tmp_path, monkeypatch):
    """A folder of an older version kept them."""
    monkeypatch.chdir(tmp_path)
    fields = {name: value for name, value in RELATIVE.items() if name != "data.validation_sources"}
    config = made(fields | {"data.sources": (("text:data/*.txt", 1.0),)})
    guard_workdir("run", config)
    guard_workdir("run", anchored(config))
    assert load_config("run").data.sources == ((f"text:{tmp_path}/data/*.txt", 1.0),)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    with pytest.raises(UserError, match=r"another experiment: data\.sources.*training\.init_from"):
        guard_workdir("../run", anchored(config))


def test_no_data_json_compares_nothing(tmp_path):
    """An exported model has none."""
    config = runs.config(tmp_path)
    assert [stream.checksum for stream, _ in run_text.own_streams(tmp_path, config, "validation")]
