"""The causality audit: nothing reads the future, other documents or other rows.

Bytes that a position must not see are changed, and every stage of the model
must give the same bits there: after every prefix length (suffixes), in the
other documents of a row (documents), in the other rows (rows). Then single
gradients of logits with respect to the byte embeddings must be exactly zero
where nothing may be read (gradients): a backward pass can leak on its own.

Legend: R rows, L byte positions, N slots, d byte width.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch import config as config_lib
from scratchpatch import vocabulary
from scratchpatch.errors import UserError
from scratchpatch.kernels import window as window_kernel
from scratchpatch.model import weights as weights_lib
from scratchpatch.model.byte_lm import Output
from scratchpatch.model.pooling import take
from scratchpatch.patching import documents, scores

STAGES = ("encoder", "entropy head", "patchifier", "trigger", "pooling", "trunk", "decoder")
_ROWS = 8
_GRADIENTS = 6
_PATCHES = 3
# Most prefix lengths tried one by one; a longer row tries every one of its
# first patches and block edges, and spreads the rest.
_PREFIXES = 256


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
        return "\n".join([self.summary(), *(f"  {f}" for f in self.findings)])

    def as_dict(self) -> dict:
        return {
            "ok": self.ok,
            "findings": [dataclasses.asdict(f) for f in self.findings],
            "checked": self.checked,
            "seconds": self.seconds,
        }


def audit_config(config) -> AuditReport:
    """Audit a config's model with random weights."""
    config_lib.check(config)
    return audit(config, jax.jit(weights_lib.init, static_argnums=(0, 1))(_frozen(config), config.seed))


def audit(config, weights, seed: int = 0, build=None) -> AuditReport:
    """Audit a model with these weights.

    Args:
      config: the experiment.
      weights: see `model.weights`.
      seed: of the audited text.
      build: weights -> model; the config's own where None (a test plants leaks here).
    """
    began = time.monotonic()
    if build is None:
        build = functools.partial(weights_lib.merge, weights_lib.abstract(config)[0])
    auditor = _Auditor(config, build, np.random.default_rng(seed))
    auditor.weights = auditor.calibrate(weights)
    checks = {"prefixes": auditor.suffixes, "documents": auditor.documents, "rows": auditor.rows, "gradients": auditor.gradients}
    checked = {name: check() for name, check in checks.items()}
    return AuditReport(tuple(auditor.findings.values()), checked, time.monotonic() - began)


def stages(output: Output) -> dict[str, jax.Array]:
    """What each stage says at each byte, [R, L, ...]; slot stages are 0 where no slot stands."""
    layout = output.layout
    slot_RL = layout.commit_BL | layout.scratchpad_BL
    index_RL = jnp.where(slot_RL, layout.slots.context_BL, 0)
    by_byte = lambda x_RND: jnp.where(slot_RL[..., None], take(x_RND, index_RL), 0)  # noqa: E731
    head = output.head_logits_BLV
    return {
        "encoder": output.hidden_BLd,
        "entropy head": jnp.zeros_like(output.hidden_BLd) if head is None else head,
        "patchifier": layout.commit_BL,
        "trigger": layout.scratchpad_BL,
        "pooling": by_byte(output.pooled_BND),
        "trunk": by_byte(output.trunk_BND),
        "decoder": output.logits_BLV,
    }


