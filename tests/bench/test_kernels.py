from scratchpatch.bench import kernels


def test_backends_that_run_here_are_measured_and_the_others_named(tiny, monkeypatch):
    monkeypatch.setattr(kernels, "_WINDOWS", (64, 520))
    monkeypatch.setattr(kernels, "_SECONDS", 0.01)
    monkeypatch.setattr(kernels, "_DENSE", 4 * 2 * 520 * 520 - 1)
    measured = kernels.measure(tiny).as_dict()
    assert list(measured["numbers"]) == ["xla", "blocked", "dense"]
    xla, blocked, dense = measured["numbers"].values()
    for name in ("staircase_64", "window_64", "staircase_520", "window_520"):
        for side in (xla, blocked):
            assert side[f"{name}_milliseconds"] > 0 and side[f"{name}_temporary_megabytes"] > 0
    assert dense["window_64_time_over_dense"] == dense["staircase_520_memory_over_dense"] == 1
    # The dense logits of the longer window are too many.
    assert "window_520_time_over_dense" not in xla and "window_520_milliseconds" not in dense
    assert len(measured["notes"]) == 4
    assert any("kernels.window = 'pallas' needs a GPU, and this runs on cpu" in note for note in measured["notes"])
