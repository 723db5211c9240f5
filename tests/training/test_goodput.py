"""The account of a run's time, from lines as starts leave them."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from scratchpatch.training import goodput
from scratchpatch.training.goodput import Goodput
from tests.full_disk import Disk


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        # Of the host: its wall clock is behind the monotonic one by so much.
        self.behind = 0.0
        monkeypatch.setattr(goodput.time, "time", lambda: self.now - self.behind)
        monkeypatch.setattr(goodput.time, "monotonic", lambda: self.now)

    def pass_(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def start(clock, workdir, step, starting=3, compiling=2):
    made = Goodput(workdir, clock.now)
    clock.pass_(starting)
    with made.spent("compile"):
        clock.pass_(compiling)
    made.mark(step)
    return made


def train(clock, made, step, seconds=10, saving=1, ended=False):
    def batches():
        clock.pass_(0.5)
        yield 1

    assert list(made.waiting(batches())) == [1]
    clock.pass_(seconds)
    with made.spent("checkpoint"):
        clock.pass_(saving)
    made.mark(step, ended)


def only(**kinds):
    return dict.fromkeys(("productive", "start", "compile", "checkpoint", "restart", "data", "validation"), 0) | kinds


def test_one_start_adds_up(clock, tmp_path):
    made = start(clock, tmp_path, 0)
    train(clock, made, 4)
    with made.spent("validation"):
        clock.pass_(4)
    train(clock, made, 8, ended=True)
    found = goodput.account(tmp_path)
    assert found == pytest.approx(only(productive=20, start=3, compile=2, checkpoint=2, data=1, validation=4))
    assert sum(found.values()) == pytest.approx(clock.now - 1000)
    lost = "start 3, compile 2, checkpoint 2, restart 0, data 1, validation 4"
    assert goodput.text(found) == f"goodput 62%: 20 s productive; {lost}"


def test_a_death_costs_all_until_the_next_first_step_and_what_is_done_again(clock, tmp_path):
    made = start(clock, tmp_path, 0)
    train(clock, made, 4)
    train(clock, made, 8)
    clock.pass_(7)  # steps that were never stored, and a pause
    made = start(clock, tmp_path, 4)  # step 8 was damaged
    train(clock, made, 8)
    found = goodput.account(tmp_path)
    assert found == pytest.approx(only(productive=20, start=3, compile=2, checkpoint=3, data=1.5, restart=10 + 7 + 5))
    assert sum(found.values()) == pytest.approx(clock.now - 1000)
    clock.pass_(6)
    assert goodput.account(tmp_path, now=clock.now)["restart"] == pytest.approx(28)


def test_after_a_notice_the_wait_for_the_next_start_is_nobodys(clock, tmp_path):
    made = start(clock, tmp_path, 0)
    train(clock, made, 3, ended=True)
    clock.pass_(100_000)
    assert goodput.account(tmp_path, now=clock.now)["restart"] == 0
    start(clock, tmp_path, 3)
    wanted = only(productive=10, start=3, compile=2, checkpoint=1, data=0.5, restart=5)
    assert goodput.account(tmp_path) == pytest.approx(wanted)


def test_half_a_line_is_left_out_and_the_next_one_is_whole(clock, tmp_path):
    start(clock, tmp_path, 0)
    path = tmp_path / "goodput.jsonl"
    with path.open("a") as file:
        file.write('{"time": 17, "st')
    made = start(clock, tmp_path, 0)
    train(clock, made, 4)
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and json.loads(lines[1])["began"] and json.loads(lines[2])["step"] == 4
    wanted = only(productive=10, start=3, compile=2, checkpoint=1, data=0.5, restart=5)
    assert goodput.account(tmp_path) == pytest.approx(wanted)


def test_nothing_is_known_of_no_run_and_other_processes_write_nothing(clock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(clock, start(clock, None, 0), 4)
    assert goodput.account(tmp_path) is None and list(tmp_path.iterdir()) == []


def test_a_line_that_cannot_be_written_is_a_warning_and_comes_later(clock, tmp_path, caplog, monkeypatch):
    disk = Disk(monkeypatch.setattr, "goodput.jsonl", room=20)
    made = start(clock, tmp_path, 0)
    train(clock, made, 4)
    assert goodput.account(tmp_path) is None
    disk.room = None
    train(clock, made, 8, ended=True)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and "goodput.jsonl: No space left" in caplog.text
    assert goodput.account(tmp_path)["productive"] == 20


def test_what_cannot_be_read_is_no_account(tmp_path, caplog):
    (tmp_path / "goodput.jsonl").mkdir()
    assert goodput.of_run(tmp_path) == {} and "cannot read" in caplog.text and "a folder" in caplog.text


GOOD = {"time": 10.0, "step": 0, "spent": {"start": 3.0}, "began": 7.0}


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "[1]",
        "3",
        "nonsense",
        "{}",
        "[" * 5000,
        '{"time": 1, "step": -1, "spent": {}}',
        '{"time": 1, "step": true, "spent": {}}',
        '{"time": 1, "step": 1, "spent": {"start": "3"}}',
        '{"time": 1, "step": 1, "spent": []}',
        '{"time": NaN, "step": 1, "spent": {}}',
        '{"time": 1e999, "step": 1, "spent": {}}',
        '{"time": 1, "step": 1, "spent": {}, "began": null}',
        "\udcff",
    ],
)
def test_lines_that_are_none_of_an_account_are_left_out_with_one_warning(tmp_path, caplog, line):
    path = tmp_path / "goodput.jsonl"
    more = {"time": 20.0, "step": 4, "spent": {"productive": 9.0}}
    text = "\n".join((json.dumps(GOOD), line, json.dumps(more), line)) + "\n"
    path.write_bytes(text.encode(errors="surrogateescape"))
    for _ in range(2):
        assert goodput.account(tmp_path) == pytest.approx(only(start=3, productive=9))
    assert caplog.text.count("goodput.jsonl:2 is no line of an account") == 1 == len(caplog.records)


def test_a_host_whose_clock_is_behind_costs_its_own_time_alone(clock, tmp_path):
    train(clock, start(clock, tmp_path, 0), 4)
    clock.behind = 1e6
    train(clock, start(clock, tmp_path, 4), 8, ended=True)
    found = goodput.account(tmp_path)
    assert found == pytest.approx(only(productive=20, start=3, compile=2, checkpoint=2, data=1, restart=5))
    assert goodput.of_run(tmp_path)["goodput"] == pytest.approx(20 / 33)


def test_a_clock_that_is_set_anew_meanwhile_changes_nothing(clock, tmp_path):
    made = start(clock, tmp_path, 0)
    clock.behind = 5e5
    train(clock, made, 4)
    clock.behind = -5e5
    train(clock, made, 8, ended=True)
    assert goodput.account(tmp_path) == pytest.approx(only(productive=20, start=3, compile=2, checkpoint=2, data=1))


SECONDS = st.floats(-1e12, 1e12)
KINDS = st.sampled_from(["productive", "start", "data", "new"])
LINES = st.lists(
    st.fixed_dictionaries(
        {"time": SECONDS, "step": st.integers(0, 9), "spent": st.dictionaries(KINDS, SECONDS)},
        optional={"began": SECONDS, "ended": st.booleans()},
    ),
    min_size=1,
    max_size=6,
)


@given(lines=LINES, now=st.none() | SECONDS)
def test_whatever_the_clocks_say_the_share_is_one(lines, now):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "goodput.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = goodput.account(folder, now)
    assert all(seconds >= 0 for seconds in found.values())
    assert 0 <= goodput.share(found) <= 1 and "%: " in goodput.text(found)
