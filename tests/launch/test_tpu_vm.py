"""launch/tpu_vm.sh and launch/tpu_worker.sh, with a gcloud that runs the workers' commands here."""

import os
import signal
import subprocess

import pytest

from tests.launch.stubs import ROOT, Stubs

WHERE = ["--name=sp1b", "--zone=us-east5-a", "--accelerator=v5p-32", "--nfs=10.0.0.2:/share", "--poll_seconds=0"]
SOURCES = "--config.data.sources=(('text:my books/*.txt', 1.0),)"
TRAIN = ["--", "--config=experiments/scale/sp_1b.py", "--workdir=/mnt/scratchpatch/sp1b", SOURCES]
TRAINED = ["-m", "scratchpatch", "train", *TRAIN[1:], "--distributed=auto", "--stopped_code=75"]


@pytest.fixture
def stubs(tmp_path):
    return Stubs(tmp_path)


def verbs(calls: list[str]) -> list[str]:
    """The sub-command and the resource of each call."""
    return [" ".join(call.split()[3:6]) for call in calls]


def test_help_teaches(stubs):
    ended = stubs.run("tpu_vm.sh", "--help")
    assert ended.returncode == 0 and stubs.calls == []
    for words in (
        "create",
        "copy",
        "run",
        "resume",
        "status",
        "logs",
        "delete",
        "--spot",
        "--slices=N",
        "--nfs",
        "75 preempted",
    ):
        assert words in ended.stdout


def test_a_dry_run_prints_all_and_calls_nothing(stubs):
    ended = stubs.run("tpu_vm.sh", "resume", "--dry_run", "--slices=2", "--spot", *WHERE, *TRAIN)
    assert ended.returncode == 0 and stubs.calls == [], ended.stderr
    create = "gcloud compute tpus queued-resources create sp1b --zone=us-east5-a --accelerator-type=v5p-32"
    assert f"{create} --runtime-version=v2-alpha-tpuv5 --node-count=2 --node-prefix=sp1b --spot\n" in ended.stdout
    for node in ("sp1b-0", "sp1b-1"):
        assert f"tpu-vm ssh {node} --zone=us-east5-a --worker=all" in ended.stdout
        assert f"scratchpatch.tar.gz {node}:scratchpatch.tar.gz" in ended.stdout
    assert "launch/tpu_worker.sh run 1 10.0.0.2:/share train --config=experiments/scale/sp_1b.py" in ended.stdout


@pytest.mark.parametrize(
    "flags, wanted",
    [
        (["--accelerator=v6e-64"], "--accelerator-type=v6e-64 --runtime-version=v2-alpha-tpuv6e --node-id=sp1b"),
        (
            ["--project=mine"],
            "--project=mine --accelerator-type=v5p-32 --runtime-version=v2-alpha-tpuv5 --node-id=sp1b",
        ),
        (
            ["--slices=3", "--spot", "--runtime_version=own"],
            "--runtime-version=own --node-count=3 --node-prefix=sp1b --spot",
        ),
    ],
)
def test_create_asks_and_waits(stubs, flags, wanted):
    stubs.write("states", "WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    ended = stubs.run("tpu_vm.sh", "create", *WHERE, *flags)
    assert ended.returncode == 0, ended.stderr
    assert wanted in stubs.calls[0]
    said = [line.rpartition(" ")[2] for line in ended.stderr.splitlines()]
    assert said == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]


def test_a_refused_resource_is_a_failure(stubs):
    stubs.write("states", "CREATING", "FAILED")
    ended = stubs.run("tpu_vm.sh", "create", *WHERE)
    assert ended.returncode == 1 and "sp1b was refused" in ended.stderr


