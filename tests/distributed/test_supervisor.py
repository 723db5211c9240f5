"""launch/supervise: what it runs, restarts, forwards and reports."""

import contextlib
import importlib.machinery
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scratchpatch.checkpoints import lock
from scratchpatch.distributed import supervisor
from scratchpatch.distributed.supervisor import Supervisor

SCRIPT = Path(__file__).parents[2] / "launch" / "supervise"
# Programs that wait until a signal ends them, one that listens to SIGTERM, and one that is deaf to it.
SAVES = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); "
    "print('ready', flush=True); time.sleep(60)"
)
DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)
# The beginning of a program that sends signs of life, ten a second.
BEATS = (
    "import os, signal, sys, time; from scratchpatch.distributed import heartbeat; heartbeat.PERIOD = 0.1; "
    "heartbeat.start(); "
)
STOPS = BEATS + "time.sleep(0.2); os.kill(os.getpid(), signal.SIGSTOP)"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture
def logs(tmp_path):
    return [tmp_path / f"{i}.log" for i in range(2)]


def test_all_that_end_well_end_it(logs):
    made = Supervisor(lambda: [python("print('one')"), python("print('two')")], logs, restarts=0)
    assert made.run() == 0 and made.deaths == []
    assert [log.read_text() for log in logs] == ["one\n", "two\n"]


def test_a_death_restarts_all_and_names_the_first(logs, tmp_path, capfd):
    seen = tmp_path / "seen"
    # The second process dies twice; the first would wait for ever.
    second = f"import pathlib, sys; p = pathlib.Path({str(seen)!r}); n = len(p.read_text()) if p.exists() else 0; " + (
        "p.write_text('x' * (n + 1)); print('try', n); sys.exit(7 if n < 2 else 0)"
    )
    first = (
        f"import pathlib, time; seen = pathlib.Path({str(seen)!r})\n"
        "while not (seen.exists() and len(seen.read_text()) > 2): time.sleep(0.02)"
    )
    made = Supervisor(lambda: [python(first), python(second)], logs, restarts=2, pause=0.05)
    assert made.run() == 0
    assert [(d.process, d.code) for d in made.deaths] == [(1, 7), (1, 7)]
    said = capfd.readouterr().err
    assert "process 1 ended with 7" in said and "  try 0" in said and "1 restarts left" in said


def test_the_budget_ends_and_the_code_is_that_of_the_death(logs, capfd):
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    made = Supervisor(lambda: [python("import time; time.sleep(60)"), python(kill)], logs, restarts=1, pause=0.05)
    began = time.monotonic()
    assert made.run() == 128 + signal.SIGKILL
    assert len(made.deaths) == 2 and time.monotonic() - began < 20
    said = capfd.readouterr().err
    killed = r"process 1 was ended by SIGKILL after \d s"
    assert re.search(f"giving up; first to die, attempt by attempt: 1: {killed}; 2: {killed}\n$", said)


def test_progress_fills_the_budget_again(logs):
    steps = iter(range(100))
    attempts = []
    made = Supervisor(
        lambda: attempts.append(1) or [python("pass"), python(f"import sys; sys.exit({int(len(attempts) < 4)})")],
        logs,
        restarts=1,
        progress=lambda: next(steps),
        pause=0.05,
    )
    assert made.run() == 0 and len(attempts) == 4


def test_a_stopped_process_is_killed_with_the_rest(logs):
    stop = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    late = "import sys, time; time.sleep(0.5); sys.exit(3)"
    made = Supervisor(lambda: [python(stop), python(late)], logs, restarts=0)
    assert made.run() == 3 and made.deaths[0].process == 1


def test_a_notice_is_passed_on_and_a_deaf_process_is_killed_in_time(logs):
    for second, wanted in ((SAVES, 0), (DEAF, 128 + signal.SIGTERM)):
        for log in logs:
            log.unlink(missing_ok=True)

        def strike():
            ready(logs)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=strike).start()
        made = Supervisor(lambda second=second: [python(SAVES), python(second)], logs, restarts=5, grace=1.0)
        assert made.run() == wanted


