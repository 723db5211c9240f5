"""What the tests of tasks share."""

import json

import pytest


@pytest.fixture
def file(tmp_path):
    """Writes a file of lines, objects as JSON and texts as they are, and returns its path."""

    def write(*lines, name="lines.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return str(path)

    return write
