from scratchpatch import config as config_lib
from scratchpatch.bench import peak, peer


def test_without_torch_it_is_skipped_with_the_command(tiny, monkeypatch):
    monkeypatch.setattr(peer.importlib.util, "find_spec", lambda name: None)
    found = peer.measure(tiny).as_dict()
    assert found["numbers"] == {} and found["targets"] == []
    assert "pip install torch==2.13.0, then pip install transformers" in found["skipped"]


def test_patches_alone_have_neither_scratchpads_nor_an_entropy_head(tiny):
    alone = peer.plain(tiny)
    assert config_lib.slots(alone) == (8, 0)
    assert alone.model.entropy_head.weight == 0.0 and tiny.model.entropy_head.weight == 1.0


def test_patches_by_entropy_keep_the_head(tiny):
    tiny.patching.kind = "entropy"
    assert peer.plain(tiny).model.entropy_head.weight == 1.0


def test_a_peak_is_seen_and_forgotten():
    before = peak.resident("VmRSS")
    block = b"x" * (256 << 20)
    assert peak.resident("VmHWM") >= before + len(block) // 2
    del block
    peak.forget()
    assert peak.resident("VmHWM") < before + (128 << 20)
