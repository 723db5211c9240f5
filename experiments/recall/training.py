"""Train models on recall documents, several lanes side by side, and measure them as they learn.

The steps are those of `scratchpatch.training.step`, many in one program and for all lanes at once, because a model so
small leaves a GPU idle between single ones.

Legend: S lanes, T steps of a program, D documents, B rows, M tokens of a row (its positions and one), L positions.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch import config as config_lib
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.model import loss as loss_lib, weights as weights_lib
from scratchpatch.tasks.pairs import Pairs
from scratchpatch.training import optimizer as optimizer_lib
from scratchpatch.training.step import Trainer
from scratchpatch.vocabulary import BYTES

# Steps between two measurements.
EVERY = 25
# A lane is done when it is right in this share of the values; steps until LEARNED are counted.
DONE, LEARNED = 0.99, 0.9
# Rows of held-out documents, and the part of the generator's documents that they are: no step's index.
HELD_OUT_ROWS, HELD_OUT = 32, 2**31


@dataclasses.dataclass(frozen=True)
class Lane:
    """One model that is trained: seed of its weights and documents, the documents' shape, its learning rate."""

    seed: int
    pairs: int = 6
    questions: int = 24
    distance: int = 0
    learning_rate: float = 1e-3

    @property
    def documents(self) -> Pairs:
        return Pairs(pairs=self.pairs, questions=self.questions, distance=self.distance, seed=self.seed)

    def rows(self, window: int, count: int, part: int) -> np.ndarray:
        """int32 [B, M]: as many whole documents as fit, each behind its BOS, the BOS of the next one, and PAD."""
        size = self.documents.length + 1
        each = window // size
        documents_DL = self.documents.documents(count * each, part).astype(np.int32)
        rows = np.pad(documents_DL, ((0, 0), (1, 0)), constant_values=BYTES.bos).reshape(count, -1)
        rows = np.pad(rows, ((0, 0), (0, 1)), constant_values=BYTES.bos)
        return np.pad(rows, ((0, 0), (0, window - each * size)), constant_values=BYTES.pad)

    def answers(self, window: int) -> np.ndarray:
        """bool [L]: the positions of such a row whose target is the value of a question."""
        size = self.documents.length + 1
        one = np.zeros(size, bool)
        one[self.documents.answers] = True
        return np.pad(np.tile(one, window // size), (0, window % size))


class Trial:
    """Lanes of one config, compiled; `run` trains them."""

    def __init__(self, config, lanes: Sequence[Lane]):
        self.config, self.lanes = config, lanes
        self.trainer = Trainer(config, mesh_lib.make(config, jax.devices()[:1]))
        window = config.data.window
        self._held_out = np.stack([lane.rows(window, HELD_OUT_ROWS, HELD_OUT) for lane in lanes])
        self._answers = np.stack([lane.answers(window) for lane in lanes])
        began = time.monotonic()
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            # Run once: compiling it well would take longer.
            initial = jax.jit(jax.vmap(self.trainer.initial), compiler_options={"xla_backend_optimization_level": 0})
            state_S = initial(np.array([lane.seed for lane in lanes], np.uint32))
        with jax.set_mesh(self.trainer.mesh):
            self.state_S = jax.device_put(jax.device_get(state_S), jax.devices()[0])
            go_on = jax.jit(self._go_on, donate_argnums=0)
            self._program = go_on.lower(self.state_S, *self._given(0), self._held_out, self._answers).compile()
        self.seconds_to_compile = time.monotonic() - began

    def run(self, seen: Callable[[int, np.ndarray], None] = lambda step, accuracy_S: None) -> list[dict]:
        """Train until all lanes are DONE twice running, or for training.steps.

        Args:
          seen: called after each measurement, with the step and each lane's share of values right.
        Returns: of each lane 'curve', lists of (step, share of values right, bits per value); of the last measurement
        'accuracy', 'bits', 'fresh', 'bpb', 'commits_per_byte', 'scratchpads_per_byte' (see `_measure`); 'steps';
        'learned', the step of the first measurement with LEARNED right, or None.
        """
        curves, done, began = [[] for _ in self.lanes], np.zeros(len(self.lanes), int), time.monotonic()
        for first in range(0, self.config.training.steps, EVERY):
            self.state_S, measured = self._program(self.state_S, *self._given(first), self._held_out, self._answers)
            last = jax.device_get(measured)
            for s, curve in enumerate(curves):
                curve.append((first + EVERY, float(last["accuracy"][s]), float(last["bits"][s])))
            seen(first + EVERY, last["accuracy"])
            done = np.where(last["accuracy"] >= DONE, done + 1, 0)
            if (done >= 2).all():
                break
        seconds = time.monotonic() - began
        return [
            {
                "lane": dataclasses.asdict(lane),
                **{name: float(x[s]) for name, x in last.items()},
                "steps": curves[s][-1][0],
                "learned": next((step for step, accuracy, _ in curves[s] if accuracy >= LEARNED), None),
                "seconds": seconds,
                "seconds_to_compile": self.seconds_to_compile,
                "curve": curves[s],
            }
            for s, lane in enumerate(self.lanes)
        ]

    def _given(self, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows, int32 [T, S, B, M], and settings, float32 [T, S, fields], of EVERY steps from this one on."""
        rows, window = self.config.training.batch_rows, self.config.data.window
        batches = [lane.rows(window, rows * EVERY, first).reshape(EVERY, rows, -1) for lane in self.lanes]
        settings = np.stack([optimizer_lib.settings(self.config, first + t) for t in range(EVERY)])
        settings_TS = np.repeat(settings[:, None], len(self.lanes), axis=1)
        # Every schedule is a multiple of its peak.
        peaks_S = np.array([lane.learning_rate for lane in self.lanes])
        settings_TS[:, :, 0] *= peaks_S / self.config.optimizer.learning_rate
        return np.stack(batches, axis=1), settings_TS

    def _go_on(self, state_S, batch_TSBM, settings_TS, held_out_SBM, answers_SL):
        def step(state_S, given):
            advance = jax.vmap(lambda state, rows_BM, settings: self.trainer.advance(state, rows_BM[None], settings))
            return advance(state_S, *given)[0], None

        state_S = jax.lax.scan(step, state_S, (batch_TSBM, settings_TS))[0]
        return state_S, jax.vmap(self._measure)(weights_lib.select(state_S), held_out_SBM, answers_SL)

    def _measure(self, weights, tokens_BM, answer_L) -> dict[str, jax.Array]:
        """Scalars, of rows: the share of values that are likeliest, bits per value, the share of questions at whose key
        the trunk runs, bits per byte, and rates.
        """
        output = weights_lib.merge(self.trainer.definition, weights)(tokens_BM[:, :-1])
        targets_BL = tokens_BM[:, 1:]
        nats_BL = loss_lib.nats(output.logits_BLV, targets_BL, config_lib.vocabulary(self.config))
        right_BL = output.logits_BLV.argmax(axis=-1) == targets_BL
        total, count = loss_lib.sums(self.config, output, targets_BL), len(tokens_BM) * answer_L.sum()
        fresh_BL = output.layout.commit_BL | output.layout.scratchpad_BL
        return {
            "accuracy": (right_BL & answer_L).sum() / count,
            "bits": jnp.where(answer_L, nats_BL, 0).sum() / count / math.log(2),
            "fresh": (fresh_BL & answer_L).sum() / count,
            "bpb": total["nats"] / total["bytes"] / math.log(2),
            "commits_per_byte": total["commits"] / total["positions"],
            "scratchpads_per_byte": total["scratchpads"] / total["positions"],
        }
