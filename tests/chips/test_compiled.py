"""benchmarks/compiled.py without a compiler: both sides are the same networks, and what is read of their programs."""

import json
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from delta_jax import chips, features, models
from delta_jax.chips import flops
from delta_jax.chips.figures import CHIPS
from tests.benchmark_scripts import load

script, plain, kept_programs = (load(name) for name in ("compiled", "_plain_networks", "_kept_programs"))


def shapes(tree):
    return sorted(leaf.shape for leaf in jax.tree.leaves(tree))


# The other ResNets differ from these in their depths alone.
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "efficientnet_lite0", "inception_v3"])
def test_the_plain_network_is_the_same_network(name):
    spec, ours, theirs = models.spec(name), models.create(name, num_classes=7), plain.NETWORKS[name](7)
    images = jax.ShapeDtypeStruct((2, spec.input_size, spec.input_size, 3), jnp.float32)
    variables = jax.eval_shape(ours.init, jax.random.key(0), images)
    with jax.numpy_dtype_promotion("standard"):  # flax's average pooling
        plain_variables = jax.eval_shape(lambda x: theirs.init(jax.random.key(0), x, False), images)
        run = partial(theirs.apply, train=False)
        logits, maps = jax.eval_shape(run, plain_variables, images)
        operations = flops.count(run, plain_variables, images)
    assert logits.shape == (2, 7)
    assert shapes(plain_variables["params"]) == shapes(variables["params"])
    assert shapes(plain_variables["batch_stats"]) == shapes(variables["batch_stats"])
    taps = features.list_taps(ours, variables, images)
    assert [one.shape for one in maps] == [taps[tap] for tap in spec.taps]
    # Padding counts like pixels, so strides, padding and groups are the same as well.
    assert operations == flops.count(ours.apply, variables, images)
    assert {one.dtype for one in maps} == {jnp.dtype("bfloat16")}


def test_plain_resnets_are_as_deep():
    resnets = {name: found for name, found in plain.NETWORKS.items() if name.startswith("resnet")}
    assert len(resnets) == 5
    for name, found in resnets.items():
        arguments = models.spec(name).arguments
        assert found.args == (arguments["depths"], arguments["bottleneck"])


def test_both_sides_step_from_the_same_numbers():
    images, labels = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        step, arguments = plain.build("resnet18", images, labels, classes=5, method="delta")
        *state, loss = jax.eval_shape(step, *arguments)
    assert [shapes(tree) for tree in state] == [shapes(tree) for tree in arguments[:3]]
    assert loss.shape == ()
    assert {leaf.dtype for leaf in jax.tree.leaves(arguments[:4])} == {jnp.dtype("float32")}


TEXT = """HloModule jit_step

%body (p: f32[8]) -> f32[8] {
  %inner = f32[8]{0} fusion(%p), backend_config={"window_config":{"estimated_cycles":"10"}}
}

ENTRY %main (p0: f32[8]) -> f32[8] {
  %p0 = bf16[64,128,128,32]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %one = bf16[64,128,128,32]{3,0,2,1:T(8,128)(2,1)} fusion(%p0), metadata={op_name="jit(step)/jvp(Net)/layer1_0/conv2/conv_general_dilated"}, backend_config={"window_config":{"estimated_cycles":"700"}}
  %two = (f32[32]{0}, bf16[64,128,128,32]{3,0,2,1}) fusion(%one), metadata={op_name="jit(step)/transpose(jvp(Net))/layer1_1/conv2/conv_general_dilated"}, backend_config={"window_config":{"estimated_cycles":"2000"}}
  %three = (f32[32]{0}, bf16[64,128,128,32]{3,0,2,1}) fusion(%two), metadata={op_name="jit(step)/transpose(jvp(Net))/layer2_0/conv2/conv_general_dilated"}, backend_config={"window_config":{"estimated_cycles":"3000"}}
  %buffer = bf16[64,128,128,32]{3,0,2,1} custom-call(), custom_call_target="AllocateBuffer"
  %kernel = f32[8]{0} custom-call(%p0), custom_call_target="tpu_custom_call"
  %moved-start = (bf16[64,128,128,32]{3,0,2,1}, bf16[64,128,128,32]{3,0,2,1}, u32[]) copy-start(%two)
  %moved = bf16[64,128,128,32]{3,0,2,1} copy-done(%moved-start)
  %pooled = bf16[64,128,128,32]{3,0,2,1} select-and-scatter(%moved, %one)
  %small = f32[8]{0} add(%p0, %p0)
  %all-reduce.1 = (f32[3,3,1024,1024]{3,2,1,0}, f32[]) all-reduce(%a, %b), channel_id=1
}
"""  # noqa: E501


