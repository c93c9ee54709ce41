"""What four devices tell each other in a training step and in the attention pass: counted in the compiled programs."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from delta_jax.chips import collectives
from delta_jax.chips.collectives import Collective
from delta_jax.models import ModelSpec
from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.processes import sharding
from tests.benchmark_scripts import load

script = load("collectives")

WIDTHS = (8, 16, 16)
# By hand: kernels 3*3*3*8, 9 depthwise * 8, 8*16 and 16*16 (1x1), the head 16*5 + 5, and two vectors per BatchNorm.
PARAMETERS = 216 + 72 + 128 + 256 + 85 + 2 * (8 + 8 + 16 + 16)
NORM_CHANNELS = 8 + 8 + 16 + 16


class Net(nn.Module):
    """Four convolutions, one of them depthwise, each with its BatchNorm; a head of five classes."""

    num_classes: int = 5
    frozen_norm: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x, train=False):
        for n, (features, kernel, depthwise) in enumerate(
            ((8, 3, False), (8, 3, True), (16, 1, False), (16, 1, False))
        ):
            x = Conv(features, kernel, depthwise=depthwise, dtype=self.dtype, name=f"conv{n}")(x)
            x = nn.relu(BatchNorm(frozen=self.frozen_norm, dtype=self.dtype, name=f"bn{n}")(x, train))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(jnp.mean(x, (1, 2)))


SPEC = ModelSpec(name="tiny", family="none", module=Net, arguments={}, head="head", taps=("conv0", "conv3"))


@functools.cache
def compiled(method="delta", *, frozen=False):
    model, mesh = Net(frozen_norm=frozen), sharding.make_mesh()
    assert mesh.size == 4
    step = script.lower_step(SPEC, model, mesh, method=method, batch=8, size=8).compile()
    return tuple(collectives.of_program(step.as_text()))


@functools.cache
def compiled_attention(batch):
    return script.compile_attention(SPEC, Net(), sharding.make_mesh(), batch=batch, size=8)


@pytest.mark.parametrize("method", ["l2", "delta"])
def test_a_step_sums_gradients_and_statistics_and_nothing_else(method):
    found = compiled(method)
    assert {one.kind for one in found} == {"all-reduce"}
    # Forward two vectors per BatchNorm. Its two of the backward pass are the gradients of scale and shift: counted
    # among the parameters. And three scalars: cross-entropy, top-1 and, where feature maps are compared, the penalty.
    scalars = 3 if method == "delta" else 2
    assert sum(one.bytes for one in found) == 4 * (PARAMETERS + 2 * NORM_CHANNELS + scalars)
    # The four layers run one after the other, so their sums cannot be put into one: two each, and one or two more
    # for the gradients of the kernels.
    vectors = [one for one in found if one.only_vectors]
    assert len(vectors) in (7, 8)  # the last one of the backward pass may wait for the kernels' gradients
    assert len(found) - len(vectors) in (1, 2)


def test_the_source_network_adds_no_collective_to_a_step():
    delta, l2 = (sorted(one.bytes for one in compiled(method) if one.only_vectors) for method in ("delta", "l2"))
    assert len(delta) == len(l2)


def test_frozen_statistics_leave_only_the_gradients():
    found = compiled(frozen=True)
    assert {one.kind for one in found} == {"all-reduce"}
    assert sum(one.bytes for one in found) == 4 * (PARAMETERS + 3)
    # Nothing waits for them but the update: XLA puts all of them into one.
    assert len(found) == 1


def test_the_attention_pass_sends_nothing():
    assert collectives.of_program(compiled_attention(32).as_text()) == []


def test_each_device_computes_its_part_of_the_attention_pass():
    one_image, eight = (compiled_attention(batch).cost_analysis()["flops"] for batch in (4, 32))
    assert eight == pytest.approx(8 * one_image, rel=0.1)


def test_collectives_are_read_from_the_text_of_a_program():
    text = """
HloModule jit_f
%body (p: f32[2]) -> f32[2] {
  ROOT %all-gather.1 = bf16[8,4,4,16]{3,2,1,0} all-gather(%p), channel_id=2, dimensions={0}
}

ENTRY %main (p0: f32[2]) -> f32[2] {
  %p0 = f32[2]{0} parameter(0)
  %all-reduce.7 = (f32[32]{0}, f32[], /*index=2*/f32[3,3,1,32]{3,2,1,0}) all-reduce(%a, %b, %c), channel_id=1
  %fusion = f32[2]{0} fusion(%p0), kind=kLoop, calls=%fused
  ROOT %all-reduce-use.1 = f32[2]{0} add(%all-reduce.7, %fusion)
}
"""
    assert collectives.of_program(text) == [
        Collective("all-gather", (("bf16", (8, 4, 4, 16)),)),
        Collective("all-reduce", (("f32", (32,)), ("f32", ()), ("f32", (3, 3, 1, 32)))),
    ]
    assert [one.bytes for one in collectives.of_program(text)] == [4096, 4 * (32 + 1 + 288)]
    assert [one.only_vectors for one in collectives.of_program(text)] == [False, False]
    assert not Collective("all-reduce", (("f32", (5,)), ("f32", (16, 5)))).only_vectors  # the head's kernel
    assert Collective("all-reduce", (("f32", (5,)), ("f32", ()))).only_vectors
    assert collectives.operations(text) == {"all-reduce": 1, "fusion": 1, "add": 1}


def test_what_an_accelerator_starts_and_ends_counts_once_with_what_comes_out():
    # As XLA writes them for GPUs: an all-reduce has its result, an all-gather its operand and its result.
    text = """
  %all-reduce-start = f32[2]{0} all-reduce-start(%p), channel_id=1
  %all-reduce-done = f32[2]{0} all-reduce-done(%all-reduce-start)
  %all-gather-start = (bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(%q), dimensions={0}
  %collective-permute-start = (f32[3]{0}, f32[3]{0}, u32[], u32[]) collective-permute-start(%r)
"""
    assert collectives.of_program(text) == [
        Collective("all-reduce", (("f32", (2,)),)),
        Collective("all-gather", (("bf16", (8, 4)),)),
        Collective("collective-permute", (("f32", (3,)),)),
    ]


def test_a_program_of_one_device_has_none():
    text = jax.jit(lambda x: jnp.sum(x @ x)).lower(jnp.ones((4, 4))).compile().as_text()
    assert collectives.of_program(text) == []
