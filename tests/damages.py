"""Ways to damage the files of a folder, drawn by hypothesis."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from hypothesis import strategies as st

from scratchpatch.checkpoints import format

DEEP = "[" * 5000 + "]" * 5000
# Beside and above the folder that is damaged; nothing may follow them.
_ELSEWHERE = ("../outside/canary", "../../outside/canary", "../../../outside/canary", "/dev/zero", "/proc/self/nowhere")
_NUMBERS = (True, False, -1, 0, 1, 99, 1 << 70, 1e308, float("nan"), float("inf"))
_VALUES = (None, *_NUMBERS, "", "x", *_ELSEWHERE, [], {}, [[]], [None], {"a": 1})


def draw(data: st.DataObject, folder: Path) -> str:
    """Damage one file, or one folder, below `folder`; says what was done."""
    entries = _entries(folder) if folder.is_dir() else []
    if not entries:
        return "nothing is left"
    chosen = data.draw(st.sampled_from(entries), label="name")
    path = folder / chosen
    if path.is_dir():
        way = data.draw(st.sampled_from((_rename, _remove, _link, _pipe)), label="way")
    elif path.suffix in (".json", ".jsonl"):
        way = data.draw(st.sampled_from((_retype, _retype, _retype, _deepen, *_BYTES)), label="way")
    else:
        way = data.draw(st.sampled_from(_BYTES), label="way")
    return f"{way.__name__[1:]} {chosen}: {way(data, path, folder)}"


def _entries(folder: Path) -> list[str]:
    """The names of all files, and of the folders that hold some."""
    # What an earlier damage left may be a link or a pipe.
    whole = (path for path in folder.rglob("*") if not path.is_symlink() and (path.is_file() or path.is_dir()))
    return sorted(str(path.relative_to(folder)) for path in whole if path.name != "lock")


def _truncate(data, path: Path, _) -> str:
    size = data.draw(st.integers(0, max(path.stat().st_size - 1, 0)), label="size")
    os.truncate(path, size)
    return f"to {size}"


def _append(data, path: Path, _) -> str:
    more = data.draw(st.sampled_from((b"\0", b"\n", b"null\n", b"{}\n", b"garbage" * 100)), label="more")
    path.write_bytes(path.read_bytes() + more)
    return repr(more[:10])


def _flip(data, path: Path, _) -> str:
    text = bytearray(path.read_bytes() or b"\0")
    at = data.draw(st.integers(0, len(text) - 1), label="at")
    text[at] ^= data.draw(st.integers(1, 255), label="bits")
    path.write_bytes(bytes(text))
    return f"byte {at}"


def _zero(data, path: Path, _) -> str:
    text = bytearray(path.read_bytes())
    first = data.draw(st.integers(0, len(text)), label="first")
    text[first:] = bytes(len(text) - first)
    path.write_bytes(bytes(text))
    return f"from {first} on"


def _swap(data, path: Path, folder: Path) -> str:
    other = folder / data.draw(
        st.sampled_from([name for name in _entries(folder) if (folder / name).is_file()]), label="other"
    )
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)
    return f"with {other.relative_to(folder)}"


def _remove(data, path: Path, _) -> str:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return ""


def _rename(data, path: Path, _) -> str:
    name = path.name
    target = path.with_name(
        data.draw(st.sampled_from((f"0{name}", f"{name}0", f"{name}.x", "99", "٣", "-1", f" {name}")), label="new name")
    )
    if not target.exists():
        path.rename(target)
    return f"to {target.name!r}"


def _link(data, path: Path, _) -> str:
    target = data.draw(st.sampled_from((*_ELSEWHERE, path.name, str(path), "..", ".")), label="target")
    kept = path.with_name(f"{path.name}.kept")
    if target == str(path):
        # The thing itself, by way of a link.
        path.rename(kept)
        target = kept.name
    else:
        _remove(data, path, _)
    path.symlink_to(target)
    return f"to {target}"


def _pipe(data, path: Path, _) -> str:
    _remove(data, path, _)
    os.mkfifo(path)
    return ""


def _folder(data, path: Path, _) -> str:
    path.unlink()
    path.mkdir()
    return ""


def _deepen(data, path: Path, _) -> str:
    path.write_text(DEEP + "\n")
    return "5,000 levels"


def _retype(data, path: Path, _) -> str:
    """Change a value, take it away, or give it another name; what is sealed gets a valid seal."""
    text = path.read_text(errors="replace")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    number = data.draw(st.integers(0, max(len(lines) - 1, 0)), label="line")
    sealed = path.name == "about.json"
    try:
        value = json.loads(lines[number])
        value, said = _changed(data, value["about"] if sealed else value)
    except (ValueError, RecursionError, IndexError, KeyError, TypeError):
        return "was damaged already"
    lines[number : number + 1] = [format._sealed(value) if sealed else json.dumps(value)]
    path.write_text("\n".join(lines) + ("" if sealed else "\n"))
    return said


def _changed(data, value):
    if isinstance(value, (dict, list)) and value and data.draw(st.integers(0, 7), label="deeper"):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = data.draw(st.sampled_from(keys), label="key")
        how = data.draw(st.sampled_from(("in", "in", "in", "drop", "name")), label="how")
        if how == "drop":
            del value[key]
            return value, f"without {key}"
        if how == "name" and isinstance(value, dict):
            name = data.draw(st.sampled_from(_ELSEWHERE), label="new name")
            value[name] = value.pop(key)
            return value, f"{key} called {name}"
        value[key], said = _changed(data, value[key])
        return value, f"{key}.{said}"
    new = data.draw(st.sampled_from(_VALUES), label="value")
    return new, f"= {new!r}"


_BYTES = (_truncate, _append, _flip, _zero, _swap, _remove, _rename, _link, _pipe, _folder)
