"""Tasks of lm-evaluation-harness, on local files; and its own command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scratchpatch.errors import UserError
from scratchpatch.interop.export import export
from scratchpatch.tasks.choice import Choice
from scratchpatch.tasks.harness import Harness
from scratchpatch.tasks.items import spaced
from scratchpatch.tasks.task import Setting
from tests.tasks.models import language_model

ROWS = [
    {"query": "The man turned on the tap, so", "choices": ["the toilet filled.", "water flowed from it."], "gold": 1},
    {"query": "The girl found a bug, so", "choices": ["she poured milk \u00e0 la carte.", "she screamed."], "gold": 0},
    {"query": "The vase broke, so", "choices": ["it was glued.", "it was glued by us all.", "it sang."], "gold": 2},
    {"query": "She sang, so", "choices": ["they clapped.", "no."], "gold": 0},
    {"query": "It rained, so", "choices": ["I was wet.", "the sun came out and it was dry."], "gold": 1},
]
METRICS = ("acc", "acc_norm", "acc_bytes")


@pytest.fixture
def task_file(tmp_path, monkeypatch):
    """A task whose data is a local file; with a home of its own for what Hugging Face stores."""
    pytest.importorskip("lm_eval", reason="the package lm_eval is not installed (extra lm_eval)")
    for name, value in {"HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    data = tmp_path / "local.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    metrics = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in METRICS]
    path = tmp_path / "local.yaml"
    # JSON is YAML.
    task = {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": metrics,
        "metadata": {"version": 2.0},
    }
    path.write_text(json.dumps(task))
    return path


@pytest.mark.parametrize(("theirs", "ours"), [("as_given", "answer_front"), ("prompt_end", "prompt_end")])
def test_its_numbers_are_those_of_choice(task_file, tmp_path, theirs, ours):
    setting = Setting(language_model(), folder=tmp_path / "evaluations")
    task = Harness(str(task_file), space=theirs)
    found = task.run(setting)
    own = Choice(str(tmp_path / "local.jsonl"), space=ours).run(setting)["accuracy"]
    numbers = found["metrics"]["local"]
    for metric, normalisation in {"acc": "raw", "acc_norm": "per_character", "acc_bytes": "per_byte"}.items():
        assert numbers[metric] == pytest.approx(own[normalisation]["mean"])
        assert numbers[f"{metric}_stderr"] == pytest.approx(own[normalisation]["stderr"])
    assert found["items"] == {"local": 5} and found["shots"] == {"local": 0}
    assert list((tmp_path / "evaluations").glob("harness-local-loglikelihood-*.jsonl"))


def test_the_protocol_names_the_version_of_each_task(task_file):
    task = Harness(str(task_file))
    about = task.protocol()
    assert task.label == "harness:local" and about["versions"] == {"local": 2.0} and about["lm_eval"]


def test_a_limit_is_spaced_and_examples_are_told(task_file):
    found = Harness(str(task_file)).run(Setting(language_model(), limit=2))
    assert found["items"] == {"local": 2}
    assert list(spaced(range(5), 2)) == [0, 2]
    assert list(spaced(range(3), None)) == list(spaced(range(3), 9)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("", {}, "harness needs the names of tasks"),
        ("{folder}/none.yaml", {}, "lm_eval knows no task .*none.yaml"),
        ("{folder}/bad.yaml", {}, "the task .*bad.yaml' cannot be used"),
        ("{file}", {"include": "{folder}/none"}, "harness.include = .*none is no folder"),
    ],
)
def test_what_cannot_be_used(task_file, tmp_path, source, options, said):
    (tmp_path / "bad.yaml").write_text(task_file.read_text().replace("local.jsonl", "none.jsonl"))
    names = {"folder": tmp_path, "file": task_file}
    options = {name: value.format(**names) for name, value in options.items()}
    with pytest.raises(UserError, match=said):
        Harness(source.format(**names), **options).protocol()


def test_a_field_that_the_data_lacks(task_file):
    task_file.write_text(task_file.read_text().replace("{{query}}", "{{question}}"))
    with pytest.raises(UserError, match="local.yaml' cannot be used: 'question' is undefined"):
        Harness(str(task_file)).protocol()


def test_the_package_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match="the task harness needs the package lm_eval.*scratchpatch.lm_eval."):
        Harness("arc_easy").protocol()


def run(*command):
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-m", *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_both_command_lines(task_file, tmp_path):
    workdir = tmp_path / "model"
    export(language_model(), workdir)
    ours = json.loads(
        run("scratchpatch", "eval", f"--workdir={workdir}", f"--task=harness:{task_file}", "--json")
    )["tasks"][0]
    arguments = ["--model", "scratchpatch", "--model_args", f"workdir={workdir}", "--tasks", "local"]
    places = ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    run("scratchpatch.tasks.lm_eval", "run", *arguments, *places)
    (path,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(path.read_text())
    for metric in METRICS:
        assert theirs["results"]["local"][f"{metric},none"] == ours["results"]["metrics"]["local"][metric]
    assert theirs["config"]["fingerprint"] == ours["protocol"]["model"]["fingerprint"]
