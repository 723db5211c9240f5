"""Which process each one is, and where they meet: as the command line names it, or as each kind of cluster tells it.

JAX's own detection runs; its network (coordination service, metadata server, names of hosts) is stood in for.
"""

import itertools
import os
import sys
import types

import jax
import pytest
from jax._src import distributed, xla_bridge
from jax._src.clusters import cloud_tpu_cluster, cluster

from scratchpatch.distributed import processes, rendezvous
from scratchpatch.errors import UserError

OF_CLUSTERS = (
    "SLURM",
    "JOBSET",
    "JOB_COMPLETION",
    "TPU",
    "MEGASCALE",
    "OMPI",
    "KUBERNETES",
    "JAX_COORDINATOR",
    "JAX_LOCAL",
)
SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_NODELIST": "gpu[03-04,07]",
    "SLURM_NTASKS": "24",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
JOBSET = {
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "JOBSET_NAME": "sp1b",
    "JOBSET_REPLICATED_JOB": "slice",
    "JOBSET_JOBS": "2",
    "JOBSET_JOB_INDEX": "1",
    "JOBSET_PODS_PER_JOB": "4",
    "JOB_COMPLETION_INDEX": "2",
}
FIRST_POD = {"JOBSET_JOB_INDEX": "0", "JOB_COMPLETION_INDEX": "0"}
GKE_TPU = {"TPU_WORKER_HOSTNAMES": "sp1b-slice-0-0.sp1b,sp1b-slice-0-1.sp1b", "TPU_WORKER_ID": "1"}
MEGASCALE = {
    "MEGASCALE_COORDINATOR_ADDRESS": "sp1b-slice-0-0.sp1b:8080",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
}
GCE_TPU = {
    "agent-worker-number": "2",
    "worker-network-endpoints": ",".join(f"unknown:unknown:10.0.0.{i}" for i in (5, 6, 7, 8)),
    "tpu-env": "ACCELERATOR_TYPE: 'v5p-32'\n",
}
GCE_SLICES = GCE_TPU | {
    "tpu-env": "MEGASCALE_COORDINATOR_ADDRESS: '10.1.0.5:8080'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
}


@pytest.fixture
def joined(monkeypatch):
    """A function of environment and metadata (None: no TPU chips): what JAX would join with, as a namespace."""
    jax.devices()  # what comes after is asked of these
    changed = ("jax_cpu_collectives_implementation", "jax_cuda_visible_devices", "jax_rocm_visible_devices")
    config = {name: jax.config._read(name) for name in changed}
    found = types.SimpleNamespace()

    def client(address, process, **_):
        found.coordinator, found.process = address, process
        return types.SimpleNamespace(connect=lambda: None)

    def service(address, count, **_):
        found.listens = address

    manager = types.SimpleNamespace(initialize=lambda _: None)
    runtime = types.SimpleNamespace(
        get_distributed_runtime_client=client,
        get_distributed_runtime_service=service,
        create_preemption_sync_manager=lambda: manager,
    )

    def join(environ, metadata=None, chips=False):
        for name in list(os.environ):
            if name.startswith(OF_CLUSTERS):
                monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

        def get(url, **_):
            text = (metadata or {}).get(url.rpartition("/")[2])
            return types.SimpleNamespace(status_code=200 if text else 404, text=text or "not found")

        on_tpu = chips or metadata is not None
        state = distributed.State()
        monkeypatch.setattr(distributed, "global_state", state)
        monkeypatch.setattr(distributed, "_jax", runtime)
        monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: False)
        monkeypatch.setattr(cluster, "running_in_cloud_tpu_vm", on_tpu)
        monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", on_tpu)
        monkeypatch.setattr(cloud_tpu_cluster.time, "sleep", lambda _: None)
        monkeypatch.setattr(cloud_tpu_cluster.socket, "gethostbyname", lambda name: "10.9.9.9")
        monkeypatch.setitem(sys.modules, "requests", types.SimpleNamespace(get=get))
        processes.start("auto")
        found.processes, found.gpus = state.num_processes, jax.config._read("jax_cuda_visible_devices")
        return found

    yield join
    for name, value in config.items():
        jax.config.update(name, value)


