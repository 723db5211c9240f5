"""The causality audit: nothing reads the future, other documents or other rows.

Bytes that a position must not see are changed, and every stage of the model must give the same bits there: after every
prefix length (suffixes), in the other rows (rows) and, but for rounding, in the other documents of a row (documents).
Then single gradients of every stage with respect to the byte embeddings must be exactly zero where nothing may be read
(gradients): a backward pass can leak on its own.

Legend: R rows, L byte positions, N slots, D trunk width, d byte width.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch import background, compilation_cache, config as config_lib
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.kernels import attention
from scratchpatch.model import weights as weights_lib
from scratchpatch.model.byte_lm import Output
from scratchpatch.patching import controller, scores as scores_lib

STAGES = ("encoder", "router", "entropy head", "entropy model", "patchifier", "trigger", "pooling", "trunk", "decoder")
# Those that gradients pass through, and those of them whose states are the slots'.
_SMOOTH = ("encoder", "router", "entropy head", "pooling", "trunk", "decoder")
_OF_SLOTS = ("pooling", "trunk")
_ROWS = 8
# A backward pass costs more, and two rows can leak into each other.
_GRADIENT_ROWS = 2
_PATCHES = 3
# A row of so many bytes has every prefix length tried; a longer one those of its first patches and of the edges of
# documents and blocks, and some between.
_PREFIXES = 128


@dataclasses.dataclass(frozen=True)
class Finding:
    """One leak: `check` found that `stage` is the first to change, at byte `position` of a row."""

    check: str
    stage: str
    position: int
    detail: str

    def __str__(self) -> str:
        return f"{self.check}: the {self.stage} leaks at position {self.position} ({self.detail})"


@dataclasses.dataclass(frozen=True)
class AuditReport:
    """Verdict of an audit: findings (none: causal), how much was checked, and how long it took."""

    findings: tuple[Finding, ...]
    checked: dict[str, int]
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.findings

    def summary(self) -> str:
        if self.ok:
            counts = ", ".join(f"{n} {name}" for name, n in self.checked.items())
            return f"the causality audit passed ({counts}; {self.seconds:.1f} s)"
        return f"the causality audit failed: {self.findings[0]}"

    def text(self) -> str:
        return "\n".join([self.summary(), *(f"  {finding}" for finding in self.findings)])

    def as_dict(self) -> dict:
        return {"ok": self.ok} | dataclasses.asdict(self)


def audit_config(config, devices: int | None = None, mesh: Mapping[str, int] | None = None) -> AuditReport:
    """Audit a config's model with random weights, which lie where `distributed.mesh.over` says. All processes must call
    this.
    """
    config_lib.check(config)
    return audit(config, weights_lib.random(config, config.seed, mesh_lib.over(config, devices, mesh)))


def audit(config, weights, seed: int = 0, build: Callable | None = None) -> AuditReport:
    """Audit a model with these weights, on a text that `seed` draws.

    build: weights -> model; the config's own where None (a test plants leaks here). Raises UserError where no change of
    any byte changes any logit, so that nothing can be told.
    """
    config_lib.require_causal(config, "pass the causality audit")
    build = build or functools.partial(weights_lib.merge, weights_lib.abstract(config)[0])
    # Weights may be spread over a mesh; the audited rows are few, and every device computes all of them.
    everywhere = mesh_lib.everywhere(mesh_lib.of(weights))
    # Calibration sets thresholds on the host, so that they are numbers of the host from the beginning.
    weights = {**weights, "thresholds": {name: np.float32(x) for name, x in weights["thresholds"].items()}}

    def ahead(program: Callable, *args) -> Callable:
        options = {"compiler_options": compilation_cache.quick(), "out_shardings": everywhere}
        compiling = background.start(jax.jit(program, **options).lower(*args).compile)
        return lambda *args: compiling.result()(*args)

    tokens_RL = jax.ShapeDtypeStruct((_ROWS, row_length(config)), jnp.int32)
    few_RL = jax.ShapeDtypeStruct((_GRADIENT_ROWS, row_length(config)), jnp.int32)
    # The longer one first: the checks that need it come last.
    backward = ahead(functools.partial(reached, config, build), weights, few_RL, 0, 0, dict.fromkeys(_SMOOTH, True))
    forward = ahead(lambda weights, tokens_RL: build(weights)(tokens_RL), weights, tokens_RL)
    return Auditor(config, forward, backward, seed).report(weights)


def row_length(config) -> int:
    """How many bytes an audited row has: three patches, the edge between two blocks of local attention, and the place
    where a controller first moves its threshold; at most a window.
    """
    m, patch = config.model, config_lib.patch_limit(config)
    widest = max(m.encoder.window, m.decoder.window, m.entropy_model.window if m.entropy_model.layers else 0)
    local = attention.block_size(widest, config.data.window)
    carried = controller.CHUNK if config.patching.gain > 0 or config.trigger.gain > 0 else 0
    return min(config.data.window, max((_PATCHES + 1) * patch, 2 * local, 5 * carried // 2))


def reached(config, build, weights, tokens_RL, row, position, stages) -> jax.Array:
    """bool [R, L]: where the gradient of some stages (bool by name of `_SMOOTH`) at one position reaches embeddings."""
    rows, length = tokens_RL.shape

    def value(probe_RLd):
        output = build(weights)(tokens_RL, probe_RLd)
        slots = output.layout.slots
        in_row_R1 = jnp.arange(rows)[:, None] == row
        at_RL = in_row_R1 & (jnp.arange(length) == position)
        at_RN = in_row_R1 & (slots.end_BN == position) & slots.valid_BN
        total = 0.0
        for name, x in _states(output).items():
            at = at_RN if name in _OF_SLOTS else at_RL
            # Any direction in which no sum of states is flat.
            direction = jnp.cos(jnp.arange(x.shape[-1], dtype=jnp.float32))
            total += jnp.where((at & stages[name])[..., None], x.astype(jnp.float32) * direction, 0.0).sum()
        return total

    probe_RLd = jnp.zeros((rows, length, config.model.d_byte), jnp.float32)
    return (jax.grad(value)(probe_RLd) != 0).any(-1)


def _beyond_rounding(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where two arrays differ by more than the order of a sum can make them; exact for masks."""
    if x.dtype == bool:
        return x != y
    bound = 1e-5 if x.dtype == np.float32 else 3e-2
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    # The mask of the logits is no scale to measure by.
    scale = np.abs(np.where(np.abs(x) < 1e20, x, 0.0)).max(initial=0.0)
    return ~(np.abs(x - y) <= bound * scale)