def ready(logs) -> None:
    while not all(log.exists() and "ready" in log.read_text() for log in logs):
        time.sleep(0.02)


def test_a_second_interrupt_kills_at_once(logs, capfd):
    made = Supervisor(lambda: [python(DEAF), python(DEAF)], logs, restarts=5, grace=50.0)

    def strike():
        ready(logs)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=strike).start()
    assert made.run() == 128 + signal.SIGINT
    assert "by a second SIGINT" in capfd.readouterr().err and len(made.deaths) == 1


def test_a_wish_to_save_reaches_one_process_and_ends_none_however_early(logs):
    """The process has not begun to listen when the signal comes."""
    saves = (
        "import time; print('ready', flush=True); time.sleep(0.5); from scratchpatch.training.notices import Notices\n"
        "with Notices() as notices:\n while not notices.save_at(1): time.sleep(0.02)\nprint('saved', flush=True)"
    )
    made = Supervisor(lambda: [python(saves), python("print('ready', flush=True)")], logs, restarts=0)

    def strike():
        ready(logs)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=strike).start()
    assert made.run() == 0
    assert logs[0].read_text().splitlines() == ["ready", "scratchpatch: SIGUSR1: saving after this step", "saved"]


def test_processes_are_no_part_of_the_supervisors_group(logs):
    """What a terminal sends to the group, as Ctrl-C does, comes to the supervisor alone."""
    own = "import os; print(os.getpgrp() == os.getpid())"
    assert Supervisor(lambda: [python(own), python(own)], logs, restarts=0).run() == 0
    assert [log.read_text() for log in logs] == ["True\n"] * 2


def test_a_notice_while_nothing_runs_starts_nothing(logs):
    attempts = []

    def commands():
        attempts.append(1)
        return [python("pass"), python("raise SystemExit(4)")]

    made = Supervisor(commands, logs, restarts=5, pause=60)

    def strike():
        while not made.deaths:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=strike).start()
    assert made.run() == 4 and len(attempts) == 1


def test_a_process_that_stops_answering_is_found_named_and_killed(logs, capfd):
    attempts = []

    def commands():
        attempts.append(1)
        return [python(BEATS + "time.sleep(60)"), python(STOPS)] if len(attempts) == 1 else [python("pass")] * 2

    # More than a beat takes to come, on a busy machine too.
    made = Supervisor(commands, logs, restarts=1, pause=0.05, silence=3)
    assert made.run() == 0 and len(attempts) == 2
    (death,) = made.deaths
    assert (death.process, death.code) == (1, -signal.SIGKILL) and 3 <= death.seconds < 30
    said = r"done; first to die, .*: 1: process 1 stopped answering, was silent for \d+ s and killed"
    assert re.search(said, capfd.readouterr().err)


def test_of_a_stopped_process_and_one_that_died_of_waiting_the_stopped_one_is_named(logs, monkeypatch):
    monkeypatch.setattr(supervisor, "_MISSED", 1.0)
    waits = BEATS + "time.sleep(3); sys.exit(3)"
    made = Supervisor(lambda: [python(waits), python(STOPS)], logs, restarts=0, silence=60)
    assert made.run() == 128 + signal.SIGKILL and made.deaths[0].process == 1


def test_processes_whose_supervisor_is_killed_are_asked_to_leave(tmp_path):
    waits = BEATS + "print('ready', flush=True); time.sleep(60)"
    lines = (
        "import pathlib, sys; from scratchpatch.distributed.supervisor import Supervisor; "
        f"log = pathlib.Path({str(tmp_path / '0.log')!r}); "
        f"Supervisor(lambda: [[sys.executable, '-c', {waits!r}]], [log], 0, silence=60).run()"
    )
    parent = subprocess.Popen(python(lines))
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    ready([tmp_path / "0.log"])
    child = int(children.read_text())
    parent.kill()
    parent.wait()
    with contextlib.suppress(FileNotFoundError):
        while Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
            time.sleep(0.05)


