"""Verbs that take a trained model: eval, calibrate, inspect, generate, report."""

import math
import os
import sys
from pathlib import Path

from absl import flags

from scratchpatch import compilation_cache, output
from scratchpatch.errors import UserError
from scratchpatch.evaluation import compressors
from scratchpatch.verbs.verb import (
    Flags,
    Told,
    Verb,
    existing,
    folder_flag,
    json_flag,
    override_flag,
    overrides,
    path_flag,
    say,
    source_flag,
    split_flag,
    step_flag,
    to_stderr,
    workdir_flag,
    writable,
)


def _define_eval(values: Flags) -> None:
    workdir_flag(values)
    json_flag(values)
    override_flag(values)
    source_flag(values)
    split_flag(values, "validation")
    step_flag(values)
    flags.DEFINE_integer(
        "max_bytes",
        None,
        "Read the first so many bytes of each source; none: all.",
        lower_bound=1,
        flag_values=values,
    )
    path_flag(values, "output", "Also write the JSON object to this file.")
    flags.DEFINE_integer(
        "devices", 1, "Spread the weights over so many devices of this machine.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "compressor_bytes",
        compressors.BYTES,
        "Let gzip, bzip2 and xz read so many bytes of the text, the same number from the beginning of each source; 0: none.",
        lower_bound=0,
        flag_values=values,
    )


def _check_eval(values: Flags) -> None:
    overrides(values)
    writable(values.output, "output")


def _eval(values: Flags) -> int:
    workdir = existing(values.workdir, "workdir", folder=True)
    compilation_cache.enable()
    from scratchpatch.evaluation.evaluate import evaluate
    from scratchpatch.report.evaluation import write_evaluation

    told = Told()
    with to_stderr():
        evaluation = evaluate(
            workdir,
            source=values.source,
            split=values.split,
            overrides=overrides(values),
            step=values.step,
            max_bytes=values.max_bytes,
            devices=values.devices,
            compressor_bytes=values.compressor_bytes,
        )
        result = evaluation.result
        told.line(output.as_json(result) if values.json else output.as_table(result))
        if values.output:
            told.file(values.output, output.as_json(result) + "\n")
        if evaluation.for_the_page:
            write_evaluation(workdir, evaluation.comparisons(), step_named=values.step is not None)
    return told.end()


def _define_calibrate(values: Flags) -> None:
    workdir_flag(values)
    json_flag(values)
    override_flag(values)
    step_flag(values)
    flags.DEFINE_float(
        "target_bytes_per_patch", None, "Mean patch size that patching.threshold shall give.", flag_values=values
    )
    flags.DEFINE_float(
        "target_scratchpads_per_byte", None, "Rate at which trigger.threshold shall let scratchpads fire.", flag_values=values
    )
    source_flag(values)
    split_flag(values, "train")
    flags.DEFINE_integer(
        "sample_bytes", 1 << 18, "Bytes of the sample, about, and of the held-out text; memory grows with them, and not with the text.", lower_bound=1, flag_values=values
    )


def _check_calibrate(values: Flags) -> None:
    overrides(values)
    patch, rate = values.target_bytes_per_patch, values.target_scratchpads_per_byte
    if (patch is None) == (rate is None):
        raise UserError("give one of --target_bytes_per_patch=6 and --target_scratchpads_per_byte=0.2")
    if patch is not None and not 1 <= patch < math.inf:
        raise UserError(f"--target_bytes_per_patch={patch}: wanted a number of at least 1")
    if rate is not None and not 0 < rate <= 1:
        raise UserError(f"--target_scratchpads_per_byte={rate}: wanted a number above 0, and at most 1")


def _calibrate(values: Flags) -> int:
    workdir = existing(values.workdir, "workdir", folder=True)
    compilation_cache.enable()
    from scratchpatch.evaluation.calibrate import calibrate, table

    with to_stderr():
        result = calibrate(
            workdir,
            values.target_bytes_per_patch,
            values.target_scratchpads_per_byte,
            source=values.source,
            split=values.split,
            sample_bytes=values.sample_bytes,
            step=values.step,
            overrides=overrides(values),
        )
    return say(output.as_json(result) if values.json else table(result, workdir))