def test_every_worker_of_every_slice_trains_alike(tmp_path):
    stubs = Stubs(tmp_path)
    homes = stubs.node("sp1b-0") + stubs.node("sp1b-1")
    (homes[3] / "scratchpatch" / "stale").touch()
    ended = stubs.run("tpu_vm.sh", "copy", "--slices=2", *WHERE)
    assert ended.returncode == 0, ended.stderr
    assert (homes[3] / "scratchpatch" / "scratchpatch" / "cli.py").exists()
    assert not (homes[3] / "scratchpatch" / "stale").exists()
    ended = stubs.run("tpu_vm.sh", "run", "--slices=2", *WHERE, *TRAIN)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    for home in homes:
        assert (home / "trained").read_text().splitlines() == TRAINED
    names = [f"{s}.{w}" for s in range(2) for w in range(2)]
    lines = sorted(ended.stdout.splitlines())
    assert [line for line in lines if "ended" in line] == [f"[{name}] ended with 0" for name in names]
    assert [line for line in lines if "training" in line] == [
        f"[{name}] training from random weights" for name in names
    ]
    ended = stubs.run("tpu_vm.sh", "status", "--slices=2", *WHERE)
    assert "sp1b is ACTIVE" in ended.stdout and "[1.1] ended with 0: training from random weights" in ended.stdout
    ended = stubs.run("tpu_vm.sh", "logs", "--lines=1", *WHERE, "--slices=2")
    assert ended.stdout.count("training from random weights") == 4


@pytest.mark.parametrize(
    "verb, flags, added",
    [
        ("eval", ["--workdir=/mnt/scratchpatch/sp1b", "--json"], []),
        ("eval", ["--workdir=/mnt/scratchpatch/sp1b", "--follow"], ["--stopped_code=75"]),
        ("calibrate", ["--workdir=/mnt/scratchpatch/sp1b", "--target_bytes_per_patch=6"], []),
        (
            "generate",
            ["--workdir=/mnt/scratchpatch/sp1b", "--prompts=/mnt/scratchpatch/p.jsonl", "--out=/mnt/scratchpatch/o"],
            [],
        ),
    ],
    ids=["eval", "follow", "calibrate", "generate"],
)
def test_a_trained_run_is_used_on_every_worker(stubs, verb, flags, added):
    homes = stubs.node("sp1b")
    ended = stubs.run("tpu_vm.sh", verb, *WHERE, "--", *flags)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    for home in homes:
        assert (home / "trained").read_text().splitlines() == [
            "-m", "scratchpatch", verb, *flags, "--distributed=auto", *added
        ]
    # The resource is looked at, and the repository copied, as for training.
    assert verbs(stubs.calls)[0] == "queued-resources describe sp1b"
    assert sum("tpu-vm scp" in call for call in stubs.calls) == 1


def test_an_evaluation_whose_resource_is_preempted_names_the_command_that_goes_on(stubs):
    stubs.node("sp1b")
    stubs.write("unreachable", "sp1b")
    ended = stubs.run("tpu_vm.sh", "eval", *WHERE, "--", "--workdir=/mnt/scratchpatch/sp1b")
    assert ended.returncode == 75 and "it was preempted; 'eval' makes it anew and goes on" in ended.stderr


def test_a_worker_that_fails_is_named_with_its_last_words(stubs):
    homes = stubs.node("sp1b")
    (homes[1] / "train").write_text("seq 1 20\necho 'scratchpatch: no text in /mnt' >&2\nexit 1\n")
    ended = stubs.run("tpu_vm.sh", "run", *WHERE, *TRAIN)
    assert ended.returncode == 1
    said = ended.stderr.splitlines()
    at = said.index("tpu_vm: worker 1 of slice 0 failed with exit code 1; its last lines:")
    assert said[at + 1 :] == [f"[0.1] {n}" for n in range(12, 21)] + ["[0.1] scratchpatch: no text in /mnt"]
    assert "Command execution on worker 1 failed with exit status 1" in ended.stderr


