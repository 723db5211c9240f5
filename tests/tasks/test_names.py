"""Tasks as the command line names them."""

import pytest

from scratchpatch.errors import UserError
from scratchpatch.tasks import names
from tests.tasks.models import Letters


@pytest.fixture(autouse=True)
def letters(monkeypatch):
    monkeypatch.setitem(names.TASKS, "letters", Letters)


def test_a_source_and_options_are_set():
    tasks = names.parse("letters:a/b.jsonl,letters", ["letters.count=3", "letters.letters=y+z"])
    assert tasks == [Letters("a/b.jsonl", 3, ("y", "z")), Letters("", 3, ("y", "z"))]
    assert [task.label for task in tasks] == ["letters:b", "letters"]


@pytest.mark.parametrize(
    ("specs", "options", "said"),
    [
        ("leters", [], "no task 'leters': did you mean 'letters'"),
        ("letters", ["letters.cont=3"], "no option of letters 'cont': did you mean 'count'"),
        ("letters", ["letters.count=many"], "letters.count=many: expected `int`"),
        ("letters", ["count=3"], "wanted NAME.FIELD=VALUE"),
        ("", [], "no task ''"),
    ],
)
def test_what_cannot_be_is_named(specs, options, said):
    with pytest.raises(UserError, match=said):
        names.parse(specs, options)


def test_the_list_tells_all_tasks_and_their_options():
    assert all(f"{name}\n" in names.listing() for name in names.TASKS)
    assert "--option letters.count=6" in names.listing()
