"""Documents with duplicates in several files, and what a folder made of them holds."""

import json
from pathlib import Path

import numpy as np
import pytest

from scratchpatch.preparation import tasks


def make_documents(count: int = 300) -> list[bytes]:
    """A third of them said before; one is long, one is empty."""
    random = np.random.default_rng(0)
    sizes = random.integers(1, 2000, count)
    words = [b"%d:" % i + random.integers(97, 123, int(size), np.uint8).tobytes() for i, size in enumerate(sizes)]
    words[7] = b""
    words[8] = random.integers(97, 123, 200_000, np.uint8).tobytes()
    return words + [words[int(i)] for i in random.integers(0, count, count // 2)]


@pytest.fixture(scope="session")
def documents() -> list[bytes]:
    return make_documents()


@pytest.fixture(scope="session")
def spec(documents, tmp_path_factory) -> str:
    """A source of five files, all documents dealt over them."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(5):
        lines = [json.dumps({"text": data.decode()}) for data in documents[number::5]]
        (folder / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    return f"jsonl:{folder}/*.jsonl"


@pytest.fixture
def small(monkeypatch):
    """A task reads one file, and writes a run for every few documents."""
    monkeypatch.setattr("scratchpatch.preparation.plan.TASK_BYTES", 1)
    monkeypatch.setattr(tasks, "RUN_BYTES", 20_000)


def contents(folder) -> dict[str, bytes]:
    """Every file of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
