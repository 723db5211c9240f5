"""The documents that `scratchpatch prepare` wrote, of all splits. What trains on them reads the shards: `prepared`."""

from collections.abc import Iterator

from scratchpatch.data import prepared
from scratchpatch.data.records import BadRecords, Document
from scratchpatch.data.sources.source import Source


class Prepared(Source):
    form = "prepared:DIR"
    keeps_splits = True

    def _listed(self) -> list[tuple[str, str]]:
        return prepared.files(self.spec, self.target)

    def read(self, name: str, path: str, bad: BadRecords) -> Iterator[Document]:
        return prepared.read(name, path, bad)
