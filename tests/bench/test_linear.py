import jax
import jax.numpy as jnp

from scratchpatch import config as config_lib
from scratchpatch.bench import linear
from scratchpatch.bench.linear import Array
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.kernels import attention
from scratchpatch.training.step import Trainer


def compiled(config):
    trainer = Trainer(config, mesh_lib.make(config))
    widths = frozenset(n for x in jax.tree.leaves(trainer.abstract_state()["params"]) for n in x.shape)
    return trainer.compile(), widths


def test_types_shapes_and_bytes():
    text = "%a = f32[2,3]{1,0} add(bf16[7]{0} %b, pred[5,5] %c), s32[] %d, (u8[4], f32[2,3])"
    arrays = linear.arrays(text)
    assert [str(a) for a in arrays] == ["pred[5,5]", "f32[2,3]", "bf16[7]", "u8[4]"]
    assert [a.bytes for a in arrays] == [25, 24, 14, 4]


def test_squares_have_two_long_axes():
    arrays = [Array("f32", shape) for shape in ((8, 100, 100), (100, 16), (2, 150, 4, 120), (264, 100), (1000,))]
    squares = linear.squares(arrays, 100, frozenset({264}))
    assert [str(a) for a in squares] == ["f32[8,100,100]", "f32[2,150,4,120]"]


def test_a_compiled_square_is_seen():
    full = jax.jit(lambda x: jax.nn.softmax(x @ x.T) @ x).lower(jax.ShapeDtypeStruct((96, 8), jnp.float32)).compile()
    assert "f32[96,96]" in [str(a) for a in linear.squares(linear.arrays(full.as_text()), 96, frozenset())]


def test_rows_shorten_as_the_window_grows(tiny):
    for window in (128, 1024):
        config = linear.at_window(tiny, window, 4096)
        assert config.data.window * config.training.batch_rows == 4096
    assert tiny.data.window == 128


def test_no_array_grows_with_the_square_of_the_window(tiny):
    """Every array of the step, those inside fusions included, holds as much in long rows as in short ones."""
    largest, memory = {}, {}
    for window in (512, 2048):
        config = linear.at_window(tiny, window, 4096)
        step, widths = compiled(config)
        arrays, slots = linear.arrays(step.as_text()), sum(config_lib.slots(config))
        assert slots > max(n for n in widths if n != 264) and not linear.squares(arrays, slots, widths)
        largest[window] = arrays[0].bytes
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
    squares = linear.squares(linear.arrays(step.as_text()), sum(config_lib.slots(config)), widths)
    assert any(a.shape.count(512) == 2 for a in squares)