def test_what_works_on_maps_without_an_estimate_is_told():
    assert script.uncounted(TEXT) == {"custom-call tpu_custom_call": 1, "select-and-scatter": 1}


def test_the_heaviest_kinds_of_operations_come_first():
    assert script.heaviest(TEXT, 2) == [
        (5000, 2, "backward: conv/conv_general_dilated"),
        (700, 1, "forward: conv/conv_general_dilated"),
    ]


class Lowered:
    """What the script sees of a lowered program; counts how often it is compiled."""

    def __init__(self, text):
        self.text, self.compiled = text, 0

    def as_text(self):
        return self.text

    def compile(self):
        self.compiled += 1
        sizes = {"argument": 300, "output": 200, "alias": 100, "temp": 50}
        memory = SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})
        costs = {"flops": 5.0, "bytes accessed": 7.0, "utilization0{}": 1.0}
        return SimpleNamespace(as_text=lambda: TEXT, memory_analysis=lambda: memory, cost_analysis=lambda: costs)


def test_a_program_is_compiled_once(tmp_path, monkeypatch):
    topology = chips.Topology("v5e:2x2", "tpu", (), CHIPS["TPU v5 lite"])
    first, same, other = Lowered("a"), Lowered("a"), Lowered("b")
    found = [kept_programs.compiled(one, topology, tmp_path / "kept") for one in (first, same, other)]
    assert [one.compiled for one in (first, same, other)] == [1, 0, 1]
    assert found[0] == found[1]
    program = found[1].program
    assert (program.held, program.temporary, program.cycles) == (400, 50, 5700)
    assert (program.flops, program.bytes_accessed) == (5.0, 7.0)
    monkeypatch.setattr(kept_programs, "versions", lambda: {"libtpu": "another"})
    kept_programs.compiled(same, topology, tmp_path / "kept")
    assert same.compiled == 1


def test_a_table_has_both_sides_and_their_ratio(tmp_path, monkeypatch, capsys):
    topology = chips.Topology("v5e:2x2", "tpu", (1, 2, 3, 4), CHIPS["TPU v5 lite"])
    monkeypatch.setattr(script.chips, "find", lambda name: topology)
    monkeypatch.setattr(script, "lower", lambda side, *_, **__: Lowered(side))
    file = tmp_path / "found.json"
    args = script.parse(
        ["--networks=resnet18", "--methods=l2,delta", f"--cache={tmp_path / 'kept'}", f"--json={file}", "--size=64"]
    )
    printed = script.table(script.compare(args)).splitlines()
    assert [line.split()[0] for line in printed[1:7]] == ["resnet18", "ours", "plain", "ours", "not", "not"]
    assert printed[4].split()[3:] == ["1.000"] * 5 + ["-"]
    assert "1 select-and-scatter" in printed[5]
    assert "resnet18 l2 for v5e:2x2, ours ... compiled" in capsys.readouterr().err
    rows = json.loads(file.read_text())
    assert [(row["method"], row["chips"], row["size"], row["per chip"]) for row in rows] == [
        ("l2", 4, 64, 32),
        ("delta", 4, 64, 32),
    ]


def test_what_the_compiler_refuses_is_left_out_and_told(tmp_path, monkeypatch, capsys):
    class Refused(Lowered):
        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 20G of 15G\nmore lines")

    topology = chips.Topology("v5e:2x2", "tpu", (1, 2, 3, 4), CHIPS["TPU v5 lite"])
    monkeypatch.setattr(script.chips, "find", lambda name: topology)
    kind = {"l2": Lowered, "delta": Refused}
    monkeypatch.setattr(script, "lower", lambda side, *_, method, **__: kind[method](side + method))
    args = script.parse(["--networks=resnet18", "--methods=delta,l2", f"--cache={tmp_path / 'kept'}"])
    assert [row["method"] for row in script.compare(args)] == ["l2"]
    assert "left out, the compiler refuses it: RESOURCE_EXHAUSTED: 20G of 15G\n" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--networks=resnet50,vgg16", "--methods=l2_sp"])
def test_what_has_no_plain_side_is_refused(flag, capsys):
    with pytest.raises(SystemExit):
        script.parse([flag])
    assert flag.rpartition("=")[2].rpartition(",")[2] in capsys.readouterr().err