class _Auditor:
    def __init__(self, config, build, rng):
        self.config, self.rng = config, rng
        self.findings: dict[tuple[str, str], Finding] = {}
        m, patch = config.model, config_lib.patch_limit(config)
        local = window_kernel.block_size(max(m.encoder.window, m.decoder.window), config.data.window)
        # Three patches, and the edge between two blocks of local attention.
        self.length = min(config.data.window, max((_PATCHES + 1) * patch, 2 * local))
        self.tokens = self._text()
        self._changed = jax.jit(
            lambda weights, a, b: {
                name: (x != y).reshape(*x.shape[:2], -1).any(-1)
                for (name, x), y in zip(stages(build(weights)(a)).items(), stages(build(weights)(b)).values(), strict=True)
            }
        )

        def reading(weights, tokens, row, position, direction_V, stage):
            def value(probe):
                x_RLx = stages(build(weights)(tokens, probe))[stage]
                return (x_RLx[row, position].astype(jnp.float32) * direction_V[: x_RLx.shape[-1]]).sum()

            probe = jnp.zeros((*tokens.shape, m.d_byte), jnp.float32)
            return (jax.grad(value)(probe) != 0).any(-1)

        self._reading = jax.jit(reading, static_argnames="stage")
        self._decisions = jax.jit(lambda weights, tokens: build(weights)(tokens))

    def calibrate(self, weights):
        """Thresholds at the middle of the entropies, so that decisions go both ways."""
        if not config_lib.reads_entropy(self.config):
            return weights
        output = self._decisions(weights, self.tokens)
        thresholds = dict(weights["thresholds"])
        for section in ("patching", "trigger"):
            if self.config[section].kind == "entropy_jump":
                score = scores.entropy_jump(output.entropy_BL, output.layout.start_BL)
                # A controller needs a threshold above zero.
                score = jnp.where(score > 0, score, jnp.nan)
                thresholds[f"{section}_threshold"] = jnp.nanmedian(score).astype(jnp.float32)
            else:
                thresholds[f"{section}_threshold"] = jnp.median(output.entropy_BL)
        return {**weights, "thresholds": thresholds}

    def suffixes(self) -> int:
        """After each prefix length, everything later is replaced, ends of documents included."""
        last = self.length - 2
        if last < _PREFIXES:
            cuts = np.arange(last + 1)
        else:
            dense = np.arange(_PREFIXES // 2)
            edge = np.arange(self.length // 2 - _PREFIXES // 8, self.length // 2 + _PREFIXES // 8)
            spread = np.linspace(0, last, _PREFIXES // 4).astype(int)
            cuts = np.unique(np.concatenate([dense, edge, spread]))
        seen = False
        for part in np.array_split(cuts, -(-len(cuts) // _ROWS)):
            cut_R = np.resize(part, _ROWS)
            other = self._text()
            # Half of the suffixes begin with the end of the document, and half do not.
            after = np.minimum(cut_R + 1, self.length - 1)
            self_bos = self.tokens[np.arange(_ROWS), after] == vocabulary.BOS
            flip = self_bos | (self.rng.random(_ROWS) < 0.5)
            replacement = np.where(self_bos, ord("e"), vocabulary.BOS)
            other[np.arange(_ROWS), after] = np.where(flip, replacement, ord("x"))
            keep = np.arange(self.length) <= cut_R[:, None]
            changed = self._run(np.where(keep, self.tokens, other))
            seen |= bool((changed["decoder"] & ~keep).any())
            self._judge("suffix", changed, keep, "later bytes were changed")
        if not seen:
            raise UserError("the causality audit is blind: no change of any byte changed any logit")
        return len(cuts)

    def documents(self) -> int:
        """All bytes of one document are replaced; the row's other documents must not notice."""
        ids = np.asarray(documents.starts(jnp.asarray(self.tokens)))
        starts = sorted(set(ids.flatten()))
        for start in starts:
            inside = ids == start
            changed = self._run(np.where(inside & (self.tokens != vocabulary.BOS), self._bytes(), self.tokens))
            self._judge("document", changed, ~inside, f"the document that starts at {start} was changed")
        return len(starts)

    def rows(self) -> int:
        """All rows but one are replaced; that one must not notice."""
        for row in range(_ROWS):
            keep = np.arange(_ROWS)[:, None] == row
            changed = self._run(np.where(keep, self.tokens, self._bytes()))
            self._judge("row", changed, np.broadcast_to(keep, self.tokens.shape), "the batch's other rows were changed")
        return _ROWS

    def gradients(self) -> int:
        """Single gradients: one row and position at a time."""
        ids = np.asarray(documents.starts(jnp.asarray(self.tokens)))
        positions = np.linspace(1, self.length - 2, _GRADIENTS).astype(int)
        for i, n in enumerate(positions):
            row = i % _ROWS
            allowed = np.zeros(self.tokens.shape, bool)
            allowed[row] = (np.arange(self.length) <= n) & (ids[row] == ids[row, n])
            direction = self.rng.standard_normal(2 * vocabulary.ROWS + self.config.model.trunk.d_model).astype(np.float32)
            read = lambda stage: self._reading(self.weights, self.tokens, row, n, direction, stage)  # noqa: B023, E731
            if not (np.asarray(read("decoder")) & ~allowed).any():
                continue
            for stage in ("encoder", "entropy head", "pooling", "trunk", "decoder"):
                bad = np.argwhere(np.asarray(read(stage)) & ~allowed)
                if len(bad):
                    where = f"its gradient reaches row {bad[0][0]}, position {bad[0][1]} from row {row}"
                    self._add(Finding("gradient", stage, int(n), where))
                    break
        return _GRADIENTS

    def _run(self, tokens) -> dict[str, np.ndarray]:
        return jax.device_get(self._changed(self.weights, self.tokens, tokens))

    def _judge(self, check: str, changed, must_stay_RL, detail: str) -> None:
        for stage in STAGES:
            bad = np.argwhere(changed[stage] & must_stay_RL)
            if len(bad):
                first = bad[bad[:, 1].argmin()]
                self._add(Finding(check, stage, int(first[1]), f"row {first[0]}; {detail}"))
                return

    def _add(self, finding: Finding) -> None:
        key = finding.check, finding.stage
        if key not in self.findings or finding.position < self.findings[key].position:
            self.findings[key] = finding

    def _bytes(self) -> np.ndarray:
        # Words, punctuation and lead bytes, so that every patchifier finds something to do.
        letters = np.frombuffer(b"etaoinshrdlu" * 4 + b" \n.,(0" * 4 + bytes([0xC3, 0xA9, 0xE4]), np.uint8)
        return self.rng.choice(letters, (_ROWS, self.length)).astype(np.int32)

    def _text(self) -> np.ndarray:
        """Rows of three documents; the first row begins with a BOS, as do half of the others."""
        tokens = self._bytes()
        tokens[::2, 0] = vocabulary.BOS
        tokens[:, self.length // 4] = vocabulary.BOS
        tokens[:, self.length // 4 + self.length // 2] = vocabulary.BOS
        return tokens


def _frozen(config):
    from ml_collections import FrozenConfigDict

    return FrozenConfigDict(config)
