import pytest

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError
from scratchpatch.report.run_folder import RunFolder, command
from tests.report.pages import evaluation, passage, write_run


def test_reads_what_a_run_left(tmp_path):
    config = config_lib.default()
    config.training.batch_rows, config.training.accumulation, config.data.window = 6, 2, 512
    metrics = [
        {"step": 1, "bpb": 8.0},
        {"step": 2, "bpb": None},
        {"step": 2, "validation_bpb": 7.5},
        {"step": 3, "bpb": 7.0, "head_bpb": 7.25},
    ]
    run = RunFolder(write_run(tmp_path / "r", {"validation": evaluation()}, metrics, config, passage=passage(b"abcd")))
    assert run.name == "r" and run.config == config_lib.flat(config)
    assert run.result("validation")["bpb"] == 2.3125 and run.result("without_scratchpads") == {}
    assert run.bytes_per_step() == 6 * 512
    bpb = run.curve("bpb", "training")
    assert (bpb.label, bpb.x, bpb.y) == ("training", [1, 3], [8.0, 7.0])
    assert run.curve("validation_bpb", "validation").x == [2]
    assert run.curve("head_bpb", "head").y == [7.25]
    assert run.passage().data == b"abcd" and run.passage().commit.tolist() == [False, False, False, True]


def test_an_empty_folder_is_a_run_of_nothing(tmp_path):
    run = RunFolder(write_run(tmp_path / "r"))
    assert (run.config, run.metrics, run.evaluation, run.passage()) == ({}, [], {}, None)
    assert run.result("validation") == {} and run.curve("bpb", "x").x == []
    default = config_lib.default()
    assert run.bytes_per_step() == default.training.batch_rows * default.data.window


@pytest.mark.parametrize("torn", ["", "{", "[]", "null", '{"config": 3, "results": 3, "passage": 3}', "\x00"])
def test_files_that_are_no_objects_count_as_absent(tmp_path, torn):
    folder = write_run(tmp_path / "r")
    (folder / "config.json").write_text(torn)
    (folder / "evaluation.json").write_text(torn)
    run = RunFolder(folder)
    assert run.config == {} and run.result("validation") == {} and run.passage() is None


@pytest.mark.parametrize(
    "broken", [{"text_base64": "?"}, {"commit": [True]}, {"entropy": ["x"]}, {"entropy": None}, {"scratchpad": 3}]
)
def test_a_passage_that_does_not_fit_is_none(tmp_path, broken):
    run = RunFolder(write_run(tmp_path / "r", {}, passage=passage(b"abcd") | broken))
    assert run.passage() is None


def test_a_field_that_is_no_more_is_left_out(tmp_path):
    folder = write_run(tmp_path / "r")
    (folder / "config.json").write_text('{"config": {"seed": 3, "model.gone": 1}}')
    assert RunFolder(folder).config == {"seed": 3}


def test_a_torn_last_line_is_left_out(tmp_path):
    folder = write_run(tmp_path / "r", metrics=[{"step": 1, "bpb": 8.0}])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "b')
    assert RunFolder(folder).metrics == [{"step": 1, "bpb": 8.0}]


def test_a_broken_line_is_named(tmp_path):
    folder = write_run(tmp_path / "r", metrics=[{"step": 1, "bpb": 8.0}])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("what\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: 'what' is no line of metrics"):
        RunFolder(folder)


def test_no_folder_names_the_command(tmp_path):
    with pytest.raises(
        UserError, match=r"no run at .*/none: `scratchpatch train --config=FILE --workdir=.*/none` makes"
    ):
        RunFolder(tmp_path / "none")


def test_commands_are_quoted():
    assert command("eval", "a b/$c", "--json") == "scratchpatch eval --json --workdir='a b/$c'"
