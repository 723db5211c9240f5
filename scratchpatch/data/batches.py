"""Batches of windows: step g holds rows [g * B, (g + 1) * B) of one endless order (see `order` and README.md).

Grain reads ahead. One of its records is some whole batches, because each record there costs as much as many windows do.

Legend: B rows of this process, W window + 1, L window.
"""

import itertools
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from scratchpatch.data.entropies import Entropies, open_entropies
from scratchpatch.data.mixture import streams_for
from scratchpatch.data.order import Order
from scratchpatch.data.stream import Stream
from scratchpatch.errors import UserError

# Where grain's range of steps ends: beyond any run, and within a C long everywhere.
_LAST_STEP = 2**31 - 1


class Batches:
    """The batches of one process.

    Attributes: `streams`, a list of (Stream, weight); `rows`, how many of a batch this process reads; `window`, the
    inputs of a row; `bytes_per_epoch`, the raw bytes of all streams together.
    """

    def __init__(self, config, split: str = "train", rows: Sequence[int] | None = None, parts: int = 1):
        """Open (and where needed build) the indexes. A batch is computed in `parts`, one after the other; `rows` are
        those of each part that this process reads, ascending (None: all). Raises UserError where anything is wrong with
        a source, or rows do not make up whole parts.
        """
        self._batch_rows = config.training.batch_rows
        part_rows, rest = divmod(self._batch_rows, parts)
        if rest:
            raise UserError(f"training.batch_rows = {self._batch_rows} must be a multiple of its {parts} parts")
        own = np.arange(part_rows) if rows is None else np.asarray(rows)
        # Runs of neighbours: the first row in the batch, and the number of rows, of each.
        runs = np.split(own, np.flatnonzero(np.diff(own) != 1) + 1)
        self._runs = [(part * part_rows + int(run[0]), len(run)) for part in range(parts) for run in runs]
        self.streams = streams_for(config, split)
        if 0 in own:  # of several processes, which may share the disk, one is enough
            for stream, _ in self.streams:
                stream.watch()
        self.rows = len(own) * parts
        self.window = config.data.window
        self.bytes_per_epoch = sum(stream.bytes for stream, _ in self.streams)
        self._data, self._seed = config.data, config.seed
        self._entropies: list[Entropies] = []
        self.follow([(0, [weight for _, weight in self.streams])])

    def follow(self, weights: list[tuple[int, list[float]]]) -> None:
        """Mix by (first step, weights of the sources), the first of step 0, instead of the config's weights."""
        (_, initial), *changes = weights
        windows = [stream.windows(self.window) for stream, _ in self.streams]
        rows = [(step * self._batch_rows, changed) for step, changed in changes]
        self._order = Order(windows, initial, self._seed, rows)

    def open_entropies(self, model: str) -> None:
        """Let `arrays` and `iterate` give entropies too, those by the model that has this checksum. Raises UserError
        where they were not computed.
        """
        self._entropies = [open_entropies(stream, model, self._data.cache_dir) for stream, _ in self.streams]

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

    def _fill(self, array_BX: np.ndarray, readers: list[Stream] | list[Entropies], step: int) -> np.ndarray:
        begin = step * self._batch_rows
        runs = [self._order.rows(begin + row, count) for row, count in self._runs]
        sources_B, windows_B = (np.concatenate(pieces) for pieces in zip(*runs, strict=True))
        for source, reader in enumerate(readers):
            own_B = sources_B == source
            array_BX[own_B] = reader.read_windows(windows_B[own_B], self.window)
        return array_BX

    def iterate(self, first_step: int = 0) -> Iterator[tuple[int, *tuple[np.ndarray, ...]]]:
        """(step, *arrays(step)) from `first_step` on, data.prefetch of them read ahead by data.threads threads."""
        threads = self._data.threads
        # Half of what is held ready is read while the other half is taken.
        each = max(self._data.prefetch // (2 * threads), 1)

        def record(number: int) -> list[tuple[int, *tuple[np.ndarray, ...]]]:
            begin = first_step + number * each
            return [(step, *self.arrays(step)) for step in range(begin, begin + each)]

        records = grain.MapDataset.range(_LAST_STEP // each).map(record)
        ahead = max(self._data.prefetch // each, threads)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        return itertools.chain.from_iterable(records.to_iter_dataset(options))