def _states(output: Output) -> dict[str, jax.Array]:
    """The arrays of the `_SMOOTH` stages that the model has, [R, L or N, ...]."""
    states = {
        "encoder": output.hidden_BLd,
        "router": None if output.layout.boundary_BL is None else output.layout.boundary_BL[..., None],
        "entropy head": output.head_logits_BLV,
        "pooling": output.pooled_BND,
        "trunk": output.trunk_BND,
        "decoder": output.logits_BLV,
    }
    return {name: x for name, x in states.items() if x is not None}


def _by_byte(config, output: Output) -> dict[str, list[np.ndarray]]:
    """What each stage says at each byte, arrays [R, L, ...] on the host; none of a stage that the model lacks.

    The state of a slot stands at the slot's last byte, among zeros.
    """
    output = jax.device_get(output)
    slots = output.layout.slots
    row_n, end_n = np.nonzero(slots.valid_BN)[0], slots.end_BN[slots.valid_BN]

    def at_bytes(x_RND: np.ndarray) -> np.ndarray:
        x_RLD = np.zeros((*output.layout.commit_BL.shape, x_RND.shape[-1]), x_RND.dtype)
        x_RLD[row_n, end_n] = x_RND[slots.valid_BN]
        return x_RLD

    says = {stage: [] for stage in STAGES}
    for stage, x in _states(output).items():
        says[stage].append(at_bytes(x) if stage in _OF_SLOTS else x)
    if config.model.trunk.kind != "none":
        if output.entropy_BL is not None:
            says["entropy model" if config.model.entropy_model.layers else "entropy head"].append(output.entropy_BL)
        says["patchifier"].append(output.layout.commit_BL)
        if output.benefit_BLM is not None:
            says["trigger"].append(output.benefit_BLM)
        says["trigger"].append(output.layout.scratchpad_BL)
    return says


