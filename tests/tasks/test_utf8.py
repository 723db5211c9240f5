"""Is what the model writes UTF-8?"""

import pytest
from hypothesis import given, strategies as st

from scratchpatch.errors import UserError
from scratchpatch.tasks.task import Setting
from scratchpatch.tasks.utf8 import Utf8, invalid_bytes
from tests.tasks.models import language_model


@pytest.mark.parametrize(
    ("data", "cut", "invalid"),
    [
        (b"", True, 0),
        ("é€x".encode(), False, 0),
        (b"a\xc3", True, 0),
        (b"a\xc3", False, 1),
        (b"\xe2\x82", True, 0),
        (b"\xe2\x82a", True, 2),
        (b"\xe2\x82\xc3\xa9", True, 2),
        (b"\x80\xff", True, 2),
        (b"\xed\xa0\x80", False, 3),
        (b"\xf0\x9f", False, 2),
    ],
)
def test_invalid_bytes_are_those_of_no_character(data, cut, invalid):
    assert invalid_bytes(data, cut) == invalid


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.integers(0, 3))
def test_text_is_valid_wherever_it_is_cut(text, missing):
    data = text.encode()
    assert invalid_bytes(data[: len(data) - missing], cut=True) == 0


@given(st.binary())
def test_what_is_left_out_is_text(data):
    assert (invalid_bytes(data, cut=False) == 0) == (data.decode(errors="replace").encode() == data)


def run(task):
    task.protocol()
    return task.run(Setting(language_model()))


def test_a_random_model_writes_no_text():
    lm, task = language_model(), Utf8(samples=5, bytes=12)
    results = run(task)
    outputs = [lm.generate(b"", max_bytes=12, temperature=1.0, seed=k) for k in range(5)]
    invalid = [invalid_bytes(data, cut=len(data) == 12) for data in outputs]
    assert results["bytes"] == sum(map(len, outputs))
    assert results["invalid_bytes"] == sum(invalid) > 0
    assert results["valid_outputs"] == sum(count == 0 for count in invalid) / 5
    assert results["invalid_bytes_share"] == pytest.approx(sum(invalid) / sum(map(len, outputs)))


def test_documents_are_gone_on_from(tmp_path):
    path = tmp_path / "three.jsonl"
    path.write_text("".join(f'{{"text": "é{k} and more"}}\n' for k in range(3)))
    task = Utf8(str(path), samples=2, bytes=4, prompt_bytes=3)
    assert [item.requests[0].prompt for item in task.items()] == ["é0".encode(), "é1".encode()]
    assert [item.requests[0].options.seed for item in task.items()] == [0, 1]
    assert run(task)["items"] == 2


def test_bad_options_are_named():
    with pytest.raises(UserError, match="utf8.samples = 0 must be 1 or more"):
        Utf8(samples=0).protocol()
    with pytest.raises(UserError, match="temperature = -1"):
        Utf8(temperature=-1).protocol()
