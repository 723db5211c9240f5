import pytest

from scratchpatch.errors import UserError
from scratchpatch.planning import topology


@pytest.mark.parametrize(
    "text, slices, chips, devices", [("v5e:4x4", 1, 16, 16), ("v5p:8x8x16", 2, 2048, 2048), ("tpu7x:4x4x4", 1, 64, 128)]
)
def test_names_become_chips_and_devices(text, slices, chips, devices):
    found = topology.parse(text, slices)
    assert (found.name, found.chips, found.devices) == (text, chips, devices)


@pytest.mark.parametrize(
    "text, message",
    [
        ("v9:4x4", r"topology 'v9:4x4': wanted KIND:SHAPE with KIND one of v4, v5e, v5p"),
        ("v5p:4x4", r"wanted 3 sizes above 0 for v5p, such as v5p:4x4x4"),
        ("v5e:4x0", r"wanted 2 sizes above 0 for v5e, such as v5e:4x4"),
        ("v5e", r"wanted 2 sizes"),
        ("v5e:32x16", r"has 512 chips; a v5e slice has at most 256: use --slices"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(text, message):
    with pytest.raises(UserError, match=message):
        topology.parse(text)


def test_pods_come_in_order_and_as_cubes():
    names = [t.name for t in topology.pods("v5p")]
    assert names[:7] == ["v5p:2x2x1", "v5p:2x2x2", "v5p:2x2x4", "v5p:2x4x4", "v5p:4x4x4", "v5p:4x4x8", "v5p:4x8x8"]
    assert [t.chips for t in topology.pods("v5e")] == [4, 8, 16, 32, 64, 128, 256]
    assert max(t.chips for t in topology.pods("v5p")) == 8192
