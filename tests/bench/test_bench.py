import json

import pytest

from scratchpatch import bench
from scratchpatch.bench import data
from scratchpatch.errors import UserError


def test_a_run_is_json_and_a_table(tiny, monkeypatch):
    monkeypatch.setattr(data, "_SECONDS", 0.02)
    result = bench.run("data", tiny)
    assert set(result) == {"machine", "data"} and result["machine"]["cores"] >= 1
    assert json.loads(json.dumps(result)) == result
    text = bench.table(result)
    assert "megabytes per second" in text and result["machine"]["jax"] in text


def test_a_bad_config_is_refused(tiny):
    tiny.data.window = 2
    with pytest.raises(UserError, match="data.window = 2"):
        bench.run("data", tiny)


def test_all_means_every_one(tiny, monkeypatch):
    class Nothing:
        @staticmethod
        def measure(config):
            return bench_results.Result("nothing")

    from scratchpatch.bench import results as bench_results

    monkeypatch.setattr(bench.importlib, "import_module", lambda name: Nothing)
    assert tuple(bench.run("all", tiny)) == ("machine", *bench.WHATS)
