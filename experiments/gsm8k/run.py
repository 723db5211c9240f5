"""Train every variant of the GSM8K study on every seed, side by side in one process, and write README.md.

    .venv/bin/python -m experiments.gsm8k.run [--seeds=3] [--steps=32000] [--seconds=0] [--output=FOLDER]

--seconds: the time that there is; fewer steps are done where they would take longer.
Legend: A models side by side, B rows, L positions, M tokens of a row, K steps of a call, T tokens of a stream.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.gsm8k import summary, text
from experiments.gsm8k.config import PROGRAMS, WINDOW, get_config, get_entropy_config
from scratchpatch import compilation_cache
from scratchpatch.errors import UserError
from scratchpatch.model import loss as loss_lib, weights as weights_lib
from scratchpatch.model.heads import entropy as entropy_of
from scratchpatch.vocabulary import BYTES

# Steps of a call of the compiled program, and rows of one of the validation's.
_STEPS, _ROWS = 100, 64


class Models:
    """Models of one config that train side by side: one for each variant and seed.

    fires_VT: bool, where scratchpads fire in the training stream, by variant; None: the models have no trunk.
    """

    def __init__(self, config, seeds: int, tokens: np.ndarray, fires_VT: np.ndarray | None):
        self.config, self.seeds = config, seeds
        self.variants = 1 if fires_VT is None else len(fires_VT)
        self.definition, _ = weights_lib.abstract(config)
        self.tokens = jnp.asarray(tokens)
        self.fires = None if fires_VT is None else jnp.asarray(fires_VT)
        each = [weights_lib.random(config, seed) for seed in range(seeds)] * self.variants
        weights = jax.tree.map(lambda *x: jnp.stack(x), *each)
        self.params, self.rest = weights.pop("params"), weights
        o = config.optimizer
        self._optimizer = optax.chain(
            optax.clip_by_global_norm(o.clip_norm),
            optax.scale_by_adam(o.b1, o.b2),
            optax.add_decayed_weights(o.weight_decay, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
        )
        self.moments = jax.vmap(self._optimizer.init)(self.params)
        self._run = jax.jit(self._steps, donate_argnums=(0, 1))
        self.done = 0

    def _loss(self, params, rest, tokens_BM, fires_BM):
        scores_BL = None if fires_BM is None else fires_BM[:, :-1].astype(jnp.float32)
        targets = loss_lib.count_targets(tokens_BM, BYTES)
        return loss_lib.loss(params, rest, self.definition, tokens_BM, targets, 0.0, scores_BL)[0]

    def _steps(self, params, moments, rest, tokens_T, fires_VT, starts_KSB, rates_K):
        variant_A, seed_A = np.divmod(np.arange(self.variants * self.seeds), self.seeds)

        def one(params, moments, rest, variant, rows_BM, rate):
            fires_BM = None if fires_VT is None else fires_VT[variant, rows_BM]
            gradient = jax.grad(self._loss)(params, rest, tokens_T[rows_BM], fires_BM)
            updates, moments = self._optimizer.update(gradient, moments, params)
            return jax.tree.map(lambda p, u: p - rate * u, params, updates), moments

        def step(carry, x):
            starts_SB, rate = x
            rows_ABM = starts_SB[seed_A][..., None] + np.arange(WINDOW + 1)
            run = jax.vmap(one, in_axes=(0, 0, 0, 0, 0, None))
            return run(*carry, rest, variant_A, rows_ABM, rate), None

        return jax.lax.scan(step, (params, moments), (starts_KSB, rates_K))[0]

    def run(self, steps: int, total: int) -> None:
        """Some further steps of `total`, whose learning rate falls along a cosine to a tenth."""
        o, rows = self.config.optimizer, self.config.training.batch_rows
        index_K = self.done + np.arange(steps)
        warm_K = np.minimum((index_K + 1) / o.warmup_steps, 1.0)
        rates_K = o.learning_rate * warm_K * (0.55 + 0.45 * np.cos(np.pi * np.minimum(index_K / total, 1.0)))
        last = len(self.tokens) - WINDOW
        starts = [
            [np.random.default_rng((seed, index)).integers(0, last, rows) for seed in range(self.seeds)]
            for index in index_K
        ]
        self.params, self.moments = self._run(
            self.params, self.moments, self.rest, self.tokens, self.fires, np.array(starts, np.int32),
            rates_K.astype(np.float32),
        )
        jax.block_until_ready(self.params)
        self.done += steps

    def positions(self, stream: np.ndarray, fires_VT: np.ndarray | None) -> dict[str, np.ndarray]:
        """nats, best, entropy and scratchpad [A, T - 1] at each position but the last; each has half a window before it
        where the stream has.
        """
        tokens, half = np.append(stream, np.full(2 * WINDOW, BYTES.pad, np.int32)), WINDOW // 2
        fires = None if fires_VT is None else np.pad(fires_VT, ((0, 0), (0, 2 * WINDOW)))
        starts = np.arange(0, max(len(stream) - half, 1), half)
        parts = []
        for at in range(0, len(starts), _ROWS):
            rows_BM = np.resize(starts[at : at + _ROWS], _ROWS)[:, None] + np.arange(WINDOW + 1)
            fires_VBL = None if fires is None else fires[:, rows_BM[:, :-1]].astype(np.float32)
            part = jax.device_get(self._look(self.params, self.rest, tokens[rows_BM], fires_VBL))
            parts.append({name: x[:, : len(starts[at : at + _ROWS])] for name, x in part.items()})
        answers = {}
        for name in parts[0]:
            x_ARL = np.concatenate([part[name] for part in parts], axis=1)
            later = x_ARL[:, :, half:].reshape(len(x_ARL), -1)
            answers[name] = np.concatenate([x_ARL[:, 0, :half], later], axis=1)[:, : len(stream) - 1]
        return answers

    @functools.partial(jax.jit, static_argnums=0)
    def _look(self, params, rest, tokens_BM, fires_VBL):
        variant_A = np.arange(self.variants * self.seeds) // self.seeds

        def one(params, rest, variant):
            scores_BL = None if fires_VBL is None else fires_VBL[variant]
            model = weights_lib.merge(self.definition, {"params": params, **rest})
            output = model(tokens_BM[:, :-1], entropy_BL=scores_BL)
            targets_BL = tokens_BM[:, 1:]
            return {
                "nats": loss_lib.nats(output.logits_BLV, targets_BL, BYTES),
                "best": output.logits_BLV.argmax(axis=-1) == targets_BL,
                "entropy": entropy_of(output.logits_BLV),
                "scratchpad": output.layout.scratchpad_BL,
            }

        return jax.vmap(one)(params, rest, variant_A)


def measure(answers: dict[str, np.ndarray], stream: text.Stream, index: int) -> dict:
    """What model `index` says of the validation stream: BPB of all bytes; of each kind of answer the share that is
    right, every byte of it the likeliest given the true ones before it, and its BPB.
    """
    nats, best = answers["nats"][index], answers["best"][index]
    is_byte = stream.tokens[1:] < BYTES.bos
    found = {
        "bpb": float(nats[is_byte].mean() / np.log(2)),
        "scratchpads_per_byte": float(answers["scratchpad"][index].mean()),
    }
    for kind, spans in stream.answers.items():
        # Position n predicts token n + 1.
        right = [bool(best[first - 1 : last - 1].all()) for first, last in spans]
        bits = sum(float(nats[first - 1 : last - 1].sum()) for first, last in spans) / np.log(2)
        found[kind] = {"answers": len(right), "accuracy": float(np.mean(right))}
        found[kind]["bpb"] = bits / sum(last - first for first, last in spans)
        # Whether a scratchpad refreshes the context right before the answer.
        before = [bool(answers["scratchpad"][index][first - 1]) for first, _ in spans]
        found[kind]["scratchpad_before"] = float(np.mean(before))
    return found


def study(seeds: int, most_steps: int, seconds: float, output: Path) -> None:
    began = time.monotonic()
    training, validation = text.streams()
    small = get_entropy_config()
    reader = Models(small, 1, training.tokens, None)
    total = min(small.training.steps, most_steps)
    while reader.done < total:
        reader.run(min(_STEPS, total - reader.done), total)
    entropies = [np.append(reader.positions(s.tokens, None)["entropy"][0], 0.0) for s in (training, validation)]
    print(f"entropy model: {total} steps, {time.monotonic() - began:.0f} s", flush=True)
    models, fires = {}, {}
    for program, (patch_bytes, _, variants) in PROGRAMS.items():
        rules = text.Rules(training, entropies[0], patch_bytes)
        trained, fires[program] = (
            np.array([rules.fires(variant, stream.tokens, entropy) for variant in variants])
            for stream, entropy in zip((training, validation), entropies, strict=True)
        )
        models[program] = Models(get_config(program), seeds, training.tokens, trained)
    # The first call compiles, the second tells how long the others take. Both are steps of the run.
    chunk = min(_STEPS, max(most_steps // 4, 1))
    for each in models.values():
        each.run(chunk, most_steps)
    before = time.monotonic()
    for each in models.values():
        each.run(chunk, most_steps)
    pace = (time.monotonic() - before) / chunk
    total = most_steps
    if seconds:
        # A tenth is left for the measuring.
        left = 0.9 * seconds - (time.monotonic() - began)
        # Whole calls: another number of steps would compile another program.
        total = max(min(most_steps, (2 + int(left / pace / chunk)) * chunk), 2 * chunk)
    print(f"{total} steps of {1000 * pace:.1f} ms, after {time.monotonic() - began:.0f} s", flush=True)
    while any(each.done < total for each in models.values()):
        for each in models.values():
            each.run(min(chunk, total - each.done), total) if each.done < total else None
    results = []
    for program, (_, _, variants) in PROGRAMS.items():
        answers = models[program].positions(validation.tokens, fires[program])
        parameters = sum(x.size for x in jax.tree.leaves(models[program].params)) // (len(variants) * seeds)
        for k, variant in enumerate(variants):
            for seed in range(seeds):
                found = measure(answers, validation, k * seeds + seed)
                about = {"program": program, "variant": variant, "seed": seed, "steps": total, "parameters": parameters}
                results.append(about | found)
    device = jax.devices()[0].device_kind
    document = {"device": device, "seconds": time.monotonic() - began, "results": results}
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (output / "README.md").write_text(summary.page(document))
    print(output / "README.md")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--steps", type=int, default=get_config().training.steps, help="the most steps")
    parser.add_argument("--seconds", type=float, default=0.0, help="the time that there is; 0: no limit")
    parser.add_argument("--output", type=Path, default=Path("runs/gsm8k"), help="folder of README.md and results.json")
    flags = parser.parse_args()
    compilation_cache.enable()
    try:
        study(flags.seeds, flags.steps, flags.seconds, flags.output)
    except UserError as error:
        sys.exit(f"gsm8k: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
