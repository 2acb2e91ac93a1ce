"""Counting collectives in programs small enough to count by hand."""

import pytest

from diffjax.tools import hlo

# An all-reduce of a tuple, one split in two, a gather in a loop of three, and what only has their
# names: an operand, a tuple's element, metadata.
MODULE = """\
HloModule jit_call, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%body (carry: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carry = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %gathered = bf16[2,8]{1,0:T(2,128)(2,1)S(1)} all-gather(%half), channel_id=3, dimensions={0}
  %fused = f32[8]{0:T(128)} fusion(%gathered), kind=kLoop, calls=%scattering
  ROOT %next = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%i, %fused)
}

%scattering (p: bf16[2,8]) -> f32[8] {
  %p = bf16[2,8]{1,0} parameter(0)
  ROOT %scattered = f32[4]{0} reduce-scatter(%p), channel_id=4, dimensions={0}, to_apply=%add
}

%condition (carry: (s32[], f32[8])) -> pred[] {
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main_spmd (arg: f32[8]) -> f32[8] {
  %arg = f32[8]{0:T(128)} parameter(0), sharding={replicated}
  %all-reduce.1 = (f32[3,3,16,1]{2,3,1,0:T(1,128)S(1)}, f32[]{:T(128)S(1)}, /*index=2*/s8[5]{0}) \
all-reduce(%arg, %b, /*index=2*/%c), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %element = f32[]{:T(128)} get-tuple-element(%all-reduce.1), index=1, metadata={op_name="x"}
  %start = (f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%arg), channel_id=2
  %done = f32[6]{0:T(128)} collective-permute-done(%start)
  %named = f32[8]{0} add(%arg, %arg), metadata={op_name="jit(f)/x = y all-to-all(z)" line=3}
  ROOT %loop = (s32[], f32[8]) while(%t), condition=%condition, body=%body\
BACKEND
}
"""


def test_counts_and_bytes_of_a_module():
    known = MODULE.replace("BACKEND", ', backend_config={"known_trip_count":{"n":"3"}}')
    assert hlo.collectives(known) == {
        "all-reduce": hlo.Traffic(1, (9 * 16 + 1) * 4 + 5),
        "collective-permute": hlo.Traffic(1, 6 * 4),
        "all-gather": hlo.Traffic(3, 3 * 2 * 8 * 2),
        "reduce-scatter": hlo.Traffic(3, 3 * 4 * 4),
    }


@pytest.mark.parametrize(
    "limit", ["%limit = s32[]{:T(128)} constant(7)", "limit = s32[] constant(7)"]
)
def test_a_loop_that_counts_to_a_constant(limit):
    """As in libtpu's programs, which don't say how often a loop runs."""
    text = MODULE.replace("BACKEND", "").replace("  ROOT %less", f"  {limit}\n  ROOT %less")
    counted = hlo.collectives(text)
    assert counted["all-gather"] == hlo.Traffic(7, 7 * 32)
    assert counted["all-reduce"].count == 1
    other_limit = hlo.collectives(text.replace("limit =", "limits ="))
    assert other_limit["all-gather"] == hlo.Traffic(1, 32)


def test_a_loop_of_unknown_length_counts_once():
    unknown = hlo.collectives(MODULE.replace("BACKEND", ""))
    assert unknown["all-gather"] == hlo.Traffic(1, 32)
    assert unknown["reduce-scatter"] == hlo.Traffic(1, 16)


def test_an_asynchronous_computation_counts_where_it_starts():
    text = """\
%wrapped (p: f32[4]) -> f32[4] {
  ROOT %exchanged = f32[4]{0} all-to-all(%p), dimensions={0}
}

ENTRY %main (arg: f32[4]) -> f32[4] {
  %start = ((f32[4]), f32[4], s32[]) async-start(%arg), calls=%wrapped
  ROOT %done = f32[4] async-done(%start), calls=%wrapped
}
"""
    assert hlo.collectives(text) == {"all-to-all": hlo.Traffic(1, 16)}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[]", 4),
        ("f32[2,3]{1,0:T(8,128)}", 24),
        ("bf16[10]", 20),
        ("pred[7]", 7),
        ("c64[2]", 16),
        ("f8e4m3fn[9]", 9),
        ("s4[5]", 3),
        ("f32[0,8]", 0),
        ("(f32[2]{0:T(128)S(1)}, token[], /*index=2*/u64[3])", 32),
    ],
)
def test_bytes_of_shapes(shape, expected):
    assert hlo.array_bytes(shape) == expected


def test_text_that_is_no_module():
    with pytest.raises(ValueError, match="no text of an HLO module"):
        hlo.collectives("error: out of memory")
