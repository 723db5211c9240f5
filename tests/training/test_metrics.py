"""What a run measures: the lines of metrics.jsonl, TensorBoard's files, and the numbers of a step from its sums."""

import json
import math
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from scratchpatch.accounting import flops
from scratchpatch.errors import UserError
from scratchpatch.training import appended, metrics, optimizer
from scratchpatch.training.metrics import Measures, MetricsWriter, read_metrics
from tests import tiny
from tests.full_disk import Disk


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def board_events(workdir):
    """The events of all TensorBoard files, in the order written (records: u64 length, u32, payload, u32)."""
    events = []
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_lines_hold_plain_numbers_and_are_there_when_write_returns(tmp_path):
    writer = MetricsWriter(tmp_path / "run")
    writer.write(1, {"bpb": jnp.float32(2.5), "bytes": np.int64(7), "rate": 3, "verdict": "INVALID", "mfu": None})
    wanted = {"step": 1, "bpb": 2.5, "bytes": 7, "rate": 3, "verdict": "INVALID", "mfu": None}
    assert lines(tmp_path / "run") == [wanted]
    writer.close()


def test_numbers_that_are_not_finite_become_null(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"bpb": float("nan"), "norm": jnp.inf, "low": np.float32("-inf")})
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "bpb": null, "norm": null, "low": null}\n'


def test_reading_tells_training_from_validation(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"bpb": 3.0})
    writer.write(1, {"validation_bpb": 3.5})
    writer.write(2, {"bpb": 2.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "bpb": 1')
    training, validation = read_metrics(tmp_path)
    assert [r["bpb"] for r in training] == [3.0, 2.0]
    assert validation == [{"step": 1, "validation_bpb": 3.5}]
    writer.close()


def test_a_run_that_resumes_drops_what_it_writes_again(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"bpb": float(step)})
    writer.write(3, {"validation_bpb": 9.0})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "bp')
    writer = MetricsWriter(tmp_path)
    assert [r["step"] for r in lines(tmp_path)] == [1, 2, 3, 3]
    writer.truncate(2)
    assert [r["step"] for r in lines(tmp_path)] == [1, 2]
    writer.write(3, {"bpb": 30.0})
    writer.close()
    assert lines(tmp_path)[-1] == {"step": 3, "bpb": 30.0}
    writer.truncate(-1)
    assert read_metrics(tmp_path) == ([], [])


def test_tensorboard_gets_the_numbers_and_is_told_what_a_resumed_run_purges(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"bpb": 3.0, "verdict": "INVALID", "mfu": None})
    writer.close()
    writer.truncate(0)
    writer.write(1, {"bpb": 2.0})
    writer.close()
    events = board_events(tmp_path)
    scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert scalars == [(1, "bpb", 3.0), (1, "bpb", 2.0)]
    restarts = [e.step for e in events if e.HasField("session_log")]
    assert restarts == [1]


def test_without_its_package_there_is_no_tensorboard_and_the_log_names_the_command(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="absl")
    for name in ("tensorboardX.proto.event_pb2", "tensorboardX.record_writer"):
        monkeypatch.setitem(sys.modules, name, None)
    writer = MetricsWriter(tmp_path)
    writer.truncate(0)
    writer.write(1, {"bpb": 3.0})
    writer.close()
    assert lines(tmp_path) == [{"step": 1, "bpb": 3.0}] and not (tmp_path / "tensorboard").exists()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("no TensorBoard files: ") and said.endswith("or bash launch/setup.sh tensorboard")


def test_a_process_that_writes_nothing_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = MetricsWriter(None)
    writer.write(1, {"bpb": 3.0})
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_line_that_is_none_of_metrics_is_named(tmp_path):
    for bad in (
        "nonsense",
        "[1]",
        "null",
        "7",
        "",
        '{"bpb": 1.0}',
        '{"step": true}',
        '{"step": -1}',
        '{"step": 1.5}',
        '{"step": "1"}',
        '{"step": 1, "bpb": "low"}',
        '{"step": 1, "bpb": NaN}',
        '{"step": 1, "mfu": [1]}',
        '{"step": 1, "rate": {}}',
        '{"step": 1, "skipped": 1}',
        "[" * 5000,
        '{"step": 1}{"step": 2}',
    ):
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + bad + "\n")
        for open_it in (read_metrics, MetricsWriter):
            said = r"metrics.jsonl:2: .*is no line of metrics \(.*\): remove that line"
            with pytest.raises(UserError, match=said) as error:
                open_it(tmp_path)
            assert "\n" not in str(error.value) and len(str(error.value)) < 500
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n' + bad + "\n"


def test_a_full_disk_takes_no_line_and_tears_none(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(appended, "_AGAIN", 0.0)
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"bpb": 1.0})
    disk = Disk(monkeypatch.setattr, "metrics.jsonl", "tfevents", room=20)
    for step in (2, 3, 4):
        writer.write(step, {"bpb": float(step)})
        assert [line["step"] for line in lines(tmp_path)] == [1]
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2  # one of each file
    disk.room = None
    writer.write(5, {"bpb": 5.0})
    writer.close()
    assert [line["bpb"] for line in lines(tmp_path)] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [event.step for event in board_events(tmp_path) if event.summary.value] == [1, 2, 3, 4, 5]
    assert [record for record in caplog.records if record.levelname == "WARNING"] == warnings


