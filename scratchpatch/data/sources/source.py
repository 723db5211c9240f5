"""What every kind of source has: files, and the documents in them."""

import abc
import dataclasses
import glob
import os
from collections.abc import Iterator
from typing import ClassVar

from scratchpatch.data import paths
from scratchpatch.data.records import BadRecords, Document
from scratchpatch.data.sources.matching import distinct, matching
from scratchpatch.errors import UserError


@dataclasses.dataclass(frozen=True)
class Source(abc.ABC):
    """A parsed SPEC. Each kind is a class in a file of its own, which says how its files are found and read."""

    form: ClassVar[str]  # how a SPEC is written; what follows [@ or [# is a split or a field that it may name
    default_split: ClassVar[str] = ""  # the split where the SPEC names none
    keeps_splits: ClassVar[bool] = False  # whether its splits are its own, whatever else a config validates on
    standard: ClassVar[bool] = False  # whether it is the standard library, whose splits never merge

    spec: str  # as the user wrote it
    target: str  # the absolute glob or folder; 'code' or 'prose' of stdlib; the name of a registered tfds data set
    field: str  # of the JSON object, row or example; empty for kinds without one
    split: str  # of the data set; empty for kinds without one

    @property
    def scheme(self) -> str:
        """What stands before the colon."""
        return self.form.partition(":")[0]

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for two spellings of one source."""
        return self.scheme, self.target, self.field, *filter(None, [self.split])

    @property
    def doubled(self) -> str:
        """How to write the marks in a name, for an error about a SPEC that holds one."""
        marks = [mark for mark in "#@" if f"[{mark}" in self.form and mark in self.spec]
        return f" (a {' or '.join(marks)} that is part of a name is written twice)" if marks else ""

    def wrong(self, what: str) -> UserError:
        """The error that says what is wrong with this source."""
        return UserError(f"{self.spec}: {what}")

    def files(self) -> list[tuple[str, str]]:
        """(name, path) of every file, in a fixed order. Raises UserError where there is none, or one is not regular."""
        try:
            files = self._listed()
        except OSError as error:
            raise self.wrong(f"cannot be listed ({error})") from error
        for _, path in files:
            if what := paths.irregular(path):
                raise self.wrong(f"{path} is {what}, and only regular files are read: leave it out of the source")
        return files

    def documents(self, files: list[tuple[str, str]], bad: BadRecords) -> Iterator[Document]:
        """The documents of `files`, read one at a time. Raises UserError as `bad` says."""
        for name, path in files:
            yield from self.read(name, path, bad)

    @abc.abstractmethod
    def read(self, name: str, path: str, bad: BadRecords) -> Iterator[Document]:
        """The documents of one file, whose name begins theirs."""

    def _listed(self) -> list[tuple[str, str]]:
        """The files that the target matches, named by their path below its part without wildcards. A kind whose target
        is no pattern has a method of its own. Raises OSError, and UserError where there is none.
        """
        pattern = self.target
        if paths.is_file(pattern):
            return [(os.path.basename(pattern), pattern)]
        base = pattern
        while glob.has_magic(base) or base == pattern:
            base = os.path.dirname(base)
        files = distinct(matching(pattern))
        if not files and paths.is_folder(pattern):
            raise self.wrong(f"{pattern} is a folder; name the files in it, such as {pattern}/**")
        if not files:
            raise self.wrong(f"no file matches {pattern}; check the path and the pattern{self.doubled}")
        return [(path.removeprefix(base).lstrip("/").replace(os.sep, "/"), path) for path in files]
