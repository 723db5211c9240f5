"""Answer requests for completions over HTTP, as OpenAI's server does, and show a page to type prompts on.

usage: scratchpatch serve --workdir=DIR [--port=8000 --host=127.0.0.1] [--rows=64 --queue=256] [--step=N] \
[--override FIELD=VALUE]... [--name=NAME --drain_seconds=30]

Needs the extra serve. The first line of standard output says where the server is, once it answers: with --port=0 that
is a port that was free. Nobody is asked who they are: --host=0.0.0.0 lets in whoever reaches this machine.
SIGTERM and Ctrl-C refuse further requests, finish those that run, and end the server; a second one ends it at once.
scratchpatch/serving/README.md has the fields of a request.

examples:
  scratchpatch serve --workdir=runs/quickstart
  scratchpatch serve --workdir=runs/blt_1b --port=9000 --rows=16 --override trigger.kind=entropy
"""

import math
import os
from pathlib import Path

from scratchpatch import compilation_cache
from scratchpatch.data import extras
from scratchpatch.errors import UserError
from scratchpatch.verbs import verb

_FLAGS = (
    verb.WORKDIR, verb.STEP, verb.OVERRIDE,
    verb.text("host", "Address to listen on; 127.0.0.1: from this machine alone.", "127.0.0.1"),
    verb.integer("port", "Port to listen on; 0: any that is free.", 8000, lower_bound=0, upper_bound=65535),
    verb.integer("rows", "Rows that the engine continues at once.", 64),
    verb.integer("queue", "Rows that may wait beside those; beyond that, requests get 429.", 256, lower_bound=0),
    verb.text("name", "Name of the model in requests and answers; none: the run's folder."),
    verb.number("drain_seconds", "Seconds that running requests have to finish, at the end.", 30.0, lower_bound=0.0),
)


def _check(values: verb.Flags) -> None:
    if values.name == "":
        raise UserError("--name= is empty: give a name, or leave it out")
    if not math.isfinite(values.drain_seconds):
        raise UserError(f"--drain_seconds={values.drain_seconds}: wanted a finite number, 0 or above")


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    workdir = verb.existing(values, "workdir")
    for package in ("starlette", "uvicorn"):
        extras.need(package, "serve", "scratchpatch serve")
    compilation_cache.enable()
    from scratchpatch.inference.engine import Engine
    from scratchpatch.inference.loading import load
    from scratchpatch.serving.app import create
    from scratchpatch.serving.driver import warm_up
    from scratchpatch.serving.request import Limits
    from scratchpatch.serving.server import bind, run

    # Loading and compiling take a while, and an address that is taken should be known before.
    bound = bind(values.host, values.port)
    model = load(workdir, values.step)
    if values.override:
        model = model.override(dict(values.override))
    if not model.vocabulary.is_bytes:
        raise UserError(f"{workdir} holds a model of tokens, and the server counts bytes: use scratchpatch generate")
    name = os.fsencode(values.name or Path(workdir).resolve().name).decode("utf-8", "backslashreplace")
    engine = Engine(model, rows=values.rows)
    warm_up(engine)
    made = create(engine, name, model.score, Limits(queue=values.queue))
    run(made, bound, values.drain_seconds, answer.line)


VERB = verb.Verb("serve", __doc__, _run, _FLAGS, _check, required=("workdir",))