def test_a_resumed_run_needs_no_room_to_drop_lines(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "bp')

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics, "replace_text", full)
    writer = MetricsWriter(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    writer.truncate(1)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    with pytest.raises(UserError, match="cannot write .*metrics.jsonl: No space left on device; free space there"):
        writer.adopt([{"step": 2}])


def test_skipped_steps_are_counted_up_to_the_first_that_was_not_or_has_no_line(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step, skipped in ((1, True), (2, True), (4, True), (5, True), (6, True)):
        writer.write(step, {"bpb": None, "skipped": skipped})
    writer.write(6, {"validation_bpb": 1.0})
    writer.close()
    assert writer.skipped_in_a_row(6, 0) == 3  # step 3 has no line
    assert writer.skipped_in_a_row(6, 4) == 2
    assert writer.skipped_in_a_row(2, 0) == 2
    assert writer.skipped_in_a_row(7, 0) == 0


def test_missing_and_unwritable_files_are_named(tmp_path):
    with pytest.raises(UserError, match="has no metrics.jsonl: train into it first"):
        read_metrics(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/metrics.jsonl: File exists"):
        MetricsWriter(tmp_path / "file")


CONFIG = tiny.config({"optimizer.learning_rate": 0.5, "optimizer.warmup_steps": 3, "training.steps": 9})
CPU = types.SimpleNamespace(device_kind="cpu")
H100 = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")

SUMS = {
    "nats": 160 * math.log(2),
    "head_nats": 240 * math.log(2),
    "end_nats": 6.0,
    "head_end_nats": 7.0,
    "bytes": 80.0,
    "ends": 4.0,
    "targets": 84.0,
    "positions": 84.0,
    "commits": 21.0,
    "scratchpads": 42.0,
    "suppressed_commits": 2.0,
    "suppressed_scratchpads": 3.0,
    "encoder_keys": 700.0,
    "entropy_keys": 900.0,
    "decoder_keys": 500.0,
    "trunk_keys": 252.0,
    "pool_keys": 200.0,
    "gradient_norm": 0.25,
    "patching_threshold": 1.5,
    "trigger_threshold": 1.25,
}


def measures(devices=(CPU,), config=CONFIG) -> Measures:
    return Measures(config, optimizer.schedule(config), list(devices))


def test_metrics_of_hand_made_sums():
    values = measures().of_step(0, SUMS, 2.0)
    assert values == pytest.approx(
        {
            "bpb": 2.0,
            "head_bpb": 3.0,
            "end_of_document_nats": 1.5,
            "gradient_norm": 0.25,
            "learning_rate": 0.5 / 3,
            "trunk_calls_per_byte": 0.75,
            "scratchpads_per_byte": 0.5,
            "bytes_per_patch": 4.0,
            "suppressed_commits": 2.0,
            "suppressed_scratchpads": 3.0,
            "patching_threshold": 1.5,
            "trigger_threshold": 1.25,
            "bytes": 80.0,
            "bytes_per_second": 40.0,
            "flops_per_second": flops.trained(CONFIG, SUMS) / 2.0,
        }
    )


def test_metrics_of_a_router_are_rates_of_its_positions():
    values = measures().of_step(0, SUMS | {"boundaries": 21.0, "boundary_probability": 42.0, "ratio": 63.0}, 2.0)
    rates = {"boundaries_per_byte": 0.25, "boundary_probability": 0.5, "ratio_loss": 0.75}
    assert {name: values[name] for name in rates} == rates


def test_utilisation_counts_all_chips_and_only_those_whose_peak_is_known():
    values = measures([H100, H100]).of_step(0, SUMS, 2.0)
    assert values["mfu"] == pytest.approx(values["flops_per_second"] / (2 * 989e12))
    assert "mfu" not in measures([CPU, CPU]).of_step(0, SUMS, 2.0)


def test_what_did_not_happen_has_no_number():
    headless = {name: value for name, value in SUMS.items() if not name.startswith("head")}
    values = measures([H100]).of_step(0, headless | {"ends": 0.0, "end_nats": 0.0, "commits": 0.0}, None)
    assert math.isnan(values["end_of_document_nats"]) and math.isinf(values["bytes_per_patch"])
    assert not values.keys() & {"head_bpb", "bytes_per_second", "flops_per_second", "mfu"}


def test_a_model_without_a_trunk_has_no_rates():
    config = tiny.config({"model.trunk.kind": "none", "model.entropy_head.weight": 0.0, "trigger.kind": "none"})
    nothing = dict.fromkeys(("commits", "scratchpads", "suppressed_commits", "suppressed_scratchpads"), 0.0)
    sums = {name: value for name, value in SUMS.items() if not name.startswith("head")} | nothing
    values = measures(config=config).of_step(0, sums, 2.0)
    assert values.keys() == {
        "bpb",
        "end_of_document_nats",
        "gradient_norm",
        "learning_rate",
        "bytes",
        "bytes_per_second",
        "flops_per_second",
    }
    assert values["bpb"] == 2.0 and values["flops_per_second"] == pytest.approx(flops.trained(config, sums) / 2.0)


@pytest.mark.parametrize("warmup", [0, 3, 9])
def test_the_learning_rate_is_the_schedules_and_asks_no_device(warmup):
    config = tiny.config({"optimizer.warmup_steps": warmup, "training.steps": 9})
    schedule, made = optimizer.schedule(config), measures(config=config)
    with jax.transfer_guard("disallow"):
        values = [made.of_step(step, SUMS, 1.0)["learning_rate"] for step in range(9)]
    assert values == [schedule(step) for step in range(9)]
    assert len(set(values)) >= 9 - 1
