"""Every field of an experiment, once: default, unit, meaning, check.

`default()` gives a locked `ml_collections.ConfigDict`; an experiment file
changes what it must and returns it from `get_config()`. `check()` names every
bad field of a config together, with the fix. `difference()` compares two
configs in words.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, TypedDict

import ml_collections

from scratchpatch import json_files, places, schema
from scratchpatch.errors import UserError
from scratchpatch.vocabulary import BYTES, Vocabulary

Check = Callable[[Any], str | None]


def _between(low, high) -> Check:
    return lambda v: None if low <= v <= high else f"must lie between {low} and {high}"


def _one_of(*choices) -> Check:
    return lambda v: None if v in choices else f"must be one of {', '.join(choices)}"


def _any(_):
    return None


def _size(value) -> str | None:
    if value == -1 or 1 <= value <= _MOST_DEVICES:
        return None
    return f"must be at least 1 and at most {_MOST_DEVICES}, or -1 for the devices that the other axes leave"


def _spike(value) -> str | None:
    return None if value == 0 or 1 < value <= 1e6 else "must be above 1 and at most 1000000.0, such as 3.0, or 0 for no limit"


def _threshold(value) -> str | None:
    return None if abs(value) <= 1e30 or math.isinf(value) else "must lie between -1e+30 and 1e+30, or be inf for never, or -inf for always"


def _path(value) -> str | None:
    if "\0" in value:
        return "holds a NUL, which no path has"
    return None if len(value) <= _LONGEST_PATH else f"must have at most {_LONGEST_PATH} characters"


def _folder(value) -> str | None:
    return _path(value) or places.unstorable(value)


def _branch(value) -> str | None:
    workdir, at, step = value.rpartition("@")
    if value and not (workdir and step.isdecimal() and step.isascii() and len(step) <= len(str(_MOST_STEPS))):
        return "must be RUN@STEP, such as 'runs/first@2000'"
    return _folder(value)


def _sizes(value) -> str | None:
    if len(value) <= 15 and all(type(n) is int and 2 <= n <= 16 for n in value):
        return None
    return "must hold at most 15 whole numbers from 2 to 16, such as (3, 4, 5)"


def _sources(value) -> str | None:
    if len(value) > _MOST_SOURCES:
        return f"holds {len(value)} sources: at most {_MOST_SOURCES}; one SPEC may name many files"
    for item in value:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            return "must hold (SPEC, weight) pairs, such as (('text:books/*.txt', 1.0),)"
        spec, weight = item
        if not isinstance(spec, str) or not _is_weight(weight):
            return f"holds {shown(item)}: wanted (SPEC, weight) with a weight above 0, and finite"
        if problem := _path(spec):
            return f"holds {shown(spec)}, which {problem}"
    if not _is_weight(sum(weight for _, weight in value) or 1):
        return "has weights whose sum is not finite"
    return None


def _is_weight(value) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value <= sys.float_info.max


def _specs(value) -> list[str]:
    return [spec for spec, _ in value]


def shown(value: Any) -> str:
    """A value as a message has it: of a long one the beginning."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    except RecursionError:
        return "a value that is nested too deep"
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of the config.

    `free` marks a field that may change when a run resumes: it moves work
    between machines or changes how often something is saved or measured, never
    what is computed. Of one with `kept`, all else may change: a batch is what
    it was before the step at which the run resumes. One that is `later` may
    change likewise, from the step on at which the run resumes. `path` marks a
    path, which a run keeps as an absolute one.
    """

    name: str
    default: Any
    unit: str
    meaning: str
    check: Check
    free: bool = False
    kept: Callable[[Any], Any] | None = None
    path: bool = False
    later: bool = False


ENTROPY_PATCHIFIERS = ("entropy", "entropy_jump", "entropy_and_jump")
PATCHIFIERS = ("byte", "fixed", "whitespace", "random", *ENTROPY_PATCHIFIERS)
TRIGGERS = ("none", "entropy", "entropy_jump", "stride", "whitespace", "random", "every")
POOLINGS = ("mean", "cross_attention", "last", "max_query")
TRUNKS = ("transformer", "none")
INJECTIONS = ("add", "cross_attention")
REMATS = ("none", "dots", "full")
DTYPES = ("float32", "bfloat16")
SCHEDULES = ("cosine", "wsd", "constant")
BACKENDS = ("auto", "xla", "splash", "pallas")

# Beyond these nothing sensible exists today, with room to spare: they keep a slip of the keyboard, or a damaged file,
# from hanging a run or filling the memory.
_MOST_LAYERS, _WIDEST, _MOST_HEADS, _MOST_VECTORS, _WIDEST_WINDOW = 1024, 1 << 16, 1024, 256, 1 << 18
_MOST_STEPS, _MOST_ROWS, _MOST_BYTES, _MOST_DEVICES = 10**9, 1 << 20, 1 << 50, 1 << 20
_MOST_STEP_BYTES = 1 << 31
_LONGEST_PATH, _MOST_SOURCES = 4096, 4096

_LAYERS, _DEEP = _between(0, _MOST_LAYERS), _between(1, _MOST_LAYERS)
_WIDTH, _HEADS, _VECTORS = _between(2, _WIDEST), _between(1, _MOST_HEADS), _between(1, _MOST_VECTORS)
_BYTES, _STEPS, _COUNT = _between(1, _WIDEST_WINDOW), _between(0, _MOST_STEPS), _between(1, _MOST_STEPS)
_ROPE = _between(1.0, 1e12)
# From 1 - 2**-24 on it would be 1 in float32, and the moment's correction 0 / 0.
_MOMENT = _between(0.0, 0.999999)


class _Stamp(TypedDict, total=False):
    schema: int
    version: str
    step: json_files.Count


class Document(_Stamp):
    """The shape of a config.json; one of schema 1 has no stamp."""

    config: dict[str, Any]


# Seeds are JAX's uint32.
_SEED = _between(0, 2**32 - 1)

FIELDS = (
    Field("seed", 0, "", "Seed of initialisation, of the data order and of nothing else.", _SEED),
    Field("data.sources", (("stdlib:code", 1.0), ("stdlib:prose", 1.0)), "", "(SPEC, weight) pairs; weights are shares of the windows. SPEC: stdlib:code, stdlib:prose, text:GLOB, jsonl:GLOB[#field], parquet:GLOB[#column], array_record:GLOB, tfds:NAME[@split][#field], hf:DIR[@split][#field], prepared:DIR. When a run resumes, the weights may change, from then on.", _sources, kept=_specs),
    Field("data.validation_sources", (), "", "(SPEC, weight) pairs to validate on, whole; empty: a held-out split of data.sources.", _sources),
    Field("data.held_out", 0.025, "share", "Documents of a source that validate, and as many that test, by a hash of their bytes. The standard library holds out 0.05 of its files, a prepared folder what it was prepared with, and the only document of a source is cut: its last 0.05 test, the 0.05 before validate.", _between(0.0, 0.4)),
    Field("data.window", 1024, "bytes", "Length of one row of the stream.", _between(8, 1 << 18)),
    Field("data.entropies", False, "", "Read the entropies that `scratchpatch entropies` computed instead of running the entropy model inside the train step. They see text before the row, so near a row's start they may differ from the step's own.", _any),
    Field("data.on_bad_record", "error", "", "A record that cannot be read: error names it and stops before training; skip counts and reports it.", _one_of("error", "skip")),
    Field("data.record_bytes", 1 << 26, "bytes", "The most that one record may hold: a line of JSON, a row, a record or an example; and what a compressed text file may unpack to, unless that is less than 100 times its size. A larger one is a bad record. Plain text files may have any size.", _between(1, 1 << 40), free=True),
    Field("data.cache_dir", "", "", "Folder of the stream indexes; empty: $SCRATCHPATCH_CACHE, else ~/.cache/scratchpatch.", _path, free=True, path=True),
    Field("data.threads", 1, "threads", "Threads that read batches ahead of the loop.", _between(1, 512), free=True),
    Field("data.prefetch", 4, "batches", "Batches held ready for the loop.", _between(1, 1024), free=True),
    Field("model.d_byte", 256, "", "Width of the byte states (encoder, entropy head, decoder).", _WIDTH),
    Field("model.ffn_multiplier", 8 / 3, "", "Width of a SwiGLU block over the model width, rounded up to a multiple of 16.", _between(0.25, 16)),
    Field("model.rope_theta", 10000.0, "", "Base of the rotary position embedding.", _ROPE),
    Field("model.norm_eps", 1e-6, "", "Added to the mean square in every RMSNorm.", _between(0.0, 1.0)),
    Field("model.target_rows", BYTES.bos + 1, "rows", "Rows of the logits that share the probability: the bytes and the document's end; 260 counts BLT's other special tokens.", _between(BYTES.bos + 1, BYTES.rows)),
    Field("model.cross_residual", 1, "times", "How often max_query pooling and the decoder's cross-attention add their input; 2 as in BLT's code.", _between(1, 2)),
    Field("model.encoder.ngrams", (), "bytes", "Sizes of the hashed n-grams whose embeddings are added to a byte's; BLT: (3, 4, 5, 6, 7, 8).", _sizes),
    Field("model.encoder.ngram_rows", 50_000, "rows", "Rows of the embedding table of one n-gram size and hash function.", _between(1, 2_000_000)),
    Field("model.encoder.ngram_functions", 1, "functions", "Hash functions per n-gram size.", _between(1, 11)),
    Field("model.encoder.layers", 1, "layers", "Byte encoder depth; 0 leaves the byte embedding.", _LAYERS),
    Field("model.encoder.window", 128, "bytes", "Bytes that one byte sees in a local layer of the encoder and the entropy head, itself included.", _BYTES),
    Field("model.encoder.heads", 4, "heads", "Attention heads of the encoder and the entropy head.", _HEADS),
    Field("model.entropy_head.layers", 2, "layers", "Layers between the encoder and the entropy head's logits (paper, app. B.3: 2).", _LAYERS),
    Field("model.entropy_head.weight", 1.0, "", "Weight of the entropy head's cross-entropy in the loss; 0 leaves it untrained.", _between(0.0, 1e3)),
    Field("model.entropy_head.stop_gradient", True, "", "Keep the entropy head's gradient out of the encoder.", _any),
    Field("model.entropy_model.layers", 0, "layers", "Depth of a separate, frozen byte model whose entropies the decisions read (BLT); 0: they read the entropy head's.", _LAYERS),
    Field("model.entropy_model.workdir", "", "", "Run whose weights the entropy model takes when training starts from random weights.", _folder, path=True),
    Field("model.entropy_model.d_byte", 256, "", "Width of the entropy model.", _WIDTH),
    Field("model.entropy_model.heads", 4, "heads", "Attention heads of the entropy model.", _HEADS),
    Field("model.entropy_model.window", 512, "bytes", "Bytes that one byte sees in a layer of the entropy model, itself included.", _BYTES),
    Field("model.entropy_model.ffn_multiplier", 8 / 3, "", "As model.ffn_multiplier.", _between(0.25, 16)),
    Field("model.entropy_model.rope_theta", 10000.0, "", "As model.rope_theta.", _ROPE),
    Field("model.entropy_model.norm_eps", 1e-6, "", "As model.norm_eps.", _between(0.0, 1.0)),
    Field("model.pooling.kind", "cross_attention", "", "Bytes of a patch to one vector: mean, cross_attention (the mean as query; paper, app. B.1), last, max_query (several queries from the maximum; BLT).", _one_of(*POOLINGS)),
    Field("model.pooling.queries", 2, "queries", "Queries of max_query pooling per slot (BLT's k); their results are joined.", _VECTORS),
    Field("model.pooling.last_state", True, "", "Add a projection of the slot's last byte state.", _any),
    Field("model.pooling.heads", 4, "heads", "Heads of the pooling cross-attention.", _HEADS),
    Field("model.trunk.kind", "transformer", "", "The global model over slots; none: encoder and decoder alone, a plain byte model such as BLT's entropy model.", _one_of(*TRUNKS)),
    Field("model.trunk.layers", 8, "layers", "Trunk depth.", _DEEP),
    Field("model.trunk.d_model", 512, "", "Trunk width.", _WIDTH),
    Field("model.trunk.heads", 8, "heads", "Trunk query heads.", _HEADS),
    Field("model.trunk.kv_heads", 0, "heads", "Trunk key and value heads; 0: as many as query heads.", _between(0, _MOST_HEADS)),
    Field("model.trunk.final_norm", True, "", "Normalise the trunk's result (BLT does not).", _any),
    Field("model.decoder.layers", 2, "layers", "Decoder depth; 0 goes from the joined state straight to the logits.", _LAYERS),
    Field("model.decoder.window", 128, "bytes", "Bytes that one byte sees in a decoder layer, itself included.", _BYTES),
    Field("model.decoder.heads", 4, "heads", "Attention heads of the decoder.", _HEADS),
    Field("model.decoder.injection", "add", "", "How the trunk's context joins the byte states: add (projected, at the input) or cross_attention (in every layer).", _one_of(*INJECTIONS)),
    Field("model.decoder.context_vectors", 2, "vectors", "Keys that one slot offers to the decoder's cross-attention (BLT's k).", _VECTORS),
    Field("patching.kind", "fixed", "", "Where patches end.", _one_of(*PATCHIFIERS)),
    Field("patching.patch_bytes", 16, "bytes", "Patch size of fixed; mean size of random; target mean size of the entropy patchifiers.", _BYTES),
    Field("patching.threshold", 1.335, "nats", "A patch ends where the entropy (or its jump) exceeds this; with gain > 0, where the controller starts.", _threshold),
    Field("patching.jump", 0.0, "nats", "Under entropy_and_jump, a patch also needs its entropy to rise by more than this.", _threshold),
    Field("patching.commit_bos", False, "", "A document's BOS is a patch of its own, and jumps count from its second byte (BLT); needs patching.capacity = 1.", _any),
    Field("patching.gain", 0.0, "log nats/byte", "Rate controller of the entropy patchifiers; 0: a fixed threshold.", _between(0.0, 1.0)),
    Field("patching.max_patch_bytes", 64, "bytes", "Longest patch that a patchifier of variable size asks for, and the bytes that pooling reads.", _BYTES),
    Field("patching.capacity", 0.0, "commits/byte", "Budget of commits; 0: what the kind needs.", _between(0.0, 1.0)),
    Field("trigger.kind", "entropy", "", "Where scratchpads refresh the context inside a patch.", _one_of(*TRIGGERS)),
    Field("trigger.threshold", 1.5, "nats", "A scratchpad fires where the entropy (or its jump) exceeds this; with gain > 0, where the controller starts.", _threshold),
    Field("trigger.stride", 4, "bytes", "Bytes of the open patch between scratchpads of the stride trigger.", _BYTES),
    Field("trigger.rate", 0.25, "scratchpads/byte", "Rate of the random trigger; target of the controller.", _between(0.0, 1.0)),
    Field("trigger.gain", 0.0, "log nats/byte", "Rate controller of the entropy triggers; 0: a fixed threshold.", _between(0.0, 1.0)),
    Field("trigger.capacity", 0.0, "scratchpads/byte", "Budget of scratchpads; 0: what the kind needs.", _between(0.0, 1.0)),
    Field("training.steps", 1000, "steps", "Optimizer steps. When a run resumes, they may change; a finished run goes on with more.", _STEPS, later=True),
    Field("training.batch_rows", 8, "rows", "Rows of one optimizer step, over all devices.", _between(1, _MOST_ROWS)),
    Field("training.accumulation", 1, "parts", "Parts that a step's rows are computed in, one after the other, to save memory; fewer where many devices share the rows.", _between(1, _MOST_ROWS)),
    Field("training.remat", "none", "", "What the backward pass recomputes: none, dots (all but matrix products), full.", _one_of(*REMATS)),
    Field("training.dtype", "float32", "", "Activations, and the numbers that matrix products multiply: float32 is never less, on TPUs and GPUs too. Parameters, logits, loss and log-sum-exps stay float32.", _one_of(*DTYPES)),
    Field("training.gradient_dtype", "float32", "", "In which gradients of matrices are summed over devices; bfloat16 sends half as much, and needs training.dtype = bfloat16.", _one_of(*DTYPES)),
    Field("training.eval_every", 200, "steps", "Steps between validations; 0: only at the end. A validation stores no checkpoint: see training.checkpoint_every.", _STEPS, free=True),
    Field("training.eval_bytes", 65536, "bytes", "Validation bytes read by a validation inside training.", _between(1, _MOST_BYTES)),
    Field("training.checkpoint_every", 200, "steps", "Steps between checkpoints; 0: only at the end.", _STEPS, free=True),
    Field("training.keep_last", 2, "checkpoints", "Newest checkpoints kept, beside the best of those whose step was validated.", _COUNT, free=True),
    Field("training.durable_dir", "", "", "Folder of this run alone, on storage that outlives the machine (a path or gs://...): every checkpoint is copied there in the background, and read from there where the workdir has none as new. Empty: none.", _folder, free=True, path=True),
    Field("training.durable_keep", 2, "checkpoints", "Newest checkpoints kept in training.durable_dir.", _COUNT, free=True),
    Field("training.init_from", "", "", "Run or exported folder whose weights a new run starts from; empty: random weights.", _folder, path=True),
    Field("training.continue_from", "", "", "RUN@STEP: a checkpoint of another run that a new run goes on from, with its moments, step and place in the data. What may change when a run resumes may differ; training.steps counts the other run's steps too. Empty: none.", _branch, path=True),
    Field("training.bad_steps", 10, "steps", "A step whose loss or gradient norm is not finite, or too far above its mean, changes nothing and is skipped; so many in a row stop the run.", _COUNT, free=True),
    Field("training.loss_spike", 0.0, "times", "A step whose loss is more than so many times the mean of the last hundred or so is skipped; 0: none is.", _spike, later=True),
    Field("training.norm_spike", 0.0, "times", "A step whose gradient norm is more than so many times the mean of the last hundred or so is skipped; 0: none is.", _spike, later=True),
    Field("training.allow_leak", False, "", "Train although the causality audit failed; every metric then says INVALID.", _any),
    Field("optimizer.learning_rate", 2e-3, "", "Peak learning rate of AdamW.", _between(0.0, 1e2), later=True),
    Field("optimizer.schedule", "cosine", "", "Learning rate after the warm-up: cosine (to the last step), wsd (the peak, then a linear decay over the last share of the steps), constant. As all of optimizer.*, it may change when a run resumes, from then on.", _one_of(*SCHEDULES), later=True),
    Field("optimizer.warmup_steps", 50, "steps", "Linear warm-up.", _STEPS, later=True),
    Field("optimizer.decay_share", 0.2, "", "Share of training.steps over which wsd decays.", _between(0.0, 1.0), later=True),
    Field("optimizer.final_ratio", 0.1, "", "Learning rate of the last step over the peak (cosine and wsd).", _between(0.0, 1.0), later=True),
    Field("optimizer.b1", 0.9, "", "AdamW's first moment decay.", _MOMENT, later=True),
    Field("optimizer.b2", 0.95, "", "AdamW's second moment decay.", _MOMENT, later=True),
    Field("optimizer.eps", 1e-8, "", "AdamW's epsilon.", _between(1e-30, 1.0), later=True),
    Field("optimizer.weight_decay", 0.1, "", "Decay of matrices; norms and embeddings have none.", _between(0.0, 1e2), later=True),
    Field("optimizer.clip_norm", 1.0, "", "Largest global gradient norm; 0: no limit.", _between(0.0, 1e9), later=True),
    Field("kernels.staircase", "auto", "", "What computes the trunk's attention: auto (by platform, shape and type; the log says which), xla (anywhere), splash (TPU), pallas (GPU).", _one_of(*BACKENDS), free=True),
    Field("kernels.window", "auto", "", "What computes the byte tiers' attention: as kernels.staircase.", _one_of(*BACKENDS), free=True),
    Field("mesh.slice", 1, "slices", "TPU slices, each a copy of the parameters. Of all mesh axes one may be -1: the devices that the others leave.", _size, free=True),
    Field("mesh.data", -1, "devices", "Data-parallel axis.", _size, free=True),
    Field("mesh.fsdp", 1, "devices", "Axis that shards parameters and batch rows; 8 to 32 on pods.", _size, free=True),
    Field("mesh.tensor", 1, "devices", "Axis that shards the trunk's heads and feed-forward width, and batch rows elsewhere.", _size, free=True),
    Field("mesh.sequence", 1, "devices", "Axis that shards the positions of long windows.", _size, free=True),
)


def default() -> ml_collections.ConfigDict:
    """A locked config with every default."""
    config = ml_collections.ConfigDict()
    for field in FIELDS:
        *sections, leaf = field.name.split(".")
        node = config
        for section in sections:
            if section not in node:
                node[section] = ml_collections.ConfigDict()
            node = node[section]
        node[leaf] = field.default
    return config.lock()


def get(config: ml_collections.ConfigDict, name: str) -> Any:
    """The value of a dotted field name."""
    for part in name.split("."):
        config = config[part]
    return config


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Dotted name to value, in the order of FIELDS; tuples become lists (as JSON has them)."""

    def plain(value):
        return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value

    return {f.name: plain(get(config, f.name)) for f in FIELDS}


