"""Batches of windows: step g holds rows [g * B, (g + 1) * B) of one endless order.

Which window stands in a row is arithmetic (`order`), so a batch depends on the
config (with the steps at which its weights changed) and the step alone; so do the entropies beside it, where they were
computed (`entropies`). A process reads only its rows, and what a run must
remember of its data is the step. Grain reads ahead; one of its records is a
whole batch, because a record's overhead there is worth many windows of copying.

Legend: B rows of this process, W window + 1, L window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from scratchpatch.data.entropies import Entropies, open_entropies
from scratchpatch.data.mixture import streams_for
from scratchpatch.data.order import Order
from scratchpatch.data.stream import Stream
from scratchpatch.errors import UserError

# Where grain's range of steps ends; beyond any run, within a C long everywhere.
_LAST_STEP = 2**31 - 1


class Batches:
    """The batches of one process.

    Attributes:
        streams: list of (Stream, weight).
        rows: rows of a batch that this process reads.
        window: inputs of a row.
        bytes_per_epoch: raw bytes of all streams together.
    """

    def __init__(self, config, split: str = "train", rows: Sequence[int] | None = None, parts: int = 1):
        """Open (and where needed build) the indexes.

        Args:
            config: the experiment.
            split: which documents.
            rows: those of each part that this process reads, ascending; None: all.
            parts: that a batch is computed in, one after the other.

        Raises:
            UserError: anything wrong with a source, or rows that do not make up whole parts.
        """
        total = config.training.batch_rows
        if total % parts:
            raise UserError(f"training.batch_rows = {total} must be a multiple of its {parts} parts")
        each = np.arange(total // parts) if rows is None else np.asarray(rows)
        # Runs of neighbours, in the batch: [first, end) of each.
        breaks = np.flatnonzero(np.diff(each) != 1) + 1
        self._runs = [
            (part * (total // parts) + int(run[0]), len(run)) for part in range(parts) for run in np.split(each, breaks)
        ]
        self.streams = streams_for(config, split)
        if 0 in each:  # of several processes, which may share the disk, one is enough
            for stream, _ in self.streams:
                stream.watch()
        self.rows = len(each) * parts
        self.window = config.data.window
        self.bytes_per_epoch = sum(stream.bytes for stream, _ in self.streams)
        self._batch_rows = total
        self._threads, self._prefetch = config.data.threads, config.data.prefetch
        self._cache_dir = config.data.cache_dir
        self._entropies: list[Entropies] = []
        self._seed = config.seed
        self.follow([(0, [weight for _, weight in self.streams])])

    def follow(self, weights: list[tuple[int, list[float]]]) -> None:
        """Mix by (first step, weights of the sources), the first of step 0, instead of the config's."""
        (_, first), *changes = weights
        self._order = Order(
            windows=[stream.windows(self.window) for stream, _ in self.streams],
            weights=first,
            seed=self._seed,
            changes=[(step * self._batch_rows, changed) for step, changed in changes],
        )

    def open_entropies(self, model: str) -> None:
        """Let `arrays` and `iterate` give entropies too.

        Args:
            model: checksum of the entropy model.

        Raises:
            UserError: they were not computed.
        """
        self._entropies = [open_entropies(stream, model, self._cache_dir) for stream, _ in self.streams]

    def batch(self, step: int) -> np.ndarray:
        """int32 [B, W]: inputs are [:, :-1], targets [:, 1:]."""
        tokens_BW = np.empty((self.rows, self.window + 1), np.int32)
        return self._fill(tokens_BW, [stream for stream, _ in self.streams], step)

    def arrays(self, step: int) -> tuple[np.ndarray, ...]:
        """`batch(step)`; with open entropies also those of its inputs, float32 [B, L] in nats."""
        tokens_BW = self.batch(step)
        if not self._entropies:
            return (tokens_BW,)
        entropy_BL = np.empty((self.rows, self.window), np.float32)
        return tokens_BW, self._fill(entropy_BL, self._entropies, step)

    def _fill(self, into_BX: np.ndarray, readers: list[Stream] | list[Entropies], step: int) -> np.ndarray:
        """Each row from the reader of its source."""
        begin = step * self._batch_rows
        each = [self._order.rows(begin + first, count) for first, count in self._runs]
        sources_B, windows_B = (np.concatenate(pieces) for pieces in zip(*each, strict=True))
        for index, reader in enumerate(readers):
            mine_B = sources_B == index
            into_BX[mine_B] = reader.read_windows(windows_B[mine_B], self.window)
        return into_BX

    def iterate(self, first_step: int = 0) -> Iterator[tuple[int, *tuple[np.ndarray, ...]]]:
        """(step, *arrays(step)) from `first_step` on, data.prefetch of them read ahead by data.threads threads."""
        records = grain.MapDataset.range(first_step, _LAST_STEP).map(lambda step: (step, *self.arrays(step)))
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=max(self._prefetch, self._threads))
        return iter(records.to_iter_dataset(options))