@pytest.mark.parametrize(
    "environ, metadata, chips, coordinator, process, count",
    [
        # The port follows from the job's number.
        (SLURM, None, False, f"gpu03:{61440 + 4242 % 4096}", 9, 24),
        (SLURM | {"SLURM_STEP_NODELIST": "node7"}, None, False, f"node7:{61440 + 4242 % 4096}", 9, 24),
        # Pod 2 of 4 in the second of two jobs.
        (JOBSET, None, False, "sp1b-slice-0-0.sp1b:8476", 6, 8),
        (JOBSET | FIRST_POD, None, False, "sp1b-slice-0-0.sp1b:8476", 0, 8),
        (JOBSET | {"JAX_COORDINATOR_PORT": "9000"}, None, False, "sp1b-slice-0-0.sp1b:9000", 6, 8),
        # TPU pods of a JobSet are counted as GKE says, slice by slice.
        (JOBSET | GKE_TPU, None, True, "sp1b-slice-0-0.sp1b:8482", 1, 2),
        (JOBSET | GKE_TPU | MEGASCALE, None, True, "sp1b-slice-0-0.sp1b:8482", 3, 4),
        ({}, GCE_TPU, True, "10.0.0.5:8482", 2, 4),
        ({}, GCE_SLICES, True, "10.1.0.5:8482", 6, 8),
    ],
    ids=["slurm", "slurm-one-node", "jobset", "jobset-first", "jobset-port", "gke", "gke-slices", "gce", "gce-slices"],
)
def test_a_cluster_tells_who_is_who(joined, environ, metadata, chips, coordinator, process, count):
    found = joined(environ, metadata, chips)
    assert (found.coordinator, found.process, found.processes) == (coordinator, process, count)
    assert hasattr(found, "listens") == (process == 0)


def test_under_slurm_a_process_takes_its_own_gpu_or_all_of_the_node(joined):
    assert joined(SLURM).gpus == "1"
    assert joined(SLURM | {"JAX_LOCAL_DEVICE_IDS": "0,1,2,3"}).gpus == "0,1,2,3"


def test_no_cluster_says_what_was_looked_for(joined):
    with pytest.raises(UserError) as error:
        joined({})
    said = str(error.value)
    assert said.startswith("--distributed=auto found no cluster: no SLURM step (SLURM_JOB_ID, SLURM_STEP_NODELIST, ")
    for name in ("srun", "TPU_WORKER_HOSTNAMES", "metadata server", "JOBSET_NAME", "OMPI_MCA_orte_hnp_uri"):
        assert name in said
    assert said.endswith("--distributed=HOST:PORT,PROCESS,PROCESSES names the processes one by one")


def test_a_job_without_a_step_says_what_is_not_set(joined):
    said = r"no SLURM step \(SLURM_STEP_NODELIST, SLURM_LOCALID not set: start it with srun\)"
    with pytest.raises(UserError, match=said):
        joined({name: value for name, value in SLURM.items() if name not in ("SLURM_STEP_NODELIST", "SLURM_LOCALID")})


def test_every_pod_is_one_process():
    told = [
        rendezvous.of_jobset(
            JOBSET | {"JOBSET_JOBS": "3", "JOBSET_JOB_INDEX": str(job), "JOB_COMPLETION_INDEX": str(pod)}
        )
        for job, pod in itertools.product(range(3), range(4))
    ]
    assert [at.process for at in told] == list(range(12))
    assert {(at.coordinator, at.processes) for at in told} == {("sp1b-slice-0-0.sp1b:8476", 12)}


def test_elsewhere_and_on_tpus_jax_looks_itself():
    assert rendezvous.of_jobset({}) is None
    assert rendezvous.of_jobset(JOBSET | GKE_TPU) is None


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX is not set: .* completionMode: Indexed"),
        ({"JOBSET_PODS_PER_JOB": "four"}, "JOBSET_PODS_PER_JOB=four: wanted a number"),
        ({"JOBSET_JOB_INDEX": "2"}, "pod 2 of 4 in job 2 of 2: both count from 0"),
        ({"JOB_COMPLETION_INDEX": "4"}, "pod 4 of 4 in job 1 of 2"),
    ],
)
def test_a_pod_that_is_told_wrong_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        rendezvous.of_jobset(JOBSET | changes)


@pytest.mark.parametrize("text", ["127.0.0.1,0,2", "host:1,2", "two", "host:1,2,2"])
def test_where_processes_meet_is_read_strictly(text):
    with pytest.raises(UserError, match="--distributed="):
        rendezvous.parse(text)


def test_where_processes_meet():
    assert rendezvous.parse("host:1,0,2") == rendezvous.Rendezvous("host:1", 0, 2)
    assert rendezvous.parse("none") is rendezvous.parse("auto") is None