def from_flat(values: dict[str, Any]) -> ml_collections.ConfigDict:
    """The inverse of `flat`; fields that `values` lacks keep their default."""
    config = default()
    for name, value in values.items():
        set_field(config, name, _tuples(value))
    return config


def read(path: str | Path) -> ml_collections.ConfigDict:
    """The config in the config.json of a run or an exported model, also of an older version, checked as `check` does.

    Raises:
      UserError: it is missing, cannot be read, is of a newer version, or holds unknown fields or bad values.
    """
    try:
        return document(path, Document)[0]
    except schema.Newer as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except (OSError, json_files.Malformed, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{path}: ")
        raise UserError(f"cannot read {path}: {reason}; restore it or train anew") from error


def document(path: str | Path, shape: Any) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
    """The checked config in a config.json of a shape (see `json_files`), also of an older version, and all that stands there.

    Raises:
      OSError, json_files.Malformed: it cannot be read. UserError: it is of a newer version, or holds unknown fields or bad values.
    """
    # Thresholds may be infinite.
    found = json_files.read(path, shape, constants=True)
    config = from_flat(schema.fields(found))
    check(config)
    return config, found


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, (tuple, list)) else value


def nearest(name: str) -> str:
    """The field whose dotted name is most like `name`."""
    return difflib.get_close_matches(name[:200], [f.name for f in FIELDS], n=1, cutoff=0.0)[0]


