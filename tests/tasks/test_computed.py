"""Bytes that must be computed: where they are, and what a model is said to know of them."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from scratchpatch.errors import UserError
from scratchpatch.tasks import computed
from scratchpatch.tasks.computed import Computed, Span, spans, whole
from scratchpatch.tasks.items import Item
from scratchpatch.tasks.requests import Passage, Passed, answer
from scratchpatch.tasks.task import Setting
from tests.inference import test_tokens
from tests.tasks.models import language_model

ANSWER = b"She sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = $<<48+24=72>>72.\n#### 72"


def texts(answer: bytes) -> list[tuple[str, bytes]]:
    return [(span.kind, answer[span.start : span.end]) for span in spans(answer)]


def test_results_their_copies_and_the_final_answer_are_found():
    assert texts(ANSWER) == [
        ("calculated", b"24"),
        ("copied", b"24"),
        ("calculated", b"72"),
        ("copied", b"72"),
        ("final", b"72"),
    ]
    assert spans(ANSWER)[0] == Span("calculated", 23, 25)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (b"<<1+1=2>>3", [("calculated", b"2")]),
        (b"<<1+1=2>>25", [("calculated", b"2")]),
        (b"<<1+1=2>>2.5", [("calculated", b"2")]),
        (b"<<1+1=2>>2.", [("calculated", b"2"), ("copied", b"2")]),
        (b"<<a=1+1=2>>", [("calculated", b"2")]),
        (b"<<12>>12", []),
        (b"<<1+1=>>2", []),
        (b"<<1+1\n=2>>", []),
        (b"1 << 2 and 3 >> 1", []),
        (b"####  1,000 \nmore", [("final", b"1,000")]),
        (b"#### ", []),
        (b"#### <<1+1=2>>", [("final", b"<<1+1=2>>")]),
        ("#### 7 \u20ac".encode(), [("final", "7 \u20ac".encode())]),
    ],
)
def test_texts_that_are_nearly_so(answer, wanted):
    assert texts(answer) == wanted


@given(st.lists(st.sampled_from([b"<<", b">>", b"=", b"#### ", b"12", b"2", b"\n", b" ", b"x", b"."]), max_size=40))
def test_spans_are_in_order_and_do_not_overlap(parts):
    text = b"".join(parts)
    ends = [0]
    for span in spans(text):
        assert ends[-1] <= span.start < span.end <= len(text)
        assert b"\n" not in text[span.start : span.end]
        ends.append(span.end)


def passed(size: int, wrong=()) -> Passed:
    best = np.ones(size, bool)
    best[list(wrong)] = False
    return Passed(np.full(size, math.log(2)) * np.arange(size), best, np.ones(size, bool), 0, 0)


def test_an_answer_of_a_model_of_tokens_ends_with_the_token_that_holds_its_last_byte():
    text, ends = b"<<(4+1=5)>>5. #### 5", np.zeros(20, bool)
    # Tokens "<<(", "4", "+", "1", "=", "5", ")>>", "5", ". ", "####", " 5": all answers end where tokens do.
    ends[[2, 3, 4, 5, 6, 7, 10, 11, 13, 17, 19]] = True
    assert [text[a:b] for _, a, b in whole(spans(text), ends)] == [b"5)>>", b"5"]
    # Answers are "5)" and "5", and of "5)>>5" in one token the first has all.
    merged = [Span("calculated", 7, 9), Span("copied", 11, 12), Span("final", 19, 20)]
    assert whole(merged, ends) == [Span("calculated", 7, 11), *merged[1:]]
    ends[[7, 10]] = False
    assert whole(merged, ends) == [Span("calculated", 7, 12), Span("final", 19, 20)]
    assert whole(merged, np.ones(20, bool)) == merged


def test_an_answer_is_right_where_each_of_its_bytes_is_the_likeliest():
    text = b"q?\n" + ANSWER
    task, item = Computed(), Item((Passage(text),), (3, spans(ANSWER)))
    # The second digit of the first result, the first of the final answer, and a byte of the question.
    grade = task.grade(item, [passed(len(text), wrong=(3 + 24, len(text) - 2, 0))])
    places = [3 + n for span in spans(ANSWER) if span.kind == "calculated" for n in range(span.start, span.end)]
    counts = {"answers": 2, "right": 1, "bytes": 4, "right_bytes": 3}
    assert grade["calculated"] == counts | {"nats": pytest.approx(math.log(2) * sum(places))}
    assert grade["copied"]["right"] == 2
    assert grade["final"] | {"nats": 0} == {"answers": 1, "right": 0, "bytes": 2, "right_bytes": 1, "nats": 0}
    assert grade["other"]["bytes"] == len(ANSWER) - 10
    total = sum(grade[kind]["nats"] for kind in (*computed.KINDS, "other"))
    assert total == pytest.approx(math.log(2) * sum(range(3, len(text))))


def test_numbers_are_of_all_documents_together():
    def grade(right, nats):
        kind = {"answers": 2, "right": right, "bytes": 4, "right_bytes": 2 * right, "nats": nats}
        nothing = dict.fromkeys(kind, 0)
        other = {"bytes": 10, "right_bytes": 5, "nats": 10 * math.log(2)}
        return {"calculated": kind, "copied": nothing, "final": nothing, "other": other}

    numbers = Computed().summary([grade(2, 0.0), grade(1, 8 * math.log(2))], None)
    assert numbers.keys() == {"calculated", "other"}
    assert numbers["calculated"]["accuracy"] == 0.75 and numbers["calculated"]["bpb"] == pytest.approx(1.0)
    assert numbers["calculated"]["answers"] == 4 and numbers["calculated"]["bytes"] == 8
    assert numbers["calculated"]["standard_errors"]["accuracy"] == pytest.approx(0.25)
    assert numbers["other"]["bpb"] == pytest.approx(1.0) and numbers["other"]["byte_accuracy"] == 0.5
    assert numbers["other"]["standard_errors"]["bpb"] == pytest.approx(0.0)


def test_a_model_is_measured(file):
    """Longer than the window of 32, and as `LanguageModel.score` has it."""
    source = file({"question": "How many?", "answer": ANSWER.decode()}, {"text": "x <<1+1=2>>2\n#### 2"})
    numbers = Computed(source=source).run(Setting(language_model()))
    scores = language_model().score(b"How many?\n" + ANSWER)
    other = np.ones(len(scores), bool)
    other[:10] = False
    for span in spans(ANSWER):
        other[10 + span.start : 10 + span.end] = False
    text = b"x <<1+1=2>>2\n#### 2"
    more = language_model().score(text)
    others = [n for n in range(len(text)) if n not in (8, 11, 18)]
    bits = -scores[other].sum() - more[others].sum()
    assert numbers["items"] == 2
    assert numbers["other"]["bpb"] == pytest.approx(bits / (other.sum() + len(others)), rel=1e-5)
    assert numbers["final"]["answers"] == 2 and numbers["calculated"]["answers"] == 3


def test_of_a_model_of_tokens_every_bit_is_counted_once_and_bytes_are_right_with_their_token(file):
    lm, text = test_tokens.language_model(), "She has 19 mats: <<19+19=38>>38.\n#### 38"
    numbers = Computed(source=file({"text": text})).run(Setting(lm))
    assert {kind: numbers[kind]["answers"] for kind in computed.KINDS} == dict.fromkeys(computed.KINDS, 1)
    kinds = [numbers[kind] for kind in (*computed.KINDS, "other")]
    assert sum(kind["bpb"] * kind["bytes"] for kind in kinds) == pytest.approx(-lm.score(text.encode()).sum(), rel=1e-5)
    sizes = lm.token_bytes[lm.tokens(text.encode())[1:]]
    (passed,) = answer(lm, [Passage(text.encode())])
    assert sizes.max() > 1 and (passed.best == np.repeat(passed.best[np.cumsum(sizes) - 1], sizes)).all()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"question": "a", "answer": "#### 1"}, {"question": "a"}], "line 2: Object missing required field answer"),
        ([{"question": "a", "answer": ""}], r"line 1: Expected str of length >= 1 - at \$.answer"),
        ([{"text": 3}], "line 1: Expected str"),
        ([{"text": "no result"}], "no answers that must be computed"),
        ([], "is empty"),
        (["{"], "line 1: it is no JSON"),
        ([r'{"text": "\ud800"}'], "line 1: .*surrogates not allowed"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(file, lines, said):
    with pytest.raises(UserError, match=f"lines.jsonl.*{said}"):
        Computed(source=file(*lines)).protocol()


def test_a_file_must_be_named():
    with pytest.raises(UserError, match="name it, such as --task=computed:"):
        Computed().protocol()
