"""UTF-8 as an automaton over bytes, so that output can be held to what decodes.

A state says which bytes may come next, after Table 3-7 (well-formed UTF-8 byte sequences) of the Unicode Standard: no
overlong forms, no surrogates, nothing above U+10FFFF. `ACCEPT` stands between characters; every other state stands
inside an open character.

Bytes that are not well-formed UTF-8 close the open character and are read again as if between characters: a byte that
can begin a character opens one, any other leads to `ACCEPT`. Every state is therefore defined after every sequence of
bytes, and it is what Python's incremental decoder with `errors="replace"` holds back.

Legend: S states, V rows of the vocabulary, R bytes that may still be written (`ENOUGH` stands for that many or more).
"""

import numpy as np

from scratchpatch.vocabulary import BYTES

ACCEPT = 0
# One, two or three more bytes of any continuation; and what follows the leads whose second byte has a narrower range.
_ONE, _TWO, _THREE, _AFTER_E0, _AFTER_ED, _AFTER_F0, _AFTER_F4 = range(1, 8)
STATES = 8
# No character needs more bytes than this, so that a longer budget forbids nothing.
ENOUGH = 4

# State, first and last byte of a range, and the state that follows: the rows of Table 3-7, one byte at a time.
_RANGES = (
    (ACCEPT, 0x00, 0x7F, ACCEPT),
    (ACCEPT, 0xC2, 0xDF, _ONE),
    (ACCEPT, 0xE0, 0xE0, _AFTER_E0),
    (ACCEPT, 0xE1, 0xEC, _TWO),
    (ACCEPT, 0xED, 0xED, _AFTER_ED),
    (ACCEPT, 0xEE, 0xEF, _TWO),
    (ACCEPT, 0xF0, 0xF0, _AFTER_F0),
    (ACCEPT, 0xF1, 0xF3, _THREE),
    (ACCEPT, 0xF4, 0xF4, _AFTER_F4),
    (_ONE, 0x80, 0xBF, ACCEPT),
    (_TWO, 0x80, 0xBF, _ONE),
    (_THREE, 0x80, 0xBF, _TWO),
    (_AFTER_E0, 0xA0, 0xBF, _ONE),
    (_AFTER_ED, 0x80, 0x9F, _ONE),
    (_AFTER_F0, 0x90, 0xBF, _TWO),
    (_AFTER_F4, 0x80, 0x8F, _TWO),
)

# int32 [S]: how many bytes complete the open character.
NEEDED_S = np.array([0, 1, 2, 3, 2, 2, 3, 3], np.int32)


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    next_SV = np.full((STATES, BYTES.rows), -1, np.int32)
    for state, low, high, following in _RANGES:
        next_SV[state, low : high + 1] = following
    well_formed_SV = next_SV >= 0
    next_SV = np.where(well_formed_SV, next_SV, np.maximum(next_SV[ACCEPT], ACCEPT))

    left_R11 = np.arange(ENOUGH + 1)[:, None, None]
    allowed_RSV = well_formed_SV & (NEEDED_S[next_SV] < left_R11)
    # The document ends between characters, and where the open character cannot be completed.
    allowed_RSV[..., BYTES.bos] = (NEEDED_S == 0) | (NEEDED_S > left_R11[..., 0])
    return next_SV, well_formed_SV, allowed_RSV


# NEXT_SV, int32: the state after a token; `ACCEPT` after BOS.
# WELL_FORMED_SV, bool: the bytes that continue the open character, or begin one between characters.
# ALLOWED_RSV, bool: of these, the bytes after which the open character can still be completed in the bytes that are
# left. BOS, which ends the document, is allowed between characters. Where fewer bytes are left than the open character
# needs, BOS alone is allowed: nothing is written.
NEXT_SV, WELL_FORMED_SV, ALLOWED_RSV = _tables()


def state_after(data: bytes) -> int:
    """The state after `data` that began between characters."""
    state = ACCEPT
    # An open character has at most three bytes, and no byte before it matters.
    for byte in data[-3:]:
        state = int(NEXT_SV[state, byte])
    return state


def is_whole(data: bytes) -> bool:
    """Whether `data` is well-formed UTF-8 of whole characters."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