def set_field(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
    """Set a dotted field; a wrong name or type is a UserError that names the nearest right one."""
    field = next((f for f in FIELDS if f.name == name), None)
    if field is None:
        raise UserError(f"config has no field {shown(name)}; the nearest is {nearest(name)!r}")
    kind = type(field.default)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 1 << 1023 else math.inf if value > 0 else -math.inf
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    # ConfigDict itself takes None anywhere and a bool for a number.
    if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
        raise UserError(f"config field {name} takes a value of type {kind.__name__}, such as {field.default!r}, not {shown(value)}")
    *sections, leaf = name.split(".")
    for section in sections:
        config = config[section]
    config[leaf] = value


def check(config: ml_collections.ConfigDict) -> None:
    """Raise one UserError that names every bad field and the fix."""
    bad = []
    for field in FIELDS:
        value = get(config, field.name)
        if problem := field.check(value):
            bad.append(f"{field.name} = {shown(value)} {problem}")
    bad += [] if bad else _between_fields(config)
    if bad:
        raise UserError("config: " + "; ".join(bad))


def check_seed(seed: int) -> None:
    """Raise UserError unless a model can be drawn from the seed."""
    if problem := _SEED(seed):
        raise UserError(f"seed = {shown(seed)} {problem}")


def _between_fields(c) -> list[str]:
    bad = []
    if not c.data.sources:
        bad.append("data.sources is empty: name at least one (SPEC, weight)")
    for name, width, heads in (
        ("model.encoder.heads", c.model.d_byte, c.model.encoder.heads),
        ("model.decoder.heads", c.model.d_byte, c.model.decoder.heads),
        ("model.pooling.heads", c.model.d_byte, c.model.pooling.heads),
        ("model.trunk.heads", c.model.trunk.d_model, c.model.trunk.heads),
        ("model.entropy_model.heads", c.model.entropy_model.d_byte, c.model.entropy_model.heads),
    ):
        if width % heads or (width // heads) % 2:
            bad.append(f"{name} = {heads} must divide the width {width} into even head widths (RoPE turns pairs)")
    kv = c.model.trunk.kv_heads or c.model.trunk.heads
    if c.model.trunk.heads % kv:
        bad.append(f"model.trunk.kv_heads = {kv} must divide model.trunk.heads = {c.model.trunk.heads}")
    if c.model.decoder.injection == "cross_attention" and c.model.decoder.layers == 0:
        bad.append("model.decoder.injection = 'cross_attention' needs model.decoder.layers >= 1: use 'add'")
    rest = [f"mesh.{axis}" for axis, size in c.mesh.items() if size == -1]
    if len(rest) > 1:
        bad.append(f"{' and '.join(rest)} are both -1: only one axis can take the devices that the others leave")
    if c.training.init_from and c.training.continue_from:
        bad.append(
            f"training.init_from = {c.training.init_from!r} and training.continue_from = {c.training.continue_from!r} both say "
            "where the run starts: keep one (init_from takes the weights alone)"
        )
    if c.training.batch_rows % c.training.accumulation:
        bad.append(f"training.accumulation = {c.training.accumulation} must divide training.batch_rows = {c.training.batch_rows}")
    if c.training.batch_rows * c.data.window > _MOST_STEP_BYTES:
        bad.append(
            f"training.batch_rows = {c.training.batch_rows} rows of data.window = {c.data.window} bytes are more than the "
            f"{_MOST_STEP_BYTES} bytes that one step may read: lower one of them"
        )
    if c.training.gradient_dtype == "bfloat16" and c.training.dtype == "float32":
        bad.append("training.gradient_dtype = 'bfloat16' needs training.dtype = 'bfloat16': gradients of float32 activations are float32")
    for section in ("patching", "trigger"):
        s = c[section]
        if s.kind in ENTROPY_PATCHIFIERS and s.gain > 0 and s.threshold <= 0:
            bad.append(f"{section}.threshold = {s.threshold} must be above 0 under a controller (gain > 0)")
    if c.model.entropy_head.weight == 0 and c.model.entropy_model.layers == 0 and reads_entropy(c):
        bad.append(
            "model.entropy_head.weight = 0 leaves no entropy head, which the patchifier or trigger reads: "
            "raise it, or name a model.entropy_model"
        )
    if c.data.entropies and c.model.entropy_model.layers == 0:
        bad.append("data.entropies = True reads what a separate entropy model computed: name a model.entropy_model, or set it to False")
    if c.patching.commit_bos and commit_capacity(c) < 1:
        bad.append("patching.commit_bos needs patching.capacity = 1.0: a smaller budget cannot pay for a patch of one BOS")
    if c.patching.commit_bos and c.patching.kind == "fixed":
        bad.append("patching.commit_bos has no part in patching.kind = 'fixed', whose patches count from the BOS: set it False")
    if c.model.trunk.kind == "none":
        if c.trigger.kind != "none":
            bad.append("model.trunk.kind = 'none' runs no trunk that trigger.kind could refresh: set trigger.kind = 'none'")
        if c.model.entropy_head.weight > 0:
            bad.append("model.trunk.kind = 'none' has no use for an entropy head: set model.entropy_head.weight = 0")
        if c.model.entropy_model.layers > 0:
            bad.append("model.trunk.kind = 'none' makes no decisions that an entropy model could serve: set model.entropy_model.layers = 0")
        if c.model.decoder.injection != "add":
            bad.append("model.trunk.kind = 'none' gives the decoder no context to attend to: set model.decoder.injection = 'add'")
        return bad
    if patch_limit(c) > c.data.window:
        name = "patching.patch_bytes" if c.patching.kind == "fixed" else "patching.max_patch_bytes"
        bad.append(f"{name} = {patch_limit(c)} does not fit data.window = {c.data.window}: lower it")
    if commit_capacity(c) * c.data.window < 1:
        bad.append(f"patching.capacity allows no commit in data.window = {c.data.window}: raise one of them")
    return bad


def vocabulary(config) -> Vocabulary:
    """The token ids of the model: those of bytes."""
    return BYTES


def reads_entropy(config) -> bool:
    """Whether any decision needs the entropy head or the entropy model."""
    if config.model.trunk.kind == "none":
        return False
    kinds = ENTROPY_PATCHIFIERS
    return config.patching.kind in kinds or (config.patching.kind != "byte" and config.trigger.kind in kinds)


def entropy_model(config) -> ml_collections.ConfigDict:
    """The config of the separate entropy model: one that trains it alone has these model fields."""
    e, found = config.model.entropy_model, default()
    found.data.window, found.training.dtype, found.training.remat = config.data.window, config.training.dtype, "none"
    found.kernels.window = config.kernels.window
    m = found.model
    m.d_byte, m.ffn_multiplier, m.rope_theta, m.norm_eps = e.d_byte, e.ffn_multiplier, e.rope_theta, e.norm_eps
    m.encoder.layers, m.encoder.heads, m.encoder.window = e.layers, e.heads, e.window
    m.target_rows = config.model.target_rows
    m.entropy_head.weight, m.trunk.kind, m.decoder.layers = 0.0, "none", 0
    found.trigger.kind = "none"
    return found


def patch_limit(config) -> int:
    """Bytes of a patch that pooling reads: its length, or the last so many of a longer one."""
    kind = config.patching.kind
    if kind == "byte":
        return 1
    return config.patching.patch_bytes if kind == "fixed" else config.patching.max_patch_bytes


def commit_capacity(config) -> Fraction:
    """Commits per byte that a document may have made, as an exact fraction."""
    p = config.patching
    automatic = {
        "byte": Fraction(1),
        "fixed": Fraction(1, p.patch_bytes),
        "whitespace": Fraction(1, 3),
    }.get(p.kind, min(Fraction(3, 2 * p.patch_bytes), Fraction(1)))
    return _fraction(p.capacity) if p.capacity else automatic


def scratchpad_capacity(config) -> Fraction:
    """Scratchpads per byte that a document may have made, as an exact fraction."""
    t = config.trigger
    if t.kind == "none" or config.patching.kind == "byte":
        return Fraction(0)
    if t.capacity:
        return _fraction(t.capacity)
    return {
        "every": Fraction(1),
        "stride": Fraction(1, t.stride),
        "whitespace": Fraction(1, 3),
    }.get(t.kind, min(_fraction(t.rate) * Fraction(5, 4), Fraction(1)))


def _fraction(value: float) -> Fraction:
    return Fraction(value).limit_denominator(4096)


def slots(config, window: int | None = None) -> tuple[int, int]:
    """Static sizes (commits P, scratchpads S) of one row of `window` bytes, each shared evenly by mesh.sequence."""
    window = window or config.data.window
    if config.model.trunk.kind == "none":
        return 0, 0
    shared = lambda size: size + -size % max(config.mesh.sequence, 1)  # noqa: E731
    return shared(max(int(commit_capacity(config) * window), 1)), shared(int(scratchpad_capacity(config) * window))


def changed(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> list[str]:
    """Names of the fields that differ."""
    a, b = flat(old), flat(new)
    return [f.name for f in FIELDS if a[f.name] != b[f.name]]


def difference(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict, free: bool = False) -> list[str]:
    """Lines 'name: old -> new' of the fields that differ; what may change on resumption only when asked for."""
    a, b = flat(old), flat(new)
    left_out = {f.name for f in FIELDS if not free and (f.free or f.later or f.kept and f.kept(a[f.name]) == f.kept(b[f.name]))}
    return [f"{name}: {a[name]!r} -> {b[name]!r}" for name in changed(old, new) if name not in left_out]


def describe() -> str:
    """All fields as text, one a line, for --help and the README."""
    lines = []
    for f in FIELDS:
        unit = f" [{f.unit}]" if f.unit else ""
        lines.append(f"  {f.name} = {f.default!r}{unit}\n      {f.meaning}")
    return "\n".join(lines)
