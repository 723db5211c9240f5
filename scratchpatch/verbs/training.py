"""Verbs that take a config: train, entropies, audit, account."""

import sys
import time
from pathlib import Path

from absl import flags, logging

from scratchpatch import compilation_cache, output
from scratchpatch.distributed import heartbeat, rendezvous
from scratchpatch.errors import UserError
from scratchpatch.training.notices import Notices, Stopped
from scratchpatch.verbs.verb import Flags, Verb, json_flag, to_stderr, workdir_flag


def _define_train(values: Flags) -> None:
    workdir_flag(values)
    flags.DEFINE_string(
        "distributed",
        "none",
        "none: one process. auto: as the cluster tells (TPU slice, SLURM, Kubernetes JobSet; see launch/README.md). "
        "HOST:PORT,PROCESS,PROCESSES: named, the first process listens there.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "stopped_code",
        0,
        "Exit code of a run that SIGTERM, SIGINT or SIGHUP stopped before its last step. Schedulers that must start it again "
        "want another than 0.",
        lower_bound=0,
        upper_bound=125,
        flag_values=values,
    )


def _check_train(values: Flags) -> None:
    rendezvous.parse(values.distributed)
    if "://" in values.workdir:
        raise UserError(
            f"--workdir={values.workdir}: wanted a folder; a run renames folders, appends to files and locks them, which a "
            "bucket does not do: mount a file system that all hosts share (NFS, Filestore; see launch/README.md)"
        )


def _train(values: Flags) -> int:
    began, finished = time.monotonic(), False
    with Notices(several=values.distributed != "none") as notices:
        try:
            heartbeat.start()
            compilation_cache.enable()
            from scratchpatch.distributed import processes

            processes.start(values.distributed)
            from scratchpatch.training.loop import train

            with processes.last_words():
                finished = train(values.config, values.workdir, began, notices)
                page = Path(values.workdir) / "report.html"
                # The page is missing where the run was killed after its last checkpoint.
                if finished and (notices.first_step or not processes.first(page.exists)):
                    processes.first(lambda: _write_report(values.workdir))
        except Stopped:
            print(f"scratchpatch: stopped by {notices.stopped_by} before anything began", file=sys.stderr)
    return 0 if finished else values.stopped_code


def _write_report(workdir: str) -> None:
    """Write the page of a finished run. Where that fails the run is still finished, and a warning names the command."""
    from scratchpatch.report.page import write_report
    from scratchpatch.report.run_folder import command

    try:
        logging.info("report: %s", write_report(workdir))
    except Exception as error:
        reason = str(error) if isinstance(error, (OSError, UserError)) else f"{type(error).__name__}: {error}"
        logging.warning("no report (%s); the run is finished, and `%s` makes it", reason, command("report", workdir))


def _entropies(values: Flags) -> int:
    compilation_cache.enable()
    from scratchpatch.data.anchor import anchored
    from scratchpatch.training.entropies import compute, table

    with to_stderr():
        results = compute(anchored(values.config))
    print(output.as_json({"streams": results}) if values.json else table(results))
    return 0


def _audit(values: Flags) -> int:
    compilation_cache.enable()
    from scratchpatch.evaluation.audit import audit_config

    with to_stderr():
        report = audit_config(values.config)
    print(output.as_json(report.as_dict()) if values.json else report.text())
    if not report.ok:
        raise UserError("the causality audit failed: the model sees bytes that it must predict")
    return 0


def _account(values: Flags) -> int:
    from scratchpatch.accounting.account import account, table

    with to_stderr():
        result = account(values.config)
    print(output.as_json(result) if values.json else table(result))
    return 0


VERBS = {
    "train": Verb(
        "Train a model, or go on with a run that was stopped.",
        "--config=FILE --workdir=DIR [--config.FIELD=VALUE]... [--distributed=auto]",
        _train,
        (
            "scratchpatch train --config=experiments/quickstart.py --workdir=runs/quickstart",
            "scratchpatch train --config=experiments/quickstart.py --workdir=runs/books"
            " --config.data.sources=\"(('text:books/*.txt', 1.0),)\"",
        ),
        _define_train,
        _check_train,
        config=True,
        required=("config", "workdir"),
        details=(
            "The folder gets config.json, metrics.jsonl, tensorboard/, checkpoints/ and report.html.",
            "The same command after a stop, however it came, goes on from the newest checkpoint;",
            "a folder of another config is refused with the difference. training.steps and optimizer.* may change, from then on.",
            "Ctrl-C, SIGHUP and SIGTERM save and stop; a second Ctrl-C stops at once. SIGUSR1 saves and goes on.",
            "One that stands still for minutes, with a signal to stop, ends unsaved: exit code 128 + the signal's number.",
            "A full disk stops it only where a checkpoint cannot be written; the same command goes on once there is room.",
            "--config.training.continue_from=RUN@STEP branches off another run's checkpoint into a new folder.",
        ),
    ),
    "entropies": Verb(
        "Compute the entropies of a config's text once, for data.entropies = True.",
        "--config=FILE [--config.FIELD=VALUE]... [--json]",
        _entropies,
        (
            "scratchpatch entropies --config=experiments/blt/small.py",
            "scratchpatch train --config=experiments/blt/small.py --config.data.entropies --workdir=runs/blt",
        ),
        json_flag,
        config=True,
        required=("config",),
        details=(
            "The model is the run in model.entropy_model.workdir (or training.init_from's). One float32 per byte goes beside",
            "the stream's index (data.cache_dir), under a name made of text and model: what is there is not computed again.",
            "The same command after a stop goes on where it was. An entropy here sees text before the training row, so near",
            "a row's start it may differ from that of the model inside the step. Evaluation always runs the model itself.",
        ),
    ),
    "audit": Verb(
        "Prove that a config's model does not see the bytes that it predicts.",
        "--config=FILE [--config.FIELD=VALUE]... [--json]",
        _audit,
        (
            "scratchpatch audit --config=experiments/quickstart.py",
            "scratchpatch audit --config=experiments/quickstart.py --config.patching.kind=entropy --json",
        ),
        json_flag,
        config=True,
        required=("config",),
        details=("Weights are random. Exit code 1: a leak, named by position and stage.",),
    ),
    "account": Verb(
        "Count parameters, FLOPs and KV-cache bytes per byte by tier, without training.",
        "--config=FILE [--config.FIELD=VALUE]... [--json]",
        _account,
        (
            "scratchpatch account --config=experiments/scale/sp_1b.py",
            "scratchpatch account --config=experiments/quickstart.py --config.patching.patch_bytes=8 --json",
        ),
        json_flag,
        config=True,
        required=("config",),
    ),
}
