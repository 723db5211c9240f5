"""Turn documents into deduplicated shards with held-out splits, for data.sources = prepared:DIR.

usage: scratchpatch prepare --source=SPEC --out=DIR [--tokenizer=FILE] [--shards=N] [--workers=N] \
[--runner=RUNNER --runner_flag=NAME=VALUE...] [--json]

Documents of the same bytes are kept once. A hash of its bytes decides a document's split, shard and place, so
the text is the same for any number of shards and workers and any runner, and so are the files for one --shards.
The same command after a stop, however it came, goes on; on a finished folder it compares the checksums.

examples:
  scratchpatch prepare --source='jsonl:crawl/*.jsonl.zst' --out=data/crawl
  scratchpatch train --config=experiments/quickstart.py --config.data.sources="(('prepared:data/crawl', 1.0),)" \
--workdir=runs/crawl
  scratchpatch prepare --source='parquet:gs://mine/raw/*.parquet' --out=gs://mine/crawl --shards=256 \
--runner=DataflowRunner --runner_flag=project=mine --runner_flag=region=europe-west4
"""

from scratchpatch import platforms
from scratchpatch.data import sources, splits
from scratchpatch.data.records import RECORD_BYTES
from scratchpatch.errors import UserError
from scratchpatch.verbs import verb

_FLAGS = (
    verb.JSON, verb.text("source", f"SPEC of the documents: {sources.SPECS}."),
    verb.folder("out", "New folder, or URL of one (gs://, s3://), for the shards."),
    verb.file("tokenizer", "Write tokens of this tokenizer (see `scratchpatch tokenizer`) instead of bytes, for "
        "configs that name it as data.tokenizer."),
    verb.integer("shards", "Shards of each split; none: one for every 256 MB of files.", upper_bound=99_999),
    verb.number("held_out", "Share of the documents that validate, and that test.", splits.SHARE),
    verb.choice("on_bad_record", "What a record that cannot be read does: stop, or be counted.", "error",
        enum_values=("error", "skip")),
    verb.integer("record_bytes", "Bytes that one record may hold, or a compressed text file unpack to (see the field "
        "data.record_bytes).", RECORD_BYTES),
    verb.integer("workers", "Processes; none: one per core.", upper_bound=1024),
    verb.text("runner", "local: processes of this machine; else a runner of Apache Beam, such as DirectRunner or "
        "DataflowRunner.", "local"),
    verb.repeated("runner_flag",
        "NAME=VALUE: an option of Beam's runner, such as project=mine or temp_location=gs://mine/tmp."),
)


def _check(values: verb.Flags) -> None:
    sources.parse(values.source)
    if not 0 <= values.held_out <= splits.LARGEST_SHARE:
        limits = f"from 0 to {splits.LARGEST_SHARE} (validation and test each take it)"
        raise UserError(f"--held_out={values.held_out}: wanted a share {limits}")
    if values.runner_flag and values.runner == "local":
        raise UserError(f"--runner_flag={values.runner_flag[0]} is for a runner of Beam: name one by --runner=")


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    from scratchpatch.preparation.folder import prepare, table

    cores = platforms.cores()
    result = prepare(
        values.source, values.out, shard_count=values.shards, held_out=values.held_out,
        on_bad_record=values.on_bad_record, workers=values.workers or cores, runner=values.runner,
        runner_flags=tuple(values.runner_flag), record_bytes=values.record_bytes, tokenizer=values.tokenizer or "",
    )
    answer.show(result, values, table)


VERB = verb.Verb("prepare", __doc__, _run, _FLAGS, _check, required=("source", "out"))