def test_a_worker_that_cannot_be_prepared_is_named(stubs):
    homes = stubs.node("sp1b")
    (homes[1] / "no_mount").touch()
    ended = stubs.run("tpu_vm.sh", "run", *WHERE, *TRAIN)
    assert ended.returncode == 1 and "[0.1] mount.nfs: access denied" in ended.stderr
    assert (
        "sudo mount -t nfs -o hard,actimeo=1 10.0.0.2:/share /mnt/scratchpatch\n"
        in (stubs.folder / "calls.root").read_text()
    )
    assert "worker 1 of slice 0 failed with exit code 32; its last lines:" in ended.stderr
    assert not (homes[1] / "trained").exists()


def test_a_notice_on_all_workers_is_no_failure(stubs):
    for home in stubs.node("sp1b"):
        (home / "train").write_text("echo 'stopped by SIGTERM at step 5 of 9'\nexit 75\n")
    ended = stubs.run("tpu_vm.sh", "run", *WHERE, *TRAIN)
    assert ended.returncode == 75 and "stopped by SIGTERM and saved; 'resume' goes on" in ended.stderr


def test_a_preempted_resource_is_made_anew_and_goes_on(stubs):
    stubs.node("sp1b")
    stubs.write("unreachable", "sp1b")
    ended = stubs.run("tpu_vm.sh", "run", *WHERE, *TRAIN)
    assert ended.returncode == 75 and "sp1b is SUSPENDED: it was preempted" in ended.stderr
    (stubs.folder / "unreachable").unlink()
    (stubs.folder / "calls").unlink()
    stubs.write("created", "PROVISIONING", "ACTIVE")
    ended = stubs.run("tpu_vm.sh", "resume", *WHERE, *TRAIN)
    assert ended.returncode == 0, ended.stderr
    described = "queued-resources describe sp1b"
    made = [described, "queued-resources delete sp1b", "queued-resources create sp1b", described, described]
    listed, *there = verbs(stubs.calls)[len(made) :]
    assert verbs(stubs.calls)[: len(made)] == made and listed.startswith("tpu-vm list")
    assert [" ".join(call.split()[:2]) for call in there] == ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh"]


def test_one_preempted_slice_is_a_preempted_resource(stubs):
    stubs.write("preempted", "projects/mine/locations/us-east5-a/nodes/sp1b-1")
    ended = stubs.run("tpu_vm.sh", "status", "--slices=2", *WHERE)
    assert ended.returncode == 0 and ended.stdout == "sp1b is PREEMPTED\n"
    assert "--filter=name ~ /sp1b(-[0-9]+)?$ AND state = PREEMPTED" in stubs.calls[1]


@pytest.mark.parametrize(
    "before, code, said",
    [
        ("[0.1] at work", 75, "the connection is lost, gcloud ended with 255; the workers go on"),
        ("", 1, "before a worker said anything"),
    ],
)
def test_a_lost_connection_is_no_end_of_training(stubs, before, code, said):
    (stubs.folder / "breaks").write_text(before)
    ended = stubs.run("tpu_vm.sh", "run", *WHERE, *TRAIN)
    assert ended.returncode == code and said in ended.stderr


def test_an_answer_that_is_none_makes_nothing(stubs):
    stubs.write("states", "DENIED")
    ended = stubs.run("tpu_vm.sh", "resume", *WHERE, *TRAIN)
    assert ended.returncode == 1 and "permission denied" in ended.stderr and len(stubs.calls) == 1


def test_delete(stubs):
    assert stubs.run("tpu_vm.sh", "delete", *WHERE).returncode == 0
    assert stubs.calls == ["gcloud compute tpus queued-resources delete sp1b --zone=us-east5-a --force --quiet"]


