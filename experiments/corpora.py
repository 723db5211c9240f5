"""The text that experiments/blt and experiments/patch_lag read, in the folder that $SCRATCHPATCH_DATA names.

Purpose: one place that knows the folder; and, run as a program, the corpora laid out there and compared with those
behind our numbers. README.md beside this file says where each is published.
Hardware: 1 CPU core and 2 GB of disk, with git.
Expected time: a few minutes, most of it git's.
Expected number: "the same text" for en_books and code; zh_classics is another selection of the same poems.
Command:
    SCRATCHPATCH_DATA=/data .venv/bin/python -m experiments.corpora
"""

import dataclasses
import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from scratchpatch.errors import UserError

VARIABLE = "SCRATCHPATCH_DATA"
# Corpus, then split, to the SHA-256 of the unpacked lines behind our numbers.
CHECKSUMS = {
    "en_books": {
        "train": "0f5b24e44f560756cb079ea51c5bc448546473d497f8d849a05d76e3b968956b",
        "validation": "4aede1a3745f7dedcc520bd32e41a4e91a7e4ea6e48c61fdb26b6d10e030939e",
    },
    "code": {
        "train": "5844949afdfa85e489279bec0442f6597980ea796d9af6f8f7c2396700d137ce",
        "validation": "950785224031a2bc9040ee90feb7f6b0e0af4be88c3515a49fc5875a746edd9a",
    },
    "zh_classics": {
        "train": "b6dd2eacd75c0cd67443b182d0b3fd146cec25c359ed097fd21e1b5b3548c218",
        "validation": "40f3219d18e6917cee23ee02184b7856246e0c3f6032916068998b425cb1273b",
    },
}
# Corpora that some studies read as well, in the same places; this program compares them, but lays none of them out.
FURTHER = {
    "ja_soseki": {
        "train": "e3ec5da63de6c92c31fbab470cba8bd1b1834ea9211068b4aaeeaefdeb2c88e4",
        "validation": "a2361224fb5e356c5e2aff0b866ce760dd93d8dd94d096ba79adce3642dbe7da",
    },
    "pt_machado": {
        "train": "d2e9e04a5d64065215db1d19a7199d935ab156faeffc5e0b6fc6e36fb9c59974",
        "validation": "df8897e1b376ba6119b0a90380bec078cf0838a810f024c25cf1665912b4a64f",
    },
}
# Sizes of the Python files that are taken, in bytes.
_SMALLEST, _LARGEST = 200, 200_000
# Of the standard library: tests, and programs that nobody imports.
_NO_LIBRARY = {"test", "tests", "idlelib", "lib2to3", "turtledemo"}


def folder() -> Path:
    """The folder of the corpora. Raises UserError where no variable names it."""
    named = os.environ.get(VARIABLE)
    if not named:
        raise UserError(f"{VARIABLE} is not set: it names the folder of the corpora, see experiments/README.md")
    return Path(named)


def source(corpus: str, split: str = "train") -> str:
    """The SPEC of a corpus's split. Raises UserError as `folder` does."""
    path = str(folder() / corpus / f"{split}.jsonl.gz")
    return "jsonl:" + path.replace("#", "##")


def mixture(*names: str, split: str = "train") -> tuple[tuple[str, float], ...]:
    """The config's sources of several corpora, in equal shares. Raises UserError as `folder` does."""
    return tuple((source(corpus, split), 1 / len(names)) for corpus in names)


def require(*names: str) -> None:
    """Raise UserError unless these corpora are there (none named: those of most studies), before a study trains for an
    hour.
    """
    for corpus in names or CHECKSUMS:
        for split in (CHECKSUMS | FURTHER)[corpus]:
            path = folder() / corpus / f"{split}.jsonl.gz"
            if not path.is_file():
                raise UserError(f"{path} is missing: experiments/README.md says how to lay the corpora out")


@dataclasses.dataclass(frozen=True)
class Repository:
    """A repository on GitHub at one commit (or tag); `licence` is that of its files."""

    name: str
    commit: str
    licence: str = ""

    def clone(self) -> Path:
        """The folder of its files, which git fetches at the first call."""
        clone = folder() / "repositories" / self.name
        if not clone.exists():
            url = f"https://github.com/{self.name}"
            subprocess.run(["git", "clone", "--quiet", "--no-checkout", "--filter=blob:none", url, clone], check=True)
        subprocess.run(["git", "-C", clone, "checkout", "--quiet", self.commit], check=True)
        return clone


