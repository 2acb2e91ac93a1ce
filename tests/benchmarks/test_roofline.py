"""Bytes and FLOPs of a program small enough to count by hand, joined with times of its kernels."""

import gzip
import json
import sys
from collections import Counter

import pytest

from benchmarks import roofline, work

# A loop of updates with a loop of three in it; what each line moves stands beside it below.
MODULE = r"""
HloModule jit_call, is_scheduled=true

%fused_slice (p0: f32[64,10], p1: f32[10]) -> (f32[10], f32[10]) {
  %p0 = f32[64,10]{1,0} parameter(0)
  %p1 = f32[10]{0} parameter(1)
  %flat = f32[640]{0} bitcast(%p0)
  %slice.1 = f32[10]{0} slice(%flat), slice={[0:10]}
  %add.1 = f32[10]{0} add(%slice.1, %p1)
  ROOT %tuple.1 = (f32[10]{0}, f32[10]{0}) tuple(%add.1, %slice.1)
}

%fused_update (p0.1: bf16[8,100], p1.1: bf16[1,100], p2: s32[]) -> bf16[8,100] {
  %p0.1 = bf16[8,100]{1,0} parameter(0)
  %p1.1 = bf16[1,100]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  ROOT %in_place = bf16[8,100]{1,0} dynamic-update-slice(%p0.1, %p1.1, %p2, %p2)
}

%fused_dot (p0.2: f32[4,5,6], p1.2: f32[4,6,7]) -> f32[4,5,7] {
  %p0.2 = f32[4,5,6]{2,1,0} parameter(0)
  %p1.2 = f32[4,6,7]{2,1,0} parameter(1)
  ROOT %dot.1 = f32[4,5,7]{2,1,0} dot(%p0.2, %p1.2), lhs_batch_dims={0}, \
lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}
}

%inner (carry.1: (s32[], f32[100])) -> (s32[], f32[100]) {
  %carry.1 = (s32[], f32[100]{0}) parameter(0)
  %element.1 = f32[100]{0} get-tuple-element(%carry.1), index=1
  %sorted = f32[100]{0} sort(%element.1), dimensions={0}, to_apply=%less
  ROOT %next.1 = (s32[], f32[100]{0}) tuple(%i, %sorted)
}

%body (carry: (s32[], /*index=1*/bf16[2,8,8,16])) -> (s32[], bf16[2,8,8,16]) {
  %carry = (s32[], bf16[2,8,8,16]{3,2,1,0}) parameter(0)
  %x = bf16[2,8,8,16]{3,2,1,0} get-tuple-element(%carry), index=1
  %cudnn-conv-bias-activation.1 = (bf16[2,8,8,32]{3,2,1,0}, u8[5000]{0}) custom-call(%x, \
/*index=1*/%filter, %bias), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBiasActivationForward", metadata={op_name="f/dgrad"}
  %dy = bf16[2,8,8,32]{3,2,1,0} get-tuple-element(%cudnn-conv-bias-activation.1), index=0
  %filter = bf16[32,3,3,16]{3,2,1,0} constant({...})
  %bias = bf16[32]{0} constant({...})
  %cudnn-conv-bw-input.1 = (bf16[2,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%dy, %filter), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardInput"
  %cudnn-conv-bw-filter.1 = (bf16[32,3,3,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %dy), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardFilter"
  %cublas.1 = (f32[3,5]{1,0}, s8[33554432]{0}) custom-call(%left, %right), \
custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{\
"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"],"rhs_contracting_dimensions":["0"]}}}
  %left = f32[7,3]{1,0} constant({...})
  %right = f32[7,5]{1,0} constant({...})
  %same = f32[3,7]{1,0} bitcast(%left)
  %custom-call.7 = (bf16[10]{0}, f32[2]{0}) custom-call(%bias, %left, %same), \
custom_call_target="__gpu$TopK"
  %input_reduce_fusion.2 = (f32[10]{0}, f32[10]{0}) fusion(%whole, %ten), kind=kInput, \
calls=%fused_slice
  %loop_update_fusion = bf16[8,100]{1,0} fusion(%stack, %row, %i), kind=kLoop, calls=%fused_update
  %gemm_fusion_dot.3 = f32[4,5,7]{2,1,0} fusion(%a, %b), kind=kCustom, calls=%fused_dot, \
backend_config={"fusion_backend_config":{"kind":"__triton_gemm"}}
  %whole = f32[64,10]{1,0} constant({...})
  %ten = f32[10]{0} constant({...})
  %stack = bf16[8,100]{1,0} constant({...})
  %row = bf16[1,100]{1,0} constant({...})
  %i = s32[] constant(0)
  %a = f32[4,5,6]{2,1,0} constant({...})
  %b = f32[4,6,7]{2,1,0} constant({...})
  %loop.1 = (s32[], f32[100]{0}) while(%t), condition=%never, body=%inner, \
backend_config={"known_trip_count":{"n":"3"}}
  ROOT %next = (s32[], bf16[2,8,8,16]{3,2,1,0}) tuple(%i, %x)
}

%never (carry.2: (s32[])) -> pred[] {
  ROOT %least = pred[] compare(%j, %limit), direction=LT
}

ENTRY %main (arg: f32[50]) -> f32[50] {
  %arg = f32[50]{0} parameter(0)
  %copy.9 = f32[50]{0} copy(%arg)
  %loop = (s32[], bf16[2,8,8,16]{3,2,1,0}) while(%t), condition=%condition, body=%body
  %all-gather-start = ((f32[50]{0}, f32[50]{0}), (f32[100]{0}, f32[100]{0})) \
all-gather-start(%arg, %copy.9), dimensions={0}
  %all-gather-done = (f32[100]{0}, f32[100]{0}) all-gather-done(%all-gather-start)
  %all-reduce-start = f32[50]{0} all-reduce-start(%copy.9), to_apply=%add
  %all-reduce-done = f32[50]{0} all-reduce-done(%all-reduce-start)
  ROOT %all-reduce.1 = f32[50]{0} all-reduce(%copy.9), to_apply=%add
}
""".replace("\\\n", "")

