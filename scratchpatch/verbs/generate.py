"""Continue a prompt, byte by byte, or many prompts side by side.

usage: scratchpatch generate --workdir=DIR --prompt=TEXT|--prompt_file=FILE [--max_bytes=N --temperature=T --seed=S] \
[--threshold=NATS|--rate=R] [--raw|--json]
       scratchpatch generate --workdir=DIR --prompts=FILE.jsonl --out=FILE.jsonl [--rows=64 --share=0.0] [--json]

A prompt may be empty, longer than the model's window, and no UTF-8. Bytes appear as they come. Into a pipe or a file
they go as they are. On a terminal, which some would steer, they are shown as inspect shows them: a newline as ⏎, a tab
as ⇥, any other byte that is no text by its value, as ‹1b›.
The dial: a lower --threshold calls the trunk at more bytes; --rate steers it to so many scratchpads per byte.

Each line of --prompts is an object with prompt, a text, or prompt_base64, any bytes; it may have an id, which is
carried over, and options of its own, by the names of the flags from max_bytes to logprobs. Without a seed of its own,
the first line has --seed, the next one --seed + 1, and so on. --out has one line for each, in order: id, text (or
text_base64 where it is no UTF-8), finish (stop or length), bytes, seed, commits, scratchpads, logprobs. Rows that have
ended wait in OUT.partial, and the same command after a stop, however it came, goes on (name a --step where the run is
still at work). No byte depends on --rows, on --share, on the other lines or on the devices.

examples:
  scratchpatch generate --workdir=runs/quickstart --prompt='def main(' --max_bytes=200
  scratchpatch generate --workdir=runs/quickstart --prompt_file=story.txt --temperature=0.8 --top_p=0.9 --seed=1
  scratchpatch generate --workdir=runs/quickstart --prompts=prompts.jsonl --out=results.jsonl --threshold=1.0
"""

import dataclasses
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from scratchpatch.errors import UserError
from scratchpatch.inference import prompts as prompts_lib, results
from scratchpatch.inference.options import MOST_LOGPROBS, Options
from scratchpatch.verbs import joining, verb

_OPTIONS = (
    verb.integer("max_bytes", "Most bytes to generate.", 256, lower_bound=0),
    verb.number("temperature", "0 takes the likeliest byte; 1 samples from the model.", 0.0, lower_bound=0.0),
    verb.integer("top_k", "Draw from so many of the likeliest bytes; 0: all.", 0, lower_bound=0),
    verb.number("top_p", "Draw from the likeliest bytes that have this share of the probability together.", 1.0),
    verb.number("min_p", "Draw from bytes that have at least this share of the likeliest one's probability.", 0.0),
    verb.number("repetition_penalty", "Above 1: bytes of the prompt and the output get less likely.", 1.0),
    verb.repeated("stop", "Text at which the output ends, without it."),
    verb.integer("seed", "Seed of the sampling.", 0, lower_bound=0),
    verb.switch("valid_utf8", "Write whole characters of UTF-8 alone."),
    verb.number("threshold", "Nats of next-byte entropy at which scratchpads fire; none: the model's; inf: never."),
    verb.number("patch_threshold", "Nats for patches that end by entropy; none: the model's."),
    verb.number("rate", "Steer to so many scratchpads per byte."),
    verb.integer("logprobs", "Report the log-probability of each byte, and so many of the likeliest bytes; with --json "
        "or --prompts.", 0, lower_bound=0, upper_bound=MOST_LOGPROBS),
)
_FLAGS = (
    verb.WORKDIR, verb.STEP, verb.JSON, *_OPTIONS,
    verb.text("prompt", "Text to continue; its bytes are taken as they are, valid UTF-8 or not."),
    verb.file("prompt_file", "File whose bytes to continue."),
    verb.file("prompts", "File of prompts, a JSON object on each line."),
    verb.file("out", "File for what continues --prompts, a JSON object on each line."),
    verb.integer("rows", "Prompts of --prompts to continue side by side.", 64),
    verb.number("share", "Of these, the share that must wait for the trunk before it runs while others can go on; it "
        "changes the speed alone.", 0.0, lower_bound=0.0, upper_bound=1.0),
    verb.switch("raw", "Write the bytes to a terminal as they are, too."),
    verb.switch("stats", "Say on standard error how fast it was and how often the trunk ran, also where that is no "
        "terminal."),
    *joining.FLAGS,
)


def _check(values: verb.Flags) -> None:
    joining.check(values)
    given = [flag for flag in ("prompt", "prompt_file", "prompts") if values[flag].value is not None]
    if len(given) != 1:
        raise UserError("give one of --prompt=TEXT and --prompt_file=FILE, or --prompts=FILE with --out=FILE")
    many = given == ["prompts"]
    for flag in ("raw", "stats") if many else ("out", "rows", "share"):
        if values[flag].value != values[flag].default:
            raise UserError(f"--{flag} goes with {'--prompt or --prompt_file' if many else '--prompts'} alone")
    try:
        prompts_lib.check(_options(values))
    except UserError as error:
        raise UserError(re.sub(r"^(\w+) = ", r"--\1=", str(error))) from None
    if many:
        if not values.out:
            raise UserError("generate --prompts=FILE needs --out=FILE")
        verb.check_writable(values, "out")
        if prompts_lib.same_file(values.prompts, values.out):
            raise UserError(f"--out={values.out} is the file of --prompts: name another one")
    elif values.logprobs and not values.json:
        raise UserError(f"--logprobs={values.logprobs} goes with --json or --prompts")
    elif values.json and values.raw:
        raise UserError("--raw and --json exclude each other")


