"""State dicts in PyTorch's names and layouts into variables: round trip, heads, and one error with everything in it."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from delta_jax import models, weights
from delta_jax.weights.merging import variable_shapes
from delta_jax.weights.name_tables import to_flax_layout, to_torch_layout, torch_names
from tests.reference import state_dict

ARCH = "resnet18"


@pytest.fixture(scope="module")
def tensors():
    return state_dict(ARCH, num_classes=10)


# Names and shapes as torchvision 0.29 and efficientnet_lite_pytorch write them, copied from their state_dicts.
EXAMPLES = {
    "resnet50": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.running_var": (256,),
        "layer3.5.conv3.weight": (1024, 256, 1, 1),
        "fc.weight": (10, 2048),
        "fc.bias": (10,),
    },
    "mobilenet_v2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.running_mean": (16,),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.17.conv.3.bias": (320,),
        "features.18.0.weight": (1280, 320, 1, 1),
        "classifier.1.weight": (10, 1280),
    },
    "efficientnet_lite0": {
        "_conv_stem.weight": (32, 3, 3, 3),
        "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
        "_blocks.0._bn1.weight": (32,),
        "_blocks.15._bn0.running_mean": (1152,),
        "_blocks.15._project_conv.weight": (320, 1152, 1, 1),
        "_conv_head.weight": (1280, 320, 1, 1),
        "_fc.weight": (10, 1280),
    },
}


@pytest.mark.parametrize("arch", EXAMPLES)
def test_names_and_shapes_are_pytorchs(arch):
    shapes = variable_shapes(arch, 10)
    names = torch_names(models.spec(arch), shapes)
    for name, shape in EXAMPLES[arch].items():
        path = names[name]
        assert to_torch_layout(np.empty(shapes[path]), path[-1]).shape == shape


def test_weights_from_torch_and_back_are_the_same(tensors):
    variables = weights.from_torch(tensors, ARCH, 10)
    flat = flatten_dict(variables)
    names = torch_names(models.spec(ARCH), flat)
    assert names.keys() == tensors.keys()
    for name, path in names.items():
        np.testing.assert_array_equal(to_torch_layout(np.asarray(flat[path]), path[-1]), tensors[name])
    assert all(isinstance(leaf, jax.Array) for leaf in flat.values())


def test_kernels_are_transposed_as_torch_and_flax_lay_them_out():
    # OIHW[o, i, h, w] lies at HWIO[h, w, i, o], [out, in] at [in, out]; vectors stay.
    oihw = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert to_flax_layout(oihw, "kernel")[3, 4, 2, 1] == oihw[1, 2, 3, 4]
    for tensor, leaf in ((oihw, "kernel"), (oihw[0, 0], "kernel"), (np.arange(3), "bias"), (np.arange(3), "var")):
        np.testing.assert_array_equal(to_torch_layout(to_flax_layout(tensor, leaf), leaf), tensor)
    assert to_flax_layout(np.zeros((10, 7)), "kernel").shape == (7, 10)


def test_a_head_of_another_size_or_none_becomes_zeros(tensors):
    bare = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    half = bare | {"fc.weight": tensors["fc.weight"]}
    for given, classes in ((tensors, 4), (bare, 10), (half, 10)):
        variables = weights.from_torch(given, ARCH, classes)
        head = variables["params"]["fc"]
        np.testing.assert_array_equal(head["kernel"], np.zeros((512, classes)))
        np.testing.assert_array_equal(head["bias"], np.zeros(classes))
        np.testing.assert_array_equal(variables["params"]["bn1"]["scale"], tensors["bn1.weight"])


def test_the_head_of_a_file_can_be_had_whatever_its_classes(tensors, tmp_path):
    np.savez(tmp_path / "whole.npz", **tensors)
    head = weights.load_head(str(tmp_path / "whole.npz"), ARCH)
    np.testing.assert_array_equal(head["kernel"], tensors["fc.weight"].T)
    np.testing.assert_array_equal(head["bias"], tensors["fc.bias"])
    without = {name: tensor for name, tensor in tensors.items() if name != "fc.weight"}
    for number, given in enumerate(
        (
            without,
            without | {"fc.weight": tensors["fc.weight"][:4]},  # ten biases
            without | {"fc.weight": tensors["fc.weight"][:, :9]},  # of other features
            without | {"fc.weight": np.full_like(tensors["fc.weight"], np.nan)},
        )
    ):
        np.savez(tmp_path / f"{number}.npz", **given)
        assert weights.load_head(str(tmp_path / f"{number}.npz"), ARCH) is None


def test_half_precision_becomes_float32_and_counters_are_left_out(tensors):
    given = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    given |= {"bn1.num_batches_tracked": np.int64(7), "layer1.0.bn1.num_batches_tracked": np.int64(7)}
    assert {leaf.dtype for leaf in jax.tree.leaves(weights.from_torch(given, ARCH, 10))} == {np.dtype(np.float32)}


def test_everything_that_is_wrong_in_one_error(tensors):
    given = dict(tensors)
    del given["bn1.weight"], given["layer4.1.conv2.weight"]
    given["extra.weight"] = np.zeros(3, np.float32)
    given["conv1.weight"] = np.zeros((64, 1, 7, 7), np.float32)
    given["layer1.0.bn1.bias"] = np.full(64, np.nan, np.float32)
    given["fc.bias"] = np.full(10, np.inf, np.float32)
    with pytest.raises(weights.WeightsError) as caught:
        weights.from_torch(given, ARCH, 10)
    lines = str(caught.value).splitlines()
    assert lines[0] == "these weights do not fit resnet18:"
    assert sorted(lines[1:]) == [
        "  1 of another shape: conv1.weight (here (7, 7, 3, 64), in the file (7, 7, 1, 64))",
        "  1 unexpected: extra.weight",
        "  2 missing: bn1.weight, layer4.1.conv2.weight",
        "  2 not finite: fc.bias, layer1.0.bn1.bias",
    ]


def test_a_long_list_is_shortened(tensors):
    given = {name: tensor for name, tensor in tensors.items() if "bn" not in name}
    with pytest.raises(weights.WeightsError, match=r"missing: (\S+, ){7}\S+ and \d+ more$"):
        weights.from_torch(given, ARCH, 10)


@pytest.mark.parametrize(
    ("given", "asked"), [("resnet34", "resnet50"), ("resnet34", "resnet18"), ("resnet50", "resnet101")]
)
def test_weights_of_another_network_are_recognised(given, asked):
    # The names of ResNet-18 are all in a ResNet-34, and every tensor of it fits: the smaller one must not be named.
    shapes = variable_shapes(given, 10)
    names = torch_names(models.spec(given), shapes)
    zeros = {name: to_torch_layout(np.zeros(shapes[path], np.float32), path[-1]) for name, path in names.items()}
    with pytest.raises(weights.WeightsError, match=rf"do not fit {asked}:[\s\S]*They are the weights of {given}\.$"):
        weights.from_torch(zeros, asked, 10)
