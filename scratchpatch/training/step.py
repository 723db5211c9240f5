"""The train step: one jitted, donated function from state and batch to state and sums.

Legend: A parts of the accumulation, B rows of a part, L positions, M = L + 1
tokens.
State: the parts of the weights (see `model.weights`), 'optimizer', 'step'.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

from scratchpatch import compilation_cache
from scratchpatch import config as config_lib
from scratchpatch.model import weights as weights_lib
from scratchpatch.parallel import mesh as mesh_lib
from scratchpatch.parallel import rules
from scratchpatch.training import loss as loss_lib
from scratchpatch.training import optimizer as optimizer_lib

# A new document starts where documents lately ended: the carried threshold moves by this share of the way from where
# a step's documents started to the mean of where they ended, each counted once. No effect without a controller.
THRESHOLD_RATE = 0.1
# Sections of the config whose thresholds a controller may move.
_CONTROLLED = ("patching", "trigger")

# Left alone, XLA reduces large gradients over fsdp and slices the result where their layout makes scattering awkward:
# twice the traffic. Relaid, all are scattered (a 1B step on v5e:16x16 sends 2.1 GB of bfloat16 gradients instead of 3.5).
TPU_OPTIONS = {"xla_tpu_relayout_group_size_threshold_for_reduce_scatter": 1}


class Trainer:
    """The compiled pieces of a run on one mesh: initial state, step, their shardings.

    Attributes:
      batch: what a step reads, as ShapeDtypeStructs: int32 [A, B, M]; with
        data.entropies a pair, of that and float32 [A, B, L].
    """

    def __init__(self, config, mesh):
        config = mesh_lib.settled(config, mesh)
        self.config, self.mesh = config, mesh
        self.optimizer = optimizer_lib.make(config)
        self.definition, weights = weights_lib.abstract(config)
        everywhere = NamedSharding(mesh, PartitionSpec())
        placed = weights_lib.shardings(config, mesh)
        moments = jax.eval_shape(self.optimizer.init, weights["params"])
        self.shardings = {
            **placed,
            "optimizer": optax.tree_utils.tree_map_params(
                self.optimizer,
                lambda _, sharding: sharding,
                moments,
                placed["params"],
                transform_non_params=lambda _: everywhere,
            ),
            "step": everywhere,
        }
        parts = mesh_lib.parts(config, mesh)
        rows = (parts, config.training.batch_rows // parts)
        sharding = NamedSharding(mesh, rules.spec((None, "local_rows", None), (*rows, 1), mesh, "a part of training.batch_rows"))
        self.batch = jax.ShapeDtypeStruct((*rows, config.data.window + 1), jnp.int32, sharding=sharding)
        if config.data.entropies:
            entropies = jax.ShapeDtypeStruct((*rows, config.data.window), jnp.float32, sharding=sharding)
            self.batch = (self.batch, entropies)
        self._step = jax.jit(self._advance, donate_argnums=0, out_shardings=(self.shardings, everywhere))

    def abstract_state(self):
        """The state as ShapeDtypeStructs with shardings, to restore into."""
        state = jax.eval_shape(self._initial, jax.ShapeDtypeStruct((), jnp.uint32))
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, self.shardings)

    def init(self):
        """The state before step 0; the same numbers on every mesh."""
        with jax.set_mesh(self.mesh):
            initial = jax.jit(self._initial, out_shardings=self.shardings, compiler_options=compilation_cache.quick())
            return initial(jnp.uint32(self.config.seed))

    def compile(self, compiler_options: dict | None = None):
        """The step ahead of time: (state, batch, index) -> (state, sums); has memory_analysis()."""
        with jax.set_mesh(self.mesh):
            index = jax.ShapeDtypeStruct((), jnp.int32)
            lowered = self._step.lower(self.abstract_state(), self.batch, index)
            if self.mesh.devices.flat[0].platform == "tpu":
                try:
                    return lowered.compile(TPU_OPTIONS | (compiler_options or {}))
                except jax.errors.JaxRuntimeError as error:
                    if "xla_tpu" not in str(error):
                        raise
                    logging.warning("this libtpu does not know %s: gradients may be reduced where they could be scattered", *TPU_OPTIONS)
            return lowered.compile(compiler_options)

    @functools.cached_property
    def rows_here(self) -> np.ndarray:
        """Which rows of each part this process reads; see `mesh.rows_here`."""
        return mesh_lib.rows_here(jax.tree.leaves(self.batch)[0])

    def place(self, rows_BM, entropy_BL=None):
        """The rows of a global batch that this process reads, on its devices: a `batch`."""
        here = self.rows_here

        def put(target, rows):
            # Part a holds global rows [a * rows, (a + 1) * rows).
            parts, of_part, length = target.shape
            mine = rows.reshape(parts, len(here), length)

            def piece(index):
                first, stop, _ = index[1].indices(of_part)
                begin = np.searchsorted(here, first)
                return mine[:, begin : begin + stop - first]

            return jax.make_array_from_callback(target.shape, target.sharding, piece)

        return jax.tree.map(put, self.batch, rows_BM if entropy_BL is None else (rows_BM, entropy_BL))

    def _initial(self, seed):
        weights = weights_lib.init(self.config, seed)
        return {**weights, "optimizer": self.optimizer.init(weights["params"]), "step": jnp.int32(0)}

    def _advance(self, state, batch, index):
        """One optimizer step.

        A step whose loss or gradient is not finite changes nothing, and
        neither does any after it (their index runs ahead of state['step']), so
        the state stays the last good one until the loop has read the metrics.
        """
        batch_ABM, entropy_ABL = batch if self.config.data.entropies else (batch, None)
        params, thresholds = state["params"], state["thresholds"]
        rest = {part: x for part, x in weights_lib.of(state).items() if part != "params"}
        targets = jax.vmap(loss_lib.targets_of)(batch_ABM).sum().astype(jnp.float32)
        gradient_of = jax.grad(loss_lib.loss, has_aux=True)

        def part(gradient, rows):
            tokens_BM, entropy_BL = rows
            with rules.summing(self.config.training.gradient_dtype):
                g, total = gradient_of(
                    params, rest, self.definition, tokens_BM, targets, self.config.model.entropy_head.weight, entropy_BL
                )
            return jax.tree.map(jnp.add, gradient, g), total

        rows = (batch_ABM, entropy_ABL)
        if len(batch_ABM) == 1:
            gradient, total = part(jax.tree.map(jnp.zeros_like, params), jax.tree.map(lambda x: x[0], rows))
        else:
            gradient, total_A = jax.lax.scan(part, jax.tree.map(jnp.zeros_like, params), rows)
            total = jax.tree.map(lambda x: x.sum(0), total_A)
        ended = {f"{name}_threshold": total.pop(f"{name}_threshold") / jnp.maximum(total["documents"], 1.0) for name in _CONTROLLED}
        norm = optax.global_norm(gradient)
        updates, optimizer = self.optimizer.update(gradient, state["optimizer"], params)
        new = state | {
            "params": optax.apply_updates(params, updates),
            "thresholds": {k: self._carried(k, old, ended[k], total["documents"]) for k, old in thresholds.items()},
            "optimizer": optimizer,
            "step": state["step"] + 1,
        }
        good = jnp.isfinite(total["nats"]) & jnp.isfinite(norm) & (state["step"] == index)
        state = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
        return state, total | {"gradient_norm": norm, "targets": targets} | ended

    def _carried(self, name: str, old, end, documents):
        """A threshold after the step: only a controller moves it, and only documents that were there."""
        section = self.config[name.removesuffix("_threshold")]
        if section.gain == 0 or section.kind not in config_lib.ENTROPY_PATCHIFIERS:
            return old
        return jnp.where(documents > 0, old + THRESHOLD_RATE * (end - old), old)