def test_training_outlives_its_connection_and_is_followed_again(stubs):
    """A worker at work: the connection is lost, the same command follows it, another is refused, nothing is copied."""
    home = stubs.node("sp1b")[0]
    (home / "train").write_text("trap 'exit 75' TERM\necho at work\nwhile :; do sleep 0.05; done\n")
    worker = ["bash", home / "scratchpatch" / "launch" / "tpu_worker.sh"]
    env = os.environ | stubs.env() | {"HOME": str(home), "WORKER": "0"}

    def ask(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([*worker, *arguments], env=env, capture_output=True, text=True, timeout=30, check=False)

    line = [*worker, "run", "0", "10.0.0.2:/share", "train", "--config=a b.py"]
    lost = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert lost.stdout.readline().startswith("[0.0] setup: installing scratchpatch[tpu]")
    assert lost.stdout.readline() == "[0.0] at work\n"
    os.killpg(lost.pid, signal.SIGKILL)
    lost.wait()
    assert "[0.0] running since" in ask("status", "0").stdout
    assert ask("start", "train", "--config=c.py").returncode == 2
    copied = stubs.run("tpu_vm.sh", "copy", *WHERE)
    assert copied.returncode == 0 and not (home / "scratchpatch" / "README.md").exists()
    again = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True)
    assert again.stdout.readline() == "[0.0] at work\n"
    # The whole VM is told: the shell around the training hears it too.
    pid = int((home / ".scratchpatch" / "pid").read_text())
    os.killpg(pid, signal.SIGTERM)
    said, _ = again.communicate(timeout=30)
    assert again.returncode == 75 and said.splitlines()[-1] == "[0.0] ended with 75"
    assert (home / "trained").read_text().count("train\n") == 1


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "no verb ''; verbs: create copy"),
        (["begin"], "no verb 'begin'"),
        (["create", "--nmae=x"], "no flag --nmae; flags: --accelerator --dry_run"),
        (["create", "--name"], "--name wants a value"),
        (["create", "now"], "'now' is not a flag"),
        (["create", "--zone=us-east5-a"], "create needs --name=NAME"),
        (["create", "--name=SP", "--zone=us-east5-a"], "--name=SP: wanted small letters"),
        (["create", "--name=sp", "--zone=us-east5"], "--zone=us-east5: wanted a zone such as"),
        (["create", *WHERE, "--accelerator=tpu7x-64"], "TPU7x is on GKE alone: use launch/gke.sh"),
        (["create", *WHERE, "--accelerator=v5-64"], "--accelerator=v5-64: wanted v4-N"),
        (["create", *WHERE, "--slices=0"], "--slices=0: wanted a number from 1"),
        (["run", *WHERE, "--nfs=share", *TRAIN], "--nfs=share: wanted an NFS export HOST:/EXPORT"),
        (["run", *WHERE], "run needs --config=FILE after --"),
        (["run", *WHERE, "--", "--config=a.py"], "run needs --workdir=/mnt/scratchpatch/NAME"),
        (
            ["run", *WHERE, "--", "--config=a.py", "--workdir=gs://b"],
            "--workdir=gs://b: wanted a folder below /mnt/scratchpatch",
        ),
        (["run", *WHERE, *TRAIN, "--distributed=none"], "--distributed=none: this script sets it"),
        (["run", *WHERE, *TRAIN, "steps=5"], "'steps=5' after --"),
        (["eval", *WHERE, "--", "--json"], "eval needs --workdir=/mnt/scratchpatch/NAME"),
        (["eval", *WHERE, "--", "--workdir=runs/x"], "--workdir=runs/x: wanted a folder below /mnt/scratchpatch"),
        (["generate", *WHERE, "--", "--workdir=/mnt/scratchpatch/x"], "generate needs --prompts=FILE and --out=FILE"),
    ],
)
def test_wrong_usage_is_told_and_nothing_is_done(stubs, arguments, said):
    ended = stubs.run("tpu_vm.sh", *arguments)
    assert ended.returncode == 2 and said in ended.stderr and "--help)" in ended.stderr, ended.stderr
    assert stubs.calls == []


def test_the_scripts_name_an_extra_that_there_is():
    assert "\ntpu = [" in (ROOT / "pyproject.toml").read_text()
