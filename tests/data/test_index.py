import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from scratchpatch.data import build
from scratchpatch.data.index import open_stream
from scratchpatch.errors import UserError
from scratchpatch.preparation.folder import prepare
from scratchpatch.vocabulary import BYTES

SPLITS = ("train", "validation", "test")


def test_awkward_documents_survive(write_texts, cache, awkward):
    stream = open_stream(write_texts(awkward), "all", cache)
    assert list(stream.documents_iter()) == awkward
    assert stream.read(0, len(stream)).tolist() == [t for d in awkward for t in (BYTES.bos, *d)]
    assert (stream.documents, stream.bytes, stream.skipped) == (len(awkward), sum(map(len, awkward)), 0)


@settings(max_examples=15, deadline=None)
@given(documents=st.lists(st.binary(min_size=1, max_size=6), min_size=3, max_size=30))
def test_splits_are_disjoint_and_cover_all(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("texts")
    documents = [b"%d:" % i + d for i, d in enumerate(documents)]
    for number, data in enumerate(documents):
        (folder / f"{number:04}").write_bytes(data)
    spec, cache = f"text:{folder}/*", str(folder / "cache")
    dealt = {split: documents_of(spec, split, cache, 0.3) for split in (*SPLITS, "all")}
    assert dealt["all"] == documents
    assert Counter(dealt["train"] + dealt["validation"] + dealt["test"]) == Counter(documents)


def documents_of(spec, split, cache, held_out=0.2):
    """Those of a split; none where the split is empty."""
    try:
        return list(open_stream(spec, split, cache, held_out=held_out).documents_iter())
    except UserError as error:
        assert "split is empty" in str(error)
        return []


@settings(max_examples=8, deadline=None)
@given(
    documents=st.lists(st.binary(min_size=1, max_size=3), min_size=3, max_size=30),
    more=st.lists(st.binary(min_size=1, max_size=3)),
)
def test_a_document_that_is_added_moves_no_other_and_equal_ones_are_on_one_side(tmp_path_factory, documents, more):
    folder = tmp_path_factory.mktemp("texts")
    spec, cache = f"text:{folder}/*.txt", str(folder / "cache")
    sides = []
    for names, texts in ((range(500, 900), documents), (range(1000), more)):
        for number, data in zip(names, texts, strict=False):
            (folder / f"{number:04}.txt").write_bytes(data)
        sides.append({split: set(documents_of(spec, split, cache)) for split in SPLITS})
    before, after = sides
    for split in SPLITS:
        others = set().union(*(after[other] for other in SPLITS if other != split))
        assert not (before[split] | after[split]) & others


def test_a_document_falls_where_a_prepared_folder_puts_it(write_texts, cache, tmp_path):
    spec = write_texts([b"document %d" % i for i in range(120)])
    prepare(spec, str(tmp_path / "prepared"), held_out=0.2)
    for split in SPLITS:
        prepared = documents_of(f"prepared:{tmp_path}/prepared", split, cache)
        assert sorted(documents_of(spec, split, cache)) == sorted(prepared)


def test_another_share_is_another_index(write_texts, cache):
    spec = write_texts([b"document %d" % i for i in range(200)])
    few, many = (set(documents_of(spec, "validation", cache, share)) for share in (0.05, 0.3))
    assert few < many


def test_the_only_document_is_cut_by_bytes(write_texts, cache):
    text = bytes(range(200))
    spec = write_texts([text])
    pieces = [list(open_stream(spec, split, cache).documents_iter()) for split in SPLITS]
    assert pieces == [[text[:180]], [text[180:190]], [text[190:]]]
    assert list(open_stream(spec, "all", cache).documents_iter()) == [text]
    stream = open_stream(spec, "validation", cache)
    assert stream.read(0, 3).tolist() == [BYTES.bos, 180, 181]


def test_a_split_without_documents_is_an_error(write_texts, cache):
    spec = write_texts([b"one", b"two", b""])
    says = r"the validation split is empty.* of 3 document\(s\) none with bytes falls into its 2\.5%"
    with pytest.raises(UserError, match=says) as caught:
        open_stream(spec, "validation", cache)
    share = float(re.search(r"set data\.held_out = ([\d.]+) ", str(caught.value))[1])
    assert open_stream(spec, "validation", cache, held_out=share).documents == 1
    assert documents_of(spec, "validation", cache, share - 0.001) == []
    assert sorted(documents_of(spec, "train", cache, share)) in ([b"", b"one"], [b"", b"two"], [b"one"], [b"two"])
    with pytest.raises(UserError, match=r"the test split is empty.*give it more documents"):
        open_stream(spec, "test", cache)


def test_where_no_share_would_do_none_is_named(write_texts, cache):
    spec = write_texts([b"the same"] * 5)
    with pytest.raises(UserError) as caught:
        open_stream(spec, "validation", cache)
    assert "name data.validation_sources" in str(caught.value) and "held_out" not in str(caught.value)


def test_a_docstring_is_held_out_with_its_code_and_equal_documents_are_on_one_side(cache):
    streams = {
        (kind, split): open_stream(f"stdlib:{kind}", split, cache) for kind in ("code", "prose") for split in SPLITS
    }
    trained_on = streams["code", "train"].concatenated()
    lines = set(trained_on.split(b"\n"))
    for split in ("validation", "test"):
        assert 0.02 < streams["code", split].bytes / streams["code", "train"].bytes < 0.1
        held_out = [d for d in streams["prose", split].documents_iter() if d.count(b"\n") > 8 and d.isascii()]
        # A text stands in another only where its inner lines are lines there, which is found out faster.
        leaks = [d for d in held_out if set(d.strip().split(b"\n")[1:-1]) <= lines and d.strip() in trained_on]
        assert held_out and not leaks
        for kind in ("code", "prose"):
            held_out = set(streams[kind, split].documents_iter())
            assert held_out.isdisjoint(streams[kind, "train"].documents_iter())


def test_the_text_of_a_run_has_the_checksum_and_key_that_it_had(write_texts, cache):
    """Numbers of before indexes were sealed: a run refuses other checksums, and entropies are found by the keys."""
    many = write_texts([b"document %d " % i * (i * i) for i in range(40)])
    one = write_texts([bytes(range(200)) * 500], "one")
    streams = [open_stream(spec, split, cache, held_out=0.2) for spec in (many, one) for split in ("train", "all")]
    assert [(len(stream), stream.documents, stream.checksum, stream.key()) for stream in streams] == [
        (99170, 21, "2013ebb2144c7cc7800c8a71ea163cec", "3e1fef7e1cfd0d7412cbc367"),
        (246235, 40, "93a6813836f57d25da0eac8959d5b5e1", "3d4e840acfac4e37820e0043"),
        (90001, 1, "ae2896d251fa082ea643a8b514cc7348", "43f3d128be69b265820ed778"),
        (100001, 1, "ce5ea28132135c47814af9e03b7d94e1", "4f614dc43b7889230925bc10"),
    ]


def test_an_index_is_built_once_and_read_again(write_texts, cache, monkeypatch):
    spec = write_texts([b"%d" % i for i in range(200)])
    first = open_stream(spec, "train", cache)
    monkeypatch.setattr(build, "build", lambda *_: pytest.fail("built again"))
    again = open_stream(spec, "train", cache)
    assert again.concatenated() == first.concatenated() and again.checksum == first.checksum
    assert 0 < open_stream(spec, "validation", cache).documents < 20


def test_a_changed_file_gets_a_new_index(write_texts, cache, tmp_path):
    spec = write_texts([b"a", b"b"])
    before = open_stream(spec, "all", cache)
    path = tmp_path / "texts" / "0000.txt"
    path.write_bytes(b"z")
    os.utime(path, ns=(1, 1))
    after = open_stream(spec, "all", cache)
    assert (before.concatenated(), after.concatenated()) == (b"ab", b"zb")
    assert before.checksum != after.checksum


def test_a_truncated_index_is_built_again(write_texts, cache):
    spec = write_texts([b"abc", b"def"])
    open_stream(spec, "all", cache)
    (stream,) = Path(cache).glob("index/*/all.bin")
    stream.write_bytes(b"")
    assert open_stream(spec, "all", cache).concatenated() == b"abcdef"


def test_skipped_records_are_reported_and_an_error_where_not_allowed(write_lines, cache):
    spec, path = write_lines([{"text": "a"}, b"?", {"text": "b"}, {"body": "c"}])
    for _ in range(2):
        stream = open_stream(spec, "all", cache, "skip")
        assert (stream.skipped, list(stream.documents_iter())) == (2, [b"a", b"b"])
        with pytest.raises(UserError, match=rf"{path}:2: not JSON.*on_bad_record=skip"):
            open_stream(spec, "all", cache, "error")


def test_processes_that_build_at_once_agree(write_texts, cache):
    spec = write_texts([b"%d" % i * 20 for i in range(400)])
    code = (
        "import sys; from scratchpatch.data.index import open_stream;"
        "sys.stdin.readline(); print(open_stream(sys.argv[1], 'train', sys.argv[2]).checksum)"
    )
    command = [sys.executable, "-c", code, spec, cache]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = {process.communicate(timeout=60)[0] for process in both}
    assert outputs == {open_stream(spec, "train", cache).checksum + "\n"}
    assert len(list((Path(cache) / "index").iterdir())) == 1


def test_a_cache_that_cannot_be_written_names_the_fix(write_texts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot keep the stream index.*set data\.cache_dir"):
        open_stream(write_texts([b"a"]), "all", str(tmp_path / "file"))
