import pytest

from scratchpatch.bench import timing, train


@pytest.mark.usefixtures("quick_compilation")
def test_both_sides_are_measured_on_the_same_bytes(tiny, monkeypatch):
    monkeypatch.setattr(train, "_SECONDS", 0.0)
    monkeypatch.setattr(timing, "_FEWEST", 1)
    found = train.measure(tiny).as_dict()
    ours, byte_level = found["numbers"]["config"], found["numbers"]["byte-level"]
    assert ours["bytes_per_step"] == byte_level["bytes_per_step"] == 256
    assert byte_level["trunk_calls_per_byte"] == byte_level["trunk_slots_per_byte"] == 1.0
    assert ours["trunk_slots_per_byte"] == pytest.approx((8 + 30) / 128)
    assert 0 < ours["trunk_calls_per_byte"] <= ours["trunk_slots_per_byte"]
    assert ours["kiloflops_per_byte"] > 0 and ours["memory_megabytes"] > 0 and ours["compile_seconds"] > 0


def test_the_byte_level_config_keeps_the_trunk(tiny):
    other = train.byte_level(tiny)
    assert other.model.trunk == tiny.model.trunk and other.model.encoder == tiny.model.encoder
    assert other.patching.kind == "byte" and tiny.patching.kind == "fixed"
