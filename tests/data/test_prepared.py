"""Prepared folders as sources of a config."""

import itertools
import json

import numpy as np
import pytest

from scratchpatch.checkpoints import run_text
from scratchpatch.data import checks, shards as shard_files
from scratchpatch.data.batches import Batches
from scratchpatch.data.entropies import open_entropies, place
from scratchpatch.data.index import open_stream
from scratchpatch.data.mixture import evaluation_stream, streams_for
from scratchpatch.errors import UserError
from scratchpatch.preparation.folder import prepare
from scratchpatch.vocabulary import BYTES

BOS, PAD = BYTES.bos, BYTES.pad


@pytest.fixture
def texts(write_texts):
    """The SPEC of sixty documents, one of which spans three blocks."""
    random = np.random.default_rng(0)
    sizes = [200_000, *random.integers(0, 3000, 59)]
    return write_texts([b"%d" % i + random.bytes(int(size)) for i, size in enumerate(sizes)])


@pytest.fixture
def prepared(texts, tmp_path):
    """The SPEC of a folder of four shards made of them."""
    prepare(texts, str(tmp_path / "prepared"), 4, 0.1)
    return f"prepared:{tmp_path}/prepared"


def tokens(documents) -> np.ndarray:
    return np.concatenate([[BOS, *data] for data in documents])


@pytest.mark.parametrize("split", ["train", "validation", "test", "all"])
def test_windows_are_those_of_the_documents_across_shards_and_blocks(prepared, cache, split):
    stream = open_stream(prepared, split, cache)
    wanted = tokens(stream.documents_iter())
    assert len(stream) == len(wanted) and stream.documents == (wanted == BOS).sum()
    np.testing.assert_array_equal(stream.read(0, len(stream) + 9), [*wanted, *[PAD] * 9])
    for window in (7, 1000, 65536, 100_000):
        rows = stream.read_windows(np.arange(stream.windows(window)), window)
        padded = np.append(wanted, np.full(window, PAD))
        np.testing.assert_array_equal(rows, [padded[k * window : (k + 1) * window + 1] for k in range(len(rows))])


def test_the_held_out_split_is_that_of_the_preparation(prepared, texts, make_config):
    config = make_config([(prepared, 1), (texts, 2)])
    assert [s.split for s, _ in streams_for(config, "validation")] == ["validation"] * 2
    config = make_config([(prepared, 1), (texts, 2)], [(texts, 1), (prepared, 1)])
    assert [s.split for s, _ in streams_for(config, "train")] == ["train", "all"]
    assert [s.split for s, _ in streams_for(config, "validation")] == ["all", "validation"]
    assert evaluation_stream(make_config([(texts, 1)]), prepared, "validation").split == "validation"


