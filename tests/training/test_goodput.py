"""The account of a run's time, from lines as starts leave them."""

import json

import pytest

from scratchpatch.training import goodput
from scratchpatch.training.goodput import Goodput


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(goodput.time, "time", lambda: self.now)

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
    assert goodput.text(found) == "goodput 62%: 20 s productive; start 3, compile 2, checkpoint 2, restart 0, data 1, validation 4"


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
    assert goodput.account(tmp_path) == pytest.approx(only(productive=10, start=3, compile=2, checkpoint=1, data=0.5, restart=5))


def test_half_a_line_is_left_out_and_the_next_one_is_whole(clock, tmp_path):
    start(clock, tmp_path, 0)
    path = tmp_path / "goodput.jsonl"
    with path.open("a") as file:
        file.write('{"time": 17, "st')
    made = start(clock, tmp_path, 0)
    train(clock, made, 4)
    lines = path.read_text().splitlines()
    assert len(lines) == 4 and json.loads(lines[2])["began"] and json.loads(lines[3])["step"] == 4
    assert goodput.account(tmp_path) == pytest.approx(only(productive=10, start=3, compile=2, checkpoint=1, data=0.5, restart=5))


def test_nothing_is_known_of_no_run_and_other_processes_write_nothing(clock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(clock, start(clock, None, 0), 4)
    assert goodput.account(tmp_path) is None and list(tmp_path.iterdir()) == []


def test_a_line_that_cannot_be_written_is_a_warning(clock, tmp_path, caplog):
    (tmp_path / "goodput.jsonl").mkdir()
    start(clock, tmp_path, 0)
    assert "cannot write" in caplog.text
