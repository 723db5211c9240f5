import json
from typing import NotRequired, TypedDict

import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch import json_files
from scratchpatch.json_files import Count, Malformed, plain


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


class Shape(TypedDict):
    step: Count
    files: dict[str, tuple[Count, Count]]
    note: NotRequired[str | None]


GOOD = {"step": 3, "files": {"a": [1, 2]}, "more": {"of": ["it"]}}


def test_a_document_of_its_shape_is_returned_as_it_is():
    assert json_files.parse(json.dumps(GOOD), Shape) == GOOD


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "it is no JSON"),
        ("{", "it is no JSON"),
        (b"\xff\xfe\xfa", "it is no"),
        ("null", "Expected object, got null"),
        ("[" * 5000 + "]" * 5000, "it is nested too deep"),
        (json.dumps(GOOD | {"more": json.loads("[" * 40 + "]" * 40)}), "nested more than 32 deep"),
        ('{"step": 1' + "0" * 5000 + ', "files": {}}', "it is no JSON"),
        ('{"step": NaN, "files": {}}', "NaN is no number of JSON"),
        (json.dumps(GOOD | {"step": -1}), "step: Expected int >= 0"),
        (json.dumps(GOOD | {"step": True}), "step: Expected int, got bool"),
        (json.dumps(GOOD | {"step": 1 << 64}), "step: "),
        (json.dumps(GOOD | {"files": {"a": [1]}}), "files[...]: Expected array of length 2"),
        (json.dumps(GOOD | {"note": 3}), "note: Expected str | null, got int"),
        (json.dumps({"step": 3}), "Object missing required field files"),
    ],
)
def test_anything_else_is_one_line_that_names_the_field(text, said, tmp_path):
    with pytest.raises(Malformed) as caught:
        json_files.parse(text, Shape)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Malformed) as caught:
        json_files.read(path, Shape)
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)


def test_constants_pass_where_they_may():
    assert json_files.parse("[Infinity]", list[float], constants=True) == [float("inf")]
