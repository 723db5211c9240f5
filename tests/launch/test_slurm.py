"""launch/slurm.sbatch, with an sbatch that runs it and an srun that runs its tasks here: 2 nodes of 2 GPUs."""

import pytest

from tests.launch.stubs import Stubs

TRAIN = ["--", "--config=a b.py", "--workdir=/shared/x"]
TRAINED = ["-m", "scratchpatch", "train", *TRAIN[1:], "--distributed=auto", "--stopped_code=75"]


@pytest.fixture
def stubs(tmp_path):
    return Stubs(tmp_path)


@pytest.fixture
def root(stubs):
    return stubs.checkout()


@pytest.mark.parametrize(
    "per, tasks, cores, devices", [([], 2, 8, ""), (["--per=gpu"], 2, 8, ""), (["--per=node"], 1, 16, "0,1")]
)
def test_a_process_per_gpu_or_per_node(stubs, root, per, tasks, cores, devices):
    ended = stubs.run("sbatch", "--time=1:00", "launch/slurm.sbatch", *per, *TRAIN, cwd=root)
    assert ended.returncode == 0, ended.stderr
    step = stubs.calls[-1]
    assert f"srun JAX_LOCAL_DEVICE_IDS={devices} --nodes=2 --ntasks={2 * tasks} --ntasks-per-node={tasks}" in step
    assert f"--cpus-per-task={cores} " in step and f"--output={root}/slurm-77/task-%t.log" in step
    for task in range(2 * tasks):
        assert (stubs.folder / f"trained.{task}").read_text().splitlines() == TRAINED
    logs = sorted((root / "slurm-77").iterdir())
    assert [log.name for log in logs] == [f"task-{n}.log" for n in range(2 * tasks)]
    assert all(log.read_text().startswith("training from random weights\ntask ") for log in logs)


def test_sbatch_is_told_to_warn_and_to_queue_again(root):
    directives = [
        line for line in (root / "launch" / "slurm.sbatch").read_text().splitlines() if line.startswith("#SBATCH ")
    ]
    for wanted in ("--requeue", "--signal=TERM@120", "--open-mode=append", "--output=slurm-%j.log"):
        assert f"#SBATCH {wanted}" in directives
    text = (root / "launch" / "slurm.sbatch").read_text()
    # sbatch reads directives up to the first command.
    assert all(line.startswith("#") for line in text[: text.index("set -euo")].splitlines())


def test_a_process_that_fails_is_named_with_its_last_words(stubs, root):
    stubs.write("train", '[[ "$SLURM_PROCID" != 2 ]] || { seq 1 20; echo "out of memory" >&2; exit 1; }')
    ended = stubs.run("sbatch", "launch/slurm.sbatch", *TRAIN, cwd=root)
    assert ended.returncode == 1
    first, *rest = [line for line in ended.stderr.splitlines() if line]
    assert first.startswith("slurm: task 2 on ") and first.endswith(" ended with 1; its last lines:")
    assert rest == [str(n) for n in range(12, 21)] + ["out of memory"]


def test_a_stopped_run_is_queued_again(stubs, root):
    stubs.write("train", "echo 'stopped by SIGTERM'; exit 75")
    ended = stubs.run("sbatch", "launch/slurm.sbatch", *TRAIN, cwd=root)
    assert ended.returncode == 0 and stubs.calls[-1] == "scontrol requeue 77"


def test_a_trained_run_is_used_by_every_process(stubs, root):
    ended = stubs.run("sbatch", "launch/slurm.sbatch", "--verb=eval", "--", "--workdir=/shared/x", cwd=root)
    assert ended.returncode == 0, ended.stderr
    for task in range(4):
        wanted = ["-m", "scratchpatch", "eval", "--workdir=/shared/x", "--distributed=auto"]
        assert (stubs.folder / f"trained.{task}").read_text().splitlines() == wanted


@pytest.mark.parametrize("verb, code, last", [("generate", 0, "scontrol requeue 77"), ("eval", 143, "srun")])
def test_what_goes_on_where_it_was_is_queued_again_after_sigterm(stubs, root, verb, code, last):
    stubs.write("train", "kill -TERM $$")
    ended = stubs.run("sbatch", "launch/slurm.sbatch", f"--verb={verb}", "--", "--workdir=/shared/x", cwd=root)
    assert ended.returncode == code and stubs.calls[-1].startswith(last), ended.stderr


def test_a_task_waits_for_its_process_when_it_is_told_to_stop(stubs, root):
    """SIGTERM reaches the shell of a task too."""
    stubs.write("train", "trap 'echo saved; exit 75' TERM; kill -TERM $PPID $$; exit 1")
    ended = stubs.run("sbatch", "launch/slurm.sbatch", "--per=node", *TRAIN, cwd=root)
    assert ended.returncode == 0 and stubs.calls[-1] == "scontrol requeue 77", ended.stderr
    assert (root / "slurm-77" / "task-0.log").read_text().startswith("saved\ntask 0 on ")


def test_a_dry_run_prints_all_and_runs_nothing(stubs, root):
    ended = stubs.run("slurm.sbatch", "--dry_run", "--per=node", *TRAIN, cwd=root)
    assert ended.returncode == 0 and stubs.calls == [] and not list(root.glob("slurm-*"))
    for words in (
        "for 1 node of 8 GPUs",
        "--requeue",
        "JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7",
        "'srun' '--nodes=1'",
        "'--config=a b.py'",
    ):
        assert words in ended.stdout


@pytest.mark.parametrize(
    "arguments, said",
    [
        (TRAIN, "this is no SLURM job: start it with sbatch"),
        (["--verb=serve", *TRAIN], "--verb=serve: wanted train, eval, generate or calibrate"),
        (["--verb=eval", "--"], "--workdir=DIR is missing after --"),
        (["--per=core", *TRAIN], "--per=core: wanted gpu or node"),
        (["--nodes=4", *TRAIN], "'--nodes=4' is no flag of this script"),
        (["--", "--config=a.py"], "--workdir=DIR is missing after --"),
        (["--", "--workdir=x"], "--config=FILE is missing after --"),
        ([*TRAIN, "--distributed=none"], "--distributed=none: this script sets it"),
    ],
)
def test_wrong_usage_is_told_and_nothing_is_run(stubs, root, arguments, said):
    ended = stubs.run("slurm.sbatch", *arguments, cwd=root)
    assert ended.returncode == 2 and said in ended.stderr and stubs.calls == []


def test_a_checkout_without_packages_says_how_to_get_them(stubs, root):
    (root / ".venv" / "bin" / "python").unlink()
    ended = stubs.run("sbatch", "launch/slurm.sbatch", *TRAIN, cwd=root)
    assert ended.returncode == 2 and "run 'bash launch/setup.sh cuda'" in ended.stderr
