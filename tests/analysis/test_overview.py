"""What the overview of a network says, against published figures, sums by hand, and XLA's own accounts."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from delta_jax import features, methods, models
from delta_jax.analysis.overview import overview, step_memory
from delta_jax.chips import flops
from delta_jax.models.checks import init_shapes
from delta_jax.training import optim, state, steps

# torchvision's documentation of the weights: parameters, and "GFLOPS", which are multiply-adds, two digits after the
# point; MobileNetV2: "0.3". Inception-V3 there has the second classifier, too; timm's table has it without: 23.83 M.
# ResNet-101 is in test_scaling.py.
PUBLISHED = {
    "resnet18": (11_689_512, 1.81),
    "resnet50": (25_557_032, 4.09),
    "mobilenet_v2": (3_504_872, 0.3),
    "inception_v3": (23_834_568, 5.71),
}


@pytest.mark.parametrize("arch", PUBLISHED)
def test_parameters_and_operations_are_those_published(arch):
    spec, network = models.spec(arch), models.create(arch)
    variables = init_shapes(network, spec.input_size)
    image = jax.ShapeDtypeStruct((1, spec.input_size, spec.input_size, 3), jnp.float32)
    parameters, giga = PUBLISHED[arch]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == parameters
    digits = len(str(giga).partition(".")[2])
    assert round(flops.count(network.apply, variables, image) / 2e9, digits) == giga


def _conv(x, kernel, groups=1, stride=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


X, KERNEL, DEPTHWISE, SQUARE = (jnp.ones(s) for s in ((2, 8, 8, 6), (3, 3, 6, 10), (5, 5, 1, 6), (6, 6)))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: _conv(x, KERNEL), 2 * (2 * 8 * 8 * 10) * (3 * 3 * 6)),
        (lambda x: _conv(x, KERNEL, stride=2), 2 * (2 * 4 * 4 * 10) * (3 * 3 * 6)),
        (lambda x: _conv(x, DEPTHWISE, groups=6), 2 * (2 * 8 * 8 * 6) * (5 * 5)),
        (lambda x: x @ SQUARE, 2 * (2 * 8 * 8 * 6) * 6),
        (lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x), 2 * (2 * 6 * 6) * (8 * 8)),
        (lambda x: lax.scan(lambda c, _: (c @ SQUARE, None), x, length=5)[0], 5 * 2 * (2 * 8 * 8 * 6) * 6),
        (
            lambda x: lax.cond(x.sum() > 0, lambda x: x @ SQUARE @ SQUARE, lambda x: x @ SQUARE, x),
            4 * (2 * 8 * 8 * 6) * 6,
        ),
        (jax.jit(jax.checkpoint(lambda x: jax.nn.gelu(x @ SQUARE))), 2 * (2 * 8 * 8 * 6) * 6),
        (lambda x: x + 1, 0),
    ],
    ids=["conv", "stride", "depthwise", "matmul", "batched", "scan", "cond", "jit", "none"],
)
def test_operations_by_hand(function, expected):
    assert flops.count(function, X) == expected


def test_overview_of_a_network():
    found = overview("examples.own_model:spec", num_classes=3, batch=8)
    # Three 3x3 convolutions with stride 2 from 3 to 16, 24, 32 filters; in each stage two more without bias, and scale
    # and bias of two GroupNorms. LayerNorm and Dense behind.
    stages = [9 * a * b + b + 2 * 9 * b * b + 4 * b for a, b in ((3, 16), (16, 24), (24, 32))]
    assert found.parameters == {"encoder": sum(stages), "classifier": 2 * 32 + 32 * 3 + 3}
    assert found.statistics == 0
    assert (found.head, found.features) == ("classifier/logits", 32)
    assert found.default_taps == ("encoder/stage_1/block_0", "encoder/stage_2/block_0/conv_1")
    assert found.taps["encoder/stage_1/block_0"] == (16, 16, 24)
    assert found.taps["encoder/stage_0/down"] == (32, 32, 16)
    assert found.taps["classifier/logits"] == (3,)
    convs = [2 * s * s * b * 9 * (a + 2 * b) for s, a, b in ((32, 3, 16), (16, 16, 24), (8, 24, 32))]
    assert found.flops == sum(convs) + 2 * 32 * 3
    size = 4 * sum(found.parameters.values())
    assert [found.memory[name] for name in ("parameters", "source network", "gradients")] == [size] * 3
    assert overview("examples.own_model:spec", num_classes=3, size=32).taps["encoder/stage_0/down"] == (16, 16, 16)


class Chain(nn.Module):
    """Dense layers of one width and exponentials, whose derivative needs their output."""

    num_classes: int

    @nn.compact
    def __call__(self, x, train=False):
        x = jnp.mean(x, (1, 2))
        for i in range(3):
            x = jnp.exp(nn.Dense(64, use_bias=False, name=f"layer_{i}")(x))
        return nn.Dense(self.num_classes, name="head")(x)


def test_activations_by_hand():
    specs = models.ModelSpec("chain", "own", Chain, {}, "head")
    network, batch = Chain(2), 16
    memory = {}
    for batch in (16, 32):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(models, "spec", lambda _: specs)
            patch.setattr(models, "create", lambda *_, **__: network)
            memory[batch] = step_memory("chain", init_shapes(network, 4), size=4, num_classes=2, batch=batch)
    # Per image: the mean of 3 channels, three times exp(...) of 64, and what the cross-entropy of 2 classes keeps.
    per_image = (memory[32]["activations"] - memory[16]["activations"]) / 16
    least = 4 * (3 + 3 * 64)
    assert least <= per_image < least + 60
    assert memory[16]["activations"] - 16 * per_image < 1000  # not the 34 kB of parameters: they are counted apart
    # One momentum per parameter, and the count of steps.
    assert memory[16]["optimizer"] == 4 * (3 * 64 + 2 * 64 * 64 + 64 * 2 + 2) + 4


def test_memory_is_of_the_order_of_what_xla_plans():
    arch, size, batch = "examples.own_model:spec", 32, 16
    spec, network = models.spec(arch), models.create(arch, num_classes=3)
    variables = init_shapes(network, size)
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    shapes = features.list_taps(network, variables, images)
    loss = steps.make_loss(
        network, network, methods.create("delta"), taps=spec.taps, head=spec.head, alpha=1.0, beta=1.0
    )
    tx = optim.make_optimizer(variables["params"], lambda _: 0.1, head=spec.head)
    start = jax.eval_shape(lambda v: state.init_state(v, tx), variables)
    rows = jax.ShapeDtypeStruct((batch,), jnp.int32)
    examples = {"image": images, "label": rows, "index": rows}
    attention = {tap: jax.ShapeDtypeStruct(shapes[tap][-1:], jnp.float32) for tap in spec.taps}
    step = jax.jit(steps.make_train_step(loss, tx, lambda _, images: images), donate_argnums=0)
    planned = step.lower(start, variables, examples, attention, jax.random.key(0)).compile().memory_analysis()
    # Donated: the new state takes the place of the old one.
    needed = planned.argument_size_in_bytes + planned.temp_size_in_bytes
    estimate = sum(step_memory(arch, variables, size=size, num_classes=3, batch=batch).values())
    assert 0.5 < estimate / needed < 2.5


def test_a_batch_or_head_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch 0 and classes 1000 have to be 1 or more"):
        overview("resnet18", batch=0)
