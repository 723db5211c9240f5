import json

import pytest

from scratchpatch import bench, config as config_lib
from scratchpatch.bench import data
from scratchpatch.bench.results import Result
from scratchpatch.errors import UserError


def test_a_run_is_json_and_a_table(tiny, monkeypatch):
    monkeypatch.setattr(data, "_SECONDS", 0.02)
    monkeypatch.setattr(data, "_PREPARED", tiny.data.sources[0][0])
    measured = bench.run("data", tiny)
    assert set(measured) == {"machine", "data"} and measured["machine"]["cores"] >= 1
    assert json.loads(json.dumps(measured)) == measured
    text = bench.text(measured)
    assert "megabytes per second" in text and measured["machine"]["jax"] in text


def test_a_bad_config_is_refused(tiny):
    tiny.data.window = 2
    with pytest.raises(UserError, match="data.window = 2"):
        bench.run("data", tiny)


def test_all_means_every_one(tiny, monkeypatch):
    for name in bench.MEASURES:
        monkeypatch.setitem(bench.MEASURES, name, lambda config, name=name: Result(name))
    measured = bench.run("all", tiny)
    assert list(measured) == ["machine", "train", "data", "linear", "kernels", "start", "peer", "decode"]
    assert all(measured[name]["title"] == name for name in bench.MEASURES)


def test_a_package_without_a_checkout_has_the_model_of_the_quickstart(monkeypatch, tmp_path):
    from_file = bench.quickstart()
    config_lib.check(from_file)
    monkeypatch.setattr(bench, "_QUICKSTART", tmp_path / "none.py")
    differing = config_lib.changed(from_file, bench.quickstart())
    assert not [name for name in differing if not name.startswith(("training.", "optimizer.", "data.sources"))]
