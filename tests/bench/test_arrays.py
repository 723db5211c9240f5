import jax
import jax.numpy as jnp

from scratchpatch.bench import arrays
from scratchpatch.bench.arrays import Array


def test_types_shapes_and_bytes():
    text = "%a = f32[2,3]{1,0} add(bf16[7]{0} %b, pred[5,5] %c), s32[] %d, (u8[4], f32[2,3])"
    assert [str(a) for a in arrays.of(text)] == ["pred[5,5]", "f32[2,3]", "bf16[7]", "u8[4]"]
    assert {str(a): a.bytes for a in arrays.of(text)} == {"pred[5,5]": 25, "f32[2,3]": 24, "bf16[7]": 14, "u8[4]": 4}


def test_squares_have_two_long_axes():
    found = [Array("f32", shape) for shape in ((8, 100, 100), (100, 16), (2, 150, 4, 120), (264, 100), (1000,))]
    assert [str(a) for a in arrays.squares(found, 100, frozenset({264}))] == ["f32[8,100,100]", "f32[2,150,4,120]"]


def test_a_compiled_square_is_seen():
    full = jax.jit(lambda x: jax.nn.softmax(x @ x.T) @ x).lower(jax.ShapeDtypeStruct((96, 8), jnp.float32)).compile()
    assert "f32[96,96]" in [str(a) for a in arrays.squares(arrays.of(full.as_text()), 96, frozenset())]
