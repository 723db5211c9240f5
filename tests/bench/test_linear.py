import jax
import jax.numpy as jnp
import pytest

from scratchpatch import config as config_lib
from scratchpatch.bench import arrays, linear
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.kernels import attention
from scratchpatch.training.step import Trainer


@pytest.fixture(autouse=True)
def _quick(quick_compilation):
    pass


def compiled(config):
    trainer = Trainer(config, mesh_lib.make(config))
    widths = frozenset(n for x in jax.tree.leaves(trainer.abstract_state()["params"]) for n in x.shape)
    return trainer.compile(), widths


def test_rows_shorten_as_the_window_grows(tiny):
    for window in (128, 1024):
        found = linear.at_window(tiny, window, 4096)
        assert found.data.window * found.training.batch_rows == 4096
    assert tiny.data.window == 128


def test_no_array_grows_with_the_square_of_the_window(tiny):
    """Every array of the step, those inside fusions included, holds as much in long rows as in short ones."""
    largest, memory = {}, {}
    for window in (512, 2048):
        config = linear.at_window(tiny, window, 4096)
        step, widths = compiled(config)
        found = arrays.of(step.as_text())
        slots = sum(config_lib.slots(config))
        assert slots > max(n for n in widths if n != 264) and not arrays.squares(found, slots, widths)
        largest[window] = found[0].bytes
        memory[window] = step.memory_analysis().temp_size_in_bytes
    assert largest[2048] <= largest[512]
    assert memory[2048] <= 1.05 * memory[512]


def test_the_scan_of_arrays_is_not_blind(tiny, monkeypatch):
    """Attention over all bytes at once, planted into the byte tiers, is found."""

    def full(q_BLHK, k_BLHK, v_BLHK, start_BL, window, backend):
        logits = jnp.einsum("blhk,bmhk->bhlm", q_BLHK, k_BLHK)
        return jnp.einsum("bhlm,bmhk->blhk", jax.nn.softmax(logits), v_BLHK)

    monkeypatch.setattr(attention, "window", full)
    config = linear.at_window(tiny, 512, 1024)
    step, widths = compiled(config)
    found = arrays.squares(arrays.of(step.as_text()), sum(config_lib.slots(config)), widths)
    assert any(a.shape.count(512) == 2 for a in found)
