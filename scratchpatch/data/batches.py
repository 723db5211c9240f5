"""Batches of windows: step g holds rows [g * B, (g + 1) * B) of one endless order.

Which window stands in a row is arithmetic (`order`), so a batch depends on the
config and the step alone. A process reads only its rows, and what a run must
remember of its data is the step. Grain reads ahead; one of its records is a
whole batch, because a record's overhead there is worth many windows of copying.

Legend: B rows of this process, W window + 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import grain
import numpy as np

from scratchpatch.data.mixture import streams_for
from scratchpatch.data.order import Order
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

    def __init__(self, config, split: str = "train", process_index: int = 0, process_count: int = 1):
        """Open (and where needed build) the indexes.

        Raises:
            UserError: anything wrong with a source, or rows that the processes cannot share evenly.
        """
        total = config.training.batch_rows
        if total % process_count:
            raise UserError(f"training.batch_rows = {total} must be a multiple of the {process_count} processes")
        self.streams = streams_for(config, split)
        self.rows = total // process_count
        self.window = config.data.window
        self.bytes_per_epoch = sum(stream.bytes for stream, _ in self.streams)
        self._batch_rows = total
        self._first_row = process_index * self.rows
        self._threads, self._prefetch = config.data.threads, config.data.prefetch
        self._order = Order(
            windows=[stream.windows(self.window) for stream, _ in self.streams],
            weights=[weight for _, weight in self.streams],
            seed=config.seed,
        )

    def batch(self, step: int) -> np.ndarray:
        """int32 [B, W]: inputs are [:, :-1], targets [:, 1:]."""
        sources_B, windows_B = self._order.rows(step * self._batch_rows + self._first_row, self.rows)
        tokens_BW = np.empty((self.rows, self.window + 1), np.int32)
        for index, (stream, _) in enumerate(self.streams):
            mine_B = sources_B == index
            tokens_BW[mine_B] = stream.read_windows(windows_B[mine_B], self.window)
        return tokens_BW

    def iterate(self, first_step: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(step, batch(step)) from `first_step` on, data.prefetch of them read ahead by data.threads threads."""
        records = grain.MapDataset.range(first_step, _LAST_STEP).map(lambda step: (step, self.batch(step)))
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=max(self._prefetch, self._threads))
        return iter(records.to_iter_dataset(options))
