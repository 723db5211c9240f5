import pytest

from scratchpatch.data.mixture import evaluation_stream, streams_for
from scratchpatch.errors import UserError


@pytest.fixture
def two(write_texts):
    return write_texts([b"a%d" % i for i in range(30)], "a"), write_texts([b"b%d" % i for i in range(20)], "b")


def read(config, split):
    return [(stream.spec, stream.split, weight) for stream, weight in streams_for(config, split)]


def test_sources_are_dealt_into_splits(make_config, two):
    a, b = two
    config = make_config([(a, 1), (b, 3)])
    for split in ("train", "validation", "test", "all"):
        assert read(config, split) == [(a, split, 1.0), (b, split, 3.0)]


def test_validation_sources_are_read_whole_and_free_the_rest_for_training(make_config, two):
    a, b = two
    config = make_config([(a, 1), ("stdlib:code", 2)], [(b, 1), ("stdlib:code", 1)])
    assert read(config, "train") == [(a, "all", 1.0), ("stdlib:code", "train", 2.0)]
    assert read(config, "validation") == [(b, "all", 1.0), ("stdlib:code", "validation", 1.0)]
    with pytest.raises(UserError, match="leaves no test split"):
        streams_for(config, "test")


def test_evaluation_honours_the_split_of_what_was_trained_on_only(make_config, two, tmp_path, monkeypatch):
    a, b = two
    config = make_config([(a, 1)])
    assert evaluation_stream(config, a, "validation").split == "validation"
    assert evaluation_stream(config, b, "validation").split == "all"
    assert evaluation_stream(config, "stdlib:code", "test").split == "test"
    monkeypatch.chdir(tmp_path)
    assert evaluation_stream(config, "text:./a/*.txt", "test").split == "test"
    config = make_config([(a, 1)], [(b, 1)])
    assert evaluation_stream(config, b, "validation").split == "all"
    assert evaluation_stream(config, a, "validation").split == "all"


def test_bad_records_follow_the_config(make_config, write_lines):
    spec, _ = write_lines([{"text": "a"}, b"?", {"text": "b"}])
    with pytest.raises(UserError, match=":2: not JSON"):
        streams_for(make_config([(spec, 1)]), "train")
    ((stream, _),) = streams_for(make_config([(spec, 1)], on_bad_record="skip"), "train")
    assert stream.skipped == 1


def test_a_wrong_split_is_named(make_config, two):
    for ask in (lambda c: streams_for(c, "dev"), lambda c: evaluation_stream(c, two[0], "dev")):
        with pytest.raises(UserError, match="'dev' is unknown"):
            ask(make_config([(two[0], 1)]))