class Auditor:
    """The checks, on a text of three documents a row.

    forward: (weights, tokens_RL) -> Output. backward: see `reached`; None leaves the gradients out.
    """

    def __init__(self, config, forward: Callable, backward: Callable | None, seed: int = 0):
        self.config, self.forward, self.backward = config, forward, backward
        self.vocabulary = config_lib.vocabulary(config)
        self.rng = np.random.default_rng(seed)
        self.findings: dict[tuple[str, str], Finding] = {}
        self.length = row_length(config)
        self.starts = (0, self.length // 4, self.length // 4 + self.length // 2)
        self.document_L = np.searchsorted(self.starts, np.arange(self.length), side="right") - 1
        self.tokens = self._text()

    def report(self, weights) -> AuditReport:
        began = time.monotonic()
        self.weights = self._calibrated(weights)
        self.base = _by_byte(self.config, self.forward(self.weights, self.tokens))
        checks = {"prefixes": self.suffixes, "documents": self.documents, "rows": self.rows}
        if self.backward is not None:
            checks["gradients"] = self.gradients
        checked = {name: check() for name, check in checks.items()}
        return AuditReport(tuple(self.findings.values()), checked, time.monotonic() - began)

    def _calibrated(self, weights):
        """Thresholds amid the entropies, so that decisions go both ways.

        A controller starts at its rate: far from it, it would fire everywhere or nowhere, and hide what it read.
        """
        if not config_lib.reads_entropy(self.config):
            return weights
        output = self.forward(weights, self.tokens)
        entropy_RL = np.asarray(output.entropy_BL)
        scores = {"entropy": entropy_RL, "entropy_and_jump": entropy_RL, "entropy_jump": np.diff(entropy_RL)}
        if output.benefit_BLM is not None:
            youngest_RL = scores_lib.benefit(output.benefit_BLM, np.ones(entropy_RL.shape, np.int32))
            scores[self.config.trigger.kind] = np.asarray(youngest_RL)
        thresholds = dict(weights["thresholds"])
        rates = {"patching": 1 / self.config.patching.patch_bytes, "trigger": self.config.trigger.rate}
        for section, rate in rates.items():
            settings = self.config[section]
            if settings.kind not in config_lib.SCORED[section]:
                continue
            score = scores[settings.kind]
            threshold = np.quantile(score, 1 - rate if settings.gain > 0 else 0.5)
            if settings.gain > 0:
                # A controller moves the logarithm of its threshold.
                threshold = max(threshold, score[score > 0].min(initial=1.0))
            thresholds[f"{section}_threshold"] = np.float32(threshold)
        return {**weights, "thresholds": thresholds}

    def suffixes(self) -> int:
        """After each prefix length, everything later is replaced, ends of documents included."""
        cuts = np.arange(self.length - 1)
        if self.length > _PREFIXES:
            dense = cuts[: _PATCHES * config_lib.patch_limit(self.config)]
            edges = [cuts[edge - 4 : edge + 4] for edge in (*self.starts[1:], self.length // 2)]
            cuts = np.unique(np.concatenate([dense, *edges, cuts[:: len(cuts) // (_PREFIXES // 4)]]))
        logits_changed, row_R = False, np.arange(_ROWS)
        for some_cuts in np.array_split(cuts, -(-len(cuts) // _ROWS)):
            cut_R = np.resize(some_cuts, _ROWS)
            other, next_R = self._text(), cut_R + 1
            # What follows the prefix: a byte, the document's end, or nothing at all.
            ends_R = self.tokens[row_R, next_R] == self.vocabulary.bos
            flips_R = self.rng.random(_ROWS) < 0.5
            other[row_R, next_R] = np.where(ends_R ^ flips_R, ord("e"), self.vocabulary.bos)
            other[self.rng.random(_ROWS) < 0.2] = self.vocabulary.pad
            prefix_RL = np.arange(self.length) <= cut_R[:, None]
            tokens = np.where(prefix_RL, self.tokens, other)
            logits_changed |= self._judge("suffix", tokens, prefix_RL, "later bytes were changed")
        if not logits_changed:
            raise UserError("the causality audit is blind: no change of any byte changes any logit")
        return len(cuts)

    def documents(self) -> int:
        """All bytes of one document of each row are replaced; the row's other documents must not notice."""
        for shift in range(len(self.starts)):
            changed_RL = self.document_L == (np.arange(_ROWS)[:, None] + shift) % len(self.starts)
            tokens = np.where(changed_RL & (self.tokens != self.vocabulary.bos), self._bytes(), self.tokens)
            self._judge("document", tokens, ~changed_RL, "another document of the row was changed")
        return _ROWS * len(self.starts)

    def rows(self) -> int:
        """Half of the rows are replaced; the others must not notice. Every row meets every other."""
        for bit in range(_ROWS.bit_length() - 1):
            for side in (0, 1):
                stays_R1 = ((np.arange(_ROWS) >> bit) % 2 == side)[:, None]
                tokens = np.where(stays_R1, self.tokens, self._bytes())
                stays_RL = np.broadcast_to(stays_R1, tokens.shape)
                self._judge("row", tokens, stays_RL, "other rows of the batch were changed")
        return _ROWS

    def gradients(self) -> int:
        """Single gradients, one row and position at a time: on both sides of documents' edges, and inside."""
        _, second, third = self.starts
        positions = (second - 1, second, self.length // 2, third - 1, third, self.length - 2)
        for i, position in enumerate(positions):
            row = i % _GRADIENT_ROWS
            if self._gradient_leak(row, position, _SMOOTH):
                leaks = ((stage, self._gradient_leak(row, position, (stage,))) for stage in _SMOOTH)
                stage, (at_row, at) = next((stage, leak) for stage, leak in leaks if leak)
                where = f"from row {row} its gradient reaches row {at_row}, position {at}"
                self._add(Finding("gradient", stage, int(position), where))
        return len(positions)

    def _gradient_leak(self, row: int, position: int, stages: tuple[str, ...]) -> tuple[int, int] | None:
        """The first row and position where gradients of these stages arrive and may not; None where there is none."""
        tokens = self.tokens[:_GRADIENT_ROWS]
        allowed_RL = np.zeros(tokens.shape, bool)
        allowed_RL[row, : position + 1] = self.document_L[: position + 1] == self.document_L[position]
        wanted = {stage: stage in stages for stage in _SMOOTH}
        leaks = np.argwhere(np.asarray(self.backward(self.weights, tokens, row, position, wanted)) & ~allowed_RL)
        return tuple(leaks[0]) if len(leaks) else None

    def _judge(self, check: str, tokens: np.ndarray, must_stay_RL: np.ndarray, detail: str) -> bool:
        """Note the first stage that changed where it must not; whether any logit changed where it may."""
        says = _by_byte(self.config, self.forward(self.weights, tokens))
        # Other bytes in a document can shift where the next one's commits stand in the row's arrays, and with it the
        # order of a sum: rounding is no leak there.
        unlike = _beyond_rounding if check == "document" else np.not_equal
        found_leak = False
        for stage in STAGES:
            changed_RL = np.zeros(tokens.shape, bool)
            for x, base in zip(says[stage], self.base[stage], strict=True):
                changed_RL |= unlike(x, base).reshape(*tokens.shape, -1).any(axis=-1)
            leaks = np.argwhere(changed_RL & must_stay_RL)
            if len(leaks) and not found_leak:
                row, position = leaks[leaks[:, 1].argmin()]
                self._add(Finding(check, stage, int(position), f"row {row}; {detail}"))
                found_leak = True
        # The decoder is the last of the stages.
        return bool((changed_RL & ~must_stay_RL).any())

    def _add(self, finding: Finding) -> None:
        """Of the leaks of one stage that one check finds, the earliest is kept."""
        key = finding.check, finding.stage
        if key not in self.findings or finding.position < self.findings[key].position:
            self.findings[key] = finding

    def _bytes(self) -> np.ndarray:
        if not self.vocabulary.is_bytes:
            return self.rng.integers(0, self.vocabulary.bos, (_ROWS, self.length)).astype(np.int32)
        # Words, punctuation and lead bytes, so that every patchifier finds something to do.
        letters = np.frombuffer(b"etaoinshrdlu" * 4 + b" \n.,(0" * 4 + bytes([0xC3, 0xA9, 0xE4]), np.uint8)
        return self.rng.choice(letters, (_ROWS, self.length)).astype(np.int32)

    def _text(self) -> np.ndarray:
        """Rows of three documents; every other row begins inside its first."""
        tokens = self._bytes()
        tokens[::2, 0] = self.vocabulary.bos
        tokens[:, self.starts[1:]] = self.vocabulary.bos
        return tokens
