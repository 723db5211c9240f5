"""Programs in XLA's own words: pieces of what it wrote for pods, and one compiled here."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from scratchpatch.distributed import mesh
from scratchpatch.planning import hlo
from scratchpatch.training.step import Trainer
from tests import tiny

MESH = {"slice": 1, "data": 2, "fsdp": 4, "tensor": 1, "sequence": 1}

PROGRAM = """HloModule jit_advance, entry_computation_layout={...}

%all-reduce-scatter.1 (input.1: bf16[64,32]) -> bf16[16,32] {
  %input.1 = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.1 = bf16[64,32]{1,0} all-reduce(%input.1), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, \
use_global_device_ids=true, to_apply=%add
  ROOT %dynamic-slice.1 = bf16[16,32]{1,0} dynamic-slice(%all-reduce.1, %i, %j), dynamic_slice_sizes={16,32}
}

%fused.1 (p.1: bf16[16,32]) -> bf16[64,32] {
  %p.1 = bf16[16,32]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[1,64,32]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p.1), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}, frontend_attributes={chain_id="5"},\
 metadata={op_name="jit(advance)/while/body/convert"}
}

%fused.2 (p.2: bf16[16,32]) -> bf16[64,32] {
  ROOT %all-gather.2 = bf16[1,64,32]{2,1,0} all-gather(%p.2), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}, frontend_attributes={chain_id="5"}
}

%body.1 (t.1: (s32[], bf16[16,32])) -> (s32[], bf16[16,32]) {
  %fusion.1 = bf16[64,32]{1,0} fusion(%a), kind=kCustom, calls=%fused.1
  %fusion.2 = bf16[64,32]{1,0} fusion(%b), kind=kCustom, calls=%fused.2
  %fusion.3 = bf16[16,32]{1,0} fusion(%c), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %tuple.1 = (s32[], bf16[16,32]{1,0}) tuple(%i, %fusion.3)
}

%condition.1 (t.2: (s32[], bf16[16,32])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(20)
  ROOT %compare.1 = pred[] compare(%g, %constant.1), direction=LT
}

ENTRY %main.1 (x: bf16[16,32]) -> bf16[16,32] {
  %while.1 = (s32[]{:T(128)}, bf16[16,32]{1,0}) while(%t), condition=%condition.1, body=%body.1
  %all-reduce.2 = (f32[8]{0}, f32[]{:T(128)}) all-reduce(%v, %w), channel_id=9, replica_groups=[4,2]<=[2,4]T(1,0), \
to_apply=%add
  %reduce-scatter.1 = f32[10]{0} reduce-scatter(%v), channel_id=3, replica_groups=[1,8]<=[8], dimensions={0}, \
to_apply=%add
  %collective-permute.1 = f32[100]{0} collective-permute(%v), channel_id=4, \
source_target_pairs={{0,1},{1,2},{2,3},{4,5},{5,6},{6,7}}
  %send.1 = (f32[50]{0}, u32[]{:S(2)}, token[]) send(%v, %token), channel_id=12, \
frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done.1 = token[] send-done(%send.1), channel_id=12
  ROOT %copy.1 = bf16[16,32]{1,0} copy(%y)
}
"""


def test_collectives_are_counted_as_often_as_loops_turn_and_once_per_chain():
    found = hlo.totals(hlo.collectives(PROGRAM, MESH))
    matrix = 64 * 32 * 2
    assert found == {
        "all-gather": {"fsdp": 20 * matrix * 3 / 4},
        "all-reduce": {"data": pytest.approx(2 * 36 * 1 / 2)},
        "collective-permute": {"fsdp": 400},
        "reduce-scatter": {"fsdp": 20 * matrix * 3 / 4, "data+fsdp": pytest.approx(8 * 40 * 7 / 8)},
        "send": {"slice": 200},
    }


def test_a_collective_says_where_it_comes_from_and_what_it_carries():
    gather = next(c for c in hlo.collectives(PROGRAM, MESH) if c.kind == "all-gather")
    assert (gather.shapes, gather.types, gather.times) == (((64, 32),), ("bf16",), 20)
    assert gather.operation == "jit(advance)/while/body/convert"
    several = next(c for c in hlo.collectives(PROGRAM, MESH) if c.kind == "all-reduce")
    assert (several.shapes, several.types) == (((8,), ()), ("f32", "f32"))


def test_memory_is_that_of_the_first_space_alone():
    text = """BufferAssignment:
