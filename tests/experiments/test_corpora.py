"""$SCRATCHPATCH_DATA names the text of the experiments, and a program lays it out there."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from experiments import corpora
from scratchpatch import cli
from scratchpatch.data import sources
from scratchpatch.errors import UserError

PAGE = (Path(__file__).parents[2] / "experiments" / "README.md").read_text()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that the variable names, with clones of every repository in place of git's."""
    monkeypatch.setenv(corpora.VARIABLE, str(tmp_path))
    monkeypatch.setattr(corpora.Repository, "clone", lambda self: tmp_path / "repositories" / self.name)
    return tmp_path


def put(folder: Path, repository: corpora.Repository, path: str, text: str) -> None:
    place = folder / "repositories" / repository.name / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text.encode())


def documents(corpus: str, split: str) -> list[dict]:
    with gzip.open(corpora.lay_out(corpus, split), "rt", encoding="utf-8", newline="") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("config", ["blt/small.py", "blt/difficulty.py:fixed-code", "patch_lag/config.py"])
def test_without_the_variable_a_config_says_so_in_one_line(config, monkeypatch, capsys):
    monkeypatch.delenv(corpora.VARIABLE)
    root = Path(corpora.__file__).parent
    assert cli.main(["account", f"--config={root / config}"]) == cli.WRONG_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert "SCRATCHPATCH_DATA is not set" in line and "experiments/README.md" in line


def test_a_folder_may_have_any_name(tmp_path, monkeypatch):
    monkeypatch.setenv(corpora.VARIABLE, str(tmp_path / "a#b"))
    parsed = sources.parse(corpora.source("code", "validation"))
    assert parsed.target == str(tmp_path / "a#b" / "code" / "validation.jsonl.gz")


def test_a_study_asks_for_its_corpora_before_it_trains(folder):
    with pytest.raises(UserError, match=r"en_books/train\.jsonl\.gz is missing: experiments/README\.md says how"):
        corpora.require()


def test_books_are_whole_and_in_the_order_of_the_list(folder):
    lines = (Path(corpora.__file__).parent / "books.tsv").read_text().splitlines()
    paths = [line.split("\t")[1] for line in lines if line.startswith("validation\t")]
    for path in paths:
        put(folder, corpora.BOOKS, path, f"{path}\r\né\n")
    assert documents("en_books", "validation") == [{"text": f"{path}\r\né\n", "path": path} for path in paths]


def test_code_is_python_files_of_a_middle_size_without_the_tests_of_the_library(folder):
    source = "x = 1\n" * 100
    *others, library = corpora.CODE["train"]
    for repository in others:
        put(folder, repository, "b.py", source)
    put(folder, others[0], "a/long.py", source * 400)
    put(folder, others[0], "a/short.py", "x = 1\n")
    put(folder, others[0], "a/tests/kept.py", source)
    for path in (
        "Lib/json/z.py",
        "Lib/json/tool/a.py",
        "Lib/abc.py",
        "Lib/test/a.py",
        "Lib/idlelib/a.py",
        "Tools/a.py",
    ):
        put(folder, library, path, source)
    laid_out = documents("code", "train")
    paths = ["a/tests/kept.py", "b.py", "b.py", "b.py", "Lib/abc.py", "Lib/json/z.py", "Lib/json/tool/a.py"]
    assert [document["path"] for document in laid_out] == paths
    assert list(laid_out[0]) == ["text", "repo", "path", "commit", "license"]
    assert laid_out[-1]["license"] == "PSF-2.0"


def test_a_poem_has_title_author_and_lines_and_a_twentieth_validates(folder):
    def poems(name: str, *lines: str) -> list[dict]:
        return [{"title": f"{name} {i}", "author": "杜甫", "paragraphs": list(lines)} for i in range(21)]

    for number in range(58):
        text = json.dumps(poems(f"{number}", "国破山河在") + [{"title": "空", "author": "杜甫", "paragraphs": []}])
        put(folder, corpora.POEMS, f"全唐诗/poet.tang.{number * 1000}.json", text)
    put(folder, corpora.POEMS, "元曲/yuanqu.json", json.dumps(poems("曲", "一", "二")))
    validation, train = documents("zh_classics", "validation"), documents("zh_classics", "train")
    assert len(validation) == 2 * 21 + 1 and len(train) == 56 * 21 + 20
    assert validation[0] == {"text": "18 0\n杜甫\n国破山河在\n", "path": "全唐诗/poet.tang.18000.json"}
    assert validation[-1] == {"text": "曲 10\n杜甫\n一\n二\n", "path": "元曲/yuanqu.json"}


def test_what_was_laid_out_is_compared_with_the_text_behind_our_numbers(folder, monkeypatch, capsys):
    text = '{"text": "a"}\n'
    checksums = {"code": {"train": hashlib.sha256(text.encode()).hexdigest(), "validation": "0" * 64}}
    monkeypatch.setattr(corpora, "CHECKSUMS", checksums)
    (folder / "code").mkdir()
    for split in checksums["code"]:
        with gzip.open(folder / "code" / f"{split}.jsonl.gz", "wt") as file:
            file.write(text)
    assert corpora.main() == 0
    train, validation = capsys.readouterr().out.splitlines()
    assert train.endswith("train.jsonl.gz: the same text")
    assert validation.endswith("validation.jsonl.gz: another text than that behind our numbers")


def test_the_page_has_the_repositories_and_the_checksums():
    for splits in corpora.CHECKSUMS.values():
        for checksum in splits.values():
            assert checksum in PAGE
    for repository in (corpora.BOOKS, corpora.POEMS, *corpora.CODE["train"], *corpora.CODE["validation"]):
        assert re.search(rf"{repository.name}\b.*{repository.commit[:7]}", PAGE), repository
