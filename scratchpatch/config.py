"""A config: every field of an experiment, read, checked and compared, and what follows from the fields.

`default()` gives a locked `ml_collections.ConfigDict`; an experiment file changes what it must and returns it from
`get_config()`. `check()` names every bad field of a config together, with the fix. The fields are in `config_fields`.
"""

import difflib
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import ml_collections

from scratchpatch import output
from scratchpatch.config_fields import BY_NAME, ENTROPY_PATCHIFIERS, FIELDS, SCORED
from scratchpatch.errors import UserError
from scratchpatch.vocabulary import BYTES, Vocabulary, of_tokens

_MOST_STEP_BYTES = 1 << 31
# Bytes of a UTF-8 character at most.
LONGEST_CHARACTER = 4


def default() -> ml_collections.ConfigDict:
    """A locked config with every default."""
    tree: dict[str, Any] = {}
    for field in FIELDS:
        *sections, leaf = field.name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = field.default
    return ml_collections.ConfigDict(tree).lock()


def get(config: ml_collections.ConfigDict, name: str) -> Any:
    """The value of a dotted field name."""
    for part in name.split("."):
        config = config[part]
    return config


def set_field(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
    """Set a dotted field. Raises UserError on a wrong name or type, which names the nearest right one."""
    field = BY_NAME.get(name)
    if field is None:
        raise UserError(f"config has no field {output.short_repr(name)}; the nearest is {nearest(name)!r}")
    kind = type(field.default)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 1 << 1023 else math.inf if value > 0 else -math.inf
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    # ConfigDict itself takes None anywhere and a bool for a number.
    if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
        wanted = f"a value of type {kind.__name__}, such as {field.default!r}"
        raise UserError(f"config field {name} takes {wanted}, not {output.short_repr(value)}")
    section, _, leaf = name.rpartition(".")
    (get(config, section) if section else config)[leaf] = value


def nearest(name: str) -> str:
    """The field whose dotted name is most like `name`."""
    return difflib.get_close_matches(name[:200], list(BY_NAME), n=1, cutoff=0.0)[0]


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Dotted name to value, in the order of FIELDS; tuples become lists (as JSON has them)."""
    return {name: _with_sequences(list, get(config, name)) for name in BY_NAME}


def from_flat(values: dict[str, Any]) -> ml_collections.ConfigDict:
    """The inverse of `flat`; fields that `values` lacks keep their default."""
    config = default()
    for name, value in values.items():
        set_field(config, name, _with_sequences(tuple, value))
    return config


def _with_sequences(kind: type, value: Any) -> Any:
    return kind(_with_sequences(kind, item) for item in value) if isinstance(value, (tuple, list)) else value


def check(config: ml_collections.ConfigDict) -> None:
    """Raise one UserError that names every bad field and the fix."""
    values = {name: get(config, name) for name in BY_NAME}
    wrong = {name: problem for name, value in values.items() if (problem := BY_NAME[name].check(value))}
    problems = [f"{name} = {output.short_repr(values[name])} {problem}" for name, problem in wrong.items()]
    # Fields are compared with each other only where each is right in itself.
    problems = problems or list(_conflicts(config))
    if problems:
        raise UserError("config: " + "; ".join(problems))


def check_seed(seed: int) -> None:
    """Raise UserError unless a model can be drawn from the seed."""
    if problem := BY_NAME["seed"].check(seed):
        raise UserError(f"seed = {output.short_repr(seed)} {problem}")


def _conflicts(config: ml_collections.ConfigDict) -> Iterator[str]:
    """What is wrong between the fields, and the fix."""
    model, training, patching = config.model, config.training, config.patching
    if not config.data.sources:
        yield "data.sources is empty: name at least one (SPEC, weight)"
    widths = dict.fromkeys(("encoder", "decoder", "pooling"), model.d_byte)
    widths |= {"entropy_model": model.entropy_model.d_byte}
    if model.trunk.kind != "ssm":
        widths["trunk"] = model.trunk.d_model
    for section, width in widths.items():
        heads = model[section].heads
        if width % heads or (width // heads) % 2:
            name = f"model.{section}.heads"
            yield f"{name} = {heads} must divide the width {width} into even head widths (RoPE turns pairs)"
    kv_heads = model.trunk.kv_heads or model.trunk.heads
    if model.trunk.heads % kv_heads:
        yield f"model.trunk.kv_heads = {kv_heads} must divide model.trunk.heads = {model.trunk.heads}"
    yield from _conflicts_of_states(config)
    if model.leak:
        yield from _conflicts_of_leaks(config)
    if model.decoder.injection == "cross_attention" and model.decoder.layers == 0:
        yield "model.decoder.injection = 'cross_attention' needs model.decoder.layers >= 1: use 'add'"
    rest = [f"mesh.{axis}" for axis, size in config.mesh.items() if size == -1]
    if len(rest) > 1:
        yield f"{' and '.join(rest)} are both -1: only one axis can take the devices that the others leave"
    if training.init_from and training.continue_from:
        starts = f"training.init_from = {training.init_from!r} and training.continue_from = {training.continue_from!r}"
        yield f"{starts} both say where the run starts: keep one (init_from takes the weights alone)"
    rows, parts = training.batch_rows, training.accumulation
    if rows % parts:
        yield f"training.accumulation = {parts} must divide training.batch_rows = {rows}"
    if rows * config.data.window > _MOST_STEP_BYTES:
        read = f"training.batch_rows = {rows} rows of data.window = {config.data.window} bytes"
        yield f"{read} are more than the {_MOST_STEP_BYTES} bytes that one step may read: lower one of them"
    if training.gradient_dtype == "bfloat16" and training.dtype == "float32":
        needs = "training.gradient_dtype = 'bfloat16' needs training.dtype = 'bfloat16'"
        yield f"{needs}: gradients of float32 activations are float32"
    for section in ("patching", "trigger"):
        s = config[section]
        if s.kind in SCORED[section] and s.gain > 0 and s.threshold <= 0:
            yield f"{section}.threshold = {s.threshold} must be above 0 under a controller (gain > 0)"
    if model.entropy_head.weight == 0 and model.entropy_model.layers == 0 and reads_entropy(config):
        missing = "leaves no entropy head, which the patchifier or trigger reads"
        yield f"model.entropy_head.weight = 0 {missing}: raise it, or name a model.entropy_model"
    learns = model.benefit.width > 0 or model.benefit.table
    if learns and model.entropy_head.weight == 0 and model.entropy_model.layers == 0 and not reads_entropy(config):
        yield "model.benefit reads entropies, and model.entropy_head.weight = 0 leaves none: raise it"
    if config.trigger.kind == "learned" and not model.benefit.width:
        yield "trigger.kind = 'learned' reads a head that this model lacks: set model.benefit.width, such as 32"
    if config.trigger.kind == "score" and not model.benefit.table:
        yield "trigger.kind = 'score' reads a table that this model lacks: set model.benefit.table = True"
    if config.data.entropies and model.entropy_model.layers == 0:
        reads = "data.entropies = True reads what a separate entropy model computed"
        yield f"{reads}: name a model.entropy_model, or set it to False"
    if config.data.tokenizer or config.data.vocabulary:
        yield from _conflicts_of_tokens(config)
    if patching.commit_bos and commit_capacity(config) < 1:
        yield "patching.commit_bos needs patching.capacity = 1.0: a smaller budget cannot pay for a patch of one BOS"
    if patching.commit_bos and patching.kind == "fixed":
        without = "patching.commit_bos has no part in patching.kind = 'fixed'"
        yield f"{without}, whose patches count from the BOS: set it False"
    if model.decoder.residual == "projected" and model.decoder.injection == "cross_attention":
        yield "model.decoder.residual = 'projected' joins what injection adds: use model.decoder.injection = 'add'"
    yield from _conflicts_with_a_router(config)
    if model.trunk.kind == "none":
        yield from _conflicts_without_trunk(config)
        return
    if patch_limit(config) > config.data.window:
        name = "patching.patch_bytes" if patching.kind == "fixed" else "patching.max_patch_bytes"
        yield f"{name} = {patch_limit(config)} does not fit data.window = {config.data.window}: lower it"
    if commit_capacity(config) * config.data.window < 1:
        yield f"patching.capacity allows no commit in data.window = {config.data.window}: raise one of them"


def _conflicts_with_a_router(config: ml_collections.ConfigDict) -> Iterator[str]:
    patching, learned = config.patching, "patching.kind = 'learned'"
    if patching.kind != "learned":
        if config.model.smoothing:
            yield f"model.smoothing = True mixes by a router's probabilities: set {learned}, or it to False"
        if patching.curriculum_steps:
            yield f"patching.curriculum_steps = {patching.curriculum_steps} moves the target of a router: set {learned}"
        return
    if config.model.encoder.layers == 0:
        yield f"{learned} compares the encoder's states, and there are 0 encoder layers: set model.encoder.layers = 1"
    if patching.patch_bytes < 2:
        size = patching.patch_bytes
        yield f"{learned} needs patching.patch_bytes >= 2, not {size}: patches of 1 byte are kind 'byte'"
    if patching.commit_bos:
        yield f"{learned} asks at a document's first byte by itself: set patching.commit_bos = False"


def _conflicts_of_states(config: ml_collections.ConfigDict) -> Iterator[str]:
    """What state-space layers have no use for, and what other models have no use for."""
    model, kernels = config.model, config.kernels
    kinds = {f"model.{tier}.kind": model[tier].kind for tier in ("encoder", "decoder", "trunk")}
    if "ssm" not in kinds.values():
        for name in ("model.ssm.state", "model.ssm.complex", "model.ssm.selective"):
            if get(config, name) != BY_NAME[name].default:
                yield f"{name} = {get(config, name)} has no part in a model without states: set {' or '.join(kinds)}"
    if model.trunk.kind == "ssm":
        without = "has no part in model.trunk.kind = 'ssm', whose slots read a state and no keys"
        if model.trunk.kv_heads:
            yield f"model.trunk.kv_heads = {model.trunk.kv_heads} {without}: set it to 0"
        if kernels.staircase != "auto":
            yield f"kernels.staircase = {kernels.staircase!r} {without}: set it to 'auto'"


def _conflicts_of_leaks(config: ml_collections.ConfigDict) -> Iterator[str]:
    model, leak = config.model, f"model.leak = {config.model.leak!r}"
    if model.trunk.kind == "none":
        yield f"{leak} needs patches to leak from, and model.trunk.kind = 'none' has none: set it to ''"
    if config.trigger.kind != "none":
        yield f"{leak} is of models without scratchpads: set trigger.kind = 'none'"
    if model.decoder.injection == "at_slot":
        yield f"{leak} reaches bytes by a context that they share: set model.decoder.injection = 'add'"
    if model.leak == "gaussian" and model.pooling.kind != "gaussian":
        yield f"{leak} needs model.pooling.kind = 'gaussian'"


def _conflicts_without_trunk(config: ml_collections.ConfigDict) -> Iterator[str]:
    without = "model.trunk.kind = 'none'"
    if config.patching.kind == "learned":
        yield f"{without} makes no patches that a router could learn: set patching.kind = 'fixed'"
    if config.model.decoder.residual != "identity":
        yield f"{without} gives the decoder nothing but byte states: set model.decoder.residual = 'identity'"
    if config.trigger.kind != "none":
        yield f"{without} runs no trunk that trigger.kind could refresh: set trigger.kind = 'none'"
    if config.model.entropy_head.weight > 0:
        yield f"{without} has no use for an entropy head: set model.entropy_head.weight = 0"
    if config.model.entropy_model.layers > 0:
        yield f"{without} makes no decisions that an entropy model could serve: set model.entropy_model.layers = 0"
    if config.model.benefit.width > 0 or config.model.benefit.table:
        yield f"{without} has no scratchpads whose benefit could be learnt: set model.benefit.width = 0, table = False"
    if config.model.decoder.injection != "add":
        yield f"{without} gives the decoder no context to attend to: set model.decoder.injection = 'add'"
    if config.model.decoder.scope != "document":
        yield f"{without} makes no commits that a scope could begin at: set model.decoder.scope = 'document'"


def _conflicts_of_tokens(config: ml_collections.ConfigDict) -> Iterator[str]:
    """What a model of tokens has no use for: all that decides about bytes."""
    if not (config.data.tokenizer and config.data.vocabulary):
        named = f"data.tokenizer = {config.data.tokenizer!r} and data.vocabulary = {config.data.vocabulary}"
        yield f"{named} go together: name the file and how many tokens it has, or neither"
    needs = "data.tokenizer makes every position a token of its own: set"
    if config.model.trunk.kind != "none" and config.patching.kind != "byte":
        yield f"{needs} patching.kind = 'byte', which commits at each"
    wanted = {"trigger.kind": "none", "model.encoder.ngrams": (), "model.entropy_head.weight": 0.0}
    wanted |= {"model.entropy_model.layers": 0, "model.benefit.width": 0, "model.benefit.table": False}
    wanted |= {"patching.whole_characters": False, "trigger.whole_characters": False}
    wanted |= {"model.target_rows": BYTES.bos + 1}
    for name, value in wanted.items():
        if get(config, name) != value:
            yield f"{needs} {name} = {value!r}, not {get(config, name)!r}"


def vocabulary(config: ml_collections.ConfigDict) -> Vocabulary:
    """The token ids of the model: those of bytes, or of a tokenizer's tokens."""
    return of_tokens(config.data.vocabulary) if config.data.vocabulary else BYTES


def target_rows(config: ml_collections.ConfigDict) -> int:
    """Rows of the logits that share the probability, the first so many."""
    own = vocabulary(config)
    return config.model.target_rows if own.is_bytes else own.bos + 1


def reads_entropy(config: ml_collections.ConfigDict) -> bool:
    """Whether any decision needs the entropy head or the entropy model."""
    if config.model.trunk.kind == "none":
        return False
    patches, scratchpads = config.patching.kind, config.trigger.kind
    readers = (*ENTROPY_PATCHIFIERS, "score", "learned")
    return patches in ENTROPY_PATCHIFIERS or patches != "byte" and scratchpads in readers


def is_causal(config: ml_collections.ConfigDict) -> bool:
    """Whether the model, and what it decides, depend on bytes read alone."""
    return config.trigger.kind != "oracle" and not config.model.leak


def require_causal(config: ml_collections.ConfigDict, doing: str) -> None:
    """Raise UserError where decisions read the future; `doing`: what cannot be done then, such as 'train'."""
    if config.trigger.kind == "oracle":
        fix = "use 'learned' or 'entropy', and --override trigger.kind=oracle in eval alone"
        raise UserError(f"trigger.kind = 'oracle' reads the bytes that follow, so it cannot {doing}: {fix}")


def require_no_leak(config: ml_collections.ConfigDict, doing: str) -> None:
    """Raise UserError where bytes read what follows them; `doing`: what cannot be done then. Training goes by the audit
    instead, which names the stage.
    """
    if config.model.leak:
        raise UserError(
            f"model.leak = {config.model.leak!r} lets bytes read what follows them, so it cannot {doing}: "
            "train a model with model.leak = ''"
        )


def entropy_model(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config of the separate entropy model: one that trains it alone has these model fields."""
    fields = config.model.entropy_model
    values = {"model.trunk.kind": "none", "model.decoder.layers": 0, "model.entropy_head.weight": 0.0}
    values["trigger.kind"] = "none"
    for name in ("data.window", "training.dtype", "kernels.window", "model.target_rows"):
        values[name] = get(config, name)
    values |= {f"model.{name}": fields[name] for name in ("d_byte", "ffn_multiplier", "rope_theta", "norm_eps")}
    values |= {f"model.encoder.{name}": fields[name] for name in ("layers", "heads", "window")}
    return from_flat(values)


def patch_limit(config: ml_collections.ConfigDict) -> int:
    """Bytes of a patch that pooling reads: its length, or the last so many of a longer one."""
    patching = config.patching
    limit = {"byte": 1, "fixed": patching.patch_bytes}.get(patching.kind, patching.max_patch_bytes)
    limit += LONGEST_CHARACTER - 1 if patching.whole_characters else 0
    # The leak reads as much before and behind the patch.
    return limit * 3 if config.model.leak == "gaussian" else limit


def commit_capacity(config: ml_collections.ConfigDict) -> Fraction:
    """Commits per byte that a document may have made, as an exact fraction."""
    patching = config.patching
    if patching.capacity:
        return _fraction(patching.capacity)
    automatic = {"byte": Fraction(1), "fixed": Fraction(1, patching.patch_bytes), "whitespace": Fraction(1, 3)}
    if patching.kind == "learned":
        # Nothing but a loss holds the rate of a document near its target, which a curriculum may begin lower.
        lowest = min(patching.patch_bytes, patching.curriculum_from if patching.curriculum_steps else math.inf)
        return min(2 / _fraction(lowest), Fraction(1))
    return automatic.get(patching.kind, min(Fraction(3, 2 * patching.patch_bytes), Fraction(1)))


def scratchpad_capacity(config: ml_collections.ConfigDict) -> Fraction:
    """Scratchpads per byte that a document may have made, as an exact fraction."""
    trigger = config.trigger
    if trigger.kind == "none" or config.patching.kind == "byte":
        return Fraction(0)
    if trigger.capacity:
        return _fraction(trigger.capacity)
    automatic = {"every": Fraction(1), "stride": Fraction(1, trigger.stride), "whitespace": Fraction(1, 3)}
    return automatic.get(trigger.kind, min(_fraction(trigger.rate) * Fraction(5, 4), Fraction(1)))


def _fraction(value: float) -> Fraction:
    return Fraction(value).limit_denominator(4096)


def slots(config: ml_collections.ConfigDict, window: int | None = None) -> tuple[int, int]:
    """Static sizes (commits P, scratchpads S) of one row of `window` bytes, each shared evenly by mesh.sequence."""
    window = window or config.data.window
    if config.model.trunk.kind == "none":
        return 0, 0
    shards = max(config.mesh.sequence, 1)
    commits = max(int(commit_capacity(config) * window), 1)
    scratchpads = int(scratchpad_capacity(config) * window)
    return commits + -commits % shards, scratchpads + -scratchpads % shards


def changed(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> list[str]:
    """Names of the fields that differ."""
    before, after = flat(old), flat(new)
    return [name for name in BY_NAME if before[name] != after[name]]


def difference(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict, free: bool = False) -> list[str]:
    """Lines 'name: old -> new' of the fields that differ; what may change on resumption only when asked for."""
    before, after = flat(old), flat(new)

    def may_change(name: str) -> bool:
        field, part = BY_NAME[name], BY_NAME[name].fixed_part
        return field.free or field.later or part is not None and part(before[name]) == part(after[name])

    names = (name for name in changed(old, new) if free or not may_change(name))
    return [f"{name}: {before[name]!r} -> {after[name]!r}" for name in names]


def describe() -> str:
    """All fields as text for --help: each with its default and unit, and its meaning below."""
    units = {field.name: f" [{field.unit}]" if field.unit else "" for field in FIELDS}
    return "\n".join(f"  {f.name} = {f.default!r}{units[f.name]}\n      {f.meaning}" for f in FIELDS)
