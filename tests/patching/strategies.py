"""Random rows for hypothesis, all of one shape in a test: nothing compiles anew between examples."""

import numpy as np
from hypothesis import strategies as st

from tests import tiny

ROWS, LENGTH = 3, 150  # two whole chunks of the controller and a part
# Configs in which decisions wait for the end of a character.
WHOLE_CHARACTERS = [
    {
        "patching.kind": "fixed",
        "patching.whole_characters": True,
        "trigger.kind": "stride",
        "trigger.whole_characters": True,
    },
    {
        "patching.kind": "entropy",
        "patching.whole_characters": True,
        "trigger.kind": "entropy_jump",
        "trigger.gain": 0.02,
        "trigger.whole_characters": True,
    },
    {
        "patching.kind": "byte",
        "patching.whole_characters": True,
        "trigger.kind": "none",
    },
    {
        "patching.kind": "whitespace",
        "trigger.kind": "random",
        "trigger.rate": 0.4,
        "trigger.whole_characters": True,
    },
    {
        "patching.kind": "random",
        "patching.whole_characters": True,
        "patching.capacity": 0.2,
        "trigger.kind": "every",
        "trigger.capacity": 0.4,
        "trigger.whole_characters": True,
    },
]


@st.composite
def rows(draw, length: int = LENGTH) -> np.ndarray:
    """int32 [ROWS, length]: packed documents, some rows inside one, some with PAD at the end."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return np.stack(
        [
            tiny.pack(
                rng,
                draw(st.lists(st.integers(0, 100), max_size=6)),
                length,
                inside=draw(st.booleans()),
                pad=draw(st.sampled_from((0, 0, 1, 30))),
            )
            for _ in range(ROWS)
        ]
    )


@st.composite
def entropies(draw, length: int = LENGTH) -> np.ndarray:
    """float32 [ROWS, length], nats between 0 and log 257, some rows calmer than others."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    top_B1 = rng.choice([0.5, 2.0, 5.5], (ROWS, 1))
    return (rng.random((ROWS, length)) * top_B1).astype(np.float32)


def masks(max_share: float = 1.0):
    """bool [ROWS, LENGTH] of a random density."""

    @st.composite
    def draw_mask(draw):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        return rng.random((ROWS, LENGTH)) < draw(st.floats(0, max_share))

    return draw_mask()
