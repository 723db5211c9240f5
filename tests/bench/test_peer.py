import importlib.util

import numpy as np
import pytest

from scratchpatch import config as config_lib
from scratchpatch.bench import peak, peer

HAS_PEER = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def test_without_torch_it_is_skipped_with_the_command(tiny, monkeypatch):
    monkeypatch.setattr(peer.importlib.util, "find_spec", lambda name: None)
    measured = peer.measure(tiny).as_dict()
    assert measured["numbers"] == {} and measured["targets"] == []
    assert "pip install torch==2.13.0, then pip install transformers" in measured["skipped"]


def test_patches_alone_have_neither_scratchpads_nor_an_entropy_head(tiny):
    alone = peer.patches_alone(tiny)
    assert config_lib.slots(alone) == (8, 0)
    assert alone.model.entropy_head.weight == 0.0 and tiny.model.entropy_head.weight == 1.0


def test_patches_by_entropy_keep_the_head(tiny):
    tiny.patching.kind = "entropy"
    assert peer.patches_alone(tiny).model.entropy_head.weight == 1.0


def test_a_peak_is_seen_and_forgotten():
    before = peak.resident("VmRSS")
    block = b"x" * (256 << 20)
    assert peak.resident("VmHWM") >= before + len(block) // 2
    del block
    peak.forget()
    assert peak.resident("VmHWM") < before + (128 << 20)


@pytest.mark.skipif(not HAS_PEER, reason="torch and transformers not installed: bash launch/setup.sh peer")
@pytest.mark.parametrize("parts", [1, 2])
def test_the_peer_takes_a_step_in_the_windows_of_the_config(tiny, parts):
    from scratchpatch.bench import blt

    wanted = blt._count(blt._model(tiny, 40))
    tokens = np.random.default_rng(0).integers(0, 256, (2, tiny.data.window + 1))
    step = blt.Blt(tiny, blt.patch_bytes(tiny), wanted, tokens, parts)
    assert step.parameters == wanted and step.bytes == 2 * tiny.data.window
    settings, window = step._model.config, max(tiny.model.encoder.window, tiny.model.decoder.window)
    assert (settings.local_attention_window_len, settings.encoder_config.sliding_window) == (window, window)
    losses = []
    for _ in range(3):
        step()
        losses.append(step.loss)
    assert np.isfinite(losses).all() and losses[2] < losses[0]
