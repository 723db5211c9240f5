"""What the pages name is there: links, files, functions, verbs and flags; and no line of theirs is too wide."""

import contextlib
import functools
import importlib
import io
import re
from pathlib import Path

import pytest

from scratchpatch import cli, config
from scratchpatch.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(page for room in ("scratchpatch", "experiments", "launch") for page in (ROOT / room).rglob("README.md")),
]
WIDEST = 120
# What ends with one of these is a file of the repository, where nothing says otherwise.
SUFFIXES = (".py", ".md", ".sh", ".sbatch", ".txt", ".toml", ".tsv", ".svg", ".yaml")
# Written by runs, or by the user.
ELSEWHERE = ("runs/", "queue.yaml", "claim.yaml", "manifests.yaml")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def code_spans(text: str) -> list[str]:
    """What stands in single backticks, line breaks in it as spaces."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands(text: str) -> list[str]:
    """Each `scratchpatch VERB ...` with what follows on its line, comments and other programs left out."""
    lines = [line for block in code_blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    found = re.findall(r"(?<!import )\bscratchpatch [a-z].*", "\n".join([*lines, *code_spans(text)]))
    return [re.split(r"&&|\s#|\s--\s|\|\||;", command)[0] for command in found]


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@functools.cache
def flags(verb: str) -> set[str]:
    """The flags that a verb's help names."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main([verb, "--help"]) == cli.DONE
    return set(re.findall(r"^\s+--(\w+)", said.getvalue(), re.MULTILINE))


def is_field(name: str) -> bool:
    return name in (field.name for field in config.FIELDS)


def exists(dotted: str) -> bool:
    """Whether the longest importable part of a dotted name has the rest as attributes."""
    parts = dotted.split(".")
    for size in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for name in parts[size:]:
            if not hasattr(thing, name):
                return False
            thing = getattr(thing, name)
        return True
    return False


def test_there_are_pages():
    assert {ROOT / "README.md", ROOT / "BUILD.md", ROOT / "scratchpatch" / "README.md"} <= set(PAGES)


@each_page
def test_links_lead_to_files_and_headings(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        if target.startswith("http"):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        assert not anchor or anchor in headings(file), f"{target}#{anchor}"


@each_page
def test_files_that_are_named_exist(page):
    for span in code_spans(page.read_text()):
        for path in re.findall(r"(?<![\w/.$*-])[\w.-]+(?:/[\w.-]+)*/?(?=:|$| )", span):
            if path.startswith(ELSEWHERE) or not (path.endswith(SUFFIXES) or path.endswith("/")):
                continue
            places = (ROOT, page.parent, ROOT / "scratchpatch")
            assert any((place / path).exists() for place in places), f"{path} in `{span}`"


@each_page
def test_configs_of_commands_exist(page):
    for path in re.findall(r"--config=(experiments/[\w/.]+)", page.read_text()):
        assert (ROOT / path).is_file(), path


@each_page
def test_functions_that_are_named_exist(page):
    for span in code_spans(page.read_text()):
        for dotted in re.findall(r"^scratchpatch(?:\.\w+)+$", span):
            assert exists(dotted), dotted


@each_page
def test_verbs_and_flags_that_are_named_exist(page):
    for command in commands(page.read_text()):
        verb = command.split()[1]
        assert verb in VERBS, command
        for name in re.findall(r"(?<!\S)--([\w.]+)", command):
            assert is_field(name[len("config.") :]) if name.startswith("config.") else name in flags(verb), command
        for name in re.findall(r"--override[ =]([\w.]+)=", command):
            assert is_field(name), command


@each_page
def test_fields_that_are_set_exist(page):
    for name in re.findall(r"--config\.([\w.]*\w)", page.read_text()):
        assert is_field(name), name


@each_page
def test_lines_are_not_too_wide(page):
    for line in page.read_text().splitlines():
        assert len(line) <= WIDEST or line.startswith("|") or "http" in line, line


def test_the_way_of_one_byte_names_every_function_on_it():
    text = (ROOT / "scratchpatch" / "README.md").read_text()
    way = text[text.index("## The way of one byte") : text.index("## Where to look")]
    assert len(set(re.findall(r"`(scratchpatch(?:\.\w+)+)`", way))) >= 25
