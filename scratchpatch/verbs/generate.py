"""Continue a prompt; the bytes go to standard output.

usage: scratchpatch generate --workdir=DIR --prompt=TEXT|--prompt_file=FILE --max_bytes=N [--temperature=T --seed=S] \
[--raw]

Into a pipe or a file the bytes go as they are. On a terminal, which some would steer, they are shown as inspect shows
them: a newline as ⏎, a tab as ⇥, any other byte that is no text by its value, as ‹1b›.

examples:
  scratchpatch generate --workdir=runs/quickstart --prompt='def main(' --max_bytes=200
  scratchpatch generate --workdir=runs/quickstart --prompt_file=story.txt --temperature=0.8 --seed=1
"""

import math
import os
from pathlib import Path

from scratchpatch import compilation_cache
from scratchpatch.errors import UserError
from scratchpatch.verbs import verb

_FLAGS = (
    verb.WORKDIR, verb.text("prompt", "Text to continue; its bytes are taken as they are, valid UTF-8 or not."),
    verb.file("prompt_file", "File whose bytes to continue."),
    verb.integer("max_bytes", "Most bytes to generate.", 256, lower_bound=0),
    verb.number("temperature", "0 takes the likeliest byte; 1 samples from the model.", 0.0, lower_bound=0.0),
    verb.integer("seed", "Seed of the sampling.", 0, lower_bound=0),
    verb.switch("raw", "Write the bytes to a terminal as they are, too."),
)


def _check(values: verb.Flags) -> None:
    if (values.prompt is None) == (values.prompt_file is None):
        raise UserError("give one of --prompt=TEXT and --prompt_file=FILE")
    if not math.isfinite(values.temperature):
        raise UserError(f"--temperature={values.temperature}: wanted a finite number, 0 or above")


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    workdir = verb.existing(values, "workdir")
    file = None if values.prompt_file is None else verb.existing(values, "prompt_file", os.path.isfile)
    prompt = os.fsencode(values.prompt) if file is None else Path(file).read_bytes()
    compilation_cache.enable()
    from scratchpatch.inference.loading import load
    from scratchpatch.report import passage

    model = load(workdir)
    generated = model.generate(prompt, values.max_bytes, temperature=values.temperature, seed=values.seed)
    if answer.stream.isatty() and not values.raw:
        answer.line(passage.visible(generated))
    else:
        answer.stream.flush()
        answer.stream.buffer.write(generated)
        answer.stream.buffer.flush()


VERB = verb.Verb("generate", __doc__, _run, _FLAGS, _check, required=("workdir",))
