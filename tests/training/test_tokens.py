"""A run of a model of tokens: numbers of raw bytes, a tokenizer of its own, and going on as if it had never stopped."""

import json
import shutil
from pathlib import Path

import chex
import numpy as np
import pytest

import scratchpatch as sp
from scratchpatch import cli, config as config_lib, config_file
from scratchpatch.data import tokenizer
from scratchpatch.data.batches import Batches
from scratchpatch.errors import UserError
from scratchpatch.evaluation.evaluate import evaluate
from scratchpatch.training import start
from scratchpatch.training.loop import train
from scratchpatch.vocabulary import of_tokens
from tests import runs, tokens

FIELDS = tokens.FIELDS | {"training.steps": 6, "training.checkpoint_every": 3, "training.eval_every": 6}
TEXT = "the cat sat on a mat, Grüße".encode() + b"\xff"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a finished run; the file of its tokenizer is gone since."""
    folder = tmp_path_factory.mktemp("tokens")
    shutil.copy(tokens.file(), folder / "learnt.json")
    with pytest.MonkeyPatch.context() as patch:
        runs.leave_out_audit(patch.setattr)
        assert train(config(folder), folder / "run")
    (folder / "learnt.json").unlink()
    return folder / "run"


def config(folder: Path, **fields):
    return runs.config(folder, FIELDS | {"data.tokenizer": str(folder / "learnt.json")} | fields)


def test_numbers_are_of_raw_bytes(run):
    # The model's own copy of the tokenizer serves where its file is gone.
    batches = Batches(tokenizer.with_copy(run, config(run.parent)), "train")
    first, *_, last, validation = runs.lines(run)
    for line, step in ((first, 0), (last, 5)):
        batch = batches.batch(step)
        text = tokens.learnt().decode(batch[:, 1:].ravel())
        assert line["bytes"] == len(text)
        inputs = (batch[:, :-1] != of_tokens(tokens.COUNT).pad).sum()
        assert line["trunk_calls_per_byte"] == pytest.approx(inputs / len(text), rel=0.05)
        assert line["bytes_per_patch"] == pytest.approx(1 / line["trunk_calls_per_byte"])
    assert last["bpb"] < first["bpb"] < np.log2(of_tokens(tokens.COUNT).rows)
    # At first a token is as likely as any other.
    tokens_of_step = (batches.batch(0)[:, 1:] < of_tokens(tokens.COUNT).bos).sum()
    assert first["bpb"] * first["bytes"] / tokens_of_step == pytest.approx(np.log2(tokens.COUNT + 1), rel=0.05)
    assert validation["validation_bytes"] == pytest.approx(512, rel=0.2)


def test_a_run_goes_on_as_if_it_had_never_stopped_where_its_tokenizer_was(run, tmp_path, monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    again = runs.rewind(run, 3, tmp_path / "again")
    assert train(config(run.parent), again)
    assert runs.lines(again) == runs.lines(run)
    of_run = config(run.parent)
    chex.assert_trees_all_equal(runs.state(again, of_run, 6), runs.state(run, of_run, 6))
    assert (runs.state(run, of_run, 6)["spelling"]["token_bytes"] == tokens.learnt().token_bytes()).all()


def test_a_run_and_an_export_are_found_from_anywhere_with_their_tokenizer(run, tmp_path, monkeypatch):
    wanted = sp.load(run).score(TEXT)
    assert wanted.sum() < 0
    moved = shutil.copytree(run, tmp_path / "moved")
    sp.export(sp.load(moved), tmp_path / "exported")
    result = evaluate(run).result
    monkeypatch.chdir(tmp_path)
    for name in ("moved", "exported"):
        lm = sp.load(name)
        assert lm.config.data.tokenizer == str(tmp_path / name / "tokenizer.json")
        np.testing.assert_array_equal(lm.score(TEXT), wanted)
        assert lm.fingerprint() == sp.load(run).fingerprint()
    assert evaluate("moved").result["bpb"] == result["bpb"]
    # Half of the held-out text is no UTF-8, and so a token is a byte there.
    assert 1.2 < result["bytes_per_token"] < 1.5
    (tmp_path / "moved" / "tokenizer.json").unlink()
    (tmp_path / "exported" / "tokenizer.json").write_text("{}")
    for name, says in (("moved", "cannot be read"), ("exported", "is not the one that the model was trained with")):
        with pytest.raises(UserError, match=f"its tokenizer .*{name}/tokenizer.json {says}"):
            sp.load(name)


def test_another_tokenizer_is_refused_by_name(run, tmp_path):
    # As many tokens, of other text.
    other = tmp_path / "other.json"
    other.write_text(tokenizer.learn([b"no word of it is here, but %d " % k * 3 for k in range(300)], tokens.COUNT))
    with pytest.raises(UserError, match="data.tokenizer = '.*other.json' is not the tokenizer in .*run/tokenizer.json"):
        train(config(run.parent, **{"data.tokenizer": str(other)}), run)
    for name, value in (("training.init_from", str(run)), ("training.continue_from", f"{run}@3")):
        made = config(run.parent, **{"data.tokenizer": str(other), name: value})
        with pytest.raises(UserError, match="was trained with another data.tokenizer|the text of .* is not what"):
            train(made, tmp_path / "new")
        assert not list(tmp_path.glob("new/*.json"))
    with pytest.raises(UserError, match="this change needs other parameters"):
        start.given_weights(runs.config(run.parent, {"training.init_from": str(run)}), {})


def test_the_server_which_counts_bytes_refuses_it(run, capsys):
    assert cli.main(["serve", f"--workdir={run}", "--port=0"]) == 1
    said = capsys.readouterr().err
    assert "run holds a model of tokens, and the server counts bytes: use scratchpatch generate" in said


REFUSED = {
    "data.vocabulary": (0, "data.tokenizer = 'any.json' and data.vocabulary = 0 go together"),
    "data.tokenizer": ("", "data.tokenizer = '' and data.vocabulary = 290 go together"),
    "patching.kind": ("fixed", "set patching.kind = 'byte', which commits at each"),
    "trigger.kind": ("entropy", "set trigger.kind = 'none', not 'entropy'"),
    "model.encoder.ngrams": ((3, 4), "set model.encoder.ngrams = (), not (3, 4)"),
    "model.entropy_head.weight": (1.0, "set model.entropy_head.weight = 0.0, not 1.0"),
    "model.entropy_model.layers": (1, "set model.entropy_model.layers = 0, not 1"),
    "patching.whole_characters": (True, "set patching.whole_characters = False, not True"),
    "model.target_rows": (260, "set model.target_rows = 257, not 260"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_decides_about_bytes_is_refused_when_a_config_is_read(tmp_path, name):
    value, says = REFUSED[name]
    fields = config_lib.flat(tokens.config({"data.tokenizer": "any.json"})) | {name: value}
    (tmp_path / "c.json").write_text(json.dumps({"schema": 2, "config": fields}))
    with pytest.raises(UserError) as caught:
        config_file.read(tmp_path / "c.json")
    assert says in str(caught.value)