@pytest.mark.parametrize("processes, parts", [(2, 1), (4, 2), (8, 1)])
@pytest.mark.parametrize("url", [False, True])
def test_the_slices_of_any_hosts_are_the_batch_bit_for_bit(prepared, texts, make_config, processes, parts, url):
    spec = prepared.replace("prepared:", "prepared:file://") if url else prepared
    whole = Batches(make_config([(prepared, 1.0), (texts, 2.0)]))
    mine = np.array_split(np.arange(8 // parts), processes)
    hosts = [Batches(make_config([(spec, 1.0), (texts, 2.0)]), "train", rows, parts) for rows in mine]
    for step in (0, 3, 10_000):
        placed = np.concatenate([host.batch(step).reshape(parts, -1, 17) for host in hosts], axis=1)
        np.testing.assert_array_equal(placed.reshape(-1, 17), whole.batch(step))
    read = [list(itertools.islice(host.iterate(5), 2)) for host in hosts]
    for offset in range(2):
        placed = np.concatenate([got[offset][1].reshape(parts, -1, 17) for got in read], axis=1)
        np.testing.assert_array_equal(placed.reshape(-1, 17), whole.batch(5 + offset))


def test_one_epoch_of_a_mixture_holds_every_window_of_the_folder_once(prepared, texts, make_config):
    batches = Batches(make_config([(prepared, 1.0), (texts, 1.0)], window=1000))
    (stream, _), _ = batches.streams
    everything = stream.read_windows(np.arange(stream.windows(1000)), 1000)
    sources, windows = batches._order.rows(0, 4 * len(everything))
    mine = windows[sources == 0][: len(everything)]
    assert sorted(mine) == list(range(len(everything)))
    rows = np.concatenate([batches.batch(step) for step in range(len(sources) // 8)])
    np.testing.assert_array_equal(rows[sources[: len(rows)] == 0][: len(everything)], everything[mine])


def test_any_number_of_shards_gives_the_same_batches(prepared, texts, make_config, tmp_path):
    prepare(texts, str(tmp_path / "one"), 1, 0.1)
    one, four = (Batches(make_config([(spec, 1.0)])) for spec in (f"prepared:{tmp_path}/one", prepared))
    for step in (0, 500):
        np.testing.assert_array_equal(one.batch(step), four.batch(step))


def test_a_run_is_guarded_against_another_text_in_the_folder(prepared, write_texts, make_config, tmp_path):
    config = make_config([(prepared, 1.0)])
    run_text.guard(tmp_path, streams_for(config, "train"), streams_for(config, "validation"))
    run_text.guard(tmp_path, streams_for(config, "train"), streams_for(config, "validation"))
    (tmp_path / "prepared").rename(tmp_path / "before")
    prepare(write_texts([b"other %d" % i for i in range(40)], "other"), str(tmp_path / "prepared"), 4, 0.1)
    with pytest.raises(UserError, match="the text of prepared:.* is not what"):
        run_text.guard(tmp_path, streams_for(config, "train"), streams_for(config, "validation"))


def test_entropies_are_named_by_the_text_and_not_by_its_shards(prepared, texts, cache, tmp_path):
    prepare(texts, str(tmp_path / "one"), 1, 0.1)
    one, four = (open_stream(spec, "train", cache) for spec in (f"prepared:{tmp_path}/one", prepared))
    path = place(four, "model", cache)
    assert path == place(one, "model", cache) != place(open_stream(prepared, "test", cache), "model", cache)
    path.parent.mkdir(parents=True)
    values = np.arange(len(four), dtype="<f4")
    values.tofile(path)
    read = open_entropies(one, "model", cache).read_windows(np.array([3]), 50)
    np.testing.assert_array_equal(read[0], values[150:200])


def test_a_folder_of_another_format_is_refused(prepared, tmp_path, cache):
    path = tmp_path / "prepared/meta.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(UserError, match="meta.json is of format 1, not 2: remove the folder and prepare it anew"):
        open_stream(prepared, "train", cache)
    (tmp_path / "prepared/meta.json").write_text("{")
    with pytest.raises(UserError, match="meta.json cannot be read"):
        open_stream(prepared, "train", cache)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 8] ^= 1
    path.write_bytes(data)


def swap(one, other):
    one.rename(one.with_suffix(".tmp")), other.rename(one), one.with_suffix(".tmp").rename(other)


def test_damage_is_found_at_opening(prepared, tmp_path, cache):
    folder = tmp_path / "prepared"
    open_stream(prepared, "train", cache)
    for name in ("train-00001-of-00004.bin", "train-00002-of-00004.starts"):
        before = (folder / name).read_bytes()
        flip(folder / name)
        fix = "copy the folder anew, or remove it and prepare it anew"
        with pytest.raises(UserError, match=f"the checksum of .*{name} is wrong: {fix}"):
            open_stream(prepared, "train", cache)
        open_stream(prepared, "test", cache)
        (folder / name).write_bytes(before)


def test_two_shards_of_one_size_in_each_others_place_are_found(write_texts, tmp_path, cache):
    prepare(write_texts([b"%04d" % i for i in range(60)]), str(tmp_path / "prepared"), 12, 0.1)

    def size(path):
        return path.stat().st_size

    shards = sorted((tmp_path / "prepared").glob("train-*.bin"), key=size)
    one, other = next(pair for pair in itertools.pairwise(shards) if size(pair[0]) == size(pair[1]))
    swap(one, other)
    with pytest.raises(UserError, match=f"the checksum of .*({one.name}|{other.name}) is wrong"):
        open_stream(f"prepared:{tmp_path}/prepared", "train", cache)


def test_a_large_folder_is_read_once_and_meanwhile(prepared, tmp_path, make_config, monkeypatch):
    monkeypatch.setattr(checks, "EACH_TIME", 0)
    monkeypatch.setattr(checks, "AT_ONCE", 10_000)  # the starts
    config = make_config([(prepared, 1.0)])
    (stream, _), = Batches(config).streams
    stream.check._thread.join()
    (stream, _), = Batches(config).streams
    assert stream.check._thread is None
    flip(tmp_path / "prepared/train-00001-of-00004.bin")
    batches = Batches(config)
    batches.streams[0][0].check._thread.join()
    for read in (lambda: next(iter(batches.iterate())), lambda: batches.streams[0][0].read(0, 5)):
        with pytest.raises(UserError, match="the checksum of .*train-00001-of-00004.bin is wrong: copy the folder"):
            read()
    assert not list(tmp_path.glob("prepared/right*"))


def test_starts_behind_a_url_are_compared_where_they_are_copied(prepared, tmp_path, cache):
    flip(tmp_path / "prepared/train-00000-of-00004.starts")
    for _ in range(2):
        with pytest.raises(UserError, match="the checksum of file://.*train-00000-of-00004.starts is wrong"):
            open_stream(prepared.replace("prepared:", "prepared:file://"), "train", cache).read(0, 100)
    assert not list((tmp_path / "cache/prepared").rglob("*.starts"))


def changed(meta, *path, to):
    at = meta
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return json.dumps(shard_files.sealed(meta))


SHARD = ("splits", "train", 0)
LIES = {
    "null": (lambda m: "null", "Expected object, got null"),
    "deep": (lambda m: '{"splits": ' + "[" * 5000, "nested|no JSON"),
    "no counts": (lambda m: changed(m, "counts", to=None), "counts: Expected object, got null"),
    "a split less": (lambda m: json.dumps(m | {"splits": {}}), "splits: Object missing required field"),
    "a retyped checksum": (lambda m: changed(m, *SHARD, "checksums", ".starts", to="9"), "Expected int, got str"),
    "negative": (lambda m: changed(m, *SHARD, "documents", to=-1), "documents: Expected int >= 0"),
    "too many": (lambda m: changed(m, *SHARD, "documents", to=10**30), "documents"),
    "other elements": (lambda m: changed(m, "element", to="uint16"), "its elements are uint16, not uint8"),
    "above": (lambda m: changed(m, *SHARD, "name", to="../x"), "name: Expected str matching regex"),
    "no digests": (lambda m: changed(m, *SHARD, "digests", to="?"), "digests: Expected str matching regex"),
    "a seal of its own": (lambda m: json.dumps(m | {"bad": ["x"]}), "its seal is wrong"),
    "absolute": (lambda m: changed(m, *SHARD, "name", to="/etc/x"), "name: Expected str matching regex"),
}


@pytest.mark.parametrize("url", [False, True])
def test_a_meta_that_lies_is_named(prepared, tmp_path, cache, url):
    path = tmp_path / "prepared/meta.json"
    spec, meta = prepared.replace("prepared:", "prepared:file://") if url else prepared, path.read_text()
    for lying, says in LIES.values():
        path.write_text(lying(json.loads(meta)))
        with pytest.raises(UserError, match=f"{path} .*({says})") as caught:
            open_stream(spec, "train", cache)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
        with pytest.raises(UserError, match=says):
            prepare(spec, str(tmp_path / "again"))


def test_links_in_a_folder_are_not_followed(prepared, tmp_path, cache):
    path = tmp_path / "prepared/train-00001-of-00004.bin"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"leads through the link {path}, which is not followed"):
        open_stream(prepared, "train", cache)
