"""The networks against torchvision's (tests/golden, torchvision 0.29.1 / torch 2.14.1 on a CPU, float32)."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from delta_jax import features, models
from delta_jax.weights.merging import variable_shapes
from delta_jax.weights.name_tables import torch_names
from tests.golden import recipe
from tests.reference import relative, variables

ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2")
SIZES = {"native": (224, 224), "odd": (161, 129)}  # odd sizes catch padding mistakes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arch", ARCHS)
def test_logits_and_taps_in_evaluation(arch, size, golden):
    expected, spec, model = golden(arch), models.spec(arch), models.create(arch)
    images = recipe.images("delta", arch, size, 2, *SIZES[size])
    forward = jax.jit(lambda v, x: features.apply_with_taps(model, v, x, spec.taps))
    logits, maps = forward(variables(arch), images)
    assert relative(logits, expected[f"eval/{size}/logits"]) < 1e-4
    for torch_name, tap in spec.torch_taps.items():
        key = f"eval/{size}/tap/{torch_name}"
        assert maps[tap].shape == tuple(expected[f"{key}/shape_nhwc"])
        assert relative(maps[tap].mean((1, 2)), expected[f"{key}/mean_hw"]) < 1e-4
        assert relative(maps[tap].std((1, 2)), expected[f"{key}/std_hw"]) < 1e-4


@pytest.mark.parametrize("arch", ARCHS)
def test_logits_and_running_statistics_in_training(arch, golden):
    expected, model = golden(arch), models.create(arch)
    images = recipe.images("delta", arch, "train", 4, 96, 96)
    forward = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    logits, updated = forward(variables(arch), images)
    assert relative(logits, expected["train/logits"]) < 1e-3
    names = torch_names(models.spec(arch), variable_shapes(arch, 1000))
    statistics = flatten_dict(updated)
    keys = [key for key in expected if key.startswith("train/bn/")]
    assert len(keys) == 6
    for key in keys:
        path = names[key.removeprefix("train/bn/").replace("/", ".")]
        assert relative(statistics[path], expected[key]) < 1e-3


def test_resnet152_runs_with_its_own_depth():
    # No golden file: the number of parameters of torchvision's resnet152 is published as 60,192,808.
    params = [shape for path, shape in variable_shapes("resnet152", 1000).items() if path[0] == "params"]
    assert sum(int(np.prod(shape)) for shape in params) == 60_192_808