allocation 0: size 4096, page 0, thread-local:
 value: <5 add @0> (size=4096,offset=0): s32[]
allocation 1: size 1000, page 0, parameter 3, shape |f32[250]| at ShapeIndex {}, maybe-live-out:
allocation 2: size 500, page 0, preallocated-temp:
allocation 3: size 9999, color 1, page 0, preallocated-temp:
"""
    assert hlo.memory(text) == {"parameter": 1000, "temporary": 4596}


def test_a_product_whose_factor_is_spread_gathers_it():
    made = mesh.make(tiny.config({"mesh.data": 1, "mesh.fsdp": 8}))

    def place(*spec):
        return NamedSharding(made, PartitionSpec(*spec))

    def f(x, w):
        return x @ jax.lax.with_sharding_constraint(w, place(None, None))

    x = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=place("fsdp", None))
    w = jax.ShapeDtypeStruct((128, 32), jnp.float32, sharding=place("fsdp", None))
    text = jax.jit(f).lower(x, w).compile().as_text()
    assert hlo.totals(hlo.collectives(text, dict(made.shape))) == {"all-gather": {"fsdp": 128 * 32 * 4 * 7 / 8}}


@pytest.fixture(scope="module")
def long_rows():
    """Collectives of a step whose rows of 512 bytes are spread over 4 devices; and its config."""
    fields = {
        "data.window": 512,
        "model.encoder.window": 16,
        "model.entropy_head.weight": 0.0,
        "model.decoder.window": 16,
        "patching.patch_bytes": 8,
        "trigger.kind": "stride",
        "trigger.stride": 2,
        "training.remat": "full",
        "mesh.sequence": 4,
    }
    config = tiny.config(fields)
    trainer = Trainer(config, mesh.make(config))
    found = hlo.collectives(trainer.compile().as_text(), dict(trainer.mesh.shape))
    return trainer.config, [c for c in found if c.axes == "sequence"]


def test_windows_over_the_sequence_axis_send_no_more_than_a_halo(long_rows):
    config, found = long_rows
    heads = (config.model.encoder.heads, config.model.d_byte // config.model.encoder.heads)
    sent = [shape for c in found for shape in c.shapes if shape[-2:] == heads and c.kind == "collective-permute"]
    # [rows, block, heads, width]: the block before a device's first, never its 8 others.
    assert sent and {shape[:-2] for shape in sent} == {(config.training.batch_rows, config.model.encoder.window)}


def test_the_trunk_over_the_sequence_axis_gathers_keys_and_values_of_commits_alone(long_rows):
    config, found = long_rows
    kv = (config.model.trunk.kv_heads, config.model.trunk.d_model // config.model.trunk.heads)
    gathered = [shape for c in found for shape in c.shapes if shape[-2:] == kv and c.kind == "all-gather"]
    commits = config.data.window // config.patching.patch_bytes
    assert gathered and {shape for shape in gathered} == {(config.training.batch_rows, commits, *kv)}


def test_over_fsdp_weights_are_gathered_once_per_pass():
    fields = {
        "model.entropy_head.weight": 0.0,
        "model.trunk.layers": 4,
        "model.trunk.d_model": 64,
        "trigger.kind": "none",
        "training.remat": "full",
        "mesh.fsdp": 4,
    }
    config = tiny.config(fields)
    trainer = Trainer(config, mesh.make(config))
    found = hlo.collectives(trainer.compile().as_text(), dict(trainer.mesh.shape))
    # Forward, and with the recomputation backward: matrices of the trunk, whole.
    stack = trainer.abstract_state()["params"]["trunk"]["stack"]
    shapes = {x.shape[1:] for x in jax.tree.leaves(stack) if x.ndim == 3}
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(stack) if x.ndim == 3) * 3 / 4
    gathered = [c for c in found if c.kind == "all-gather" and c.times == 4 and set(c.shapes) <= shapes]
    assert sum(c.bytes * c.times for c in gathered) == 2 * size
