"""What is read of a run's folder, whole, damaged or empty."""

import copy
import functools
import json
import os

import pytest

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError
from scratchpatch.report import page
from scratchpatch.report.run_folder import RunFolder, command
from tests.report.pages import evaluation, passage, sweep, write_run


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


WRONG = ("x", -1, 2.5, True, [], {"total": "x"}, 10**400, "1e999", None)


@pytest.mark.parametrize("value", WRONG, ids=str)
def test_no_value_of_an_evaluation_keeps_the_page_from_being_written(tmp_path, value, caplog):
    """Each field in turn holds it: it is drawn, or the whole file counts as missing and is named."""
    results = {"validation": evaluation(), "without_scratchpads": evaluation(), "sweep": sweep(None, 1.5, -1.0)}
    account = {"parameters": {"total": 3}}
    whole = {"step": 40, "max_bytes": None, "results": results, "passage": passage(b"abcd"), "account": account}
    folder = write_run(tmp_path / "r", results)
    paths = [(name,) for name in whole]
    paths += [("results", name) for name in results]
    paths += [("results", "validation", name) for name in evaluation()]
    paths += [("results", "sweep", 1, name) for name in results["sweep"][1]]
    paths += [("passage", name) for name in whole["passage"]]
    paths += [("account", "parameters")]
    taken, refused = copy.deepcopy(whole), 0

    def change(document, path):
        functools.reduce(lambda at, key: at[key], path[:-1], document)[path[-1]] = value

    def read(document):
        (folder / "evaluation.json").write_text(json.dumps(document).replace('"1e999"', "1e999"))
        caplog.clear()
        run = RunFolder(folder)
        assert (run.evaluation == {}) == ("evaluation.json: " in caplog.text and "counts as missing" in caplog.text)
        return run

    for path in paths:
        changed = copy.deepcopy(whole)
        change(changed, path)
        run = read(changed)
        refused += run.evaluation == {}
        if run.evaluation and len(path) < 3:
            assert "report" in page.body(run)
        elif run.evaluation:
            change(taken, path)
    # All that is let through, in one page: to draw is what takes time.
    assert read(taken).evaluation and "report" in page.body(read(taken))
    assert refused or value is None


NO_JSON = ("[" * 5000, '{"step":' * 5000, '{"step": NaN}', '{"results": ' + "[" * 40 + "]" * 40 + "}", "\xff")


@pytest.mark.parametrize("text", NO_JSON)
def test_an_evaluation_that_is_no_json_is_named(tmp_path, text, caplog):
    folder = write_run(tmp_path / "r")
    (folder / "evaluation.json").write_bytes(text.encode("latin-1"))
    assert RunFolder(folder).evaluation == {} and f"{folder}/evaluation.json: it is n" in caplog.text


def test_a_pipe_is_not_waited_for(tmp_path, caplog):
    folder = write_run(tmp_path / "r")
    for name in ("config.json", "evaluation.json"):
        os.mkfifo(folder / name)
    run = RunFolder(folder)
    assert (run.config, run.evaluation) == ({}, {}) and caplog.text.count("it is a named pipe") == 2


@pytest.mark.parametrize("config", [{"training.batch_rows": "x"}, {"data.window": None}, {"seed": [1]}])
def test_a_config_of_wrong_types_is_named_and_counts_as_missing(tmp_path, config, caplog):
    folder = write_run(tmp_path / "r")
    (folder / "config.json").write_text(json.dumps({"config": config}))
    run = RunFolder(folder)
    assert run.config == {} and run.bytes_per_step() > 0 and "config.json counts as missing" in caplog.text


def test_sizes_that_cannot_be_are_drawn_somehow(tmp_path):
    folder = write_run(tmp_path / "r", metrics=[{"step": 1, "bpb": 8.0}, {"step": 2, "bpb": 7.0}])
    for rows in (-1, 0, 10**400):
        (folder / "config.json").write_text(json.dumps({"config": {"training.batch_rows": rows}}))
        assert "<svg" in page.body(RunFolder(folder))


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