def _define_inspect(values: Flags) -> None:
    workdir_flag(values)
    override_flag(values)
    path_flag(values, "text", "File whose bytes are shown.")
    path_flag(values, "html", "Also write a self-contained page to this file.")


def _check_inspect(values: Flags) -> None:
    overrides(values)
    writable(values.html, "html")


def _inspect(values: Flags) -> int:
    workdir = existing(values.workdir, "workdir", folder=True)
    text = existing(values.text, "text")
    compilation_cache.enable()
    from scratchpatch.report.inspect import inspect

    told = Told()
    with to_stderr():
        inspect(workdir, text, html=values.html, overrides=overrides(values), tell=told.line)
    return told.end()


def _define_generate(values: Flags) -> None:
    workdir_flag(values)
    flags.DEFINE_string(
        "prompt", None, "Text to continue; its bytes are taken as they are, valid UTF-8 or not.", flag_values=values
    )
    path_flag(values, "prompt_file", "File whose bytes to continue.")
    flags.DEFINE_integer("max_bytes", 256, "Most bytes to generate.", lower_bound=0, flag_values=values)
    flags.DEFINE_float(
        "temperature", 0.0, "0 takes the likeliest byte; 1 samples from the model.", lower_bound=0.0, flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "Seed of the sampling.", lower_bound=0, flag_values=values)
    flags.DEFINE_bool("raw", False, "Write the bytes to a terminal as they are, too.", flag_values=values)


def _check_generate(values: Flags) -> None:
    if (values.prompt is None) == (values.prompt_file is None):
        raise UserError("give one of --prompt=TEXT and --prompt_file=FILE")
    if not math.isfinite(values.temperature):
        raise UserError(f"--temperature={values.temperature}: wanted a finite number, 0 or above")


def _generate(values: Flags) -> int:
    workdir = existing(values.workdir, "workdir", folder=True)
    if values.prompt_file is None:
        prompt = os.fsencode(values.prompt)
    else:
        prompt = Path(existing(values.prompt_file, "prompt_file")).read_bytes()
    compilation_cache.enable()
    from scratchpatch.inference.generate import generate_text
    from scratchpatch.report import passage

    with to_stderr():
        text = generate_text(workdir, prompt, values.max_bytes, temperature=values.temperature, seed=values.seed)
    if sys.stdout.isatty() and not values.raw:
        print(passage.visible(text))
        return 0
    sys.stdout.flush()
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()
    return 0


def _define_report(values: Flags) -> None:
    workdir_flag(values)
    folder_flag(values, "baseline", "Folder of a run to compare with.")


def _report(values: Flags) -> int:
    workdir = existing(values.workdir, "workdir", folder=True)
    baseline = existing(values.baseline, "baseline", folder=True) if values.baseline else None
    compilation_cache.enable()
    from scratchpatch.report.page import write_report

    with to_stderr():
        path = write_report(workdir, baseline=baseline)
    return say(str(path))


VERBS = {
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
        details=(
            "Every raw byte of every document counts exactly once; gzip, bzip2 and xz of its beginning stand beside it.",
            "The run's own validation split on the unchanged model also makes evaluation.json and report.html. With --step, or",
            "with --max_bytes, they are named after it (report_step_200.html) where the others tell of another step, or of more.",
            "The result is printed first: a folder that cannot be written is a warning. The run may be at work meanwhile.",
        ),
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
        "Continue a prompt; the bytes go to standard output.",
        "--workdir=DIR --prompt=TEXT|--prompt_file=FILE --max_bytes=N [--temperature=T --seed=S] [--raw]",
        _generate,
        (
            "scratchpatch generate --workdir=runs/quickstart --prompt='def main(' --max_bytes=200",
            "scratchpatch generate --workdir=runs/quickstart --prompt_file=story.txt --temperature=0.8 --seed=1",
        ),
        _define_generate,
        _check_generate,
        required=("workdir",),
        details=(
            "Into a pipe or a file the bytes go as they are. On a terminal, which some would steer, they are shown as inspect shows",
            "them: a newline as ⏎, a tab as ⇥, any other byte that is no text by its value, as ‹1b›.",
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
}
