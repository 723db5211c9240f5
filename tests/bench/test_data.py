from scratchpatch.bench import data


def test_windows_are_counted_at_1024_bytes(tiny, monkeypatch):
    monkeypatch.setattr(data, "_SECONDS", 0.05)
    tiny.data.threads = 3
    found = data.measure(tiny).as_dict()
    windows = found["numbers"]["windows"]
    assert windows["window_bytes"] == 1024 and windows["rows"] == 2 and windows["batches"] > 0
    assert windows["megabytes_per_second"] > 0
    assert found["targets"][0]["at_least"] == 20.0
    assert tiny.data.threads == 3
