"""Tokens of text: what a tokenizer's file must be, that its tokens spell any bytes, and streams of them."""

import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from scratchpatch import cli, config as config_lib
from scratchpatch.data import tokenizer
from scratchpatch.data.index import open_stream
from scratchpatch.data.mixture import streams_for
from scratchpatch.errors import UserError
from scratchpatch.preparation.folder import prepare, table
from scratchpatch.preparation.vocabulary import learn
from scratchpatch.vocabulary import of_tokens
from tests import tokens

SPLITS = ("train", "validation", "test")


@given(st.binary(max_size=40) | st.text(max_size=30).map(lambda text: f"the cat {text}".encode(errors="replace")))
def test_tokens_spell_any_bytes_again_and_know_how_many_they_are(data):
    made = tokens.learnt()
    ids = made.encode(data)
    assert ids.dtype == np.uint16 and made.decode(ids) == data
    assert made.token_bytes()[ids].sum() == len(data)


def test_a_vocabulary_holds_every_byte_and_is_the_same_for_the_same_text():
    made = tokens.learnt()
    assert len(made.spelled) == len(set(made.spelled)) == tokens.COUNT
    assert {bytes([byte]) for byte in range(256)} <= set(made.spelled) and b" cat" in made.spelled
    assert tokenizer.learn(iter(tokens.DOCUMENTS), tokens.COUNT) == made.text
    assert len(made.encode(b"the cat sat on a mat")) == 6
    bos, pad = made.vocabulary.bos, made.vocabulary.pad
    assert (made.token_bytes()[tokens.COUNT :] == 0).all() and made.decode([bos, *made.encode(b"cat"), pad]) == b"cat"
    with pytest.raises(UserError, match="the text has pairs for [0-9]+ tokens, not for 9999: give it more, or lower"):
        tokenizer.learn(tokens.DOCUMENTS, 9999)


def test_ids_fit_their_type_with_bos_and_pad():
    assert [of_tokens(count).dtype for count in (65_534, 65_535)] == [np.uint16, np.uint32]
    assert (of_tokens(300).bos, of_tokens(300).pad, of_tokens(300).rows) == (300, 301, 304)


def changed(**fields) -> str:
    document = json.loads(tokens.learnt().text)
    for path, value in fields.items():
        *above, name = path.split("__")
        node = document
        for part in above:
            node = node[part]
        node[name] = value
    return json.dumps(document)


def without(token: str) -> dict[str, int]:
    left = [name for name in json.loads(tokens.learnt().text)["model"]["vocab"] if name != token]
    return {name: number for number, name in enumerate(left)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no JSON", "it is no JSON"),
        ("{}", "missing required field model"),
        (changed(normalizer={"type": "Lowercase"}), "it has a normalizer, which changes the text"),
        (changed(model__type="WordPiece"), "its model is WordPiece, not BPE"),
        (changed(model__dropout=0.5), "its model has dropout = 0.5"),
        (changed(model__vocab=without("a"), model__merges=[]), "it has no token of the byte 0x61 alone"),
        (changed(model__vocab=without("") | {"▁the": tokens.COUNT}), "its token '▁the' is no string of bytes"),
        (changed(model__vocab=without("") | {"ĠĠ": tokens.COUNT + 5}), "the ids of its tokens are not 0, 1, 2"),
    ],
)
def test_a_file_that_spells_not_every_text_is_refused(tmp_path, text, says):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=f"t.json is no tokenizer that can be used .*{says}.*learn one by"):
        tokenizer.read(tmp_path / "t.json")


def test_what_drops_text_is_told_and_what_adds_to_it_is_left_out():
    special = {"id": tokens.COUNT, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False}
    special |= {"normalized": False, "special": True}
    made = tokenizer.parse(changed(added_tokens=[special], truncation=None), "with a special token")
    assert made.vocabulary == tokens.learnt().vocabulary and made.decode(made.encode(b"<|end|> a")) == b"<|end|> a"
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
    made = tokenizer.parse(changed(pre_tokenizer=split), "without spaces")
    with pytest.raises(UserError, match="the tokens of without spaces do not spell the text again"):
        made.encode(b"the cat")


def test_a_config_says_how_many_tokens_its_file_has(tmp_path):
    assert tokenizer.of(config_lib.default()) is None
    assert tokenizer.of(tokens.config()).checksum == tokens.learnt().checksum
    with pytest.raises(UserError, match=f"data.vocabulary = 300: .*tiny.json has {tokens.COUNT} tokens"):
        tokenizer.of(tokens.config({"data.vocabulary": 300}))
    with pytest.raises(UserError, match="cannot read the tokenizer .*no.json: No such file.*; learn it by"):
        tokenizer.of(tokens.config({"data.tokenizer": str(tmp_path / "no.json")}))


def encoded(documents) -> list[int]:
    made = tokens.learnt()
    return [token for data in documents for token in (made.vocabulary.bos, *made.encode(data).tolist())]


