"""Bits per byte by group."""

import json

import numpy as np
import pytest

from scratchpatch.errors import UserError
from scratchpatch.inference import windows
from scratchpatch.tasks.bpb import BitsPerByte
from scratchpatch.tasks.task import Setting
from tests.tasks.models import language_model

TEXTS = {
    "eng": "One line.\nAnd a second one.\n\nThree",
    "fra": "Une ligne à lire.\nEt une deuxième.\n\nTrois",
    "ell": "Μία γραμμή.\n\n\nΤρία",
}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "aligned.jsonl"
    path.write_text("".join(json.dumps({"language": name, "text": text}) + "\n" for name, text in TEXTS.items()))
    return str(path)


def run(source, limit=None, **options):
    task = BitsPerByte(source, **options)
    task.protocol()
    return task.run(Setting(language_model(), limit=limit))


def bits(text):
    return -language_model().score(text.encode()).sum()


def test_a_group_has_the_bits_of_its_documents(source):
    results = run(source, by="language")
    assert results["groups"].keys() == TEXTS.keys()
    for name, text in TEXTS.items():
        group, size = results["groups"][name], len(text.encode())
        assert group["bpb"] * size == pytest.approx(bits(text), rel=1e-5)
        assert (group["bytes"], group["characters"]) == (size, len(text))
        assert group["bits_per_character"] == pytest.approx(bits(text) / len(text), rel=1e-5)
        assert group["bpb_stderr"] is None
    sentences = {name: group["sentences"] for name, group in results["groups"].items()}
    assert sentences == {"eng": 3, "fra": 3, "ell": 2}
    whole = sum(bits(text) for text in TEXTS.values()) / sum(len(text.encode()) for text in TEXTS.values())
    assert results["bpb"] == pytest.approx(whole, rel=1e-5)


def test_slots_are_those_of_the_model(source):
    lm, group = language_model(), run(source, by="language")["groups"]["ell"]
    parts = list(lm.positions(windows.Text(lm.tokens(TEXTS["ell"].encode()), lm.vocabulary)))
    commits, scratchpads = (sum(getattr(part, name).sum() for part in parts) for name in ("commit", "scratchpad"))
    positions = len(TEXTS["ell"].encode()) + 1
    assert group["bytes_per_patch"] == pytest.approx(positions / commits)
    assert group["trunk_calls_per_byte"] == pytest.approx((commits + scratchpads) / positions)
    assert group["trunk_calls_per_sentence"] == pytest.approx((commits + scratchpads) / 2)


def test_lines_are_aligned_documents(source):
    results = run(source, by="language", lines=True)
    assert results["items"] == 3 and results["documents"] == 8 and results["sentences"] == 8
    group = results["groups"]["ell"]
    lines = ["Μία γραμμή.", "Τρία"]
    assert group["bits_per_sentence"] == pytest.approx(sum(map(bits, lines)) / 2, rel=1e-5)
    # The reference has a line more, which no premium counts.
    assert results["reference"] == "eng"
    assert group["bytes_premium"] == pytest.approx(sum(len(line.encode()) for line in lines) / len("One line.Three"))
    assert group["bits_premium"] == pytest.approx(sum(map(bits, lines)) / (bits("One line.") + bits("Three")), rel=1e-5)
    assert group["bits_premium_stderr"] >= 0
    assert results["groups"]["eng"]["trunk_calls_premium"] == 1


def test_a_limit_leaves_lines_aligned(source):
    results = run(source, limit=2, by="language", lines=True)
    assert [group["documents"] for group in results["groups"].values()] == [2, 2, 1]
    assert results["groups"]["eng"]["bytes"] == len("One line.And a second one.")


def test_a_group_that_says_it_twice_counts_once_in_premiums(tmp_path):
    path = tmp_path / "twice.jsonl"
    texts = [("eng", "abcd\nef"), ("xyz", "abcdabcd\nef"), ("xyz", "abcd\nef")]
    path.write_text("".join(json.dumps({"lang": name, "text": text}) + "\n" for name, text in texts))
    groups = run(str(path), by="language", lines=True)["groups"]
    assert groups["xyz"]["documents"] == 4
    assert groups["xyz"]["bytes_premium"] == pytest.approx((6 + 2) / (4 + 2))


def test_the_spread_names_both_ends(source):
    results = run(source, by="language")
    values = {name: group["bytes_per_sentence"] for name, group in results["groups"].items()}
    spread = results["spread"]["bytes_per_sentence"]
    assert (spread["lowest"], spread["highest"]) == (min(values, key=values.get), max(values, key=values.get))
    assert spread["sd"] == pytest.approx(np.std(list(values.values()), ddof=1))


def test_beginnings_alone_are_scored(source):
    group = run(source, by="language", bytes=8)["groups"]["ell"]
    assert (group["bytes"], group["characters"]) == (7, 4)


def test_one_group_has_no_spread_and_no_premium(source):
    results = run(source, by="source")
    assert results["spread"] == {} and list(results["groups"]) == ["aligned.jsonl"]
    assert "bits_premium" not in results["groups"]["aligned.jsonl"]
    assert results["bpb_stderr"] > 0


def test_bad_options_are_named(source):
    with pytest.raises(UserError, match="bpb.bytes = -1 must be 0 or more"):
        BitsPerByte(source, bytes=-1).protocol()
    with pytest.raises(UserError, match="bpb.reference = deu is no group of .*: it has ell, eng, fra"):
        BitsPerByte(source, by="language", reference="deu").protocol()


def test_the_protocol_tells_texts_apart(source, tmp_path):
    before = BitsPerByte(source, by="language").protocol()
    assert before == BitsPerByte(source, by="language").protocol()
    (tmp_path / "aligned.jsonl").write_text('{"language": "eng", "text": "other"}\n')
    assert BitsPerByte(source, by="language").protocol()["checksum"] != before["checksum"]
