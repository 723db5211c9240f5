"""The pods of a JobSet: which process each one is."""

import itertools

import pytest

from scratchpatch.distributed import rendezvous
from scratchpatch.errors import UserError
from tests.distributed.test_processes import GKE_TPU, JOBSET


def test_every_pod_is_one_process():
    pods = itertools.product(range(3), range(4))
    found = [
        rendezvous.of_jobset(
            JOBSET | {"JOBSET_JOBS": "3", "JOBSET_JOB_INDEX": str(job), "JOB_COMPLETION_INDEX": str(pod)}
        )
        for job, pod in pods
    ]  # fmt: skip
    assert [at.process for at in found] == list(range(12))
    assert {(at.coordinator, at.processes) for at in found} == {("sp1b-slice-0-0.sp1b:8476", 12)}


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
