from scratchpatch import config as config_lib
from scratchpatch.bench import data


def test_windows_are_counted_at_1024_bytes_and_of_a_prepared_folder_at_8192(tiny, monkeypatch):
    monkeypatch.setattr(data, "_SECONDS", 0.05)
    monkeypatch.setattr(data, "_PREPARED", tiny.data.sources[0][0])
    tiny.data.threads = 3
    before = config_lib.flat(tiny)
    measured = data.measure(tiny).as_dict()
    for side, window in (("windows", 1024), ("prepared", 8192)):
        numbers = measured["numbers"][side]
        assert numbers["window_bytes"] == window and numbers["rows"] == 2 and numbers["batches"] > 0
        assert numbers["megabytes_per_second"] > 0
    assert [target["at_least"] for target in measured["targets"]] == [20.0, 100.0]
    assert config_lib.flat(tiny) == before