BOOKS = Repository("mlschmitt/classic-books-markdown", "9448827")
POEMS = Repository("chinese-poetry/chinese-poetry", "99ebbef")
# The rows of validation are of repositories that training never sees.
CODE = {
    "train": (
        Repository("AI-Hypercomputer/maxtext", "e591f30cbbf217ed67ef71263ec0538239f9c3b8", "Apache-2.0"),
        Repository("pytorch/torchtitan", "b5bcd76c66d0acb1a08b176d9639425bc55e0b2a", "BSD-3-Clause"),
        Repository("google-research/big_vision", "0127fb6b337ee2a27bf4e54dea79cff176527356", "Apache-2.0"),
        Repository("python/cpython", "v3.11.7", "PSF-2.0"),
    ),
    "validation": (
        Repository("marin-community/levanter", "9263f81e8b453241332c2c0b2d2001bfb2d2241c", "Apache-2.0"),
        Repository("google-deepmind/nanodo", "10aefdeed40a63293daf112b91a5538cd24fa3a4", "Apache-2.0"),
    ),
}


def books(split: str) -> Iterator[dict[str, str]]:
    """The books that books.tsv names, whole, in its order."""
    clone = BOOKS.clone()
    for line in (Path(__file__).parent / "books.tsv").read_text().splitlines():
        of_split, path = line.split("\t")
        if of_split == split:
            yield {"text": _text(clone / path), "path": path}


def code(split: str) -> Iterator[dict[str, str]]:
    """Python files, one repository after the other."""
    for repository in CODE[split]:
        clone = repository.clone()
        for path in _python_files(clone, repository.name == "python/cpython"):
            yield {
                "text": _text(clone / path),
                "repo": repository.name,
                "path": str(path),
                "commit": repository.commit,
                "license": repository.licence,
            }


def _python_files(clone: Path, library: bool) -> list[Path]:
    paths = [path.relative_to(clone) for path in (clone / "Lib" if library else clone).rglob("*.py")]
    sized = [path for path in paths if _SMALLEST <= (clone / path).stat().st_size <= _LARGEST]
    if library:
        return sorted((p for p in sized if not _NO_LIBRARY & set(p.parts)), key=lambda p: (str(p.parent), str(p)))
    return sorted(sized, key=str)


def poems(split: str) -> Iterator[dict[str, str]]:
    """Tang poems by files of a thousand, and Yuan songs; a twentieth of either validates."""
    clone, seen = POEMS.clone(), set()
    for number in range(58):
        path = Path("全唐诗") / f"poet.tang.{number * 1000}.json"
        if (number % 20 == 18) == (split == "validation"):
            yield from _poems(clone, path, lambda _: True, seen)
    is_validation = split == "validation"
    yield from _poems(clone, Path("元曲/yuanqu.json"), lambda index: (index % 20 == 10) == is_validation, seen)


def _poems(clone: Path, path: Path, taken, seen: set[str]) -> Iterator[dict[str, str]]:
    """Title, author and lines of each poem that has lines, once."""
    for index, poem in enumerate(json.loads(_text(clone / path))):
        text = "".join(f"{line}\n" for line in (poem["title"], poem["author"], *poem["paragraphs"]))
        if poem["paragraphs"] and taken(index) and text not in seen:
            seen.add(text)
            yield {"text": text, "path": str(path)}


def _text(path: Path) -> str:
    """The file's text, its line ends as they are."""
    return path.read_bytes().decode()


def lay_out(corpus: str, split: str) -> Path:
    """The file of a corpus's split, written where it is missing."""
    path = folder() / corpus / f"{split}.jsonl.gz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        with gzip.open(unfinished, "wt", encoding="utf-8", newline="\n") as file:
            for document in {"en_books": books, "code": code, "zh_classics": poems}[corpus](split):
                file.write(json.dumps(document, ensure_ascii=False) + "\n")
        unfinished.replace(path)
    return path


def checksum(path: Path) -> str:
    """SHA-256 of the unpacked file."""
    with gzip.open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    try:
        for corpus, splits in (CHECKSUMS | FURTHER).items():
            for split, wanted in splits.items():
                path = folder() / corpus / f"{split}.jsonl.gz"
                if corpus in CHECKSUMS:
                    lay_out(corpus, split)
                elif not path.exists():
                    continue
                same = checksum(path) == wanted
                print(f"{path}: {'the same text' if same else 'another text than that behind our numbers'}")
    except (UserError, subprocess.CalledProcessError, OSError) as error:
        print(f"corpora: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
