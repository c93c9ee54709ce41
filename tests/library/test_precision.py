"""No product of the gaps, of the head's features and of an evaluation is left to a chip's short floats.

The programs are lowered for TPUs and GPUs, which needs none, and StableHLO says what precision each product asks for.
"""

import re
import warnings
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from delta_jax import attention, features, methods, models, precision
from delta_jax.configs.default import get_config
from delta_jax.models.inverted_residual import InvertedResidualNet
from delta_jax.models.resnet import ResNet
from delta_jax.processes import sharding
from delta_jax.training import checks, evaluation, setup, step_program, steps
from delta_jax.training.config import ConfigError
from tests.reference import random_variables
from tests.small_network import FILTERS, SmallNet

PLATFORMS = ("tpu", "cuda")
TAPS = tuple(FILTERS)
Y = jax.ShapeDtypeStruct((2,), jnp.int32)


def images(size):
    return jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)


def products(function, *shapes) -> dict[str, Counter]:
    """{platform: how many products ask for which precision}; without those of crops, of bytes in bfloat16: exact."""
    traced = jax.jit(function).trace(*shapes)
    found = {}
    for platform in PLATFORMS:
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        lines = [line for line in text.splitlines() if re.search(r"stablehlo\.(dot|dot_general|convolution)\b", line)]
        lines = [line for line in lines if "-> tensor<" in line and not line.rstrip().endswith("xbf16>")]
        found[platform] = Counter(tuple(re.findall(r"\b(?:HIGHEST|HIGH|DEFAULT)\b", line)) for line in lines)
    return found


def assert_all_highest(function, *shapes) -> None:
    for platform, counts in products(function, *shapes).items():
        assert set(counts) == {("HIGHEST", "HIGHEST")}, (platform, counts)


def shapes_of(model, x, **kwargs) -> Any:
    return jax.eval_shape(partial(model.init, **kwargs), jax.random.key(0), x)


