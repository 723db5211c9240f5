"""A preparation on any runner of Apache Beam, for corpora beyond one machine.

    tasks -> (shard, (digest, bytes)) -> grouped by shard -> sorted, each digest once -> the shard's files

It does what `local` does, by the same functions; the shuffle between them is Beam's. A worker has the distinct
documents of one shard in memory.
"""

import json
from collections.abc import Iterable, Iterator

from scratchpatch.data import paths
from scratchpatch.data.extras import need
from scratchpatch.errors import UserError
from scratchpatch.preparation import shards, tasks
from scratchpatch.preparation.plan import Plan, shard_of

Task = tuple[int, list[tuple[str, str]]]


def run(plan: Plan, missing: list[int], runner: str, runner_flags: tuple[str, ...]) -> list[dict]:
    """Write the shards whose numbers are missing, on the named runner with flags of the form NAME=VALUE.

    Where workers are other machines, the source and the folder of the plan are URLs. Returns the counts of every task.
    Raises UserError: no Beam, a runner or flag that it does not know, or a pipeline that failed.
    """
    beam = need("apache_beam", "beam", f"--runner={runner}")
    from apache_beam.options.pipeline_options import PipelineOptions

    bare, groups = plan.without_files(), plan.tasks()
    paths.make_folder(paths.join(plan.out, shards.STATE, "counts"))
    try:
        options = PipelineOptions(flags=[f"--runner={runner}", *(f"--{flag}" for flag in runner_flags)])
        with beam.Pipeline(options=options) as pipeline:
            (
                pipeline
                | "tasks" >> beam.Create(list(enumerate(groups)))
                | "over workers" >> beam.Reshuffle()
                | "documents" >> beam.FlatMap(read, bare, frozenset(missing))
                | "by shard" >> beam.GroupByKey()
                | "shards" >> beam.Map(write, bare)
            )
    except Exception as error:  # each runner has its own
        raise UserError(f"the Beam pipeline on {runner} failed: {_reason(error)}") from error
    # A shard that no document falls into has no group.
    for shard in shards.missing(plan):
        shards.write(plan, shard, ())
    return [paths.read_json(_counts_path(plan, task), tasks.Counts) for task in range(len(groups))]


def read(task: Task, plan: Plan, missing: frozenset[int]) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    """(shard, (digest, bytes)) of a task's documents whose shards are missing, each once; then write the counts."""
    number, files = task
    counts, seen = {}, set()
    for digest, data in tasks.read(plan, files, counts):
        shard = shard_of(digest, plan.shards)
        if shard in missing and digest not in seen:
            seen.add(digest)
            yield shard, (digest, data)
    paths.write_text(_counts_path(plan, number), json.dumps(counts))


def write(group: tuple[int, Iterable[tuple[bytes, bytes]]], plan: Plan) -> None:
    """Write a shard from its documents, in any order and any number of times each."""
    shard, documents = group
    shards.write(plan, shard, sorted(dict(documents).items()))


def _counts_path(plan: Plan, task: int) -> str:
    return paths.join(plan.out, shards.STATE, "counts", f"{task:05}.json")


def _reason(error: BaseException) -> str:
    """The cause, without the stages and traces around it."""
    while error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    told = [line.partition("UserError: ")[2] for line in lines if "UserError: " in line]
    return (told or lines[:1])[-1].partition(" [while running")[0][:500]
