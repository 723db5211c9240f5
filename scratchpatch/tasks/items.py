"""Tasks that are made of items, each of which is asked and graded by itself."""

import abc
import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from absl import logging

from scratchpatch import json_files
from scratchpatch.distributed import processes
from scratchpatch.inference import results
from scratchpatch.progress import Progress
from scratchpatch.tasks import requests as requests_lib
from scratchpatch.tasks.requests import Answer, Request
from scratchpatch.tasks.task import Setting, Task, file_name

T = TypeVar("T")
# Requests that are answered together, and stored when all are: enough to fill rows of several lengths.
_REQUESTS = 256


@dataclasses.dataclass(frozen=True)
class Item:
    """requests: what is asked of the model. data: what the task needs to grade the answers."""

    requests: tuple[Request, ...]
    data: Any = None

    @property
    def byte_count(self) -> int:
        return sum(request.byte_count for request in self.requests)


class ItemTask(Task):
    """A task that asks the model about items, in any order, and makes its numbers of their grades."""

    @abc.abstractmethod
    def items(self) -> Sequence[Item]:
        """All items, in an order that does not change. Raises UserError where there is none, or one that cannot be
        read, by file and line.
        """

    @abc.abstractmethod
    def grade(self, item: Item, answers: list[Answer]) -> dict[str, Any]:
        """What is stored of one item, in the types of JSON. It depends on nothing but its arguments."""

    def grades(self, items: Sequence[Item], answers: Sequence[list[Answer]]) -> list[dict[str, Any]]:
        """What `grade` makes of several items; a task that can grade them side by side does."""
        return [self.grade(item, own) for item, own in zip(items, answers, strict=True)]

    @abc.abstractmethod
    def summary(self, grades: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
        """The task's numbers, of the grades in the order of `items`."""

    def run(self, setting: Setting) -> dict[str, Any]:
        items = spaced(self.items(), setting.limit)
        grades = ask(self.label, self.protocol(), items, self.grades, setting)
        return {"items": len(items), **self.summary(grades, setting)}


def ask(
    label: str,
    protocol: dict[str, Any],
    items: Sequence[Item],
    graded: Callable[[Sequence[Item], Sequence[list[Answer]]], list[dict[str, Any]]],
    setting: Setting,
) -> list[dict[str, Any]]:
    """The grades of items, in their order. Grades that are stored in the setting's folder, under the same label,
    protocol, weights and limit, are not asked for again. Of several processes, which all must call this alike, the
    first one grades and stores, and tells the others.

    graded: what makes the grades of some items of their answers, see `ItemTask.grades`.
    """
    with _store(label, protocol, setting) as store:
        left = [number for number in range(1, len(items) + 1) if number not in store.grades]
        # Items of like length share rows of one length. The longest come first, so that the time left is never better
        # than it looks, and memory that does not suffice shows at once.
        left.sort(key=lambda number: (-items[number - 1].byte_count, number))
        done, shown = len(items) - len(left), setting.shown and processes.is_first()
        with Progress(len(items), done, label, "items", shown, setting.moved) as progress:
            for numbers in _chunks(left, items):
                asked = [request for number in numbers for request in items[number - 1].requests]
                answers = iter(requests_lib.answer(setting.lm, asked, progress))
                own = [[next(answers) for _ in items[number - 1].requests] for number in numbers]
                some = [items[number - 1] for number in numbers]
                grades = processes.first(lambda some=some, own=own: graded(some, own), "grades")
                store.add(zip(numbers, grades, strict=True))
                progress.advance(len(numbers), 0)
        processes.first(store.finish, "stored")
    return [store.grades[number] for number in sorted(store.grades)]


def spaced(items: Sequence[T], limit: int | None) -> Sequence[T]:
    """At most `limit` items, evenly spaced over all, the first among them: so that every part of a file has its share,
    and the same items come each time.
    """
    if limit is None or limit >= len(items):
        return items
    return [items[k * len(items) // limit] for k in range(limit)]


def checksum(items: Sequence[Item]) -> str:
    """Of all that is asked, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for item in items:
        for request in item.requests:
            digest.update(f"{request!r}\n".encode())
    return digest.hexdigest()


def _chunks(numbers: list[int], items: Sequence[Item]) -> Iterator[list[int]]:
    """The numbers, in order, in parts whose items have about `_REQUESTS` requests together."""
    chunk, size = [], 0
    for number in numbers:
        chunk.append(number)
        size += len(items[number - 1].requests)
        if size >= _REQUESTS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Memory:
    """Grades by the number of their item, from 1, which are lost with the process."""

    def __init__(self):
        self.grades: dict[int, dict[str, Any]] = {}

    def add(self, rows) -> None:
        self.grades |= dict(rows)

    def finish(self) -> None:
        pass


class _Disk(_Memory):
    """Grades that are stored as they come."""

    def __init__(self, file: results.Results):
        super().__init__()
        self._file = file
        self.grades = {number: file.row(number) for number in file.done}

    def add(self, rows) -> None:
        rows = list(rows)
        super().add(rows)
        self._file.add(rows)

    def finish(self) -> None:
        self._file.finish()


@contextlib.contextmanager
def _store(label: str, protocol: dict[str, Any], setting: Setting) -> Iterator[_Memory]:
    """Grades that are there, and a place for more: FOLDER/LABEL-DIGEST.jsonl, in which the digest stands for the
    weights, the protocol and the limit. Of several processes the first one has the file, and tells what is in it; the
    others have a place in memory.
    """
    if setting.folder is None:
        yield _Memory()
        return
    limit = "none" if setting.limit is None else str(setting.limit)
    made_of = {
        "weights": setting.lm.fingerprint(),
        "protocol": json_files.seal(protocol),
        "limit": limit,
    }
    with contextlib.ExitStack() as closed:
        stores: list[_Memory] = []

        def there() -> list[int]:
            stores.append(closed.enter_context(_file(label, made_of, setting)))
            return sorted(stores[0].grades)

        numbers = processes.first(there, "stored")
        store = stores[0] if stores else _Memory()
        for begin in range(0, len(numbers), _REQUESTS):
            part = numbers[begin : begin + _REQUESTS]
            grades = processes.first(lambda part=part: [store.grades[number] for number in part], "stored")
            if not stores:
                store.add(zip(part, grades, strict=True))
        yield store


@contextlib.contextmanager
def _file(label: str, made_of: dict[str, str], setting: Setting) -> Iterator[_Memory]:
    """The place of `_store` in its file, or in memory where that is finished or cannot be written."""
    path = setting.folder / f"{file_name(label)}-{json_files.seal(made_of)[:12]}.jsonl"
    if results.finished(path, made_of):
        logging.info("%s: answered before, in %s; remove that file to ask again", label, path)
        memory = _Memory()
        memory.add(enumerate(results.rows(path), start=1))
        yield memory
        return
    try:
        setting.folder.mkdir(parents=True, exist_ok=True)
        file = results.Results(path, made_of)
    except OSError as error:
        reason = "answers are lost if this evaluation is stopped"
        logging.warning("%s cannot be written (%s): %s", path, error.strerror, reason)
        yield _Memory()
        return
    with file:
        yield _Disk(file)
