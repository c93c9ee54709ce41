"""The networks against torchvision's (tests/golden, torchvision 0.29.1 / torch 2.14.1 on a CPU, float32)."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from delta_jax import features, models
from delta_jax.weights.merging import variable_shapes
from delta_jax.weights.name_tables import torch_names
from tests.golden import recipe
from tests.reference import relative, variables

ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "inception_v3")
# Odd sizes and even ones each catch mistakes in the padding that the others do not: odd sizes here, the native one of
# the smallest network, and in training 96x96 for all but Inception (299x299).
SIZES = {
    **{(arch, "odd"): (161, 129) for arch in ARCHS},
    ("inception_v3", "odd"): (215, 187),
    ("resnet18", "native"): (224, 224),
}


@pytest.mark.parametrize(("arch", "size"), SIZES)
def test_logits_and_taps_in_evaluation_are_torchvisions(arch, size, golden):
    expected, spec, model = golden(arch), models.spec(arch), models.create(arch)
    images = recipe.images("delta", arch, size, 2, *SIZES[arch, size])
    forward = jax.jit(lambda v, x: features.apply_with_taps(model, v, x, spec.taps))
    logits, maps = forward(variables(arch), images)
    assert relative(logits, expected[f"eval/{size}/logits"]) < 1e-4
    for torch_name, tap in spec.torch_taps.items():
        key = f"eval/{size}/tap/{torch_name}"
        assert maps[tap].shape == tuple(expected[f"{key}/shape_nhwc"])
        assert relative(maps[tap].mean((1, 2)), expected[f"{key}/mean_hw"]) < 1e-4
        assert relative(maps[tap].std((1, 2)), expected[f"{key}/std_hw"]) < 1e-4


# ResNet-34 and -101 are deeper than ResNet-18 and -50, and nothing else.
@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "mobilenet_v2", "inception_v3"])
def test_logits_and_running_statistics_in_training_are_torchvisions(arch, golden):
    expected, spec = golden(arch), models.spec(arch)
    auxiliary = bool(spec.auxiliary)
    model = models.create(arch, auxiliary=auxiliary)
    size = 299 if arch == "inception_v3" else 96
    images = recipe.images("delta", arch, "train", 4, size, size)

    @jax.jit
    def forward(variables, x):
        if not auxiliary:
            return *model.apply(variables, x, train=True, mutable=["batch_stats"]), {}
        taps, mutable = (spec.auxiliary.split("/")[0],), ("batch_stats",)
        logits, maps, updated = features.apply_with_taps(model, variables, x, taps, mutable=mutable, train=True)
        return logits, updated, maps

    logits, updated, maps = forward(variables(arch, auxiliary=auxiliary), images)
    assert relative(logits, expected["train/logits"]) < 1e-3
    if auxiliary:
        assert relative(maps["AuxLogits"], expected["train/aux_logits"]) < 1e-3
    names = torch_names(spec, variable_shapes(arch, 1000, auxiliary))
    statistics = flatten_dict(updated)
    keys = [key for key in expected if key.startswith("train/bn/")]
    assert len(keys) == 6
    for key in keys:
        path = names[key.removeprefix("train/bn/").replace("/", ".")]
        assert relative(statistics[path], expected[key]) < 1e-3


# What torchvision's documentation gives as num_params of inception_v3, and the same without what it has in AuxLogits:
# conv0 768 * 128 + 2 * 128, conv1 5 * 5 * 128 * 768 + 2 * 768, fc 768 * 1,000 + 1,000.
@pytest.mark.parametrize(("auxiliary", "expected"), [(True, 27_161_264), (False, 27_161_264 - 3_326_696)])
def test_number_of_parameters_of_inception(auxiliary, expected):
    shapes = variable_shapes("inception_v3", 1000, auxiliary)
    assert sum(math.prod(shape) for path, shape in shapes.items() if path[0] == "params") == expected


def test_the_auxiliary_classifier_has_its_parameters_at_any_size():
    # In training it needs 299 pixels.
    model = models.create("inception_v3", auxiliary=True)
    small = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32))
    found = {path: leaf.shape for path, leaf in flatten_dict(small).items()}
    assert found == variable_shapes("inception_v3", 1000, True)


def test_resnet152_has_its_own_depth():
    # No golden file: the number of parameters of torchvision's resnet152 is published as 60,192,808.
    params = [shape for path, shape in variable_shapes("resnet152", 1000).items() if path[0] == "params"]
    assert sum(math.prod(shape) for shape in params) == 60_192_808


# timm_efficientnet_lite.npz: `timm.create_model("efficientnet_lite0")` and its like, timm 1.0.31 / torch 2.14.1 on a
# CPU, float32, with the recipe's weights; the first 50 logits and channels. With the same weights timm's tf_ networks,
# which pad otherwise and have another epsilon, are 1e-3 to 6e-3 away.
LITES = [("0", "native", 224, 224), ("2", "odd", 161, 129)]


@pytest.mark.parametrize(("number", "size", "height", "width"), LITES)
def test_logits_and_taps_of_plain_efficientnet_lites_are_timms(number, size, height, width, golden):
    arch, expected = f"timm_efficientnet_lite{number}", golden("timm_efficientnet_lite")
    spec, model = models.spec(arch), models.create(arch)
    images = recipe.images("delta", arch, size, 2, height, width)
    logits, maps = jax.jit(lambda v, x: features.apply_with_taps(model, v, x, spec.taps))(variables(arch), images)
    assert relative(logits[:, :50], expected[f"{arch}/{size}/logits"]) < 1e-5
    known = [name for name in spec.torch_taps if f"{arch}/{size}/{name}/shape" in expected]
    assert "conv_head" in known
    for name in known:
        found = maps[spec.torch_taps[name]]
        assert found.transpose(0, 3, 1, 2).shape == tuple(expected[f"{arch}/{size}/{name}/shape"])
        assert relative(found.mean((1, 2))[:, :50], expected[f"{arch}/{size}/{name}/mean_hw"]) < 1e-5
