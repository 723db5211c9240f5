import json

import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch.training.json_files import plain, replace_text


@pytest.mark.parametrize(
    "value, wanted",
    [
        (3, 3),
        (True, True),
        (None, None),
        ("INVALID", "INVALID"),
        (0.1, 0.1),
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        (jnp.int32(-2), -2),
        (jnp.bfloat16(1.5), 1.5),
        (float("nan"), None),
        (jnp.inf, None),
        (np.array(-np.inf), None),
    ],
)
def test_scalars_become_what_json_has(value, wanted):
    assert plain(value) == wanted and type(plain(value)) is type(wanted)
    json.dumps(plain(value), allow_nan=False)


def test_what_is_no_scalar_is_refused():
    with pytest.raises(TypeError):
        plain(np.zeros(3))


def test_a_text_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    replace_text(path, "one")
    replace_text(path, "two")
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]
