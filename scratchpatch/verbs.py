"""The verbs: each reads its flags and calls one function.

The function is imported inside the verb, so that help and wrong usage answer
before JAX is loaded. What a verb prints goes to standard output; whatever the
function itself prints goes to standard error.
"""

import contextlib
import dataclasses
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from scratchpatch import compilation_cache, output
from scratchpatch.config_flags import parse_override
from scratchpatch.errors import UserError

Flags = flags.FlagValues


def _nothing(_: Flags) -> None:
    return None


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb: what its help says, which flags it has, what it runs.

    `check` raises UserError on values that are wrong together or in themselves
    (exit 2); `run` returns the exit code. `positional` names flags that may be
    given without their name.
    """

    summary: str
    usage: str
    run: Callable[[Flags], int]
    examples: tuple[str, ...]
    define: Callable[[Flags], None] = _nothing
    check: Callable[[Flags], None] = _nothing
    config: bool = False
    required: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


def _to_stderr() -> contextlib.AbstractContextManager:
    return contextlib.redirect_stdout(sys.stderr)


def _existing(path: str, flag: str, folder: bool = False) -> str:
    if not (os.path.isdir(path) if folder else os.path.isfile(path)):
        fix = ": scratchpatch train makes one" if folder else ""
        raise UserError(f"--{flag}={path}: no such {'folder' if folder else 'file'}{fix}")
    return path


def _writable(path: str | None, flag: str) -> None:
    if path and not (Path(path).parent.is_dir() and not Path(path).is_dir()):
        raise UserError(f"--{flag}={path}: wanted a file in a folder that exists")


def _workdir_flag(values: Flags) -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)


def _json_flag(values: Flags) -> None:
    flags.DEFINE_bool(
        "json",
        False,
        "Print one JSON object as the last line of standard output, and nothing else there.",
        flag_values=values,
    )


def _override_flag(values: Flags) -> None:
    flags.DEFINE_multi_string(
        "override",
        [],
        "FIELD=VALUE: change a config field of the trained model, such as trigger.threshold=1.0",
        flag_values=values,
    )


def _step_flag(values: Flags) -> None:
    flags.DEFINE_integer("step", None, "Step of the checkpoint; none: the newest.", lower_bound=0, flag_values=values)


def _source_flag(values: Flags) -> None:
    flags.DEFINE_string(
        "source",
        None,
        "SPEC of the documents: stdlib:code, stdlib:prose, text:GLOB, jsonl:GLOB[#field]; none: the run's own.",
        flag_values=values,
    )


def _split_flag(values: Flags, default: str) -> None:
    flags.DEFINE_enum(
        "split",
        default,
        ("train", "validation", "test", "all"),
        "Which documents of the source.",
        flag_values=values,
    )


def _overrides(values: Flags) -> dict:
    return dict(parse_override(text) for text in values.override)


# train


def _train(values: Flags) -> int:
    compilation_cache.enable()
    from scratchpatch.training.loop import train

    train(values.config, values.workdir)
    return 0


# prepare


def _prepare(values: Flags) -> int:
    compilation_cache.enable()
    from scratchpatch.training.prepare import prepare, table

    with _to_stderr():
        results = prepare(values.config)
    print(output.as_json({"streams": results}) if values.json else table(results))
    return 0


# eval


def _define_eval(values: Flags) -> None:
    _workdir_flag(values)
    _json_flag(values)
    _override_flag(values)
    _source_flag(values)
    _split_flag(values, "validation")
    _step_flag(values)
    flags.DEFINE_integer(
        "max_bytes",
        None,
        "Read the first so many bytes of each source; none: all.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "Also write the JSON object to this file.", flag_values=values)


def _check_eval(values: Flags) -> None:
    _overrides(values)
    _writable(values.output, "output")


def _eval(values: Flags) -> int:
    workdir = _existing(values.workdir, "workdir", folder=True)
    compilation_cache.enable()
    from scratchpatch.evaluation.verbs import evaluate

    with _to_stderr():
        result = evaluate(
            workdir,
            source=values.source,
            split=values.split,
            overrides=_overrides(values),
            step=values.step,
            max_bytes=values.max_bytes,
        )
    if values.output:
        Path(values.output).write_text(output.as_json(result) + "\n", encoding="utf-8")
    print(output.as_json(result) if values.json else output.as_table(result))
    return 0


# calibrate


def _define_calibrate(values: Flags) -> None:
    _workdir_flag(values)
    _json_flag(values)
    _override_flag(values)
    _step_flag(values)
    flags.DEFINE_float(
        "target_bytes_per_patch", None, "Mean patch size that patching.threshold shall give.", flag_values=values
    )
    flags.DEFINE_float(
        "target_scratchpads_per_byte", None, "Rate at which trigger.threshold shall let scratchpads fire.", flag_values=values
    )
    _source_flag(values)
    _split_flag(values, "train")
    flags.DEFINE_integer(
        "sample_bytes", 1 << 18, "Bytes of the sample, about, and of the held-out text.", lower_bound=1, flag_values=values
    )


def _check_calibrate(values: Flags) -> None:
    _overrides(values)
    patch, rate = values.target_bytes_per_patch, values.target_scratchpads_per_byte
    if (patch is None) == (rate is None):
        raise UserError("give one of --target_bytes_per_patch=6 and --target_scratchpads_per_byte=0.2")
    if patch is not None and not 1 <= patch < math.inf:
        raise UserError(f"--target_bytes_per_patch={patch}: wanted a number of at least 1")
    if rate is not None and not 0 < rate <= 1:
        raise UserError(f"--target_scratchpads_per_byte={rate}: wanted a number above 0, and at most 1")


def _calibrate(values: Flags) -> int:
    workdir = _existing(values.workdir, "workdir", folder=True)
    compilation_cache.enable()
    from scratchpatch.evaluation.calibrate import calibrate, table

    with _to_stderr():
        result = calibrate(
            workdir,
            values.target_bytes_per_patch,
            values.target_scratchpads_per_byte,
            source=values.source,
            split=values.split,
            sample_bytes=values.sample_bytes,
            step=values.step,
            overrides=_overrides(values),
        )
    print(output.as_json(result) if values.json else table(result, workdir))
    return 0


# audit


def _audit(values: Flags) -> int:
    compilation_cache.enable()
    from scratchpatch.evaluation.audit import audit_config

    with _to_stderr():
        report = audit_config(values.config)
    print(output.as_json(report.as_dict()) if values.json else report.text())
    if not report.ok:
        raise UserError("the causality audit failed: the model sees bytes that it must predict")
    return 0


# inspect


def _define_inspect(values: Flags) -> None:
    _workdir_flag(values)
    _override_flag(values)
    flags.DEFINE_string("text", None, "File whose bytes are shown.", flag_values=values)
    flags.DEFINE_string("html", None, "Also write a self-contained page to this file.", flag_values=values)


def _check_inspect(values: Flags) -> None:
    _overrides(values)
    _writable(values.html, "html")


def _inspect(values: Flags) -> int:
    workdir = _existing(values.workdir, "workdir", folder=True)
    text = _existing(values.text, "text")
    compilation_cache.enable()
    from scratchpatch.report.inspect import inspect

    with _to_stderr():
        shown = inspect(workdir, text, html=values.html, overrides=_overrides(values))
    print(shown)
    return 0


# generate


def _define_generate(values: Flags) -> None:
    _workdir_flag(values)
    flags.DEFINE_string(
        "prompt", None, "Text to continue; its bytes are taken as they are, valid UTF-8 or not.", flag_values=values
    )
    flags.DEFINE_string("prompt_file", None, "File whose bytes to continue.", flag_values=values)
    flags.DEFINE_integer("max_bytes", 256, "Most bytes to generate.", lower_bound=0, flag_values=values)
    flags.DEFINE_float(
        "temperature", 0.0, "0 takes the likeliest byte; 1 samples from the model.", lower_bound=0.0, flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "Seed of the sampling.", lower_bound=0, flag_values=values)


def _check_generate(values: Flags) -> None:
    if (values.prompt is None) == (values.prompt_file is None):
        raise UserError("give one of --prompt=TEXT and --prompt_file=FILE")
    if not math.isfinite(values.temperature):
        raise UserError(f"--temperature={values.temperature}: wanted a finite number, 0 or above")


def _generate(values: Flags) -> int:
    workdir = _existing(values.workdir, "workdir", folder=True)
    if values.prompt_file is None:
        prompt = os.fsencode(values.prompt)
    else:
        prompt = Path(_existing(values.prompt_file, "prompt_file")).read_bytes()
    compilation_cache.enable()
    from scratchpatch.inference.generate import generate_text

    with _to_stderr():
        text = generate_text(workdir, prompt, values.max_bytes, temperature=values.temperature, seed=values.seed)
    sys.stdout.flush()
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()
    return 0


# account


def _account(values: Flags) -> int:
    from scratchpatch.accounting.account import account, table

    with _to_stderr():
        result = account(values.config)
    print(output.as_json(result) if values.json else table(result))
    return 0


# bench


def _define_bench(values: Flags) -> None:
    _json_flag(values)
    flags.DEFINE_enum(
        "what",
        "all",
        ("train", "data", "linear", "start", "peer", "all"),
        "What to measure; may be given without --what=.",
        flag_values=values,
    )


def _bench(values: Flags) -> int:
    compilation_cache.enable()
    from scratchpatch.bench import run, table

    with _to_stderr():
        result = run(values.what, values.config)
    print(output.as_json(result) if values.json else table(result))
    return 0


# report


def _define_report(values: Flags) -> None:
    _workdir_flag(values)
    flags.DEFINE_string("baseline", None, "Folder of a run to compare with.", flag_values=values)


def _report(values: Flags) -> int:
    workdir = _existing(values.workdir, "workdir", folder=True)
    baseline = _existing(values.baseline, "baseline", folder=True) if values.baseline else None
    compilation_cache.enable()
    from scratchpatch.report.page import write_report

    with _to_stderr():
        path = write_report(workdir, baseline=baseline)
    print(path)
    return 0


# import, export


def _out_flag(values: Flags) -> None:
    flags.DEFINE_string("out", None, "New folder for model.safetensors and config.json.", flag_values=values)


def _define_import(values: Flags) -> None:
    _out_flag(values)
    flags.DEFINE_string("folder", None, "Hugging Face checkpoint: config.json and *.safetensors.", flag_values=values)
    flags.DEFINE_integer("window", 1024, "Bytes of a row (data.window).", lower_bound=8, flag_values=values)
    flags.DEFINE_integer(
        "max_patch_bytes", 128, "Longest patch, where the checkpoint sets none.", lower_bound=1, flag_values=values
    )


def _import(values: Flags) -> int:
    folder = _existing(values.folder, "folder", folder=True)
    from scratchpatch.interop.export import export
    from scratchpatch.interop.hf_blt import load_hf_blt

    export(load_hf_blt(folder, values.window, values.max_patch_bytes), values.out)
    print(values.out)
    return 0


def _define_export(values: Flags) -> None:
    _workdir_flag(values)
    _out_flag(values)
    _step_flag(values)


def _export(values: Flags) -> int:
    workdir = _existing(values.workdir, "workdir", folder=True)
    from scratchpatch.inference.language_model import load
    from scratchpatch.interop.export import export

    export(load(workdir, values.step), values.out)
    print(values.out)
    return 0


VERBS: dict[str, Verb] = {
    "train": Verb(
        "Train a model, or go on with a run that was stopped.",
        "--config=FILE --workdir=DIR [--config.FIELD=VALUE]...",
        _train,
        (
            "scratchpatch train --config=experiments/quickstart.py --workdir=runs/quickstart",
            "scratchpatch train --config=experiments/quickstart.py --workdir=runs/books"
            " --config.data.sources=\"(('text:books/*.txt', 1.0),)\"",
        ),
        _workdir_flag,
        config=True,
        required=("config", "workdir"),
        details=(
            "The folder gets config.json, metrics.jsonl, tensorboard/, checkpoints/ and report.html.",
            "The same command after a stop, however it came, goes on from the newest checkpoint;",
            "a folder of another config is refused with the difference.",
        ),
    ),
    "prepare": Verb(
        "Compute the entropies of a config's text once, for data.entropies = True.",
        "--config=FILE [--config.FIELD=VALUE]... [--json]",
        _prepare,
        (
            "scratchpatch prepare --config=experiments/blt/small.py",
            "scratchpatch train --config=experiments/blt/small.py --config.data.entropies --workdir=runs/blt",
        ),
        _json_flag,
        config=True,
        required=("config",),
        details=(
            "The model is the run in model.entropy_model.workdir (or training.init_from's). One float32 per byte goes beside",
            "the stream's index (data.cache_dir), under a name made of text and model: what is there is not computed again.",
            "The same command after a stop goes on where it was. An entropy here sees text before the training row, so near",
            "a row's start it may differ from that of the model inside the step. Evaluation always runs the model itself.",
        ),
    ),
    "eval": Verb(
        "Measure bits per byte, compute per byte and the patch-lag curve of a run.",
        "--workdir=DIR [--source=SPEC] [--split=validation] [--override FIELD=VALUE]... [--json]",
        _eval,
        (
            "scratchpatch eval --workdir=runs/quickstart",
            "scratchpatch eval --workdir=runs/quickstart --override trigger.threshold=1.0 --json",
            "scratchpatch eval --workdir=runs/quickstart --source='text:books/*.txt' --split=all",
        ),
        _define_eval,
        _check_eval,
        required=("workdir",),
        details=("Every raw byte of every document counts exactly once; gzip, bzip2 and xz stand beside it.",),
    ),
    "calibrate": Verb(
        "Find the threshold at which a run's model makes patches, or scratchpads, at a wanted rate.",
        "--workdir=DIR --target_bytes_per_patch=P|--target_scratchpads_per_byte=R [--override FIELD=VALUE]... [--json]",
        _calibrate,
        (
            "scratchpatch calibrate --workdir=runs/blt_1b --target_bytes_per_patch=6 --source='text:books/*.txt'",
            "scratchpatch calibrate --workdir=runs/quickstart --target_scratchpads_per_byte=0.2",
            "scratchpatch calibrate --workdir=runs/quickstart --override patching.kind=entropy --target_bytes_per_patch=8",
        ),
        _define_calibrate,
        _check_calibrate,
        required=("workdir",),
        details=(
            "Kinds: entropy and entropy_jump, of patches also entropy_and_jump (--override trigger.kind=entropy adds a trigger).",
            "The rate is also measured on text that the sample does not hold: the validation split, or, of text without",
            "splits, the second half of the sample. Rates count a document's BOS as a byte, as eval does.",
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
        _json_flag,
        config=True,
        required=("config",),
        details=("Weights are random. Exit code 1: a leak, named by position and stage.",),
    ),
    "inspect": Verb(
        "Show a text's entropy, patches and scratchpads as a run's model sees them.",
        "--workdir=DIR --text=FILE [--html=OUT] [--override FIELD=VALUE]...",
        _inspect,
        (
            "scratchpatch inspect --workdir=runs/quickstart --text=README.md",
            "scratchpatch inspect --workdir=runs/quickstart --text=README.md --html=passage.html",
        ),
        _define_inspect,
        _check_inspect,
        required=("workdir", "text"),
    ),
    "generate": Verb(
        "Continue a prompt; the raw bytes go to standard output.",
        "--workdir=DIR --prompt=TEXT|--prompt_file=FILE --max_bytes=N [--temperature=T --seed=S]",
        _generate,
        (
            "scratchpatch generate --workdir=runs/quickstart --prompt='def main(' --max_bytes=200",
            "scratchpatch generate --workdir=runs/quickstart --prompt_file=story.txt --temperature=0.8 --seed=1",
        ),
        _define_generate,
        _check_generate,
        required=("workdir",),
    ),
    "account": Verb(
        "Count parameters, FLOPs and KV-cache bytes per byte by tier, without training.",
        "--config=FILE [--config.FIELD=VALUE]... [--json]",
        _account,
        (
            "scratchpatch account --config=experiments/scale/sp_1b_p16.py",
            "scratchpatch account --config=experiments/quickstart.py --config.patching.patch_bytes=8 --json",
        ),
        _json_flag,
        config=True,
        required=("config",),
    ),
    "bench": Verb(
        "Measure speed and memory on this machine.",
        "[train|data|linear|start|peer|all] [--config=FILE] [--config.FIELD=VALUE]... [--json]",
        _bench,
        ("scratchpatch bench", "scratchpatch bench data --config=experiments/quickstart.py --json"),
        _define_bench,
        config=True,
        positional=("what",),
        details=(
            "train, peer: a training step against others; data: windows into the loop;",
            "linear: cost against window length; start: time to the first step.",
        ),
    ),
    "report": Verb(
        "Write a run's report.html anew, with a baseline beside it if one is named.",
        "--workdir=DIR [--baseline=DIR]",
        _report,
        ("scratchpatch report --workdir=runs/quickstart --baseline=runs/plain",),
        _define_report,
        required=("workdir",),
    ),
    "import": Verb(
        "Read a Hugging Face BLT checkpoint into a folder that every --workdir takes.",
        "--folder=HF_CHECKPOINT --out=DIR [--window=N] [--max_patch_bytes=N]",
        _import,
        ("scratchpatch import --folder=checkpoints/blt-1b --out=runs/blt_1b",),
        _define_import,
        required=("folder", "out"),
        details=(
            "Then: scratchpatch eval --workdir=runs/blt_1b --override trigger.kind=entropy (with scratchpads),",
            "and to fine-tune: scratchpatch train --config=runs/blt_1b/config.json --config.training.init_from=runs/blt_1b",
            "--config.trigger.kind=entropy --workdir=runs/blt_tuned",
        ),
    ),
    "export": Verb(
        "Write a run's model as safetensors and a config.json.",
        "--workdir=DIR --out=DIR [--step=N]",
        _export,
        ("scratchpatch export --workdir=runs/quickstart --out=exported",),
        _define_export,
        required=("workdir", "out"),
        details=("Arrays are named by their path in the model, such as params.trunk.stack.block.ffn.up.kernel (BUILD.md).",),
    ),
}
