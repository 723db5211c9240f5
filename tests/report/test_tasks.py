"""What tasks have measured, on the page of a run."""

import json
import re

import pytest

from scratchpatch.evaluation import sweep
from scratchpatch.report import tasks
from scratchpatch.report.evaluation import write_tasks
from scratchpatch.report.page import write_report
from scratchpatch.tasks.compute import TRAINED
from tests.report import pages
from tests.report.pages import Page, write_run

GROUPS = {
    name: {"bpb": bpb, "bytes": 1000 * calls, "trunk_calls_per_sentence": calls, "bits_premium": bpb / 2}
    for name, bpb, calls in (("eng", 2.0, 31), ("deu<b>", 3.0, 39), ("mya", 4.5, 113))
}
LANGUAGES = {
    "items": 40,
    "bpb": 2.54321,
    "bpb_stderr": 0.0123,
    "by": "language",
    "reference": "eng",
    "spread": {"bpb": {"mean": 3.0}},
    "groups": GROUPS,
}
POINTS = {
    name: {
        "bpb": 2.5,
        "scoring_bpb": 2.5,
        "scoring_seconds_per_byte": 1e-6 * k,
        "generation_seconds_per_byte": 1e-4 * k,
    }
    for k, name in enumerate((TRAINED, "none", "2.5", "every byte"), start=2)
}
COMPUTE = {"bytes": 65504, "device": "1 x cpu", sweep.TRIGGER: POINTS}
OPTIONS = {"name": "bpb", "source": "x", "checksum": "0f", "by": "language", "reference": "", "long": "x" * 99}
CHOICE = {"accuracy": {"raw": {"mean": 0.5, "stderr": 0.01}}, "chance": 0.25, "groups": {"a": {"raw": 1.0}}}


def answer(label, results, **protocol):
    return {"task": label, "results": results, "protocol": protocol, "seconds": 12.345}


ANSWERS = [answer("bpb:x", LANGUAGES, limit=40, task=OPTIONS), answer("compute", COMPUTE), answer("choice:arc", CHOICE)]


@pytest.fixture
def run(tmp_path):
    """A run with answers of two steps, and files beside them that are none."""
    lines = [{"step": 1, "bpb": 8.0}, {"step": 2, "bpb": 7.0}]
    for step in (1, 2):
        numbers = {"task/choice:arc/items": 9, "task/choice:arc/accuracy": step / 4, "task/bpb:x/bpb": 8.0 - step}
        lines.append({"step": step, **numbers})
    folder = write_run(tmp_path / "run", None, lines)
    (folder / "evaluations").mkdir()
    for step, answers in ((9, [answer("stale", {"bpb": 1.0})]), (10, ANSWERS)):
        for k, each in enumerate(answers):
            (folder / "evaluations" / f"{k}-step-{step}.json").write_text(json.dumps(each))
    (folder / "evaluations" / "damaged-step-10.json").write_text('{"task": 3}')
    (folder / "evaluations" / "bpb-0123.jsonl.about.json").write_text("{}")
    return folder


def test_the_page_has_the_answers_of_the_newest_step(run):
    text = write_report(run).read_text()
    page = Page(text)
    assert page.open == [] and pages.loads(text) == [] and len(page.ids) == len(set(page.ids))
    for said in (
        *("bpb:x", "2.543 ± 0.012", "by = language, limit = 40", "accuracy, raw, mean", "0.5 ± 0.01"),
        *("1 x cpu", "12.3"),
        *("Scoring: microseconds per byte", "Generation: microseconds per byte", "bpb:x: 3 groups, by language"),
        *("deu<b>", "Accuracy, in training", "Bits per byte, in training", "Trunk calls per sentence"),
    ):
        assert said in page.text, said
    assert "stale" not in page.text
    # The loss, two curves by step, the bars, and two costs.
    assert len(page.named("svg")) == 6


def test_one_task_with_two_options_stands_there_twice(run):
    other = answer("bpb:x", LANGUAGES, limit=20, task=OPTIONS)
    (run / "evaluations" / "again-step-10.json").write_text(json.dumps(other))
    page = Page(write_report(run).read_text())
    assert "limit = 20" in page.text and len(page.ids) == len(set(page.ids))


def test_a_run_without_tasks_says_nothing_of_them(tmp_path):
    text = write_report(write_run(tmp_path / "run", None, [{"step": 1, "bpb": 8.0}])).read_text()
    assert "<h2>Tasks</h2>" not in text


def test_another_model_than_the_runs_is_told():
    different = answer("bpb", {"bpb": 1.0}, model={"trigger.threshold": 2.0, "step": 3, "patching.kind": "fixed"})
    html = tasks.table([different], {"trigger.threshold": 1.5, "patching.kind": "fixed"})
    assert "trigger.threshold = 2.0" in html and "patching.kind" not in html


def test_costs_have_a_point_for_each_threshold_and_the_trained_one():
    (scoring, generation) = tasks.drawn(ANSWERS[1])
    for name in ("none", "2.5", "every byte", TRAINED, "by trigger.threshold", "microseconds per byte on 1 x cpu"):
        assert f">{name}</text>" in scoring, name
    assert scoring != generation


def test_what_is_missing_is_left_out():
    nothing = answer("compute", {"device": 3, sweep.TRIGGER: {"none": {"bpb": None}}, "groups": 7, "reference": {}})
    assert tasks.drawn(nothing) == [] and tasks.groups(nothing) == "" and tasks.files(nothing) == {}
    assert "compute" in tasks.table([nothing], {})
    assert tasks.curves([{"step": 1, "task/x/items": 3}]) == []


def test_figures_are_files_too_and_the_page_is_made_anew(run, tmp_path):
    write_tasks(tmp_path, ANSWERS, run)
    names = {re.sub("-[0-9a-f]{8}-", "-", path.name) for path in tmp_path.glob("*.svg")}
    assert names == {
        "bpb-x-trunk-calls-per-sentence.svg",
        "compute-scoring-microseconds-per-byte.svg",
        "compute-generation-microseconds-per-byte.svg",
    }
    assert (run / "report.html").exists()


def test_what_cannot_be_written_is_a_warning(run, tmp_path, caplog):
    write_tasks(tmp_path / "absent", ANSWERS[:1], None)
    assert "is not written" in caplog.text and not (run / "report.html").exists()
