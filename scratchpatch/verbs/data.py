"""The verb that turns documents into shards: prepare."""

import os

from absl import flags

from scratchpatch import output
from scratchpatch.data import sources, splits
from scratchpatch.data.records import RECORD_BYTES
from scratchpatch.errors import UserError
from scratchpatch.verbs.verb import Flags, Verb, folder_flag, json_flag, to_stderr


def _define_prepare(values: Flags) -> None:
    json_flag(values)
    flags.DEFINE_string("source", None, f"SPEC of the documents: {sources.SPECS}.", flag_values=values)
    folder_flag(values, "out", "New folder, or URL of one (gs://, s3://), for the shards.")
    flags.DEFINE_integer(
        "shards", None, "Shards of each split; none: one for every 256 MB of files.", lower_bound=1, upper_bound=99_999, flag_values=values
    )
    flags.DEFINE_float(
        "held_out", splits.SHARE, "Share of the documents that validate, and that test.", flag_values=values
    )
    flags.DEFINE_enum(
        "on_bad_record", "error", ("error", "skip"), "What a record that cannot be read does: stop, or be counted.", flag_values=values
    )
    flags.DEFINE_integer(
        "record_bytes",
        RECORD_BYTES,
        "Bytes that one record may hold, or a compressed text file unpack to (see the field data.record_bytes).",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer("workers", None, "Processes; none: one per core.", lower_bound=1, upper_bound=1024, flag_values=values)
    flags.DEFINE_string(
        "runner",
        "local",
        "local: processes of this machine; else a runner of Apache Beam, such as DirectRunner or DataflowRunner.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "runner_flag", [], "NAME=VALUE: an option of Beam's runner, such as project=mine or temp_location=gs://mine/tmp.", flag_values=values
    )


def _check_prepare(values: Flags) -> None:
    sources.parse(values.source)
    if not 0 <= values.held_out <= splits.LARGEST_SHARE:
        raise UserError(
            f"--held_out={values.held_out}: wanted a share from 0 to {splits.LARGEST_SHARE} (validation and test each take it)"
        )
    if values.runner_flag and values.runner == "local":
        raise UserError(f"--runner_flag={values.runner_flag[0]} is for a runner of Beam: name one by --runner=")


def _prepare(values: Flags) -> int:
    from scratchpatch.preparation.folder import prepare, table

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with to_stderr():
        result = prepare(
            values.source,
            values.out,
            shard_count=values.shards,
            held_out=values.held_out,
            on_bad_record=values.on_bad_record,
            workers=values.workers or cores,
            runner=values.runner,
            runner_flags=tuple(values.runner_flag),
            record_bytes=values.record_bytes,
        )
    print(output.as_json(result) if values.json else table(result))
    return 0


VERBS = {
    "prepare": Verb(
        "Turn documents into deduplicated shards with held-out splits, for data.sources = prepared:DIR.",
        "--source=SPEC --out=DIR [--shards=N] [--workers=N] [--runner=RUNNER --runner_flag=NAME=VALUE...] [--json]",
        _prepare,
        (
            "scratchpatch prepare --source='jsonl:crawl/*.jsonl.zst' --out=data/crawl",
            "scratchpatch train --config=experiments/quickstart.py --config.data.sources=\"(('prepared:data/crawl', 1.0),)\" --workdir=runs/crawl",
            "scratchpatch prepare --source='parquet:gs://mine/raw/*.parquet' --out=gs://mine/crawl --shards=256"
            " --runner=DataflowRunner --runner_flag=project=mine --runner_flag=region=europe-west4",
        ),
        _define_prepare,
        _check_prepare,
        required=("source", "out"),
        details=(
            "Documents of the same bytes are kept once. A hash of its bytes decides a document's split, shard and place, so",
            "the text is the same for any number of shards and workers and any runner, and so are the files for one --shards.",
            "The same command after a stop, however it came, goes on; on a finished folder it compares the checksums.",
        ),
    ),
}
