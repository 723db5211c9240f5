import sys

import pytest

from scratchpatch import config as config_lib, config_flags
from scratchpatch.bench import start
from scratchpatch.errors import UserError

TRAIN = """
import pathlib, sys, time
print("Finished XLA compilation of jit(init) in 0.25 sec")
print("tier   parameters")
time.sleep(0.2)
print("the causality audit passed", file=sys.stderr)
print("Finished XLA compilation of jit(step) in 1.5 sec")
print("memory of the compiled step: 1 MB")
pathlib.Path(sys.argv[1]).touch()
time.sleep(0.2)
pathlib.Path(sys.argv[1]).write_text("{}")
time.sleep(60)
print("Finished XLA compilation of jit(report) in 9.0 sec")
"""


def run(clock, code, metrics):
    clock.run([sys.executable, "-uc", code, str(metrics)], {}, metrics)


def test_stages_add_up_and_the_child_is_stopped(tmp_path):
    clock = start.Clock()
    run(clock, TRAIN, tmp_path / "metrics.jsonl")
    seconds = clock.seconds()
    stages = [value for name, value in seconds.items() if name.endswith("_seconds") and name != "xla_seconds"]
    assert sum(stages) == pytest.approx(seconds["seconds"]) and seconds["seconds"] < 30
    assert min(stages) > 0
    assert clock.programs() == [("jit(step)", 1.5), ("jit(init)", 0.25)]
    assert seconds["xla_seconds"] == 1.75 and seconds["programs"] == 2


def test_a_child_that_fails_is_named(tmp_path):
    with pytest.raises(UserError, match="ended with 3 before its first step: no such source"):
        run(start.Clock(), "print('no such source'); raise SystemExit(3)", tmp_path / "metrics.jsonl")


def test_the_child_reads_the_same_config_with_one_step(tiny, tmp_path):
    start.write_config(tiny, tmp_path / "it's a config.py")
    config = config_flags.load(str(tmp_path / "it's a config.py"))
    changed = {line.split(":")[0] for line in config_lib.difference(tiny, config, free=True)}
    assert changed == {"training.steps", "data.cache_dir"} and config.training.steps == 1
