"""The train step: one jitted, donated function from state and batch to state and sums.

Legend: A parts of the accumulation, B rows of a part, L positions, M = L + 1 tokens.
State: the parts of the weights (see `model.weights`), 'optimizer', 'means' (running means of the loss and the gradient
norm, and how many steps they are of), 'step' (steps done, skipped ones too).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

from scratchpatch import compilation_cache, config as config_lib, sharding
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.model import benefit, loss as loss_lib, weights as weights_lib
from scratchpatch.training import optimizer as optimizer_lib

# A new document starts where documents lately ended: the carried threshold moves by this share of the way from where
# a step's documents started to the mean of where they ended, each counted once. No effect without a controller.
THRESHOLD_RATE = 0.1
# Sections of the config whose thresholds a controller may move.
_CONTROLLED = ("patching", "trigger")

# The running means go over about so many steps, and judge no step before they are of so many.
MEAN_STEPS, MEAN_LEAST = 100, 20

# Why a step changed nothing, by the number in its sums.
SKIPPED = (
    "",
    "the loss is not finite",
    "the gradient norm is not finite",
    "the loss is more than training.loss_spike times its running mean",
    "the gradient norm is more than training.norm_spike times its running mean",
)

# Left alone, XLA reduces large gradients over fsdp and slices the result where their layout makes scattering awkward:
# twice the traffic. Relaid, all are scattered.
TPU_OPTIONS = {"xla_tpu_relayout_group_size_threshold_for_reduce_scatter": 1}


class Trainer:
    """The compiled pieces of a run on one mesh: initial state, step, their shardings. batch: what a step reads, as
    ShapeDtypeStructs: int32 [A, B, M]; with data.entropies a pair, of that and float32 [A, B, L]. settings: the same of
    what it is taken with, float32 [fields of optimizer.Settings].
    """

    def __init__(self, config, mesh):
        config = mesh_lib.settled(config, mesh)
        if config.training.remat == "offload" and mesh.devices.flat[0].platform == "cpu":
            raise UserError("training.remat = 'offload' needs a TPU or a GPU, and this runs on cpu: set it to 'ffn'")
        self.config, self.mesh = config, mesh
        self.definition, weights = weights_lib.abstract(config)
        everywhere = NamedSharding(mesh, PartitionSpec())
        placed = weights_lib.shardings(config, mesh)
        moments = jax.eval_shape(optimizer_lib.init, weights["params"])
        self._shapes = {**weights, "optimizer": moments, **jax.eval_shape(_nothing_done)}
        self.shardings = {
            **placed,
            "optimizer": optax.tree_utils.tree_map_params(
                optimizer_lib.init, lambda _, place: place, moments, placed["params"],
                transform_non_params=lambda _: everywhere,
            ),
            **jax.tree.map(lambda _: everywhere, jax.eval_shape(_nothing_done)),
        }
        self.settings = jax.ShapeDtypeStruct((len(optimizer_lib.Settings._fields),), jnp.float32, sharding=everywhere)
        parts = mesh_lib.parts(config, mesh)
        rows = (parts, config.training.batch_rows // parts)
        names = (None, "local_rows", None)
        placed_rows = NamedSharding(mesh, sharding.spec(names, (*rows, 1), mesh, "a part of training.batch_rows"))
        self.batch = jax.ShapeDtypeStruct((*rows, config.data.window + 1), jnp.int32, sharding=placed_rows)
        if config.data.entropies:
            entropies = jax.ShapeDtypeStruct((*rows, config.data.window), jnp.float32, sharding=placed_rows)
            self.batch = (self.batch, entropies)
        self._step = jax.jit(self.advance, donate_argnums=0, out_shardings=(self.shardings, everywhere))

    def abstract_state(self):
        """The state as ShapeDtypeStructs with shardings, to restore into."""
        return jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), self._shapes, self.shardings
        )

    def init(self, given=()):
        """The state before step 0, the same on every mesh, but for the parts that are given."""
        wanted = {part: place for part, place in self.shardings.items() if part not in given}

        def parts(seed):
            state = self.initial(seed)
            return {part: state[part] for part in wanted}

        with jax.set_mesh(self.mesh):
            initial = jax.jit(parts, out_shardings=wanted, compiler_options=compilation_cache.quick())
            return initial(jnp.uint32(self.config.seed))

    def compile(self, compiler_options: dict | None = None):
        """The step ahead of time: (state, batch, settings as `place_settings` gives them) -> (state, sums)."""
        with jax.set_mesh(self.mesh):
            lowered = self._step.lower(self.abstract_state(), self.batch, self.settings)
            if self.mesh.devices.flat[0].platform == "tpu":
                try:
                    return lowered.compile(TPU_OPTIONS | (compiler_options or {}))
                except jax.errors.JaxRuntimeError as error:
                    if "xla_tpu" not in str(error):
                        raise
                    fault = "this libtpu does not know %s: gradients may be reduced where they could be scattered"
                    logging.warning(fault, *TPU_OPTIONS)
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

    def place_settings(self, settings: np.ndarray) -> jax.Array:
        """What a step is taken with (see `optimizer.settings`), on every device."""
        return jax.make_array_from_callback(self.settings.shape, self.settings.sharding, settings.__getitem__)

    def initial(self, seed):
        """The state before the first step, from a seed."""
        weights = weights_lib.init(self.config, seed)
        moments = optimizer_lib.init(weights["params"])
        return {**weights, "optimizer": moments, **_nothing_done()}

    def advance(self, state, batch, settings):
        """One optimizer step, or none where `_reason` skips it: then state['step'] alone goes on."""
        s = optimizer_lib.Settings(*settings)
        batch_ABM, entropy_ABL = batch if self.config.data.entropies else (batch, None)
        params, thresholds = state["params"], state["thresholds"]
        rest = {part: x for part, x in weights_lib.select(state).items() if part != "params"}
        count = functools.partial(loss_lib.count_targets, vocabulary=config_lib.vocabulary(self.config))
        targets = jax.vmap(count)(batch_ABM).sum().astype(jnp.float32)
        gradient_of = jax.grad(loss_lib.loss, has_aux=True)

        def part(gradient, rows):
            tokens_BM, entropy_BL = rows
            with sharding.summing(self.config.training.gradient_dtype):
                g, total = gradient_of(
                    params, rest, self.definition, tokens_BM, targets, self.config.model.entropy_head.weight,
                    entropy_BL, s.patch_bytes,
                )
            return jax.tree.map(jnp.add, gradient, g), total

        rows = (batch_ABM, entropy_ABL)
        if len(batch_ABM) == 1:
            gradient, total = part(jax.tree.map(jnp.zeros_like, params), jax.tree.map(lambda x: x[0], rows))
        else:
            gradient, total_A = jax.lax.scan(part, jax.tree.map(jnp.zeros_like, params), rows)
            total = jax.tree.map(lambda x: x.sum(0), total_A)
        documents = jnp.maximum(total["documents"], 1.0)
        ended = {f"{name}_threshold": total.pop(f"{name}_threshold") / documents for name in _CONTROLLED}
        norm = optax.global_norm(gradient)
        updates, optimizer = optimizer_lib.make(s).update(gradient, state["optimizer"], params)
        loss = total["nats"] / jnp.maximum(targets, 1.0)
        skipped = _reason(loss, norm, state["means"], s)
        new = state | {
            "params": optax.apply_updates(params, updates),
            "thresholds": {k: self._carried(k, old, ended[k], total["documents"]) for k, old in thresholds.items()},
            "optimizer": optimizer, "means": _moved(state["means"], loss, norm),
        }
        if "statistics" in state:
            new["statistics"] = benefit.carried(state["statistics"], total)
            total.pop("benefit_pairs", None)
        state = jax.tree.map(lambda a, b: jnp.where(skipped == 0, a, b), new, state) | {"step": state["step"] + 1}
        return state, total | {"gradient_norm": norm, "targets": targets, "skipped": skipped} | ended

    def _carried(self, name: str, old, end, documents):
        """A threshold after the step: only a controller moves it, and only documents that were there."""
        name = name.removesuffix("_threshold")
        section = self.config[name]
        if section.gain == 0 or section.kind not in config_lib.SCORED[name]:
            return old
        return jnp.where(documents > 0, old + THRESHOLD_RATE * (end - old), old)


def _nothing_done() -> dict:
    """The parts of the state, before the first step, that depend on no weights."""
    means = {"loss": jnp.float32(0), "norm": jnp.float32(0), "steps": jnp.int32(0)}
    return {"means": means, "step": jnp.int32(0)}


def _moved(means: dict, loss, norm) -> dict:
    """The running means after a step that was taken: plain means at first, then of about MEAN_STEPS steps."""
    share = 1 / jnp.minimum(means["steps"] + 1, MEAN_STEPS).astype(jnp.float32)
    moved = {name: means[name] + share * (x - means[name]) for name, x in (("loss", loss), ("norm", norm))}
    return moved | {"steps": means["steps"] + 1}


def _reason(loss, norm, means: dict, s: optimizer_lib.Settings):
    """int32: why a step is skipped, the number of a line of SKIPPED; 0: it is taken."""
    judged = means["steps"] >= MEAN_LEAST
    why = (
        ~jnp.isfinite(loss), ~jnp.isfinite(norm), judged & (loss > s.loss_spike * means["loss"]),
        judged & (norm > s.norm_spike * means["norm"]),
    )
    return jnp.select(why, jnp.arange(1, len(SKIPPED)), 0)