X, DY, FILTER, BIAS = 2 * 8 * 8 * 16 * 2, 2 * 8 * 8 * 32 * 2, 32 * 9 * 16 * 2, 32 * 2
CONVOLUTION = 2 * (2 * 8 * 8 * 32) * (9 * 16)
PER_UPDATE = [
    ("fprop", X + FILTER + BIAS + DY, CONVOLUTION),
    ("dgrad", DY + FILTER + X, CONVOLUTION),
    ("wgrad", X + DY + FILTER, CONVOLUTION),
    ("gemm", 4 * (21 + 35 + 15), 2 * 3 * 5 * 7),
    ("__gpu$TopK", BIAS + 4 * 21 + 20 + 8, 0),
    ("input_reduce_fusion.2", 4 * (10 + 10 + 10 + 10), 0),
    ("loop_update_fusion", 200 + 4 + 200, 0),
    ("gemm", 4 * (120 + 168 + 140), 2 * 4 * 5 * 7 * 6),
]


def test_every_kernel_is_counted():
    found = [(k.name, k.times, k.bytes, k.flops) for k in work.kernels(MODULE, updates=5)]
    in_updates = [(name, 5, moved, flops) for name, moved, flops in PER_UPDATE]
    compares = [("compare", 5, 1, 0), ("sort", 15, 800, 0)]
    assert found == [
        ("copy", 1, 400, 0),
        *in_updates,
        *compares,
        ("nccl_all-gather-start", 1, 400 + 800, 0),
        ("nccl_all-reduce-start", 1, 400, 0),
        ("nccl_all-reduce", 1, 400, 0),
    ]


def test_updates_need_a_loop():
    with pytest.raises(ValueError, match="one update a call"):
        work.kernels(MODULE.replace("body=%body", 'known_trip_count:{"n":"5"}'), updates=5)


def write_trace(folder, milliseconds):
    titles = [("process_name", "/device:GPU:0"), ("thread_name", "Stream #7(Compute)")]
    events = [
        {"ph": "M", "pid": 1, "tid": 7, "name": kind, "args": {"name": name}}
        for kind, name in titles
    ]
    for name, value in milliseconds.items():
        events.append({"ph": "X", "pid": 1, "tid": 7, "name": name, "ts": 0, "dur": value * 1e3})
    text = json.dumps({"traceEvents": events}).encode()
    (folder / "host.trace.json.gz").write_bytes(gzip.compress(text))


