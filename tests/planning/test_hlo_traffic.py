"""What operations read from main memory and write to it, from XLA's text of them."""

import pytest

from scratchpatch.planning import hlo_traffic

PROGRAM = """HloModule jit_f, entry_computation_layout={...}

%taken.1 (p.1: f32[64,128], i.1: s32[4]) -> f32[4,128] {
  %p.1 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %i.1 = s32[4]{0} parameter(1)
  %bitcast.1 = f32[64,128]{1,0} bitcast(%p.1)
  ROOT %gather.1 = f32[4,128]{1,0} gather(%bitcast.1, %i.1), offset_dims={1}
}

%changed.1 (p.2: f32[64,128], i.2: s32[4], n.2: f32[4,128]) -> f32[64,128] {
  %p.2 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %i.2 = s32[4]{0} parameter(1)
  %n.2 = f32[4,128]{1,0} parameter(2)
  ROOT %scatter.1 = f32[64,128]{1,0} scatter(%p.2, %i.2, %n.2), to_apply=%assign.1
}

%body.1 (t.1: (s32[], f32[64,128])) -> (s32[], f32[64,128]) {
  %t.1 = (s32[], f32[64,128]{1,0}) parameter(0)
  %g.1 = f32[64,128]{1,0} get-tuple-element(%t.1), index=1
  %negate.1 = f32[64,128]{1,0} negate(%g.1)
  ROOT %tuple.1 = (s32[], f32[64,128]{1,0}) tuple(%c.1, %negate.1)
}

%condition.1 (t.2: (s32[], f32[64,128])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(3)
  ROOT %compare.1 = pred[] compare(%g, %constant.1), direction=LT
}

%nothing.1 (x.3: f32[64,128]) -> f32[64,128] {
  ROOT %x.3 = f32[64,128]{1,0} parameter(0)
}

%doubled.1 (x.4: f32[64,128]) -> f32[64,128] {
  %x.4 = f32[64,128]{1,0} parameter(0)
  ROOT %add.1 = f32[64,128]{1,0} add(%x.4, %x.4)
}

ENTRY %main.1 (x: f32[64,128], i: s32[4], n: f32[4,128]) -> f32[64,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  %i = s32[4]{0} parameter(1)
  %n = f32[4,128]{1,0} parameter(2)
"""
WHOLE, ROWS, INDEX = 64 * 128 * 4, 4 * 128 * 4, 4 * 4
OPERATIONS = {
    "a product": ("%d = f32[64,64]{1,0} dot(%x, %x)", 2 * WHOLE + 64 * 64 * 4),
    "into fast memory": ("%a = f32[64,128]{1,0:T(8,128)S(1)} negate(%x)", WHOLE),
    "fetched ahead": ("%c = (f32[64,128]{1,0:S(1)}, f32[64,128]{1,0}, u32[]{:S(2)}) copy-start(%x)", WHOLE),
    "fetched": ("%c = f32[64,128]{1,0:S(1)} copy-done(%x)", 0),
    "rows looked up": ("%r = f32[4,128]{1,0} fusion(%x, %i), kind=kCustom, calls=%taken.1", 2 * ROWS + INDEX),
    "rows changed in place": (
        "%s = f32[64,128]{1,0} fusion(%x, %i, %n), kind=kCustom, calls=%changed.1",
        3 * ROWS + INDEX,
    ),
    "a loop": (
        "%w = (s32[], f32[64,128]{1,0}) while(%x), condition=%condition.1, body=%body.1",
        3 * 2 * WHOLE,
    ),
    "a branch": (
        "%b = f32[64,128]{1,0} conditional(%i, %x, %x), branch_computations={%nothing.1, %doubled.1}",
        3 * WHOLE,
    ),
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_an_operation_moves_what_it_reads_and_writes(what):
    line, size = OPERATIONS[what]
    assert hlo_traffic.traffic(f"{PROGRAM}  ROOT {line}\n}}\n") == size
