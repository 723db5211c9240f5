"""Tasks of items: asked in any order, stored as they come, and gone on with after a stop."""

import dataclasses
import json

import pytest

from scratchpatch.errors import UserError
from scratchpatch.tasks import evaluate, items, requests
from scratchpatch.tasks.task import Setting
from tests.tasks.models import Letters, language_model


def run(folder=None, limit=None, task=None):
    return (task or Letters()).run(Setting(language_model(), folder=folder, limit=limit))


@pytest.fixture
def asked(monkeypatch):
    """The requests that the model is asked, in order."""
    seen, answer = [], requests.answer

    def noted(lm, requests, progress=None):
        seen.extend(requests)
        return answer(lm, requests, progress)

    monkeypatch.setattr(requests, "answer", noted)
    return seen


def test_grades_come_in_the_order_of_items_whatever_was_asked_first(asked):
    assert run()["letters"] == [97, 98, 99, 100, 101, 102]
    assert [len(request.context) for request in asked] == [45, 36, 27, 18, 9, 0]


def test_a_stop_costs_no_answer_that_is_stored(tmp_path, asked, monkeypatch):
    whole = run()
    monkeypatch.setattr(items, "_REQUESTS", 2)
    del asked[:]

    class Stopped(Letters):
        def grade(self, item, answers):
            if len(asked) > 4:
                raise KeyboardInterrupt
            return super().grade(item, answers)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, task=Stopped())
    del asked[:]
    assert run(tmp_path) == whole
    assert len(asked) == 2
    del asked[:]
    assert run(tmp_path) == whole
    assert not asked, "what is finished is asked again"


def test_another_protocol_or_limit_is_asked_anew(tmp_path, asked):
    run(tmp_path)
    del asked[:]
    assert run(tmp_path, limit=3)["letters"] == [97, 99, 101]
    assert len(asked) == 3
    assert len(run(tmp_path, task=Letters(count=2))["letters"]) == 2
    assert len(list(tmp_path.glob("letters-*.jsonl"))) == 3


def test_two_evaluations_of_the_same_do_not_mix(tmp_path):
    with items._store("letters", Letters().protocol(), Setting(language_model(), folder=tmp_path)):
        with pytest.raises(UserError, match="is being written by another process"):
            run(tmp_path)


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert run(blocked / "below") == run()


def test_results_have_the_protocol_to_repeat_them(tmp_path):
    setting = Setting(language_model(), folder=tmp_path, limit=4)
    (answer,) = evaluate.evaluate([dataclasses.replace(Letters(), source="x/y.jsonl.gz")], setting)
    assert answer["task"] == "letters:y"
    assert answer["results"]["items"] == 4
    about = answer["protocol"]
    assert about["task"] == {"name": "letters", "source": "x/y.jsonl.gz", "count": 6}
    assert about["limit"] == 4 and about["model"]["step"] == 7 and about["model"]["window"] == 32
    assert about["model"]["trigger.threshold"] == 4.0 and about["packages"].keys() >= {"jax", "scratchpatch"}
    (path,) = tmp_path.glob("letters-y-*-step-7.json")
    stored = json.loads(path.read_text())
    assert stored == answer
    assert "letters:y" in evaluate.table({"tasks": [answer]})


def test_objects_of_the_same_fields_are_rows_of_one_table():
    groups = {"eng": {"bpb": 1.0}, "deu": {"bpb": 2.0}}
    text = evaluate.table({"tasks": [{"task": "t", "results": {"items": 2, "groups": groups, "one": {"a": {"b": 1}}}}]})
    assert text.splitlines() == ["t", "  items    2", "  one.a.b  1", "", "  groups  bpb", "  eng     1", "  deu     2"]
