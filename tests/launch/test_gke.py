"""launch/gke.sh: its manifest against the schema of JobSet, who its pods would be, and what it asks of kubectl."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from scratchpatch.distributed import rendezvous
from tests.launch.stubs import Stubs

SCHEMA = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())
JOB = ["--name=sp1b", "--queue=tpus", "--image=images/scratchpatch:1", "--volume_claim=shared", "--chips_per_host=4"]
TPU = [*JOB, "--accelerator=tpu-v5p-slice", "--topology=4x4x4"]
GPU = [*JOB, "--accelerator=nvidia-h100-80gb", "--hosts=3"]
ODD = """--config.data.sources=(("text:a 'b' \\n $(HOME) ${NAME} &", 1.0),)"""
TRAIN = ["--", "--config=experiments/scale/sp_1b.py", "--workdir=/mnt/scratchpatch/sp1b", ODD]


@pytest.fixture
def stubs(tmp_path):
    return Stubs(tmp_path)


def manifest(stubs: Stubs, *flags: str) -> dict:
    """What a submission gives to kubectl."""
    ended = stubs.run("gke.sh", "submit", *flags)
    assert ended.returncode == 0, ended.stderr
    return yaml.safe_load((stubs.folder / "manifest").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return manifest(Stubs(tmp_path_factory.mktemp("made")), *TPU, "--max_restarts=3", *TRAIN)


def job(made: dict) -> dict:
    (replicated,) = made["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container(made: dict) -> dict:
    (only,) = job(made)["template"]["spec"]["containers"]
    return only


def processes(made: dict) -> list[rendezvous.Rendezvous]:
    """Who the pods take themselves for, with what the JobSet controller and Kubernetes tell them."""
    pods, (replicated,) = [], made["spec"]["replicatedJobs"]
    for index in range(replicated["replicas"]):
        labels = {
            "jobset.sigs.k8s.io/jobset-name": made["metadata"]["name"],
            "jobset.sigs.k8s.io/replicatedjob-name": replicated["name"],
            "jobset.sigs.k8s.io/replicatedjob-replicas": str(replicated["replicas"]),
            "jobset.sigs.k8s.io/job-index": str(index),
        }
        for pod in range(job(made)["completions"]):
            environ = {"JOB_COMPLETION_INDEX": str(pod)}
            for env in container(made)["env"]:
                path = env.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
                environ[env["name"]] = labels[re.search(r"'(.*)'", path)[1]] if path else env["value"]
            pods.append(rendezvous.of_jobset(environ))
    return pods


@pytest.mark.parametrize(
    "flags, hosts, chips, selector",
    [
        (TPU, 16, {"google.com/tpu": 4}, {"gke-tpu-accelerator": "tpu-v5p-slice", "gke-tpu-topology": "4x4x4"}),
        (
            [*JOB, "--accelerator=tpu-v6e-slice", "--topology=2x2", "--spot", "--namespace=team"],
            1,
            {"google.com/tpu": 4},
            {"gke-tpu-accelerator": "tpu-v6e-slice", "gke-tpu-topology": "2x2", "gke-spot": "true"},
        ),
        ([*GPU, "--chips_per_host=8"], 3, {"nvidia.com/gpu": 8}, {"gke-accelerator": "nvidia-h100-80gb"}),
    ],
)
def test_the_manifest_is_a_jobset_of_what_was_asked(stubs, flags, hosts, chips, selector):
    made = manifest(stubs, *flags, "--slices=2", *TRAIN)
    jsonschema.Draft202012Validator(SCHEMA).validate(made)
    assert made["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "tpus"}
    assert made["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert job(made)["parallelism"] == job(made)["completions"] == hosts
    assert container(made)["resources"] == {"limits": chips}
    labels = job(made)["template"]["spec"]["nodeSelector"]
    assert labels == {f"cloud.google.com/{name}": value for name, value in selector.items()}
    # Kubernetes makes $$( a $( and leaves the rest.
    args = [arg.replace("$$(", "$(") for arg in container(made)["args"]]
    assert args == ["train", *TRAIN[1:], "--distributed=auto", "--stopped_code=75"]
    assert [at.process for at in processes(made)] == list(range(2 * hosts))
    assert {(at.coordinator, at.processes) for at in processes(made)} == {("sp1b-slice-0-0.sp1b:8476", 2 * hosts)}


def test_a_trained_run_is_used_by_a_jobset_of_its_own(stubs):
    flags = ["--workdir=/mnt/scratchpatch/sp1b", "--follow"]
    ended = stubs.run("gke.sh", "eval", *TPU, "--", *flags)
    assert ended.returncode == 0, ended.stderr
    made = yaml.safe_load((stubs.folder / "manifest").read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(made)
    assert container(made)["command"] == ["/scratchpatch/.venv/bin/python", "-m", "scratchpatch"]
    assert container(made)["args"] == ["eval", *flags, "--distributed=auto", "--stopped_code=75"]


def test_a_preemption_restarts_for_nothing_and_a_crash_is_counted(made):
    stopped, evicted = job(made)["podFailurePolicy"]["rules"]
    assert stopped["action"] == evicted["action"] == "FailJob" and job(made)["backoffLimit"] == 0
    assert (
        stopped["onExitCodes"]["values"] == [75] and stopped["onExitCodes"]["containerName"] == container(made)["name"]
    )
    policy = made["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 3
    assert policy["rules"][0]["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda made: made["spec"].update(failurePolicies={}),
        lambda made: made["spec"]["failurePolicy"].update(restartStrategy="Restart"),
        lambda made: made["spec"]["failurePolicy"]["rules"][0].pop("name"),
        lambda made: job(made).update(parallelism="16"),
        lambda made: job(made)["template"]["spec"].update(restartPolicy="OnFailure"),
        lambda made: container(made)["env"].append({"name": "N", "value": 1}),
        lambda made: container(made)["args"].append(True),
        lambda made: made["metadata"]["labels"].clear(),
    ],
)
def test_the_schema_refuses_what_a_cluster_would(made, break_it):
    broken = copy.deepcopy(made)
    break_it(broken)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(broken)


def test_a_dry_run_prints_the_manifest_and_calls_nothing(stubs):
    ended = stubs.run("gke.sh", "submit", "--dry_run", *TPU, *TRAIN)
    assert ended.returncode == 0 and stubs.calls == []
    text, _, command = ended.stdout.partition("# of the above:\n")
    jsonschema.validate(yaml.safe_load(text), SCHEMA)
    assert command == "kubectl --namespace=default create --filename=-\n"
    for verb, wanted in (
        ("status", "get pods --selector=jobset.sigs.k8s.io/jobset-name=sp1b"),
        ("delete", "delete jobset sp1b"),
    ):
        assert wanted in stubs.run("gke.sh", verb, "--dry_run", *TPU).stdout
    assert stubs.calls == []


def test_kubectl_that_refuses_is_a_failure(stubs):
    stubs.write("refuses", "create")
    ended = stubs.run("gke.sh", "submit", *TPU, *TRAIN)
    assert ended.returncode == 1 and "error: AlreadyExists" in ended.stderr and "'delete' it first" in ended.stderr


def test_status_names_the_pod_that_failed(stubs):
    rows = [
        "POD NODE PHASE EXIT",
        "sp1b-slice-0-1-x n1 Running <none>",
        "sp1b-slice-0-2-y n2 Failed 1",
        "sp1b-slice-0-3-z n3 Failed 75",
    ]
    stubs.write("pods", *rows)
    ended = stubs.run("gke.sh", "status", *TPU)
    assert ended.returncode == 1 and all(row in ended.stdout for row in rows)
    assert ended.stderr.splitlines() == [
        "gke: sp1b-slice-0-2-y failed with exit code 1; its last lines:",
        "the last words of sp1b-slice-0-2-y",
    ]
    stubs.write("pods", *rows[:2])
    assert stubs.run("gke.sh", "status", *TPU).returncode == 0


def test_logs_and_delete(stubs):
    assert stubs.run("gke.sh", "logs", "--lines=5", "--namespace=team", *TPU).returncode == 0
    assert stubs.run("gke.sh", "delete", *TPU).returncode == 0
    selector = "--selector=jobset.sigs.k8s.io/jobset-name=sp1b"
    assert stubs.calls == [
        f"kubectl --namespace=team logs {selector} --prefix --tail=5 --max-log-requests=1024",
        "kubectl --namespace=default delete jobset sp1b",
    ]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["start"], "no verb 'start'; verbs: submit eval generate calibrate status logs delete"),
        (["submit", *TPU, "--name=SP", *TRAIN], "--name=SP: wanted at most 37 small letters"),
        (["submit", *TPU, "--queue=", *TRAIN], "submit needs --queue=QUEUE: a Kueue LocalQueue"),
        (["submit", *TPU, "--topology=4x", *TRAIN], "--topology=4x: wanted AxB or AxBxC chips"),
        (
            ["submit", *TPU, "--topology=3x3", "--chips_per_host=4", *TRAIN],
            "9 chips (--topology=3x3) are no whole number of hosts",
        ),
        (["submit", *TPU, "--topology=1x1", *TRAIN], "a slice of 1 chips has no host of 4: --chips_per_host=1"),
        (["submit", *TPU, "--hosts=4", *TRAIN], "--hosts=4: of TPUs it follows from --topology"),
        (["submit", *GPU, "--topology=2x2", *TRAIN], "--topology=2x2: only TPUs have one"),
        (["submit", *JOB, "--accelerator=nvidia-l4", *TRAIN], "submit needs --hosts=HOSTS: the number of nodes"),
        (["submit", *TPU, "--max_restarts=-1", *TRAIN], "--max_restarts=-1: wanted a number from 0"),
        (
            ["submit", *TPU, "--", "--config=a.py", "--workdir=runs/x"],
            "--workdir=runs/x: wanted a folder below /mnt/scratchpatch",
        ),
        (["submit", *TPU, *TRAIN, "--config.name=a\nb"], "a line break in --config.name"),
    ],
)
def test_wrong_usage_is_told_and_nothing_is_done(stubs, arguments, said):
    ended = stubs.run("gke.sh", *arguments)
    assert ended.returncode == 2 and said in ended.stderr, ended.stderr
    assert stubs.calls == []
