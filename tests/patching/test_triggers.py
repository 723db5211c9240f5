import jax.numpy as jnp
import numpy as np

from scratchpatch.patching import triggers
from scratchpatch.patching.scores import Signals
from tests import tiny
from tests.tiny import BOS


def requests(kind: str, tokens, entropy=None, patch_starts=None, commits=(), threshold=1.0, **fields) -> list[int]:
    """Positions at which a trigger asks for a scratchpad."""
    config = tiny.config({"trigger.kind": kind, **{f"trigger.{k}": v for k, v in fields.items()}})
    tokens_BL = jnp.array([tokens])
    rows = tiny.rows(tokens_BL)
    eligible_BL = jnp.ones(tokens_BL.shape, bool).at[0, jnp.array(commits, int)].set(False)
    entropy_BL = jnp.zeros(tokens_BL.shape) if entropy is None else jnp.array([entropy], jnp.float32)
    patch_start_BL = rows.start_BL if patch_starts is None else jnp.array([patch_starts])
    signals = Signals(entropy_BL)
    got_BL, _ = triggers.request(config.trigger, rows, patch_start_BL, eligible_BL, signals, jnp.float32(threshold))
    return np.flatnonzero(got_BL[0]).tolist()


def test_none_and_every():
    assert requests("none", [1, 2, 3]) == []
    assert requests("every", [1, 2, 3], commits=[1]) == [0, 2]


def test_entropy_fires_above_the_threshold_but_not_at_it_nor_at_a_commit():
    assert requests("entropy", [BOS, 1, 2, 3], [1.0, 1.1, 3.0, 0.2], commits=[2]) == [1]


def test_entropy_jump_never_fires_at_a_documents_start():
    assert requests("entropy_jump", [BOS, 1, BOS, 2], [0.0, 1.5, 9.0, 10.5]) == [1, 3]


def test_stride_counts_from_the_start_of_the_open_patch():
    starts = [0, 0, 0, 0, 0, 5, 5, 5]
    assert requests("stride", [65] * 8, patch_starts=starts, commits=[4], stride=2) == [1, 3, 6]


def test_whitespace_fires_at_word_ends():
    assert requests("whitespace", [*b"ab cd e"], commits=[2]) == [5]


def test_marks_fire_at_the_last_byte_of_each_mark():
    assert requests("marks", [*b"a=b>>c>d## #"], marks=("=", "# ", ">>")) == [1, 4, 10]
    assert requests("marks", [*b"#", BOS, *b" >", BOS, *b">"], marks=("# ", ">>")) == []
    assert requests("marks", [*"ab\u20ac".encode()], marks=("\u20ac",)) == [4]


def test_random_fires_at_its_rate_and_alike_in_every_pass():
    tokens = np.random.default_rng(0).integers(0, 256, 4096).tolist()
    fired = requests("random", tokens, rate=0.25)
    assert abs(len(fired) / 4096 - 0.25) < 0.03
    assert fired == requests("random", tokens, rate=0.25)
    more = requests("random", tokens, rate=0.5)
    assert set(fired) < set(more)
