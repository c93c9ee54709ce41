"""The parts of benchmarks/step.py that need no clock: published peaks, another script's lines, the profile's kinds."""

import sys

import pytest

from tests.benchmark_scripts import load

peaks, peer, profile = (load(name) for name in ("_peaks", "_peer", "_profile"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", None),  # not an L4
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),  # as a v5p calls itself
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("cpu", None),
    ],
)
def test_published_peaks_by_the_names_that_jax_gives(kind, expected):
    assert peaks.published(kind, "bfloat16") == expected


def test_a_measured_peak_is_a_plausible_number():
    # Any core that runs this does 10 MFLOP/s, and none 10 PFLOP/s.
    assert 1e7 < peaks.measured("float32", size=64, repeats=2) < 1e16


def test_the_lines_of_the_other_script_are_read():
    text = """something
step resnet50 224px batch 16 l2: 10.5 images/s
step resnet50 224px batch 16 l2_sp: 9.0 images/s
step resnet50 224px batch 16 delta: 8 images/s
"""
    assert peer.parse(text, ["delta", "l2", "l2_fe"]) == {"delta": 8.0, "l2": 10.5}


def test_a_script_that_fails_is_named_with_its_last_line(tmp_path):
    script = tmp_path / "peer.py"
    script.write_text("import sys\nsys.exit(f'no network {sys.argv[2]}')")
    arguments = {"arch": "vgg", "size": 8, "batch": 2, "classes": 3, "bfloat16": False}
    with pytest.raises(SystemExit, match=r"peer\.py step --arch=vgg .* failed: no network --arch=vgg"):
        peer.measure([sys.executable, str(script)], **arguments)
    with pytest.raises(SystemExit, match="cannot be started"):
        peer.measure([str(tmp_path / "python"), str(script)], **arguments)


# Shortened from programs of XLA's CPU compiler.
PROGRAM = """
HloModule jit_train_step

%fused_conv (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %c.1 = f32[4]{0} convolution(%p, %p), window={size=3x3}, metadata={op_name="jit(f)/transpose(jvp(Net))/conv"}
}

%fused_add (p.1: f32[4]) -> f32[4] {
  %p.1 = f32[4]{0} parameter(0)
  %reshaped = f32[4]{0} bitcast(%p.1)
  ROOT %sum = f32[4]{0} add(%reshaped, %p.1)
}

%fused_reduce (p.2: f32[4]) -> f32[] {
  %p.2 = f32[4]{0} parameter(0)
  %square = f32[4]{0} multiply(%p.2, %p.2)
  ROOT %r = f32[] reduce(%square, %zero), dimensions={0}
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %conv_fusion.1 = f32[4]{0} fusion(%a), kind=kCustom, calls=%fused_conv
  %dot.2 = f32[4]{0} dot(%a, %a), metadata={op_name="jit(f)/jvp(Net)/fc/dot_general"}
  %add_fusion = f32[4]{0} fusion(%a), kind=kLoop, calls=%fused_add
  %add_fusion.1 = f32[4]{0} fusion(%a), kind=kLoop, calls=%fused_add, metadata={op_name="jit(f)/depthwise_conv/add"}
  %reduce_fusion = f32[] fusion(%a), kind=kLoop, calls=%fused_reduce
  %while.3 = (s32[], f32[4]{0}) while(%t), condition=%c, body=%b
  %all-reduce.4 = f32[4]{0} all-reduce(%a), channel_id=1
  ROOT %copy.5 = f32[4]{0} copy(%a)
}
"""


def test_instructions_are_sorted_into_kinds_of_work():
    kinds = profile.kinds(PROGRAM)
    expected = {
        "conv_fusion.1": "convolutions, backward",
        "dot.2": "convolutions, forward",
        "add_fusion": "elementwise",
        "add_fusion.1": "depthwise, forward",
        "reduce_fusion": "reductions",
        "while.3": "loops",
        "all-reduce.4": "collectives",
        "copy.5": "copies",
    }
    assert {name: kinds[name] for name in expected} == expected


def test_a_loop_counts_without_what_runs_inside_it():
    def event(name, began, length, thread=1):
        return {"ph": "X", "pid": 1, "tid": thread, "ts": began, "dur": length, "args": {"hlo_op": name}}

    events = [
        event("while.3", 0, 100),
        event("dot.2", 10, 30),
        event("add", 15, 5),  # inside the product
        event("dot.2", 50, 40),
        event("dot.2", 120, 10),
        event("copy.5", 0, 60, thread=2),  # beside the loop, not in it
        {"ph": "X", "pid": 1, "tid": 1, "ts": 0, "dur": 500, "args": {}, "name": "no operation"},
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "host"}},
    ]
    assert profile.self_times(events) == {"while.3": 30, "dot.2": 25 + 40 + 10, "add": 5, "copy.5": 60}