def check_same_documents(spec: str, cache: str, **options):
    """The stream of tokens of each split has the documents of the stream of bytes."""
    for split in SPLITS:
        plain = open_stream(options.pop("plain", spec), split, cache, **options)
        stream = open_stream(spec, split, cache, tokenizer=tokens.learnt(), **options)
        documents = list(plain.documents_iter())
        assert list(stream.documents_iter()) == documents and stream.bytes == plain.bytes
        assert stream.read(0, len(stream)).tolist() == encoded(documents)
        assert stream.checksum != plain.checksum and stream.key() != plain.key()


def test_an_index_of_tokens_has_the_documents_of_one_of_bytes(write_texts, cache):
    check_same_documents(write_texts([b"%d " % k + tokens.DOCUMENTS[k % 11] for k in range(60)]), cache, held_out=0.2)


def test_the_only_document_is_cut_by_its_bytes(write_texts, cache):
    check_same_documents(write_texts([b"".join(tokens.DOCUMENTS)]), cache)


def test_as_many_positions_are_read_as_hold_so_many_bytes(write_texts, cache):
    spec = write_texts(tokens.DOCUMENTS)
    stream = open_stream(spec, "all", cache, tokenizer=tokens.learnt())
    assert stream.beginning(stream.bytes + stream.documents) == len(stream)
    assert 0 < stream.beginning(100) < 50 and open_stream(spec, "all", cache).beginning(100) == 100
    assert f"{stream.bytes:,} bytes in {len(stream) - stream.documents:,} tokens" in stream.summary()


def test_a_prepared_folder_of_tokens_has_the_documents_of_one_of_bytes(write_texts, cache, tmp_path):
    spec = write_texts([b"%d " % k + tokens.DOCUMENTS[k % 11] for k in range(60)])
    plain, folder = tmp_path / "bytes", tmp_path / "tokens"
    prepare(spec, str(plain), 2, 0.2)
    said = prepare(spec, str(folder), 2, 0.2, tokenizer=tokens.file())
    assert said == prepare(spec, str(folder), 2, 0.2, tokenizer=tokens.file())
    for split in SPLITS:
        documents = list(open_stream(f"prepared:{plain}", split, cache).documents_iter())
        stream = open_stream(f"prepared:{folder}", split, cache, tokenizer=tokens.learnt())
        assert list(stream.documents_iter()) == documents
        assert stream.read(0, len(stream)).tolist() == encoded(documents)
        assert said["splits"][split]["tokens"] == len(stream) - stream.documents
        assert f"{stream.bytes:,} bytes in {said['splits'][split]['tokens']:,} tokens" in table(said)
    assert (folder / "tokenizer.json").read_text() == tokens.learnt().text
    other = tmp_path / "other.json"
    other.write_text(changed(decoder=None))
    for place, by, says in (
        (plain, tokens.learnt(), "holds bytes, and data.tokenizer wants tokens: prepare its source anew with --token"),
        (folder, None, "holds tokens, not bytes: set data.tokenizer = '.*tokenizer.json' and data.vocabulary"),
        (folder, tokenizer.read(other), "holds tokens of another tokenizer than .*other.json: set it to"),
    ):
        with pytest.raises(UserError, match=says):
            open_stream(f"prepared:{place}", "train", cache, tokenizer=by)
    with pytest.raises(UserError, match="holds another preparation: tokenizer: None -> "):
        prepare(spec, str(plain), 2, 0.2, tokenizer=tokens.file())
    with pytest.raises(UserError, match="holds another preparation: tokenizer: .* -> None; use another --out"):
        prepare(spec, str(folder), 2, 0.2)


def test_a_vocabulary_is_learnt_from_the_training_split_alone(write_texts, cache, tmp_path, capsys):
    documents = [b"%d " % k + tokens.DOCUMENTS[k % 8] for k in range(60)]
    path = tmp_path / "new" / "learnt.json"
    fields = {"data.sources": ((write_texts(documents), 1.0),), "data.cache_dir": cache, "data.held_out": 0.2}
    config = tokens.config(fields | {"data.tokenizer": str(path)})
    said = learn(config, 1 << 20)
    plain = config_lib.from_flat(config_lib.flat(config) | {"data.tokenizer": "", "data.vocabulary": 0})
    ((stream, _),) = streams_for(plain, "train")
    assert path.read_text() == tokenizer.learn(stream.documents_iter(), tokens.COUNT)
    ((held_out, _),) = streams_for(config, "validation")
    mean = held_out.bytes / (len(held_out) - held_out.documents)
    assert said["learnt"] and said["validation"]["bytes_per_token"] == pytest.approx(mean)
    assert not learn(config, 1 << 20)["learnt"]
    with pytest.raises(UserError, match="data.tokenizer is empty: name the file to write"):
        learn(plain, 1 << 20)
    (tmp_path / "c.json").write_text(json.dumps({"schema": 2, "config": config_lib.flat(config)}))
    assert cli.main(["tokenizer", f"--config={tmp_path / 'c.json'}"]) == 0
    assert f"was there already: {tokens.COUNT} tokens, of {mean:.3f} bytes each" in capsys.readouterr().out
