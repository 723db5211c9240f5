"""Documents of pairs and then questions, such as "m7 y6 n4; y6 m7 y6 n4", drawn by a seed.

The byte after a key that was just asked can be known from the key's pair alone, which stands far away; nothing else in
the document says it.

Legend: D documents, L bytes of a document, P pairs, Q questions.
"""

import dataclasses

import numpy as np

from scratchpatch.errors import UserError

_KEYS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
_VALUES = np.frombuffer(b"0123456789", np.uint8)
# One in so many digits is right by chance.
CHANCE = 1 / len(_VALUES)
_LONGEST = 1 << 18


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Documents of one shape: `pairs` distinct letters with a random digit each, `distance` dots and "; ", and then
    `questions` of these letters at random, each with its digit.

    Attributes:
      pairs: 1 to 26.
      questions: how many; a letter may be asked several times.
      distance: dots between the pairs and the questions.
      seed: of the documents; other seeds give others.
    """

    pairs: int = 6
    questions: int = 24
    distance: int = 0
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.pairs <= len(_KEYS):
            raise UserError(f"pairs = {self.pairs} must lie between 1 and {len(_KEYS)}: each has a letter of its own")
        if not 1 <= self.questions <= _LONGEST:
            raise UserError(f"questions = {self.questions} must lie between 1 and {_LONGEST}")
        if not 0 <= self.distance <= _LONGEST:
            raise UserError(f"distance = {self.distance} must lie between 0 and {_LONGEST} bytes")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed = {self.seed} must lie between 0 and {2**32 - 1}")

    @property
    def length(self) -> int:
        """Bytes of a document."""
        return 3 * self.pairs + self.distance + 3 * self.questions

    @property
    def answers(self) -> np.ndarray:
        """int [Q]: where in a document the value of each question stands."""
        return 3 * self.pairs + self.distance + 2 + 3 * np.arange(self.questions)

    def documents(self, count: int, part: int = 0) -> np.ndarray:
        """uint8 [D, L]: so many documents; those of one part are the same on every machine, and no other part's."""
        rng = np.random.default_rng((self.seed, part))
        keys_DP = rng.random((count, len(_KEYS))).argsort(axis=1)[:, : self.pairs]
        values_DP = rng.integers(0, len(_VALUES), (count, self.pairs))
        asked_DQ = rng.integers(0, self.pairs, (count, self.questions))
        out_DL = np.full((count, self.length), ord("."), np.uint8)
        pairs = _written(keys_DP, values_DP)
        out_DL[:, : 3 * self.pairs - 1] = pairs[:, :-1]
        middle = 3 * self.pairs - 1 + self.distance
        out_DL[:, middle : middle + 2] = np.frombuffer(b"; ", np.uint8)
        asked = _written(np.take_along_axis(keys_DP, asked_DQ, 1), np.take_along_axis(values_DP, asked_DQ, 1))
        out_DL[:, middle + 2 :] = asked[:, :-1]
        return out_DL


def _written(keys_DP: np.ndarray, values_DP: np.ndarray) -> np.ndarray:
    """uint8 [D, 3 P]: "k7 " for each pair."""
    spaces_DP = np.full(keys_DP.shape, ord(" "), np.uint8)
    return np.stack([_KEYS[keys_DP], _VALUES[values_DP], spaces_DP], axis=2).reshape(len(keys_DP), -1)
