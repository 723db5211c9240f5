"""The standard library as text: what belongs to it, as code and as prose."""

import pydoc_data.topics
import sys

import pytest

from scratchpatch.data import sources
from scratchpatch.data.records import BadRecords
from scratchpatch.data.sources import stdlib
from scratchpatch.errors import UserError


@pytest.fixture
def root(tmp_path):
    for name, text in {
        "b.py": '"""B does.\n\n    Indented.   \n    """\nimport os\n',
        "a/__init__.py": "",
        "a/c.py": "x = 1\n",
        "a/data.txt": "no",
        "test/t.py": "no",
        "idlelib/i.py": "no",
        "lib2to3/tests/l.py": "no",
        "lib2to3/main.py": "'main'",
        "site-packages/p.py": "no",
        "config-3.11-x86/python-config.py": "no",
        "_sysconfigdata__linux.py": "no",
        "broken.py": "def (",
        "pydoc_data/topics.py": "topics = {}",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return str(tmp_path)


def test_files_are_ordered_and_without_tests_and_packages(root):
    assert [name for name, _ in stdlib.python_files(root)] == [
        "a/__init__.py",
        "a/c.py",
        "b.py",
        "broken.py",
        "lib2to3/main.py",
        "pydoc_data/topics.py",
    ]


def test_code_is_the_file_and_not_the_reference(root):
    documents = dict(sources.parse("stdlib:code").documents(stdlib.python_files(root), BadRecords("error")))
    assert documents["a/__init__.py"] == b"" and documents["a/c.py"] == b"x = 1\n"
    assert stdlib.TOPICS not in documents and len(documents) == 5


def test_prose_is_clean_docstrings_and_topics(root):
    bad = BadRecords("skip")
    documents = dict(sources.parse("stdlib:prose").documents(stdlib.python_files(root), bad))
    assert documents["b.py"] == b"B does.\n\nIndented.\n"
    assert documents["lib2to3/main.py"] == b"main\n"
    assert "a/c.py" not in documents
    assert bad.count == 1 and "broken.py" in bad.messages[0]
    topics = [name for name in documents if name.startswith("topics/")]
    assert len(topics) == len(pydoc_data.topics.topics)
    assert documents["topics/assert"].startswith(b'The "assert" statement\n***')


def test_a_python_without_its_reference_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"stdlib:prose.*pydoc_data\.topics.*install"):
        list(sources.parse("stdlib:prose").read(stdlib.TOPICS, "", BadRecords("skip")))


def test_this_python_has_enough_of_it():
    names = [name for name, _ in sources.parse("stdlib:code").files()]
    assert "argparse.py" in names and "json/decoder.py" in names and names == sorted(names)
    assert not any(name.startswith(("test/", "site-packages/")) for name in names)