class Unusual(nn.Module):
    """What may hide a product from whoever traces it: remat, scan, nn.jit, a function jitted before, own gradients."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), name="tap")(x)
        x = nn.remat(nn.Conv)(8, (3, 3))(nn.relu(x))
        x = nn.jit(nn.Conv)(8, (3, 3))(x)
        x = nn.MultiHeadDotProductAttention(2)(x.reshape(len(x), -1, 8))
        x, _ = nn.scan(Cell, variable_broadcast="params", split_rngs={"params": False}, length=2)()(x, None)
        x = squared(jitted(x))
        return nn.Dense(3, name="head")(jnp.mean(x, 1))


class Cell(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        return jnp.tanh(nn.Dense(8)(carry)), None


@jax.jit
def jitted(x):
    return jnp.einsum("bpc,bqc->bpq", x, x) @ x


@jax.custom_vjp
def squared(x):
    return x * x


squared.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g + 0 * jnp.einsum("bpc,bpd->bpd", x, g),))


@pytest.mark.parametrize("estimator", attention.ESTIMATORS)
@pytest.mark.parametrize("outer", [None, "bfloat16"])
def test_gaps_of_any_model(estimator, outer):
    jitted(jnp.ones((2, 16, 8)))  # traced before, at the caller's precision
    for model, taps in ((SmallNet(3), TAPS), (Unusual(), ("tap",))):
        gaps = partial(attention.filter_gaps, model, taps=taps, estimator=estimator, exact_filters=2)
        with jax.default_matmul_precision(outer):
            assert_all_highest(gaps, shapes_of(model, images(16)), images(16), Y)


# Short networks of two families, whose layers have gradients of their own.
SHORT = {
    "resnet": (ResNet((1, 1, 1, 1), True, num_classes=3), ("layer1_0/conv3", "layer3_0/conv3")),
    "inverted residuals": (
        InvertedResidualNet(((1, 16, 1, 1, 3), (6, 24, 2, 2, 5)), 32, num_classes=3),
        ("stem_conv", "block_1/project_conv"),
    ),
}


@pytest.mark.parametrize("family", SHORT)
def test_gaps_of_the_networks_here(family):
    # First-order gaps are a forward and a backward pass, with the layers' own gradients.
    model, taps = SHORT[family]
    for estimator, some in (("first_order", taps), ("exact", taps[1:])):
        gaps = partial(attention.filter_gaps, model, taps=some, estimator=estimator)
        assert_all_highest(gaps, shapes_of(model, images(32)), images(32), Y)


def test_first_order_gaps_of_inception():
    model = models.create("inception_v3", num_classes=3)
    gaps = partial(attention.filter_gaps, model, taps=models.spec("inception_v3").taps, estimator="first_order")
    assert_all_highest(gaps, shapes_of(model, images(75)), images(75), Y)


def test_features_of_the_head_and_evaluation():
    model = SmallNet(3)
    variables, pixels = shapes_of(model, images(32)), jax.ShapeDtypeStruct((2, 40, 40, 3), jnp.uint8)
    assert_all_highest(partial(features.head_inputs, model, head="classifier"), variables, images(32))
    views = evaluation.make_views(32, (0.5,) * 3, (0.5,) * 3, crops=10)
    assert_all_highest(evaluation.make_predict(model, views), variables, pixels)


def test_the_programs_of_a_run():
    """What the trainer compiles: gaps with the images split over devices, and two of `Setup`, which need no data."""
    model = SmallNet(3)
    config = SimpleNamespace(taps=TAPS, data=SimpleNamespace(mirror=True))
    method = SimpleNamespace(
        example_penalty=lambda zeros, maps, *_: sum(jnp.sum(m * m, (1, 2, 3)) for m in maps.values())
    )
    fake: Any = SimpleNamespace(
        network=lambda **_: model,
        platform="cpu",
        config=config,
        method=method,
        spec=SimpleNamespace(head="classifier"),
        own_parameters=lambda: None,
        centre=lambda pixels: pixels.astype(jnp.float32),
    )
    variables, pixels = shapes_of(model, images(32)), jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
    assert_all_highest(setup.Setup.head_features(fake), variables, pixels)
    gaps = partial(attention.filter_gaps, model, taps=TAPS)
    mesh = sharding.make_mesh()  # four simulated devices, one image each
    some = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
    assert_all_highest(sharding.per_device(gaps, mesh), variables, *some)
    batch = {"image": pixels, "index": Y}
    assert_all_highest(lambda v, b: setup.Setup.penalty_of_zero_maps(fake)(v, None, b), variables, batch)


@pytest.mark.parametrize(("asked", "expected"), [("default", "DEFAULT"), ("high", "HIGH"), ("highest", "HIGHEST")])
def test_the_training_step_has_the_precision_of_the_config(asked, expected, monkeypatch):
    def train_step(state, source, batch, attention, key):
        return state @ source, dict.fromkeys(steps.METRICS, jnp.float32(0))

    config = get_config()
    config.matmul_precision = asked
    fake: Any = SimpleNamespace(
        config=config,
        platform="cpu",
        trained_network=lambda: None,
        network=lambda **_: None,
        method=methods.create("l2"),
        heads="",
        trains_auxiliary=False,
        augment=None,
        mix=None,
    )
    chosen = step_program.Hyperparameters(alpha=1.0, beta=1.0, label_weights=None, key=None, learning_rates=None)
    monkeypatch.setattr(step_program, "_optimizer", lambda *_, **__: None)
    monkeypatch.setattr(step_program.steps, "make_train_step", lambda *_, **__: train_step)
    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    found = products(lambda a, b: step_program._step(fake, a, b, None, None, chosen), square, square)
    assert found == {platform: Counter({(expected, expected): 1}) for platform in PLATFORMS}


class Narrow(nn.Module):
    """Layers that ask for less themselves."""

    dtype: Any = None
    asked: Any = None

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), dtype=self.dtype, precision=self.asked, name="tap")(x)
        return nn.Dense(3)(jnp.mean(x.astype(jnp.float32), (1, 2)))


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (Narrow(dtype=jnp.bfloat16), "bfloat16"),
        (Narrow(asked=lax.Precision.DEFAULT), "DEFAULT"),
        (Narrow(asked="tensorfloat32"), "HIGH"),
        (Narrow(asked=lax.DotAlgorithmPreset.BF16_BF16_F32), "BF16_BF16_F32"),
    ],
)
def test_a_layer_that_asks_for_less_is_told(model, what):
    x = jnp.ones((2, 8, 8, 3))
    variables = random_variables(Narrow(), x)
    if isinstance(model.asked, lax.DotAlgorithmPreset):  # of convolutions there are none
        model = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(3, precision=model.asked)])
        variables = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(3)]).init(jax.random.key(0), x)
        assert precision.narrow_products(model.apply, variables, x) == [what]
        return
    assert precision.narrow_products(model.apply, variables, x) == [what]
    with pytest.warns(UserWarning, match=rf"1 of the model's convolutions .* in {what} because its layers ask"):
        attention.filter_gaps(model, variables, x, jnp.array([0, 1]), taps=("tap",), estimator="first_order")


def test_float32_and_float64_are_not_told():
    x = jnp.ones((2, 8, 8, 3))
    variables = Narrow().init(jax.random.key(0), x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert precision.narrow_products(Narrow().apply, variables, x) == []
        assert precision.narrow_products(Narrow(asked="highest").apply, variables, x) == []
        with jax.enable_x64(True):
            wide = jnp.ones((2, 2), jnp.float64)
            assert precision.narrow_products(partial(jnp.matmul, precision="default"), wide, wide) == []


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precise"):
        precision.of("precise").__enter__()


def test_bfloat16_that_a_compiler_gets_wrong_is_known_and_refused(monkeypatch):
    """XLA for CPUs, in jax 0.11.2 to 0.12.0.1: NaN, or numbers that lay in memory. Op by op all of them are right."""
    config = SimpleNamespace(compute_dtype="bfloat16")
    monkeypatch.setattr(jax, "jit", lambda function: function)
    assert precision.computes_bfloat16()
    checks.computes(config)
    for wrong in (jnp.nan, 1e30, 0.9):
        monkeypatch.setattr(jax, "jit", lambda function, wrong=wrong: lambda *args: function(*args) * wrong)
        assert not precision.computes_bfloat16()
        with pytest.raises(ConfigError, match=r"wrongly on CPUs; take float32, or set XLA_FLAGS=--xla_cpu_exp"):
            checks.computes(config)
    checks.computes(SimpleNamespace(compute_dtype="float32"))
