"""Where the output of a row ends at a stop string, and how much of it may be shown before that is known."""

from collections.abc import Sequence


class Stops:
    """Reads the output of one row in pieces, and releases what no stop string can take back.

    The string that is complete after the fewest bytes ends the output, as if every byte were looked at when it is
    written; of those that are complete at the same byte, the one that begins earliest. No byte of it is released. What
    is released in all does not depend on how the output is cut into pieces.

    Attributes:
      ended: whether a stop string was complete. What is pushed afterwards is dropped.
      released: how many bytes were released.
    """

    def __init__(self, strings: Sequence[bytes]):
        self._strings = tuple(strings)
        self._longest = max(map(len, self._strings), default=0)
        self._held = b""
        self.ended, self.released = False, 0

    def push(self, piece: bytes) -> bytes:
        """The bytes that can be released after `piece`: all but those that may begin a stop string."""
        if self.ended:
            return b""
        data = self._held + piece
        starts = [(data.find(string), len(string)) for string in self._strings]
        matches = [(start + length, start) for start, length in starts if start >= 0]
        if matches:
            _, end = min(matches)
            self.ended, self._held = True, b""
        else:
            end = len(data) - self._held_back(data)
            self._held = data[end:]
        self.released += end
        return data[:end]

    def flush(self) -> bytes:
        """The bytes that were held back, where the output ended without a stop string."""
        rest, self._held = self._held, b""
        self.released += len(rest)
        return rest

    def _held_back(self, data: bytes) -> int:
        """The length of the longest end of `data` that begins a stop string."""
        for length in range(min(self._longest - 1, len(data)), 0, -1):
            end = data[-length:]
            if any(string.startswith(end) for string in self._strings):
                return length
        return 0
