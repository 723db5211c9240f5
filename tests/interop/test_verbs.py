import json

import pytest

from scratchpatch import cli
from tests.interop import folders


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verbs")
    folders.write(folder / "hf", folders.settings())
    places = [f"--folder={folder}/hf", f"--out={folder}/blt"]
    assert cli.main(["import", *places, "--window=64", "--max_patch_bytes=16"]) == 0
    return folder / "blt"


def test_an_imported_model_is_evaluated_with_and_without_scratchpads(imported, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_bytes(b"It was the best of times, \xff it was the worst of times. " * 3)
    command = ["eval", f"--workdir={imported}", f"--source=text:{text}", "--split=all", "--json"]
    found = []
    for overrides in ([], ["--override", "trigger.kind=entropy", "--override", "trigger.threshold=0.0"]):
        assert cli.main(command + overrides) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    plain, padded = found
    assert plain["bytes"] == padded["bytes"] == text.stat().st_size
    assert plain["scratchpads_per_byte"] == 0 and padded["trunk_calls_per_byte"] == 1
    assert plain["bpb"] != padded["bpb"]


def test_its_config_is_a_config_file(imported, capsys):
    assert cli.main(["account", f"--config={imported}/config.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["entropy model"] > 0


def test_export_writes_what_load_reads(imported, tmp_path, capsys):
    assert cli.main(["checkpoint", "export", f"--workdir={imported}", f"--out={tmp_path}/again"]) == 0
    same = [(f / "model.safetensors").read_bytes() for f in (imported, tmp_path / "again")]
    assert same[0] == same[1]
    assert cli.main(["checkpoint", "export", f"--workdir={imported}", f"--out={tmp_path}/again"]) == 1
    assert "holds something" in capsys.readouterr().err


def test_an_unstacked_export_is_a_workdir_like_any_other(imported, tmp_path):
    argv = ["checkpoint", "export", f"--workdir={imported}", f"--out={tmp_path}/layers", "--layout=unstacked"]
    assert cli.main(argv) == 0
    assert cli.main(["checkpoint", "export", f"--workdir={tmp_path}/layers", f"--out={tmp_path}/again"]) == 0
    same = [(f / "model.safetensors").read_bytes() for f in (imported, tmp_path / "again")]
    assert same[0] == same[1]


def test_mistakes_are_one_line(tmp_path, capsys):
    assert cli.main(["import", f"--folder={tmp_path}/none", f"--out={tmp_path}/out"]) == 1
    assert cli.main(["import", f"--folder={tmp_path}", f"--out={tmp_path}/out"]) == 1
    assert cli.main(["import", f"--folder={tmp_path}"]) == 2
    assert cli.main(["checkpoint", "export", f"--workdir={tmp_path}"]) == 2
    assert cli.main(["checkpoint", "list", f"--workdir={tmp_path}", "--layout=unstacked"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["scratchpatch"] * 5
    assert "no such folder" in said[0] and "no config.json" in said[1]
    assert "needs --out=DIR" in said[2] and "needs --out=DIR" in said[3]
    assert "--layout goes with checkpoint export alone" in said[4]


def test_a_folder_that_cannot_be_trusted_is_one_line_and_nothing_is_written(tmp_path, capsys):
    hostile = tmp_path / "hostile"
    folders.write(hostile, folders.settings())
    (hostile / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "../../etc/passwd"}}')
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "config.json").write_text('{"model_type": "blt", "encoder_config": ' + "[" * 5000 + "]" * 5000 + "}")
    for folder in (hostile, deep):
        assert cli.main(["import", f"--folder={folder}", f"--out={tmp_path}/out"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and not (tmp_path / "out").exists()
    assert "weight_map.lm_head.weight: '../../etc/passwd' is no plain relative path" in said[0]
    assert "deep/config.json: it is nested" in said[1]
    # Where the model cannot be written, none is read.
    assert cli.main(["import", f"--folder={deep}", f"--out={hostile}"]) == 1
    assert "hostile holds something" in capsys.readouterr().err