def test_the_table():
    """At 2 TB/s and 500 TFLOP/s, two updates, each kernel bound by the worse of its two."""
    kernels = [
        work.Kernel("fprop", times=2, bytes=10**9, flops=2e12),  # 4 ms, the bytes half a ms
        work.Kernel("fprop", times=2, bytes=4 * 10**9, flops=5e10),  # 2 ms, the FLOPs 0.1 ms
        work.Kernel("loop_add_fusion.1", times=2, bytes=10**9, flops=0),  # 0.5 ms
        work.Kernel("sort", times=1, bytes=2 * 10**9, flops=0),  # 1 ms, in one of the updates
    ]
    seconds = Counter({"sm90_fprop": 0.016, "nchwToNhwc": 0.002, "loop_add_fusion_1": 0.001})
    assert roofline.table(seconds, kernels, 2e12, 5e14, updates=2) == [
        "| kind | ms | GB | GFLOP | GB/s | TFLOP/s | least ms | least of its time |",
        "|-|-|-|-|-|-|-|-|",
        "| convolutions, forward | 8.00 | 5.00 | 2050 | 625 | 256.2 | 6.00 | 75% |",
        "| concatenations, transposes, copies, fills | 1.00 | 0.00 | 0 | 0 | 0.0 | 0.00 | 0% |",
        "| other elementwise fusions | 0.50 | 1.00 | 0 | 2000 | 0.0 | 0.50 | 100% |",
        "| sort | - | 1.00 | 0 | - | - | 0.50 | - |",
        "| all | 9.50 | 7.00 | 2050 | 737 | 215.8 | 7.00 | 74% |",
    ]


def test_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["roofline", str(tmp_path), "--updates=5"])
    with pytest.raises(SystemExit):
        roofline.main()
    assert "module.txt.gz: profile something with benchmarks.step" in capsys.readouterr().err
    (tmp_path / "module.txt.gz").write_bytes(gzip.compress(MODULE.encode()))
    roofline.main()
    assert "| __gpu$TopK | - | 0.00 | 0 |" in capsys.readouterr().out
    write_trace(tmp_path, {"sm90_fprop": 10, "something_else_3": 5})
    roofline.main()
    rows = capsys.readouterr().out.splitlines()
    assert rows[2].startswith("| convolutions, forward | 2.00 | 0.00 | 0 |")
    assert rows[3].startswith("| something_else | 1.00 | 0.00 | 0 |")


@pytest.mark.parametrize(
    ("attributes", "kind", "share"),
    [
        ("window={size=3x3}, dim_labels=b01f_o01i->b01f", "fprop", 1),
        ("window={size=3x3 lhs_dilate=2x2}, dim_labels=b01f_o01i->b01f", "fprop", 1 / 4),
        ("window={size=3x3 rhs_reversal=1x1}, dim_labels=b01f_o01i->b01f", "dgrad", 1),
        ("window={size=3x3}, dim_labels=b01f_i01o->b01f, conv_kind=DGRAD", "dgrad", 1),
        ("window={size=8x8}, dim_labels=f01b_o01i->01bf", "wgrad", 1),
    ],
)
def test_convolutions_in_fusions(attributes, kind, share):
    text = f"""\
%computation (p0: bf16[2,8,8,4], p1: bf16[4,3,3,4]) -> bf16[2,8,8,1] {{
  %p0 = bf16[2,8,8,4]{{3,2,1,0}} parameter(0)
  %p1 = bf16[4,3,3,4]{{3,2,1,0}} parameter(1)
  ROOT %c = bf16[2,8,8,4]{{3,2,1,0}} convolution(%p0, %p1), {attributes}
}}

ENTRY %main (a: bf16[2,8,8,4], b: bf16[4,3,3,4]) -> bf16[2,8,8,4] {{
  %a = bf16[2,8,8,4]{{3,2,1,0}} parameter(0)
  %b = bf16[4,3,3,4]{{3,2,1,0}} parameter(1)
  ROOT %conv.5 = bf16[2,8,8,4]{{3,2,1,0}} fusion(%a, %b), kind=kCustom, calls=%computation
}}
"""
    (kernel,) = work.kernels(text, updates=1)
    assert (kernel.name, kernel.bytes) == (kind, 2 * (512 + 144 + 512))
    assert kernel.flops == share * 2 * 512 * 36
