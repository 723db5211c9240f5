"""The documents that `scratchpatch prepare` wrote, of all splits. What trains on them reads the shards: `prepared`."""

from collections.abc import Iterator

from scratchpatch.data import paths
from scratchpatch.data.checks import Damaged
from scratchpatch.data.prepared import check_tokenizer, entries_of, finished_meta
from scratchpatch.data.records import BadRecords, Document, explain
from scratchpatch.data.shards import POSITIONS, STARTS, Shard
from scratchpatch.data.sources.source import Source
from scratchpatch.places import cache_folder


class Prepared(Source):
    form = "prepared:DIR"
    keeps_splits = True

    def _listed(self) -> list[tuple[str, str]]:
        names = [entry["name"] + POSITIONS for entry in entries_of(finished_meta(self.spec, self.target))]
        return [(name, paths.below(self.target, name)) for name in names]

    def read(self, name: str, path: str, bad: BadRecords) -> Iterator[Document]:
        """The documents of a shard. Where one cannot be read, all that are left are bad records."""
        folder = path.removesuffix(name).rstrip("/")
        meta = finished_meta(path, folder)
        check_tokenizer(path, folder, meta, None)
        entries = entries_of(meta)
        (entry,) = (entry for entry in entries if entry["name"] + POSITIONS == name)
        number = 0
        try:
            shard = Shard(folder, entry, cache_folder() / "prepared")
            if not shard.is_right(STARTS):
                raise Damaged(f"the checksum of {shard.paths[STARTS]} is wrong")
            for number, data in enumerate(shard.documents(), 1):
                yield Document(f"{name}#{number}", data)
        except (OSError, ValueError, Damaged) as error:
            bad.add(path, explain(error), records=entry["documents"] - number)
