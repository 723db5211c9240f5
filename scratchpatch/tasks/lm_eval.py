"""Models of this package for lm-evaluation-harness, the package lm_eval of others (0.4.13 or newer).

The harness has no way for other packages to announce a model, and asks for the model before it reads any file of a
task. So this module is its command line too, with the model `scratchpatch` known, and takes what `lm_eval` takes:

    python -m scratchpatch.tasks.lm_eval --model scratchpatch --model_args workdir=runs/quickstart --tasks arc_easy

A program that has imported this module passes `model="scratchpatch"` to `lm_eval.simple_evaluate`.
"""

import collections
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from absl import logging
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from scratchpatch.errors import UserError
from scratchpatch.inference.loading import load
from scratchpatch.inference.options import Options
from scratchpatch.tasks import items as items_lib
from scratchpatch.tasks.items import Item
from scratchpatch.tasks.requests import Answer, Generation, Likelihood, Passage
from scratchpatch.tasks.task import Setting

Space = Literal["as_given", "prompt_end"]
# Tokens of a generation for which the harness's tasks name no number.
_TOKENS = 256
# What a task may say of a generation beside `until` and the number of tokens.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@register_model("scratchpatch")
class ScratchpatchLM(LM):
    """A model as lm-evaluation-harness asks it.

    Every document begins with the BOS, which is so the prefix of an empty context. Requests are put into rows of like
    length, as many at once as keep the devices busy, and no answer depends on that: the harness's batch sizes change
    nothing. Where processes share a mesh, each asks the same, and rows are dealt to them below; to the harness all are
    rank 0 of 1, since it would deal documents to ranks.

    `loglikelihood_rolling` scores a document of up to a window less one byte whole. A longer one is scored by windows
    that begin half a window apart (`get_model_info` says the stride): each byte once, with at least half a window
    before it.
    """

    def __init__(
        self,
        workdir: str | None = None,
        step: int | None = None,
        devices: int | None = None,
        space: Space = "as_given",
        bytes_per_token: int = 4,
        seed: int = 0,
        setting: Setting | None = None,
        label: str = "harness",
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
        **fields: Any,
    ):
        """Raises UserError for a folder without a model, and for values that cannot be used.

        Args:
          workdir, step, devices: what `inference.loading.load` reads; unless there is a `setting`.
          space: as_given scores what the harness asks for, in which a space begins an answer. prompt_end moves the
            spaces that begin a continuation to the end of the context, where they are not scored.
          bytes_per_token: how many bytes a task's limits of tokens stand for.
          seed: of the first of several samples of a prompt; the next has the next number.
          setting: a model, and where its answers are stored as they come. label: what they are called.
          batch_size, max_batch_size, device: what the harness's command line gives all models; they change nothing, and
            JAX takes the fastest devices that it finds.
          fields: of the config to override, such as `trigger.threshold=1.0`.
        """
        super().__init__()
        if space not in ("as_given", "prompt_end"):
            raise UserError(f"space = {space!r} must be as_given or prompt_end")
        if not isinstance(bytes_per_token, int) or bytes_per_token < 1:
            raise UserError(f"bytes_per_token = {bytes_per_token!r} must be a whole number of at least 1, such as 4")
        # The harness's bootstrap would fork this process, whose threads hold locks.
        os.environ["DISABLE_MULTIPROC"] = "1"
        if setting is None:
            if workdir is None:
                raise UserError("the model scratchpatch needs --model_args workdir=DIR")
            lm = load(workdir, step, devices)
            setting = Setting(lm.override(fields) if fields else lm, Path(workdir))
        self._setting, self._label = setting, label
        self._space, self._bytes_per_token, self._seed = space, bytes_per_token, seed

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether each byte is the likeliest) of each (context, continuation)."""
        items = [Item((self._likelihood(*request.args),), request.args) for request in requests]
        answers = self._ask("loglikelihood", items, lambda likely: (0.0 - likely.nats, likely.best))
        return [(nats, best) for nats, best in answers]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood, in nats, of each document."""
        items = [Item((Passage(request.args[0].encode()),), request.args) for request in requests]
        return self._ask("loglikelihood_rolling", items, lambda passed: 0.0 - math.fsum(passed.nats))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What is written after each context, up to a stop string, which is left out, or the limit. Bytes that are no
        UTF-8 become U+FFFD.
        """
        asked: collections.Counter = collections.Counter()
        items = []
        for request in requests:
            context, said = request.args
            # A prompt that is sampled several times has a seed for each.
            key = json.dumps([context, said], sort_keys=True)
            options = self._options(said, self._seed + asked[key])
            asked[key] += 1
            items.append(Item((Generation(context.encode(), options),), request.args))
        return self._ask("generate_until", items, lambda data: data.decode("utf-8", "replace"))

    def get_model_info(self) -> dict[str, Any]:
        """What one must know to repeat the numbers; the harness puts it into its results."""
        lm = self._setting.lm
        window = lm.config.data.window
        return {
            "workdir": None if self._setting.workdir is None else str(self._setting.workdir),
            "step": lm.step,
            "fingerprint": lm.fingerprint(),
            "window": window,
            "rolling_stride": max(window // 2, 1),
            "prefix": "BOS",
            "space": self._space,
            "bytes_per_token": self._bytes_per_token,
            "seed": self._seed,
        }

    @property
    def rank(self) -> int:
        return 0

    @property
    def world_size(self) -> int:
        return 1

    @property
    def tokenizer_name(self) -> str:
        return f"{self._setting.lm.vocabulary.unit}s"

    def _likelihood(self, context: str, continuation: str) -> Likelihood:
        rest = continuation.lstrip(" ")
        if self._space == "prompt_end" and rest:
            context, continuation = context + continuation[: len(continuation) - len(rest)], rest
        return Likelihood(context.encode(), continuation.encode())

    def _options(self, said: dict[str, Any], seed: int) -> Options:
        """Options of a generation, of the harness's keywords."""
        keywords = normalize_gen_kwargs(said, _TOKENS)
        known = (*_SAMPLING, "until", "max_gen_toks", "do_sample")
        if unknown := sorted(keywords.keys() - set(known)):
            logging.log_first_n(logging.WARNING, "not used of generation_kwargs: %s", 1, ", ".join(unknown))
        sampling = {name: keywords[name] for name in _SAMPLING if name in keywords} if keywords["do_sample"] else {}
        if keywords["do_sample"]:
            sampling.setdefault("temperature", 1.0)
        stop = tuple(string.encode() for string in keywords["until"] if string)
        options = Options(keywords["max_gen_toks"] * self._bytes_per_token, stop=stop, seed=seed, **sampling)
        options.check()
        return options

    def _ask(self, kind: str, items: Sequence[Item], said: Callable[[Answer], Any]) -> list[Any]:
        """What `said` makes of the answer to each item's request; the harness's cache is told as answers come."""

        def graded(some: Sequence[Item], answers: Sequence[list[Answer]]) -> list[dict[str, Any]]:
            grades = [{"answer": said(answer)} for (answer,) in answers]
            for item, grade in zip(some, grades, strict=True):
                self.cache_hook.add_partial(kind, item.data, grade["answer"])
            return grades

        protocol = {"kind": kind, "asked": items_lib.checksum(items)}
        label = f"{self._label} {kind}"
        return [grade["answer"] for grade in items_lib.ask(label, protocol, items, graded, self._setting)]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
