"""Where the processes of a run meet, as the command line names it. Free of JAX, so that wrong usage answers at once."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from scratchpatch.errors import UserError

_EXPLICIT = re.compile(r"([^,\s]+:\d+),(\d+),(\d+)")
# Where process 0 of a JobSet listens; JAX_COORDINATOR_PORT names another.
_PORT = 8476
# How many jobs (one per slice) there are, of how many pods each, and which of them this pod is: launch/gke_jobset.yaml
# tells each pod, and Kubernetes itself sets the last one, for completionMode: Indexed.
_COUNTS = ("JOBSET_JOBS", "JOBSET_JOB_INDEX", "JOBSET_PODS_PER_JOB", "JOB_COMPLETION_INDEX")
_JOBSET = ("JOBSET_NAME", "JOBSET_REPLICATED_JOB", *_COUNTS)
# GKE sets one of these in the pods of a TPU slice, which JAX reads itself.
_TPU_PODS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


class Rendezvous(NamedTuple):
    """coordinator: HOST:PORT where process 0 listens. process: which this one is. processes: how many there are."""

    coordinator: str
    process: int
    processes: int


def parse(distributed: str) -> Rendezvous | None:
    """What 'HOST:PORT,PROCESS,PROCESSES' names; None of 'none' and 'auto'. Raises UserError for anything else."""
    if distributed in ("none", "auto"):
        return None
    match = _EXPLICIT.fullmatch(distributed)
    if not match:
        raise UserError(
            f"--distributed={distributed}: wanted none, auto or HOST:PORT,PROCESS,PROCESSES, such as 10.0.0.2:8476,0,4"
        )
    process, processes = int(match[2]), int(match[3])
    if process >= processes:
        last = f"processes count from 0, so the last of {processes} is {processes - 1}"
        raise UserError(f"--distributed={distributed}: {last}")
    return Rendezvous(match[1], process, processes)


def of_jobset(environ: Mapping[str, str]) -> Rendezvous | None:
    """Where the pods of a JobSet meet that has no TPUs; None where this is no pod of one. JAX finds TPU pods itself,
    but of a JobSet of GPUs it counts the pods of one job alone, and asks the Kubernetes API for them. Raises UserError
    where some of the pod's variables are missing, or are no numbers.
    """
    if "JOBSET_NAME" not in environ or any(name in environ for name in _TPU_PODS):
        return None
    missing = [name for name in _JOBSET if not environ.get(name)]
    if missing:
        raise UserError(
            f"--distributed=auto: this is a pod of JobSet {environ['JOBSET_NAME']!r}, but {', '.join(missing)} is not "
            "set: set them as launch/gke_jobset.yaml does, with completionMode: Indexed"
        )
    for name in _COUNTS:
        if not environ[name].isdecimal():
            wrong = f"{name}={environ[name]}"
            raise UserError(f"--distributed=auto: {wrong}: wanted a number; launch/gke_jobset.yaml sets it")
    jobs, job, pods, pod = (int(environ[name]) for name in _COUNTS)
    if job >= jobs or pod >= pods:
        raise UserError(f"--distributed=auto: pod {pod} of {pods} in job {job} of {jobs}: both count from 0")
    jobset, port = environ["JOBSET_NAME"], environ.get("JAX_COORDINATOR_PORT", _PORT)
    coordinator = f"{jobset}-{environ['JOBSET_REPLICATED_JOB']}-0-0.{jobset}:{port}"
    return Rendezvous(coordinator, job * pods + pod, jobs * pods)


def looked_for(environ: Mapping[str, str]) -> str:
    """What 'auto' looks for, and which part of it is not there."""

    def missing(*names: str) -> str:
        return f"{', '.join(name for name in names if name not in environ)} not set"

    tpu = f"no chips, no libtpu, no answer of the metadata server, or {' and '.join(_TPU_PODS)} not set"
    return (
        f"no SLURM step ({missing(*_SLURM)}: start it with srun); no TPU slice ({tpu}); "
        f"no JobSet ({missing(*_JOBSET)}); no Open MPI ({missing('OMPI_MCA_orte_hnp_uri')})"
    )
