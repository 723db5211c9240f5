"""From text on disk to a report, by the command line of one process; and one step whose numbers are written down."""

import json
import math

import jax
import numpy as np
import pytest

import scratchpatch
from scratchpatch import cli
from scratchpatch.distributed import mesh
from scratchpatch.report import page as report_page
from scratchpatch.training import optimizer
from scratchpatch.training.step import Trainer
from scratchpatch.vocabulary import BYTES
from tests import runs

# BPB of the first two batches of `golden_rows`, before any step and after one.
GOLDEN_BPB = (8.018113, 7.916432)


def full_disk(*_):
    raise OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds text/, experiment.py and the workdir run/."""
    folder = tmp_path_factory.mktemp("end_to_end")
    config = runs.config(folder, {"training.steps": 8, "training.eval_every": 4})
    runs.write_config(folder / "experiment.py", config)
    assert cli.main(["train", f"--config={folder}/experiment.py", f"--workdir={folder}/run"]) == 0
    return folder


def answer(capsys, *argv) -> dict:
    """The JSON object that a command prints, alone on standard output."""
    assert cli.main([*argv, "--json"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    return json.loads(out)


def test_eval_counts_every_raw_byte_once(folder, capsys):
    """The text is dealt into splits by the run; under another name it is read whole."""
    (folder / "other").mkdir()
    sizes = 0
    for file in sorted((folder / "text").iterdir()):
        data = file.read_bytes()
        (folder / "other" / file.name).write_bytes(data)
        sizes += len(data)
    found = answer(capsys, "eval", f"--workdir={folder}/run", f"--source=text:{folder}/other/*.txt")
    assert found["bytes"] == sizes and found["documents"] == 12 and found["step"] == 8
    assert found["commits_per_byte"] == pytest.approx(0.25, abs=0.005)
    assert found["trunk_calls_per_byte"] == pytest.approx(found["commits_per_byte"] + found["scratchpads_per_byte"])
    # One trunk layer of width 32: keys and values of 4 bytes a number.
    assert found["kv_bytes_per_byte"] == pytest.approx(found["commits_per_byte"] * 2 * 32 * 4)
    assert found["flops_per_byte"] > 0
    # Fixed patches of 4 bytes: lags 0 to 3, each with a quarter of the bytes.
    assert len(found["bpb_by_offset"]) == 4
    np.testing.assert_allclose(np.array(found["bytes_by_offset"]) / sizes, 0.25, atol=0.01)
    mean = np.average(found["bpb_by_offset"], weights=found["bytes_by_offset"])
    assert found["bpb"] == pytest.approx(mean, rel=1e-6)
    run = ["eval", f"--workdir={folder}/run", f"--source=text:{folder}/text/*.txt"]
    splits = [answer(capsys, *run, f"--split={split}")["bytes"] for split in ("train", "validation", "test")]
    assert sum(splits) == sizes and min(splits) > 0


def test_eval_overrides_decide_the_cost_on_the_same_weights(folder, capsys):
    run = ["eval", f"--workdir={folder}/run", "--split=test"]
    none = answer(capsys, *run, "--override", "trigger.kind=none")
    never = answer(capsys, *run, "--override", "trigger.threshold=1e9")
    always = answer(capsys, *run, "--override", "trigger.threshold=0.0")
    assert none["scratchpads_per_byte"] == never["scratchpads_per_byte"] == 0
    assert none["bpb"] == pytest.approx(never["bpb"], rel=1e-5)
    assert always["scratchpads_per_byte"] > 0.25 and always["flops_per_byte"] > never["flops_per_byte"]
    assert always["bpb"] != never["bpb"]
    assert always["kv_bytes_per_byte"] == never["kv_bytes_per_byte"]


def test_score_adds_up_to_what_eval_says(folder, capsys):
    found = answer(capsys, "eval", f"--workdir={folder}/run", f"--source=text:{folder}/text/11.txt", "--split=all")
    data = (folder / "text" / "11.txt").read_bytes()
    lm = scratchpatch.load(folder / "run")
    score = lm.score(data)
    assert score.dtype == np.float64 and score.shape == (len(data),) and (score < 0).all()
    assert -score.mean() == pytest.approx(found["bpb"], rel=1e-5)
    # What training shows costs less than what it never shows.
    assert lm.score(b"the cat sat on a mat").mean() > lm.score(b"\x01\x02\x03\x04" * 5).mean() + 1


def test_inspect_shows_the_text_and_writes_a_page(folder, capsys):
    text, page = folder / "shown.txt", folder / "shown.html"
    text.write_bytes(b"<b>so it ran & was</b> \xff\xfe\x00 away")
    assert cli.main(["inspect", f"--workdir={folder}/run", f"--text={text}", f"--html={page}"]) == 0
    out = capsys.readouterr().out
    assert f"{text.stat().st_size} bytes" in out and "bits per byte" in out
    assert "<b>so" not in page.read_text()


def test_generate_writes_raw_bytes_after_any_prompt(folder, capfdbinary):
    # How the interpreter hands over arguments that are no UTF-8.
    prompt = b"the \xff\xc3".decode("utf-8", "surrogateescape")
    flags = ("--max_bytes=6", "--temperature=1.0", "--seed=3")
    argv = ["generate", f"--workdir={folder}/run", f"--prompt={prompt}", *flags]
    assert cli.main(argv) == 0
    first = capfdbinary.readouterr().out
    assert cli.main(argv) == 0
    assert capfdbinary.readouterr().out == first
    lm = scratchpatch.load(folder / "run")
    assert first == lm.generate(b"the \xff\xc3", 6, temperature=1.0, seed=3) and len(first) <= 6


def test_account_agrees_with_the_weights_of_the_run(folder, capsys):
    found = answer(capsys, "account", f"--config={folder}/experiment.py")
    lm = scratchpatch.load(folder / "run")
    assert found["parameters"]["total"] == sum(x.size for x in jax.tree.leaves(lm.weights["params"]))
    assert found["commits_per_byte"] == 0.25


def test_report_is_written_anew(folder, capsys):
    page = folder / "run" / "report.html"
    page.unlink()
    assert cli.main(["report", f"--workdir={folder}/run"]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert "<svg" in page.read_text()


def test_a_finished_run_whose_report_is_missing_gets_it_at_the_next_start(folder, caplog, monkeypatch):
    """It is missing after a kill between the last checkpoint and the page, or where the page could not be written."""
    caplog.set_level("INFO", logger="absl")
    page = folder / "run" / "report.html"
    train = ["train", f"--config={folder}/experiment.py", f"--workdir={folder}/run"]
    written = page.stat().st_mtime_ns
    assert cli.main(train) == 0 and page.stat().st_mtime_ns == written
    page.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(report_page, "replace_text", full_disk)
        assert cli.main(train) == 0
    assert "no report (" in caplog.text and "No space left" in caplog.text and not page.exists()
    assert f"the run is finished, and `scratchpatch report --workdir={folder}/run` makes it" in caplog.text
    assert cli.main(train) == 0
    assert f"report: {page}" in caplog.text and "<svg" in page.read_text()


# A plain byte model, and the one whose decisions it makes.
BYTE_MODEL = {
    "model.trunk.kind": "none",
    "model.entropy_head.weight": 0.0,
    "model.decoder.layers": 0,
    "trigger.kind": "none",
    "training.steps": 5,
    "training.eval_every": 5,
}
SEPARATE = {
    **runs.SHALLOW,
    **runs.WITH_ENTROPY_MODEL,
    "patching.threshold": 5.5,
    "training.steps": 2,
}


def all_verbs(folder, name: str, capture) -> dict:
    """Every verb on the run `name` once; what eval says."""
    run = f"--workdir={folder}/{name}"
    found = answer(capture, "eval", run)
    (folder / "shown.txt").write_bytes(b"so it ran & was \xff\x00 away")
    assert cli.main(["inspect", run, f"--text={folder}/shown.txt", f"--html={folder}/{name}.html"]) == 0
    assert b"bits per byte" in capture.readouterr().out
    assert cli.main(["generate", run, "--prompt=the ", "--max_bytes=3", "--temperature=1.0"]) == 0
    assert len(capture.readouterr().out) <= 3
    assert cli.main(["report", run]) == 0
    assert capture.readouterr().out.split() == [f"{folder}/{name}/report.html".encode()]
    audit = answer(capture, "audit", f"--config={folder}/{name}.py")
    assert audit["ok"] and audit["findings"] == [] and audit["checked"]["prefixes"] > 0
    weights = scratchpatch.load(folder / name).weights
    total = answer(capture, "account", f"--config={folder}/{name}.py")["parameters"]["total"]
    assert total == sum(x.size for part in weights if part != "thresholds" for x in jax.tree.leaves(weights[part]))
    return found


def test_a_model_without_a_trunk_and_one_that_reads_its_entropies(tmp_path, capsysbinary):
    named = {"model.entropy_model.workdir": str(tmp_path / "bytes")}
    with pytest.MonkeyPatch.context() as patch:
        # A verb has its turn.
        runs.leave_out_audit(patch.setattr)
        for name, fields in (("bytes", BYTE_MODEL), ("patches", SEPARATE | named)):
            runs.write_config(tmp_path / f"{name}.py", runs.config(tmp_path, fields))
            assert cli.main(["train", f"--config={tmp_path}/{name}.py", f"--workdir={tmp_path}/{name}"]) == 0

    found = all_verbs(tmp_path, "bytes", capsysbinary)
    lines = [line for line in runs.lines(tmp_path / "bytes") if "bpb" in line]
    assert lines[-1]["bpb"] < lines[0]["bpb"] and "bytes_per_patch" not in lines[0]
    assert found["bpb"] < 8 and found["trunk_calls_per_byte"] == 0 and found["bpb_by_offset"] == []
    page = (tmp_path / "bytes" / "report.html").read_text()
    assert page.count("<svg") == page.count("<figure") == 1 and "Patch lag" not in page

    found = all_verbs(tmp_path, "patches", capsysbinary)
    assert found["trunk_calls_per_byte"] > found["commits_per_byte"] > 0 and len(found["bpb_by_offset"]) > 1
    kept = json.loads((tmp_path / "patches" / "evaluation.json").read_text())
    assert len(kept["results"]["sweep"]) > 3 and None not in kept["passage"]["entropy"]
    assert (tmp_path / "patches" / "report.html").read_text().count("<svg") == 4
    # Training moved everything but what it read.
    alone, whole = (scratchpatch.load(tmp_path / name).weights for name in ("bytes", "patches"))
    jax.tree.map(np.testing.assert_array_equal, alone["params"], whole["frozen"]["entropy_model"])
    data = b"the cat sat on the mat"
    segmented = [scratchpatch.load(tmp_path / name).segment(data).entropy for name in ("bytes", "patches")]
    np.testing.assert_allclose(*segmented, rtol=1e-5)


def test_one_step_has_the_numbers_that_are_written_down(tmp_path):
    fields = {"model.entropy_head.layers": 1, "trigger.kind": "stride", "trigger.stride": 2}
    config = runs.config(tmp_path, fields)
    rows_BM = np.tile(np.arange(65, dtype=np.int32) * 37 % 256, (2, 1))
    rows_BM[0, 0] = rows_BM[1, 20] = BYTES.bos
    trainer = Trainer(config, mesh.make(config))
    step = trainer.compile()
    state, found = trainer.init(), []
    for index in range(2):
        settings = trainer.place_settings(optimizer.settings(config, index))
        state, sums = step(state, trainer.place(rows_BM), settings)
        found.append(float(sums["nats"] / sums["bytes"]) / math.log(2))
    assert found == pytest.approx(GOLDEN_BPB, abs=1e-4), (
        f"two steps on fixed bytes from seed 0 gave {found}, not {GOLDEN_BPB}: the initialisation, the model, the loss "
        "or the optimizer computes something else than it did. Where that was meant, write the new numbers into "
        "GOLDEN_BPB, and say in the change why checkpoints and results from before are no longer comparable."
    )
