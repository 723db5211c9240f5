"""Decoding: the engine against recomputing the prefix, transformers' BLT and the byte-level model; many rows; caches.

Every engine stands beside its local path: the same model whose budgets leave no trunk call.
"""

import dataclasses
import importlib.util
import itertools

import jax
import numpy as np
from absl import logging

from scratchpatch import config as config_lib, platforms, timing
from scratchpatch.accounting import kv_cache
from scratchpatch.bench.decoders import Continuation, Recomputation, local, model, prompts
from scratchpatch.bench.models import byte_level
from scratchpatch.bench.results import Result, at_least, at_most
from scratchpatch.inference.engine import Engine
from scratchpatch.timing import Times

_TITLE = "decoding with caches: greedy, random weights"
# The paper's rates: a commit at every 16th byte, and 3/16 of the bytes refresh the context.
RATES = {
    "patching.kind": "fixed", "patching.patch_bytes": 16, "patching.capacity": 0.0, "patching.commit_bos": False,
    "trigger.kind": "random", "trigger.rate": 0.2, "trigger.capacity": 0.0, "training.dtype": "float32",
}
# About 100M parameters, most of them in the trunk.
LARGE = {
    "data.window": 2048, "model.d_byte": 256, "model.encoder.layers": 2, "model.encoder.heads": 4,
    "model.encoder.window": 512, "model.entropy_head.layers": 2, "model.decoder.layers": 3, "model.decoder.heads": 4,
    "model.decoder.window": 512, "model.trunk.layers": 13, "model.trunk.d_model": 768, "model.trunk.heads": 12,
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured. seconds: of each comparison. Bytes: `prompt` before and `new` behind it of one row; of many
    rows `short` and `few`, of the large model `fewer`; `samples` of bytes whose prefix is recomputed; `peer` of
    transformers. rows, large_rows: side by side. window: of long contexts, after prompts of `near` and `far`.
    """

    seconds: float = 12.0
    prompt: int = 1024
    new: int = 1024
    samples: int = 32
    peer: int = 4
    rows: int = 64
    long_rows: int = 16
    short: int = 64
    few: int = 256
    fewer: int = 32
    window: int = 8192
    near: int = 1000
    far: int = 7000
    shares: tuple[float, ...] = (0.0, 0.125, 0.25, 0.5, 1.0)
    large: dict = dataclasses.field(default_factory=lambda: LARGE)


_SIZES = Sizes()


def measure(config) -> Result:
    """Bytes/s of all, and ratios beside their targets."""
    sizes, parts = _SIZES, []
    small = _with(config, RATES)
    large = _with(config_lib.default(), RATES | sizes.large | {"data.sources": config.data.sources})
    few, fewer = sizes.few, sizes.fewer
    for name, part in (
        ("the prefix recomputed", lambda: _recomputing(small, sizes)),
        ("transformers", lambda: _peer(small, sizes)),
        ("the byte-level model", lambda: _byte_level("config", small, sizes, few)),
        ("the byte-level model, 100M", lambda: _byte_level("100M", large, sizes, fewer)),
        ("many rows", lambda: _many(small, sizes)),
        ("shares", lambda: _shares("config", small, sizes.rows, few, sizes)),
        ("shares, 100M", lambda: _shares("100M", large, sizes.long_rows, fewer, sizes)),
        ("long contexts", lambda: _long(small, sizes)),
    ):
        logging.info("decode: %s ...", name)
        parts.append(part())
        logging.info("%s", "; ".join(f"{t['name']} {t['value']:.3g}" for t in parts[-1].targets))
    notes = (
        "patches of 16 bytes and scratchpads at 3/16 of the bytes, whose places are hashed: rates do not depend on the "
        "weights; encoder and entropy head run all the same",
        "local share: of the time, in the same model whose budgets leave no trunk call: encoder, entropy head, "
        "patching, decoder, choosing bytes, and what keeps rows apart",
        "speeds and ratios are those of the fastest turns; prompts are not part of either, but of prefill and of the "
        "first bytes, which come together with those behind them",
        "against the byte-level model, and by shares: a window of the prompt and the new bytes alone",
    )
    return Result(
        _TITLE,
        {name: values for part in parts for name, values in part.numbers.items()},
        tuple(itertools.chain.from_iterable(part.targets for part in parts)),
        notes + tuple(itertools.chain.from_iterable(part.notes for part in parts)),
    )


def _with(config, fields: dict):
    return config_lib.from_flat(config_lib.flat(config) | fields)


def _engine(config, rows: int) -> Engine:
    return Engine(model(config), rows=rows)


def _turns(sides: dict, seconds: float) -> tuple[Times, dict]:
    """Times of the sides in turns, each continuation's local path among them, and their numbers.

    sides: name -> Continuation, or another call that returns its seconds per byte.
    """
    engines, paths, path_names = {}, {}, {}
    for name, side in sides.items():
        if isinstance(side, Continuation):
            if id(side.engine) not in engines:
                engines[id(side.engine)] = _engine(local(side.engine.model.config), side.engine.rows)
            engine = engines[id(side.engine)]
            # Without trunk calls no row waits, and a byte takes as long behind any prompt.
            path_names[name] = id(side.engine), side.new
            paths.setdefault(path_names[name], Continuation(engine, 0, side.new))
    times, numbers = timing.turns(sides | paths, seconds), {}
    for name, side in sides.items():
        if isinstance(side, Continuation):
            share = _ratio(times, path_names[name], name)
            numbers[name] = side.numbers(times.best(name)) | {"local_share": share}
        else:
            numbers[name] = {"new_bytes": side.new, "bytes_per_second": 1 / times.best(name)}
    return times, numbers


def _recomputing(config, sizes: Sizes) -> Result:
    numbers, targets = {}, []
    whole = sizes.prompt + sizes.new
    for window in dict.fromkeys((whole, config.data.window)):
        engine = _engine(_with(config, {"data.window": window}), 1)
        ours, theirs = f"window {window}", f"window {window}, recomputed"
        sides = {
            ours: Continuation(engine, sizes.prompt, sizes.new),
            theirs: Recomputation(engine.model, sizes.prompt, sizes.new, sizes.samples),
        }
        times, measured = _turns(sides, sizes.seconds)
        numbers |= measured
        faster = _ratio(times, theirs, ours)
        targets.append(at_least(f"speed over recomputing the prefix, window {window}", faster, 20.0))
    notes = (
        f"recomputed: a compiled pass for each of {sizes.samples} bytes spread over the {sizes.new} new ones, scaled; "
        f"in a window shorter than {whole} bytes the engine reads rows anew, which is part of its time",
    )
    return Result("", numbers, tuple(targets), notes)


def _peer(config, sizes: Sizes) -> Result:
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        fix = "pip install torch==2.13.0, then pip install transformers"
        return Result("", notes=(f"transformers' BLT skipped: {' and '.join(missing)} not installed: {fix}",))
    from scratchpatch.bench import blt

    config = _with(config, {"data.window": sizes.prompt + sizes.new})
    engine = _engine(config, 1)
    parameters = sum(x.size for x in jax.tree.leaves(engine.model.weights["params"]))
    # Its bytes are those in the middle of ours: for it, later ones take longer.
    middle = np.frombuffer(prompts(1, sizes.prompt + sizes.new // 2)[0], np.uint8)
    theirs = blt.Continuation(config, blt.patch_bytes(config), parameters, middle, sizes.peer)
    # On all cores it is the slower one where others work on them.
    seconds = {}
    for threads in {1, platforms.cores()}:
        theirs.threads = threads
        seconds[threads] = min(theirs(), theirs())
    theirs.threads = min(seconds, key=seconds.get)
    sides = {"beside BLT": Continuation(engine, sizes.prompt, sizes.new), "transformers' BLT": theirs}
    times, numbers = _turns(sides, sizes.seconds)
    for name, count in (("beside BLT", parameters), ("transformers' BLT", theirs.parameters)):
        numbers[name]["parameters"] = count
    notes = (
        f"transformers' generate(use_cache=False) writes {sizes.peer} bytes behind {len(middle)}; of 1 and "
        f"{platforms.cores()} threads, {theirs.threads} was faster",
    )
    faster = _ratio(times, "transformers' BLT", "beside BLT")
    return Result("", numbers, (at_least("speed over transformers' BLT without a cache", faster, 20.0),), notes)


def _byte_level(label: str, config, sizes: Sizes, new: int) -> Result:
    # A slot reads every place of the static cache: a longer window would cost the byte-level model alone.
    config = _with(config, {"data.window": sizes.short + new})
    numbers, targets, twin = {}, [], byte_level(config)
    for rows in (1, sizes.long_rows):
        sides = {
            f"{label}, {_rows(rows)}": Continuation(_engine(config, rows), sizes.short, new),
            f"{label} byte-level, {_rows(rows)}": Continuation(_engine(twin, rows), sizes.short, new),
        }
        ours, theirs = sides
        times, measured = _turns(sides, sizes.seconds)
        numbers |= measured
        faster = _ratio(times, theirs, ours)
        targets.append(at_least(f"{label}, {_rows(rows)}: speed over byte-level", faster, 2.0))
    return Result("", numbers, tuple(targets))


def _many(config, sizes: Sizes) -> Result:
    one, many = _rows(1), _rows(sizes.rows)
    engine = _engine(config, sizes.rows)
    sides = {
        f"alone, {one}": Continuation(_engine(config, 1), sizes.short, sizes.few),
        f"together, {many}": Continuation(engine, sizes.short, sizes.few),
    }
    slow, fast = sides
    times, numbers = _turns(sides, sizes.seconds)
    kept, counted = engine.cache_bytes["trunk"], kv_cache.kv_bytes(config, sizes.rows)
    of_bytes = engine.commits * kv_cache.kv_bytes_per_byte(config, 1.0)
    read = sum(len(prompt) + sizes.few for prompt in prompts(sizes.rows, sizes.short))
    targets = (
        at_least(f"bytes/s of {many} over one", _ratio(times, slow, fast), 8.0),
        at_most("trunk cache over account's, in bytes", abs(kept - counted), 0),
    )
    notes = (
        f"trunk cache of {many}: {kept:,} bytes for the most commits that a window may have; the commits of {read:,} "
        f"bytes of text fill {of_bytes:,.0f} of them",
    )
    return Result("", numbers, targets, notes)


def _shares(label: str, config, rows: int, new: int, sizes: Sizes) -> Result:
    engine = _engine(_with(config, {"data.window": sizes.short + new}), rows)
    names = {share: f"{label}, {_rows(rows)}, share {share:g}" for share in sizes.shares}
    sides = {name: Continuation(engine, sizes.short, new, share) for share, name in names.items()}
    times, numbers = _turns(sides, sizes.seconds)
    best = min(names.values(), key=times.best)
    eager, together = names[sizes.shares[0]], names[sizes.shares[-1]]
    targets = (
        at_least(f"{best}: speed over share {sizes.shares[0]:g}", _ratio(times, eager, best), 1.3),
        at_least(f"{best}: speed over share {sizes.shares[-1]:g}", _ratio(times, together, best), 1.3),
    )
    return Result("", numbers, targets)


def _long(config, sizes: Sizes) -> Result:
    numbers, targets = {}, []
    for rows in (1, sizes.long_rows):
        engine = _engine(_with(config, {"data.window": sizes.window}), rows)
        short = _engine(_with(config, {"data.window": 2 * sizes.near}), rows)
        near, far, other = (f"{_rows(rows)}, {text}" for text in (
            f"window {sizes.window}, after {sizes.near}", f"window {sizes.window}, after {sizes.far}",
            f"window {2 * sizes.near}, after {sizes.near}",
        ))
        sides = {
            near: Continuation(engine, sizes.near, sizes.few), far: Continuation(engine, sizes.far, sizes.few),
            other: Continuation(short, sizes.near, sizes.few),
        }
        times, measured = _turns(sides, sizes.seconds)
        numbers |= measured
        text = f"{_rows(rows)}: time per byte after {sizes.far} bytes over after {sizes.near}"
        targets += [
            at_most(text, _ratio(times, far, near), 1.3),
            at_most(f"{text} in a window of {2 * sizes.near}", _ratio(times, far, other), 1.3),
        ]
    return Result("", numbers, tuple(targets))


def _ratio(times: Times, slower: str, faster: str) -> float:
    """Of the fastest turns: whatever else runs slows waiting threads many times over."""
    return times.best(slower) / times.best(faster)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
