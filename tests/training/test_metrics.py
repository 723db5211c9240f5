import json

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from scratchpatch.errors import UserError
from scratchpatch.training import appended, metrics
from scratchpatch.training.metrics import MetricsWriter, read_metrics
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


def test_a_line_that_is_none_of_metrics_is_named(tmp_path):
    for bad in (
        "nonsense", "[1]", "null", "7", "", '{"bpb": 1.0}', '{"step": true}', '{"step": -1}', '{"step": 1.5}', '{"step": "1"}',
        '{"step": 1, "bpb": "low"}', '{"step": 1, "bpb": NaN}', '{"step": 1, "mfu": [1]}', '{"step": 1, "rate": {}}',
        '{"step": 1, "skipped": 1}', "[" * 5000, '{"step": 1}{"step": 2}',
    ):  # fmt: skip
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + bad + "\n")
        for open_it in (read_metrics, MetricsWriter):
            with pytest.raises(UserError, match=r"metrics.jsonl:2: .*is no line of metrics \(.*\): remove that line") as error:
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
        writer.adopt([{"step": 1}])


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
