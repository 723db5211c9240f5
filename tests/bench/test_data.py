from scratchpatch.bench import data


def test_windows_are_counted_at_1024_bytes_and_of_a_prepared_folder_at_8192(tiny, monkeypatch):
    monkeypatch.setattr(data, "_SECONDS", 0.05)
    monkeypatch.setattr(data, "_PREPARED", tiny.data.sources[0][0])
    tiny.data.threads = 3
    sources = tiny.data.sources
    found = data.measure(tiny).as_dict()
    for side, window in (("windows", 1024), ("prepared", 8192)):
        numbers = found["numbers"][side]
        assert numbers["window_bytes"] == window and numbers["rows"] == 2 and numbers["batches"] > 0
        assert numbers["megabytes_per_second"] > 0
    assert [target["at_least"] for target in found["targets"]] == [20.0, 100.0]
    assert tiny.data.threads == 3 and tiny.data.sources == sources
