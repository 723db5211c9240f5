"""Every field of a config, once: name, default, unit, check, meaning."""

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

from scratchpatch import output, places
from scratchpatch.vocabulary import BYTES

# What is wrong with a value, as the end of a sentence that begins with it; None where nothing is.
Check = Callable[[Any], str | None]


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      free: it may change when a run resumes: it moves work between machines, or says how often something is saved or
        measured, never what is computed.
      fixed_part: what of the value may not change when a run resumes; all else of it may, from then on.
      path: the value is a path, which a run keeps as an absolute one.
      later: it may change when a run resumes, from the step on at which it resumes.
    """

    name: str
    default: Any
    unit: str
    check: Check
    meaning: str
    free: bool = False
    fixed_part: Callable[[Any], Any] | None = None
    path: bool = False
    later: bool = False


ENTROPY_PATCHIFIERS = ("entropy", "entropy_jump", "entropy_and_jump")
PATCHIFIERS = ("byte", "fixed", "whitespace", "random", *ENTROPY_PATCHIFIERS, "learned")
# What a scratchpad is thought to save: guessed by a table or a head, or measured on the bytes that follow.
BENEFIT_TRIGGERS = ("score", "learned", "oracle")
TRIGGERS = ("none", "entropy", "entropy_jump", "stride", "whitespace", "random", "marks", "every", *BENEFIT_TRIGGERS)
# Kinds that hold a score against a threshold, by section.
SCORED = {"patching": ENTROPY_PATCHIFIERS, "trigger": ("entropy", "entropy_jump", *BENEFIT_TRIGGERS)}
LOCAL_KINDS = ("attention", "ssm")
TRUNKS = ("transformer", "ssm", "none")
POOLINGS = ("mean", "cross_attention", "last", "max_query", "concat", "gaussian")
# What a published system lets bytes read of their own future.
LEAKS = ("", "broadcast", "gaussian")
BACKENDS = ("auto", "xla", "splash", "pallas", "blocked")
REMAT = ("none", "dots", "ffn", "offload", "full")
_DTYPES = ("float32", "bfloat16")
# Bytes of a mark, and marks.
LONGEST_MARK, _MOST_MARKS = 3, 64
_LONGEST_PATH, _MOST_SOURCES, _MOST_STEPS = 4096, 4096, 10**9


def _check(right: Callable[[Any], bool], wrong: str) -> Check:
    return lambda value: None if right(value) else wrong


def _between(low: float, high: float) -> Check:
    return _check(lambda value: low <= value <= high, f"must lie between {low} and {high}")


def _one_of(*choices: str) -> Check:
    return _check(lambda value: value in choices, f"must be one of {', '.join(choices)}")


def _path(value: str) -> str | None:
    if "\0" in value:
        return "holds a NUL, which no path has"
    return None if len(value) <= _LONGEST_PATH else f"must have at most {_LONGEST_PATH} characters"


def _folder(value: str) -> str | None:
    return _path(value) or places.unstorable(value)


def _branch(value: str) -> str | None:
    workdir, at, step = value.rpartition("@")
    if value and not (workdir and step.isdecimal() and step.isascii() and len(step) <= len(str(_MOST_STEPS))):
        return "must be RUN@STEP, such as 'runs/first@2000'"
    return _folder(value)


def _sources(value: tuple) -> str | None:
    if len(value) > _MOST_SOURCES:
        return f"holds {len(value)} sources: at most {_MOST_SOURCES}; one SPEC may name many files"
    for pair in value:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            return "must hold (SPEC, weight) pairs, such as (('text:books/*.txt', 1.0),)"
        spec, weight = pair
        if not isinstance(spec, str) or not _is_weight(weight):
            return f"holds {output.short_repr(pair)}: wanted (SPEC, weight) with a weight above 0, and finite"
        if problem := _path(spec):
            return f"holds {output.short_repr(spec)}, which {problem}"
    if not _is_weight(sum(weight for _, weight in value) or 1):
        return "has weights whose sum is not finite"
    return None


def _marks(value: tuple) -> str | None:
    if not 1 <= len(value) <= _MOST_MARKS:
        return f"holds {len(value)} strings: wanted 1 to {_MOST_MARKS}, such as ('=', '# ')"
    for mark in value:
        if not isinstance(mark, str) or not 1 <= len(mark.encode(errors="surrogateescape")) <= LONGEST_MARK:
            return f"holds {output.short_repr(mark)}: wanted a string of 1 to {LONGEST_MARK} bytes"
    return None


def _texts(value: tuple) -> str | None:
    if len(value) > _MOST_SOURCES:
        return f"holds {len(value)} texts: at most {_MOST_SOURCES}"
    for text in value:
        if not isinstance(text, str):
            return f"holds {output.short_repr(text)}: wanted texts, such as ('bpb:books/*.txt',)"
        if problem := _path(text):
            return f"holds {output.short_repr(text)}, which {problem}"
    return None


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


_ANY = _check(lambda value: True, "")
# Beyond these nothing sensible exists today, with room to spare: they keep a slip of the keyboard, or a damaged file,
# from hanging a run or filling the memory.
_LAYERS = _between(0, 1024)
_WIDTH = _between(2, 1 << 16)
_HEADS = _between(1, 1024)
_VECTORS = _between(1, 256)
_BYTES = _between(1, 1 << 18)
_ROWS = _between(1, 1 << 20)
_STEPS = _between(0, _MOST_STEPS)
_COUNT = _between(1, _MOST_STEPS)
_SHARE = _between(0.0, 1.0)
# From 1 - 2**-24 on it would be 1 in float32, and the moment's correction 0 / 0.
_MOMENT = _between(0.0, 0.999999)
_SIZE = _check(lambda value: value == -1 or 1 <= value <= 1 << 20,
    f"must be at least 1 and at most {1 << 20}, or -1 for the devices that the other axes leave")
# A tokenizer has the 256 bytes at least.
_TOKENS = _check(lambda value: value == 0 or 256 <= value <= 1 << 20,
    f"must lie between 256 and {1 << 20}, or be 0 for bytes")
_SPIKE = _check(lambda value: value == 0 or 1 < value <= 1e6,
    "must be above 1 and at most 1000000.0, such as 3.0, or 0 for no limit")
_THRESHOLD = _check(lambda value: abs(value) <= 1e30 or math.isinf(value),
    "must lie between -1e+30 and 1e+30, or be inf for never, or -inf for always")
_NGRAM_SIZES = _check(lambda value: len(value) <= 15 and all(type(n) is int and 2 <= n <= 16 for n in value),
    "must hold at most 15 whole numbers from 2 to 16, such as (3, 4, 5)")

FIELDS = (
    # Seeds are JAX's uint32.
    Field("seed", 0, "", _between(0, 2**32 - 1), "Seed of initialisation, of the data order and of nothing else."),
    Field("data.sources", (("stdlib:code", 1.0), ("stdlib:prose", 1.0)), "", _sources, "(SPEC, weight) pairs; weights "
        "are shares of the windows. SPEC: stdlib:code, stdlib:prose, text:GLOB, jsonl:GLOB[#field], "
        "parquet:GLOB[#column], array_record:GLOB, tfds:NAME[@split][#field], hf:DIR[@split][#field], prepared:DIR. "
        "When a run resumes, the weights may change, from then on.",
        fixed_part=lambda value: [spec for spec, _ in value]),
    Field("data.validation_sources", (), "", _sources,
        "(SPEC, weight) pairs to validate on, whole; empty: a held-out split of data.sources."),
    Field("data.held_out", 0.025, "share", _between(0.0, 0.4), "Documents of a source that validate, and as many that "
        "test, by a hash of their bytes. The standard library holds out 0.05 of its files, a prepared folder what it "
        "was prepared with, and the only document of a source is cut: its last 0.05 test, the 0.05 before validate."),
    Field("data.tokenizer", "", "", _folder, "File of the `tokenizers` library (byte-level BPE) by which the model "
        "reads tokens instead of bytes; `scratchpatch tokenizer` learns one. A run keeps its own copy. Rows, windows "
        "and patches then count tokens where these fields say bytes. Empty: bytes.", free=True, path=True),
    Field("data.vocabulary", 0, "tokens", _TOKENS, "Tokens of data.tokenizer; 0: bytes."),
    Field("data.window", 1024, "bytes", _between(8, 1 << 18), "Length of one row of the stream."),
    Field("data.entropies", False, "", _ANY,
        "Read the entropies that `scratchpatch entropies` computed instead of running the entropy model inside the "
        "train step. They see text before the row, so near a row's start they may differ from the step's own."),
    Field("data.on_bad_record", "error", "", _one_of("error", "skip"),
        "A record that cannot be read: error names it and stops before training; skip counts and reports it."),
    Field("data.record_bytes", 1 << 26, "bytes", _between(1, 1 << 40), "The most that one record may hold: a line of "
        "JSON, a row, a record or an example; and what a compressed text file may unpack to, unless that is less than "
        "100 times its size. A larger one is a bad record. Plain text files may have any size.", free=True),
    Field("data.cache_dir", "", "", _path,
        "Folder of the stream indexes; empty: $SCRATCHPATCH_CACHE, else ~/.cache/scratchpatch.", free=True, path=True),
    Field("data.threads", 1, "threads", _between(1, 512), "Threads that read batches ahead of the loop.", free=True),
    Field("data.prefetch", 4, "batches", _between(1, 1024), "Batches held ready for the loop.", free=True),
    Field("model.d_byte", 256, "", _WIDTH, "Width of the byte states (encoder, entropy head, decoder)."),
    Field("model.ffn_multiplier", 8 / 3, "", _between(0.25, 16),
        "Width of a SwiGLU block over the model width, rounded up to a multiple of 16."),
    Field("model.rope_theta", 10000.0, "", _between(1.0, 1e12), "Base of the rotary position embedding."),
    Field("model.norm_eps", 1e-6, "", _between(0.0, 1.0), "Added to the mean square in every RMSNorm."),
    Field("model.target_rows", BYTES.bos + 1, "rows", _between(BYTES.bos + 1, BYTES.rows), "Rows of the logits that "
        "share the probability: the bytes and the document's end; 260 counts BLT's other special tokens."),
    Field("model.cross_residual", 1, "times", _between(1, 2),
        "How often max_query pooling and the decoder's cross-attention add their input; 2 as in BLT's code."),
    Field("model.encoder.ngrams", (), "bytes", _NGRAM_SIZES,
        "Sizes of the hashed n-grams whose embeddings are added to a byte's; BLT: (3, 4, 5, 6, 7, 8)."),
    Field("model.encoder.ngram_rows", 50_000, "rows", _between(1, 2_000_000),
        "Rows of the embedding table of one n-gram size and hash function."),
    Field("model.encoder.ngram_functions", 1, "functions", _between(1, 11), "Hash functions per n-gram size."),
    Field("model.encoder.kind", "attention", "", _one_of(*LOCAL_KINDS), "The encoder's layers: attention to a window, "
        "or ssm, a diagonal recurrence over the document. The entropy head and the entropy model always attend."),
    Field("model.encoder.layers", 1, "layers", _LAYERS, "Byte encoder depth; 0 leaves the byte embedding."),
    Field("model.encoder.window", 128, "bytes", _BYTES,
        "Bytes that one byte sees in a local layer of the encoder and the entropy head, itself included."),
    Field("model.encoder.heads", 4, "heads", _HEADS, "Attention heads of the encoder and the entropy head."),
    Field("model.entropy_head.layers", 2, "layers", _LAYERS,
        "Layers between the encoder and the entropy head's logits (paper, app. B.3: 2)."),
    Field("model.entropy_head.weight", 1.0, "", _between(0.0, 1e3),
        "Weight of the entropy head's cross-entropy in the loss; 0 leaves it untrained."),
    Field("model.entropy_head.stop_gradient", True, "", _ANY, "Keep the entropy head's gradient out of the encoder."),
    Field("model.entropy_model.layers", 0, "layers", _LAYERS, "Depth of a separate, frozen byte model whose entropies "
        "the decisions read (BLT); 0: they read the entropy head's."),
    Field("model.entropy_model.workdir", "", "", _folder,
        "Run whose weights the entropy model takes when training starts from random weights.", path=True),
    Field("model.entropy_model.d_byte", 256, "", _WIDTH, "Width of the entropy model."),
    Field("model.entropy_model.heads", 4, "heads", _HEADS, "Attention heads of the entropy model."),
    Field("model.entropy_model.window", 512, "bytes", _BYTES,
        "Bytes that one byte sees in a layer of the entropy model, itself included."),
    Field("model.entropy_model.ffn_multiplier", 8 / 3, "", _between(0.25, 16), "As model.ffn_multiplier."),
    Field("model.entropy_model.rope_theta", 10000.0, "", _between(1.0, 1e12), "As model.rope_theta."),
    Field("model.entropy_model.norm_eps", 1e-6, "", _between(0.0, 1.0), "As model.norm_eps."),
    Field("model.benefit.width", 0, "", _between(0, 1 << 16), "Hidden width of a head that learns, while the model "
        "trains, what a scratchpad at each byte would save (trigger.kind = learned); 0: none."),
    Field("model.benefit.table", False, "", _ANY,
        "Learn, while the model trains, what a fresh context saves after each pair of bytes (trigger.kind = score)."),
    Field("model.benefit.horizon", 4, "bytes", _between(1, 256),
        "Bytes after a scratchpad over which what it saves is counted, at most to the patch's end."),
    Field("model.benefit.share", 0.125, "", _between(1 / 1024, 1.0), "Share of the rows on which it is measured, by "
        "two forward passes more; at least one row of a part."),
    Field("model.smoothing", False, "", _ANY, "Mix the context of a learned patch with those before it, by the "
        "router's probability of its boundary (H-Net)."),
    Field("model.pooling.kind", "cross_attention", "", _one_of(*POOLINGS),
        "Bytes of a patch to one vector: mean, cross_attention (the mean as query; paper, app. B.1), last, max_query "
        "(several queries from the maximum; BLT), concat (one behind the other; MegaByte; its matrix grows with the "
        "longest patch), gaussian (a mean whose weights fall from the patch's middle, as far as is learnt)."),
    Field("model.pooling.queries", 2, "queries", _VECTORS,
        "Queries of max_query pooling per slot (BLT's k); their results are joined."),
    Field("model.pooling.last_state", True, "", _ANY, "Add a projection of the slot's last byte state."),
    Field("model.pooling.heads", 4, "heads", _HEADS, "Heads of the pooling cross-attention."),
    Field("model.ssm.state", 4, "numbers", _VECTORS, "Numbers that a channel of a state-space layer keeps of the past "
        "(kind = ssm of encoder, trunk and decoder)."),
    Field("model.ssm.complex", True, "", _ANY, "These numbers are complex, so that what is kept turns as it decays."),
    Field("model.ssm.selective", False, "", _ANY,
        "How far a position moves the state, and so how much it keeps, depends on its input (Mamba)."),
    Field("model.trunk.kind", "transformer", "", _one_of(*TRUNKS), "The global model over slots; ssm: a diagonal "
        "recurrence, whose state the commits make, in attention's place; none: encoder and decoder alone, a plain byte "
        "model such as BLT's entropy model."),
    Field("model.trunk.layers", 8, "layers", _between(1, 1024), "Trunk depth."),
    Field("model.trunk.d_model", 512, "", _WIDTH, "Trunk width."),
    Field("model.trunk.heads", 8, "heads", _HEADS, "Trunk query heads."),
    Field("model.trunk.kv_heads", 0, "heads", _between(0, 1024),
        "Trunk key and value heads; 0: as many as query heads."),
    Field("model.trunk.final_norm", True, "", _ANY, "Normalise the trunk's result (BLT does not)."),
    Field("model.decoder.kind", "attention", "", _one_of(*LOCAL_KINDS), "The decoder's layers, as the encoder's."),
    Field("model.decoder.layers", 2, "layers", _LAYERS,
        "Decoder depth; 0 goes from the joined state straight to the logits."),
    Field("model.decoder.window", 128, "bytes", _BYTES,
        "Bytes that one byte sees in a decoder layer, itself included."),
    Field("model.decoder.heads", 4, "heads", _HEADS, "Attention heads of the decoder."),
    Field("model.decoder.scope", "document", "", _one_of("document", "patch"),
        "How far the decoder's windows reach: to the document's start, or to the latest commit (MegaByte)."),
    Field("model.decoder.injection", "add", "", _one_of("add", "at_slot", "cross_attention"), "How the trunk's context "
        "joins the byte states: add (projected, at the input of every byte), at_slot (at the slot's own byte alone; "
        "SpaceByte) or cross_attention (in every layer)."),
    Field("model.decoder.residual", "identity", "", _one_of("identity", "projected"), "How byte states join what "
        "injection adds: as they are, or by a projection that is all zeros at first, in float32 (H-Net)."),
    Field("model.decoder.context_vectors", 2, "vectors", _VECTORS,
        "Keys that one slot offers to the decoder's cross-attention (BLT's k)."),
    Field("model.leak", "", "", _one_of(*LEAKS), "Bytes that each byte reads although they follow it, to show what a "
        "leak is worth: broadcast, its own patch to the end; gaussian, with the bytes of the next patch, too. The "
        "audit refuses such a model, and nothing can continue text with it. Empty: none."),
    Field("patching.kind", "fixed", "", _one_of(*PATCHIFIERS), "Where patches end; learned: where a router that trains "
        "with the model asks (H-Net)."),
    Field("patching.patch_bytes", 16, "bytes", _BYTES,
        "Patch size of fixed; mean size of random; target mean size of the entropy patchifiers and of learned."),
    Field("patching.ratio_weight", 0.03, "", _between(0.0, 1e3), "Under learned, weight in the loss of the ratio loss, "
        "which draws each document to patches of patching.patch_bytes on average (H-Net)."),
    Field("patching.curriculum_steps", 0, "steps", _STEPS, "Under learned, steps in which the target of the ratio loss "
        "moves along a line from patching.curriculum_from to patching.patch_bytes; 0: it stands there from the first."),
    Field("patching.curriculum_from", 2.0, "bytes", _between(1.01, 1 << 18), "See patching.curriculum_steps."),
    Field("patching.threshold", 1.335, "nats", _THRESHOLD,
        "A patch ends where the entropy (or its jump) exceeds this; with gain > 0, where the controller starts."),
    Field("patching.jump", 0.0, "nats", _THRESHOLD,
        "Under entropy_and_jump, a patch also needs its entropy to rise by more than this."),
    Field("patching.commit_bos", False, "", _ANY, "A document's BOS is a patch of its own, and jumps count from "
        "its second byte (BLT); needs patching.capacity = 1."),
    Field("patching.gain", 0.0, "log nats/byte", _between(0.0, 1.0),
        "Rate controller of the entropy patchifiers; 0: a fixed threshold."),
    Field("patching.max_patch_bytes", 64, "bytes", _BYTES,
        "Longest patch that a patchifier of variable size asks for, and the bytes that pooling reads; learned patches "
        "end where the router asks alone, and of a longer one the last so many bytes are read."),
    Field("patching.capacity", 0.0, "commits/byte", _SHARE, "Budget of commits; 0: what the kind needs, of learned "
        "twice the highest target rate. Below 1 it cannot pay for a boundary at a document's first byte."),
    Field("patching.whole_characters", False, "", _ANY, "Patches end where a UTF-8 character is complete alone: an end "
        "that is asked for inside one waits for its last byte."),
    Field("trigger.kind", "entropy", "", _one_of(*TRIGGERS), "Where scratchpads refresh the context inside a patch."),
    Field("trigger.threshold", 1.5, "nats", _THRESHOLD, "A scratchpad fires where the entropy (or its jump) exceeds "
        "this; under score and learned exp(x / 2), x being deviations above the mean, and under oracle nats; with "
        "gain > 0, where the controller starts."),
    Field("trigger.dependence", 1.0, "", _between(-1e3, 1e3), "Under score, the weight of the table's benefit beside "
        "the entropy, both in deviations from their means."),
    Field("trigger.stride", 4, "bytes", _BYTES, "Bytes of the open patch between scratchpads of the stride trigger."),
    Field("trigger.marks", ("=", "# ", ">>"), "", _marks, "Strings of at most 3 bytes after which the marks trigger "
        "fires: what announces a value that must be computed or looked up."),
    Field("trigger.rate", 0.25, "scratchpads/byte", _SHARE, "Rate of the random trigger; target of the controller."),
    Field("trigger.gain", 0.0, "log nats/byte", _between(0.0, 1.0),
        "Rate controller of the entropy triggers; 0: a fixed threshold."),
    Field("trigger.capacity", 0.0, "scratchpads/byte", _SHARE, "Budget of scratchpads; 0: what the kind needs."),
    Field("trigger.whole_characters", False, "", _ANY, "Scratchpads fire where a UTF-8 character is complete alone: "
        "one that is asked for inside a character waits for its last byte."),
    Field("training.steps", 1000, "steps", _STEPS,
        "Optimizer steps. When a run resumes, they may change; a finished run goes on with more.", later=True),
    Field("training.batch_rows", 8, "rows", _ROWS, "Rows of one optimizer step, over all devices."),
    Field("training.accumulation", 1, "parts", _ROWS, "Parts that a step's rows are computed in, one after the other, "
        "to save memory; fewer where many devices share the rows."),
    Field("training.remat", "none", "", _one_of(*REMAT),
        "What the backward pass computes again: none; dots: norms and activations, no matrix product and no attention; "
        "ffn: also products of the feed-forward blocks; full: all. offload: as ffn, and what is kept lies in the "
        "memory of the host (TPUs and GPUs). scratchpatch plan compares them."),
    Field("training.dtype", "float32", "", _one_of(*_DTYPES),
        "Activations, and the numbers that matrix products multiply: float32 is never less, on TPUs and GPUs too. "
        "Parameters, logits, loss and log-sum-exps stay float32."),
    Field("training.gradient_dtype", "float32", "", _one_of(*_DTYPES), "In which gradients of matrices are summed over "
        "devices; bfloat16 sends half as much, and needs training.dtype = bfloat16."),
    Field("training.eval_every", 200, "steps", _STEPS, "Steps between validations; 0: only at the end. A validation "
        "stores no checkpoint: see training.checkpoint_every.", free=True),
    Field("training.eval_bytes", 65536, "bytes", _between(1, 1 << 50),
        "Validation bytes read by a validation inside training."),
    Field("training.checkpoint_every", 200, "steps", _STEPS,
        "Steps between checkpoints; 0: only at the end.", free=True),
    Field("training.keep_last", 2, "checkpoints", _COUNT,
        "Newest checkpoints kept, beside the best of those whose step was validated.", free=True),
    Field("training.durable_dir", "", "", _folder, "Folder of this run alone, on storage that outlives the machine (a "
        "path or gs://...): every checkpoint is copied there in the background, and read from there where the workdir "
        "has none as new. Empty: none.", free=True, path=True),
    Field("training.durable_keep", 2, "checkpoints", _COUNT,
        "Newest checkpoints kept in training.durable_dir.", free=True),
    Field("training.init_from", "", "", _folder,
        "Run or exported folder whose weights a new run starts from; empty: random weights.", path=True),
    Field("training.continue_from", "", "", _branch, "RUN@STEP: a checkpoint of another run that a new run goes on "
        "from, with its moments, step and place in the data. What may change when a run resumes may differ; "
        "training.steps counts the other run's steps too. Empty: none.", path=True),
    Field("training.bad_steps", 10, "steps", _COUNT, "A step whose loss or gradient norm is not finite, or too far "
        "above its mean, changes nothing and is skipped; so many in a row stop the run.", free=True),
    Field("training.loss_spike", 0.0, "times", _SPIKE, "A step whose loss is more than so many times the mean of the "
        "last hundred or so is skipped; 0: none is.", later=True),
    Field("training.norm_spike", 0.0, "times", _SPIKE, "A step whose gradient norm is more than so many times the mean "
        "of the last hundred or so is skipped; 0: none is.", later=True),
    Field("training.allow_leak", False, "", _ANY,
        "Train although the causality audit failed; every metric then says INVALID."),
    Field("optimizer.learning_rate", 2e-3, "", _between(0.0, 1e2), "Peak learning rate of AdamW.", later=True),
    Field("optimizer.encoder_scale", 1.0, "times", _between(0.0, 1e3), "Learning rate of the encoder, its heads and "
        "the router over optimizer.learning_rate: a factor on AdamW's whole update.", later=True),
    Field("optimizer.trunk_scale", 1.0, "times", _between(0.0, 1e3), "The same of pooling and trunk.", later=True),
    Field("optimizer.decoder_scale", 1.0, "times", _between(0.0, 1e3), "The same of the decoder with its logits.",
        later=True),
    Field("optimizer.schedule", "cosine", "", _one_of("cosine", "wsd", "constant"), "Learning rate after the warm-up: "
        "cosine (to the last step), wsd (the peak, then a linear decay over the last share of the steps), constant. As "
        "all of optimizer.*, it may change when a run resumes, from then on.", later=True),
    Field("optimizer.warmup_steps", 50, "steps", _STEPS, "Linear warm-up.", later=True),
    Field("optimizer.decay_share", 0.2, "", _SHARE, "Share of training.steps over which wsd decays.", later=True),
    Field("optimizer.final_ratio", 0.1, "", _SHARE,
        "Learning rate of the last step over the peak (cosine and wsd).", later=True),
    Field("optimizer.b1", 0.9, "", _MOMENT, "AdamW's first moment decay.", later=True),
    Field("optimizer.b2", 0.95, "", _MOMENT, "AdamW's second moment decay.", later=True),
    Field("optimizer.eps", 1e-8, "", _between(1e-30, 1.0), "AdamW's epsilon.", later=True),
    Field("optimizer.weight_decay", 0.1, "", _between(0.0, 1e2),
        "Decay of matrices; norms and embeddings have none.", later=True),
    Field("optimizer.clip_norm", 1.0, "", _between(0.0, 1e9), "Largest global gradient norm; 0: no limit.", later=True),
    Field("evaluation.tasks", (), "", _texts, "Tasks that are measured while training goes on, NAME[:SOURCE] each, as "
        "--task of eval has them; `scratchpatch eval --task=list` tells which there are. One that fails is reported "
        "once, and left out.", free=True),
    Field("evaluation.options", (), "", _texts,
        "Options of these tasks, NAME.FIELD=VALUE each, as --option of eval has them.", free=True),
    Field("evaluation.every", 0, "steps", _STEPS,
        "Steps between measurements of the tasks, the last step always among them; 0: never.", free=True),
    Field("evaluation.limit", 200, "items", _STEPS,
        "The most items of each task, evenly spaced over all that it has; 0: all.", free=True),
    Field("kernels.staircase", "auto", "", _one_of(*BACKENDS), "What computes the trunk's attention: auto (by "
        "platform, shape and type; the log says which), xla (anywhere), splash (TPU), pallas (GPU), blocked (CPU).",
        free=True),
    Field("kernels.window", "auto", "", _one_of(*BACKENDS),
        "What computes the byte tiers' attention: as kernels.staircase.", free=True),
    Field("mesh.slice", 1, "slices", _SIZE, "TPU slices, each a copy of the parameters. Of all mesh axes one may be "
        "-1: the devices that the others leave.", free=True),
    Field("mesh.data", -1, "devices", _SIZE, "Data-parallel axis.", free=True),
    Field("mesh.fsdp", 1, "devices", _SIZE, "Axis that shards parameters and batch rows; 8 to 32 on pods.", free=True),
    Field("mesh.tensor", 1, "devices", _SIZE,
        "Axis that shards the trunk's heads and feed-forward width, and batch rows elsewhere.", free=True),
    Field("mesh.sequence", 1, "devices", _SIZE, "Axis that shards the positions of long windows.", free=True),
)
BY_NAME = {field.name: field for field in FIELDS}