@pytest.fixture
def supervise(monkeypatch, capsys):
    """launch/supervise with some arguments, in this process: its exit code, standard output and standard error."""
    loader = importlib.machinery.SourceFileLoader("supervise", str(SCRIPT))
    script = importlib.util.module_from_spec(importlib.util.spec_from_loader("supervise", loader))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(script)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        try:
            code = script.main()
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return call


def test_a_second_supervisor_is_refused_at_once(supervise, tmp_path):
    with lock.hold(tmp_path / "run" / "supervisor", "supervisor"):
        code, _, said = supervise("--processes=2", "--", "--config=none.py", f"--workdir={tmp_path}/run")
    assert code == 1 and f"run is in use by another supervisor (process {os.getpid()}); wait for it" in said
    assert not list(tmp_path.glob("*.log"))


def test_a_folder_that_is_no_workdir_is_refused_and_left_as_it_is(supervise, tmp_path):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "model.safetensors").touch()
    code, _, said = supervise("--processes=2", "--", "--config=none.py", f"--workdir={tmp_path}/exported")
    assert code == 1 and "exported holds a model (model.safetensors) and no run: use another --workdir" in said
    assert [path.name for path in tmp_path.rglob("*")] == ["exported", "model.safetensors"]


def test_a_dry_run_prints_every_process(supervise):
    code, out, said = supervise(
        "--processes=2", "--devices_per_process=3", "--dry_run", "--", "--config=a b.py", "--workdir=runs/x"
    )
    assert code == 0, said
    for i, line in enumerate(out.splitlines()):
        assert line.startswith("JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=3 ")
        assert f"-m scratchpatch train '--config=a b.py' --workdir=runs/x --distributed=127.0.0.1:0,{i},2" in line
        assert line.endswith(f">> runs/x.process-{i}.log")


def test_a_trained_run_is_used_beside_the_one_that_trains(supervise, tmp_path):
    """Its processes have logs of their own, and the workdir's supervisor is not asked."""
    arguments = ["--processes=2", "--verb=eval", "--restarts=0", "--", f"--workdir={tmp_path}/run", "--split=all"]
    _, out, said = supervise("--dry_run", *arguments)
    assert f"-m scratchpatch eval --workdir={tmp_path}/run --split=all --distributed=127.0.0.1:0,0,2" in out, said
    assert out.splitlines()[1].endswith(f">> {tmp_path}/run.eval.process-1.log")
    with lock.hold(tmp_path / "run" / "supervisor", "supervisor"):
        # There is nothing to evaluate.
        (tmp_path / "run" / "model.safetensors").touch()
        code, _, said = supervise(*arguments)
    assert code == 1 and "supervise: process" in said and "in use" not in said


def test_a_tilde_means_home_where_the_logs_go(supervise):
    _, out, said = supervise("--processes=1", "--dry_run", "--", "--config=x.py", "--workdir=~/run")
    assert out.endswith(f">> {os.path.expanduser('~')}/run.process-0.log\n"), said


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--processes=0", "--", "--workdir=x"], "0: wanted a number above 0"),
        (["--processes=2", "--devices_per_process=many", "--", "--workdir=x"], "many: wanted a number above 0"),
        (["--processes=2", "--silence=0", "--", "--workdir=x"], "0: wanted seconds, above 0"),
        (["--processes=2"], "FLAG"),
        (["--processes=2", "--verb=serve", "--", "--workdir=x"], "invalid choice: 'serve'"),
        (["--processes=2", "--", "--config=x"], "--workdir=DIR is missing"),
    ],
)
def test_wrong_usage_is_told(supervise, arguments, words):
    code, _, said = supervise(*arguments)
    assert code == 2 and words in said