def _options(values: verb.Flags) -> Options:
    """The options that the flags name."""
    names = {field.name for field in dataclasses.fields(Options)} - {"scratchpad_threshold", "stop"}
    stop = tuple(os.fsencode(string) for string in values.stop)
    return Options(
        scratchpad_threshold=values.threshold, stop=stop, **{name: values[name].value for name in names}
    )


def _of_rows(values: verb.Flags) -> Options:
    """Of the options, those that may differ from row to row."""
    return dataclasses.replace(_options(values), patch_threshold=None)


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    workdir = verb.existing(values, "workdir")
    for flag in ("prompts", "prompt_file"):
        if values[flag].value is not None:
            verb.existing(values, flag, os.path.isfile)
    survey = None
    if values.prompts is not None and values.distributed == "none":
        # A file that cannot be used is said before JAX is loaded.
        survey = prompts_lib.survey(values.prompts, _of_rows(values))
    with joining.joined(values, answer):
        from scratchpatch.inference.loading import load

        model, row = load(workdir, values.step, **joining.place(values)), _of_rows(values)
        if values.patch_threshold is not None:
            # It is a matter of the model, not of a row.
            model = model.override({"patching.threshold": values.patch_threshold})
        if values.prompts is not None:
            _continue_file(model, survey, row, values, answer)
            return
        prompt = os.fsencode(values.prompt) if values.prompt_file is None else Path(values.prompt_file).read_bytes()
        if values.json:
            steps = prompts_lib.continued(model.engine(1), [prompts_lib.Prompt(1, prompt, row)])
            ((_, result),) = [row for ended, _ in steps for row in ended]
            answer.show(result, values, str)
        else:
            _show(model, prompt, row, values, answer)


def _show(model, prompt: bytes, row: Options, values: verb.Flags, answer: verb.Answer) -> None:
    from scratchpatch.report import passage

    shown = passage.Visible() if answer.stream.isatty() and not values.raw else None
    began = time.monotonic()
    made, moments = [], []
    try:
        for byte in model.stream(prompt, **dataclasses.asdict(row)):
            if not made:
                # The first bytes come together, after the prompt was read and programs were compiled.
                moments = [(time.monotonic(), model.engine(1).work.bytes)]
            made.append(byte)
            data = bytes([byte.value])
            answer.piece(data if shown is None else shown.push(data))
    finally:
        if made and shown is not None:
            answer.piece(shown.end() + "\n")
    moments.append((time.monotonic(), model.engine(1).work.bytes))
    if not answer.muted and (values.stats or sys.stderr.isatty()):
        print(_stats(began, moments, made), file=sys.stderr)


def _stats(began: float, moments: list[tuple[float, int]], made: list) -> str:
    """One line on a row that was shown: bytes, seconds, and what they cost."""
    text = f"{len(made)} bytes in {_speed(prompts_lib.speed(began, moments))}"
    if not made:
        return text
    commits, scratchpads = sum(byte.commit for byte in made), sum(byte.scratchpad for byte in made)
    per_byte = [f"{count / len(made):.3f}" for count in (commits + scratchpads, commits, scratchpads)]
    return text + "; trunk calls per byte: {} ({} commits, {} scratchpads)".format(*per_byte)


def _speed(speed: dict[str, float]) -> str:
    return "{seconds:.2f} s, the first after {seconds_to_first:.2f} s, {bytes_per_second:.0f} bytes/s".format(**speed)


def _continue_file(model, survey, row: Options, values: verb.Flags, answer: verb.Answer) -> None:
    from scratchpatch.distributed import processes
    from scratchpatch.inference import continuation
    from scratchpatch.inference.engine import Engine

    path, out = values.prompts, Path(os.path.realpath(values.out))
    survey = survey or continuation.survey(path, row)
    made_of = prompts_lib.made_of(model, survey, _options(values))
    if processes.first(lambda: results.finished(out, made_of)):
        answer.show({"rows": survey.count, "written": 0}, values, lambda _: f"{out} is finished: {survey.count} rows")
        return
    engine = Engine(model, min(values.rows, survey.count), values.share)
    answer.show(continuation.continue_file(engine, path, out, survey, row, made_of), values, _totals)


def _totals(result: dict[str, Any]) -> str:
    before = result["rows"] - result["written"]
    return (
        f"{result['written']} rows{f' ({before} were there)' if before else ''}, {result['bytes']} bytes in "
        f"{_speed(result)}; trunk calls per byte: {result['trunk_calls_per_byte']:.3f}, of "
        f"{result['rows_per_trunk_call']:.1f} rows each"
    )


VERB = verb.Verb("generate", __doc__, _run, _FLAGS, _check, required=("workdir",))
